"""How this process waits for PostgreSQL: cooperatively, and never past the deadline.

psycopg2 calls ``wait_within_deadline`` whenever it would block. ``statement_timeout`` ends a slow
statement, but nothing on the server's side, nor TCP's keepalives, ends the wait for a server that
is frozen and whose kernel still acknowledges. Only a limit on the client's side does.

``select.poll`` is the one that gevent replaces, so under a gevent worker only the greenlet waits.
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

    psycopg2 closes a connection whose wait was broken off, so that its answer, should it still
    come, cannot be taken for the answer to another question.
    """
    while (state := connection.poll()) != POLL_OK:
        if state not in _EVENTS:
            raise psycopg2.OperationalError(f"unexpected state {state} of the connection")
        poller = select.poll()
        poller.register(connection.fileno(), _EVENTS[state])
        left = deadline.remaining()
        if not poller.poll(None if left == math.inf else left * 1000):
            raise DeadlineExceeded("the database did not answer within the request's deadline")
