"""Verifies JSON Web Tokens (RFC 7519, RFC 9068) against the key set of their issuer."""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from joserfc import jws, jwt
from joserfc.errors import ClaimError, ExpiredTokenError, JoseError
from joserfc.util import urlsafe_b64decode

from user_service.errors import Unauthenticated
from user_service.security.key_set import KeySet
from user_service.security.principal import Principal
from user_service.security.refreshed_value import RefreshedValue

# Header fields that would choose the key, or ask for an extension: none is known here.
REFUSED_FIELDS = frozenset({"jku", "jwk", "x5u", "x5c", "crit", "zip", "enc"})
# Tokens of other types are not for APIs: those of a log-out, for example.
TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt", "application/jwt"})
# Seconds between two reads of the key set because of a key that it lacks.
UNKNOWN_KEY_SECONDS = 30.0
MAX_VERIFIED = 10_000


class UnknownKey(Unauthenticated):
    """The key set lacks the key of the token."""


@dataclass(eq=False)
class TokenVerifier:
    """Turns tokens into principals. Verified ones are kept until they expire or the keys change.

    A token must be of ``issuer`` and for ``audience``; ``leeway`` is in seconds. The scopes are in
    the first claim of ``scope_claims`` that the token has.
    """

    keys: RefreshedValue[KeySet]
    issuer: str
    audience: str
    scope_claims: tuple[str, ...]
    leeway: int
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._claims = jwt.JWTClaimsRegistry(
            now=lambda: int(self.clock()),
            leeway=self.leeway,
            iss={"essential": True, "value": self.issuer},
            aud={"essential": True, "value": self.audience},
            exp={"essential": True},
            sub={"essential": True},
        )

    def principal(self, token: str) -> Principal:
        """Return the principal; raise Unauthenticated, or Unavailable without a key set."""
        keys, digest = self.keys.get(), hashlib.sha256(token.encode()).digest()
        known = keys.verified.get(digest)
        if known is not None and self.clock() < known[1]:
            return known[0]
        claims = self._verified_claims(token, keys)
        try:
            self._claims.validate(claims)
        except ExpiredTokenError:
            raise Unauthenticated("the token has expired") from None
        except ClaimError as error:
            raise Unauthenticated(f"the token's claim {error.claim} is not accepted") from None
        principal = Principal(_name(claims), self._scopes(claims))
        with self._lock:
            if len(keys.verified) >= MAX_VERIFIED:
                del keys.verified[next(iter(keys.verified))]
            keys.verified[digest] = principal, claims["exp"] + self.leeway
        return principal

    def _verified_claims(self, token: str, keys: KeySet) -> dict[str, Any]:
        try:
            claims = orjson.loads(verified_payload(token, keys))
        except UnknownKey:
            self.keys.refresh(at_most_every=UNKNOWN_KEY_SECONDS)
            raise
        except orjson.JSONDecodeError:
            claims = None
        if not isinstance(claims, dict):
            raise Unauthenticated("the token has no claims")
        return claims

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        value = next((claims[name] for name in self.scope_claims if name in claims), "")
        values = value.split() if isinstance(value, str) else value
        listed = values if isinstance(values, list) else []
        return frozenset(each for each in listed if isinstance(each, str))


def verified_payload(token: str, keys: KeySet) -> bytes:
    """Return the payload of a JSON Web Signature (RFC 7515) of one of ``keys``.

    Raise UnknownKey if the issuer may have a newer key that made it, and Unauthenticated if not.
    """
    # jws.deserialize_compact would issue a Python warning for each token with the name EdDSA.
    try:
        parts = jws.extract_compact(token.encode())
        header, signature = parts.headers(), urlsafe_b64decode(parts.segments["signature"])
    except (JoseError, ValueError, TypeError, RecursionError):
        raise Unauthenticated("the token is malformed") from None
    if not isinstance(header, dict):  # joserfc accepts any JSON value that contains "alg"
        raise Unauthenticated("the token is malformed")
    kid, kind = header.get("kid"), header.get("typ", "JWT")
    if REFUSED_FIELDS & header.keys() or str(kind).lower() not in TYPES:
        raise Unauthenticated("the token's header is not accepted")
    key = keys.named(kid)
    if key is None:
        raise UnknownKey("the token's key is not known")
    message = parts.segments["header"] + b"." + parts.segments["payload"]
    if not key.verifies(header.get("alg"), message, signature):
        error = UnknownKey if kid is None else Unauthenticated
        raise error("the token's signature is not valid")
    return parts.payload or b""


def _name(claims: Mapping[str, Any]) -> str:
    """Return a digest of issuer and subject, since a subject may be an email address."""
    subject = orjson.dumps([claims["iss"], claims["sub"]])
    return f"sub:{hashlib.sha256(subject).hexdigest()[:32]}"
