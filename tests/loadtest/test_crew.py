"""What the load test signs, and from when on it counts."""

from __future__ import annotations

import time

import jwt

from loadtest.crew import TOKEN_TTL_S, Door, Share
from loadtest.phone import Address
from loadtest.scenarios.echo import Echoer, EchoJob, EchoPart

SECRET = "a secret of at least thirty-two bytes"


class Nowhere:
    """A transport that leads there."""

    def write(self, data: bytes) -> None:
        pass


def test_a_token_is_what_a_library_would_have_signed() -> None:
    token = Door(Address("127.0.0.1", 1, b""), SECRET).token("17", "service", "admin")
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    claims = jwt.decode(token, SECRET, algorithms=["HS256"])
    assert (claims["sub"], claims["roles"]) == ("17", ["service", "admin"])
    assert 0 <= time.time() + TOKEN_TTL_S - claims["exp"] < 60


def test_a_request_waits_from_when_it_was_due() -> None:
    door = Door(Address("127.0.0.1", 1, b""), SECRET)
    part = EchoPart(EchoJob(connections=1, rate=1.0), door, Share())
    phone = Echoer(part, 1)
    phone.transport = Nowhere()  # type: ignore[assignment]
    late = time.perf_counter() - 5
    phone.ask(late)
    assert phone.unanswered == [late]
    phone.acked(0, b'430[{"ok":true}]')
    assert phone.unanswered == []
    assert 5 <= part.count.waits.most < 60
