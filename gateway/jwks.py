"""The public keys of an identity provider: fetched from its JWKS endpoint, kept, and served stale while that fails.

Nothing that a token says chooses a key but its `kid`, and that only among keys which this endpoint published. The
endpoint is believed as little as may be: it gets a few seconds and half a megabyte, may not redirect, and whatever is
not a set with at least one usable key leaves the known keys as they are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, Literal, NamedTuple

import aiohttp
import jwt
import msgspec
import structlog
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

log = structlog.get_logger()

Algorithm = Literal["RS256", "ES256"]

FETCH_S: Final = 5.0  # a whole fetch
PATIENCE_S: Final = 2.0  # what a caller waits of it: an answer is due 5 s after the request
START_S: Final = 2.0  # what the start of a node waits of the first
UNKNOWN_EVERY_S: Final = 30.0  # an unknown `kid` causes at most one fetch in this time
RETRY_FIRST_S, RETRY_MOST_S = 1.0, 30.0
MAX_BYTES: Final = 524_288
MAX_KEYS: Final = 100
MAX_KID: Final = 255
LEAST_RSA_BITS: Final = 2048  # RFC 7518, section 3.3
MOST_RSA_BITS: Final = 8192  # beyond it each token costs milliseconds

_SET = msgspec.json.Decoder(dict[str, Any])
_PRIVATE: Final = frozenset({"d", "k"})  # a key whose private half is public proves nothing


class PublicKey(NamedTuple):
    """One usable key and the only algorithm that it is used with."""

    algorithm: Algorithm
    kid: str | None
    key: Any


class BadAnswer(Exception):
    """The endpoint answered with something else than a set of keys; the message is ours and quotes nothing."""


class Jwks:
    """The keys of one endpoint. `spawn` owns the fetches; `clock` gives monotonic seconds."""

    def __init__(
        self,
        url: str,
        *,
        refresh_s: float,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._refresh_s = refresh_s
        self._spawn = spawn
        self._clock = clock
        self._keys: tuple[PublicKey, ...] = ()
        self._fetching: asyncio.Task[None] | None = None
        self._sought_at: float | None = None  # when an unknown kid last caused a fetch
        self._failures = 0  # in a row

    @property
    def is_empty(self) -> bool:
        """True until the first fetch has succeeded: then nothing can be said of any token."""
        return not self._keys

    def find(self, algorithm: Algorithm, kid: str | None) -> list[Any]:
        """The keys that may have signed a token of this header. Without a `kid` it must be clear which one."""
        fitting = [each.key for each in self._keys if each.algorithm == algorithm and kid in (None, each.kid)]
        return fitting if kid is not None or len(fitting) == 1 else []

    def may_learn(self) -> bool:
        """Whether `learn` could find a key that is unknown now: a fetch runs, or one may begin."""
        return self._fetching is not None or self._is_due()

    async def learn(self) -> None:
        """Fetch because of a key that is not known, unless that was done a moment ago; all who wait share one fetch.

        Returns when it is over, or after PATIENCE_S without it.
        """
        if self._fetching is None:
            if not self._is_due():
                return
            self._sought_at = self._clock()
        await asyncio.wait([self._fetch_shared()], timeout=PATIENCE_S)

    async def start(self) -> None:
        """The first fetch, waited for so long that a healthy endpoint's keys are there before the first token."""
        await asyncio.wait([self._fetch_shared()], timeout=START_S)

    async def run(self) -> None:
        """Keep the keys fresh until cancelled."""
        while True:
            await asyncio.sleep(self._pause_s())
            await asyncio.wait([self._fetch_shared()])

    def _is_due(self) -> bool:
        return self._sought_at is None or self._clock() >= self._sought_at + UNKNOWN_EVERY_S

    def _pause_s(self) -> float:
        if not self._failures:
            return self._refresh_s
        return min(RETRY_FIRST_S * 2.0 ** min(self._failures - 1, 10), RETRY_MOST_S, self._refresh_s)

    def _fetch_shared(self) -> asyncio.Task[None]:
        """The fetch that runs, or a new one. It never raises, and nobody who waits for it ends it."""
        if self._fetching is None:
            self._fetching = self._spawn(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            keys = usable_keys(await _download(self._url))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, BadAnswer) as error:
            self._note_failure(error)
        else:
            if self._failures:
                log.warning("jwks_recovered", keys=len(keys))
            self._keys, self._failures = keys, 0
        finally:
            self._fetching = None

    def _note_failure(self, error: Exception) -> None:
        """A line for the first failure in a row. The libraries' messages quote the URL, which may hold a key."""
        if not self._failures:
            reason = str(error) if isinstance(error, BadAnswer) else type(error).__name__
            log.warning("jwks_failed", reason=reason, stale_keys=len(self._keys))
        self._failures += 1


async def _download(url: str) -> bytes:
    """The body of a 200; raises BadAnswer and aiohttp's errors. Compressed it could be any size, so it is not asked
    for that, and would be no JSON."""
    timeout = aiohttp.ClientTimeout(total=FETCH_S)
    headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
    jar = aiohttp.DummyCookieJar()
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers, cookie_jar=jar, auto_decompress=False) as http,
        http.get(url, allow_redirects=False) as response,
    ):
        if response.status != 200:
            raise BadAnswer(f"HTTP status {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MAX_BYTES:
                raise BadAnswer(f"more than {MAX_BYTES} bytes")
        return bytes(body)


def usable_keys(body: bytes) -> tuple[PublicKey, ...]:
    """The keys of a JWK set (RFC 7517) that RS256 or ES256 may be checked with; raises BadAnswer where there are none.

    What is of another kind, weak, private, for encryption or broken is left out.
    """
    try:
        given = _SET.decode(body).get("keys")
    except (ValueError, RecursionError):
        raise BadAnswer("not a JSON object") from None
    if not isinstance(given, list):
        raise BadAnswer("no list of keys")
    keys = tuple(_usable(given[:MAX_KEYS]))
    if not keys:
        raise BadAnswer("no usable key")
    return keys


def _usable(given: Iterable[Any]) -> Iterable[PublicKey]:
    for jwk in given:
        if isinstance(jwk, dict) and _is_for_signatures(jwk) and (key := _read(jwk)) is not None:
            yield key


def _is_for_signatures(jwk: dict[str, Any]) -> bool:
    operations, kid = jwk.get("key_ops", ["verify"]), jwk.get("kid", "")
    return (
        jwk.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and isinstance(kid, str)
        and len(kid) <= MAX_KID
        and _PRIVATE.isdisjoint(jwk)
    )


def _read(jwk: dict[str, Any]) -> PublicKey | None:
    """The key with the algorithm that its kind and curve give it, unless it names another one itself."""
    kid = jwk.get("kid")
    try:
        if jwk.get("kty") == "RSA" and jwk.get("alg", "RS256") == "RS256":
            rsa = RSAAlgorithm.from_jwk(jwk)
            return PublicKey("RS256", kid, rsa) if LEAST_RSA_BITS <= rsa.key_size <= MOST_RSA_BITS else None
        if jwk.get("kty") == "EC" and jwk.get("crv") == "P-256" and jwk.get("alg", "ES256") == "ES256":
            return PublicKey("ES256", kid, ECAlgorithm.from_jwk(jwk))
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        pass  # numbers that are none, or no point of the curve
    return None
