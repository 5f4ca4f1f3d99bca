"""What the node answers to those who run it, as types: review, tokens, webhooks. As `shapes.py` says."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, UnsetType, field

from node.api.shapes import Number, ReportId, Revision, Shown
from node.tokens import Terms
from protocol import taxonomy as tx
from protocol.report import Filing, Instant, Jurisdiction

# --- review -----------------------------------------------------------------------------------------------------


class ReviewLine(Shown, frozen=True, kw_only=True):
    """A filing that waits for a person, or what the person decided."""

    review: Number
    state: Literal["held", "released", "refused"]
    filed_by: str
    """The token that filed it."""
    tlp: tx.Tlp
    held_at: Instant
    decided_at: Instant | UnsetType = UNSET
    decided_by: str | UnsetType = UNSET
    why: str | UnsetType = UNSET
    report_id: ReportId | UnsetType = UNSET
    revision: Revision | UnsetType = UNSET
    status: str | UnsetType = UNSET
    """Address of the report that it became."""


class ReviewEntry(ReviewLine, frozen=True, kw_only=True):
    report: Filing


class ReviewPage(Shown, frozen=True, kw_only=True):
    review: list[ReviewLine]
    next: Number


# --- tokens -----------------------------------------------------------------------------------------------------


class TokenView(Terms, frozen=True, kw_only=True):
    """A token, never its text; what is not said is without limit."""

    name: str
    state: Literal["valid", "expired", "revoked"]
    from_: Literal["node.toml"] | UnsetType = field(default=UNSET, name="from")
    created_at: Instant | UnsetType = UNSET
    created_by: str | UnsetType = UNSET
    rotated_at: Instant | UnsetType = UNSET
    old_until: Instant | UnsetType = UNSET
    """How long the secret before the last rotation still holds."""
    revoked_at: Instant | UnsetType = UNSET
    used_at: Instant | UnsetType = UNSET


class TokenList(Shown, frozen=True, kw_only=True):
    tokens: list[TokenView]


class TokenMade(Shown, frozen=True, kw_only=True):
    """The only answer in which the token's text ever stands."""

    name: str
    token: str


class TokenRotated(TokenMade, frozen=True, kw_only=True):
    overlap_minutes: Number
    """How long the text before it still holds."""


class TokenRevoked(Shown, frozen=True, kw_only=True):
    name: str
    state: Literal["revoked"]


# --- webhooks ---------------------------------------------------------------------------------------------------


class WebhookView(Shown, frozen=True, kw_only=True):
    """Where events go to, how far, and what holds them up."""

    name: str
    state: Literal["delivering", "failing", "disabled"]
    next: Number
    """The number of the next event to be looked at."""
    delivered_at: Instant | None
    failing_since: Instant | None
    fault: str
    disabled_at: Instant | None
    to: str
    """The host of its address."""
    kinds: list[str]
    severity: Number
    tlp: tx.Tlp
    behind: Number
    oldest_seconds: float


class WebhookList(Shown, frozen=True, kw_only=True):
    webhooks: list[WebhookView]


class WebhookReplayed(WebhookView, frozen=True, kw_only=True):
    replaying: Number
    """How many events are looked at again."""


class WebhookTested(Shown, frozen=True, kw_only=True):
    delivered: bool
    id: str
    status: int | None
    fault: str
    ms: float


class DirectoryKey(Shown, frozen=True, kw_only=True):
    """A key that counts; its id is its thumbprint."""

    use: Literal["signing", "sealing"]
    kid: str
    algorithm: str
    not_after: Instant


class DirectoryMember(Shown, frozen=True, kw_only=True):
    id: str
    jurisdiction: Jurisdiction
    name: str
    status: Literal["active", "suspended"]
    hidden: bool
    """Whether only some see it, this node among them."""
    roles: list[str]
    contacts: list[str]
    languages: list[str]
    capabilities: list[str]
    keys: list[DirectoryKey]


class DirectoryGroup(Shown, frozen=True, kw_only=True):
    id: str
    name: str
    jurisdictions: list[Jurisdiction]


class DirectoryView(Shown, frozen=True, kw_only=True):
    """Who is in the region, as far as this member may know it."""

    region: str
    serial: int
    members: list[DirectoryMember]
    groups: list[DirectoryGroup]
