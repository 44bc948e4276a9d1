"""An issuer over HTTP: its keys rotate, and it fails in every way that HTTP allows."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler

import httpx
import pytest
from flask.testing import FlaskClient

from dev.ports import free_port
from dev.probe import is_ok
from tests.http_servers import http_server
from tests.integration.users import URL
from tests.issuer import AUDIENCE, Issuer, ec_key
from tests.responses import Serve, problem_of
from tests.waiting import eventually
from user_service.errors import Unavailable
from user_service.security import key_set
from user_service.security.key_set import MAX_BYTES, fetch_key_set
from user_service.web.services import services_of

OLD = ec_key("old")
ALGORITHMS = ("ES256",)
METADATA = "/.well-known/openid-configuration"
# An answer of the server: status, headers and body, or a function that writes something else.
Answer = tuple[int, dict[str, str], bytes] | Callable[[BaseHTTPRequestHandler], None]


class IssuerServer(Issuer):
    """Serves the metadata and the key set; ``answers`` replaces the answer to a path."""

    def __init__(self) -> None:
        super().__init__(OLD)
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


@pytest.fixture
def issuer() -> Iterator[IssuerServer]:
    issuer = IssuerServer()
    with http_server(issuer.answer) as port:
        issuer.url = f"http://127.0.0.1:{port}"
        yield issuer


def trusting(serving: Serve, url: str, audience: str = AUDIENCE, **changed: object) -> FlaskClient:
    return serving(auth_issuer=url, auth_audience=audience, **changed)


def status(client: FlaskClient, token: str) -> int:
    return client.get(URL, headers={"Authorization": f"Bearer {token}"}).status_code


def test_keys_are_read_once_for_many_requests(serving: Serve, issuer: IssuerServer) -> None:
    client = trusting(serving, issuer.url)
    assert [status(client, issuer.token()) for _ in range(3)] == [200] * 3
    # Within half a minute, unknown keys are no reason to read again.
    assert {status(client, issuer.token(key=ec_key(f"k{n}"))) for n in range(3)} == {401}
    assert issuer.requests == [METADATA, "/keys"]
    named = trusting(serving, issuer.url, auth_jwks_url=f"{issuer.url}/keys")
    assert status(named, issuer.token()) == 200
    assert issuer.requests == [METADATA, "/keys", "/keys"]


def test_keys_are_read_when_a_process_begins(serving: Serve, issuer: IssuerServer) -> None:
    services = services_of(trusting(serving, issuer.url).application)
    with closing(services):
        services.begin(lambda: False)
        eventually(lambda: issuer.requests == [METADATA, "/keys"])


def as_it_is(handler: BaseHTTPRequestHandler, *, answer: bytes) -> None:
    handler.wfile.write(answer)


def in_drips(
    handler: BaseHTTPRequestHandler, *, header: bytes = b"\r\n", number: int = 1_000_000
) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n" + header)
    with suppress(OSError):  # the reader has given up
        for _ in range(number):
            handler.wfile.write(b" ")
            time.sleep(0.02)
        handler.wfile.write(b"\r\n\r\n" + Issuer(OLD).document())


BAD_ANSWERS: dict[str, Answer] = {
    "not found": (404, {}, b"{}"),
    "error": (500, {}, Issuer(OLD).document()),
    "no content": (204, {}, b""),
    "redirect": (302, {"Location": "/other"}, b""),
    "redirect to a file": (302, {"Location": "file:///etc/passwd"}, b""),
    "no JSON": (200, {}, b"<html>"),
    "no object": (200, {}, b"[]"),
    "empty": (200, {}, b""),
    "no keys": (200, {}, b'{"keys": []}'),
    "too long": (200, {}, b" " * (MAX_BYTES + 1)),
    "truncated": partial(as_it_is, answer=b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n{"),
    "no HTTP": partial(as_it_is, answer=b"\x00\x01\x02\r\n\r\n"),
    "body in drips": in_drips,
    "header in drips": partial(in_drips, header=b"X-Padding: ", number=50),
    "silent": lambda _: time.sleep(1),
}


@pytest.mark.parametrize("path", [METADATA, "/keys"])
@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_bad_answer_is_no_key_set(
    issuer: IssuerServer, monkeypatch: pytest.MonkeyPatch, path: str, answer: Answer
) -> None:
    monkeypatch.setattr(key_set, "FETCH_SECONDS", 0.3)
    monkeypatch.setattr(key_set, "STEP_SECONDS", 0.3)
    assert set(fetch_key_set(issuer.url, None, ALGORITHMS).keys) == {"old"}
    issuer.answers[path] = answer
    with pytest.raises(Unavailable):
        fetch_key_set(issuer.url, None, ALGORITHMS)
    assert "/other" not in issuer.requests
    del issuer.answers[path]
    eventually(lambda: is_read(issuer))


def is_read(issuer: IssuerServer) -> bool:
    try:
        return set(fetch_key_set(issuer.url, None, ALGORITHMS).keys) == {"old"}
    except Unavailable:
        return False


@pytest.mark.parametrize(
    "metadata",
    [
        '{"issuer": "https://other.example", "jwks_uri": "%s/keys"}',
        '{"jwks_uri": "%s/keys"}',
        '{"issuer": "%s"}',
        '{"issuer": "%s", "jwks_uri": 7}',
        '{"issuer": "%s", "jwks_uri": "file:///keys.json"}',
        '{"issuer": "%s", "jwks_uri": "http://192.0.2.1/keys"}',
        '{"issuer": "%s", "jwks_uri": "http://localhost.example/keys"}',
        '{"issuer": "%s", "jwks_uri": "http://localhost@192.0.2.1/keys"}',
        '{"issuer": "%s", "jwks_uri": "http://["}',
    ],
)
def test_metadata_of_another_issuer_or_without_a_secure_address(
    issuer: IssuerServer, metadata: str
) -> None:
    issuer.answers[METADATA] = 200, {}, metadata.replace("%s", issuer.url).encode()
    with pytest.raises(Unavailable, match="metadata"):
        fetch_key_set(issuer.url, None, ALGORITHMS)
    assert issuer.requests == [METADATA]


def test_issuer_on_this_machine_is_reached_without_a_proxy(
    issuer: IssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert set(fetch_key_set(issuer.url, None, ALGORITHMS).keys) == {"old"}


def test_without_a_first_key_set_tokens_are_a_503_until_the_issuer_answers(
    serving: Serve, issuer: IssuerServer
) -> None:
    client = trusting(serving, issuer.url)
    issuer.answers[METADATA] = BAD_ANSWERS["error"]
    token = issuer.token()
    for _ in range(3):
        problem_of(client.get(URL, headers={"Authorization": f"Bearer {token}"}), 503)
    assert len(issuer.requests) == 1
    assert client.get("/health/live").status_code == 200
    issuer.answers = {}
    eventually(lambda: status(client, token) == 200)


@contextmanager
def real_issuer(port: int) -> Iterator[str]:
    """Run oidc-provider-mock, which makes a key at each start, and yield its address."""
    command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: is_ok(port, "/jwks"))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def token_of(url: str) -> str:
    """Log in and return the token, by the authorization code flow."""
    client = {"client_id": AUDIENCE, "redirect_uri": "https://client.example/back"}
    asked = {**client, "response_type": "code", "scope": "openid"}
    with httpx.Client(base_url=url) as http:
        http.put("/users/ada", json={"scope": "users:read"})
        agreed = http.post("/oauth2/authorize", params=asked, data={"sub": "ada"})
        code = httpx.URL(agreed.headers["Location"]).params["code"]
        grant = {**client, "grant_type": "authorization_code", "code": code}
        answer = http.post("/oauth2/token", data={**grant, "client_secret": "any"})
        return str(answer.json()["id_token"])


def test_real_issuer_that_rotates_and_fails(
    serving: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The key set is read again as soon as the pause after the last read permits it.
    monkeypatch.setattr("app.REFRESH_SECONDS", 0.05)
    monkeypatch.setattr("user_service.security.tokens.UNKNOWN_KEY_SECONDS", 0)
    port = free_port()
    with real_issuer(port) as url:
        client = trusting(serving, url)
        first = token_of(url)
        assert status(client, first) == 200
        other = trusting(serving, url, audience="other")
        assert status(other, first) == 401
    time.sleep(1.1)  # longer than the pause between two reads
    assert [status(client, first) for _ in range(5)] == [200] * 5
    with real_issuer(port) as url:
        second = token_of(url)
        eventually(lambda: status(client, second) == 200)
        eventually(lambda: status(client, first) == 401)  # though it was verified before
