"""Tokens are accepted by the rules alone, and the policy for keys comes before any token."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from joserfc.jwk import Key, OctKey, OKPKey
from joserfc.jws import JWSRegistry
from joserfc.util import int_to_base64, urlsafe_b64encode
from pytest_mock import MockerFixture

from tests.issuer import AUDIENCE, Issuer, ec_key, ed_key, rsa_key, signed
from tests.unit.conftest import Clock
from user_service.errors import Unauthenticated, Unavailable
from user_service.security.key_policy import SigningKey, acceptable_keys
from user_service.security.key_set import KeySet, parse_key_set
from user_service.security.refreshed_value import RefreshedValue
from user_service.security.tokens import TokenVerifier

ALGORITHMS = ("RS256", "ES256", "Ed25519")
RSA, EC, ED = rsa_key("rsa"), ec_key("ec"), ed_key("ed")
ISSUER = Issuer(RSA, EC, ED)
OTHER = rsa_key("rsa")
SECRET = OctKey.import_key("a secret that a server and its clients share", {"kid": "secret"})
FAR = 10**10
HEADER = {"alg": "RS256", "kid": "rsa"}
VALID = ISSUER.token()


class FixedKeys(RefreshedValue[KeySet]):
    """The key set of the issuer, without reads; lists the wishes for a newer one."""

    def __init__(self) -> None:
        self.set = parse_key_set(ISSUER.document(), ALGORITHMS)
        self.wishes: list[float] = []

    def get(self) -> KeySet:
        return self.set

    def refresh(self, *, at_most_every: float = 0) -> None:
        self.wishes.append(at_most_every)


def verifier(
    keys: FixedKeys | None = None, clock: Callable[[], float] = time.time
) -> TokenVerifier:
    scopes = ("scope", "scp")
    return TokenVerifier(keys or FixedKeys(), ISSUER.url, AUDIENCE, scopes, leeway=30, clock=clock)


def reason(token: str) -> str:
    with pytest.raises(Unauthenticated) as raised:
        verifier().principal(token)
    return str(raised.value)


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=lambda key: key.kid)
def test_valid_token_gives_a_name_without_personal_data_and_scopes(key: Key) -> None:
    principal = verifier().principal(ISSUER.token("users:read users:write", key=key))
    assert principal.scopes == {"users:read", "users:write"}
    assert principal.name.startswith("sub:")
    assert "ada" not in principal.name
    same, other = (ISSUER.token(sub=subject) for subject in ("ada@example.com", "grace"))
    assert verifier().principal(same).name == principal.name
    assert verifier().principal(other).name != principal.name


@pytest.mark.parametrize(
    "claims",
    [{"aud": ["other", AUDIENCE]}, {"exp": FAR}, {"nbf": 0, "iat": 0}, {"custom": {"nested": [1]}}],
)
@pytest.mark.parametrize("header", [{}, {"typ": None}, {"typ": "JWT"}, {"x5t": "AA"}])
def test_harmless_variations_are_accepted(claims: dict[str, Any], header: dict[str, Any]) -> None:
    assert verifier().principal(ISSUER.token(header=header, **claims)).name


@pytest.mark.parametrize(
    ("claim", "values"),
    [
        ("exp", [None, str(FAR), True]),
        ("nbf", [FAR]),
        ("iat", [FAR]),
        ("iss", ["https://other.example", f"{ISSUER.url}/", None, [ISSUER.url]]),
        ("aud", ["other", [], None, {AUDIENCE: 1}]),
        ("sub", [None, "", 7]),
    ],
)
def test_claim_that_breaks_a_rule(claim: str, values: list[Any]) -> None:
    for value in values:
        assert f"claim {claim}" in reason(ISSUER.token(**{claim: value}))


@pytest.mark.parametrize(
    ("complaint", "tokens"),
    [
        ("malformed", ["", "x", "a.b.c", "é.é.é", f"{VALID}.x", f"{VALID}=", VALID[:-1]]),
        # The header is ["alg"], "alg", null, and 7.
        ("malformed", ["WyJhbGciXQ.e30.", "ImFsZyI.e30.", "bnVsbA.e30.", "Nw.e30."]),
        ("signature", [VALID.rpartition(".")[0] + ".", ISSUER.token(key=OTHER)]),
        ("signature", [ISSUER.token(key=SECRET, header={"kid": "rsa"})]),
        ("not known", [ISSUER.token(key=key) for key in (rsa_key("unknown"), SECRET)]),
        ("not known", [ISSUER.token(header={"kid": None})]),
        ("no claims", [signed(HEADER, payload, RSA) for payload in (b"[1]", b'{"exp": NaN}')]),
        ("expired", [ISSUER.token(exp=1)]),
    ],
)
def test_token_that_breaks_a_rule(complaint: str, tokens: list[str]) -> None:
    for token in tokens:
        assert complaint in reason(token)


@pytest.mark.parametrize(
    "field",
    [
        {"typ": "logout+jwt"},
        {"jku": "https://other.example/keys"},
        {"x5u": "https://other.example/chain"},
        {"jwk": EC.as_dict(private=False)},
        *({"crit": ["exp"]}, {"zip": "DEF"}, {"enc": "A128GCM"}),
    ],
)
def test_header_of_another_type_or_with_an_extension_is_refused(field: dict[str, Any]) -> None:
    assert "header" in reason(with_header(**HEADER, **field))


def with_header(**fields: object) -> str:
    """Return a token with this header, signed by RS256 whatever it says."""
    header = urlsafe_b64encode(json.dumps(fields).encode())
    message = header + b"." + ISSUER.token().encode().split(b".")[1]
    signature = JWSRegistry.algorithms["RS256"].sign(message, RSA)
    return (message + b"." + urlsafe_b64encode(signature)).decode()


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "PS256", "ES256", "", 7, None])
def test_key_determines_the_algorithm(algorithm: object) -> None:
    assert verifier().principal(with_header(**HEADER))
    token = with_header(alg=algorithm, kid="rsa")
    assert "signature" in reason(token)
    assert "signature" in reason(token.rpartition(".")[0] + ".")


@pytest.mark.parametrize("value", [True, 7, 10**30, "\ud800", [], [[]], {}, {"alg": 1}], ids=repr)
def test_member_of_another_type_is_no_error_of_the_service(value: object) -> None:
    fields = ("alg", "kid", "typ", "b64", "crit")
    tokens = [with_header(**HEADER | {name: value}) for name in fields]
    claims = ("iss", "aud", "exp", "nbf", "iat", "sub", "scope", "jti")
    tokens += [
        signed(HEADER, json.dumps({**ISSUER.claims(), name: value}).encode(), RSA)
        for name in claims
    ]
    for token in tokens:
        with suppress(Unauthenticated):
            verifier().principal(token)


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": " a  b "}, {"a", "b"}),
        ({"scope": None, "scp": ["a", "b"]}, {"a", "b"}),
        ({"scope": "a", "scp": ["b"]}, {"a"}),
        ({"scope": ["a", 1, None]}, {"a"}),
        ({"scope": None}, set()),
        ({"scope": {"a": True}}, set()),
    ],
)
def test_scopes_are_a_text_or_a_list(claims: dict[str, Any], scopes: set[str]) -> None:
    given = claims.pop("scope")
    assert verifier().principal(ISSUER.token(given, **claims)).scopes == scopes


def test_verified_token_is_kept_until_it_expires_or_the_keys_change(
    clock: Clock, mocker: MockerFixture
) -> None:
    verifies = mocker.spy(SigningKey, "verifies")
    keys = FixedKeys()
    tokens = verifier(keys, clock)
    token = ISSUER.token(exp=1100, iat=0)
    for now in (1000, 1000, 1129.9):  # the last is within the leeway
        clock.now = now
        assert tokens.principal(token)
    assert verifies.call_count == 1
    clock.now = 1130.1
    with pytest.raises(Unauthenticated, match="expired"):
        tokens.principal(token)
    clock.now = 1000
    keys.set = parse_key_set(Issuer(OTHER, EC).document(), ALGORITHMS)
    with pytest.raises(Unauthenticated, match="signature"):
        tokens.principal(token)


def test_number_of_verified_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("user_service.security.tokens.MAX_VERIFIED", 2)
    keys = FixedKeys()
    for subject in "abc":
        verifier(keys).principal(ISSUER.token(sub=subject))
    assert len(keys.set.verified) == 2


def test_unknown_key_asks_for_a_newer_set_and_nothing_else_does() -> None:
    keys = FixedKeys()
    for token in (ISSUER.token(), ISSUER.token(key=OTHER), ISSUER.token(exp=1)):
        with suppress(Unauthenticated):
            verifier(keys).principal(token)
    assert keys.wishes == []
    with pytest.raises(Unauthenticated):
        verifier(keys).principal(ISSUER.token(key=rsa_key("new")))
    assert keys.wishes == [30]


def public(key: Key, **changed: object) -> dict[str, Any]:
    """Return the public key as an entry of a key set; a change to None leaves a member out."""
    members = {**key.as_dict(private=False), **changed}
    return {name: value for name, value in members.items() if value is not None}


@pytest.mark.parametrize(
    ("jwk", "algorithm"),
    [
        (public(RSA), "RS256"),
        (public(RSA, kid=None), "RS256"),
        (public(RSA, alg="PS256"), "PS256"),
        (public(EC, use="sig", key_ops=["verify"]), "ES256"),
        (public(ec_key("384", "P-384")), "ES384"),
        (public(ED, alg="Ed25519"), "Ed25519"),
        (public(ED, alg="EdDSA"), "Ed25519"),
    ],
)
def test_acceptable_key_has_one_algorithm(jwk: dict[str, Any], algorithm: str) -> None:
    every = ("RS256", "PS256", "ES256", "ES384", "Ed25519")
    accepted, refused = acceptable_keys({"keys": [jwk]}, every)
    assert [key.algorithm for key in accepted.values()] == [algorithm]
    assert refused == []


@pytest.mark.parametrize(
    "jwk",
    [
        *(public(RSA, n=int_to_base64(2**bits - 1)) for bits in (2040, 8200)),
        *(public(RSA, n=modulus) for modulus in (None, "!")),
        *(public(RSA, use=use) for use in ("enc", ["sig"])),
        *(public(RSA, key_ops=operations) for operations in (["sign"], "verify")),
        *(public(RSA, alg=algorithm) for algorithm in ("RS512", "ES256", ["RS256"])),
        public(RSA, e="AA"),
        public(RSA, kid=7),
        public(RSA, kty=["RSA"]),
        *(key.as_dict(private=True) for key in (RSA, SECRET)),
        public(EC, x=public(ec_key("x"))["x"]),  # not on the curve
        public(EC, crv="P-521"),
        public(EC, crv=[]),
        public(EC, crv={}),
        public(ec_key("384", "P-384")),  # for ES384, which is not allowed here
        public(ec_key("k1", "secp256k1")),
        *(public(OKPKey.generate_key(curve)) for curve in ("Ed448", "X25519")),
        public(ED, x="AA", kid="short"),
        *({}, [], "RSA"),
    ],
)
def test_unacceptable_key_is_refused_and_the_others_stay(
    jwk: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    keys = parse_key_set(json.dumps({"keys": [jwk, public(ED)]}).encode(), ALGORITHMS)
    assert set(keys.keys) == {"ed"}
    assert not caplog.messages  # the set is read every few minutes
    with pytest.raises(Unavailable, match="no acceptable key: "):
        parse_key_set(json.dumps({"keys": [jwk]}).encode(), ALGORITHMS)


def test_keys_that_share_a_kid_are_refused() -> None:
    document = {"keys": [public(RSA), public(EC, kid="rsa"), public(ED)]}
    assert set(parse_key_set(json.dumps(document).encode(), ALGORITHMS).keys) == {"ed"}


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b"\xff"])
def test_document_without_keys_is_no_key_set(document: bytes) -> None:
    with pytest.raises(Unavailable):
        parse_key_set(document, ALGORITHMS)


def test_token_without_a_kid_has_the_only_key() -> None:
    keys = FixedKeys()
    token = ISSUER.token(header={"kid": None})
    keys.set = parse_key_set(Issuer(RSA).document(), ALGORITHMS)
    assert verifier(keys).principal(token)
    keys.set = parse_key_set(Issuer(OTHER).document(), ALGORITHMS)
    with pytest.raises(Unauthenticated, match="signature"):
        verifier(keys).principal(token)
    assert keys.wishes == [30]
