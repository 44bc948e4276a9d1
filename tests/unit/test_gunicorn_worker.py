"""gunicorn's worker on real sockets: idle clients, and errors of the application.

``tests/e2e/test_servers.py`` has the clients that stand still or are always ready.
"""

import json
import os
import resource
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.config import Config

import gunicorn_worker
from gunicorn_worker import QuietLogger, Worker

GET = b"GET /first?name=joe HTTP/1.1\r\nHost: a\r\n\r\n"
SECONDS = 10.0  # a client waits no longer
Connect = Callable[..., gevent.socket.socket]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return a function that makes clients of a worker, which has no master before it."""
    config = Config()
    config.set("keepalive", 60)
    worker = Worker(1, os.getppid(), [], None, 30, config, QuietLogger(config))
    worker.log.error_log.propagate = True
    listener = gevent.socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def make(
        sent: bytes, header: tuple[str, str] = ("Content-Length", "2")
    ) -> gevent.socket.socket:
        """Return a client that has sent something; the application answers with ``header``."""

        def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            start_response("200 OK", [header])
            return [b"ok"]

        worker.wsgi = app
        client = clients.enter_context(gevent.socket.create_connection(listener.getsockname()))
        client.settimeout(SECONDS)
        client.sendall(sent)
        return client

    def end_those_that_are_due() -> None:
        while True:
            worker.notify()
            gevent.sleep(0.01)

    watch = gevent.spawn(end_those_that_are_due)
    served = StreamServer(listener, partial(worker.handle, listener), spawn=Pool())
    served.start()
    with served, ExitStack() as clients:
        yield make
    watch.kill()
    worker.tmp.close()


def received(client: gevent.socket.socket) -> bytes:
    """Return all that the server sends before it closes the connection."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_header_that_does_not_end_closes_a_connection_unless_it_has_served(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gunicorn_worker, "HEADER_SECONDS", 0.1)
    served = connect(GET)
    assert served.recv(65536)
    assert received(connect(GET[:20])) == b""
    gevent.sleep(0.2)
    served.sendall(GET)
    assert served.recv(65536).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "length", [b"Content-Length: 1000000000000", b"Transfer-Encoding: chunked\r\n\r\nffffffffff"]
)
def test_body_that_nobody_reads_is_not_read_to_its_end(connect: Connect, length: bytes) -> None:
    client = connect(GET[:-2] + length + b"\r\n\r\n")
    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        for _ in range(1 << 16):  # 4 GiB
            client.sendall(bytes(65536))


def test_body_that_nobody_reads_costs_no_connection_if_it_is_short(connect: Connect) -> None:
    client = connect(GET[:-2] + b"Content-Length: 1048576\r\n\r\n")
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
def test_client_that_is_still_sending_gets_the_last_answer(connect: Connect, fields: bytes) -> None:
    client = connect(GET[:-2] + fields)
    for _ in range(3):
        gevent.sleep(0.05)
        client.sendall(b"x")
    assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_slow_client_is_disconnected_without_a_descriptor_to_spare(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(GET[:20])
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


@pytest.mark.parametrize("header", [("X-Name", "1\r\n2"), ("X Name", "1")])
def test_error_of_the_application_is_a_problem_too_and_logged_with_its_traceback(
    connect: Connect, caplog: pytest.LogCaptureFixture, header: tuple[str, str]
) -> None:
    head, _, body = received(connect(GET, header)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 ")
    assert json.loads(body)["detail"] == "An unexpected error occurred"
    assert any(record.exc_info for record in caplog.records)
    assert "joe" not in caplog.text
