"""gunicorn's worker on real sockets: slow and idle clients, malformed requests, fairness."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent
import gevent.socket
import pytest
from gunicorn.config import Config

import gunicorn_worker
from gunicorn_worker import QuietLogger, Worker

GET = b"GET /first?name=ada HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc"
SECONDS = 10.0  # a client waits no longer

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def answering(body: bytes = b"ok") -> WSGIApp:
    def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    return app


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

    def connect(self, app: WSGIApp, sent: bytes) -> gevent.socket.socket:
        """Return a client that has sent something, and whose connection is being served."""
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
    started = Server()
    yield started
    started.close()


@pytest.fixture
def notifying(server: Server) -> Iterator[Server]:
    """The same, whose worker looks for connections that are due."""
    greenlet = gevent.spawn(server.notify_often)
    yield server
    greenlet.kill()


def received(client: gevent.socket.socket) -> bytes:
    """Return all that the server sends before it closes the connection."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_header_that_does_not_end_closes_the_connection(
    notifying: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gunicorn_worker, "HEADER_SECONDS", 0.1)
    assert received(notifying.connect(answering(), GET[:20])) == b""


def test_connection_that_has_served_may_be_idle_for_longer(
    notifying: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gunicorn_worker, "HEADER_SECONDS", 0.1)
    client = notifying.connect(answering(), GET)
    assert client.recv(65536)
    gevent.sleep(0.3)
    client.sendall(GET)
    assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_body_that_does_not_end_closes_the_connection(notifying: Server) -> None:
    notifying.worker.request_seconds = 0.1
    seen = []

    def app(environ: dict[str, Any], _start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.append(environ["wsgi.input"].read())
        raise BrokenPipeError

    assert received(notifying.connect(app, POST)) == b""
    assert seen == [b"abc"]  # it may tidy up as if the client had left


def test_client_that_does_not_read_is_closed(notifying: Server) -> None:
    notifying.worker.request_seconds = 0.1
    client = notifying.connect(answering(body=b"x" * 20_000_000), GET)
    gevent.sleep(0.5)
    assert 0 < len(received(client)) < 20_000_000


def test_stop_ends_idle_connections_and_those_in_use_with_their_next_answer(
    notifying: Server,
) -> None:
    idle, used = notifying.connect(answering(), GET), notifying.connect(answering(), GET)
    for client in (idle, used):
        assert b"Connection: keep-alive" in client.recv(65536)
    notifying.worker.handle_exit(0, None)
    used.sendall(GET)
    assert b"Connection: close" in received(used)
    assert received(idle) == b""


@pytest.mark.parametrize("headers", [[("X-Name", "1\r\n2")], [("X Name", "1")]])
def test_error_of_the_application_is_a_problem_too_and_logged_with_its_traceback(
    server: Server, caplog: pytest.LogCaptureFixture, headers: list[tuple[str, str]]
) -> None:
    def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", headers)
        return []

    head, _, body = received(server.connect(app, GET)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 ")
    assert json.loads(body)["detail"] == "An unexpected error occurred"
    assert any(record.exc_info for record in caplog.records)
    assert "ada" not in caplog.text


def test_client_with_many_requests_ready_takes_turns_with_others(server: Server) -> None:
    served: list[str] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        served.append(environ["REMOTE_PORT"])
        return answering()(environ, start_response)

    clients = [server.connect(app, b"") for _ in range(2)]
    gevent.sleep(0.1)  # until the worker waits for both
    for client in clients:
        client.sendall(GET * 50)
    end = time.monotonic() + SECONDS
    while len(served) < 100 and time.monotonic() < end:
        gevent.sleep(0.01)
    assert len(set(served[:10])) == 2
