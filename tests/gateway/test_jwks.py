"""The provider's keys: which are taken, how often it is asked, and what it may do without anybody noticing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

import gateway.jwks
from gateway.jwks import MAX_KEYS, UNKNOWN_EVERY_S, BadAnswer, Jwks, usable_keys
from tests.support.issuer import Issuer, SigningKey, ec_key, rsa_key

DEADLINE_S = 10.0


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def jwks(issuer: Issuer, clock: Clock) -> Jwks:
    return Jwks(issuer.url, refresh_s=3600, spawn=asyncio.create_task, clock=clock)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.jwks, "FETCH_S", 0.3)
    monkeypatch.setattr(gateway.jwks, "PATIENCE_S", 0.1)
    monkeypatch.setattr(gateway.jwks, "START_S", 0.1)
    monkeypatch.setattr(gateway.jwks, "RETRY_FIRST_S", 0.02)


async def until(condition: Any) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_keys_are_found_by_kid_and_algorithm(jwks: Jwks, issuer: Issuer) -> None:
    assert jwks.is_empty
    await jwks.start()
    assert not jwks.is_empty
    assert issuer.fetches == 1
    assert len(jwks.find("RS256", "rsa-1")) == len(jwks.find("ES256", "ec-1")) == 1
    assert jwks.find("ES256", "rsa-1") == jwks.find("RS256", "ec-1") == jwks.find("RS256", "rsa-2") == []


async def test_without_a_kid_it_must_be_clear_which_key(jwks: Jwks, issuer: Issuer) -> None:
    issuer.keys.append(SigningKey("rsa-2", rsa_key(1)).jwk())
    await jwks.start()
    assert jwks.find("RS256", None) == []
    assert jwks.find("ES256", None) == jwks.find("ES256", "ec-1")


async def test_who_waits_shares_one_fetch_and_an_unknown_kid_causes_one_in_30_s(
    jwks: Jwks, issuer: Issuer, clock: Clock
) -> None:
    await jwks.start()
    issuer.answering.clear()
    waiting = [asyncio.create_task(jwks.learn()) for _ in range(200)]
    await until(lambda: issuer.fetches == 2)
    issuer.keys = [SigningKey("rsa-2", rsa_key(1)).jwk()]
    issuer.answering.set()
    await asyncio.gather(*waiting)
    assert issuer.fetches == 2
    assert jwks.find("RS256", "rsa-2")
    assert not jwks.find("RS256", "rsa-1"), "withdrawn"

    clock.now += UNKNOWN_EVERY_S - 0.1
    assert not jwks.may_learn()
    await asyncio.gather(*(jwks.learn() for _ in range(200)))
    assert issuer.fetches == 2
    clock.now += 0.1
    assert jwks.may_learn()
    await jwks.learn()
    assert issuer.fetches == 3


async def test_a_failed_search_counts_too(jwks: Jwks, issuer: Issuer, clock: Clock) -> None:
    await jwks.start()
    issuer.mood = "error"
    for _ in range(50):
        await jwks.learn()
    assert issuer.fetches == 2


LIES = ["error", "html", "huge", "bomb", "redirect", "cut", "list", "empty", "weak"]


@pytest.mark.parametrize("mood", LIES)
async def test_whatever_the_endpoint_says_the_known_keys_stay(
    jwks: Jwks, issuer: Issuer, clock: Clock, mood: str
) -> None:
    await jwks.start()
    issuer.mood = mood
    issuer.keys = [SigningKey("rsa-2", rsa_key(1)).jwk()]
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            clock.now += UNKNOWN_EVERY_S
            await jwks.learn()
    assert issuer.fetches == 4
    assert jwks.find("RS256", "rsa-1")
    assert not jwks.find("RS256", "rsa-2")
    [line] = logs
    assert (line["event"], line["stale_keys"]) == ("jwks_failed", 2)
    assert issuer.url not in str(line)

    issuer.mood = "good"
    clock.now += UNKNOWN_EVERY_S
    await jwks.learn()
    assert jwks.find("RS256", "rsa-2")


@pytest.mark.parametrize("mood", LIES)
async def test_an_endpoint_that_lies_from_the_start_gives_no_keys(jwks: Jwks, issuer: Issuer, mood: str) -> None:
    issuer.mood = mood
    await jwks.start()
    assert jwks.is_empty


@pytest.mark.usefixtures("hasty")
async def test_an_endpoint_that_hangs_holds_nobody_up(jwks: Jwks, issuer: Issuer) -> None:
    issuer.answering.clear()
    async with asyncio.timeout(5):
        await jwks.start()
        assert jwks.is_empty
        await asyncio.gather(*(jwks.learn() for _ in range(50)))
    assert issuer.fetches == 1
    issuer.answering.set()
    await until(lambda: jwks._fetching is None)  # it has been given up
    await jwks.learn()
    assert not jwks.is_empty


@pytest.mark.usefixtures("hasty")
async def test_an_endpoint_that_goes_away_comes_back_by_itself(issuer: Issuer) -> None:
    jwks = Jwks(issuer.url, refresh_s=0.05, spawn=asyncio.create_task)
    await jwks.start()
    running = asyncio.create_task(jwks.run())
    await until(lambda: issuer.fetches >= 3)
    with structlog.testing.capture_logs() as logs:
        await issuer.close()
        await until(lambda: logs)
        assert jwks.find("RS256", "rsa-1"), "served stale"
        issuer.keys = [SigningKey("rsa-2", rsa_key(1)).jwk()]
        await issuer.open()
        await until(lambda: jwks.find("RS256", "rsa-2"))
    assert not jwks.find("RS256", "rsa-1")
    assert [line["event"] for line in logs] == ["jwks_failed", "jwks_recovered"]
    assert not running.done()
    running.cancel()


async def test_a_callers_end_does_not_end_the_fetch(jwks: Jwks, issuer: Issuer) -> None:
    issuer.answering.clear()
    impatient = asyncio.create_task(jwks.learn())
    await until(lambda: issuer.fetches == 1)
    impatient.cancel()
    issuer.answering.set()
    await until(lambda: not jwks.is_empty)
    assert issuer.fetches == 1


GOOD = SigningKey("k", rsa_key(0))
CURVED = SigningKey("k", ec_key(0))


@pytest.mark.parametrize(
    ("jwk", "algorithm"),
    [
        (GOOD.jwk(), "RS256"),
        (GOOD.jwk(alg=None, use=None, kid=None), "RS256"),
        (GOOD.jwk(key_ops=["verify"]), "RS256"),
        (CURVED.jwk(), "ES256"),
        (CURVED.jwk(alg=None, use=None, x5c=["MII"], x5t="x"), "ES256"),
        (SigningKey("k", rsa_key(9, 1024)).jwk(), None),
        (GOOD.jwk(alg="RS512"), None),
        (GOOD.jwk(alg="PS256"), None),
        (GOOD.jwk(alg="HS256"), None),
        (GOOD.jwk(alg="none"), None),
        (GOOD.jwk(alg=["RS256"]), None),
        (GOOD.jwk(alg="ES256"), None),
        (GOOD.jwk(use="enc"), None),
        (GOOD.jwk(use=["sig"]), None),
        (GOOD.jwk(key_ops=["encrypt"]), None),
        (GOOD.jwk(key_ops="verify"), None),
        (GOOD.jwk(key_ops=[{}]), None),
        (GOOD.jwk(kid=7), None),
        (GOOD.jwk(kid="k" * 256), None),
        (GOOD.jwk(kty="oct"), None),
        (GOOD.jwk(kty=["RSA"]), None),
        (GOOD.jwk(kty=None), None),
        (GOOD.jwk(n=None), None),
        (GOOD.jwk(n="!"), None),
        (GOOD.jwk(n=7), None),
        (GOOD.jwk(n=""), None),
        (GOOD.jwk(e="AQ"), None),  # 1: everything is its own signature
        (GOOD.jwk(e="AA"), None),
        (GOOD.jwk(n="_" * 3000), None),
        (GOOD.jwk(d="AQAB"), None),
        ({"kty": "oct", "k": "c2VjcmV0", "kid": "k", "alg": "RS256"}, None),
        (SigningKey("k", ec_key(0, ec.SECP384R1)).jwk(alg="ES256"), None),
        (SigningKey("k", ec_key(0, ec.SECP256K1)).jwk(alg="ES256"), None),
        (CURVED.jwk(crv="P-384"), None),
        (CURVED.jwk(crv=None), None),
        (CURVED.jwk(x="AA"), None),
        (CURVED.jwk(x="A" * 43), None),
        (CURVED.jwk(y=None), None),
        (CURVED.jwk(alg="ES384"), None),
        (CURVED.jwk(d="AA"), None),
        ([], None),
        (None, None),
        ("RSA", None),
    ],
)
def test_which_keys_are_usable(jwk: Any, algorithm: str | None) -> None:
    beside = SigningKey("beside", ec_key(1)).jwk()
    keys = usable_keys(json.dumps({"keys": [jwk, beside]}).encode())
    assert [key.algorithm for key in keys] == ([algorithm] if algorithm else []) + ["ES256"]


def test_keys_of_one_kid_are_all_kept_and_their_number_is_bounded() -> None:
    both = [GOOD.jwk(), SigningKey("k", rsa_key(1)).jwk(), CURVED.jwk()]
    assert [key.kid for key in usable_keys(json.dumps({"keys": both}).encode())] == ["k"] * 3
    assert len(usable_keys(json.dumps({"keys": [CURVED.jwk()] * 1000}).encode())) == MAX_KEYS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = {
    "kty": st.sampled_from(["RSA", "EC", "oct"]) | JSON,
    "kid": JSON,
    "crv": st.sampled_from(["P-256", "P-384"]) | JSON,
    "n": st.text("AQ_-=/", max_size=400) | JSON,
    "e": st.sampled_from(["AQAB", "Aw"]) | JSON,
    "x": st.text("AQ_-", min_size=43, max_size=43) | JSON,
    "y": st.text("AQ_-", min_size=43, max_size=43) | JSON,
}


@given(st.lists(st.fixed_dictionaries({}, optional=MEMBERS) | JSON, max_size=4))
def test_keys_of_any_shape_never_crash(keys: list[Any]) -> None:
    with contextlib.suppress(BadAnswer):
        usable_keys(json.dumps({"keys": keys}).encode())


@given(st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_no_keys(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        usable_keys(body)
