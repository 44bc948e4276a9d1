"""gunicorn's worker on real sockets: idle clients, and errors of the application.

``tests/e2e/test_servers.py`` has the clients that stand still or are always ready.
"""

import json
import os
import resource
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import gevent
import gevent.socket
import pytest
from gunicorn.config import Config

import gunicorn_worker
from gunicorn_worker import QuietLogger, Worker

GET = b"GET /first?name=joe HTTP/1.1\r\nHost: a\r\n\r\n"
SECONDS = 10.0  # a client waits no longer
HEADERS = [("Content-Length", "2")]


class Server:
    """A worker that serves connections made by ``connect``, without a master before it."""

    def __init__(self) -> None:
        config = Config()
        config.set("keepalive", 60)
        self.worker = Worker(1, os.getppid(), [], None, 30, config, QuietLogger(config))
        self.worker.log.error_log.propagate = True
        self._listener = gevent.socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self._clients: list[gevent.socket.socket] = []

    def connect(
        self, sent: bytes, headers: list[tuple[str, str]] = HEADERS
    ) -> gevent.socket.socket:
        """Return a client that has sent something, and whose connection is being served."""

        def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            start_response("200 OK", headers)
            return [b"ok"]

        self.worker.wsgi = app
        client = gevent.socket.create_connection(self._listener.getsockname())
        self._clients.append(client)
        client.settimeout(SECONDS)
        accepted, address = self._listener.accept()
        gevent.spawn(self.worker.handle, self._listener, accepted, address)
        client.sendall(sent)
        return client

    def notify_often(self) -> None:
        while True:
            self.worker.notify()
            gevent.sleep(0.01)

    def close(self) -> None:
        for each in (*self._clients, self._listener):
            each.close()
        gevent.sleep(0.05)  # until the worker has noticed it
        self.worker.tmp.close()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server whose worker looks for connections that are due."""
    started = Server()
    greenlet = gevent.spawn(started.notify_often)
    yield started
    greenlet.kill()
    started.close()


def received(client: gevent.socket.socket) -> bytes:
    """Return all that the server sends before it closes the connection."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_header_that_does_not_end_closes_a_connection_unless_it_has_served(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gunicorn_worker, "HEADER_SECONDS", 0.1)
    served = server.connect(GET)
    assert served.recv(65536)
    assert received(server.connect(GET[:20])) == b""
    gevent.sleep(0.2)
    served.sendall(GET)
    assert served.recv(65536).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "length", [b"Content-Length: 1000000000000", b"Transfer-Encoding: chunked\r\n\r\nffffffffff"]
)
def test_body_that_nobody_reads_is_not_read_to_its_end(server: Server, length: bytes) -> None:
    client = server.connect(GET[:-2] + length + b"\r\n\r\n")
    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        for _ in range(1 << 16):  # 4 GiB
            client.sendall(bytes(65536))


def test_body_that_nobody_reads_costs_no_connection_if_it_is_short(server: Server) -> None:
    client = server.connect(GET[:-2] + b"Content-Length: 1048576\r\n\r\n")
    last = GET[:-2] + b"Connection: close\r\n\r\n"
    client.sendall(bytes(1048576) + last)
    assert received(client).count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize(
    "fields",
    [
        b"Connection: close\r\nContent-Length: 9000\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
    ],
    ids=["closing", "malformed chunk"],
)
def test_client_that_is_still_sending_gets_the_last_answer(server: Server, fields: bytes) -> None:
    client = server.connect(GET[:-2] + fields)
    for _ in range(3):
        gevent.sleep(0.05)
        client.sendall(b"x")
    assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_slow_client_is_disconnected_without_a_descriptor_to_spare(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = server.connect(GET[:20])
    gevent.sleep(0.05)  # until the worker waits for the rest
    spare, limits = [], resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        with suppress(OSError):
            while True:
                spare.append(os.dup(0))
        monkeypatch.setattr(gunicorn_worker, "HEADER_SECONDS", 0.1)
        assert received(client) == b""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for each in spare:
            os.close(each)


@pytest.mark.parametrize("headers", [[("X-Name", "1\r\n2")], [("X Name", "1")]])
def test_error_of_the_application_is_a_problem_too_and_logged_with_its_traceback(
    server: Server, caplog: pytest.LogCaptureFixture, headers: list[tuple[str, str]]
) -> None:
    head, _, body = received(server.connect(GET, headers)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 ")
    assert json.loads(body)["detail"] == "An unexpected error occurred"
    assert any(record.exc_info for record in caplog.records)
    assert "joe" not in caplog.text
