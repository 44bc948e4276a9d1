"""The keys of a JSON Web Key Set (RFC 7517) that may verify tokens, and the algorithm of each.

The policy applies before any token is examined. The key determines the algorithm: a token with
another one is refused.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key
from joserfc.jws import JWSRegistry
from joserfc.util import base64_to_int

# The algorithms that may be configured, by type of key and curve.
ALGORITHMS: Mapping[tuple[str, str | None], tuple[str, ...]] = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("OKP", "Ed25519"): ("Ed25519",),
}
_PUBLIC_MEMBERS = ("kty", "n", "e", "crv", "x", "y")
# RFC 9864 replaces the first name by the second; older issuers use it still.
SYNONYMS = {"EdDSA": "Ed25519"}
# NIST SP 800-131A allows no shorter keys. OpenSSL would verify with far longer ones, slowly.
RSA_BITS = range(2048, 8192 + 1)


class SigningKey(NamedTuple):
    """A public key and the one algorithm with which it verifies."""

    algorithm: str
    key: Key

    def verifies(self, algorithm: object, message: bytes, signature: bytes) -> bool:
        """Tell whether ``signature``, made with ``algorithm``, is that of ``message``."""
        if not isinstance(algorithm, str) or canonical(algorithm) != self.algorithm:
            return False
        return JWSRegistry.algorithms[self.algorithm].verify(message, signature, self.key)


class UnacceptableKey(Exception):
    """The policy refuses the key; the message is the reason."""


def canonical(algorithm: str) -> str:
    """Return the present name of ``algorithm``."""
    return SYNONYMS.get(algorithm, algorithm)


def acceptable_keys(
    document: object, algorithms: Sequence[str]
) -> tuple[dict[str | None, SigningKey], list[str]]:
    """Return the acceptable keys of a key set by ``kid``, and the reasons to refuse the others.

    A key without ``alg`` gets the first of ``algorithms`` that fits its type. Two keys with one
    ``kid`` are both refused.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        return {}, ["the document is no key set"]
    jwks = [each for each in listed if isinstance(each, dict)]
    ids = Counter(str(jwk.get("kid")) for jwk in jwks)
    accepted: dict[str | None, SigningKey] = {}
    refused = ["an entry is no object"] * (len(listed) - len(jwks))
    for jwk in jwks:
        kid = jwk.get("kid")
        if not isinstance(kid, str | None) or ids[str(kid)] > 1:
            refused.append("its kid is no string, or that of another key")
            continue
        try:
            accepted[kid] = _signing_key(jwk, algorithms)
        except UnacceptableKey as error:
            refused.append(f"{str(kid)[:64]!r}: {error}")
    return accepted, refused


def _signing_key(jwk: Mapping[str, Any], algorithms: Sequence[str]) -> SigningKey:
    if "d" in jwk or "k" in jwk:
        raise UnacceptableKey("it is not public")
    if jwk.get("use", "sig") != "sig":
        raise UnacceptableKey("its use is not sig")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise UnacceptableKey("its key_ops do not contain verify")
    curve = jwk.get("crv")
    possible = ALGORITHMS.get((str(jwk.get("kty")), None if curve is None else str(curve)), ())
    allowed = [each for each in algorithms if each in possible]
    if "alg" in jwk:
        allowed = [each for each in allowed if each == canonical(str(jwk["alg"]))]
    if not allowed:
        raise UnacceptableKey("its type, curve or alg is not allowed")
    return SigningKey(allowed[0], _imported(jwk))


def _imported(jwk: Mapping[str, Any]) -> Key:
    public = {name: jwk[name] for name in _PUBLIC_MEMBERS if name in jwk}
    try:
        if jwk["kty"] == "RSA":
            bits = base64_to_int(jwk["n"]).bit_length()
            if bits not in RSA_BITS:
                raise UnacceptableKey(f"it has {bits} bits")
        return JWKRegistry.import_key(public)
    except (JoseError, KeyError, ValueError, TypeError, AttributeError):
        raise UnacceptableKey("its members are invalid") from None
