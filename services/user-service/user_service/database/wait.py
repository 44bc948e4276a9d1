"""Waiting for PostgreSQL: never past the deadline, and cooperatively where the worker asks for it.

psycopg2 calls ``wait_within_deadline`` whenever it would block. A limit on the client's side is
needed: ``statement_timeout`` and TCP's keepalives do not end the wait for a frozen server, whose
kernel still acknowledges what is sent.
"""

import math
import select
from collections.abc import Callable
from contextlib import suppress

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, connection, set_wait_callback

from user_service.errors import DeadlineExceeded
from user_service.resilience import deadline

# Waits for a file descriptor, for seconds or without a limit; raises TimeoutError.
Wait = Callable[[int, float | None], None]


def _wait_for(event: int) -> Wait:
    def wait(file_descriptor: int, seconds: float | None) -> None:
        poller = select.poll()
        poller.register(file_descriptor, event)
        if not poller.poll(None if seconds is None else seconds * 1000):
            raise TimeoutError

    return wait


_waits: dict[int, Wait] = {
    POLL_READ: _wait_for(select.POLLIN),
    POLL_WRITE: _wait_for(select.POLLOUT),
}


def use(wait_readable: Wait, wait_writable: Wait) -> None:
    """Wait by these functions from now on: those of gevent, in a worker that runs greenlets."""
    _waits.update({POLL_READ: wait_readable, POLL_WRITE: wait_writable})


def install() -> None:
    """Make every psycopg2 connection of this process wait within the deadline."""
    set_wait_callback(wait_within_deadline)


def wait_within_deadline(connection: connection) -> None:
    """Return when ``connection`` is ready; raise DeadlineExceeded when the deadline has passed.

    psycopg2 closes a connection whose wait was broken off, so that an answer that still arrives
    cannot be taken for the answer to a later statement.
    """
    while (state := connection.poll()) != POLL_OK:
        if state not in _waits:
            raise psycopg2.OperationalError(f"unexpected state {state} of the connection")
        left = deadline.remaining()
        with suppress(TimeoutError):
            _waits[state](connection.fileno(), None if left == math.inf else left)
            continue
        # Outside of the handler: the TimeoutError as its context would keep the connection alive.
        raise DeadlineExceeded("the database did not answer within the request's deadline")
