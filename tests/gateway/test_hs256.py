"""hs256.py: what it reads without PyJWT, PyJWT reads alike."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Sequence
from typing import Any, TypeVar

import jwt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.auth import Authenticator, AuthError
from gateway.hs256 import MOST_HEADERS, Hs256
from gateway.settings import Auth
from handlers.caller import Claims

SECRET, PREVIOUS, FOREIGN = (f"a secret of more than thirty-two bytes: {name}" for name in ("now", "before", "no"))
NOW = 1_700_000_000
SETTINGS = Auth(secret=SECRET, previous_secret=PREVIOUS)


def token(secret: str = SECRET, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    return jwt.encode({"sub": "7", "exp": NOW + 60, **claims}, secret, algorithm="HS256", headers=headers)


def judged(authenticator: Authenticator, given_token: str) -> Claims | str:
    try:
        return authenticator.verify(given_token, leeway=False)
    except AuthError as error:
        return error.code


def by_pyjwt(given_token: str) -> Claims | str:
    """What an authenticator says that has seen no token before, so that PyJWT reads this one."""
    return judged(Authenticator(SETTINGS, clock=lambda: NOW), given_token)


SEEN = (token(), token(PREVIOUS), token(headers={"kid": "k"}), token(headers={"typ": None}))
EXPERIENCED = Authenticator(SETTINGS, clock=lambda: NOW)
HS256 = Hs256([SECRET.encode(), PREVIOUS.encode()])
for _seen in SEEN:
    EXPERIENCED.verify(_seen, leeway=False)
    HS256.trust_header_of(_seen)


def signed_payload(given_token: str) -> bytes | None:
    """What PyJWT itself finds signed with one of the secrets."""
    for secret in (SECRET, PREVIOUS):
        with contextlib.suppress(jwt.PyJWTError, UnicodeEncodeError):
            payload: bytes = jwt.PyJWS().decode_complete(given_token, secret, algorithms=["HS256"])["payload"]
            return payload
    return None


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


T = TypeVar("T")


def _mostly(usual: Sequence[T], others: Sequence[T]) -> st.SearchStrategy[T]:
    return st.sampled_from([*usual] * (1 + 4 * len(others) // len(usual)) + [*others])


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
SECRETS = _mostly([SECRET, PREVIOUS], [FOREIGN])
HEADERS: st.SearchStrategy[Any] = _mostly(
    [{"alg": "HS256", "typ": "JWT"}, {"alg": "HS256"}],
    [
        {"alg": "HS256", "typ": "JWT", "kid": "k"},
        {"alg": "HS256", "kid": 1},
        {"alg": "HS384"},
        {"alg": "none"},
        {"alg": "HS256", "crit": ["b64"], "b64": False},
        {"alg": "HS256", "jku": "http://other"},
        {"typ": "JWT"},
        [],
    ],
)
CLAIMS = st.fixed_dictionaries(
    {"sub": _mostly(["7", "12345", "auth0|7"], ["07", "", 7]), "exp": _mostly([NOW + 60], [NOW, NOW - 1, "later"])},
    optional={"iat": _mostly([NOW], [NOW + 3600]), "roles": st.just(["viewer"]), "jti": st.text(max_size=3)},
)
PAYLOADS = CLAIMS.map(lambda claims: json.dumps(claims).encode()) | st.sampled_from([b"", b"[]", b"{}", b"\xff"])


@st.composite
def tokens(draw: st.DrawFn) -> str:
    """Signed tokens, and what somebody may make of one, its issuer included: a segment in another spelling, cut,
    changed or repeated."""
    header = json.dumps(draw(HEADERS), separators=(",", ":")).encode()
    segments = [_unpadded(header), _unpadded(draw(PAYLOADS))]
    spoil_first = draw(st.booleans())
    if spoil_first:
        segments = _spoiled(draw, segments)
    signer = jwt.PyJWS().get_algorithm_by_name("HS256")
    signed = ".".join(segments).encode(errors="surrogatepass")
    segments.append(_unpadded(signer.sign(signed, signer.prepare_key(draw(SECRETS)))))
    return ".".join(segments if spoil_first else _spoiled(draw, segments))


def _spoiled(draw: st.DrawFn, segments: list[str]) -> list[str]:
    at = draw(st.integers(0, len(segments) - 1))
    whole = segments[at]
    spoil = draw(
        st.sampled_from(
            [
                lambda: [whole],
                lambda: [whole + "=" * draw(st.integers(1, 3))],
                lambda: [whole[:-1] + ALPHABET[(ALPHABET.index(whole[-1:]) + 1) % 64]],  # may stand for the same bytes
                lambda: [whole[:4] + draw(st.sampled_from("! \n\0=é\ud800")) + whole[4:]],
                lambda: [whole[:4] + draw(st.sampled_from(ALPHABET)) + whole[5:]],
                lambda: [whole[: draw(st.integers(0, len(whole)))]],
                lambda: [whole, whole],
                lambda: [whole.replace("-", "+").replace("_", "/")],
            ]
        )
    )
    return [*segments[:at], *spoil(), *segments[at + 1 :]]


@example(token())
@example(token(PREVIOUS))
@example(token(FOREIGN))
@example(token(jti="~~~???"))
@example(token() + ".")
@example("." + token())
@settings(max_examples=1_000)
@given(tokens())
def test_pyjwt_judges_every_token_alike(made: str) -> None:
    assert judged(EXPERIENCED, made) == by_pyjwt(made)
    assert HS256.payload(made) in (None, signed_payload(made))


@given(st.text(max_size=40))
def test_any_text_is_judged_alike(made: str) -> None:
    header = token().partition(".")[0]
    for each in (made, f"{header}.{made}", f"{header}.{made}.{made}"):
        assert judged(EXPERIENCED, each) == by_pyjwt(each)
        assert HS256.payload(each) is None


@pytest.mark.parametrize("secret", [SECRET, PREVIOUS])
def test_a_known_header_needs_no_pyjwt(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwt.PyJWS, "decode_complete", None)
    assert isinstance(judged(EXPERIENCED, token(secret, jti="new")), Claims)


def test_only_the_header_of_a_good_token_is_trusted() -> None:
    authenticator = Authenticator(SETTINGS, clock=lambda: NOW)
    for bad in (token(FOREIGN), token(headers={"jku": "http://other"}), "x.y.z"):
        judged(authenticator, bad)
        assert authenticator._hs256._headers == set()
    judged(authenticator, token())
    assert authenticator._hs256._headers == {token().partition(".")[0]}


def test_the_headers_that_are_kept_are_bounded() -> None:
    hs256 = Hs256([SECRET.encode()])
    many = [token(headers={"kid": str(number)}) for number in range(MOST_HEADERS + 1)]
    for each in many:
        hs256.trust_header_of(each)
    assert [hs256.payload(each) is not None for each in many] == [True] * MOST_HEADERS + [False]


def test_without_a_secret_nothing_is_read() -> None:
    hs256 = Hs256([])
    hs256.trust_header_of(token())
    assert hs256.payload(token()) is None
