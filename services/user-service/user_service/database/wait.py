"""Waiting for PostgreSQL: never past the deadline.

psycopg2 calls ``wait_within_deadline`` whenever it would block. A limit on the client's side is
needed: ``statement_timeout`` and TCP's keepalives do not end the wait for a frozen server, whose
kernel still acknowledges what is sent. Under gevent, which replaces ``select.poll``, the other
greenlets run in the meantime.
"""

import math
import select

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, connection, set_wait_callback

from user_service.errors import DeadlineExceeded
from user_service.resilience import deadline

_EVENTS = {POLL_READ: select.POLLIN, POLL_WRITE: select.POLLOUT}


def install() -> None:
    """Make every psycopg2 connection of this process wait within the deadline."""
    set_wait_callback(wait_within_deadline)


def wait_within_deadline(connection: connection) -> None:
    """Return when ``connection`` is ready; raise DeadlineExceeded when the deadline has passed.

    psycopg2 closes a connection whose wait was broken off, so that an answer that still arrives
    cannot be taken for the answer to a later statement.
    """
    while (state := connection.poll()) != POLL_OK:
        if state not in _EVENTS:
            raise psycopg2.OperationalError(f"unexpected state {state} of the connection")
        poller = select.poll()
        poller.register(connection.fileno(), _EVENTS[state])
        left = deadline.remaining()
        if not poller.poll(None if left == math.inf else left * 1000):
            raise DeadlineExceeded("the database did not answer within the request's deadline")
