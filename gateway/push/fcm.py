"""Firebase Cloud Messaging, HTTP v1: an access token of a service account, and a POST a push.

https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages and
https://developers.google.com/identity/protocols/oauth2/service-account are what it speaks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import aiohttp
import jwt
import msgspec
import structlog

from handlers.push.provider import Answer

log = structlog.get_logger()

SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_S: Final = 3600
RENEW_EARLY_S: Final = 60.0
LEAST_TOKEN_S: Final = 10.0  # however short the endpoint says that it lives
MOST_ANSWER_BYTES: Final = 65_536
AWAY_S: Final = 5.0  # where the provider does not say how long
MOST_RETRY_AFTER_S: Final = 3600.0
_GONE: Final = frozenset({"UNREGISTERED", "SENDER_ID_MISMATCH"})

Spawn = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]


class BadCredentials(Exception):
    """The file is no service account's key; the message quotes nothing of it."""


class ServiceAccount(msgspec.Struct, frozen=True):
    """What is needed of the file that Google gives."""

    project_id: str
    client_email: str
    private_key: str
    token_uri: str


class _Token(msgspec.Struct):
    access_token: str
    expires_in: float = 3600.0


class _Detail(msgspec.Struct, frozen=True):
    error_code: str = msgspec.field(name="errorCode", default="")


class _Error(msgspec.Struct, frozen=True):
    details: tuple[_Detail, ...] = ()


class _Refused(msgspec.Struct, frozen=True):
    error: _Error = _Error()


class _Held(NamedTuple):
    token: str
    until: float


def read_account(path: Path) -> ServiceAccount:
    """The service account of a file. Raises BadCredentials."""
    try:
        account = msgspec.json.decode(path.read_bytes(), type=ServiceAccount)
        jwt.get_algorithm_by_name("RS256").prepare_key(account.private_key)
    except OSError as error:
        raise BadCredentials(f"{path}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, TypeError, jwt.PyJWTError):
        raise BadCredentials(
            f"{path} is no service account's key: project_id, client_email, private_key, token_uri"
        ) from None
    return account


class FcmProvider:
    """Pushes through FCM at `url`. A push takes `timeout_s` at most, half of it the access token, if one is needed.

    What is certain not to have been delivered is told from what may have been: nothing went out before there was a
    connection, and a status is the provider's word.
    """

    def __init__(
        self,
        *,
        url: str,
        account: ServiceAccount,
        timeout_s: float,
        most_connections: int,
        spawn: Spawn,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = f"{url.rstrip('/')}/v1/projects/{quote(account.project_id, safe='')}/messages:send"
        self._account = account
        self._spawn = spawn
        self._clock = clock
        self._patience_s = timeout_s * 0.45
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=most_connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._patience_s, connect=self._patience_s * 0.8),
        )
        self._held: _Held | None = None
        self._asking: asyncio.Task[_Held | None] | None = None
        self._was_away = False

    async def send(self, message: dict[str, Any]) -> Answer:
        """See Provider."""
        token = await self._access_token()
        if token is None:
            return self._away("no access token")
        try:
            return await self._post(token, msgspec.json.encode({"message": message}))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return self._away(type(error).__name__)  # nothing has left
        except (aiohttp.ClientError, OSError, TimeoutError):
            return Answer("unknown")

    async def close(self) -> None:
        """Its connections."""
        await self._http.close()

    async def _post(self, token: str, body: bytes) -> Answer:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        async with self._http.post(self._place, data=body, headers=headers, allow_redirects=False) as response:
            status = response.status
            if status == HTTPStatus.OK:
                self._was_away = False
                return Answer("sent")
            code = _code_of(await response.content.read(MOST_ANSWER_BYTES))
        if code in _GONE:
            return Answer("gone")
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return Answer("later", _retry_after_s(response.headers.get("Retry-After")))
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            return self._away(status, _retry_after_s(response.headers.get("Retry-After")))
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
            self._held = None  # our credentials, or the project: no push is taken
            return self._away(status)
        return Answer("unknown" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "refused")

    def _away(self, reason: object, retry_after_s: float = AWAY_S) -> Answer:
        if not self._was_away:
            log.warning("push_provider_away", reason=str(reason))
        self._was_away = True
        return Answer("later", retry_after_s, is_away=True)

    # -- the access token ------------------------------------------------------------------------

    async def _access_token(self) -> str | None:
        """None where there is none to be had now: all who wait for one request hear the same."""
        if self._held is None or self._clock() >= self._held.until:
            if self._asking is None or self._asking.done():
                self._asking = self._spawn(self._ask())
            self._held = await asyncio.shield(self._asking)
        return self._held.token if self._held else None

    async def _ask(self) -> _Held | None:
        now = int(time.time())
        claims = {
            "iss": self._account.client_email,
            "scope": SCOPE,
            "aud": self._account.token_uri,
            "iat": now,
            "exp": now + ASSERTION_S,
        }
        form = {"grant_type": GRANT, "assertion": jwt.encode(claims, self._account.private_key, algorithm="RS256")}
        asked_at = self._clock()
        try:
            async with self._http.post(self._account.token_uri, data=form, allow_redirects=False) as response:
                if response.status != HTTPStatus.OK:
                    return None
                given = msgspec.json.decode(await response.content.read(MOST_ANSWER_BYTES), type=_Token)
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError):
            return None
        return _Held(given.access_token, asked_at + max(given.expires_in - RENEW_EARLY_S, LEAST_TOKEN_S))


def _code_of(body: bytes) -> str:
    try:
        details = msgspec.json.decode(body, type=_Refused).error.details
    except msgspec.MsgspecError:
        return ""
    return next((detail.error_code for detail in details if detail.error_code), "")


def _retry_after_s(text: str | None) -> float:
    """Seconds; the other form of the header, a date, is not used by FCM."""
    return min(float(text), MOST_RETRY_AFTER_S) if text is not None and text.isdecimal() else AWAY_S
