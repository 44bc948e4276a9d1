"""An issuer of JSON Web Tokens for tests: its keys, its tokens, and a server that can fail."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from tests.http_servers import http_server

AUDIENCE = "user-service"
ALGORITHMS = ["RS256", "ES256", "ES384", "Ed25519", "EdDSA", "HS256", "none"]
ALL_SCOPES = "users:read users:write users:delete service:read"
METADATA = "/.well-known/openid-configuration"
# An answer of the server: status, headers and body, or a function that writes something else.
Answer = tuple[int, dict[str, str], bytes] | Callable[[BaseHTTPRequestHandler], None]


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


class IssuerServer(Issuer):
    """Serves the metadata and the key set; ``answers`` replaces the answer to a path."""

    def __init__(self, *keys: Key) -> None:
        super().__init__(*keys)
        self.requests: list[str] = []
        self.answers: dict[str, Answer] = {}

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(request.path)
        known = {METADATA: {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}}
        body = json.dumps(known.get(request.path, self.key_set())).encode()
        usual = 200, {"Content-Type": "application/json"}, body
        answer = self.answers.get(request.path, usual)
        if callable(answer):
            answer(request)
            return
        status, headers, body = answer
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)


@contextmanager
def issuer_server(*keys: Key) -> Iterator[IssuerServer]:
    """Run an issuer on a free port."""
    issuer = IssuerServer(*keys)
    with http_server(issuer.answer) as port:
        issuer.url = f"http://127.0.0.1:{port}"
        yield issuer
