"""Who a token speaks for. HS256 with a shared secret, RS256 and ES256 with the keys of a JWKS endpoint, as they are
configured, and nothing that the token itself proposes (spec 1)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeGuard, TypeVar

import jwt
import msgspec
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, RSAAlgorithm
from jwt.utils import base64url_decode

from gateway.hs256 import Hs256
from gateway.jwks import MAX_KID, Algorithm, Jwks
from handlers.caller import Caller
from handlers.caller import Claims as Claims
from handlers.wire import MAX_USER_ID

if TYPE_CHECKING:
    from gateway.settings import Auth

AuthCode = Literal["token_missing", "token_invalid", "token_expired", "unavailable"]

KNOWN_ROLES: Final = frozenset({"viewer", "creator", "sponsor", "admin", "service"})
MAX_TOKEN_BYTES: Final = 8192
MAX_LEEWAY_S: Final = 60
MAX_USERNAME_CHARS: Final = 100
# Headers that would have the token choose its key or how it is read. PyJWT ignores most of them;
# whoever sends one is not our issuer.
FORBIDDEN_HEADERS: Final = frozenset({"jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc"})

_MESSAGES: Final[dict[AuthCode, str]] = {
    "token_missing": "No token was given.",
    "token_invalid": "The token is not valid.",
    "token_expired": "The token has expired.",
    "unavailable": "The keys that tokens are checked with can't be fetched.",
}

_LAST_SECOND: Final = 253_402_300_799  # of the year 9999: beyond it a date is a mistake, such as milliseconds
_DIGITS: Final = re.compile(r"[0-9]+")

_HEADER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PAYLOAD = msgspec.json.Decoder(dict[str, msgspec.Raw])
_DATE = msgspec.json.Decoder(Annotated[float, msgspec.Meta(ge=0, le=_LAST_SECOND)])
# Subjects and token ids are stored as text, which can't hold NUL.
_NAME = msgspec.json.Decoder(Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[^\x00]*\Z")])
_TEXT = msgspec.json.Decoder(str)
_KID = msgspec.json.Decoder(Annotated[str, msgspec.Meta(max_length=MAX_KID)])
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


class KeyUnknown(AuthError):
    """A token of a key that is not known, where a fetch might find it: `verify_patiently` tries."""

    def __init__(self, *, none_is_known: bool) -> None:
        super().__init__("unavailable" if none_is_known else "token_invalid")


class _Hmac(HMACAlgorithm):
    """HS256 without looking at the configured secret anew for each token, which takes longer than the signature."""

    def prepare_key(self, key: Any) -> bytes:
        return key  # type: ignore[no-any-return]

    def check_key_length(self, key: bytes) -> str | None:
        return None  # settings did


class Authenticator:
    """Verifies tokens against one configuration. `clock` gives Unix seconds."""

    def __init__(self, settings: Auth, *, jwks: Jwks | None = None, clock: Callable[[], float] = time.time) -> None:
        if not settings.secret and jwks is None:
            raise ValueError("neither auth.secret nor auth.jwks_url is set: anybody could sign with an empty secret")
        self._settings = settings
        self._jwks = jwks
        self._clock = clock
        self._secrets = [secret.encode() for secret in (settings.secret, settings.previous_secret) if secret]
        self._hs256 = Hs256(self._secrets)
        self._leeway_s = min(settings.leeway_s, MAX_LEEWAY_S)
        self._jws = jwt.PyJWS(algorithms=[])
        self._jws.register_algorithm("HS256", _Hmac(HMACAlgorithm.SHA256))
        self._jws.register_algorithm("RS256", RSAAlgorithm(RSAAlgorithm.SHA256))
        self._jws.register_algorithm("ES256", ECAlgorithm(ECAlgorithm.SHA256))

    def verify(self, token: str, *, leeway: bool) -> Claims:
        """The claims of a token that is signed, meant for us and in force; raises AuthError, and its kind KeyUnknown
        where `verify_patiently` may find out more.

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
        caller = self._caller(claims)
        verified = Claims(
            caller=caller,
            issuer=None if caller.user_id is not None else _optional(_NAME, claims, "iss") or "",
            expires_at=expires_at,
            issued_at=issued_at,
            username=self._username(claims),
            jti=_optional(_NAME, claims, "jti"),
        )
        if expires_at + (self._leeway_s if leeway else 0) <= now:
            raise AuthError("token_expired")
        return verified

    async def verify_patiently(self, token: str, *, leeway: bool) -> Claims:
        """The same, after a fetch of the keys where the token's is not known: at most one in 30 s over all callers."""
        try:
            return self.verify(token, leeway=leeway)
        except KeyUnknown:
            assert self._jwks is not None
            await self._jwks.learn()
        return self.verify(token, leeway=leeway)

    def _signed_claims(self, token: str) -> dict[str, msgspec.Raw]:
        if len(token) > MAX_TOKEN_BYTES:
            raise AuthError("token_invalid")
        try:
            payload = self._hs256.payload(token)
            if payload is None:
                payload = self._payload_of_any(token)
            return _PAYLOAD.decode(payload)
        except (jwt.PyJWTError, ValueError, RecursionError):
            # `from None`: the library's messages quote what they were given
            raise AuthError("token_invalid") from None

    def _payload_of_any(self, token: str) -> bytes:
        header = _HEADER.decode(base64url_decode(token.partition(".")[0]))
        if not FORBIDDEN_HEADERS.isdisjoint(header):
            raise AuthError("token_invalid")
        algorithm = _required(_TEXT, header, "alg")
        payload = self._signed_payload(token, algorithm, self._keys(algorithm, header))
        if algorithm == "HS256":
            self._hs256.trust_header_of(token)
        return payload

    def _keys(self, algorithm: str, header: dict[str, msgspec.Raw]) -> list[Any]:
        """The keys that this algorithm is configured with: the secrets for HS256, published ones for the others."""
        if algorithm == "HS256":
            return self._secrets
        if self._jwks is None or not _is_asymmetric(algorithm):
            return []
        kid = _optional(_KID, header, "kid")
        keys = self._jwks.find(algorithm, kid)
        if not keys and (kid is not None or self._jwks.is_empty) and self._jwks.may_learn():
            raise KeyUnknown(none_is_known=self._jwks.is_empty)
        if self._jwks.is_empty:
            raise AuthError("unavailable")
        return keys

    def _signed_payload(self, token: str, algorithm: str, keys: list[Any]) -> bytes:
        """What the first key of these that fits has signed; raises PyJWTError where none has."""
        for key in keys:
            try:
                payload: bytes = self._jws.decode_complete(token, key, algorithms=[algorithm])["payload"]
                return payload
            except jwt.InvalidSignatureError:
                continue
        raise jwt.InvalidSignatureError

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
        return Caller(subject=subject, user_id=_user_id(subject), roles=roles & KNOWN_ROLES)

    def _username(self, claims: dict[str, msgspec.Raw]) -> str | None:
        """The name to create an unknown user with; one that can't be stored is as good as none."""
        try:
            name = _optional(_NAME, claims, self._settings.username_claim)
        except AuthError:
            return None
        return name if name is not None and len(name) <= MAX_USERNAME_CHARS else None


def _is_asymmetric(algorithm: str) -> TypeGuard[Algorithm]:
    return algorithm in ("RS256", "ES256")


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
