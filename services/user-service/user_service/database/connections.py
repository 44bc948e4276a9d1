"""psycopg2's SimpleConnectionPool, shared between threads."""

import threading
from collections.abc import Mapping, Sequence
from typing import cast

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, connection, cursor
from psycopg2.pool import SimpleConnectionPool

from user_service.database.connect import connect


class Cursor(cursor):
    """A cursor that sends SQL ahead of its statements, in the same round trip.

    In autocommit mode, all that is sent together is one transaction. A tracer, which wraps the
    connection's class of cursors, sees the statement alone.
    """

    ahead_of_next = ""
    ahead_of_each = ""

    def execute(  # type: ignore[override]  # SQL can go ahead of a string only
        self, query: str, values: Mapping[str, object] | Sequence[object] | None = None
    ) -> None:
        """Run one statement."""
        ahead, self.ahead_of_next = self.ahead_of_next + self.ahead_of_each, ""
        super().execute(ahead + query, values)


def cursor_of(connection: connection) -> Cursor:
    """Return a new cursor of a connection that was lent by ``Connections``."""
    return cast("Cursor", connection.cursor())


class Connections:
    """At most ``size`` connections, opened when needed and kept when they come back.

    SimpleConnectionPool is not thread-safe, and its ``getconn`` connects if no connection is idle,
    which can take as long as the network likes. Here each of its methods is called under a lock,
    and connections are opened without the lock: its ``connection_factory`` only hands over what
    was opened before. The caller ends as many loans as it begins, and keeps to ``size``.
    """

    def __init__(self, dsn: str, size: int) -> None:
        self._dsn = dsn
        self._lock = threading.Lock()
        self._opened: list[connection] = []  # connections that the pool has not seen yet
        self._pool = SimpleConnectionPool(
            0,
            size,
            dsn,
            connection_factory=lambda _dsn: self._opened.pop(),
            cursor_factory=Cursor,
        )
        # The number that putconn keeps. As an argument, so many would be opened at once.
        self._pool.minconn = size
        self._idle = 0
        self.lent = 0
        self.closed = False

    def take_idle(self) -> connection | None:
        """Lend the idle connection that was used last; return None if there is none."""
        with self._lock:
            if not self._idle:
                return None
            return self._lend()

    def open(self) -> connection:
        """Connect and lend a connection: the new one, or one that has come back since.

        Raise ConnectionLost.
        """
        opened = connect(self._dsn)
        with self._lock:
            self._opened.append(opened)
            self._idle += 1
            return self._lend()

    def put_back(self, connection: connection) -> None:
        """End a loan. A connection that is not in order, or comes after ``close``, is closed."""
        if not is_reusable(connection):
            connection.close()
        with self._lock:
            if self.closed:
                connection.close()
            self._pool.putconn(connection)  # forgets a closed one
            self.lent -= 1
            self._idle += not connection.closed

    def close(self) -> None:
        """Close every idle connection now, and each lent one when it comes back."""
        with self._lock:
            self.closed = True
        while (idle := self.take_idle()) is not None:
            self.put_back(idle)

    def _lend(self) -> connection:
        self._idle -= 1
        self.lent += 1
        return self._pool.getconn()


def is_reusable(connection: connection) -> bool:
    """Return whether ``connection`` is open and outside of a transaction."""
    return connection.info.transaction_status == TRANSACTION_STATUS_IDLE


def is_alive(idle: connection) -> bool:
    """Return whether the server has not closed ``idle``, without a round trip.

    It takes two reads of the socket: libpq takes the server's farewell by the first, and
    notices the end of the stream by the second.
    """
    try:
        idle.poll()
        idle.poll()
    except psycopg2.Error:
        return False
    return not idle.closed


def has_become_read_only(connection: connection) -> bool:
    """Return whether the server has said that it takes no writes any more.

    PostgreSQL 14 and newer report changes of both settings with their next answer.
    """
    reported = connection.info.parameter_status
    return "on" in (reported("in_hot_standby"), reported("default_transaction_read_only"))
