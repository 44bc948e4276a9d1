"""Requests that are not valid HTTP, or only just, on raw sockets to both servers.

The tables give the statuses on a connection: those of the request, and ``200`` for a valid one that
follows if the connection is kept. docs/servers.md lists the differences between the servers.
"""

import json
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from tests.e2e.service import SERVERS, RunningService, Start
from tests.faults.harness.raw import answers
from tests.faults.harness.standby import rows
from tests.integration.users import ADA, URL
from user_service.web.policies import security_headers

TITLES = {
    "400": "Bad Request",
    "411": "Length Required",
    "414": "URI Too Long",
    "417": "Expectation Failed",
    "431": "Request Header Fields Too Large",
    "501": "Not Implemented",
}
UPGRADE = b"Connection: Upgrade, HTTP2-Settings"
CHUNKED = b"Transfer-Encoding: chunked"
USER = b'{"username": "mallory", "email": "mallory@example.com"}'
CHUNK = b"%x\r\n%b\r\n" % (len(USER), USER)
FOLLOWING = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def get(
    *fields: bytes, line: bytes = b"GET /health/live HTTP/1.1", host: bytes = b"Host: x"
) -> bytes:
    lines = [line, *([host] if host else []), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(*fields: bytes, body: bytes = USER) -> bytes:
    line, json_type = b"POST /api/v1/users HTTP/1.1", b"Content-Type: application/json"
    return get(json_type, *fields, line=line) + body


CHUNKS = [
    *(b"ZZ\r\n\r\n", b"\r\n\r\n", b"-1\r\n\r\n", b"+5\r\nabcde\r\n0\r\n\r\n", b"0x5\r\nabcde\r\n"),
    *(b"1_0\r\n\r\n", b" 5\r\nabcde\r\n", b"5 \r\nabcde\r\n", b"5\t\r\nabcde\r\n", b"5,5\r\n\r\n"),
    *("٣\r\nabc\r\n".encode(), b"\x005\r\nabcde\r\n", CHUNK[:-2] + b"0\r\n\r\n", b"3\r\nabcde\r\n"),
    *(b"5;\r\nabcde\r\n", b"5;a=\x01\r\nabcde\r\n", b"5;a\rb\r\nabcde\r\n", b'5;a="b\r\nabcde\r\n'),
]
TRAILERS = [
    *(b"Host: y\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"rubbish\r\n"),
    *(b"X : 1\r\n", b"X: 1\r\n 2\r\n", b"X: \x00\r\n", b"X: 1\n", b": 1\r\n", b"TE: x\r\n"),
    *(b"X: 1\r\n" * 200, b"X: " + b"a" * 9000 + b"\r\n", b"Authorization: x\r\n"),
]
MALFORMED_BODIES = [*CHUNKS, *(CHUNK + b"0\r\n" + trailer + b"\r\n" for trailer in TRAILERS)]

# Each of the following is a 400 of both servers.
LENGTHS = [
    *(b"-1", b"+5", b"5.0", b"0x5", b"1_0", b"", b"five", "٣".encode(), b"5, 5", b"9" * 5000),
    *(b"5\r\nContent-Length: 6", b"5 2"),
]
CODINGS = [b"gzip", b"chunked, gzip", b"identity", b"\x0bchunked", b"\r\n chunked"]
FIELDS = [
    *(b"rubbish", b": x", b"X A: 1", b"X : 1", b"X: \x00", b"X: a\rb", b"X: \x1b[31m", b"X: \x7f"),
    *(b"X: 1\r\n 2", b"X: 1\r\n\t2", b"X\xe9: 1", b"X(: 1", b"Host: x", b"Host: y"),
    *(b"Transfer-Encoding : chunked", b"Content-Length : 5"),
    *(b"Transfer-Encoding: " + coding for coding in CODINGS),
    *(b"Content-Length: " + length for length in LENGTHS),
]
HOSTS = [
    *(b"", b"Host:", b"Host: a\x01", b"Host: a\x00b", b"Host : x", b" Host: x", b"Ho_st: x"),
    *(b"Host: a b", b"Host: a, b", b"Host: a,b", b"Host: a/b", b"Host: a@b", b"Host: a?b"),
    *(b"Host: a:b", b"Host: a:1:2", b"Host: [::1", b"Host: ::1", b"Host: \xfc", b'Host: "a"'),
]
TARGETS = [
    *(b"", b"health/live", b"/\x00", b"/\x01", b"/\x7f", b"/\xff", b"/\t", b"/a b", b"/\n", b"/\r"),
    *(b"\\", b"/?\x80", b"http://[::1"),
]
METHODS = [
    *(b"get", b"Get", b"post", b"", b" GET", b"\tGET", b"GET GET", b"G\x00T", b"G\xc9T", b"G(T"),
    *(b"GET:", b"GET,POST"),
]
VERSIONS = [
    *(b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"HTTP/10.1", b"HTTP/1.11", b"http/1.1", b"HTTP/x.y"),
    *(b"FTP/1.1", b"HTTP /1.1", b"HTTP/1.1 ", b"HTTP/1", b"HTTP/1,1", b""),
]
LINES = [
    *(b"GET %b HTTP/1.1" % target for target in TARGETS),
    *(b"%b /health/live HTTP/1.1" % method for method in METHODS),
    *(b"GET /health/live %b" % version for version in VERSIONS),
    *(b"GET /health/live", b"rubbish"),
]
# Request, statuses of gunicorn, statuses of granian.
DIFFERENT: list[tuple[bytes, str, str]] = [
    (post(CHUNKED, body=CHUNK + b"0\r\n\r\n"), "201 200", "411"),
    (get(CHUNKED) + CHUNK + b"0;a=b\r\nX-Trailer: 1\r\n\r\n", "200 200", "411"),
    (post(CHUNKED, b"Content-Length: 5", body=CHUNK + b"0\r\n\r\n"), "400", "411"),
    (post(CHUNKED, CHUNKED, body=CHUNK + b"0\r\n\r\n"), "400", "411"),
    *(
        (get(b"Transfer-Encoding: " + value), "501", "400")
        for value in (b"xchunked", b"chunked,", b"")
    ),
    (get(b"Content-Length: 0\r\nContent-Length: 0"), "400", "200 200"),
    (get(b"Content-Type: a\r\nContent-Type: a"), "400", "200 200"),
    (get(b"X: 1\nY: 2"), "400", "200 200"),
    (get(b"Expect: 200-ok"), "417", "200 200"),
    (get(b"X: " + b"a" * 9000), "431", "200 200"),
    (get(*[b"X: 1"] * 200), "431", "431"),
    (get(host=b"Host: " + b"a" * 9000), "431", "200 200"),
    *((get(host=b"Host: " + it), "200 200", "200 200") for it in (b"[::1]:80", b"a_b.:", b"%41")),
    (get(line=b"GET * HTTP/1.1"), "400", "404 200"),
    (get(line=b"GET x:80 HTTP/1.1"), "400", "302 200"),
    (get(line="GET /ü HTTP/1.1".encode()), "400", "404 200"),
    (get(line=b'GET /health/live?"<> HTTP/1.1'), "200 200", "400"),
    (get(line=b"GET /%b HTTP/1.1" % (b"a" * 9000)), "414", "404 200"),
    (get(line=b"CONNECT x:80 HTTP/1.1"), "404", "404 200"),
    (get(line=b"OPTIONS * HTTP/1.1"), "404 200", "404 200"),
    (get(line=b"GET http://y/health/live HTTP/1.1"), "200 200", "200 200"),
    *(
        (get(line=b"%b / HTTP/1.1" % method), "400", "405 200")
        for method in (b"GO", b"A" * 21, b"G#T")
    ),
    *(
        (get(b"Connection: " + options), "200", "200")
        for options in (b"TE, Close", b"keep-alive\r\nConnection: close")
    ),
    (get(line=b"FOO /health/live HTTP/1.1"), "405 200", "405 200"),
    (get(line=b"\nGET /health/live HTTP/1.1"), "400", "200 200"),
    (get(line=b"GET /health/live HTTP/1.2"), "200 200", "400"),
    (get(line=b"GET /health/live HTTP/1.0", host=b""), "200", "200"),
    # HTTP/2 with prior knowledge, which neither server speaks.
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", "400", ""),
    *(
        (get(UPGRADE, b"Upgrade: " + it, b"HTTP2-Settings: AA"), "200 200", "200 200")
        for it in (b"h2c", b"websocket")
    ),
    # The body is a request of its own if its length is not given.
    (post(body=FOLLOWING), "400 200", "400 200"),
    (post(b"Connection: content-length", b"Content-Length: 0"), "400 400", "400 400"),
]
CORPUS: list[tuple[bytes, str, str]] = [
    *((post(CHUNKED, body=body), "400", "411") for body in MALFORMED_BODIES),
    *((get(CHUNKED) + body, "200", "411") for body in MALFORMED_BODIES),
    *((get(field), "400", "400") for field in FIELDS),
    *((get(host=host), "400", "400") for host in HOSTS),
    *((get(line=line), "400", "400") for line in LINES),
    *DIFFERENT,
]


def conversation(service: RunningService, request: bytes) -> bytes:
    """Return all that the server sends for ``request`` and a valid one after it."""
    received = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(request)
        with suppress(ConnectionError):
            received += client.recv(65536)
            client.sendall(FOLLOWING)
            while part := client.recv(65536):
                received += part
    return received


def complaint_about(received: bytes, expected: str) -> str:
    """Return what is wrong with the responses on a connection, or nothing."""
    statuses = b" ".join(re.findall(rb"HTTP/1\.[0-2] (\d{3}) ", received)).decode()
    if statuses != expected:
        return f"{statuses}, not {expected}"
    head, _, body = received.partition(b"\r\n\r\n")
    # granian's parser has no problems.
    if statuses not in TITLES or head.endswith(b" GMT"):
        return ""
    problem = json.loads(body)
    fields = {("Cache-Control", "no-store"), ("Connection", "close"), *security_headers.HEADERS}
    sent = head.decode().lower().split("\r\n")
    missing = [name for name, value in fields if f"{name}: {value}".lower() not in sent]
    told = (problem["status"], problem["type"], problem["title"])
    is_right = told == (int(statuses), "about:blank", TITLES[statuses])
    is_right &= not any(each.startswith("access-control-") for each in sent)  # no CORS_ORIGINS
    return f"{missing} {problem}" if missing or not is_right else ""


@pytest.mark.parametrize("server", SERVERS)
def test_each_request_gets_one_response_and_harms_nothing(
    service: RunningService, http: httpx.Client, server: str
) -> None:
    complaints = []
    for request, of_gunicorn, of_granian in CORPUS:
        statuses = of_gunicorn if server == "gunicorn" else of_granian
        if complaint := complaint_about(conversation(service, request), statuses):
            complaints.append(f"{request[:100]!r}: {complaint}")
    assert complaints == []
    is_valid = server == "gunicorn"  # the one chunked request that is
    assert http.get(URL).json()["pagination"]["total"] == is_valid
    assert 'status="5' not in re.sub(r".* 0\.0\n", "", http.get("/metrics").text)
    for word in ("Traceback", "mallory", "\x1b"):
        assert word not in service.log
    if server == "gunicorn":
        warnings = service.log.count("WARNING - malformed chunked body")
        assert warnings == 2 * len(MALFORMED_BODIES)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("line", [b"POST /api/v1/users", b"PUT %b", b"PATCH %b"])
def test_request_that_breaks_off_is_not_executed(
    service: RunningService, http: httpx.Client, line: bytes
) -> None:
    stored = http.post(URL, json=ADA)
    line = line.replace(b"%b", stored.headers["Location"].encode())
    for field, body in (
        (b"Content-Length: 500", USER),
        (CHUNKED, CHUNK[:-9]),
        (CHUNKED, CHUNK),
        (CHUNKED, CHUNK + b"0\r\n"),
    ):
        head = get(b"Content-Type: application/json", field, line=line + b" HTTP/1.1")
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
            client.sendall(head + body)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(65536).split()[1] in (b"400", b"411")
    assert http.get(URL).json()["users"] == [stored.json()]


@pytest.mark.parametrize("server", SERVERS)
def test_upload_that_its_client_gives_up_is_not_executed(
    service: RunningService, http: httpx.Client, database_url: str
) -> None:
    def given_up() -> Iterator[bytes]:
        yield USER
        raise InterruptedError

    with pytest.raises(InterruptedError):
        http.post(URL, content=given_up(), headers={"Content-Type": "application/json"})
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        reset_at_close = struct.pack("ii", True, 0)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_at_close)
        client.sendall(post(CHUNKED, body=CHUNK))
    assert service.stop() == 0  # after the requests that have begun
    assert rows(database_url, "SELECT username FROM users") == []


@pytest.mark.parametrize("server", SERVERS)
def test_root_leads_to_the_documentation_whatever_the_host(service: RunningService) -> None:
    for target in (b"/", b"//", b"/?a=b", b"http://evil.example", b"http://evil.example/"):
        for method in (b"GET", b"HEAD"):
            request = get(line=b"%b %b HTTP/1.1" % (method, target), host=b"Host: evil.example")
            received = conversation(service, request)
            assert received.startswith(b"HTTP/1.1 302 "), (request, received)
            assert b"\nlocation: /docs\r\n" in received.lower()
            assert b"evil" not in received


@pytest.mark.parametrize(
    ("server", "statuses"),
    [("gunicorn", {400, 414, 417, 431, 501}), ("granian", {400, 411})],
)
def test_scripts_may_read_what_a_server_refuses(
    start: Start, server: str, statuses: set[int]
) -> None:
    """granian's parser refuses some requests without any of the service's headers."""
    refused = {"400": get(host=b"")}
    for request, of_gunicorn, of_granian in DIFFERENT:
        refused.setdefault(of_gunicorn if server == "gunicorn" else of_granian, request)
    with start(CORS_ORIGINS="https://app.example.com") as service:
        for status in statuses:
            (answer,) = answers(conversation(service, refused[str(status)]))
            assert answer.status == status
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "Retry-After" in answer.headers["access-control-expose-headers"]
