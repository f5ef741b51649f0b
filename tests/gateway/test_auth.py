"""Tokens: who is let in, and every way in which an attacker's token is not."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth import MAX_TOKEN_BYTES, Authenticator, AuthError
from gateway.settings import Auth

SECRET = "a secret of more than thirty-two bytes"
NOW = 1_700_000_000


def authenticator(**settings: Any) -> Authenticator:
    return Authenticator(Auth(**{"secret": SECRET, **settings}), clock=lambda: NOW)


def signed(payload: str | bytes, header: str = '{"alg":"HS256","typ":"JWT"}', secret: str = SECRET) -> str:
    """A token of these very bytes, correctly signed: what no library would make."""
    raw = payload.encode() if isinstance(payload, str) else payload
    signing_input = _base64(header.encode()) + b"." + _base64(raw)
    return (signing_input + b"." + _base64(hmac.digest(secret.encode(), signing_input, hashlib.sha256))).decode()


def token(**claims: Any) -> str:
    """A good token of user 7, but for `claims`; None leaves one out."""
    merged = {"sub": "7", "exp": NOW + 60, **claims}
    return signed(json.dumps({name: value for name, value in merged.items() if value is not None}))


def code_of(given_token: str, *, leeway: bool = False, **settings: Any) -> str:
    with pytest.raises(AuthError) as caught:
        authenticator(**settings).verify(given_token, leeway=leeway)
    error = caught.value
    assert len(given_token) < 20 or given_token not in repr(error)
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
    return error.code


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def test_a_good_token_says_who_asks() -> None:
    claims = authenticator().verify(
        token(username="john_doe", roles=["viewer", "creator", "somebody else's"], iat=NOW, jti="t1"), leeway=False
    )
    assert (claims.caller.user_id, claims.caller.subject) == (7, "7")
    assert claims.caller.roles == {"viewer", "creator"}
    assert (claims.username, claims.jti, claims.expires_at, claims.issued_at) == ("john_doe", "t1", NOW + 60, NOW)


def test_pyjwt_made_tokens_are_read() -> None:
    made = jwt.encode({"sub": "7", "exp": NOW + 1}, SECRET, algorithm="HS256", headers={"kid": "main"})
    assert authenticator().verify(made, leeway=False).caller.user_id == 7


def test_claims_are_configurable() -> None:
    claims = authenticator(subject_claim="uid", roles_claim="app/roles", username_claim="name").verify(
        token(sub=None, uid="9", name="nine", **{"app/roles": ["admin"]}), leeway=False
    )
    assert (claims.caller.user_id, claims.username, claims.caller.is_backend) == (9, "nine", True)


@pytest.mark.parametrize(
    ("made", "code"),
    [
        ("", "token_missing"),
        ("x", "token_invalid"),
        ("a.b.c", "token_invalid"),
        ("....", "token_invalid"),
        ("\ud800", "token_invalid"),
        ("é.é.é", "token_invalid"),
        (token() + "A", "token_invalid"),
        (token()[:-2], "token_invalid"),
        (" " + token(), "token_invalid"),
        (token(padding="x" * MAX_TOKEN_BYTES), "token_invalid"),
        (signed('{"sub":"7","exp":1700000060}', secret="somebody else's secret of 32 bytes and more"), "token_invalid"),
        (signed('{"sub":"7","exp":1700000060}', secret=""), "token_invalid"),
        (jwt.encode({"sub": "7", "exp": NOW + 60}, "", algorithm="none"), "token_invalid"),
        (jwt.encode({"sub": "7", "exp": NOW + 60}, SECRET * 2, algorithm="HS384"), "token_invalid"),
        (jwt.encode({"sub": "7", "exp": NOW + 60}, SECRET * 2, algorithm="HS512"), "token_invalid"),
    ],
)
def test_what_is_not_our_token(made: str, code: str) -> None:
    assert code_of(made) == code


@pytest.mark.parametrize(
    "header",
    [
        '{"alg":"none"}',
        '{"alg":"None"}',
        '{"alg":"hs256"}',
        '{"alg":"HS512"}',
        '{"alg":"RS256"}',
        '{"alg":"ES256"}',
        '{"alg":""}',
        '{"alg":null}',
        '{"alg":["HS256"]}',
        '{"alg":{"HS256":1}}',
        '{"typ":"JWT"}',
        '{"alg":"HS256","kid":7}',
        '{"alg":"HS256","crit":["exp"]}',
        '{"alg":"HS256","crit":[]}',
        '{"alg":"HS256","crit":["b64"],"b64":false}',
        '{"alg":"HS256","b64":false}',
        '{"alg":"HS256","b64":true}',
        '{"alg":"HS256","jku":"https://evil.example/jwks"}',
        '{"alg":"HS256","jwk":{"kty":"oct","k":"AAAA"}}',
        '{"alg":"HS256","x5u":"https://evil.example/cert"}',
        '{"alg":"HS256","x5c":["MII"]}',
        '{"alg":"HS256","zip":"DEF"}',
        "[]",
        "null",
        "7",
        '"HS256"',
        "",
        "[" * 4000,
        '{"alg":"HS256"',
    ],
)
def test_the_header_proposes_nothing(header: str) -> None:
    assert code_of(signed('{"sub":"7","exp":1700000060}', header)) == "token_invalid"


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize(
    "value",
    [
        '"1700000060"', "null", "true", "[]", "{}", "[1700000060]", "NaN", "Infinity", "-Infinity", "1e400", "-1e400",
        "-1", "1e300", "9" * 400, "9" * 5000, "1700000060000", '""', "[" * 3000, "01700000060", "",
    ],
)  # fmt: skip
def test_absurd_dates_are_invalid(name: str, value: str) -> None:
    exp = "" if name == "exp" else '"exp":1700000060,'
    assert code_of(signed(f'{{"sub":"7",{exp}"{name}":{value}}}'), leeway=True) == "token_invalid"


@pytest.mark.parametrize(
    "payload",
    [
        "{}", "[]", "null", "7", '"x"', "", "not json", '{"exp":1700000060}', '{"sub":"7"}', b"\xff\xfe", "[" * 4000,
        '{"a":' * 1000, '{"sub":"7","exp":1700000060} {}', '{"sub":"\\ud800","exp":1700000060}',
        '{"sub":"7","exp":1700000060',
    ],
)  # fmt: skip
def test_absurd_payloads_are_invalid(payload: str | bytes) -> None:
    assert code_of(signed(payload)) == "token_invalid"


@pytest.mark.parametrize(
    "sub",
    ["", "0", "9007199254740992", "9" * 200, "\x007", 7, 7.0, True, ["7"], {"7": 7}, "x" * 256],
)
def test_some_subjects_are_nobodys(sub: Any) -> None:
    assert code_of(token(sub=sub)) == "token_invalid"


@pytest.mark.parametrize("sub", ["-7", "+7", "7.0", "7e0", " 7", "7 ", "7\n", "٧", "007", "00", "auth0|7", "x" * 255])
def test_all_others_are_identities(sub: str) -> None:
    claims = authenticator().verify(token(sub=sub, iss="i"), leeway=False)
    assert (claims.caller.subject, claims.caller.user_id, claims.issuer) == (sub, None, "i")


@pytest.mark.parametrize(("sub", "user_id"), [("backend", None), ("007", None), ("auth0|7", None), ("7", 7)])
def test_backends_may_have_any_subject(sub: str, user_id: int | None) -> None:
    caller = authenticator().verify(token(sub=sub, roles=["service"]), leeway=False).caller
    assert (caller.subject, caller.user_id, caller.is_backend) == (sub, user_id, True)


@pytest.mark.parametrize("sub", ["0", "9007199254740992", "", "a\0b"])
def test_some_subjects_are_invalid_even_for_backends(sub: str) -> None:
    assert code_of(token(sub=sub, roles=["service"])) == "token_invalid"


@pytest.mark.parametrize("roles", ["service", 7, True, {"service": 1}, [7], [["service"]], ["x"] * 65])
def test_absurd_roles_are_invalid(roles: Any) -> None:
    assert code_of(token(roles=roles)) == "token_invalid"


@pytest.mark.parametrize("username", [7, "", "a\0b", "x" * 101, ["john"], {"a": 1}])
def test_an_unusable_username_is_none(username: Any) -> None:
    assert authenticator().verify(token(username=username), leeway=False).username is None


@pytest.mark.parametrize(
    ("exp", "leeway", "leeway_s", "is_good"),
    [
        (NOW + 1, False, 60, True),
        (NOW + 0.5, False, 60, True),
        (NOW, False, 60, False),
        (NOW - 1, False, 60, False),
        (NOW - 59, True, 60, True),
        (NOW - 60, True, 60, False),
        (NOW - 61, True, 3600, False),
        (NOW - 1, True, 0, False),
    ],
)
def test_expiry_and_leeway(exp: float, leeway: bool, leeway_s: float, is_good: bool) -> None:
    if is_good:
        assert authenticator(leeway_s=leeway_s).verify(token(exp=exp), leeway=leeway).expires_at == exp
    else:
        assert code_of(token(exp=exp), leeway=leeway, leeway_s=leeway_s) == "token_expired"


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_beginning_may_be_as_far_ahead_as_clocks_differ(name: str) -> None:
    authenticator().verify(token(**{name: NOW + 60}), leeway=False)
    assert code_of(token(**{name: NOW + 61}), leeway=True) == "token_invalid"


def test_an_expired_token_of_a_stranger_is_invalid_not_expired() -> None:
    assert code_of(signed('{"sub":"7","exp":1}', secret="x" * 32)) == "token_invalid"
    assert code_of(token(exp=1, sub="0")) == "token_invalid"


@pytest.mark.parametrize("iss", [None, "", "other", "https://issuer.example/", ["https://issuer.example"], 7])
def test_a_set_issuer_must_match(iss: Any) -> None:
    assert code_of(token(iss=iss), issuer="https://issuer.example") == "token_invalid"


@pytest.mark.parametrize("aud", [None, "", "other", ["other"], [], 7, ["applause", 7], {"applause": 1}])
def test_a_set_audience_must_be_named(aud: Any) -> None:
    assert code_of(token(aud=aud), audience="applause") == "token_invalid"


@pytest.mark.parametrize("aud", ["applause", ["other", "applause"]])
def test_issuer_and_audience_that_match(aud: Any) -> None:
    made = token(iss="https://issuer.example", aud=aud)
    assert authenticator(issuer="https://issuer.example", audience="applause").verify(made, leeway=False)


def test_unset_issuer_and_audience_are_not_looked_at() -> None:
    assert authenticator().verify(token(iss=7, aud={"a": 1}), leeway=False)


def test_without_a_secret_there_is_no_authenticator() -> None:
    with pytest.raises(ValueError, match="secret"):
        authenticator(secret="")


@given(st.binary(max_size=200))
def test_any_signed_bytes_are_refused_or_understood(payload: bytes) -> None:
    assert code_of(signed(payload)) == "token_invalid"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["sub", "exp", "nbf", "iat", "roles", "username", "jti", "iss", "aud"]), JSON))
def test_claims_of_any_shape_never_crash(claims: dict[str, Any]) -> None:
    with contextlib.suppress(AuthError):
        authenticator(issuer="i", audience="a").verify(token(**claims), leeway=True)


@given(st.text(max_size=200))
def test_any_text_is_no_token(text: str) -> None:
    assert code_of(text) == ("token_missing" if not text else "token_invalid")
