"""psycopg2's SimpleConnectionPool, shared between threads."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import psycopg2
from psycopg2.extensions import connection, cursor
from psycopg2.pool import SimpleConnectionPool

from user_service.database.connect import connect
from user_service.errors import ConnectionLost, PoolTimeout, Unavailable

log = logging.getLogger(__name__)

# Seconds from a refused connection until a loan tries again to open one more.
GROW_SECONDS = 1.0
# Seconds after which connections that were not needed in this time are closed as a loan ends.
SHRINK_SECONDS = 10.0


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


class ConnectionPool:
    """At most ``size`` connections, opened when needed and lent in FIFO order.

    A loan begins with ``begin_loan``, gets its connection from ``take_idle`` or else from
    ``open_new``, and ends with ``end_loan``. The order is kept here because threading's semaphores
    and queues are not FIFO: a thread that has just put a connection back takes it again before the
    waiting threads run.

    While the server has no room for more connections, those that exist are shared. The pool keeps
    as many as were lent at once in the last seconds, and one less while the server refuses more:
    that makes room for a new process, which has none.

    SimpleConnectionPool is not thread-safe, and its ``getconn`` connects if no connection is idle,
    which can take as long as the network likes. Here each of its methods is called under a lock,
    and connections are opened without the lock: its ``connection_factory`` only hands over what
    was opened before.
    """

    def __init__(
        self,
        dsn: str,
        size: int,
        *,
        current_dsn: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``current_dsn`` is called after a failure to connect: the password may have changed."""
        self.size = size
        self.lent = 0
        self.closed = False
        # Without a new connection, the same server answers as before.
        self.made = 0
        self._dsn = dsn
        self._current_dsn = current_dsn
        self._clock = clock
        self._lock = threading.Lock()
        self._turns: deque[threading.Lock] = deque()  # one for each waiting caller
        self._opened: list[connection] = []  # connections that the pool has not seen yet
        self._pool = SimpleConnectionPool(
            0, size, "", connection_factory=lambda _dsn: self._opened.pop(), cursor_factory=Cursor
        )
        # So many idle connections putconn keeps. As an argument, so many would be opened at once.
        self._pool.minconn = size
        self._idle = self._existing = self._most_lent = 0
        self._limit = size  # of the loans; lower while the server refuses more connections
        self._grow_at = math.inf
        self._shrink_at = clock() + SHRINK_SECONDS

    @property
    def waiting(self) -> int:
        """The number of callers that wait for a loan."""
        return len(self._turns)

    def begin_loan(self, timeout: float = 0.0, *, first: bool = False) -> None:
        """Begin a loan, or raise PoolTimeout if none ends within ``timeout`` seconds.

        A caller that has waited before is the ``first`` of the queue, any other the last.
        """
        with self._lock:
            if self._clock() >= self._grow_at:
                self._grow_at = self._clock() + GROW_SECONDS
                self._limit = min(self._limit + 1, self.size)
                self._hand_over()
            if self.lent < self._limit:  # then no caller waits
                self.lent += 1
                return
            if timeout <= 0:
                raise PoolTimeout(f"all {self.lent} connections are in use")
            turn = threading.Lock()
            turn.acquire()
            self._turns.insert(0 if first else len(self._turns), turn)
        try:
            turn.acquire(timeout=timeout)
        except BaseException:  # the caller is ended while it waits, as by a server's time-out
            if not self._withdraw(turn):
                self.end_loan(None)
            raise
        if self._withdraw(turn):
            raise PoolTimeout(f"no connection came free, all {self.lent} are in use")

    def take_idle(self) -> connection | None:
        """Return the idle connection that was used last, or None if there is none."""
        with self._lock:
            if not self._idle:
                return None
            self._idle -= 1
            return self._pool.getconn()

    def open_new(self, timeout: float = 0.0) -> connection:
        """Return a new connection, or one that has come back since.

        If the server refuses it, wait for another one to come back, until ``timeout`` seconds from
        now: raise PoolTimeout then, or ConnectionLost if there is no other one.
        """
        if self.closed:
            raise Unavailable("the connection pool is closed")
        until = self._clock() + timeout
        try:
            opened = self._connect()
        except ConnectionLost as refusal:
            return self._wait_for_another(until, refusal)
        with self._lock:
            self._opened.append(opened)
            self.made += 1
            self._existing += 1
            self._limit, self._grow_at = self.size, math.inf
            self._hand_over()
            return self._pool.getconn()

    def discard(self, *useless: connection) -> None:
        """Close connections whose loans continue with others."""
        with self._lock:
            for connection in useless:
                connection.close()
                self._pool.putconn(connection)
                self._existing -= 1

    def end_loan(self, connection: connection | None) -> None:
        """End a loan, and keep its connection if that is open."""
        with self._lock:
            self._most_lent = max(self._most_lent, self.lent)
            if connection is not None:
                if self.closed:
                    connection.close()
                self._pool.putconn(connection)
                if connection.closed:
                    self._existing -= 1
                else:
                    self._idle += 1
            self.lent -= 1
            kept = self._kept()
            if self._turns:
                self._hand_over()
        if kept is not None:
            self.close_idle(kept)

    def close_idle(self, kept: int = 0) -> int:
        """Close the connections that are not in use but for ``kept``, and return their number.

        Connections that are in use count as kept.
        """
        with self._lock:
            useless = max(0, min(self._idle, self._existing - kept))
            taken = [self._pool.getconn() for _ in range(useless)]
            self._idle -= useless
        self.discard(*taken)
        return useless

    def close(self) -> None:
        """Close every idle connection now, and each lent one when its loan ends."""
        self.closed = True
        self.close_idle()

    def _connect(self) -> connection:
        try:
            return connect(self._dsn)
        except ConnectionLost:
            current = self._current_dsn()
            if current == self._dsn:
                raise
            log.info("connecting with the new URL or password of the database")
            self._dsn = current
            return connect(current)

    def _wait_for_another(self, until: float, refusal: ConnectionLost) -> connection:
        with self._lock:
            if not self._existing:
                raise refusal
            if self._grow_at == math.inf:
                log.warning(
                    "connection pool continues with %d of %d connections: %s",
                    self._existing,
                    self.size,
                    refusal,
                )
            self._limit = self._existing
            self._grow_at = self._clock() + GROW_SECONDS
            self.lent -= 1
        try:
            self.begin_loan(until - self._clock(), first=True)
        except BaseException:
            with self._lock:
                self.lent += 1  # the caller ends the loan
            raise
        return self.take_idle() or self.open_new(until - self._clock())

    def _kept(self) -> int | None:
        """Return the number of connections to keep if it is time to close others."""
        if self._clock() < self._shrink_at:
            return None
        self._shrink_at = self._clock() + SHRINK_SECONDS
        kept, self._most_lent = self._most_lent, 0
        if self._grow_at < math.inf and self._existing > 1:
            kept = self._limit = min(kept, self._existing - 1)
            self._grow_at = self._clock() + GROW_SECONDS
        return kept

    def _hand_over(self) -> None:
        """Begin loans for the callers that have waited longest."""
        while self._turns and self.lent < self._limit:
            self.lent += 1
            self._turns.popleft().release()

    def _withdraw(self, turn: threading.Lock) -> bool:
        """Stop waiting; return False if the loan has begun before that."""
        with self._lock:
            if turn not in self._turns:
                return False
            self._turns.remove(turn)
            return True


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
