"""The vectors of the RFCs and, where they are present, those of Wycheproof for JWS and JWK."""

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

# RFC 7515, appendices A.2 and A.3; RFC 8037, appendix A.4. Wycheproof has those of RFC 7520.
CLAIMS = (
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
)
RSA_MODULUS = (
    "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt"
    "0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSX"
    "ndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5"
    "IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
)
RSA_SIGNATURE = (
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W"
    "2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkS"
    "jtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnv"
    "Wh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
)
RSA_VECTOR = (
    {"kty": "RSA", "n": RSA_MODULUS, "e": "AQAB"},
    f"eyJhbGciOiJSUzI1NiJ9.{CLAIMS}.{RSA_SIGNATURE}",
)
EC_SIGNATURE = (
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
)
EC_VECTOR = (
    {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    },
    f"eyJhbGciOiJFUzI1NiJ9.{CLAIMS}.{EC_SIGNATURE}",
)
ED_SIGNATURE = (
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
)
ED_VECTOR = (
    {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
    f"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.{ED_SIGNATURE}",
)
RFC_VECTORS = [RSA_VECTOR, EC_VECTOR, ED_VECTOR]


def accepts(jwks: dict[str, Any], token: str, algorithms: tuple[str, ...] = ALGORITHMS) -> bool:
    document = jwks if "keys" in jwks else {"keys": [jwks]}
    try:
        verified_payload(token, parse_key_set(json.dumps(document).encode(), algorithms))
    except (Unauthenticated, Unavailable):
        return False
    return True


@pytest.mark.parametrize(("jwk", "token"), RFC_VECTORS, ids=["RS256", "ES256", "Ed25519"])
def test_vector_of_an_rfc_is_accepted_and_another_signature_is_not(
    jwk: dict[str, Any], token: str
) -> None:
    assert accepts(jwk, token)
    head, _, signature = token.rpartition(".")
    assert not accepts(jwk, f"{head}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}")


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
