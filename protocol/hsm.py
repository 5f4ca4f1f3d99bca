"""A signing key in a hardware module, behind PKCS#11: named by a URI (RFC 7512), used where it is.

Guarantees: the private key is made in the token and never asked of it; what it signed is verified before it is given
out, so that a faulty token costs time and not a report; a token that is gone is `Transient`, and is found again when it
is back; a PIN that was refused once while running is not tried again, since a few tries lock a token. Refuses a PIN in
the URI, and every key that is not Ed25519 (CKM_EDDSA).

The library is optional (`kentongan[hsm]`), and is imported nowhere else.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.keys import ED25519, KeyRecord, VerifyKey, b64, read_secret, thumbprint

SCHEME: Final = "pkcs11:"
EXAMPLE: Final = (
    "pkcs11:token=LABEL;object=LABEL?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/kentongan/pin"
)
_IN_PATH: Final = frozenset({"token", "serial", "object", "id", "type"})
_IN_QUERY: Final = frozenset({"module-path", "pin-source"})
_BROKEN: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CURVES: Final = (b"\x13\x0cedwards25519", b"\x06\x03\x2b\x65\x70")
"""CKA_EC_PARAMS: the curve's name, or its OID (1.3.101.112); modules take the one or the other."""
_POINTS: Final = (b"", b"\x04\x20", b"\x03\x21\x00")
"""What stands before the 32 bytes in CKA_EC_POINT: nothing, or the head of an OCTET STRING or BIT STRING."""
_PROBE: Final = b"kentongan: can this key sign?"
"""No JWS and no note of a log: such a signature is of no use to anybody."""
_ONE_AT_A_TIME: Final = threading.RLock()
"""Modules need not be safe for threads."""


class PinError(ConfigError):
    """The token does not take the PIN."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key is."""

    token: str | None
    serial: bytes | None
    label: str | None
    id: bytes | None
    module: Path
    pin: Path

    @property
    def shown(self) -> str:
        """The token, for a sentence."""
        return f"the token {self.token or (self.serial or b'').decode('utf-8', 'replace')!r}"

    @property
    def key(self) -> str:
        """The key, for a sentence."""
        return f"the key {self.label!r}" if self.label else f"the key with the id {(self.id or b'').hex()}"


def parse_uri(uri: str) -> Place:
    """Where a key is, from its URI. ConfigError if something is missing, or is not known here."""
    found = _attributes(uri)
    if not found.keys() & {"token", "serial"} or not found.keys() & {"object", "id"} or not found.keys() >= _IN_QUERY:
        raise ConfigError(f"the URI names a token, an object, a module-path and a pin-source: {EXAMPLE}")
    if found.get("type", b"private") != b"private":
        raise ConfigError("a key to sign with is of type=private")
    try:
        text = {name: value.decode("utf-8") for name, value in found.items() if name not in ("id", "serial")}
    except UnicodeDecodeError as exc:
        raise ConfigError("the URI is not UTF-8") from exc
    pin = text["pin-source"].removeprefix("file:")
    module, pin_file = Path(text["module-path"]), Path(pin.removeprefix("//") if pin.startswith("///") else pin)
    for name, file in (("module-path", module), ("pin-source", pin_file)):
        if not file.is_absolute():
            raise ConfigError(f"{name} is the whole path of a file, from / on")
    return Place(text.get("token"), found.get("serial"), text.get("object"), found.get("id"), module, pin_file)


def _attributes(uri: str) -> dict[str, bytes]:
    if not uri.startswith(SCHEME):
        raise ConfigError(f"a key in a token is named by a URI such as {EXAMPLE}")
    path, _, query = uri.removeprefix(SCHEME).partition("?")
    found: dict[str, bytes] = {}
    for known, pairs in ((_IN_PATH, path.split(";")), (_IN_QUERY, query.split("&"))):
        for name, equals, value in (pair.partition("=") for pair in pairs if pair):
            if name == "pin-value":
                raise ConfigError("a PIN does not stand in a URI: put it in a file, mode 0400: pin-source=file:/PATH")
            if name not in known or not equals or name in found:
                raise ConfigError(f"{name[:40]!r} is not known at this place of the URI, or stands twice: {EXAMPLE}")
            if _BROKEN.search(value):
                raise ConfigError(f"{name} has a % that is not followed by two hexadecimal digits")
            found[name] = unquote_to_bytes(value)
    return found


class HsmKey:
    """A private key in a token. Holds a session; `close` it.

    Args:
        place: where the key is; `open` and `make` find it there.
    """

    alg: Final = ED25519

    def __init__(self, place: Place, session: Any, private: Any, public: bytes) -> None:
        self._place = place
        self._session = session
        self._private = private
        self._pin_refused = False
        self.public = public
        self.kid = thumbprint(public)
        window = datetime.fromisoformat("2000-01-01T00:00:00Z"), datetime.fromisoformat("2100-01-01T00:00:00Z")
        self._verify = VerifyKey.from_record("", self.record(*window)).verify

    @classmethod
    def open(cls, uri: str) -> HsmKey:
        """The key that the URI names.

        Raises:
            ConfigError: no library, module, token or key, a wrong PIN, a PIN file that others can read, or a key that
                does not sign.
        """
        place = parse_uri(uri)
        with _ONE_AT_A_TIME:
            session = _login(place)
            try:
                found = _find(session, place)
                if found is None:
                    raise ConfigError(f"{place.shown} has not {place.key}: see object= in the URI")
                return cls(place, session, *found)._probed()
            except ConfigError:
                _end(session)
                raise

    @classmethod
    def make(cls, uri: str) -> tuple[HsmKey, bool]:
        """The key that the URI names, made if there is none; tells whether it was made. ConfigError as `open`."""
        place = parse_uri(uri)
        with _ONE_AT_A_TIME:
            session = _login(place, writes=True)
            try:
                found = _find(session, place)
                if found is None:
                    _generate(session, place)
            finally:
                _end(session)
        return cls.open(uri), found is None

    def sign(self, data: bytes) -> bytes:
        """The signature over exactly these bytes, 64 bytes.

        Raises:
            Transient: the token is gone, or does not sign.
        """
        with _ONE_AT_A_TIME:
            try:
                return self._signed(data)
            except ConfigError:
                self._open_again()
            try:
                return self._signed(data)
            except ConfigError as exc:
                raise Transient(f"cannot sign: {exc}") from exc

    def record(self, not_before: datetime, not_after: datetime) -> KeyRecord:
        """The public entry for the registry."""
        return KeyRecord(
            kid=self.kid, alg=self.alg, public=b64(self.public), not_before=not_before, not_after=not_after
        )

    def close(self) -> None:
        """End the session."""
        with _ONE_AT_A_TIME:
            _end(self._session)

    def _probed(self) -> HsmKey:
        self._signed(_PROBE)
        return self

    def _signed(self, data: bytes) -> bytes:
        with _plain(self._place):
            signature = bytes(self._private.sign(data, mechanism=_library().Mechanism.EDDSA))
        try:
            self._verify(signature, data)
        except ProtocolError as exc:
            raise ConfigError(f"{self._place.key} and its public key in {self._place.shown} do not match") from exc
        return signature

    def _open_again(self) -> None:
        """The token may be back, in another slot perhaps. Transient if it is not, or is another one."""
        if self._pin_refused:
            raise Transient(f"{self._place.shown} refused the PIN: set it right and restart")
        _end(self._session)
        try:
            with _plain(self._place):
                # A module may see a token that was put in only from its beginning.
                _library().lib(str(self._place.module)).reinitialize()
            self._session = _login(self._place)
            found = _find(self._session, self._place)
        except PinError as exc:
            self._pin_refused = True
            raise Transient(f"cannot sign: {exc}") from exc
        except ConfigError as exc:
            raise Transient(f"cannot sign: {exc}") from exc
        if found is None or found[1] != self.public:
            raise Transient(f"cannot sign: {self._place.shown} has not {self._place.key} that was there")
        self._private = found[0]


# --- the library ------------------------------------------------------------------------------------------------


def _library() -> Any:
    try:
        import pkcs11  # noqa: PLC0415 - an optional dependency
    except ImportError as exc:
        raise ConfigError("a key in a token needs a library: pip install 'kentongan[hsm]'") from exc
    return pkcs11


@contextmanager
def _plain(place: Place) -> Iterator[None]:
    """What the library raises, as a ConfigError in plain words."""
    try:
        yield
    except _library().PKCS11Error as exc:
        name = type(exc).__name__
        if name in ("PinIncorrect", "PinInvalid", "PinLenRange"):
            raise PinError(f"{place.shown} refuses the PIN in {place.pin}: a few wrong ones lock it") from exc
        if name in ("PinLocked", "PinExpired", "UserPinNotInitialized"):
            raise PinError(f"{place.shown} takes no PIN ({name}): its administrator must set a new one") from exc
        raise ConfigError(f"{place.shown} cannot be used: {name}") from exc


def _login(place: Place, *, writes: bool = False) -> Any:
    library = _library()
    if not place.module.is_file():
        raise ConfigError(f"module-path: {place.module} is missing: install the token's PKCS#11 module")
    pin = read_secret(place.pin).decode("utf-8", "replace").rstrip("\r\n")
    try:
        module = library.lib(str(place.module))
    except library.PKCS11Error as exc:
        raise ConfigError(f"module-path: {place.module} is no PKCS#11 module that starts: {exc}") from exc
    with _plain(place):
        tokens = list(module.get_tokens(token_label=place.token, token_serial=place.serial))
        if len(tokens) > 1:
            raise ConfigError(f"{place.shown} is there {len(tokens)} times: name its serial= too")
        if not tokens:
            raise ConfigError(f"{place.shown} is not there: put it in, or see `token=`")
        return tokens[0].open(rw=writes, user_pin=pin)


def _end(session: Any) -> None:
    # Nothing to save there; a token that is gone has ended it already.
    with suppress(_library().PKCS11Error):
        session.close()


def _find(session: Any, place: Place) -> tuple[Any, bytes] | None:
    """The private key and the bytes of the public one; None if there is neither."""
    library = _library()
    attribute, kinds = library.Attribute, library.ObjectClass
    names = {attribute.LABEL: place.label, attribute.ID: place.id}
    wanted = {name: value for name, value in names.items() if value is not None}
    with _plain(place):
        private = list(session.get_objects({**wanted, attribute.CLASS: kinds.PRIVATE_KEY}))
        public = list(session.get_objects({**wanted, attribute.CLASS: kinds.PUBLIC_KEY}))
        if not private and not public:
            return None
        if len(private) != 1 or len(public) != 1:
            counts = f"{len(private)} private and {len(public)} public"
            raise ConfigError(f"{place.key} in {place.shown} is no pair ({counts}): name its id= too")
        if {one.key_type for one in (*private, *public)} != {library.KeyType.EC_EDWARDS}:
            raise ConfigError(f"{place.key} in {place.shown} is not an Ed25519 key; no other is used from a token")
        if not private[0][attribute.SIGN]:
            raise ConfigError(f"{place.key} in {place.shown} may not sign: its administrator must set CKA_SIGN")
        point = bytes(public[0][attribute.EC_POINT])
    for head in _POINTS:
        if len(point) == len(head) + 32 and point.startswith(head):
            return private[0], point[len(head) :]
    raise ConfigError(f"{place.key} in {place.shown} is not an Ed25519 key; no other is used from a token")


def _generate(session: Any, place: Place) -> None:
    """Make a pair. Its id begins with no hyphen, so that it can be an argument of a command."""
    if place.label is None:
        raise ConfigError("a new key needs a name: write object=LABEL into the URI")
    while True:
        pair = _pair(session, place)
        found = _find(session, place)
        if found is None or not thumbprint(found[1]).startswith("-"):
            return
        with _plain(place):
            for half in pair:
                half.destroy()


def _pair(session: Any, place: Place) -> tuple[Any, Any]:
    library = _library()
    attribute, kind = library.Attribute, library.KeyType.EC_EDWARDS
    stays = {attribute.SENSITIVE: True, attribute.EXTRACTABLE: False}
    name = place.id or secrets.token_bytes(8)
    with _plain(place):
        for curve in _CURVES:
            domain = session.create_domain_parameters(kind, {attribute.EC_PARAMS: curve}, local=True)
            try:
                public, private = domain.generate_keypair(
                    label=place.label, id=name, store=True, private_template=stays
                )
            except library.PKCS11Error:
                if curve == _CURVES[-1]:
                    raise
            else:
                return public, private
    raise AssertionError("one of the curves' names was the last")
