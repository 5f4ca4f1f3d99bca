CREATE TABLE checkpoints (
	size BIGINT NOT NULL, 
	root BYTEA NOT NULL, 
	note BYTEA NOT NULL, 
	at BIGINT NOT NULL, 
	published_at BIGINT, 
	PRIMARY KEY (size)
);
CREATE TABLE confirmations (
	id BIGSERIAL NOT NULL, 
	digest VARCHAR NOT NULL, 
	member VARCHAR NOT NULL, 
	origin VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	at BIGINT NOT NULL, 
	delivery BIGINT, 
	reason VARCHAR, 
	count INTEGER NOT NULL, 
	jws BYTEA NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (digest)
);
CREATE TABLE cosignatures (
	size BIGINT NOT NULL, 
	member VARCHAR NOT NULL, 
	line BYTEA NOT NULL, 
	PRIMARY KEY (size, member)
);
CREATE TABLE deliveries (
	id BIGSERIAL NOT NULL, 
	member VARCHAR NOT NULL, 
	created_at BIGINT NOT NULL, 
	state VARCHAR NOT NULL, 
	attempts INTEGER NOT NULL, 
	next_attempt_at BIGINT NOT NULL, 
	sent_at BIGINT, 
	closed_at BIGINT, 
	told BOOLEAN NOT NULL, 
	items BYTEA NOT NULL, 
	open BYTEA NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE exceptions (
	id BIGSERIAL NOT NULL, 
	at BIGINT NOT NULL, 
	member VARCHAR NOT NULL, 
	submission VARCHAR NOT NULL, 
	digest VARCHAR, 
	report_id VARCHAR, 
	revision INTEGER, 
	outcome VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	path VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE feed (
	id BIGSERIAL NOT NULL, 
	kind VARCHAR NOT NULL, 
	at BIGINT NOT NULL, 
	member VARCHAR NOT NULL, 
	report BIGINT, 
	data BYTEA NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE governance (
	number INTEGER NOT NULL, 
	digest VARCHAR NOT NULL, 
	record BYTEA NOT NULL, 
	leaf BIGINT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (digest), 
	UNIQUE (leaf)
);
CREATE TABLE identifiers (
	key BIGINT NOT NULL, 
	seq BIGINT NOT NULL, 
	PRIMARY KEY (key, seq)
);
CREATE TABLE links (
	id BIGSERIAL NOT NULL, 
	at BIGINT NOT NULL, 
	a BIGINT NOT NULL, 
	b BIGINT NOT NULL, 
	incident_a BYTEA NOT NULL, 
	incident_b BYTEA NOT NULL, 
	strength VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE log_tiles (
	level INTEGER NOT NULL, 
	number BIGINT NOT NULL, 
	data BYTEA NOT NULL, 
	PRIMARY KEY (level, number)
);
CREATE TABLE meta (
	name VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE notices (
	id BIGSERIAL NOT NULL, 
	member VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	jws BYTEA NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE policies (
	id BIGSERIAL NOT NULL, 
	at BIGINT NOT NULL, 
	jurisdiction VARCHAR NOT NULL, 
	version INTEGER NOT NULL, 
	member VARCHAR NOT NULL, 
	jws BYTEA NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE quarantine (
	id BIGSERIAL NOT NULL, 
	at BIGINT NOT NULL, 
	member VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	path VARCHAR NOT NULL, 
	size INTEGER NOT NULL, 
	sha256 VARCHAR NOT NULL, 
	start BYTEA NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE reports (
	seq BIGSERIAL NOT NULL, 
	digest VARCHAR NOT NULL, 
	submission BIGINT NOT NULL, 
	origin VARCHAR NOT NULL, 
	report_id BYTEA NOT NULL, 
	revision INTEGER NOT NULL, 
	incident_id BYTEA NOT NULL, 
	fingerprint VARCHAR NOT NULL, 
	phase VARCHAR NOT NULL, 
	rsit VARCHAR NOT NULL, 
	happened_at BIGINT NOT NULL, 
	received_at BIGINT NOT NULL, 
	expires_at BIGINT, 
	erased_at BIGINT, 
	grants BYTEA NOT NULL, 
	PRIMARY KEY (seq), 
	UNIQUE (digest)
);
CREATE TABLE submissions (
	id BIGSERIAL NOT NULL, 
	digest VARCHAR NOT NULL, 
	member VARCHAR NOT NULL, 
	received_at BIGINT NOT NULL, 
	entry BYTEA NOT NULL, 
	message BYTEA NOT NULL, 
	receipt BYTEA NOT NULL, 
	refusal VARCHAR, 
	PRIMARY KEY (id), 
	UNIQUE (digest)
);
CREATE INDEX confirmations_by_delivery ON confirmations (delivery);
CREATE INDEX confirmations_by_users ON confirmations (origin, id) WHERE delivery IS NULL;
CREATE INDEX deliveries_by_member ON deliveries (member, state);
CREATE INDEX deliveries_by_time ON deliveries (created_at);
CREATE INDEX deliveries_due ON deliveries (state, next_attempt_at);
CREATE INDEX deliveries_untold ON deliveries (told, state, sent_at);
CREATE INDEX exceptions_by_submission ON exceptions (submission);
CREATE INDEX identifiers_by_report ON identifiers (seq);
CREATE UNIQUE INDEX links_once ON links (incident_a, incident_b);
CREATE INDEX notices_by_member ON notices (member, id);
CREATE INDEX notices_of_stopped ON notices (member, id) WHERE kind = 'stopped';
CREATE UNIQUE INDEX policies_by_version ON policies (jurisdiction, version);
CREATE INDEX reports_by_fingerprint ON reports (fingerprint, origin);
CREATE UNIQUE INDEX reports_by_id ON reports (report_id, revision);
CREATE INDEX reports_by_incident ON reports (incident_id);
CREATE INDEX reports_by_submission ON reports (submission);
CREATE INDEX reports_by_time ON reports (received_at, seq);
CREATE INDEX reports_to_expire ON reports (expires_at) WHERE expires_at IS NOT NULL AND erased_at IS NULL;
