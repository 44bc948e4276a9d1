"""Wycheproof's vectors for JWS and JWK, among them those of RFC 7520, where they are present."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from user_service.errors import Unauthenticated, Unavailable
from user_service.security.key_set import parse_key_set
from user_service.security.tokens import verified_payload

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "Ed25519")

# Vectors that are valid and refused, and the reason.
STRICTER = {
    "HMAC: the service would need the issuer's secret": {
        *("signature 1", "signature 348", "signature 352", "signature 357", "signature 358"),
        *("signature 359", "signature 372", "signature 373", "signature 376", "signature 377"),
        *("key 2", "key 13", "key 14", "key 15"),
    },
    "P-521 is not among the curves": {"signature 347", "signature 351"},
    "PS384 with a key whose alg is PS256": {"signature 346", "signature 350"},
}
# Vectors that are invalid and accepted, and the reason.
LAXER = {"a weak key (ROCA) is the issuer's fault, and it is the issuer's own": {"key 7"}}


def accepts(jwks: dict[str, Any], token: str, algorithms: tuple[str, ...] = ALGORITHMS) -> bool:
    document = jwks if "keys" in jwks else {"keys": [jwks]}
    try:
        verified_payload(token, parse_key_set(json.dumps(document).encode(), algorithms))
    except (Unauthenticated, Unavailable):
        return False
    return True


def wycheproof(name: str) -> Iterator[tuple[str, dict[str, Any], str, bool]]:
    """Yield name, key set, token and validity of each vector."""
    file = VECTORS / f"json_web_{name}_test.json"
    if not file.exists():
        pytest.skip("the vectors are not present")
    for group in json.loads(file.read_text("utf-8"))["testGroups"]:
        keys = group.get("public", group["private"])
        for test in group["tests"]:
            token = test["jws"] if isinstance(test["jws"], str) else json.dumps(test["jws"])
            yield f"{name} {test['tcId']}", keys, token, test["result"] == "valid"


@pytest.mark.parametrize("name", ["signature", "key"])
def test_deviations_from_wycheproof_are_those_that_are_listed(name: str) -> None:
    expected = set().union(*STRICTER.values()), set().union(*LAXER.values())
    stricter, laxer = set(), set()
    for vector, keys, token, is_valid in wycheproof(name):
        is_accepted = accepts(keys, token)
        if is_valid and not is_accepted:
            stricter.add(vector)
        if is_accepted and not is_valid:
            laxer.add(vector)
    assert (stricter, laxer) == tuple({each for each in of if name in each} for of in expected)


def test_ps384_of_rfc_7520_is_accepted_for_a_key_without_another_alg() -> None:
    (found,) = [each for each in wycheproof("signature") if each[0] == "signature 346"]
    jwk = {name: value for name, value in found[1].items() if name != "alg"}
    assert accepts(jwk, found[2], ("PS384",))
