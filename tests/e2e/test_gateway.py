"""What deploy/gateway promises, on this machine's own nginx."""

import json
import os
import re
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest

from dev.ports import free_port
from tests import programs
from tests.e2e.gateway import SOURCE, Addresses, Gateway, balancer, gateway, insecure, tls
from tests.e2e.service import SERVICE, RunningService, run
from tests.faults.harness.raw import RawAnswer
from tests.http_servers import http_server
from tests.integration.users import ADA, URL
from tests.waiting import eventually
from user_service.web.policies.security_headers import HEADERS as SECURITY_HEADERS
from user_service.web.requests.validation import MAX_BODY_BYTES

# Method, path, headers and body.
Request = tuple[str, str, dict[str, str], bytes]


@dataclass
class Recorder:
    """Stands for a replica: writes every request down, then answers it or, if told, hangs up."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    peers: set[Any] = field(default_factory=set)
    hangs_up: bool = False

    def reset(self) -> None:
        self.requests, self.peers, self.hangs_up = [], set(), False

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if request.path != "/health/ready":
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.peers.add(request.client_address)
            self.requests.append((request.command, request.path, headers, body))
            if self.hangs_up:
                request.close_connection = True
                return
        request.send_response(200)
        request.send_header("Content-Length", "2")
        request.send_header("Content-Type", "application/json")
        request.send_header("X-Content-Type-Options", "nosniff")
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(b"{}")


@contextmanager
def recorder(host: str = "127.0.0.1") -> Iterator[Recorder]:
    recorder = Recorder()
    with http_server(recorder.answer, host=host, version="HTTP/1.1") as recorder.port:
        yield recorder


@pytest.fixture(scope="module")
def recorders() -> Iterator[list[Recorder]]:
    with recorder() as one, recorder() as other:
        yield [one, other]


@pytest.fixture
def replicas(recorders: list[Recorder]) -> list[Recorder]:
    """The two replicas behind the balancer, without a request."""
    for each in recorders:
        each.reset()
    return recorders


def arrived(replicas: list[Recorder]) -> list[Request]:
    return [request for each in replicas for request in each.requests]


@pytest.fixture
def replica(replicas: list[Recorder]) -> Recorder:
    """The one behind the gateway alone."""
    return replicas[0]


@pytest.fixture(scope="module")
def direct(
    tmp_path_factory: pytest.TempPathFactory, recorders: list[Recorder]
) -> Iterator[Gateway]:
    """The gateway of docker-compose.yml, before one replica."""
    folder = tmp_path_factory.mktemp("direct") / "gateway"
    origin, port = "https://a.example", "127.0.0.1:9443"
    with gateway(folder, recorders[0].port, CORS_ORIGINS=origin, HTTPS_PORT=port) as started:
        yield started


@pytest.fixture(scope="module")
def balanced(
    tmp_path_factory: pytest.TempPathFactory, recorders: list[Recorder]
) -> Iterator[Gateway]:
    """The gateway of docker-compose.scale.yml, before the balancer of two replicas."""
    folder = tmp_path_factory.mktemp("balanced")
    names = Addresses(folder / "replicas", *(each.port for each in recorders))
    with (
        balancer(folder / "balancer", names) as port,
        gateway(folder / "gateway", port, balanced=True) as started,
    ):
        yield started


@pytest.fixture(params=["direct", "balanced"])
def either(request: pytest.FixtureRequest) -> Gateway:
    chosen: Gateway = request.getfixturevalue(request.param)
    return chosen


@contextmanager
def client(gateway: Gateway, **options: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, verify=False, timeout=20, **options) as http:
        yield http


def exchange(connection: socket.socket, request: bytes) -> RawAnswer:
    connection.sendall(request)
    with HTTPResponse(connection) as response:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return RawAnswer(response.status, headers, response.read())


def assert_is_problem(answer: RawAnswer, status: int) -> None:
    assert (answer.status, answer.problem) == (status, "")
    assert answer.body["title"] not in ("", "Error")
    assert answer.body["type"] == "about:blank"
    assert answer.body["request_id"] == answer.headers["x-request-id"] != ""
    for name, value in SECURITY_HEADERS:
        assert answer.headers[name.lower()] == value
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "Retry-After" in answer.headers["access-control-expose-headers"]
    assert "server" not in answer.headers or answer.headers["server"] == "nginx"


CLOSE = b"Host: x\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        (b"GET / HTTP/1.1", b"Connection: close\r\n", 400),
        (b"GET / HTTP/1.1", CLOSE + b"Content-Length: x\r\n", 400),
        (b"GET /metrics HTTP/1.1", CLOSE, 404),
        (b"GET //%6detrics HTTP/1.1", CLOSE, 404),
        (b"GET /x/../metrics HTTP/1.1", CLOSE, 404),
        (b"GET /.gateway/problem HTTP/1.1", CLOSE, 404),
        (b"TRACE / HTTP/1.1", CLOSE, 405),
        (b"POST / HTTP/1.1", CLOSE + b"Content-Length: 65537\r\n", 413),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1", CLOSE, 414),
        (b"GET / HTTP/1.1", CLOSE + b"A: " + b"a" * 5000 + b"\r\n", 431),
        (b"GET / HTTP/9.9", CLOSE, 505),
    ],
)
def test_what_the_gateway_refuses_itself_is_a_problem(
    direct: Gateway, request_line: bytes, headers: bytes, status: int
) -> None:
    with tls(direct) as connection:
        answer = exchange(connection, b"%b\r\n%b\r\n" % (request_line, headers))
    assert_is_problem(answer, status)
    assert "retry-after" not in answer.headers


def test_plain_http_on_the_tls_port_is_a_problem(direct: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", direct.port), timeout=15) as connection:
        answer = exchange(connection, b"GET / HTTP/1.1\r\n%b\r\n" % CLOSE)
    assert_is_problem(answer, 400)


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("behind_balancer", [False, True])
def test_service_that_is_away_is_a_problem_with_the_request_s_id(
    tmp_path: Path, behind_balancer: bool, is_known: bool
) -> None:
    nowhere = Addresses(tmp_path / "addresses", *([free_port()] if is_known else []))
    folder = tmp_path / "gateway"
    with gateway(folder, nowhere, balanced=behind_balancer, CORS_ORIGINS="*") as started:
        request = b"GET %b HTTP/1.1\r\n%bX-Request-ID: mine\r\n\r\n" % (URL.encode(), CLOSE)
        with tls(started) as connection:
            answer = exchange(connection, request)
    assert_is_problem(answer, 503)
    assert answer.body["request_id"] == "mine"
    assert answer.headers["retry-after"] == "5"


def test_gateway_follows_a_service_to_its_new_address(tmp_path: Path) -> None:
    addresses = Addresses(tmp_path / "addresses", free_port())
    with (
        recorder() as moved,
        gateway(tmp_path / "gateway", addresses) as started,
        # A connection that nginx closes while it reloads would fail a request.
        client(started, headers={"Connection": "close"}) as http,
    ):
        assert http.get(URL).status_code == 503
        addresses.set()  # a stopped container has no address
        addresses.set(moved.port)
        eventually(lambda: http.get(URL).status_code == 200)
        addresses.set()
        time.sleep(1.5)
        assert http.get(URL).status_code == 200


def test_renewed_certificate_is_served(tmp_path: Path, replica: Recorder) -> None:
    folder = tmp_path / "gateway"
    with gateway(folder, replica.port) as started:

        def served() -> bytes | None:
            with tls(started) as connection:
                return connection.getpeercert(binary_form=True)

        before = served()
        (folder / "certificate.pem").unlink()
        programs.shell("sh", str(SOURCE / "certificate.sh"), str(folder), str(os.getuid()))

        def is_renewed() -> bool:
            try:
                return served() != before
            except OSError:  # nginx closes connections while it reloads
                return False

        eventually(is_renewed)


def test_client_gateway_balancer_and_replica_may_have_ipv6_only(tmp_path: Path) -> None:
    with recorder("::1") as only:
        names = Addresses(tmp_path / "replicas", only.port, host="::1")
        with balancer(tmp_path / "balancer", names) as port:
            addresses = Addresses(tmp_path / "addresses", port, host="::1")
            with gateway(tmp_path / "gateway", addresses, balanced=True) as started:
                assert httpx.get(started.plain_url.replace("127.0.0.1", "[::1]")).status_code == 308
                url = started.url.replace("127.0.0.1", "[::1]")
                assert httpx.get(url, verify=False).status_code == 200
        assert only.requests[-1][2]["x-forwarded-for"] == "::1"


@pytest.mark.parametrize("host", ["", "0.0.0.0", "127.0.0.1", "::", "::1"])
def test_image_checks_its_health_where_it_listens(host: str) -> None:
    check = (SERVICE / "Dockerfile").read_text("utf-8").partition("HEALTHCHECK")[2]
    _, *arguments = json.loads(check.split("CMD ")[1].splitlines()[0])
    with recorder(host or "0.0.0.0") as image:
        settings = {"HOST": host, "PORT": str(image.port)}
        assert run([sys.executable, *arguments], settings).returncode == 0
    assert run([sys.executable, *arguments], settings).returncode == 1


def test_problems_carry_no_cors_headers_without_cors_origins(balanced: Gateway) -> None:
    with client(balanced) as http:
        answer = http.get("/metrics", headers={"Origin": "https://a.example"})
    assert answer.status_code == 404
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_redirect_to_https_has_the_port_and_the_headers_for_browsers(
    direct: Gateway, balanced: Gateway
) -> None:
    for started, host in ((balanced, "users.example"), (direct, "users.example:9443")):
        answer = httpx.post(f"{started.plain_url}/a?b=c", headers={"Host": "users.example"})
        assert answer.status_code == 308
        assert answer.headers["Location"] == f"https://{host}/a?b=c"
    for name, value in SECURITY_HEADERS:
        assert answer.headers[name] == value
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])
    assert "Strict-Transport-Security" not in answer.headers  # RFC 6797, section 7.2


def test_gateway_raises_a_low_limit_of_open_files(tmp_path: Path, replica: Recorder) -> None:
    folder = tmp_path / "gateway"
    with gateway(folder, replica.port, open_files=128) as started, ExitStack() as stack:
        port = int(started.plain_url.rpartition(":")[2])
        for _ in range(400):  # two processes of nginx share them
            address = ("127.0.0.1", port)
            connection = stack.enter_context(socket.create_connection(address, timeout=5))
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 308 ")


FORWARDED = {
    *("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"),
    *("x-forwarded-prefix", "x-real-ip", "forwarded"),
}


def test_forwarded_headers_are_set_and_never_appended_to(
    either: Gateway, replicas: list[Recorder]
) -> None:
    forged = dict.fromkeys(FORWARDED, "evil.example") | {"X-Original-Method": "DELETE"}
    with client(either) as http:
        http.get("/", headers=forged)
    ((method, _, headers, _),) = arrived(replicas)
    assert method == "GET"
    assert {name: headers[name] for name in FORWARDED & headers.keys()} == {
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "127.0.0.1",
    }


@pytest.mark.parametrize("sent", ["mine-1", "not allowed", "x" * 65])
def test_one_request_id_is_in_the_service_and_in_the_log(
    direct: Gateway, replica: Recorder, sent: str
) -> None:
    with client(direct) as http:
        http.get("/id?secret=1", headers={"X-Request-ID": sent})
    passed = replica.requests[-1][2]["x-request-id"]
    assert (passed == sent) == (sent == "mine-1")
    eventually(lambda: f'"{passed}"' in direct.log)
    line = json.loads(next(each for each in direct.log.splitlines() if passed in each))
    assert (line["method"], line["path"], line["status"]) == ("GET", "/id", "200")
    assert float(line["upstream_s"]) >= 0
    assert line["upstream"] == f"127.0.0.1:{replica.port}"
    assert "secret" not in direct.log


def test_line_of_the_log_is_json_whatever_bytes_are_in_the_path(direct: Gateway) -> None:
    with tls(direct) as connection:
        connection.sendall(b'GET /odd"\xff HTTP/1.0\r\nHost: localhost\r\n\r\n')
        while connection.recv(65536):
            pass
    eventually(lambda: b"/odd" in direct.log_file.read_bytes())
    lines = direct.log_file.read_bytes().splitlines()
    line = json.loads(next(each for each in lines if b"/odd" in each))
    assert line["path"] == '/odd"'


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_method_path_and_body_arrive_as_they_were_sent(
    either: Gateway, replicas: list[Recorder], method: str
) -> None:
    """Up to the limit of the service, a body stays in memory."""
    body = b"" if method in ("GET", "HEAD", "DELETE") else b"a" * MAX_BODY_BYTES
    with client(either) as http:
        answer = http.request(method, "/a%2Fb//c?d=%20e", content=body)
    assert answer.status_code == 200
    ((line, path, _, sent),) = arrived(replicas)
    assert (line, path, sent) == (method, "/a%2Fb//c?d=%20e", body)
    assert "temporary file" not in either.log


def test_connections_to_the_service_are_kept(either: Gateway, replicas: list[Recorder]) -> None:
    for _ in range(20):
        with client(either) as http:  # a connection each
            assert http.get("/").status_code == 200
    # Two processes of nginx keep connections of their own, to each of two replicas.
    assert 1 <= sum(len(each.peers) for each in replicas) <= 4


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_write_that_was_sent_is_never_sent_again(
    either: Gateway, replicas: list[Recorder], method: str
) -> None:
    with client(either) as http:
        for _ in range(8):  # so that there are kept connections: nginx repeats what breaks on those
            http.get("/")
        assert tried(http, replicas, method) == [method]


def test_read_whose_answer_broke_gets_the_next_replica_s(
    balanced: Gateway, replicas: list[Recorder]
) -> None:
    with client(balanced) as http:
        assert set(tried(http, replicas, "GET")) == {"GET"}
    assert all(each.requests for each in replicas)


def test_304_that_was_asked_for_twice_is_that_of_the_compressed_page(tmp_path: Path) -> None:
    """After a kept connection has broken, nginx has two statuses of the upstream."""
    breaking: list[bool] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        if breaking:
            request.close_connection = breaking.pop()
            return
        request.send_response(304 if "If-None-Match" in request.headers else 200)
        request.send_header("ETag", '"x"')
        request.send_header("Content-Length", "0")
        request.end_headers()

    with http_server(answer, version="HTTP/1.1") as port:
        addresses = Addresses(tmp_path / "addresses", port)
        with gateway(tmp_path / "gateway", addresses) as started, client(started) as http:
            http.get("/")  # leaves a kept connection
            breaking.append(True)
            unchanged = http.get("/", headers={"If-None-Match": 'W/"x"'})
    assert '"upstream_status":"502, 304"' in started.log
    assert unchanged.status_code == 304
    assert (unchanged.headers["ETag"], unchanged.headers["Vary"]) == ('W/"x"', "Accept-Encoding")


def tried(http: httpx.Client, replicas: list[Recorder], method: str) -> list[str]:
    """Send one request while every replica hangs up; return the requests that they got."""
    for each in replicas:
        each.reset()
        each.hangs_up = True
    answer = http.request(method, URL)
    for each in replicas:
        each.hangs_up = False
    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    return [line for line, *_ in arrived(replicas)]


def test_client_that_trickles_its_header_is_cut_off(direct: Gateway) -> None:
    began = time.monotonic()
    with tls(direct) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        with pytest.raises(OSError, match=r"reset|EOF|closed|Broken|aborted|Success"):
            while time.monotonic() < began + 60:
                connection.sendall(b"x")
                time.sleep(0.1)
    assert time.monotonic() - began > 4


def test_client_that_stops_within_its_body_is_cut_off_and_the_service_not_asked(
    direct: Gateway, replica: Recorder
) -> None:
    began = time.monotonic()
    with tls(direct) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        with suppress(ConnectionResetError, ssl.SSLEOFError):
            assert connection.recv(65536) == b""
    assert time.monotonic() - began > 9
    assert replica.requests == []


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame of HTTP/2 (RFC 9113, section 4.1)."""
    length, number = len(payload).to_bytes(3, "big"), stream.to_bytes(4, "big")
    return b"%b%c%c%b%b" % (length, kind, flags, number, payload)


def slow_requests(gateway: Gateway, number: int) -> ssl.SSLSocket:
    """Begin POST requests on one connection of HTTP/2, whose bodies stay incomplete."""
    context = insecure()
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection(("127.0.0.1", gateway.port), timeout=15)
    connection = context.wrap_socket(plain)
    # POST https://x/ with a Content-Length of 100 (RFC 7541, appendix A).
    header = b"\x83\x87\x84\x01\x01x\x0f\x0d\x03100"
    requests = [frame(1, 4, stream, header) for stream in range(1, 2 * number, 2)]
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n%b" % frame(4, 0, 0, b""))
    connection.sendall(b"".join(requests))
    return connection


def test_requests_beyond_the_limit_get_503(direct: Gateway) -> None:
    with ExitStack() as stack, client(direct) as http:
        assert http.get("/").status_code == 200
        for _ in range(9):  # more than the limit: one of `http` may take the place of one of these
            stack.enter_context(slow_requests(direct, 125))
        eventually(lambda: http.get("/").status_code == 503)
        with tls(direct) as connection:
            assert_is_problem(exchange(connection, b"GET / HTTP/1.1\r\n%b\r\n" % CLOSE), 503)
    with client(direct) as http:
        eventually(lambda: http.get("/").status_code == 200)


def test_only_modern_tls_is_spoken_and_no_session_tickets_are_given(direct: Gateway) -> None:
    context = insecure()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with tls(direct, context) as connection:
        assert connection.version() == "TLSv1.2"
        assert connection.cipher()[0].startswith("ECDHE-")  # type: ignore[index]
        session = connection.session
        assert session is not None
        assert not session.has_ticket
    context.set_ciphers("AES256-SHA:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError), tls(direct, context):
        pass
    old = ("-connect", f"127.0.0.1:{direct.port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    refused = programs.run(programs.program("openssl"), "s_client", *old)
    assert "Cipher is (NONE)" in refused.stdout


@pytest.mark.parametrize(
    ("host", "policy"),
    [("users.example.com", "max-age=31536000"), ("localhost", None), ("127.0.0.1", None)],
)
def test_browsers_are_held_to_https_for_names_but_localhost(
    direct: Gateway, host: str, policy: str | None
) -> None:
    with client(direct) as http:
        for path in ("/", "/metrics"):
            answer = http.get(path, headers={"Host": host})
            assert answer.headers.get("Strict-Transport-Security") == policy
            assert answer.headers.get_list("X-Content-Type-Options") == ["nosniff"]


def test_nginx_finds_nothing_to_complain_of(direct: Gateway) -> None:
    configuration = direct.log_file.with_name("nginx.conf")
    checked = programs.run(programs.program("nginx"), "-t", "-q", "-c", str(configuration))
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.fixture
def real(tmp_path: Path, service: RunningService) -> Iterator[httpx.Client]:
    """A client that takes gzip, on the gateway before the real service."""
    with (
        gateway(tmp_path / "gateway", service.port) as started,
        client(started, headers={"Accept-Encoding": "gzip"}) as http,
    ):
        yield http


# The largest user there can be: what is sent is kept, and four bytes a character is the most.
LARGEST = {"username": "𐍈" * 50, "email": f"{'𐍈' * 16}@{'x' * 60}.{'y' * 60}.example.com"}


def test_etag_that_came_through_the_gateway_serves_if_match(real: httpx.Client) -> None:
    created = real.post(URL, json=LARGEST)
    assert created.status_code == 201, created.text
    user = real.get(created.headers["Location"])
    assert not user.headers["ETag"].startswith("W/")
    headers = {"If-Match": user.headers["ETag"]}
    assert real.put(created.headers["Location"], json=ADA, headers=headers).status_code == 200
    again = real.put(created.headers["Location"], json=ADA, headers=headers)
    assert again.status_code == 412
    assert not again.headers["ETag"].startswith("W/")


def test_etag_of_a_compressed_page_serves_if_none_match(real: httpx.Client) -> None:
    for n in range(20):
        real.post(URL, json={"username": f"user{n}", "email": f"user{n}@example.com"})
    page = real.get(URL)
    assert page.headers["Content-Encoding"] == "gzip"
    assert page.headers["Vary"] == "Accept-Encoding"
    assert page.headers["ETag"].startswith("W/")
    unchanged = real.get(URL, headers={"If-None-Match": page.headers["ETag"]})
    assert unchanged.status_code == 304
    for name in ("ETag", "Vary", "Cache-Control", "Link"):
        assert unchanged.headers[name] == page.headers[name]
    plain = real.get(URL, headers={"Accept-Encoding": "identity"})
    unchanged = real.get(URL, headers={"If-None-Match": plain.headers["ETag"]})
    assert unchanged.headers["ETag"] == plain.headers["ETag"] == page.headers["ETag"][2:]
