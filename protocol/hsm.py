"""A signing key in a hardware module, behind PKCS#11: named by a URI (RFC 7512), used where it is.

Guarantees: the private key is made in the token and never asked of it; what it signed is verified before it is given
out, so that a faulty token costs time and not a report; a token that is gone is `Transient`, and is found again when it
is back; a PIN that was refused once while running is not tried again, since a few tries lock a token. All keys of one
token share one login, which ends with the last of them: a module knows one login a process. Refuses a PIN in the URI,
and every key that is not Ed25519 (CKM_EDDSA).

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


_AWAY: Final = frozenset(
    {
        "CryptokiNotInitialized",
        "DeviceError",
        "DeviceRemoved",
        "FunctionFailed",
        "GeneralError",
        "SlotIDInvalid",
        "TokenNotPresent",
    }
)
"""What modules raise when the token, or the way to it, is gone; some do not even start then."""


class PinError(ConfigError):
    """The token does not take the PIN."""


class AwayError(ConfigError):
    """The token is not there. No PIN was tried, or it was taken: asking again does no harm."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key is."""

    uri: str
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
    return Place(uri, text.get("token"), found.get("serial"), text.get("object"), found.get("id"), module, pin_file)


def check_setting(uri: str | None, file: Path) -> None:
    """ConfigError, with the file and the setting, if `signing` in a settings file names no key."""
    if uri is not None:
        try:
            parse_uri(uri)
        except ConfigError as exc:
            raise ConfigError(f"{file}: signing: {exc}") from exc


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


@dataclass(slots=True, eq=False)
class _Login:
    """A session with a token, logged in: for all keys of that token in this process."""

    at: tuple[str, bytes]
    token: Any
    session: Any
    users: int = 0


_LOGINS: Final[dict[tuple[str, bytes], _Login]] = {}
"""By module and the token's serial number. Under `_ONE_AT_A_TIME`."""


class HsmKey:
    """A private key in a token. Made by `open` and `make`; `close` it."""

    alg: Final = ED25519

    def __init__(self, place: Place, login: _Login, private: Any, public: bytes) -> None:
        self._place = place
        self._login = login
        self._private = private
        self._pin_refused = False
        self.public = public
        self.kid = thumbprint(public)
        window = datetime.fromisoformat("2000-01-01T00:00:00Z"), datetime.fromisoformat("2100-01-01T00:00:00Z")
        self._verify = VerifyKey.from_record("", self.record(*window)).verify

    @property
    def uri(self) -> str:
        """Where it is, as it was asked for."""
        return self._place.uri

    @classmethod
    def open(cls, uri: str) -> HsmKey:
        """The key that the URI names.

        Raises:
            ConfigError: no library, module, token (`AwayError`) or key, a wrong PIN (`PinError`), a PIN file that
                others can read, or a key that does not sign.
        """
        return cls._found(parse_uri(uri), make=False)[0]

    @classmethod
    def make(cls, uri: str) -> tuple[HsmKey, bool]:
        """The key that the URI names, made if there is none; tells whether it was made. ConfigError as `open`."""
        return cls._found(parse_uri(uri), make=True)

    @classmethod
    def _found(cls, place: Place, *, make: bool) -> tuple[HsmKey, bool]:
        with _ONE_AT_A_TIME:
            try:
                return cls._look(place, make=make)
            except AwayError:
                if any(at[0] == str(place.module) for at in _LOGINS):
                    raise
                _begin(place)
                return cls._look(place, make=make)

    @classmethod
    def _look(cls, place: Place, *, make: bool) -> tuple[HsmKey, bool]:
        login = _join(place)
        try:
            found = _find(login.session, place)
            made = found is None and make
            if made:
                _generate(login.token, place)
                found = _find(login.session, place)
            if found is None:
                raise ConfigError(f"{place.shown} has not {place.key}: see object= in the URI")
            key = cls(place, login, *found)
            key._signed(_PROBE)
        except ConfigError:
            _leave(login)
            raise
        return key, made

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

    def probe(self) -> None:
        """Sign what is of no use to anybody. Transient as `sign`."""
        self.sign(_PROBE)

    def close(self) -> None:
        """Let it go; the last key of its token in this process ends the login."""
        with _ONE_AT_A_TIME:
            _leave(self._login)

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
        lost = self._login
        try:
            if _LOGINS.get(lost.at, lost) is lost:
                # No other key of the token has found it again.
                _begin(self._place)
            login = _join(self._place)
            try:
                found = _find(login.session, self._place)
            except ConfigError:
                _leave(login)
                raise
        except PinError as exc:
            self._pin_refused = True
            raise Transient(f"cannot sign: {exc}") from exc
        except ConfigError as exc:
            raise Transient(f"cannot sign: {exc}") from exc
        if found is None or found[1] != self.public:
            _leave(login)
            raise Transient(f"cannot sign: {self._place.shown} has not {self._place.key} that was there")
        _leave(lost)
        self._login, self._private = login, found[0]


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
        kind = AwayError if name in _AWAY else ConfigError
        raise kind(f"{place.shown} cannot be used: {name}") from exc


def _begin(place: Place) -> None:
    """Start the module anew: it may see a token that was put in only from its beginning. All that it had open ends."""
    for at in [at for at in _LOGINS if at[0] == str(place.module)]:
        del _LOGINS[at]
    with _plain(place):
        _library().lib(str(place.module)).reinitialize()


def _join(place: Place) -> _Login:
    """The login at the place's token; `_leave` it."""
    library = _library()
    if not place.module.is_file():
        raise ConfigError(f"module-path: {place.module} is missing: install the token's PKCS#11 module")
    pin = read_secret(place.pin).decode("utf-8", "replace").rstrip("\r\n")
    try:
        module = library.lib(str(place.module))
    except library.PKCS11Error as exc:
        name = type(exc).__name__
        if name in _AWAY:
            raise AwayError(f"{place.shown} is not there: {place.module} does not start ({name})") from exc
        raise ConfigError(f"module-path: {place.module} is no PKCS#11 module that starts: {exc}") from exc
    with _plain(place):
        tokens = list(module.get_tokens(token_label=place.token, token_serial=place.serial))
        if len(tokens) > 1:
            raise ConfigError(f"{place.shown} is there {len(tokens)} times: name its serial= too")
        if not tokens:
            raise AwayError(f"{place.shown} is not there: put it in, or see `token=`")
        at = (str(place.module), bytes(tokens[0].serial))
        login = _LOGINS.get(at)
        if login is None:
            login = _LOGINS[at] = _Login(at, tokens[0], tokens[0].open(user_pin=pin))
    login.users += 1
    return login


def _leave(login: _Login) -> None:
    login.users -= 1
    if login.users > 0 or _LOGINS.get(login.at) is not login:
        # One that was lost is not closed: its handle may be another session's by now.
        return
    del _LOGINS[login.at]
    # Nothing to save there; a token that is gone has ended it already.
    with suppress(_library().PKCS11Error):
        login.session.close()


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


def _generate(token: Any, place: Place) -> None:
    """Make a pair. Its id begins with no hyphen, so that it can be an argument of a command."""
    if place.label is None:
        raise ConfigError("a new key needs a name: write object=LABEL into the URI")
    with _plain(place), token.open(rw=True) as session:
        while True:
            pair = _pair(session, place)
            found = _find(session, place)
            if found is None or not thumbprint(found[1]).startswith("-"):
                return
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
