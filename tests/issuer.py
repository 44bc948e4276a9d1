"""An issuer of JSON Web Tokens for tests: its keys and its tokens."""

import json
import time
from pathlib import Path
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

AUDIENCE = "user-service"
ALGORITHMS = ["RS256", "ES256", "ES384", "Ed25519", "EdDSA", "HS256", "none"]
ALL_SCOPES = "users:read users:write users:delete service:read"


def rsa_key(kid: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid})


def ec_key(kid: str, curve: str = "P-256") -> ECKey:
    return ECKey.generate_key(curve, {"kid": kid})


def ed_key(kid: str) -> OKPKey:
    return OKPKey.generate_key("Ed25519", {"kid": kid})


class Issuer:
    """Signs tokens; the first of its ``keys`` signs unless a test names another one."""

    def __init__(self, *keys: Key, url: str = "https://issuer.example") -> None:
        self.keys = list(keys)
        self.url = url

    def key_set(self) -> dict[str, Any]:
        return {"keys": [key.as_dict(private=False) for key in self.keys]}

    def document(self) -> bytes:
        return json.dumps(self.key_set()).encode()

    def settings(self, key_set: Path) -> dict[str, str]:
        """Write the keys to this file, and return the variables of a service that trusts them."""
        key_set.write_bytes(self.document())
        names = {"AUTH_ISSUER": self.url, "AUTH_AUDIENCE": AUDIENCE}
        return {**names, "AUTH_JWKS_FILE": str(key_set)}

    def claims(self, scope: str = ALL_SCOPES, **changed: Any) -> dict[str, Any]:
        """Return valid claims; a change to None leaves one out."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "ada@example.com", "exp": now + 600}
        claims |= {"iat": now, "scope": scope} | changed
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self,
        scope: str = ALL_SCOPES,
        *,
        key: Key | None = None,
        header: dict[str, Any] | None = None,
        **changed: Any,
    ) -> str:
        """Return a token with valid claims, but for those changed."""
        key = key or self.keys[0]
        algorithm = {"RSA": "RS256", "EC": "ES256", "OKP": "Ed25519", "oct": "HS256"}[key.key_type]
        fields = {"alg": algorithm, "kid": key.kid, "typ": "at+jwt"} | (header or {})
        protected = {name: value for name, value in fields.items() if value is not None}
        return signed(protected, json.dumps(self.claims(scope, **changed)).encode(), key)


def signed(header: dict[str, Any], payload: bytes, key: Key) -> str:
    """Return a signed token with any header."""
    registry = jws.JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
    return jws.serialize_compact(header, payload, key, registry=registry)
