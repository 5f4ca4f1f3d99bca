CREATE TABLE alarms (
	id BIGINT NOT NULL, 
	key VARCHAR NOT NULL, 
	about VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	first_at BIGINT NOT NULL, 
	last_at BIGINT NOT NULL, 
	times INTEGER NOT NULL, 
	facts BYTEA NOT NULL, 
	cleared_at BIGINT, 
	cleared_by VARCHAR, 
	PRIMARY KEY (id)
);
CREATE TABLE checkpoints (
	size BIGINT NOT NULL, 
	root BYTEA NOT NULL, 
	note TEXT NOT NULL, 
	at BIGINT NOT NULL, 
	cosigned_at BIGINT, 
	published TEXT, 
	published_at BIGINT, 
	PRIMARY KEY (size)
);
CREATE TABLE confirmations_out (
	id BIGINT NOT NULL, 
	digest VARCHAR NOT NULL, 
	jws TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	waiting BOOLEAN NOT NULL, 
	noted_at BIGINT, 
	refusal BYTEA, 
	PRIMARY KEY (id), 
	UNIQUE (digest)
);
CREATE TABLE confirmed (
	report VARCHAR NOT NULL, 
	member VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	at BIGINT NOT NULL, 
	refusal BYTEA, 
	statement VARCHAR NOT NULL, 
	PRIMARY KEY (report, member, state)
);
CREATE TABLE escalations (
	digest VARCHAR NOT NULL, 
	report_id VARCHAR NOT NULL, 
	revision INTEGER NOT NULL, 
	side VARCHAR NOT NULL, 
	severity VARCHAR NOT NULL, 
	since BIGINT NOT NULL, 
	until BIGINT, 
	waiting BYTEA NOT NULL, 
	members INTEGER NOT NULL, 
	told_at BIGINT, 
	PRIMARY KEY (digest)
);
CREATE TABLE events (
	seq BIGINT NOT NULL, 
	kind VARCHAR NOT NULL, 
	data BYTEA NOT NULL, 
	at BIGINT NOT NULL, 
	PRIMARY KEY (seq)
);
CREATE TABLE governance (
	number INTEGER NOT NULL, 
	digest VARCHAR NOT NULL, 
	record TEXT NOT NULL, 
	leaf BIGINT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (digest)
);
CREATE TABLE idempotency (
	client VARCHAR NOT NULL, 
	key VARCHAR NOT NULL, 
	body_hash VARCHAR NOT NULL, 
	status INTEGER NOT NULL, 
	response BYTEA NOT NULL, 
	at BIGINT NOT NULL, 
	PRIMARY KEY (client, key)
);
CREATE TABLE inbox (
	seq BIGINT NOT NULL, 
	digest VARCHAR NOT NULL, 
	report_id VARCHAR NOT NULL, 
	revision INTEGER NOT NULL, 
	incident_id VARCHAR NOT NULL, 
	origin VARCHAR NOT NULL, 
	jurisdiction VARCHAR NOT NULL, 
	tlp VARCHAR NOT NULL, 
	received_at BIGINT NOT NULL, 
	broker_received_at BIGINT NOT NULL, 
	presentation TEXT NOT NULL, 
	view BYTEA NOT NULL, 
	undisclosed INTEGER NOT NULL, 
	withheld BYTEA NOT NULL, 
	withdrawn BOOLEAN NOT NULL, 
	delivery BIGINT NOT NULL, 
	statement VARCHAR NOT NULL, 
	confirmation VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	state_at BIGINT NOT NULL, 
	expires_at BIGINT, 
	expired_at BIGINT, 
	PRIMARY KEY (seq), 
	UNIQUE (digest)
);
CREATE TABLE leaves (
	leaf BIGINT NOT NULL, 
	entry BYTEA NOT NULL, 
	about VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	at BIGINT NOT NULL, 
	proof TEXT, 
	proven_at BIGINT, 
	PRIMARY KEY (leaf)
);
CREATE TABLE links (
	a VARCHAR NOT NULL, 
	b VARCHAR NOT NULL, 
	a_report VARCHAR NOT NULL, 
	b_report VARCHAR NOT NULL, 
	link BYTEA NOT NULL, 
	statement VARCHAR NOT NULL, 
	at BIGINT NOT NULL, 
	PRIMARY KEY (a, b)
);
CREATE TABLE meta (
	name VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE outputs (
	name VARCHAR NOT NULL, 
	next BIGINT NOT NULL, 
	failing_since BIGINT, 
	fault VARCHAR NOT NULL, 
	disabled_at BIGINT, 
	delivered_at BIGINT, 
	PRIMARY KEY (name)
);
CREATE TABLE policies (
	jurisdiction VARCHAR NOT NULL, 
	version INTEGER NOT NULL, 
	published BOOLEAN NOT NULL, 
	jws TEXT NOT NULL, 
	PRIMARY KEY (jurisdiction, version)
);
CREATE TABLE posts (
	id VARCHAR NOT NULL, 
	client VARCHAR NOT NULL, 
	at BIGINT NOT NULL, 
	items BYTEA NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE refused (
	digest VARCHAR NOT NULL, 
	origin VARCHAR NOT NULL, 
	report_id VARCHAR, 
	revision INTEGER, 
	refusal BYTEA NOT NULL, 
	delivery BIGINT NOT NULL, 
	statement VARCHAR NOT NULL, 
	confirmation VARCHAR NOT NULL, 
	at BIGINT NOT NULL, 
	PRIMARY KEY (digest)
);
CREATE TABLE review (
	id BIGINT NOT NULL, 
	client VARCHAR NOT NULL, 
	item_hash VARCHAR NOT NULL, 
	filing BYTEA NOT NULL, 
	tlp VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	held_at BIGINT NOT NULL, 
	decided_at BIGINT, 
	decided_by VARCHAR, 
	why TEXT, 
	report_id VARCHAR, 
	revision INTEGER, 
	updates BOOLEAN NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE statements (
	digest VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	jws TEXT NOT NULL, 
	at BIGINT NOT NULL, 
	PRIMARY KEY (digest)
);
CREATE TABLE submissions (
	id BIGINT NOT NULL, 
	digest VARCHAR NOT NULL, 
	message BYTEA NOT NULL, 
	reports INTEGER NOT NULL, 
	created_at BIGINT NOT NULL, 
	waiting BOOLEAN NOT NULL, 
	receipt TEXT, 
	PRIMARY KEY (id), 
	UNIQUE (digest)
);
CREATE TABLE taxii_listed (
	source BIGINT NOT NULL, 
	topic VARCHAR NOT NULL, 
	tlp INTEGER NOT NULL, 
	last BIGINT NOT NULL, 
	PRIMARY KEY (source, topic, tlp)
);
CREATE TABLE taxii_objects (
	added_at BIGINT NOT NULL, 
	source BIGINT NOT NULL, 
	object_id VARCHAR NOT NULL, 
	type VARCHAR NOT NULL, 
	version BIGINT NOT NULL, 
	spec_version VARCHAR NOT NULL, 
	ended BOOLEAN NOT NULL, 
	object BYTEA NOT NULL, 
	PRIMARY KEY (added_at)
);
CREATE TABLE taxii_status (
	id VARCHAR NOT NULL, 
	client VARCHAR NOT NULL, 
	at BIGINT NOT NULL, 
	objects BYTEA NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE tokens (
	name VARCHAR NOT NULL, 
	sha256 BYTEA NOT NULL, 
	old_sha256 BYTEA, 
	old_until BIGINT, 
	terms BYTEA NOT NULL, 
	created_at BIGINT NOT NULL, 
	created_by VARCHAR NOT NULL, 
	rotated_at BIGINT, 
	revoked_at BIGINT, 
	used_at BIGINT, 
	PRIMARY KEY (name), 
	UNIQUE (sha256)
);
CREATE TABLE own_reports (
	seq BIGINT NOT NULL, 
	digest VARCHAR NOT NULL, 
	report_id VARCHAR NOT NULL, 
	revision INTEGER NOT NULL, 
	incident_id VARCHAR NOT NULL, 
	submission BIGINT NOT NULL, 
	content_hash VARCHAR NOT NULL, 
	filed_at BIGINT NOT NULL, 
	state VARCHAR NOT NULL, 
	kept BOOLEAN NOT NULL, 
	tlp VARCHAR NOT NULL, 
	client VARCHAR NOT NULL, 
	filing BYTEA NOT NULL, 
	disclosures TEXT NOT NULL, 
	held_back BYTEA, 
	outcome BYTEA, 
	PRIMARY KEY (seq), 
	UNIQUE (digest), 
	FOREIGN KEY(submission) REFERENCES submissions (id)
);
CREATE UNIQUE INDEX alarms_open ON alarms (key) WHERE cleared_at IS NULL;
CREATE INDEX ix_confirmations_out_waiting ON confirmations_out (waiting);
CREATE INDEX escalations_by_id ON escalations (report_id, revision);
CREATE INDEX escalations_due ON escalations (told_at, severity, since);
CREATE INDEX ix_idempotency_at ON idempotency (at);
CREATE UNIQUE INDEX inbox_by_id ON inbox (report_id, revision);
CREATE INDEX ix_inbox_expires_at ON inbox (expires_at);
CREATE INDEX ix_inbox_incident_id ON inbox (incident_id);
CREATE INDEX ix_leaves_name ON leaves (name);
CREATE INDEX leaves_by_state ON leaves (state, leaf);
CREATE INDEX ix_links_a_report ON links (a_report);
CREATE INDEX ix_links_b_report ON links (b_report);
CREATE INDEX ix_posts_at ON posts (at);
CREATE INDEX review_by_state ON review (state, id);
CREATE UNIQUE INDEX review_once ON review (client, item_hash);
CREATE INDEX ix_submissions_waiting ON submissions (waiting);
CREATE UNIQUE INDEX taxii_listed_by_topic ON taxii_listed (topic, last, tlp);
CREATE INDEX taxii_objects_by_id ON taxii_objects (object_id, version, added_at);
CREATE INDEX taxii_objects_by_source ON taxii_objects (source, added_at);
CREATE INDEX ix_taxii_status_at ON taxii_status (at);
CREATE INDEX ix_own_reports_content_hash ON own_reports (content_hash);
CREATE INDEX ix_own_reports_incident_id ON own_reports (incident_id);
CREATE INDEX ix_own_reports_submission ON own_reports (submission);
CREATE INDEX own_reports_by_client ON own_reports (client, filed_at);
CREATE UNIQUE INDEX own_reports_by_id ON own_reports (report_id, revision);
