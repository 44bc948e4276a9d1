"""gunicorn's worker: who is ended for taking too long, and what is left to them."""

import math
import socket
import time
from collections.abc import Iterator

import gevent
import pytest
from gevent import get_hub
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser

from gunicorn_worker import Connection, ErrorLogger, Overdue, Worker

LONG = 10.0  # seconds


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker that looks at its connections, without gunicorn around it."""
    made = Worker.__new__(Worker)
    made._connections = {}
    timer = get_hub().loop.timer(0.01, repeat=0.01)
    timer.start(made._end_overdue)
    yield made
    timer.close()


def connection_of(worker: Worker, greenlet: gevent.Greenlet) -> Connection:
    worker._connections[greenlet] = Connection(header_seconds=LONG, keepalive=LONG)
    return worker._connections[greenlet]


def test_request_that_takes_too_long_is_ended_once_and_may_wait_while_it_tidies_up(
    worker: Worker,
) -> None:
    def request() -> str:
        try:
            gevent.sleep(LONG)
        except Overdue:
            gevent.sleep(0.1)
            return "tidied up"
        return "not ended"

    greenlet = gevent.spawn(request)
    connection_of(worker, greenlet).ends_at = time.monotonic() + 0.05
    assert greenlet.get(timeout=LONG / 2) == "tidied up"


def test_others_are_left_alone(worker: Worker) -> None:
    slow, other = (gevent.spawn(gevent.sleep, LONG), gevent.spawn(gevent.sleep, 0.2))
    connection_of(worker, slow).ends_at = 0
    connection_of(worker, other).ends_at = time.monotonic() + LONG
    other.get(timeout=LONG / 2)
    assert isinstance(slow.exception, Overdue)


def test_wait_for_a_request_ends_quietly_and_only_it_is_bounded(worker: Worker) -> None:
    connection = Connection(header_seconds=0.05, keepalive=LONG)
    worker._connections[gevent.getcurrent()] = connection
    with connection:
        assert connection.is_idle
        gevent.sleep(LONG)
        pytest.fail("it was not ended")
    assert (connection.is_idle, connection.ends_at) == (False, math.inf)


def test_first_request_is_waited_for_less_long_than_those_after_it() -> None:
    connection = Connection(header_seconds=1, keepalive=LONG)
    began = time.monotonic()
    with connection:
        assert 1 <= connection.ends_at - began < LONG
    with connection:
        assert connection.ends_at - began >= LONG


def test_error_of_a_request_is_logged_without_its_query(caplog: pytest.LogCaptureFixture) -> None:
    """The words are gunicorn's, in its `Worker.handle_error`."""
    log = ErrorLogger(Config())
    log.error_log.propagate = True
    try:
        int("no number")
    except ValueError:
        log.exception("Error handling request %s %s", "GET", "/api/v1/users?email=ada@example.com")
    assert caplog.messages == ["Error handling request GET /api/v1/users"]


FIRST = b"POST /first HTTP/1.1\r\nHost: a\r\n"
SECOND = b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("body", "read"),
    [
        pytest.param(b"\r\n", 0, id="none"),
        pytest.param(b"Content-Length: 5\r\n\r\n12345", 0, id="unread"),
        pytest.param(b"Content-Length: 5\r\n\r\n12345", 3, id="read in part"),
        pytest.param(b"Content-Length: 5\r\n\r\n12345", 5, id="read"),
        pytest.param(
            b"Content-Length: 3005\r\n\r\n12345" + 3000 * b"6", 3, id="long, and read in part"
        ),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n", 0, id="chunked"),
    ],
)
def test_next_request_begins_after_the_body_of_the_one_before(body: bytes, read: int) -> None:
    client, server = socket.socketpair()
    with client, server:
        client.sendall(FIRST + body + SECOND)
        client.shutdown(socket.SHUT_WR)
        parser = RequestParser(Config(), server, ("127.0.0.1", 1))
        first = next(parser)
        assert (first.path, first.body.read(read)) == ("/first", b"12345"[:read])
        assert next(parser).path == "/second"
        assert list(parser) == []
