"""Builders with fixed keys, clock and randomness, and hypothesis strategies for everything that a report can say."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from msgspec import UNSET, Meta, UnsetType

from protocol import taxonomy as tx
from protocol.envelope import TYP, Envelope, SignedReport, disclosure_digest, open_envelope, present
from protocol.errors import ProtocolError
from protocol.issuing import issue
from protocol.jws import sign_jws
from protocol.keys import KeyRing, SigningKey, VerifyKey, b64
from protocol.policy import Policy, PolicyBook, Rule
from protocol.reasons import Reason
from protocol.registry import Group, Member, Region, Registry
from protocol.report import (
    Attachment,
    Body,
    Contact,
    Filing,
    Header,
    Indicator,
    Marking,
    Origin,
    Report,
    Rsit,
    SharingGroup,
    Source,
)
from protocol.statements import BROKER

NOW = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
DAY = timedelta(days=1)
GROUP = UUID("00000000-0000-4000-8000-0000000000aa")


def quick(examples: int = 50) -> settings:
    """The same examples on every run, few enough for the whole folder to take seconds."""
    return settings(
        derandomize=True, max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


@contextmanager
def refused(reason: Reason, path: str | None = None) -> Iterator[None]:
    """Assert that the block raises ProtocolError with exactly this reason, and this path if one is given."""
    with pytest.raises(ProtocolError) as caught:
        yield
    assert caught.value.reason is reason, str(caught.value)
    if path is not None:
        assert caught.value.path == path


class Rand:
    """Random bytes that are the same on every run: SHA-256 over a seed and a counter."""

    def __init__(self, seed: str = "salt") -> None:
        self._seed = seed
        self._count = 0

    def __call__(self, size: int) -> bytes:
        out = b""
        while len(out) < size:
            out += hashlib.sha256(f"{self._seed}/{self._count}".encode()).digest()
            self._count += 1
        return out[:size]


# --- keys and region --------------------------------------------------------------------------------------------


def key_of(owner: str) -> SigningKey:
    """The fixed key of an owner."""
    return SigningKey.from_seed(hashlib.sha256(f"kentongan test key of {owner}".encode()).digest())


def ring(
    *owners: str, not_before: datetime = NOW - DAY, not_after: datetime = NOW + DAY, revoked_at: datetime | None = None
) -> KeyRing:
    """The public keys of these owners, all with the same window."""
    return KeyRing(
        VerifyKey.from_record(
            owner, msgspec.structs.replace(key_of(owner).record(not_before, not_after), revoked_at=revoked_at)
        )
        for owner in owners
    )


MEMBERS = ("id-cert", "sg-cert", "my-cert", "ph-cert")
RING = ring(*MEMBERS, BROKER)


def member(jurisdiction: str, **given: Any) -> Member:
    """An active member with its key, named after its jurisdiction."""
    name = f"{jurisdiction}-cert"
    given.setdefault("keys", [key_of(name).record(NOW - DAY, NOW + DAY)])
    return Member(**{"id": name, "jurisdiction": jurisdiction, "name": f"CERT of {jurisdiction}", **given})


def region(*members: Member, groups: Sequence[Group] = (), **given: Any) -> Region:
    """A region with the broker's key; four members if none are given."""
    return Region(
        **{
            "region": "test",
            "serial": 1,
            "broker_keys": [key_of(BROKER).record(NOW - DAY, NOW + DAY)],
            "members": list(members) or [member(name) for name in ("id", "sg", "my", "ph")],
            "groups": list(groups),
            **given,
        }
    )


def registry(*members: Member, **given: Any) -> Registry:
    """A checked region."""
    return Registry(region(*members, **given))


# --- reports ----------------------------------------------------------------------------------------------------


def uuid(number: int) -> UUID:
    """A fixed UUID."""
    return UUID(int=(4 << 76) | (2 << 62) | number)


def header(number: int = 1, **given: Any) -> Header:
    """A valid header of Indonesia's CERT."""
    return Header(
        **{
            "schema": "kentongan-report/1",
            "report_id": uuid(number),
            "incident_id": uuid(number),
            "revision": 1,
            "origin": Origin(jurisdiction="id", member="id-cert"),
            "issued_at": NOW,
            "fingerprint": f"fingerprint-{number:08}",
            "marking": Marking(tlp="AMBER"),
            "rsit": [Rsit(class_="intrusions", type="system-compromise")],
            **given,
        }
    )


def report(number: int = 1, body: Body | None = None, **given: Any) -> Report:
    """A valid report; small unless a body is given."""
    return Report(header=header(number, **given), body=body or Body(title=f"Report {number}", status="open"))


def body_from(fields: Mapping[str, Any]) -> Body:
    """A body from plain JSON values."""
    return msgspec.convert(dict(fields), Body)


FULL: Mapping[str, Any] = {
    "title": "Word from canary-title@cert.example",
    "description": "canary-description@cert.example asks for help.",
    "status": "open",
    "determination": "confirmed",
    "confidence": "high",
    "times": {"detected": {"value": "2026-02-03T04:05:06Z"}},
    "detection_methods": ["human-review"],
    "impacts": [{"category": "availability", "detail": "canary-impacts"}],
    "services": ["canary-services"],
    "entity_counts": {"people": 4711},
    "victim": {"name": "canary-victim", "sector": "finance.banking"},
    "geo": {"country": "id", "city": "canary-geo"},
    "attack": [{"technique": "T1486"}],
    "actor": {"name": "canary-actor"},
    "malware": ["canary-malware"],
    "indicators": [
        {"type": "ipv4-addr", "value": "203.0.113.77", "context": "canary-indicators.address"},
        {"type": "domain-name", "value": "canary-indicators.domain.example"},
        {"type": "file-name", "value": "canary-indicators.file"},
        {"type": "user-account", "value": "canary-indicators.account"},
        {"type": "mutex", "value": "canary-indicators.other"},
    ],
    "vulnerabilities": [{"id": "CVE-2026-0001", "product": "canary-vulnerabilities"}],
    "third_party": {"name": "canary-third_party"},
    "root_cause": {"category": "human-errors", "detail": "canary-root_cause"},
    "ransomware": {"family": "canary-ransomware"},
    "ddos": {"botnet": "canary-ddos"},
    "ot": {"process_affected": "canary-ot", "safety_impact": "none"},
    "ai_enabled": [{"means": "other", "detail": "canary-ai_enabled"}],
    "actions": [{"what": "canary-actions"}],
    "assistance_requested": [{"kind": "sinkholing", "detail": "canary-assistance_requested"}],
    "contacts": [{"role": "duty officer", "name": "canary-contacts", "email": "canary-contacts@cert.example"}],
    "financial_loss": {"category": "monetary", "amount": 5, "currency": "IDR", "detail": "canary-financial_loss"},
    "attachments": [
        {"sha256": "a" * 64, "size": 1, "media_type": "text/plain", "name": "canary-attachments"},
        {
            "sha256": "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "size": 1,
            "media_type": "application/octet-stream",
            "name": "canary-attachments.content",
            "content": "AA==",
        },
    ],
    "related": [{"kind": "led-to", "ref": "canary-related"}],
    "references": [{"title": "canary-references"}],
    "source": {
        "format": "other",
        "media_type": "application/json",
        "sha256": "b" * 64,
        "size": 2,
        "unmapped": {"$.note": '"canary-source"'},
    },
}
"""Every body field, with the name of its unit in the text wherever the type has room for text; in texts that have a
coarse value, where only the exact one holds it."""


def signed(*reports: Report, issuer: str = "id-cert", seed: str = "salt", at: datetime = NOW) -> Envelope:
    """An envelope by a fixed key; one full report if none are given."""
    return issue(reports or [report(body=body_from(FULL))], issuer, key_of(issuer), at, Rand(seed))


def texts_of(item: object) -> list[str]:
    """Every disclosure of a signed report, withheld or not."""
    assert isinstance(item, SignedReport)
    return [item.header_text, *item.containers, *(d.text for d in item.disclosures)]


def whole(envelope: Envelope) -> str:
    """An envelope with everything disclosed."""
    return present(envelope.jws, (texts_of(item) for item in envelope.reports))


def opened(text: str, at: datetime = NOW, keys: KeyRing = RING) -> Envelope:
    """The verified envelope."""
    return open_envelope(text, keys.find, at)


# --- forging: envelopes that `issue` would never make -------------------------------------------------------------


def disclose(*values: Any) -> str:
    """A disclosure of these values, salted with a constant."""
    return b64(msgspec.json.encode(["constant-salt", *values]))


def forge(
    reports: Sequence[str],
    disclosures: Sequence[str],
    /,
    *,
    owner: str = "id-cert",
    typ: str = TYP,
    **claims: Any,
) -> str:
    """A properly signed envelope with any claims: `reports` are the disclosures whose digests the payload lists."""
    payload = {
        "iss": owner,
        "iat": int(NOW.timestamp()),
        "_sd_alg": "sha-256",
        "reports": [{"...": disclosure_digest(text)} for text in reports],
        **claims,
    }
    jws = sign_jws(typ, msgspec.json.encode(payload), key_of(owner))
    return "~".join([jws, *disclosures, ""])


def forge_report(fields: Mapping[str, Any], *more: str, **given: Any) -> tuple[str, list[str]]:
    """The header disclosure of a report and all its disclosures, with any fields; `more` are extra field texts."""
    texts = [disclose(name, value) for name, value in fields.items()] + list(more)
    element = {**msgspec.to_builtins(header()), "_sd": [disclosure_digest(text) for text in texts], **given}
    top = disclose({name: value for name, value in element.items() if value is not None})
    return top, [top, *texts]


# --- policies ---------------------------------------------------------------------------------------------------


def allow(id: str = "allow", **given: Any) -> Rule:  # noqa: A002 - the field's name
    """An allow rule for everybody; for everything unless `disclose` is given. Keys as in TOML, `from_` for `from`."""
    return _rule("allow", id, {"disclose": ["*"], **given})


def deny(id: str = "deny", **given: Any) -> Rule:  # noqa: A002 - the field's name
    """A deny rule for everybody; for the whole report unless `disclose` is given."""
    return _rule("deny", id, given)


def _rule(effect: str, name: str, given: Mapping[str, Any]) -> Rule:
    fields = {"id": name, "effect": effect, "because": "a test", **given}
    if "from_" in fields:
        fields["from"] = fields.pop("from_")
    elif "to" not in fields:
        fields["to"] = ["*"]
    return msgspec.convert(fields, Rule)


def imports(rule: Rule) -> Rule:
    """The same rule as an import rule."""
    return msgspec.structs.replace(rule, to=UNSET, from_=rule.to if rule.from_ is UNSET else rule.from_)


def policy(
    jurisdiction: str, export: Sequence[Rule] = (), import_: Sequence[Rule] | None = None, **given: Any
) -> Policy:
    """A policy in force; imports everything unless import rules are given."""
    taken = [imports(allow("import-all"))] if import_ is None else list(import_)
    made = Policy(
        **{
            "jurisdiction": jurisdiction,
            "version": 1,
            "effective_from": NOW - DAY,
            "export": list(export),
            "import_": taken,
            **given,
        }
    )
    return msgspec.convert(msgspec.to_builtins(made), Policy)


def book(*export: Rule, import_: Sequence[Rule] | None = None) -> PolicyBook:
    """Indonesia exports by these rules; Singapore and Malaysia import by the others, everything if none are given."""
    return PolicyBook([policy("id", export), policy("sg", (), import_), policy("my", (), import_)])


# --- strategies -------------------------------------------------------------------------------------------------

_LETTERS = "abcXYZ 019-_./:~\"'\\%<>&\u00e9\u00df\u0416\u4e2d\u3042\u202e\U0001f941\n\t"
_ZONES = st.sampled_from([UTC, timezone(timedelta(hours=7)), timezone(-timedelta(hours=3, minutes=30))])
_VALUES: Mapping[str, Sequence[str]] = {
    "ipv4-addr": ["192.0.2.1", "203.0.113[.]9", "198.51.100(dot)7"],
    "ipv6-addr": ["2001:db8::1", "2001:DB8:1:2:3:4:5:6"],
    "ipv4-net": ["192.0.2.0/24", "10.0.0.0/8", "198.51.100.77/30"],
    "ipv6-net": ["2001:db8::/32", "2001:db8:1:2::/64"],
    "md5": ["0" * 32],
    "sha1": ["A" * 40],
    "sha256": ["b" * 64],
    "sha512": ["9" * 128],
    "x509-sha256": ["c" * 64],
}
"""Indicator types whose values are checked, with values that pass; every other type takes any text."""


def _any_of(hint: Any, metas: Sequence[Meta]) -> st.SearchStrategy[Any]:
    origin = get_origin(hint)
    if origin is Annotated:
        return _any_of(hint.__origin__, [*metas, *(m for m in hint.__metadata__ if isinstance(m, Meta))])
    if origin in (Union, UnionType):
        return st.one_of([_any_of(arg, metas) for arg in get_args(hint) if arg not in (UnsetType, NoneType)])
    if origin is Literal:
        return st.sampled_from(get_args(hint))

    def bound(name: str, default: Any) -> Any:
        return next((found for m in metas if (found := getattr(m, name)) is not None), default)

    if origin is list:
        size = bound("min_length", 0)
        return st.lists(_any_of(get_args(hint)[0], []), min_size=size, max_size=size + 2)
    if origin is dict:
        key, value = get_args(hint)
        return st.dictionaries(_any_of(key, []), _any_of(value, []), min_size=bound("min_length", 0), max_size=3)
    if hint is str and (pattern := bound("pattern", None)):
        return st.from_regex(pattern.removesuffix(r"(?!\n)"), fullmatch=True).filter(lambda text: "\n" not in text)
    if hint is str:
        size = bound("min_length", 0)
        return st.text(_LETTERS, min_size=size, max_size=size + 12)
    plain: dict[Any, Callable[[], st.SearchStrategy[Any]]] = {
        int: lambda: st.integers(bound("ge", -1000), bound("le", 1000)),
        float: lambda: st.floats(bound("ge", -1e6), bound("le", 1e6), allow_nan=False),
        bool: st.booleans,
        datetime: lambda: st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=_ZONES),  # noqa: DTZ001
        UUID: st.uuids,
    }
    return plain[hint]() if hint in plain else _SPECIAL.get(hint, structs)(hint)


def structs(kind: type[msgspec.Struct], **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any valid value of a struct of the profile, read from its own annotations: a new field is tested at once."""
    return _field_values(kind, fixed).map(lambda fields: kind(**fields))


def _field_values(
    kind: type[msgspec.Struct], fixed: Mapping[str, st.SearchStrategy[Any]], optional_at_most: int = 3
) -> st.SearchStrategy[dict[str, Any]]:
    hints = get_type_hints(kind, include_extras=True)
    required = {f.name: _any_of(hints[f.name], []) for f in msgspec.structs.fields(kind) if f.required} | dict(fixed)
    optional = sorted(set(hints).intersection(kind.__struct_fields__) - set(required))

    @st.composite
    def fields(draw: st.DrawFn) -> dict[str, Any]:
        chosen = draw(st.lists(st.sampled_from(optional), unique=True, max_size=optional_at_most)) if optional else []
        return {name: draw(values) for name, values in required.items()} | {
            name: draw(_any_of(hints[name], [])) for name in sorted(chosen)
        }

    return fields()


def _rsits(kind: type[Rsit]) -> st.SearchStrategy[Rsit]:
    pairs = [(class_, type_) for class_, types in tx.RSIT.items() for type_ in [UNSET, *sorted(types)]]
    return st.sampled_from(pairs).map(lambda pair: kind(class_=pair[0], type=pair[1]))  # type: ignore[arg-type]


def _markings(kind: type[Marking]) -> st.SearchStrategy[Marking]:
    def named(fields: dict[str, Any]) -> Marking:
        if fields["tlp"] == "RED" and not fields.get("recipients"):
            fields = {**fields, "recipients": ["sg"]}
        return kind(**fields)

    return _field_values(kind, {}).map(named)


def _indicators(kind: type[Indicator]) -> st.SearchStrategy[Indicator]:
    @st.composite
    def indicators(draw: st.DrawFn) -> Indicator:
        type_ = draw(st.sampled_from(get_args(tx.IndicatorType)))
        fields = draw(_field_values(kind, {"type": st.just(type_)}))
        fields.pop("level", None)
        if type_ in _VALUES:
            fields["value"] = draw(st.sampled_from(_VALUES[type_]))
        if draw(st.integers(0, 9)) == 0:
            return kind(type="ipv4-net", value="203.0.113.0/24", level="coarse")
        return kind(**fields)

    return indicators()


def _contacts(kind: type[Contact]) -> st.SearchStrategy[Contact]:
    def quiet(fields: dict[str, Any]) -> Contact:
        return kind(role=fields["role"], level="coarse") if "level" in fields else kind(**fields)

    return _field_values(kind, {}).map(quiet)


def _attachments(kind: type[Attachment]) -> st.SearchStrategy[Attachment]:
    def whole(fields: dict[str, Any], content: bytes) -> Attachment:
        if "content" in fields:
            fields["content"] = b64encode(content).decode()
            fields |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        return kind(**fields)

    return st.builds(whole, _field_values(kind, {}), st.binary(max_size=40))


def _sources(kind: type[Source]) -> st.SearchStrategy[Source]:
    values = (st.text(_LETTERS, max_size=9) | st.integers(-5, 5)).map(lambda value: msgspec.json.encode(value).decode())
    unmapped = st.dictionaries(st.text(_LETTERS, min_size=1, max_size=9), values, max_size=3)
    return structs(kind, unmapped=unmapped)


def bodies(fields_at_most: int = 6) -> st.SearchStrategy[Body]:
    """Bodies with some of all fields."""
    return _field_values(Body, {}, fields_at_most).map(lambda fields: Body(**fields))


_SPECIAL: Mapping[Any, Callable[[Any], st.SearchStrategy[Any]]] = {
    Rsit: _rsits,
    Marking: _markings,
    Indicator: _indicators,
    Contact: _contacts,
    Attachment: _attachments,
    Source: _sources,
    Body: lambda _: bodies(),
}


def headers() -> st.SearchStrategy[Header]:
    """Headers of Indonesia's CERT with anything else that a header can say."""
    return structs(Header, origin=st.just(Origin(jurisdiction="id", member="id-cert")))


def reports() -> st.SearchStrategy[Report]:
    """Reports of Indonesia's CERT."""
    return st.builds(lambda head, body: Report(header=head, body=body), headers(), bodies())


def filings() -> st.SearchStrategy[Filing]:
    """Reports as they are posted."""
    return structs(Filing)


def in_group(**given: Any) -> Marking:
    """A marking for the sharing group."""
    return Marking(**{"tlp": "AMBER", "sharing_group": SharingGroup(id=GROUP, name="Straits"), **given})
