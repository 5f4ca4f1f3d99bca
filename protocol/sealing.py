"""Sealed reports: the body of a report, encrypted for each of its recipients, beside an envelope that shows the header.

A sealed report is an ordinary report in an ordinary SD-JWT of which only the header is disclosed. Its body disclosures
travel in a *box*: the texts that one recipient may read, joined and padded, are encrypted with AES-256-GCM under a
fresh content key, once for each distinct set of texts; the content key is sealed to each recipient with HPKE (RFC 9180,
Base mode): `MLKEM768_X25519`, or `X25519` for a member that has no post-quantum key.

What binds what. The header cannot name the box by a digest and the box the header by another, so it goes one way:

    header.sealed  =  H(leaves)     leaves: one digest a recipient, with decoys to a power of two, sorted
    leaf           =  H(member, kid, digest of the ciphertext, sealed content key)
    HPKE info      =  schema, origin, report id, revision, recipient, kid, digest of the ciphertext
    AES-GCM data   =  schema, origin, report id, revision

* Down: the origin's signature covers the header, so the leaves, so every sealed key and ciphertext. Nobody else can
  exchange, add or change a recipient or a byte; a recipient that knows the content key cannot make a second box of it.
* Up: a member that copies somebody's box (and the digests of the body, which the header shows) into a report of its own
  must sign that as itself, since an envelope whose origin is not its signer is refused. So origin, and with it `info`,
  differ, and the box stays shut; so it does under another report or another revision of the same origin.
* Releasing is dropping, as everywhere: the broker trims a box to one recipient's entry and ciphertext (`trim`); what is
  left still hashes to `header.sealed`, and does not say who else got the report.

Guarantees of `open_sealed`: the box is the one that the origin signed for this report, and was sealed to this key. What
it returns is believed only after `open_envelope` has found each text among the digests that the origin signed: HPKE
says nothing about who sealed. Refuses: anything else, with a `ProtocolError` and no other exception.

A reader of the box who holds no key learns: the recipients, which of them got the same set, a size class (`_bucket`).
Sealing has no forward secrecy against the loss of a recipient's key: rotate, and destroy keys that are not needed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import UNSET, Meta, Struct, UnsetType

from protocol import limits
from protocol.envelope import Rand, SignedReport, disclosure_digest, release
from protocol.errors import ConfigError, ProtocolError
from protocol.keys import b64, read_secret, unb64, write_secret
from protocol.parse import decode
from protocol.reasons import Reason
from protocol.report import Digest, Header, Instant, Jurisdiction

SCHEMA: Final = "kentongan-sealed/1"
Algorithm = Literal["MLKEM768_X25519", "X25519"]
MLKEM768_X25519: Final = "MLKEM768_X25519"
X25519: Final = "X25519"

_SUITES: Final[Mapping[str, hpke.Suite]] = {
    MLKEM768_X25519: hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM),
    X25519: hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM),
}
"""The whole list: the recipient's key decides, never the box."""

_SEED: Final = 32
_CONTENT_KEY: Final = 32
_MLKEM_PUBLIC: Final = 1_184
_ONCE: Final = bytes(12)
"""The nonce of a content key, which encrypts one text and no other."""

_LARGEST_PUBLIC: Final = 1_622
_LARGEST_ENC: Final = 1_558
"""Characters of base64url: 1,216 bytes of public key, 1,168 of sealed content key."""


# --- keys -------------------------------------------------------------------------------------------------------

Kid = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{22}$(?!\n)")]
_Private = X25519PrivateKey | hpke.MLKEM768X25519PrivateKey
_Public = X25519PublicKey | hpke.MLKEM768X25519PublicKey


class _Wire(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class SealingKeyRecord(_Wire, frozen=True, kw_only=True):
    """A public sealing key as the registry lists it; `kid` must be the thumbprint of `alg` and `public`."""

    kid: Kid
    alg: Algorithm
    public: Annotated[str, Meta(max_length=_LARGEST_PUBLIC)]
    not_before: Instant
    not_after: Instant
    revoked_at: Instant | None = None

    def valid(self, at: datetime) -> bool:
        """Whether something may be sealed to it at that time, margins aside."""
        return self.not_before <= at < self.not_after and (self.revoked_at is None or at < self.revoked_at)


def sealing_thumbprint(alg: str, public: bytes) -> str:
    """The key id: SHA-256 over the key as a JWK of type AKP (RFC 9964), members in RFC 7638 order, shortened."""
    return b64(hashlib.sha256(f'{{"alg":"{alg}","kty":"AKP","pub":"{b64(public)}"}}'.encode("ascii")).digest())[:22]


@lru_cache(maxsize=256)
def _public(alg: str, text: str) -> _Public:
    """A public key from the registry: ML-KEM first, then X25519, as X-Wing writes them. Kept: they are few."""
    raw = unb64(text)
    if alg == X25519:
        return X25519PublicKey.from_public_bytes(raw)
    return hpke.MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_PUBLIC]), X25519PublicKey.from_public_bytes(raw[_MLKEM_PUBLIC:])
    )


def check_record(owner: str, record: SealingKeyRecord) -> None:
    """ConfigError unless the record's algorithm, key, id and window hold together."""
    if record.alg not in _SUITES:
        raise ConfigError(f"sealing key {record.kid} of {owner}: algorithm {record.alg} is not allowed")
    try:
        raw = unb64(record.public)
        _public(record.alg, record.public)
        # A point of low order would make the shared secret a constant: the library refuses it only when sealing.
        X25519PrivateKey.from_private_bytes(b"\1" * 32).exchange(X25519PublicKey.from_public_bytes(raw[-32:]))
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError(f"sealing key {record.kid} of {owner} is not a usable {record.alg} public key") from exc
    if sealing_thumbprint(record.alg, raw) != record.kid:
        raise ConfigError(f"sealing key {record.kid} of {owner}: the id is not the key's thumbprint")
    if record.not_after <= record.not_before:
        raise ConfigError(f"sealing key {record.kid} of {owner} ends before it begins")


class _KeyFile(_Wire, frozen=True, kw_only=True):
    type: Literal["kentongan-sealing-key"]
    alg: Algorithm
    seed: Annotated[str, Meta(min_length=43, max_length=43)]


_key_file: Final = msgspec.json.Decoder(_KeyFile)
_encode: Final = msgspec.json.Encoder().encode


class SealingKey:
    """A private sealing key in memory, made from 32 random bytes (for X-Wing, as its specification expands them)."""

    def __init__(self, alg: Algorithm, seed: bytes) -> None:
        if len(seed) != _SEED:
            raise ValueError(f"a seed has {_SEED} bytes")
        self.alg: Algorithm = alg
        self._seed = seed
        self._private: _Private
        if alg == X25519:
            curve = X25519PrivateKey.from_private_bytes(seed)
            self._private = curve
            self.public = curve.public_key().public_bytes_raw()
        else:
            expanded = hashlib.shake_256(seed).digest(96)
            lattice = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
            curve = X25519PrivateKey.from_private_bytes(expanded[64:])
            self._private = hpke.MLKEM768X25519PrivateKey(lattice, curve)
            self.public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
        self.kid = sealing_thumbprint(alg, self.public)

    @classmethod
    def generate(cls, alg: Algorithm = MLKEM768_X25519, rand: Rand = os.urandom) -> SealingKey:
        """A new key."""
        return cls(alg, rand(_SEED))

    def record(self, not_before: datetime, not_after: datetime) -> SealingKeyRecord:
        """The public entry for the registry."""
        return SealingKeyRecord(
            kid=self.kid, alg=self.alg, public=b64(self.public), not_before=not_before, not_after=not_after
        )

    def save(self, path: Path) -> None:
        """Write the key as JSON: exclusive create, mode 0400. ConfigError if the file exists."""
        write_secret(path, _encode(_KeyFile(type="kentongan-sealing-key", alg=self.alg, seed=b64(self._seed))))

    @classmethod
    def load(cls, path: Path) -> SealingKey:
        """Read a key file. ConfigError if it is absent, readable by others, or no sealing key."""
        data = read_secret(path)
        try:
            found = _key_file.decode(data)
            return cls(found.alg, unb64(found.seed))
        except ValueError:  # `from None`: what the file holds must not stand in a traceback
            raise ConfigError(f"{path} is not a sealing key that this program wrote") from None

    def unseal(self, enc: bytes, info: bytes) -> bytes:
        """The content key; InvalidTag or ValueError if it was sealed to another key or for another purpose."""
        return _SUITES[self.alg].decrypt(enc, self._private, info)


def choose_key(owner: str, records: Iterable[SealingKeyRecord], now: datetime) -> SealingKeyRecord:
    """The key to seal to: post-quantum if the member has one that is valid, the newest of those.

    A post-quantum key that is about to end is not replaced by a weaker one behind everybody's back.

    Raises:
        ProtocolError: `NO_SEALING_KEY`, or `SEALING_KEY_EXPIRING` when every key that counts ends within the margin.
    """
    valid = [record for record in records if record.valid(now)]
    chosen = [record for record in valid if record.alg == MLKEM768_X25519] or valid
    if not chosen:
        raise ProtocolError(Reason.NO_SEALING_KEY, "$", f"{owner} has no valid key to seal to")
    lasting = [record for record in chosen if not _ends_within(record, now, limits.SEALING_MARGIN)]
    if not lasting:
        raise ProtocolError(Reason.SEALING_KEY_EXPIRING, "$", f"{owner} must publish a new sealing key: {_end(chosen)}")
    return max(lasting, key=lambda record: (record.not_before, record.not_after, record.kid))


def _ends_within(record: SealingKeyRecord, now: datetime, margin: timedelta) -> bool:
    """Counts a revocation that is announced for later as an end. The caller has checked that it is valid now."""
    return not record.valid(now + margin)


def _end(records: Sequence[SealingKeyRecord]) -> str:
    ends = (min(record.not_after, record.revoked_at or record.not_after) for record in records)
    return f"the present one ends at {max(ends).isoformat()}"


# --- the box ----------------------------------------------------------------------------------------------------


class SealedKey(_Wire, frozen=True, kw_only=True):
    """The content key of one ciphertext, sealed to one key of one member."""

    member: Jurisdiction
    kid: Kid
    body: Digest
    """Of the ciphertext, over its base64url text like all digests here."""
    enc: Annotated[str, Meta(max_length=_LARGEST_ENC)]
    """What HPKE made: encapsulated key and sealed content key."""


class SealedBox(_Wire, frozen=True, kw_only=True):
    """What is sealed of one report, or what is left of it after trimming."""

    schema: Literal["kentongan-sealed/1"]
    leaves: Annotated[list[Digest], Meta(min_length=1, max_length=limits.RECIPIENTS)]
    keys: Annotated[list[SealedKey], Meta(min_length=1, max_length=limits.RECIPIENTS)]
    bodies: Annotated[list[str], Meta(min_length=1, max_length=limits.RECIPIENTS)]

    def digest(self) -> str:
        """What the signed header names: the same however much is trimmed away."""
        return _hash("leaves", *self.leaves)

    def members(self) -> list[str]:
        """To whom it is sealed, as far as this copy says."""
        return [key.member for key in self.keys]

    def encode(self) -> bytes:
        """The only spelling that `parse_box` takes."""
        return _encode(self)


_box_decoder: Final = msgspec.json.Decoder(SealedBox)


def _bind(purpose: str, *fields: str) -> bytes:
    """Fields, each with its length before it, under a purpose: no two lists of fields give the same bytes."""
    raw = [field.encode("utf-8") for field in (SCHEMA, purpose, *fields)]
    return b"".join(len(field).to_bytes(4, "big") + field for field in raw)


def _hash(purpose: str, *fields: str) -> str:
    return b64(hashlib.sha256(_bind(purpose, *fields)).digest())


def _leaf(key: SealedKey) -> str:
    return _hash("leaf", key.member, key.kid, key.body, key.enc)


def _identity(header: Header) -> tuple[str, str, str]:
    """Origin, report, revision: what a box belongs to. The envelope proves that the origin is its signer."""
    return header.origin.member, str(header.report_id), str(header.revision)


def _info(header: Header, member: str, kid: str, body: str) -> bytes:
    return _bind("key", *_identity(header), member, kid, body)


def _bucket(size: int) -> int:
    """The padded size: a power of two from 1 KiB to 64 KiB, then steps of 64 KiB."""
    if size > 65_536:
        return -(-size // 65_536) * 65_536
    return max(1_024, 1 << (size - 1).bit_length())


def _pad(texts: Iterable[str]) -> bytes:
    content = "".join(f"{text}~" for text in texts).encode("ascii")
    return content.ljust(_bucket(len(content)), b"\0")


def _unpad(plain: bytes) -> list[str]:
    """ValueError unless `_pad` could have made it."""
    content = plain.rstrip(b"\0")
    if len(plain) != _bucket(len(content)):
        raise ValueError("padded to another size")
    *texts, rest = content.decode("ascii").split("~")
    if rest:
        raise ValueError("the last text has no end")
    return texts


# --- sealing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SealTo:
    """What one recipient may read, and the key to seal it to.

    The masks are final: a coarse value is sealed only where the exact one is not, since nobody picks later.
    """

    key: SealingKeyRecord
    exact: int
    coarse: int


def seal(draft: SignedReport, to: Mapping[str, SealTo], rand: Rand) -> SealedBox:
    """Seal the body of a report to its recipients.

    Args:
        draft: the report with all its disclosures; its own digest and header text do not matter yet.
        to: by member id; keys from `choose_key`.
        rand: returns that many random bytes, never the same twice: each content key is used with one fixed nonce.

    Raises:
        ProtocolError: no or too many recipients, or a box over its limit.
    """
    if not 1 <= len(to) <= limits.RECIPIENTS:
        raise ProtocolError(Reason.TOO_MANY, "$", f"a report is sealed to 1 to {limits.RECIPIENTS} members")
    groups: dict[tuple[str, ...], list[str]] = {}
    for member, wanted in sorted(to.items()):
        groups.setdefault(tuple(release(draft, wanted.exact, wanted.coarse)[1:]), []).append(member)
    keys: list[SealedKey] = []
    bodies: dict[str, str] = {}
    for texts, members in groups.items():
        content_key = rand(_CONTENT_KEY)
        body = b64(AESGCM(content_key).encrypt(_ONCE, _pad(texts), _bind("body", *_identity(draft.header))))
        digest = disclosure_digest(body)
        bodies[digest] = body
        keys += [_seal_key(draft.header, member, to[member].key, content_key, digest) for member in members]
    decoys = (1 << (len(keys) - 1).bit_length()) - len(keys)
    box = SealedBox(
        schema=SCHEMA,
        leaves=sorted([*map(_leaf, keys), *(b64(hashlib.sha256(rand(32)).digest()) for _ in range(decoys))]),
        keys=sorted(keys, key=lambda key: key.member),
        bodies=[body for _, body in sorted(bodies.items())],
    )
    if len(box.encode()) > limits.SEALED_BOX:
        raise ProtocolError(Reason.TOO_LARGE, "$", f"sealed, this report is over {limits.SEALED_BOX} bytes")
    return box


def _seal_key(header: Header, member: str, record: SealingKeyRecord, content_key: bytes, body: str) -> SealedKey:
    info = _info(header, member, record.kid, body)
    enc = _SUITES[record.alg].encrypt(content_key, _public(record.alg, record.public), info)
    return SealedKey(member=member, kid=record.kid, body=body, enc=b64(enc))


class Sealer:
    """The `seal` hook of `issuing.issue`: seals the reports that have recipients here, and keeps their boxes.

    Args:
        to: by report id and revision; a report that is not listed is issued unsealed.
    """

    def __init__(self, to: Mapping[tuple[UUID, int], Mapping[str, SealTo]], rand: Rand) -> None:
        self._to = to
        self._rand = rand
        self.boxes: dict[str, bytes] = {}
        """By digest, which is `header.sealed` of the report."""

    def __call__(self, draft: SignedReport) -> str | UnsetType:
        to = self._to.get((draft.header.report_id, draft.header.revision))
        if to is None:
            return UNSET
        box = seal(draft, to, self._rand)
        digest = box.digest()
        self.boxes[digest] = box.encode()
        return digest


# --- carrying ---------------------------------------------------------------------------------------------------


def _broken(path: str, detail: str) -> ProtocolError:
    return ProtocolError(Reason.SEAL_BROKEN, path, detail)


def parse_box(data: bytes) -> SealedBox:
    """A box that is whole in itself: every entry has its leaf and its ciphertext, and nothing else is there.

    Nothing is believed yet: `check_box` or `open_sealed` hold it against the signed header.
    """
    if len(data) > limits.SEALED_BOX:
        raise ProtocolError(Reason.TOO_LARGE, "$", f"a box has at most {limits.SEALED_BOX} bytes")
    box = decode(_box_decoder, data)
    if box.encode() != data:
        raise _broken("$", "the box is spelt in another way than it was sealed")
    if len(set(box.members())) != len(box.keys):
        raise _broken("$.keys", "a member is there twice")
    if not set(box.leaves).issuperset(map(_leaf, box.keys)):
        raise _broken("$.keys", "a sealed key is not among the leaves")
    bodies = {disclosure_digest(body) for body in box.bodies if body.isascii()}
    if len(bodies) != len(box.bodies) or bodies != {key.body for key in box.keys}:
        raise _broken("$.bodies", "the ciphertexts are not those of the sealed keys")
    return box


def trim(box: SealedBox, members: Collection[str]) -> SealedBox:
    """What of a box these members need; ProtocolError(NOT_SEALED_TO_ME) if it holds nothing for any of them."""
    keys = [key for key in box.keys if key.member in members]
    if not keys:
        raise ProtocolError(Reason.NOT_SEALED_TO_ME, "$.keys", "the box holds nothing for this member")
    wanted = {key.body for key in keys}
    bodies = [body for body in box.bodies if disclosure_digest(body) in wanted]
    return SealedBox(schema=box.schema, leaves=box.leaves, keys=keys, bodies=bodies)


def _check_named(box: SealedBox, header: Header) -> None:
    if header.sealed != box.digest():
        raise _broken("$.sealed", "the signed header names another box, or none")


def check_box(
    box: SealedBox, header: Header, records_of: Callable[[str], Sequence[SealingKeyRecord]], at: datetime
) -> None:
    """What the broker can say of a box without reading it.

    Args:
        header: of the report, from a verified envelope.
        records_of: the sealing keys of a member; raises ProtocolError(UNKNOWN_MEMBER) if there is no such member.
        at: when the broker first received it.

    Raises:
        ProtocolError: not the box that the header names, or sealed to a key that is not that member's, is revoked or
            over, or is about to end.
    """
    _check_named(box, header)
    for number, key in enumerate(box.keys):
        path = f"$.keys[{number}].kid"
        record = next((record for record in records_of(key.member) if record.kid == key.kid), None)
        if record is None:
            raise ProtocolError(Reason.UNKNOWN_KEY, path, f"{key.member} has no such sealing key")
        if record.revoked_at is not None and at >= record.revoked_at:
            raise ProtocolError(Reason.KEY_REVOKED, path, f"{key.member} revoked this sealing key: seal it again")
        if not record.valid(at):
            raise ProtocolError(Reason.KEY_NOT_VALID, path, f"a sealing key of {key.member} is not valid at that time")
        if _ends_within(record, at, limits.SEALING_MARGIN_ON_ARRIVAL):
            raise ProtocolError(Reason.SEALING_KEY_EXPIRING, path, f"of {key.member}: {_end([record])}")


# --- opening ----------------------------------------------------------------------------------------------------


def open_sealed(data: bytes, report: SignedReport, own: str, keys: Iterable[SealingKey]) -> list[str]:
    """Open what was sealed to this member.

    The texts are not proven yet. The caller presents them with the header and lets the envelope judge:
    `open_envelope(present(envelope.jws, [[report.header_text, *texts]]), …)`.

    Args:
        data: the box, trimmed or not.
        report: the report as it came, from a verified envelope.
        own: this member's id.
        keys: all private keys that this member still keeps, those that are over or revoked included.

    Raises:
        ProtocolError: not the box of this report (`SEAL_BROKEN`), not sealed to this member, or to a key that it does
            not have any more.
    """
    box = parse_box(data)
    _check_named(box, report.header)
    entry = next((key for key in box.keys if key.member == own), None)
    if entry is None:
        raise ProtocolError(Reason.NOT_SEALED_TO_ME, "$.keys", "the box holds nothing for this member")
    key = next((key for key in keys if key.kid == entry.kid), None)
    if key is None:
        raise ProtocolError(Reason.UNKNOWN_KEY, "$.keys.kid", f"the private key {entry.kid} is not here")
    body = next(body for body in box.bodies if disclosure_digest(body) == entry.body)
    try:
        content_key = key.unseal(unb64(entry.enc), _info(report.header, own, entry.kid, entry.body))
        if len(content_key) != _CONTENT_KEY:
            raise ValueError("not a key of AES-256")
        return _unpad(AESGCM(content_key).decrypt(_ONCE, unb64(body), _bind("body", *_identity(report.header))))
    except (InvalidTag, ValueError) as exc:
        raise _broken("$.keys.enc", "it was not sealed to this key for this report, or was changed") from exc
