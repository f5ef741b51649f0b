"""Who a token speaks for. HS256 with the shared secret, and nothing that the token itself proposes (spec 1)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import jwt
import msgspec

from handlers.caller import Caller
from handlers.wire import MAX_USER_ID

if TYPE_CHECKING:
    from gateway.settings import Auth

AuthCode = Literal["token_missing", "token_invalid", "token_expired"]

KNOWN_ROLES: Final = frozenset({"viewer", "creator", "sponsor", "admin", "service"})
MAX_TOKEN_BYTES: Final = 8192
MAX_LEEWAY_S: Final = 60
MAX_USERNAME_CHARS: Final = 100
ALGORITHM: Final = "HS256"
# Headers that would have the token choose its key or how it is read. PyJWT ignores most of them;
# whoever sends one is not our issuer.
FORBIDDEN_HEADERS: Final = frozenset({"jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc"})

_MESSAGES: Final[dict[AuthCode, str]] = {
    "token_missing": "No token was given.",
    "token_invalid": "The token is not valid.",
    "token_expired": "The token has expired.",
}

_LAST_SECOND: Final = 253_402_300_799  # of the year 9999: beyond it a date is a mistake, such as milliseconds
_DIGITS: Final = re.compile(r"[0-9]+")

_PAYLOAD = msgspec.json.Decoder(dict[str, msgspec.Raw])
_DATE = msgspec.json.Decoder(Annotated[float, msgspec.Meta(ge=0, le=_LAST_SECOND)])
# Subjects and token ids are stored as text, which can't hold NUL.
_NAME = msgspec.json.Decoder(Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[^\x00]*\Z")])
_TEXT = msgspec.json.Decoder(str)
_ROLES = msgspec.json.Decoder(Annotated[list[str], msgspec.Meta(max_length=64)])
_AUDIENCE = msgspec.json.Decoder(str | list[str])

T = TypeVar("T")


class AuthError(Exception):
    """A token that lets nobody in. Holds the code alone: neither token nor claims reach a message or a log."""

    def __init__(self, code: AuthCode) -> None:
        super().__init__(_MESSAGES[code])
        self.code: AuthCode = code

    @property
    def message(self) -> str:
        """The code in words, for the client."""
        return _MESSAGES[self.code]


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What a verified token says. Dates are Unix seconds."""

    caller: Caller
    expires_at: float
    issued_at: float | None = None
    username: str | None = None
    jti: str | None = None


class Authenticator:
    """Verifies tokens against one configuration. `clock` gives Unix seconds."""

    def __init__(self, settings: Auth, *, clock: Callable[[], float] = time.time) -> None:
        if not settings.secret:
            raise ValueError("auth.secret is not set: anybody could sign with an empty one")
        self._settings = settings
        self._clock = clock
        self._key = settings.secret.encode()
        self._leeway_s = min(settings.leeway_s, MAX_LEEWAY_S)
        self._jws = jwt.PyJWS(algorithms=[ALGORITHM])

    def verify(self, token: str, *, leeway: bool) -> Claims:
        """The claims of a token that is signed, meant for us and in force; raises AuthError.

        With `leeway` a token is taken a little after its end (HTTP); a socket needs time left. A
        beginning (`nbf`, `iat`) a little ahead of our clock is the issuer's clock, so always taken.
        """
        if not token:
            raise AuthError("token_missing")
        claims = self._signed_claims(token)
        self._check_parties(claims)
        now = self._clock()
        expires_at = _required(_DATE, claims, "exp")
        issued_at = _optional(_DATE, claims, "iat")
        begins_at = max(issued_at or 0.0, _optional(_DATE, claims, "nbf") or 0.0)
        if begins_at > now + self._leeway_s:
            raise AuthError("token_invalid")
        verified = Claims(
            caller=self._caller(claims),
            expires_at=expires_at,
            issued_at=issued_at,
            username=self._username(claims),
            jti=_optional(_NAME, claims, "jti"),
        )
        if expires_at + (self._leeway_s if leeway else 0) <= now:
            raise AuthError("token_expired")
        return verified

    def _signed_claims(self, token: str) -> dict[str, msgspec.Raw]:
        if len(token) > MAX_TOKEN_BYTES:
            raise AuthError("token_invalid")
        try:
            parts = self._jws.decode_complete(token, self._key, algorithms=[ALGORITHM])
            if not FORBIDDEN_HEADERS.isdisjoint(parts["header"]):
                raise AuthError("token_invalid")
            return _PAYLOAD.decode(parts["payload"])
        except (jwt.PyJWTError, ValueError, RecursionError):
            # `from None`: the library's messages quote what they were given
            raise AuthError("token_invalid") from None

    def _check_parties(self, claims: dict[str, msgspec.Raw]) -> None:
        issuer, audience = self._settings.issuer, self._settings.audience
        if issuer and _required(_TEXT, claims, "iss") != issuer:
            raise AuthError("token_invalid")
        if audience:
            given = _required(_AUDIENCE, claims, "aud")
            if audience not in ([given] if isinstance(given, str) else given):
                raise AuthError("token_invalid")

    def _caller(self, claims: dict[str, msgspec.Raw]) -> Caller:
        subject = _required(_NAME, claims, self._settings.subject_claim)
        roles = frozenset(_optional(_ROLES, claims, self._settings.roles_claim) or ())
        caller = Caller(subject=subject, user_id=_user_id(subject), roles=roles & KNOWN_ROLES)
        if caller.user_id is None and not caller.is_backend:
            raise AuthError("token_invalid")  # people with other subjects: not before there are identities
        return caller

    def _username(self, claims: dict[str, msgspec.Raw]) -> str | None:
        """The name to create an unknown user with; one that can't be stored is as good as none."""
        try:
            name = _optional(_NAME, claims, self._settings.username_claim)
        except AuthError:
            return None
        return name if name is not None and len(name) <= MAX_USERNAME_CHARS else None


def _user_id(subject: str) -> int | None:
    """The user that a subject names; None where it is no number, or one with a leading zero.

    Digits outside 1 to 2^53 - 1 are nobody's: AuthError.
    """
    if not _DIGITS.fullmatch(subject) or (subject[0] == "0" and len(subject) > 1):
        return None
    if len(subject) > len(str(MAX_USER_ID)) or not 1 <= int(subject) <= MAX_USER_ID:
        raise AuthError("token_invalid")
    return int(subject)


def _required(decoder: msgspec.json.Decoder[T], claims: dict[str, msgspec.Raw], name: str) -> T:
    raw: Any = claims.get(name)
    if raw is None:
        raise AuthError("token_invalid")
    try:
        return decoder.decode(raw)
    except (ValueError, RecursionError):
        raise AuthError("token_invalid") from None


def _optional(decoder: msgspec.json.Decoder[T], claims: dict[str, msgspec.Raw], name: str) -> T | None:
    return _required(decoder, claims, name) if name in claims else None
