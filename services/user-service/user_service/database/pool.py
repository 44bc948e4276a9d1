"""A pool of connections, each lent to one caller at a time, for threads and greenlets."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

from psycopg2.pool import SimpleConnectionPool

from user_service.database.connection import Connection, Cursor, connect, parameters_of
from user_service.errors import ConnectionLost, PoolTimeout, Unavailable
from user_service.resilience import deadline

log = logging.getLogger(__name__)

# Seconds from a refused connection until a loan tries again to open one more.
GROW_SECONDS = 1.0
# Seconds after which connections that were not needed in this time are closed as a loan ends.
SHRINK_SECONDS = 10.0


class _Turn(NamedTuple):
    """A caller that waits for ``lock`` until its loan begins, and whether it writes."""

    lock: threading.Lock
    writes: bool


class ConnectionPool:
    """At most ``size`` connections, opened when needed.

    A *loan*, which settings and metrics call a checkout, is the right to one connection. It begins
    with ``begin_loan``, gets its connection from ``take_idle``, the one used last, or else from
    ``open_new``, and ends with ``end_loan``.

    Loans begin in the order in which they were asked for, but reads pass writes that wait for their
    share. The order is kept here because threading's semaphores and queues are not FIFO: a thread
    that has just put a connection back takes it again before the waiting threads run.

    While the server has no room for more connections, those that exist are shared. The pool keeps
    as many as were lent at once in the last seconds, and one less while the server refuses more:
    that makes room for a new process, which has none.

    A primary that another one has replaced may serve on until it notices. Its timeline is older,
    so connections to it are refused and closed while there are newer ones.

    Writes get at most three quarters of the loans. The loan of a commit without an answer goes on
    until the server has ended that session, so that it never has more sessions than ``size``. While
    commits wait for a standby, the last quarter serves reads.

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
        statement_timeout: float | None = None,
        current_dsn: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``current_dsn`` is called after a failure to connect: the password may have changed."""
        self.size = size
        self.lent = 0
        self.closed = False
        # Connections opened so far. A new one may lead to another server. A pooler may also change
        # the server of an old one, which is noticed only by a process with a new connection. That
        # process tells the others through Redis.
        self.made = 0
        self._dsn = dsn
        self._statement_timeout = statement_timeout
        self._current_dsn = current_dsn
        self._clock = clock
        self._lock = threading.Lock()
        self._turns: deque[_Turn] = deque()
        self._writing = 0
        self._unanswered: set[Connection] = set()
        self._servers: Sequence[Mapping[str, str]] = ()  # of the connection that was opened last
        self._timeline = 0  # of the same, if it is known
        self._opened: list[Connection] = []  # connections that the pool has not seen yet
        self._pool = SimpleConnectionPool(
            0, size, "", connection_factory=lambda _dsn: self._opened.pop(), cursor_factory=Cursor
        )
        # putconn keeps up to minconn idle connections. As an argument, it would open that many.
        self._pool.minconn = size
        # Idle connections, open connections, and the most loans at once in the last seconds.
        self._idle = self._existing = self._most_lent = 0
        self._limit = size  # of the loans; lower while the server refuses more connections
        self._grow_at = math.inf
        self._shrink_at = clock() + SHRINK_SECONDS

    @property
    def waiting(self) -> int:
        """The number of callers that wait for a loan."""
        return len(self._turns)

    def begin_loan(
        self, timeout: float = 0.0, *, writes: bool = False, first: bool = False
    ) -> None:
        """Begin a loan, or raise PoolTimeout if none ends within ``timeout`` seconds.

        A caller that has waited before is the ``first`` of the queue, any other the last.
        """
        with self._lock:
            if self._clock() >= self._grow_at:
                self._grow_at = self._clock() + GROW_SECONDS
                self._limit = min(self._limit + 1, self.size)
                self._hand_over()
            # No caller of this kind waits for a free loan: it would have got it already.
            if self.lent < self._limit and not (writes and self._is_full_of_writes):
                self.lent += 1
                self._writing += writes
                return
            if timeout <= 0:
                raise PoolTimeout(self._usage)
            turn = _Turn(threading.Lock(), writes)
            turn.lock.acquire()
            self._turns.insert(0 if first else len(self._turns), turn)
        try:
            turn.lock.acquire(timeout=timeout)
        except BaseException:  # the caller is ended while it waits, as by a server's time-out
            if not self._withdraw(turn):
                self.end_loan(None, writes=writes)
            raise
        if self._withdraw(turn):
            raise PoolTimeout(f"no connection came free: {self._usage}")

    def take_idle(self) -> Connection | None:
        """Return the idle connection that was used last, or None if there is none."""
        with self._lock:
            if not self._idle:
                return None
            self._idle -= 1
            return cast("Connection", self._pool.getconn())

    def open_new(self, timeout: float) -> Connection:
        """Return a new connection, or one that has come back since.

        If the server refuses it, wait for another one to come back, until ``timeout`` seconds from
        now, and raise PoolTimeout then. Raise ConnectionLost if there is no other one, or no time
        left: then the server has not answered.
        """
        if self.closed:
            raise Unavailable("the connection pool is closed")
        until = self._clock() + timeout
        try:
            opened = self._connect()
        except ConnectionLost as refusal:
            return self._wait_for_another(until, refusal)
        with self._lock:
            if not 0 < opened.timeline < self._least_timeline():
                return self._add(opened)
        opened.close()  # of an old primary: another caller has found the new one meanwhile
        return self.open_new(until - self._clock())

    def discard(self, useless: Connection) -> None:
        """Close a connection whose loan continues with another one."""
        with self._lock:
            self._close(useless)

    def end_loan(self, connection: Connection | None, *, writes: bool = False) -> None:
        """End a loan, and keep its connection if that is open."""
        with self._lock:
            self._most_lent = max(self._most_lent, self.lent)
            if connection is not None:
                if self.closed or 0 < connection.timeline < self._timeline:
                    connection.close()
                self._pool.putconn(connection)
                if connection.closed:
                    self._existing -= 1
                else:
                    self._idle += 1
            self.lent -= 1
            self._writing -= writes
            if self._clock() >= self._shrink_at:
                self._shrink()
            if self._turns:
                self._hand_over()

    def wait_for_answer(self, connection: Connection) -> None:
        """Return when a commit without an answer has one, or another server serves by now."""
        with self._lock:
            self._unanswered.add(connection)
            # Its loan may go on for long, so one more is allowed: to look for another server.
            self._limit = max(self._limit, min(len(self._unanswered) + 1, self.size))
            self._hand_over()
            self._give_up_if_old(connection)
        connection.wait_for_answer()
        with self._lock:
            self._unanswered.remove(connection)

    def close_idle(self) -> int:
        """Close the connections that are not in use, and return their number."""
        with self._lock:
            return self._close_idle(self._idle)

    def close(self) -> None:
        """Close every idle connection now, and each lent one when its loan ends."""
        self.closed = True
        self.close_idle()

    def _add(self, opened: Connection) -> Connection:
        """Add a new connection, and return it, or one that has come back since."""
        if opened.timeline > self._timeline:  # the idle ones lead to an old primary
            self._close_idle(self._idle)
        self._opened.append(opened)
        self.made += 1
        self._existing += 1
        self._limit, self._grow_at = self.size, math.inf
        self._servers = opened.servers
        self._timeline = opened.timeline or self._timeline
        for other in self._unanswered:
            self._give_up_if_old(other)
        self._hand_over()
        return cast("Connection", self._pool.getconn())

    def _close_idle(self, number: int) -> int:
        for _ in range(number):
            self._close(cast("Connection", self._pool.getconn()))
        self._idle -= number
        return number

    def _close(self, useless: Connection) -> None:
        useless.close()
        self._pool.putconn(useless)
        self._existing -= 1

    def _give_up_if_old(self, unanswered: Connection) -> None:
        if unanswered.server not in self._servers:  # its answer would come from an old primary
            unanswered.give_up()

    def _connect(self) -> Connection:
        try:
            return self._open(self._dsn)
        except ConnectionLost:
            current = self._current_dsn()
            if current == self._dsn:
                raise
            parameters_of(current)  # a URL that libpq refuses is not kept
            log.info("connecting with the new URL or password of the database")
            self._dsn = current
            return self._open(current)

    def _open(self, dsn: str) -> Connection:
        return connect(dsn, self._statement_timeout, least_timeline=self._least_timeline())

    def _least_timeline(self) -> int:
        """Return the least timeline for a new connection; 0 if no other one can serve."""
        return self._timeline if self._existing > len(self._unanswered) else 0

    def _wait_for_another(self, until: float, refusal: ConnectionLost) -> Connection:
        with self._lock:
            # A commit may have no answer for as long as the server is away.
            if self._existing == len(self._unanswered) or not deadline.remaining():
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

    def _shrink(self) -> None:
        """Close the idle connections that were not needed in the last seconds."""
        self._shrink_at = self._clock() + SHRINK_SECONDS
        kept, self._most_lent = self._most_lent, 0
        if self._grow_at < math.inf and self._existing > len(self._unanswered) + 1:
            kept = self._limit = min(kept, self._existing - 1)
            self._grow_at = self._clock() + GROW_SECONDS
        self._close_idle(min(self._idle, max(0, self._existing - kept)))

    def _hand_over(self) -> None:
        """Begin loans for the callers that have waited longest."""
        while self.lent < self._limit:
            is_full = self._is_full_of_writes
            turn = next((turn for turn in self._turns if not (turn.writes and is_full)), None)
            if turn is None:
                return
            self._turns.remove(turn)
            self.lent += 1
            self._writing += turn.writes
            turn.lock.release()

    @property
    def _is_full_of_writes(self) -> bool:
        return self._writing >= max(1, self._limit * 3 // 4)

    @property
    def _usage(self) -> str:
        return f"{self.lent} connections are in use, {self._writing} of them by writes"

    def _withdraw(self, turn: _Turn) -> bool:
        """Stop waiting; return False if the loan has begun before that."""
        with self._lock:
            if turn not in self._turns:
                return False
            self._turns.remove(turn)
            return True
