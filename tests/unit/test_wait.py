"""Waiting for PostgreSQL: within the deadline, by select or by functions of the worker's own."""

import math
import os
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import POLL_ERROR, POLL_OK, POLL_READ, POLL_WRITE

from user_service.database import wait
from user_service.errors import DeadlineExceeded
from user_service.resilience import deadline


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo ``use`` after the test."""
    monkeypatch.setattr(wait, "_waits", dict(wait._waits))


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    pair = socket.socketpair()
    yield pair
    for end in pair:
        end.close()


def connection(states: list[int], file_descriptor: int = 7) -> Any:
    """Return a connection that is in each of ``states`` in turn."""
    return SimpleNamespace(poll=lambda: states.pop(0), fileno=lambda: file_descriptor)


def test_returns_when_there_is_something_to_read(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = sockets
    os.write(theirs.fileno(), b"answer")
    states = [POLL_WRITE, POLL_READ, POLL_OK]
    wait.wait_within_deadline(connection(states, ours.fileno()))
    assert states == []


def test_ends_at_the_deadline(sockets: tuple[socket.socket, socket.socket]) -> None:
    with deadline.within(0.01), pytest.raises(DeadlineExceeded) as raised:
        wait.wait_within_deadline(connection([POLL_READ], sockets[0].fileno()))
    # A context would hold a traceback, and by its frames the connection.
    assert raised.value.__context__ is None


def test_error_of_the_connection_is_raised() -> None:
    with pytest.raises(psycopg2.OperationalError, match="unexpected state"):
        wait.wait_within_deadline(connection([POLL_ERROR]))


@pytest.mark.usefixtures("waits")
def test_worker_may_wait_by_functions_of_its_own() -> None:
    waited: list[tuple[str, int, float | None]] = []
    wait.use(
        lambda file, seconds: waited.append(("readable", file, seconds)),
        lambda file, seconds: waited.append(("writable", file, seconds)),
    )
    wait.wait_within_deadline(connection([POLL_READ, POLL_WRITE, POLL_OK]))
    assert waited == [("readable", 7, None), ("writable", 7, None)]
    with deadline.within(30):
        wait.wait_within_deadline(connection([POLL_READ, POLL_OK]))
    assert waited[-1][2] == pytest.approx(30, abs=5)
    assert deadline.remaining() == math.inf


@pytest.mark.usefixtures("waits")
def test_time_out_of_such_a_function_is_the_deadlines() -> None:
    def time_out(_file: int, _seconds: float | None) -> None:
        raise TimeoutError

    wait.use(time_out, time_out)
    with pytest.raises(DeadlineExceeded):
        wait.wait_within_deadline(connection([POLL_WRITE]))
