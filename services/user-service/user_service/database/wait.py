"""Waits for PostgreSQL that end with the request's deadline.

psycopg2 calls ``wait_within_deadline`` whenever it would block. ``statement_timeout`` ends a slow
statement, but neither the server nor TCP's keepalives end the wait for a server that is frozen and
whose kernel still acknowledges. Only a limit on the client's side does.
"""

import math
import select
from collections.abc import Callable

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, connection, set_wait_callback

from user_service.errors import DeadlineExceeded
from user_service.resilience import deadline

# Waits for a file descriptor, for so many seconds or without a limit; raises TimeoutError.
Wait = Callable[[int, float | None], None]


def install() -> None:
    """Make every psycopg2 connection of this process wait within the deadline."""
    set_wait_callback(wait_within_deadline)


def use(wait_readable: Wait, wait_writable: Wait) -> None:
    """Wait by these functions from now on; a server with greenlets brings its own."""
    _WAITS[POLL_READ] = wait_readable
    _WAITS[POLL_WRITE] = wait_writable


def wait_within_deadline(connection: connection) -> None:
    """Return when ``connection`` is ready; raise DeadlineExceeded when the deadline has passed.

    psycopg2 closes a connection whose wait was broken off, so that a late answer cannot be taken
    for the answer to another question.
    """
    while (state := connection.poll()) != POLL_OK:
        wait = _WAITS.get(state)
        if wait is None:
            raise psycopg2.OperationalError(f"unexpected state {state} of the connection")
        left = deadline.remaining()
        try:
            wait(connection.fileno(), None if left == math.inf else left)
        except TimeoutError:
            raise DeadlineExceeded(
                "the database did not answer within the request's deadline"
            ) from None


def _poll(fileno: int, events: int, timeout: float | None) -> None:
    poller = select.poll()
    poller.register(fileno, events)
    if not poller.poll(None if timeout is None else timeout * 1000):
        raise TimeoutError


def _poll_readable(fileno: int, timeout: float | None) -> None:
    _poll(fileno, select.POLLIN, timeout)


def _poll_writable(fileno: int, timeout: float | None) -> None:
    _poll(fileno, select.POLLOUT, timeout)


_WAITS: dict[int, Wait] = {POLL_READ: _poll_readable, POLL_WRITE: _poll_writable}
