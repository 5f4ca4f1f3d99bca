"""Reason codes: the contract between nodes, brokers, tools and dashboards.

A code never changes its meaning and is never reused. The same string stands in receipts, problem documents, log lines
and metric labels; the free text beside it may change at any time.
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """Why something was refused, withheld, quarantined or delayed."""

    # the document as such
    NOT_JSON = "not-json"
    TOO_LARGE = "too-large"
    TOO_MANY = "too-many"
    EMPTY = "empty"
    WRONG_TYPE = "wrong-type"
    MISSING_FIELD = "missing-field"
    UNKNOWN_FIELD = "unknown-field"
    UNKNOWN_VALUE = "unknown-value"
    OUT_OF_RANGE = "out-of-range"
    INVALID_VALUE = "invalid-value"
    UNSUPPORTED_MEDIA = "unsupported-media-type"
    NOT_ACCEPTABLE = "not-acceptable"
    UNKNOWN_PATH = "unknown-path"
    WRONG_METHOD = "wrong-method"
    # meaning
    UNKNOWN_RSIT_TYPE = "unknown-rsit-type"
    UNKNOWN_RECIPIENT = "unknown-recipient"
    RECIPIENTS_REQUIRED = "recipients-required"
    TIME_IN_FUTURE = "time-in-future"
    EXPIRED = "expired"
    EXERCISE_MIXED = "exercise-mixed"
    # identity of reports
    REVISION_CONFLICT = "revision-conflict"
    REVISION_GAP = "revision-gap"
    OUTDATED = "outdated"
    REPORT_ID_TAKEN = "report-id-taken"
    INCIDENT_ID_TAKEN = "incident-id-taken"
    IDEMPOTENCY_KEY_REUSED = "idempotency-key-reused"
    UNKNOWN_REPORT = "unknown-report"
    DUPLICATE_CONTENT = "duplicate-content"
    # who
    TOKEN_MISSING = "token-missing"  # noqa: S105 - a reason code, not a secret
    TOKEN_INVALID = "token-invalid"  # noqa: S105 - a reason code, not a secret
    SCOPE_MISSING = "scope-missing"
    TLP_NOT_ALLOWED = "tlp-not-allowed"
    SECTOR_NOT_ALLOWED = "sector-not-allowed"
    PURPOSE_NOT_ALLOWED = "purpose-not-allowed"
    QUOTA_EXCEEDED = "quota-exceeded"
    UNKNOWN_TOKEN = "unknown-token"  # noqa: S105 - a reason code, not a secret
    TOKEN_EXISTS = "token-exists"  # noqa: S105 - a reason code, not a secret
    OWN_FILING = "own-filing"
    UNKNOWN_REVIEW = "unknown-review"
    ALREADY_DECIDED = "already-decided"
    NOT_ALLOWED = "not-allowed"
    UNKNOWN_MEMBER = "unknown-member"
    MEMBER_SUSPENDED = "member-suspended"
    WRONG_MEMBER = "wrong-member"
    WRONG_AUDIENCE = "wrong-audience"
    # signatures and keys
    MALFORMED_ENVELOPE = "malformed-envelope"
    ALGORITHM_NOT_ALLOWED = "algorithm-not-allowed"
    UNKNOWN_KEY = "unknown-key"
    KEY_NOT_VALID = "key-not-valid"
    KEY_REVOKED = "key-revoked"
    KEY_EXPIRES = "key-expires"
    SIGNATURE_INVALID = "signature-invalid"
    DISCLOSURE_MALFORMED = "disclosure-malformed"
    DISCLOSURE_UNREFERENCED = "disclosure-unreferenced"
    DISCLOSURE_DUPLICATE = "disclosure-duplicate"
    CONTENT_CHANGED = "content-changed"
    NO_SEALING_KEY = "no-sealing-key"
    SEALING_KEY_EXPIRING = "sealing-key-expiring"
    NOT_SEALED = "not-sealed"
    SEAL_BROKEN = "seal-broken"
    NOT_SEALED_TO_ME = "not-sealed-to-this-member"
    UNKNOWN_SUBMISSION = "unknown-submission"
    UNKNOWN_DELIVERY = "unknown-delivery"
    # the log: what a witness finds
    MALFORMED_NOTE = "malformed-note"
    MALFORMED_PROOF = "malformed-proof"
    PROOF_INVALID = "proof-invalid"
    LOG_FORKED = "log-forked"
    LEAF_MISSING = "leaf-missing"
    LOG_STALLED = "log-stalled"
    NOT_WITNESSED = "not-witnessed"
    NOT_GRANTED = "not-granted"
    GRANTED_TOO_MUCH = "granted-too-much"
    RECEIPT_OVERDUE = "receipt-overdue"
    LEFT_OUT = "left-out"
    # governance: why a record does not change who is in the region
    RECORD_OUT_OF_ORDER = "record-out-of-order"
    TOO_FEW_SIGNATURES = "too-few-signatures"
    NOT_A_TRUSTEE = "not-a-trustee"
    MEMBER_EXISTS = "member-exists"
    LOOKS_LIKE_ANOTHER = "looks-like-another"
    RECORD_KEPT_BACK = "record-kept-back"
    REGION_NOT_GOVERNED = "region-not-governed"
    # policy: why a report or a field was withheld
    DEFAULT_DENY = "default-deny"
    DENIED_BY_RULE = "denied-by-rule"
    COARSE_BY_RULE = "coarse-by-rule"
    NOT_NAMED = "not-a-named-recipient"
    NOT_IN_GROUP = "not-in-sharing-group"
    UNKNOWN_GROUP = "unknown-sharing-group"
    RESIDENCY = "residency"
    NO_POLICY = "no-policy"
    POLICY_NOT_EFFECTIVE = "policy-not-effective"
    RULE_FAILED = "rule-failed"
    EFFECTIVE_IN_THE_PAST = "effective-in-the-past"
    NOT_SHOWN_TO = "not-shown-to-it"
    NOT_A_RECIPIENT = "not-a-recipient"
    OWN_REPORT = "own-report"
    NO_COARSE_VALUE = "no-coarse-value"
    UNKNOWN_UNIT = "unknown-unit"
    WITHDRAWN = "withdrawn"
    NEVER_RECEIVED = "never-received"
    # running
    BACKLOG_FULL = "backlog-full"
    NOT_READY = "not-ready"
    INTERNAL = "internal"
    ENDPOINT_GONE = "endpoint-gone"
    ENDPOINT_FAILING = "endpoint-failing"
