"""Waiting for PostgreSQL: never past the deadline.

psycopg2 calls ``wait_within_deadline`` whenever it would block. A limit on the client's side is
needed: ``statement_timeout`` and TCP's keepalives do not end the wait for a frozen server, whose
kernel still acknowledges what is sent. Under gevent, which replaces ``select.poll``, the other
greenlets run in the meantime.
"""

import math
import os
import select
import socket
from collections.abc import Mapping
from contextlib import suppress

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, connection, set_wait_callback

from user_service.errors import DeadlineExceeded
from user_service.resilience import deadline

_EVENTS = {POLL_READ: select.POLLIN, POLL_WRITE: select.POLLOUT}


class Connection(connection):
    """A connection whose socket stays open when the deadline passes during a commit.

    A commit that waits for a synchronous standby goes on without a client, for as long as the
    standby is away, and no time-out of PostgreSQL ends that.
    """

    server: Mapping[str, str]  # the host, its address and its port, where they are known
    timeline = 0  # that the server is known to follow, for a replica
    is_committing = False
    unanswered: socket.socket | None = None  # waits for the answer to a commit

    def keep_socket(self) -> None:
        """Take the socket from libpq, which closes an empty file instead.

        libpq's farewell goes there. PgBouncer would take it for the end of the session, and open
        the next one while the server still commits.
        """
        self.unanswered = socket.socket(fileno=os.dup(self.fileno()))
        empty = os.open(os.devnull, os.O_RDWR)
        os.dup2(empty, self.fileno())
        os.close(empty)

    def wait_for_answer(self) -> None:
        """Return when the server has answered the commit and ended its session, or is gone."""
        if self.unanswered is not None:
            with self.unanswered as waiting, suppress(OSError):
                waiting.settimeout(None)
                waiting.recv(1)
                waiting.shutdown(socket.SHUT_WR)
                while waiting.recv(4096):
                    pass

    def give_up(self) -> None:
        """End ``wait_for_answer`` now."""
        if self.unanswered is not None:
            with suppress(OSError):
                self.unanswered.shutdown(socket.SHUT_RDWR)


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
            if isinstance(connection, Connection) and connection.is_committing:
                connection.keep_socket()
            raise DeadlineExceeded("the database did not answer within the request's deadline")
