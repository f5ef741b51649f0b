"""Tokens of published keys: RS256 and ES256 beside HS256, and every way to confuse them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.auth import Authenticator, AuthError, KeyUnknown
from gateway.jwks import Jwks
from gateway.settings import Auth
from tests.support.issuer import ISSUER, Issuer, SigningKey, ec_key, rsa_key

SECRET = "a secret of more than thirty-two bytes"
OLD_SECRET = "the secret that was in use before it"


@pytest.fixture
async def jwks(issuer: Issuer) -> Jwks:
    made = Jwks(issuer.url, refresh_s=3600, spawn=asyncio.create_task)
    await made.start()
    return made


@pytest.fixture
def authenticator(jwks: Jwks) -> Authenticator:
    return Authenticator(Auth(secret=SECRET, jwks_url="https://issuer.example"), jwks=jwks)


def code_of(authenticator: Authenticator, token: str) -> str:
    with pytest.raises(AuthError) as caught:
        authenticator.verify(token, leeway=True)
    assert token not in repr(caught.value)
    assert caught.value.__cause__ is None
    return "unknown key" if isinstance(caught.value, KeyUnknown) else caught.value.code


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signing_input(header: dict[str, Any], claims: dict[str, Any] | None = None) -> str:
    given = {"sub": "7", "exp": int(time.time()) + 60} if claims is None else claims
    return f"{b64(json.dumps(header).encode())}.{b64(json.dumps(given).encode())}"


def with_hmac(header: dict[str, Any], secret: bytes) -> str:
    head = signing_input(header)
    return f"{head}.{b64(hmac.digest(secret, head.encode(), hashlib.sha256))}"


async def test_each_algorithm_has_its_own_keys(authenticator: Authenticator, issuer: Issuer) -> None:
    for token in (
        issuer.rsa.token("7"),
        issuer.ec.token("7"),
        jwt.encode({"sub": "7", "exp": time.time() + 60}, SECRET, algorithm="HS256"),
        jwt.encode({"sub": "7", "exp": time.time() + 60}, SECRET, algorithm="HS256", headers={"kid": "rsa-1"}),
    ):
        assert authenticator.verify(token, leeway=False).caller.user_id == 7
    assert issuer.fetches == 1


async def test_a_subject_that_is_no_number_is_an_identity_of_its_issuer(
    authenticator: Authenticator, issuer: Issuer
) -> None:
    for subject in ("auth0|7", "007", "3f0c9a1e-1111-4222-8333-444455556666", "x" * 255):
        claims = authenticator.verify(issuer.rsa.token(subject), leeway=False)
        assert (claims.caller.user_id, claims.issuer, claims.caller.subject) == (None, ISSUER, subject)
    assert authenticator.verify(issuer.rsa.token("7", iss=None), leeway=False).issuer is None
    assert authenticator.verify(issuer.rsa.token("auth0|7", iss=None), leeway=False).issuer == ""
    for odd in ("a\0b", 7, "", "i" * 256, ["x"]):
        assert code_of(authenticator, issuer.rsa.token("auth0|7", iss=odd)) == "token_invalid"


async def test_the_public_key_is_no_secret(authenticator: Authenticator, issuer: Issuer, jwks: Jwks) -> None:
    """The classic: HS256 with what everybody can read. Also where no secret is set at all."""
    public = issuer.rsa.key.public_key()
    candidates = [
        public.public_bytes(encoding, form)
        for encoding in (Encoding.PEM, Encoding.DER)
        for form in (PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1)
    ]
    candidates += [json.dumps(issuer.rsa.jwk()).encode(), issuer.rsa.jwk()["n"].encode(), b"", b"rsa-1"]
    without_secret = Authenticator(Auth(jwks_url="https://issuer.example"), jwks=jwks)
    for secret in candidates:
        for header in ({"alg": "HS256", "kid": "rsa-1"}, {"alg": "HS256"}, {"alg": "RS256", "kid": "rsa-1"}):
            assert code_of(authenticator, with_hmac(header, secret)) == "token_invalid"
            assert code_of(without_secret, with_hmac(header, secret)) == "token_invalid"
    good = jwt.encode({"sub": "7", "exp": time.time() + 60}, SECRET, algorithm="HS256")
    assert code_of(without_secret, good) == "token_invalid"
    assert issuer.fetches == 1


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"}, {"alg": "None"}, {"alg": "RS384", "kid": "rsa-1"}, {"alg": "RS512", "kid": "rsa-1"},
        {"alg": "PS256", "kid": "rsa-1"}, {"alg": "ES384", "kid": "ec-1"}, {"alg": "ES256K", "kid": "ec-1"},
        {"alg": "EdDSA", "kid": "ec-1"}, {"alg": "rs256", "kid": "rsa-1"}, {"alg": ["RS256"], "kid": "rsa-1"},
        {"alg": "RS256", "kid": 7}, {"alg": "RS256", "kid": None}, {"alg": "RS256", "kid": ["rsa-1"]},
        {"alg": "RS256", "kid": "k" * 256}, {"alg": "RS256", "kid": {"$ne": 1}},
        {"alg": "RS256", "kid": "rsa-1", "jku": "https://evil.example/jwks"},
        {"alg": "RS256", "kid": "new", "jku": "https://evil.example/jwks"},
        {"alg": "RS256", "kid": "new", "x5u": "https://evil.example/cert"},
        {"alg": "RS256", "kid": "new", "x5c": ["MII"]},
        {"alg": "RS256", "kid": "new", "jwk": {"kty": "RSA"}},
        {"alg": "RS256", "kid": "new", "crit": ["exp"]},
        {"alg": "RS256", "kid": "rsa-1", "b64": False},
    ],
    ids=repr,
)  # fmt: skip
async def test_headers_that_get_nobody_in_and_fetch_nothing(
    authenticator: Authenticator, issuer: Issuer, header: dict[str, Any]
) -> None:
    for signature in ("", "AAAA", b64(bytes(256)), b64(bytes(64))):
        assert code_of(authenticator, f"{signing_input(header)}.{signature}") == "token_invalid"
    assert issuer.fetches == 1


@pytest.mark.parametrize("name", ["jku", "x5u", "x5c", "jwk", "crit", "zip"])
async def test_a_good_signature_does_not_excuse_a_header(
    authenticator: Authenticator, issuer: Issuer, name: str
) -> None:
    assert (
        code_of(authenticator, issuer.rsa.token(header={name: ["exp"] if name == "crit" else "x"})) == "token_invalid"
    )


@pytest.mark.parametrize("kid", ["new", "", "../../../../dev/null", "' OR 1=1 --", "\0", "rsa-1\0", "RSA-1", " rsa-1"])
async def test_a_hostile_kid_is_only_unknown(authenticator: Authenticator, issuer: Issuer, kid: str) -> None:
    for key in (issuer.rsa, issuer.ec):
        token = key.token(header={"kid": kid})
        assert code_of(authenticator, token) == "unknown key"
    for _ in range(20):
        with pytest.raises(AuthError, match="not valid"):
            await authenticator.verify_patiently(token, leeway=True)
    assert issuer.fetches == 2


async def test_signatures_of_others(authenticator: Authenticator, issuer: Issuer) -> None:
    stranger, curved = SigningKey("rsa-1", rsa_key(5)), SigningKey("ec-1", ec_key(5))
    other_curve = jwt.encode(
        {"sub": "7", "exp": time.time() + 60}, ec_key(0, ec.SECP384R1), algorithm="ES384", headers={"kid": "ec-1"}
    )
    for token in (stranger.token(), curved.token(), other_curve, issuer.rsa.token()[:-3], issuer.rsa.token() + "A"):
        assert code_of(authenticator, token) == "token_invalid"
    swapped = SigningKey("ec-1", rsa_key(0)).token()  # RS256 by a published key, under the name of the other one
    assert code_of(authenticator, swapped) == "unknown key"


async def test_signatures_of_elliptic_curves_are_taken_in_one_form_only(
    authenticator: Authenticator, issuer: Issuer
) -> None:
    """`r` and `s` of zero sign everything where nobody looks; and DER is another encoding of the same signature."""
    head = signing_input({"alg": "ES256", "kid": "ec-1"})
    der = ec_key(0).sign(head.encode(), ec.ECDSA(SHA256()))
    order = int("FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551", 16)
    for signature in (bytes(64), order.to_bytes(32, "big") * 2, der, encode_dss_signature(0, 0), b"", bytes(63)):
        assert code_of(authenticator, f"{head}.{b64(signature)}") == "token_invalid"


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"iss": None}, "token_invalid"), ({"iss": "https://issuer.example"}, "token_invalid"),
        ({"iss": "https://evil.example/"}, "token_invalid"), ({"iss": [ISSUER]}, "token_invalid"),
        ({"aud": None}, "token_invalid"), ({"aud": "other"}, "token_invalid"), ({"aud": ["other"]}, "token_invalid"),
        ({"exp": None}, "token_invalid"), ({"exp": 1}, "token_expired"), ({"exp": 10**20}, "token_invalid"),
        ({"exp": "never"}, "token_invalid"), ({"nbf": 10**10}, "token_invalid"), ({"iat": 10**10}, "token_invalid"),
        ({"iat": -1}, "token_invalid"), ({"sub": None}, "token_invalid"), ({"sub": "0"}, "token_invalid"),
    ],
    ids=repr,
)  # fmt: skip
async def test_claims_are_checked_as_ever(issuer: Issuer, jwks: Jwks, claims: dict[str, Any], code: str) -> None:
    authenticator = Authenticator(Auth(jwks_url="x", issuer=ISSUER, audience="applause"), jwks=jwks)
    assert authenticator.verify(issuer.rsa.token(aud="applause"), leeway=True).caller.user_id == 7
    subject = claims.get("sub", "7")
    rest = {name: value for name, value in claims.items() if name != "sub"}
    assert code_of(authenticator, issuer.rsa.token(subject, **{"aud": "applause", **rest})) == code


async def test_rotation_needs_one_fetch_and_then_none(authenticator: Authenticator, issuer: Issuer) -> None:
    new = SigningKey("rsa-2", rsa_key(1))
    issuer.keys = [new.jwk(), issuer.ec.jwk()]
    results = await asyncio.gather(*(authenticator.verify_patiently(new.token(n), leeway=False) for n in ("7", "8")))
    assert [claims.caller.user_id for claims in results] == [7, 8]
    assert issuer.fetches == 2
    assert authenticator.verify(new.token(), leeway=False)
    assert code_of(authenticator, issuer.rsa.token()) == "token_invalid", "withdrawn; and 30 s are not over"


async def test_before_the_first_keys_nothing_can_be_said(issuer: Issuer) -> None:
    issuer.mood = "error"
    empty = Jwks(issuer.url, refresh_s=3600, spawn=asyncio.create_task)
    authenticator = Authenticator(Auth(secret=SECRET, jwks_url="x"), jwks=empty)
    with pytest.raises(AuthError) as caught:
        await authenticator.verify_patiently(issuer.rsa.token(), leeway=False)
    assert caught.value.code == "unavailable"
    assert code_of(authenticator, issuer.rsa.token(header={"kid": "other"})) == "unavailable"
    assert issuer.fetches == 1
    good = jwt.encode({"sub": "7", "exp": time.time() + 60}, SECRET, algorithm="HS256")
    assert authenticator.verify(good, leeway=False), "the secret needs nobody"


async def test_a_token_without_a_kid(issuer: Issuer) -> None:
    nameless = SigningKey(None, rsa_key(0))
    issuer.keys = [nameless.jwk(), issuer.ec.jwk()]
    jwks = Jwks(issuer.url, refresh_s=3600, spawn=asyncio.create_task)
    await jwks.start()
    authenticator = Authenticator(Auth(jwks_url="x"), jwks=jwks)
    assert authenticator.verify(nameless.token(), leeway=False)
    assert code_of(authenticator, SigningKey(None, rsa_key(1)).token()) == "token_invalid"
    assert issuer.fetches == 1, "no reason to ask again"


def test_two_secrets_are_taken_while_one_is_being_replaced() -> None:
    both = Authenticator(Auth(secret=SECRET, previous_secret=OLD_SECRET))
    claims = {"sub": "7", "exp": time.time() + 60}
    for secret in (SECRET, OLD_SECRET):
        assert both.verify(jwt.encode(claims, secret, algorithm="HS256"), leeway=False).caller.user_id == 7
    for other in (SECRET + OLD_SECRET, SECRET[:-1], "somebody else's secret of 32 bytes and more"):
        assert code_of(both, jwt.encode(claims, other, algorithm="HS256")) == "token_invalid"
    after = Authenticator(Auth(secret=SECRET))
    assert code_of(after, jwt.encode(claims, OLD_SECRET, algorithm="HS256")) == "token_invalid"
