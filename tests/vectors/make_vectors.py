"""Makes `protocol-1.json`: `python -m tests.vectors.make_vectors` from the root, after a wanted change of the format.

Everything in it follows from fixed keys, dates and randomness, so that two runs give the same bytes. Other
implementations check themselves against it: the envelopes, what restricting gives, what must be refused and why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from protocol.envelope import TYP, SignedReport, disclosure_digest, jws_digest, open_envelope, present, release
from protocol.grants import commit
from protocol.jws import sign_jws
from protocol.keys import b64, unb64
from protocol.policy import HEADER, Withheld
from protocol.report import ALL_UNITS, COARSE_UNITS, UNIT_BIT, UNIT_NAMES, unit_of
from protocol.statements import (
    BROKER,
    Confirmation,
    Decision,
    Delivery,
    DeliveryItem,
    Receipt,
    ReleasedBy,
    ReportReceipt,
    encode_delivery,
    encode_items,
    items_digest,
    sign_statement,
)
from tests.protocol.make import (
    DAY,
    FULL,
    NOW,
    body_from,
    disclose,
    forge,
    forge_report,
    key_of,
    report,
    ring,
    signed,
    texts_of,
    whole,
)
from tests.vectors import mldsa

FILE = Path(__file__).parent / "protocol-1.json"
MASKS = {
    "header-only": (0, 0),
    "title-and-status": (1 << UNIT_BIT["title"] | 1 << UNIT_BIT["status"], 0),
    "all-exact": (ALL_UNITS, COARSE_UNITS),
    "coarse-only": (0, COARSE_UNITS),
    "exact-victim-coarse-rest": (1 << UNIT_BIT["victim"], COARSE_UNITS),
    "file-indicators": (1 << UNIT_BIT["indicators.file"], 0),
}


def _rejoin(text: str, change: dict[str, Any]) -> str:
    """An envelope with changed JOSE header fields, signed again by its own key."""
    jws, _, rest = text.partition("~")
    head, payload, _ = jws.split(".")
    head = b64(msgspec.json.encode({**msgspec.json.decode(unb64(head)), **change}))
    return f"{head}.{payload}.{b64(key_of('id-cert').sign(f'{head}.{payload}'.encode()))}~{rest}"


def _bad(text: str) -> dict[str, tuple[str, str]]:
    """Envelopes that must be refused as a whole: name to reason and text."""
    jws, *texts = text.removesuffix("~").split("~")
    head, payload, signature = jws.split(".")
    top, more = forge_report({"title": "x"})
    shadow, shadowing = forge_report({"marking": {"tlp": "CLEAR"}})
    reserved, with_reserved = forge_report({"_sd": []})
    clear, in_clear = forge_report({"indicators": [{"type": "other", "value": "x"}]})
    hidden = disclosure_digest(disclose("status", "open"))
    twice = disclose({"_sd": [hidden, hidden]})
    salt, name, _ = msgspec.json.decode(unb64(texts[-1]))
    changed = b64(msgspec.json.encode([salt, name, "changed"]))
    other = next(iter(texts_of(signed(report(9), seed="other").reports[0])))
    flipped = b64(bytes([unb64(signature)[0] ^ 1]) + unb64(signature)[1:])
    late = int(NOW.timestamp()) + 301
    return {
        "disclosure-added": ("disclosure-unreferenced", text + disclose("title", "added") + "~"),
        "disclosure-changed": ("disclosure-unreferenced", "~".join([jws, *texts[:-1], changed, ""])),
        "disclosure-from-another-envelope": ("disclosure-unreferenced", text + other + "~"),
        "disclosure-without-its-header": ("disclosure-unreferenced", "~".join([jws, *texts[1:], ""])),
        "disclosure-twice": ("disclosure-duplicate", text + texts[-1] + "~"),
        "digest-named-twice": ("disclosure-duplicate", forge([twice], [twice])),
        "body-field-shadows-header": ("disclosure-duplicate", forge([shadow], shadowing)),
        "field-named-sd": ("disclosure-malformed", forge([reserved], with_reserved)),
        "list-elements-in-clear": ("disclosure-malformed", forge([clear], in_clear)),
        "reports-in-clear": ("disclosure-malformed", forge([], [], reports=[{"schema": "kentongan-report/1"}])),
        "alg-none": ("algorithm-not-allowed", _rejoin(text, {"alg": "none"})),
        "alg-eddsa": ("algorithm-not-allowed", _rejoin(text, {"alg": "EdDSA"})),
        "sd-alg-sha-512": ("algorithm-not-allowed", forge([top], more, _sd_alg="sha-512")),
        "header-with-crit": ("unknown-field", _rejoin(text, {"crit": ["exp"]})),
        "header-with-jwk": ("unknown-field", _rejoin(text, {"jwk": {"crv": "Ed25519", "kty": "OKP"}})),
        "payload-with-exp": ("unknown-field", forge([top], more, exp=1)),
        "typ-of-a-receipt": ("malformed-envelope", _rejoin(text, {"typ": "kentongan-receipt+jwt"})),
        "no-closing-tilde": ("malformed-envelope", text.removesuffix("~")),
        "signature-padded": ("malformed-envelope", f"{head}.{payload}.{signature}==~"),
        "signature-changed": ("signature-invalid", f"{head}.{payload}.{flipped}~" + "~".join([*texts, ""])),
        "key-unknown": ("unknown-key", _rejoin(text, {"kid": "A" * 22})),
        "key-of-another-member": ("wrong-member", forge([top], more, owner="sg-cert", iss="id-cert")),
        "signed-in-the-future": ("time-in-future", forge([top], more, iat=late)),
        "payload-not-json": ("not-json", sign_jws(TYP, b"{", key_of("id-cert")) + "~"),
        "no-report-disclosed": ("empty", jws + "~"),
        "reports-65": ("too-many", forge([disclose(n) for n in range(65)], [])),
    }


def _bad_reports() -> dict[str, tuple[str, str, str]]:
    """Envelopes that are sound and whose one report is refused: name to reason, path and text."""
    cases: dict[str, tuple[str, str, tuple[str, list[str]]]] = {
        "origin-is-not-the-signer": (
            "wrong-member",
            "$.origin.member",
            forge_report({}, origin={"jurisdiction": "sg", "member": "sg-cert"}),
        ),
        "red-without-recipients": ("recipients-required", "$.marking", forge_report({}, marking={"tlp": "RED"})),
        "rsit-type-of-another-class": (
            "unknown-rsit-type",
            "$.rsit[0]",
            forge_report({}, rsit=[{"class": "fraud", "type": "ddos"}]),
        ),
        "unknown-header-field": ("unknown-field", "$.extra", forge_report({}, extra=1)),
        "naive-time": ("invalid-value", "$.issued_at", forge_report({}, issued_at="2026-03-01T08:00:00")),
        "empty-title": ("out-of-range", "$.body.title", forge_report({"title": ""})),
    }
    return {name: (reason, path, forge([top], texts)) for name, (reason, path, (top, texts)) in cases.items()}


def make() -> dict[str, Any]:
    """The vectors as one JSON document."""
    envelope = signed(report(1, body_from(FULL)), report(2))
    text = whole(envelope)
    reports = [
        item for item in open_envelope(text, ring("id-cert").find, NOW).reports if isinstance(item, SignedReport)
    ]
    copies = {
        name: present(envelope.jws, [release(item, exact, coarse) for item in reports])
        for name, (exact, coarse) in MASKS.items()
    }
    items = encode_items([DeliveryItem(sd_jwt=copies["coarse-only"], received_at=NOW)])
    withheld = [Withheld(unit="victim", gate="export", document="id/1", reason="default-deny", coarse=True)]
    receipt = Receipt(
        iss=BROKER,
        aud="id-cert",
        received_at=NOW,
        submission=envelope.digest,
        leaf=17,
        seed="kentongan-test-seed-AA",
        decisions=[
            Decision(
                granted=True,
                exact=MASKS["coarse-only"][0] | HEADER,
                coarse=MASKS["coarse-only"][1],
                by=[ReleasedBy(gate="export", document="id/1", rule="to-neighbours")],
                withheld=withheld,
            ),
            Decision(granted=False),
        ],
        reports=[
            ReportReceipt(
                digest=item.digest,
                outcome="accepted",
                report_id=str(item.header.report_id),
                revision=1,
                to={"my-cert": 1, "sg-cert": 0},
            )
            for item in reports
        ],
    )
    receipt_jws = sign_statement(receipt, key_of(BROKER))
    commitment = commit(receipt, receipt_jws)
    opening = commitment.opening("sg-cert")
    delivery = Delivery(
        iss=BROKER,
        aud="sg-cert",
        id=1,
        sent_at=NOW,
        items=items_digest(items),
        reports=2,
        grants=[opening],
    )
    confirmation = Confirmation(
        iss="sg-cert", aud="id-cert", at=NOW, state="received", reports=[item.digest for item in reports], delivery=1
    )
    return {
        "about": "Kentongan protocol 1. Keys are for tests only. Everything is judged at `at`.",
        "at": NOW,
        "keys": [
            {"owner": owner, **msgspec.to_builtins(key_of(owner).record(NOW - DAY, NOW + DAY))}
            for owner in ("id-cert", "sg-cert", BROKER)
        ]
        + [{"owner": mldsa.OWNER, **msgspec.to_builtins(mldsa.record())}],
        "units": [
            {
                "bit": bit,
                "name": name,
                "class": unit_of(name).data if bit else None,
                "coarse": bool(COARSE_UNITS >> bit & 1),
            }
            for bit, name in enumerate(UNIT_NAMES)
        ],
        "envelope": {
            "sd_jwt": text,
            "digest": jws_digest(envelope.jws),
            "reports": [
                {"digest": item.digest, "header": msgspec.to_builtins(item.header), "body": item.body}
                for item in reports
            ],
        },
        "restricted": [
            {"name": name, "exact": MASKS[name][0], "coarse": MASKS[name][1], "sd_jwt": copy}
            for name, copy in copies.items()
        ],
        "bad_envelopes": [
            {"name": name, "reason": reason, "sd_jwt": bad} for name, (reason, bad) in _bad(text).items()
        ],
        "bad_reports": [
            {"name": name, "reason": reason, "path": path, "sd_jwt": bad}
            for name, (reason, path, bad) in _bad_reports().items()
        ],
        "receipt": receipt_jws,
        "entry": b64(commitment.entry),
        "delivery": encode_delivery(sign_statement(delivery, key_of(BROKER)), items).decode("ascii"),
        "confirmation": sign_statement(confirmation, key_of("sg-cert")),
        "ml_dsa_65": mldsa.make(),
    }


def encoded() -> bytes:
    """The vectors as the bytes of the file."""
    return msgspec.json.format(msgspec.json.encode(make()), indent=1) + b"\n"


if __name__ == "__main__":
    FILE.write_bytes(encoded())
