"""An identity provider: keys, tokens, and a JWKS endpoint over real HTTP that can also fail in many ways."""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER: Final = "https://issuer.example/"
HUGE: Final = 3_000_000


@functools.cache
def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """One of as many keys as are asked for; making one takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@functools.cache
def ec_key(number: int = 0, curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    """The same of elliptic curves."""
    return ec.generate_private_key(curve())


class SigningKey:
    """A key with its name."""

    def __init__(self, kid: str | None, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
        self.kid = kid
        self.key = key
        self.algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """What is published of it; None takes a member away."""
        algorithm: Any = RSAAlgorithm if self.algorithm == "RS256" else ECAlgorithm
        jwk = algorithm.to_jwk(self.key.public_key(), as_dict=True)
        jwk.pop("key_ops", None)
        jwk |= {"kid": self.kid, "use": "sig", "alg": self.algorithm, **changes}
        return {name: value for name, value in jwk.items() if value is not None}

    def token(self, subject: object = "7", *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A good token, but for `claims` and `header`; None leaves a claim out."""
        now = int(time.time())
        given = {"iss": ISSUER, "sub": subject, "iat": now, "exp": now + 3600, "jti": uuid.uuid4().hex, **claims}
        given = {name: value for name, value in given.items() if value is not None}
        headers = ({"kid": self.kid} if self.kid is not None else {}) | (header or {})
        payload = json.dumps(given).encode()  # PyJWT itself signs no odd claims
        return jwt.PyJWS().encode(payload, self.key, algorithm=self.algorithm, headers=headers)


class Issuer:
    """The endpoint. `keys` are published; `mood` is how it answers; `fetches` counts requests."""

    def __init__(self) -> None:
        self.rsa = SigningKey("rsa-1", rsa_key(0))
        self.ec = SigningKey("ec-1", ec_key(0))
        self.keys: list[dict[str, Any]] = [self.rsa.jwk(), self.ec.jwk()]
        self.mood = "good"
        self.fetches = 0
        self.answering = asyncio.Event()  # cleared: it lets everybody wait
        self.answering.set()
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/.well-known/jwks.json"

    async def open(self) -> None:
        """Listen, on the port that it had before."""
        app = web.Application()
        app.router.add_get("/.well-known/jwks.json", self._answer)
        app.router.add_get("/elsewhere", self._good)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Go away."""
        self.answering.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _good(self, _: web.Request | None = None) -> web.StreamResponse:
        return web.json_response({"keys": self.keys})

    async def _answer(self, _: web.Request) -> web.StreamResponse:
        self.fetches += 1
        await self.answering.wait()
        body = json.dumps({"keys": self.keys}).encode()
        match self.mood:
            case "error":
                return web.Response(status=500, body=body)
            case "html":
                return web.Response(text="<html><body>Please log in</body></html>", content_type="text/html")
            case "huge":
                return web.Response(body=body[:-1] + b',"padding":"' + b"x" * HUGE + b'"}')
            case "bomb":
                packed = gzip.compress(body[:-1] + b',"padding":"' + b"x" * HUGE + b'"}')
                return web.Response(body=packed, headers={"Content-Encoding": "gzip"})
            case "redirect":
                raise web.HTTPFound("/elsewhere")
            case "cut":
                return web.Response(body=body[:-20])
            case "list":
                return web.json_response(self.keys)
            case "empty":
                return web.json_response({"keys": []})
            case "weak":
                return web.json_response({"keys": [SigningKey("rsa-1", rsa_key(9, 1024)).jwk()]})
        return await self._good()


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    """A provider that listens."""
    issuer = Issuer()
    await issuer.open()
    try:
        yield issuer
    finally:
        await issuer.close()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """A provider of this test's own."""
    async with issuing() as opened:
        yield opened
