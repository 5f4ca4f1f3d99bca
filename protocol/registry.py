"""Who is in the region: members, their keys and roles, sharing groups, agreements, and the broker's own keys.

Guarantees: a `Registry` that exists is consistent: ids are unique, every key id is its key's thumbprint, no key belongs
to two owners, groups and agreements name jurisdictions that exist. It travels to the nodes as a document signed by the
broker (`RegionDocument`), which names the governance record that it follows from (`protocol/chain.py`): a node takes
nobody's word but the trustees'. Refuses: everything else, as ConfigError when an operator wrote it and as ProtocolError
when a peer sent it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from protocol import limits
from protocol.errors import ConfigError, ProtocolError
from protocol.jws import sign_jws, split_jws, verify_parts
from protocol.keys import KeyRecord, KeyRing, Signer, VerifyKey
from protocol.notes import NoteKey, cosigns, log_keys, origin_of, witness_keys
from protocol.parse import decode
from protocol.policy import Circles, Pact, Recipient
from protocol.reasons import Reason
from protocol.report import Digest, Instant, Jurisdiction, Line
from protocol.rules import AgreementId
from protocol.sealing import SealingKeyRecord, check_record
from protocol.statements import BROKER

Role = Literal["submitter", "recipient", "coordinator", "observer", "auditor"]
"""A coordinator watches the feed and reads what policies give it; an observer witnesses the log and reads nothing; an
auditor also asks who got what of its own jurisdiction (`protocol/auditing.py`). Who decides about the region is a
trustee, which is no role of a member: trustees have keys of their own, and no node."""
SHARING: Final[frozenset[Role]] = frozenset({"submitter", "recipient", "coordinator"})
"""Roles of those that take part in sharing: who has none of them sets no policy for its jurisdiction."""
MemberId = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{1,30}$(?!\n)")]
TYP: Final = "kentongan-region+jwt"
NOBODY_HIDDEN: Final[Mapping[str, frozenset[str]]] = {}


class _Doc(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


Language = Annotated[str, Meta(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$(?!\n)")]
TransportKey = Annotated[str, Meta(pattern=r"^U[A-Z2-7]{55}$(?!\n)")]
Capability = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)")]


class Member(_Doc, frozen=True, kw_only=True):
    """An admitted organisation."""

    id: MemberId
    jurisdiction: Jurisdiction
    name: Line
    roles: list[Role] = msgspec.field(default_factory=lambda: ["submitter", "recipient"])
    status: Literal["active", "suspended"] = "active"
    keys: Annotated[list[KeyRecord], Meta(max_length=limits.KEYS_PER_MEMBER)] = []
    sealing_keys: Annotated[list[SealingKeyRecord], Meta(max_length=limits.SEALING_KEYS_PER_MEMBER)] = []
    transport: TransportKey | None = None
    """Public part of the NATS user key that the member made itself."""
    contacts: Annotated[list[Line], Meta(max_length=16)] = []
    """How to reach it by another way than this one."""
    languages: Annotated[list[Language], Meta(max_length=16)] = []
    capabilities: Annotated[list[Capability], Meta(max_length=32)] = []
    """What it can help others with, such as `malware-analysis`."""
    hidden: bool = False
    """Whether only some see it. It witnesses nothing: its name would stand under every checkpoint."""


class Group(_Doc, frozen=True, kw_only=True):
    id: UUID
    name: Line
    jurisdictions: list[Jurisdiction]


class Agreement(_Doc, frozen=True, kw_only=True):
    """An agreement between jurisdictions, which allow rules can ask for."""

    id: AgreementId
    title: Line
    parties: Annotated[list[Jurisdiction], Meta(min_length=2)]
    effective_from: Instant
    effective_until: Instant | None = None


class Region(_Doc, frozen=True, kw_only=True):
    """The registry as a document."""

    region: Line
    serial: Annotated[int, Meta(ge=1)]
    broker_keys: Annotated[list[KeyRecord], Meta(min_length=1, max_length=limits.KEYS_PER_MEMBER)]
    members: list[Member] = []
    groups: list[Group] = []
    agreements: list[Agreement] = []
    quorum: Annotated[int, Meta(ge=1)] | None = None
    """How many witnesses must cosign a checkpoint; without it, more than half of the active members with a node."""


class Head(_Doc, frozen=True, kw_only=True):
    """The newest governance record that something follows from: its number, and the digest of its payload."""

    number: Annotated[int, Meta(ge=0, lt=2**31)]
    digest: Digest


class RegionDocument(_Doc, frozen=True, kw_only=True):
    """What the broker signs for the nodes."""

    iss: str
    issued_at: Instant
    head: Head
    region: Region


class _Headed(Struct):
    head: Head


class _Placed(Struct):
    id: str
    jurisdiction: str


class _Members(Struct):
    members: list[_Placed] = []


class _Peopled(Struct):
    region: _Members


@dataclass(frozen=True, slots=True)
class OpenedRegion:
    """A region document that a broker's key signed."""

    registry: Registry
    issued_at: datetime
    head: Head


class Registry:
    """A checked region, with the look-ups that deciding needs. Immutable: a change is a new registry.

    Args:
        region: as a document.
        seen_by: by hidden member, the members that see it beside itself.
        closed: ids of the sharing groups that only those in them see.

    Raises:
        ConfigError: it does not hold together.
    """

    def __init__(
        self,
        region: Region,
        seen_by: Mapping[str, frozenset[str]] = NOBODY_HIDDEN,
        closed: frozenset[str] = frozenset(),
    ) -> None:
        ids = [member.id for member in region.members]
        for wrong in {item for item in ids if ids.count(item) > 1} | ({BROKER} & set(ids)):
            raise ConfigError(f"member id {wrong} is listed twice or is reserved")
        group_ids = [group.id for group in region.groups]
        for twice in {item for item in group_ids if group_ids.count(item) > 1}:
            raise ConfigError(f"sharing group {twice} is listed twice")
        known = {member.jurisdiction for member in region.members}
        for group in region.groups:
            if strangers := set(group.jurisdictions) - known:
                raise ConfigError(f"sharing group {group.name}: no member in {', '.join(sorted(strangers))}")
        agreement_ids = [agreement.id for agreement in region.agreements]
        for again in {item for item in agreement_ids if agreement_ids.count(item) > 1}:
            raise ConfigError(f"agreement {again} is listed twice")
        for agreement in region.agreements:
            if strangers := set(agreement.parties) - known:
                raise ConfigError(f"agreement {agreement.id}: no member in {', '.join(sorted(strangers))}")
            if len(set(agreement.parties)) < 2:
                raise ConfigError(f"agreement {agreement.id}: an agreement has two parties or more")
        if not all(cosigns(record) for record in region.broker_keys):
            raise ConfigError("a key of the broker signs the log's notes too, for which there is Ed25519 only")
        _check_sealing_keys(region)
        self.region = region
        self.members = {member.id: member for member in region.members}
        self.keys = KeyRing(
            [VerifyKey.from_record(BROKER, record) for record in region.broker_keys]
            + [VerifyKey.from_record(member.id, record) for member in region.members for record in member.keys]
        )
        self.circles = Circles(
            {str(group.id): frozenset(group.jurisdictions) for group in region.groups},
            {
                item.id: Pact(frozenset(item.parties), item.effective_from, item.effective_until)
                for item in region.agreements
            },
        )
        self.jurisdictions = frozenset(known)
        self.seen_by = seen_by
        self._closed = closed
        self._views: dict[str, Registry] = {}

    def member(self, member_id: str) -> Member:
        """The member, or ProtocolError(UNKNOWN_MEMBER)."""
        found = self.members.get(member_id)
        if found is None:
            raise ProtocolError(Reason.UNKNOWN_MEMBER, "$", "no such member in this region")
        return found

    def submitter(self, member_id: str) -> Member:
        """The member if it may submit now, or ProtocolError with the reason."""
        found = self.member(member_id)
        if found.status != "active":
            raise ProtocolError(Reason.MEMBER_SUSPENDED, "$", "this member is suspended")
        if "submitter" not in found.roles:
            raise ProtocolError(Reason.NOT_ALLOWED, "$", "this member has no submitter role")
        return found

    def shares(self, member_id: str) -> bool:
        """Whether the member takes part in sharing, and so may publish its jurisdiction's policy."""
        found = self.members.get(member_id)
        return found is not None and not SHARING.isdisjoint(found.roles)

    def recipients(self) -> list[Member]:
        """All members that exist to receive, suspended ones included (they are told apart by the region gate)."""
        return [member for member in self.region.members if {"recipient", "coordinator"} & set(member.roles)]

    def sees(self, member_id: str, other: str) -> bool:
        """Whether a member may know of another one."""
        return sees(self.seen_by, member_id, other)

    def meet(self, one: str, other: str) -> bool:
        """Whether two members see each other: between others nothing passes."""
        return self.sees(one, other) and self.sees(other, one)

    def asked_by(self, member_id: str) -> dict[str, Recipient]:
        """By id, those that could get a report of this member, as policies see them; in the region as it sees it."""
        others = [one for one in self.recipients() if one.id != member_id]
        return {one.id: as_recipient(one, shown=self.sees(one.id, member_id)) for one in others}

    def view(self, member_id: str) -> Registry:
        """The region as one member sees it. ProtocolError(UNKNOWN_MEMBER) if it is none."""
        if not self.seen_by and not self._closed:
            return self
        found = self._views.get(member_id)
        if found is None:
            own = self.member(member_id).jurisdiction
            members = [member for member in self.region.members if self.sees(member_id, member.id)]
            groups = [one for one in self.region.groups if str(one.id) not in self._closed or own in one.jurisdictions]
            region = msgspec.structs.replace(self.region, members=members, groups=groups)
            found = self._views[member_id] = Registry(region, self.seen_by, self._closed)
        return found

    @property
    def origin(self) -> str:
        """The name of the region's log."""
        return origin_of(self.region.region)

    def witnesses(self) -> list[Member]:
        """The members that cosign: active, with a node whose newest key is one for that (`notes.cosigns`)."""
        active = [
            member for member in self.region.members if member.keys and member.status == "active" and not member.hidden
        ]
        return [one for one in active if cosigns(max(one.keys, key=lambda key: (key.not_before, key.kid)))]

    @property
    def quorum(self) -> int:
        """How many of the witnesses must have cosigned a checkpoint before anybody relies on it."""
        return self.region.quorum or len(self.witnesses()) // 2 + 1

    def log_keys(self) -> list[NoteKey]:
        """The keys that may sign the log's checkpoints."""
        return log_keys(self.origin, BROKER, self.region.broker_keys)

    def witness_keys(self) -> list[NoteKey]:
        """The keys under which cosignatures of active members count, also those from before another algorithm."""
        active = [member for member in self.region.members if member.status == "active" and not member.hidden]
        return [key for member in active for key in witness_keys(member.id, member.keys)]

    def coordinator(self) -> Member | None:
        """The coordinator, if the region has one."""
        return next((member for member in self.region.members if "coordinator" in member.roles), None)


def sees(seen_by: Mapping[str, frozenset[str]], member_id: str, other: str) -> bool:
    """Whether a member may know of another one, which is hidden if it is in `seen_by`."""
    seers = seen_by.get(other)
    return seers is None or member_id == other or member_id in seers


def _check_sealing_keys(region: Region) -> None:
    """ConfigError unless every sealing key is what it says and belongs to one member."""
    owners: dict[str, str] = {}
    for member in region.members:
        for record in member.sealing_keys:
            check_record(member.id, record)
            if record.kid in owners:
                raise ConfigError(f"sealing key {record.kid} is listed twice ({owners[record.kid]}, {member.id})")
            owners[record.kid] = member.id


def as_recipient(member: Member, *, shown: bool = True) -> Recipient:
    """A member as the policy gates see it.

    Args:
        shown: whether it sees the report's origin.
    """
    receives = bool({"recipient", "coordinator"} & set(member.roles))
    return Recipient(member.jurisdiction, member.status == "active", receives, shown)


_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_decoder: Final = msgspec.json.Decoder(RegionDocument)
_headed: Final = msgspec.json.Decoder(_Headed)
_peopled: Final = msgspec.json.Decoder(_Peopled)


def shown(region: Region) -> Region:
    """A region as its document shows it: without transport keys, which only the broker needs."""
    members = [msgspec.structs.replace(member, transport=None) for member in region.members]
    return msgspec.structs.replace(region, members=members)


def sign_region(region: Region, head: Head, signer: Signer, now: datetime) -> str:
    """The registry as the broker hands it to nodes.

    Args:
        head: the governance record that the region follows from.
    """
    return sign_jws(TYP, _encode(RegionDocument(iss=BROKER, issued_at=now, head=head, region=shown(region))), signer)


def head_of(jws: str) -> Head:
    """The governance record that a region document claims to follow from; nothing is verified.

    Raises:
        ProtocolError: it is no region document.
    """
    return decode(_headed, split_jws(jws, TYP).payload).head


def jurisdiction_of(jws: str, member: str) -> str:
    """The jurisdiction that a region document gives to a member, empty if it has none; nothing is verified.

    Raises:
        ProtocolError: it is no region document.
    """
    members = decode(_peopled, split_jws(jws, TYP).payload).region.members
    return next((one.jurisdiction for one in members if one.id == member), "")


def open_region(jws: str, pinned: KeyRing, at: datetime) -> OpenedRegion:
    """Verify a region document with the broker's keys. Whether the trustees agree is for `node/trust.py` to see.

    Raises:
        ProtocolError: not signed by one of these keys, or inconsistent.
    """
    parts = split_jws(jws, TYP)
    key = verify_parts(parts, pinned.find)
    key.check_window(at)
    document = decode(_decoder, parts.payload)
    if not document.iss == key.owner == BROKER:
        raise ProtocolError(Reason.WRONG_MEMBER, "$.iss", "only the broker says who is in the region")
    try:
        return OpenedRegion(Registry(document.region), document.issued_at, document.head)
    except ConfigError as exc:
        raise ProtocolError(Reason.INVALID_VALUE, "$.region", str(exc)) from exc
