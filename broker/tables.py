"""The tables of the ledger; what each is and means if it is lost, stands in `docs/architecture.md`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    text,
)

metadata = MetaData()
_Id = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only in columns of the type INTEGER."""

meta = Table("meta", metadata, Column("name", String, primary_key=True), Column("value", String, nullable=False))
submissions = Table(
    "submissions",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("digest", String(43), nullable=False, unique=True),
    Column("member", String(32), nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("entry", LargeBinary(32), nullable=False),
    Column("message", LargeBinary, nullable=False),
    Column("receipt", LargeBinary, nullable=False),
    Column("refusal", String),
)
reports = Table(
    "reports",
    metadata,
    Column("seq", _Id, primary_key=True, autoincrement=True),
    Column("digest", String(43), nullable=False, unique=True),
    Column("submission", _Id, nullable=False),
    Column("origin", String(32), nullable=False),
    Column("report_id", LargeBinary(16), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("incident_id", LargeBinary(16), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("rsit", String(64), nullable=False),
    Column("happened_at", BigInteger, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("erased_at", BigInteger),
    Column("grants", LargeBinary, nullable=False),
    Index("reports_by_id", "report_id", "revision", unique=True),
    Index("reports_by_incident", "incident_id"),
    Index("reports_by_fingerprint", "fingerprint", "origin"),
    Index("reports_by_submission", "submission"),
    Index("reports_by_time", "received_at", "seq"),
    Index(
        "reports_to_expire",
        "expires_at",
        sqlite_where=text("expires_at IS NOT NULL AND erased_at IS NULL"),
        postgresql_where=text("expires_at IS NOT NULL AND erased_at IS NULL"),
    ),
)
exceptions = Table(
    "exceptions",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("member", String(32), nullable=False),
    Column("submission", String(43), nullable=False),
    Column("digest", String(43)),
    Column("report_id", String(36)),
    Column("revision", Integer),
    Column("outcome", String(16), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("path", String, nullable=False),
    Index("exceptions_by_submission", "submission"),
)
identifiers = Table(
    "identifiers",
    metadata,
    Column("key", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    PrimaryKeyConstraint("key", "seq"),
    Index("identifiers_by_report", "seq"),
    sqlite_with_rowid=False,
)
links = Table(
    "links",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("a", BigInteger, nullable=False),
    Column("b", BigInteger, nullable=False),
    Column("incident_a", LargeBinary(16), nullable=False),
    Column("incident_b", LargeBinary(16), nullable=False),
    Column("strength", String(8), nullable=False),
    Index("links_once", "incident_a", "incident_b", unique=True),
)
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("member", String(32), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("state", String(12), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", BigInteger, nullable=False),
    Column("sent_at", BigInteger),
    Column("closed_at", BigInteger),
    Column("told", Boolean, nullable=False),
    Column("items", LargeBinary, nullable=False),
    Column("open", LargeBinary, nullable=False),
    Index("deliveries_due", "state", "next_attempt_at"),
    Index("deliveries_by_member", "member", "state"),
    Index("deliveries_by_time", "created_at"),
    Index("deliveries_untold", "told", "state", "sent_at"),
)
confirmations = Table(
    "confirmations",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("digest", String(43), nullable=False, unique=True),
    Column("member", String(32), nullable=False),
    Column("origin", String(32), nullable=False),
    Column("state", String(12), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("delivery", BigInteger),
    Column("reason", String(64)),
    Column("count", Integer, nullable=False),
    Column("jws", LargeBinary, nullable=False),
    Index("confirmations_by_delivery", "delivery"),
    Index(
        "confirmations_by_users",
        "origin",
        "id",
        sqlite_where=text("delivery IS NULL"),
        postgresql_where=text("delivery IS NULL"),
    ),
)
notices = Table(
    "notices",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("member", String(32), nullable=False),
    Column("kind", String(12), nullable=False),
    Column("jws", LargeBinary, nullable=False),
    Index("notices_by_member", "member", "id"),
    Index(
        "notices_of_stopped",
        "member",
        "id",
        sqlite_where=text("kind = 'stopped'"),
        postgresql_where=text("kind = 'stopped'"),
    ),
)
policies = Table(
    "policies",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("jurisdiction", String(32), nullable=False),
    Column("version", Integer, nullable=False),
    Column("member", String(32), nullable=False),
    Column("jws", LargeBinary, nullable=False),
    Index("policies_by_version", "jurisdiction", "version", unique=True),
)
governance = Table(
    "governance",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(43), nullable=False, unique=True),
    Column("record", LargeBinary, nullable=False),
    Column("leaf", BigInteger, nullable=False, unique=True),
)
feed = Table(
    "feed",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("kind", String(24), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("member", String(31), nullable=False),
    Column("report", BigInteger),
    Column("data", LargeBinary, nullable=False),
)
quarantine = Table(
    "quarantine",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("member", String(32), nullable=False),
    Column("kind", String(24), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("path", String, nullable=False),
    Column("size", Integer, nullable=False),
    Column("sha256", String(43), nullable=False),
    Column("start", LargeBinary, nullable=False),
)
log_tiles = Table(
    "log_tiles",
    metadata,
    Column("level", Integer, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("level", "number"),
)
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("root", LargeBinary(32), nullable=False),
    Column("note", LargeBinary, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("published_at", BigInteger),
)
cosignatures = Table(
    "cosignatures",
    metadata,
    Column("size", BigInteger, nullable=False),
    Column("member", String(32), nullable=False),
    Column("line", LargeBinary, nullable=False),
    PrimaryKeyConstraint("size", "member"),
)
