"""What the load test signs."""

from __future__ import annotations

import time

import jwt

from loadtest.crew import TOKEN_TTL_S, Door
from loadtest.phone import Address

SECRET = "a secret of at least thirty-two bytes"


def test_a_token_is_what_a_library_would_have_signed() -> None:
    token = Door(Address("127.0.0.1", 1, b""), SECRET).token("17", "service", "admin")
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    claims = jwt.decode(token, SECRET, algorithms=["HS256"])
    assert (claims["sub"], claims["roles"]) == ("17", ["service", "admin"])
    assert 0 <= time.time() + TOKEN_TTL_S - claims["exp"] < 60
