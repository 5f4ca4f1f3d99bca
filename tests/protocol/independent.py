"""A bundle examined by somebody who does not have this program: PyNaCl, hashlib and the sd-jwt library."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from typing import Any

from jwcrypto.jwk import JWK
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey
from sd_jwt.verifier import SDJWTVerifier


def unb64(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def signed(public: str, signature: bytes, data: bytes) -> None:
    try:
        VerifyKey(unb64(public)).verify(data, signature)
    except (BadSignatureError, ValueError) as exc:
        raise AssertionError("a signature does not hold") from exc


def kid_of(jws: str) -> str:
    return str(json.loads(unb64(jws.split(".", maxsplit=1)[0]))["kid"])


def open_jws(jws: str, keys: dict[str, str]) -> Any:
    head, payload, signature = jws.split(".")
    signed(keys[kid_of(jws)], unb64(signature), f"{head}.{payload}".encode())
    return json.loads(unb64(payload))


def slots_root(slots: list[bytes]) -> bytes:
    level = [sha256(b"\0" + slot) for slot in slots]
    while len(level) > 1:
        level = [sha256(b"\1" + level[i] + level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


def slot(salt: str, member: str, reports: Any) -> bytes:
    return sha256(json.dumps(["kentongan-grant/v1", salt, member, reports], separators=(",", ":")).encode())


def entry_of_receipt(jws: str, receipt: Any) -> bytes:
    seed = unb64(receipt["seed"])
    granted: dict[str, list[Any]] = {}
    for report in receipt["reports"]:
        for member, index in report.get("to", {}).items():
            decision = receipt["decisions"][index]
            if decision["granted"]:
                masks = [report["digest"], decision.get("exact", 0), decision.get("coarse", 0)]
                granted.setdefault(member, []).append(masks)
    slots = [
        slot(b64(hmac.digest(seed, b"grant/" + member.encode(), "sha256")), member, reports)
        for member, reports in granted.items()
    ]
    size = 8
    while size < len(slots):
        size *= 2
    slots += [hmac.digest(seed, b"decoy/%d" % number, "sha256") for number in range(size - len(slots))]
    return sha256(b"kentongan-receipt/v1\n" + sha256(jws.encode()) + slots_root(sorted(slots)))


def entry_of_opening(opening: Any, member: str) -> bytes:
    found = sha256(b"\0" + slot(opening["salt"], member, opening["reports"]))
    place = opening["slot"]
    for item in opening["path"]:
        pair = unb64(item) + found if place & 1 else found + unb64(item)
        found = sha256(b"\1" + pair)
        place >>= 1
    return sha256(b"kentongan-receipt/v1\n" + unb64(opening["receipt"]) + found)


def root_from(entry: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.3.2."""
    fn, sn, found = index, size - 1, sha256(b"\0" + entry)
    for item in path:
        assert sn, "the path is too long"
        if fn & 1 or fn == sn:
            found = sha256(b"\1" + item + found)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            found = sha256(b"\1" + found + item)
        fn, sn = fn >> 1, sn >> 1
    assert sn == 0, "the path is too short"
    return found


def key_id(name: str, kind: int, public: str) -> bytes:
    return sha256(name.encode() + b"\n" + bytes([kind]) + unb64(public))[:4]


def check_proof(text: str, entry: bytes, broker: str, members: dict[str, list[str]], quorum: int) -> None:
    head, note = text.split("\n\n", 1)
    lines = head.split("\n")
    index = int(lines[1].removeprefix("index "))
    body, signatures = note.split("\n\n", 1)
    body += "\n"
    origin, size, root = body.split("\n")[:3]
    found = root_from(entry, index, int(size), [b64decode(line) for line in lines[2:]])
    assert found == b64decode(root), "not in the log"
    logged, witnesses = False, set()
    for line in signatures.strip().split("\n"):
        _, name, packed = line.split(" ")
        data = b64decode(packed)
        if name == origin and data[:4] == key_id(name, 1, broker):
            signed(broker, data[4:], body.encode())
            logged = True
        for public in members.get(name, []):
            if data[:4] == key_id(name, 4, public):
                time = int.from_bytes(data[4:12], "big")
                signed(public, data[12:], f"cosignature/v1\ntime {time}\n{body}".encode())
                witnesses.add(name)
    assert logged
    assert len(witnesses) >= quorum


def check_bundle(data: bytes, broker: str) -> list[Any]:
    """Verify a bundle under the broker's public key; returns the content. AssertionError if it does not hold."""
    bundle = json.loads(data)
    region = open_jws(bundle["region"], {kid_of(bundle["region"]): broker})["region"]
    listed = [member for member in region["members"] if member.get("keys") and member.get("status") != "suspended"]
    members = {member["id"]: [key["public"] for key in member["keys"]] for member in listed}
    keys = {key["kid"]: key["public"] for member in region["members"] for key in member.get("keys", [])}
    keys |= {key["kid"]: key["public"] for key in region["broker_keys"]}
    quorum = region.get("quorum") or len(members) // 2 + 1
    reports: list[Any] = []
    for revision in bundle["revisions"]:
        if bundle["role"] == "origin":
            receipt = open_jws(revision["receipt"], keys)
            assert receipt["submission"] == b64(sha256(revision["presentation"].split("~")[0].encode()))
            assert revision["digest"] in [report["digest"] for report in receipt["reports"]]
            entry = entry_of_receipt(revision["receipt"], receipt)
        else:
            delivery = open_jws(revision["delivery"], keys)
            (opening,) = [
                one for one in delivery["grants"] if revision["digest"] in [report[0] for report in one["reports"]]
            ]
            entry = entry_of_opening(opening, delivery["aud"])
        check_proof(revision["proof"], entry, broker, members, quorum)
        for confirmation in revision["confirmations"]:
            assert revision["digest"] in open_jws(confirmation, keys)["reports"]
        reports += open_sd_jwt(revision["presentation"], keys)
    return reports


def open_sd_jwt(presentation: str, keys: dict[str, str]) -> list[Any]:
    head, payload, signature = presentation.split("~", maxsplit=1)[0].split(".")
    signed(keys[kid_of(presentation)], unb64(signature), f"{head}.{payload}".encode())
    key = JWK(kty="OKP", crv="Ed25519", x=keys[kid_of(presentation)])
    found: list[Any] = SDJWTVerifier(presentation, lambda _issuer, _header: key).get_verified_payload()["reports"]
    return [report for report in found if isinstance(report, dict)]
