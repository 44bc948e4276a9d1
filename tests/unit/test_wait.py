"""Waiting for PostgreSQL within the deadline."""

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
