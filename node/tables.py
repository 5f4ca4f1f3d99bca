"""The tables of a node's store. Times are microseconds since 1970.

submissions        what was signed, exactly as sent; `waiting` until the broker's receipt is here
own_reports        every revision that this member filed, with all of its disclosures as evidence
confirmed          who confirmed an own report, by which statement
policies           signed sharing policies, the own ones and others'
inbox              what others reported, as verified and as far as this node's import policy lets it in
refused            what others reported and this node did not take, with the reason
confirmations_out  what this member signed about others' reports; `waiting` until the broker noted it
statements         verified statements of others (deliveries, confirmations, links) as they signed them
links              pairs of reports that are about the same thing
idempotency        answers by idempotency key
posts              what a POST of several reports came to: digests and reasons
tokens             who may ask over HTTP, by the hash of the token, and what they may do
review             filings that wait until a person releases them, and what became of those before
sources            what a client posted last of a report that it has from another tool, and the tool's newest time
leaves             what must be in the broker's log: own receipts, others' deliveries; with the proof once it is there
checkpoints        of the broker's log, as this node verified them: each continues the one before it
governance         records of the region's trustees, from the founding one on, as the broker listed them
events             the feed
alarms             what should never happen and did, until a person clears it
outputs            how far each webhook and syslog receiver has come, and whether it is disabled
escalations        reports that nobody has read yet: here, or at the members to which an own report went
taxii_objects      STIX objects of others' reports, for TAXII clients: `added_at` is their number, in whole milliseconds
taxii_listed       in which collections the objects of a report stand, under which marking
taxii_status       what became of what TAXII clients have posted
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData()
_Id = BigInteger().with_variant(Integer, "sqlite")
meta = Table("meta", metadata, Column("name", String, primary_key=True), Column("value", String, nullable=False))
submissions = Table(
    "submissions",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=False),
    Column("digest", String(43), nullable=False, unique=True),
    Column("message", LargeBinary, nullable=False),
    Column("reports", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("waiting", Boolean, nullable=False, index=True),
    Column("receipt", Text),
)
own_reports = Table(
    "own_reports",
    metadata,
    Column("seq", _Id, primary_key=True, autoincrement=False),
    Column("digest", String(43), nullable=False, unique=True),
    Column("report_id", String(36), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("incident_id", String(36), nullable=False, index=True),
    Column("submission", ForeignKey("submissions.id"), nullable=False, index=True),
    Column("content_hash", String(43), nullable=False, index=True),
    Column("filed_at", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("kept", Boolean, nullable=False),
    Column("tlp", String(12), nullable=False),
    Column("client", String(64), nullable=False),
    Column("filing", LargeBinary, nullable=False),
    Column("disclosures", Text, nullable=False),
    Column("held_back", LargeBinary),
    Column("outcome", LargeBinary),
    Index("own_reports_by_id", "report_id", "revision", unique=True),
    Index("own_reports_by_client", "client", "filed_at"),
)
policies = Table(
    "policies",
    metadata,
    Column("jurisdiction", String(31), nullable=False),
    Column("version", Integer, nullable=False),
    Column("published", Boolean, nullable=False),
    Column("jws", Text, nullable=False),
    PrimaryKeyConstraint("jurisdiction", "version"),
)
confirmed = Table(
    "confirmed",
    metadata,
    Column("report", String(43), nullable=False),
    Column("member", String(31), nullable=False),
    Column("state", String(16), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("refusal", LargeBinary),
    Column("statement", String(43), nullable=False),
    PrimaryKeyConstraint("report", "member", "state"),
)
inbox = Table(
    "inbox",
    metadata,
    Column("seq", _Id, primary_key=True, autoincrement=False),
    Column("digest", String(43), nullable=False, unique=True),
    Column("report_id", String(36), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("incident_id", String(36), nullable=False, index=True),
    Column("origin", String(31), nullable=False),
    Column("jurisdiction", String(31), nullable=False),
    Column("tlp", String(12), nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("broker_received_at", BigInteger, nullable=False),
    Column("presentation", Text, nullable=False),
    Column("view", LargeBinary, nullable=False),
    Column("undisclosed", Integer, nullable=False),
    Column("withheld", LargeBinary, nullable=False),
    Column("withdrawn", Boolean, nullable=False),
    Column("delivery", BigInteger, nullable=False),
    Column("statement", String(43), nullable=False),
    Column("confirmation", String(43), nullable=False),
    Column("state", String(16), nullable=False),
    Column("state_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, index=True),
    Column("expired_at", BigInteger),
    Index("inbox_by_id", "report_id", "revision", unique=True),
)
refused = Table(
    "refused",
    metadata,
    Column("digest", String(43), primary_key=True),
    Column("origin", String(31), nullable=False),
    Column("report_id", String(36)),
    Column("revision", Integer),
    Column("refusal", LargeBinary, nullable=False),
    Column("delivery", BigInteger, nullable=False),
    Column("statement", String(43), nullable=False),
    Column("confirmation", String(43), nullable=False),
    Column("at", BigInteger, nullable=False),
)
confirmations_out = Table(
    "confirmations_out",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=False),
    Column("digest", String(43), nullable=False, unique=True),
    Column("jws", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("waiting", Boolean, nullable=False, index=True),
    Column("noted_at", BigInteger),
    Column("refusal", LargeBinary),
)
statements = Table(
    "statements",
    metadata,
    Column("digest", String(43), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("jws", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)
links = Table(
    "links",
    metadata,
    Column("a", String(43), nullable=False),
    Column("b", String(43), nullable=False),
    Column("a_report", String(36), nullable=False, index=True),
    Column("b_report", String(36), nullable=False, index=True),
    Column("link", LargeBinary, nullable=False),
    Column("statement", String(43), nullable=False),
    Column("at", BigInteger, nullable=False),
    PrimaryKeyConstraint("a", "b"),
)
idempotency = Table(
    "idempotency",
    metadata,
    Column("client", String(64), nullable=False),
    Column("key", String(255), nullable=False),
    Column("body_hash", String(43), nullable=False),
    Column("status", Integer, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("at", BigInteger, nullable=False, index=True),
    PrimaryKeyConstraint("client", "key"),
)
posts = Table(
    "posts",
    metadata,
    Column("id", String(22), primary_key=True),
    Column("client", String(64), nullable=False),
    Column("at", BigInteger, nullable=False, index=True),
    Column("items", LargeBinary, nullable=False),
)
tokens = Table(
    "tokens",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("sha256", LargeBinary(32), nullable=False, unique=True),
    Column("old_sha256", LargeBinary(32)),
    Column("old_until", BigInteger),
    Column("terms", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("rotated_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("used_at", BigInteger),
)
review = Table(
    "review",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=False),
    Column("client", String(64), nullable=False),
    Column("item_hash", String(43), nullable=False),
    Column("filing", LargeBinary, nullable=False),
    Column("tlp", String(12), nullable=False),
    Column("state", String(8), nullable=False),
    Column("held_at", BigInteger, nullable=False),
    Column("decided_at", BigInteger),
    Column("decided_by", String(64)),
    Column("why", Text),
    Column("report_id", String(36)),
    Column("revision", Integer),
    Column("updates", Boolean, nullable=False),
    Column("stated_at", BigInteger),
    Index("review_once", "client", "item_hash", unique=True),
    Index("review_by_state", "state", "id"),
)
sources = Table(
    "sources",
    metadata,
    Column("report_id", String(36), nullable=False),
    Column("client", String(64), nullable=False),
    Column("content_hash", String(43), nullable=False),
    Column("stated_at", BigInteger),
    PrimaryKeyConstraint("report_id", "client"),
)
leaves = Table(
    "leaves",
    metadata,
    Column("leaf", _Id, primary_key=True, autoincrement=False),
    Column("entry", LargeBinary(32), nullable=False),
    Column("about", String(16), nullable=False),
    Column("name", String(43), nullable=False, index=True),
    Column("state", String(12), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("proof", Text),
    Column("proven_at", BigInteger),
    Index("leaves_by_state", "state", "leaf"),
)
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("size", _Id, primary_key=True, autoincrement=False),
    Column("root", LargeBinary(32), nullable=False),
    Column("note", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("cosigned_at", BigInteger),
    Column("published", Text),
    Column("published_at", BigInteger),
)
governance = Table(
    "governance",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(43), nullable=False, unique=True),
    Column("record", Text, nullable=False),
    Column("leaf", BigInteger, nullable=False),
)
events = Table(
    "events",
    metadata,
    Column("seq", _Id, primary_key=True, autoincrement=False),
    Column("kind", String(32), nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("at", BigInteger, nullable=False),
)
_OPEN = text("cleared_at IS NULL")
alarms = Table(
    "alarms",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=False),
    Column("key", String(200), nullable=False),
    Column("about", String(32), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("times", Integer, nullable=False),
    Column("facts", LargeBinary, nullable=False),
    Column("cleared_at", BigInteger),
    Column("cleared_by", String(64)),
    Index("alarms_open", "key", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
)
escalations = Table(
    "escalations",
    metadata,
    Column("digest", String(43), primary_key=True),
    Column("report_id", String(36), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("side", String(9), nullable=False),
    Column("severity", String(8), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("until", BigInteger),
    Column("waiting", LargeBinary, nullable=False),
    Column("members", Integer, nullable=False),
    Column("told_at", BigInteger),
    Index("escalations_by_id", "report_id", "revision"),
    Index("escalations_due", "told_at", "severity", "since"),
)
taxii_objects = Table(
    "taxii_objects",
    metadata,
    Column("added_at", _Id, primary_key=True, autoincrement=False),
    Column("source", BigInteger, nullable=False),
    Column("object_id", String(128), nullable=False),
    Column("type", String(64), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("spec_version", String(8), nullable=False),
    Column("ended", Boolean, nullable=False),
    Column("object", LargeBinary, nullable=False),
    Index("taxii_objects_by_source", "source", "added_at"),
    Index("taxii_objects_by_id", "object_id", "version", "added_at"),
)
taxii_listed = Table(
    "taxii_listed",
    metadata,
    Column("source", BigInteger, nullable=False),
    Column("topic", String(64), nullable=False),
    Column("tlp", Integer, nullable=False),
    Column("last", BigInteger, nullable=False),
    PrimaryKeyConstraint("source", "topic", "tlp"),
    Index("taxii_listed_by_topic", "topic", "last", "tlp", unique=True),
)
taxii_status = Table(
    "taxii_status",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("client", String(64), nullable=False),
    Column("at", BigInteger, nullable=False, index=True),
    Column("objects", LargeBinary, nullable=False),
)
outputs = Table(
    "outputs",
    metadata,
    Column("name", String(31), primary_key=True),
    Column("next", BigInteger, nullable=False),
    Column("failing_since", BigInteger),
    Column("fault", String(64), nullable=False),
    Column("disabled_at", BigInteger),
    Column("delivered_at", BigInteger),
)
