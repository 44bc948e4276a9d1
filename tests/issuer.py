"""An issuer of JSON Web Tokens for tests: its keys, its tokens, and a server that can fail."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

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

    def settings(self, key_set: Path | None = None) -> dict[str, str]:
        """Return the variables with which the service accepts its tokens."""
        known = {"AUTH_ISSUER": self.url, "AUTH_AUDIENCE": AUDIENCE}
        return known if key_set is None else {**known, "AUTH_JWKS_FILE": str(key_set)}

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

    def __init__(self, *keys: Key, server: ThreadingHTTPServer) -> None:
        super().__init__(*keys, url=f"http://127.0.0.1:{server.server_port}")
        self.server = server
        self.requests: list[str] = []
        self.answers: dict[str, Answer] = {}

    def answer(self, path: str) -> Answer:
        self.requests.append(path)
        known = {METADATA: {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}}
        body = json.dumps(known[path]).encode() if path in known else self.document()
        return self.answers.get(path, (200, {"Content-Type": "application/json"}, body))


@contextmanager
def issuer_server(*keys: Key) -> Iterator[IssuerServer]:
    """Run an issuer on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = issuer.answer(self.path)
            if callable(answer):
                answer(self)
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    issuer = IssuerServer(*keys, server=server)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
