"""The connection pool: psycopg2's SimpleConnectionPool, made safe to share and to lose servers.

What SimpleConnectionPool leaves to its user is done here: it may be used by many threads, a
checkout waits for a bounded time, nobody connects while holding the lock, a connection that broke
is replaced, and its slot comes back whatever happens.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, connection, cursor

from user_service.database import session
from user_service.database.connection import (
    connect,
    has_become_read_only,
    is_alive,
    must_be_writable,
    with_session_defaults,
)
from user_service.database.connections import Connections
from user_service.database.failures import CONNECTION_IS_USELESS, translated
from user_service.database.fair_semaphore import Slots
from user_service.errors import (
    ConnectionLost,
    DeadlineExceeded,
    NotPrepared,
    OutcomeUnknown,
    PoolTimeout,
    TransientFailure,
    Unavailable,
)
from user_service.observability.metrics import Metrics
from user_service.observability.server_timing import stage
from user_service.resilience import deadline
from user_service.resilience.breaker import CircuitBreaker

log = logging.getLogger(__name__)

# Seconds between two calls that try whether the database is back. A restart of PostgreSQL takes one
# or two: with a whole second between them, 5 % of the gets in the 4 s after it still failed.
OPEN_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The pool of this process at one moment, in connections and in waiting requests."""

    size: int
    in_use: int
    waiting: int


class Database:
    """One PostgreSQL database behind one pool of ``size`` connections.

    Every connection is in autocommit mode: ``read`` costs one round trip a statement, and
    ``transaction`` sends BEGIN and COMMIT itself, so that it knows whether COMMIT was sent.

    ``prepare`` is called before the first connection is lent, and again until it succeeds: the
    place for migrations when the server may be away at start. Nothing connects before ``open``
    or the first checkout, so the object may be made before a fork.
    """

    def __init__(
        self,
        dsn: str,
        *,
        size: int = 10,
        checkout_timeout: float = 2.0,
        statement_timeout: float = 3.0,
        transaction_pooling: bool = False,
        prepare: Callable[[], object] | None = None,
        after_commit: Callable[[cursor], None] | None = None,
        breaker: CircuitBreaker | None = None,
        name: str = "database",
        metrics: Metrics | None = None,
    ) -> None:
        """Take times in seconds. ``after_commit`` is called on the connection of each commit.

        ``name`` is what the pool, and its breaker if none is given, are called in ``metrics``.

        With ``transaction_pooling`` nothing is set for a session: it is another's with the next
        transaction.
        """
        metrics = metrics or Metrics()
        self.dsn = with_session_defaults(dsn, None if transaction_pooling else statement_timeout)
        local = session.for_one_transaction(statement_timeout) if transaction_pooling else ""
        self._begin = f"BEGIN; {local}"
        self._sent_along = local
        self.breaker = breaker or CircuitBreaker(
            "the database",
            failures=(ConnectionLost, DeadlineExceeded, OutcomeUnknown),
            open_seconds=OPEN_SECONDS,
            on_change=metrics.resilience.breaker_listener(name),
        )
        self._must_be_writable = must_be_writable(dsn)
        self._metrics = metrics.pools.of(name)
        self._metrics.size.set(size)
        self._size = size
        self._checkout_timeout = checkout_timeout
        self._prepare = prepare
        self._after_commit = after_commit
        self._preparation: Future[object] | None = None
        self._connections = Connections(size)
        self._lock = threading.Lock()
        self._slots = Slots(size)
        self._was_full = False

    def open(self) -> None:
        """Fill the pool. Raise Unavailable if the server is away; later checkouts try again."""
        failure: Unavailable | None = None
        with ExitStack() as stack:
            try:
                for _ in range(self._size):
                    stack.enter_context(self.read())
            except Unavailable as error:  # raised below: those that did connect have not failed
                failure = error
        if failure is not None:
            raise failure
        log.info("connection pool opened with %d connections", self._size)

    def close(self) -> None:
        """Close every idle connection now, and what is in use when it comes back."""
        with self._lock:
            if self._connections.closed:
                return
            self._connections.close_idle()
        log.info("connection pool closed")

    def discard_idle(self) -> None:
        """Close the connections that are not in use; new ones take their place when needed."""
        while True:
            with self._lock:
                idle = self._connections.take_idle()
            if idle is None:
                return
            self._discard(idle)

    def ensure_prepared(self) -> None:
        """Wait for ``prepare`` to have succeeded; raise Unavailable if it has not yet.

        Raise NotPrepared, which is one too, if it failed although the database was there.

        It runs beside the request that needs it, since it may take longer than that may.
        """
        if self._prepare is None:
            return
        with self._lock:
            if self._prepare is None:
                return
            if self._preparation is None:
                self._preparation = _in_background(self._prepare)
            preparation = self._preparation
        try:
            preparation.result(min(self._checkout_timeout, deadline.remaining()))
        except TimeoutError:
            raise Unavailable("the database is still being prepared") from None
        except Exception as error:
            with self._lock:
                if self._preparation is preparation:
                    self._preparation = None  # the next one tries again
            if isinstance(error, Unavailable):
                raise
            if isinstance(error, psycopg2.Error):
                is_away = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
                meant = translated(error, connection_lost=is_away)
                if meant is not error:
                    raise meant from error
            log.exception("the database cannot be prepared")
            raise NotPrepared("the database cannot be prepared") from error
        self._prepare = None

    @property
    def is_full(self) -> bool:
        """Whether all connections are in use, so that who asks for one has to wait."""
        return not self._slots.free

    def stats(self) -> PoolStats:
        """Return size, connections in use and requests waiting, all of this process."""
        with self._lock:
            return PoolStats(self._size, self._connections.lent, self._slots.waiting)

    def read(self, *, requests: int = 1) -> AbstractContextManager[cursor]:
        """Lend a cursor whose every statement is a transaction of its own.

        ``requests`` is for how many it is read: to the breaker, a time-out is one of each.
        """
        return self._cursor(self._reading_cursor, requests)

    def _reading_cursor(self, connection: connection) -> cursor:
        if not self._sent_along:
            return connection.cursor()
        kind = session.sending_along(self._sent_along, connection.cursor_factory)
        return connection.cursor(cursor_factory=kind)

    @contextmanager
    def transaction(
        self, *, requests: int = 1, lock_timeout: float | None = None
    ) -> Iterator[cursor]:
        """Lend a cursor for one transaction: committed at the end of the block, or rolled back.

        It begins with the first statement, in the same round trip: one less for every write.
        Raises OutcomeUnknown if the connection was lost after COMMIT had been sent.

        ``requests`` is as with ``read``; ``lock_timeout``, in seconds, is for each lock.
        """
        begin = self._begin
        if lock_timeout is not None:
            begin += f"SET LOCAL lock_timeout = {round(lock_timeout * 1000)}; "
        with self._cursor(partial(_beginning_cursor, begin), requests) as cursor:
            try:
                yield cursor
            except BaseException:
                if not cursor.connection.closed:
                    with suppress(psycopg2.Error, DeadlineExceeded):
                        cursor.execute("ROLLBACK")
                raise
            _commit(cursor)
            if self._after_commit is not None:
                self._after_commit(cursor)

    @contextmanager
    def _cursor(
        self, made_by: Callable[[connection], cursor], requests: int = 1
    ) -> Iterator[cursor]:
        self.breaker.refuse_if_open()  # before waiting for a slot that would be of no use
        if not deadline.remaining():  # nor is there anything to learn about the database
            raise DeadlineExceeded("there was no time left to ask the database")
        in_time = self._take_slot()
        try:
            with self.breaker.calling(blaming=in_time, stands_for=requests):
                with stage("pool"):
                    connection = self._checked_out()
                try:
                    with stage("sql"), made_by(connection) as cursor:
                        yield cursor
                except psycopg2.Error as error:
                    if error.pgcode in CONNECTION_IS_USELESS:
                        connection.close()
                    if connection.closed:
                        # What ended this one ended the idle ones too, or may have: a retry is to
                        # have a new one, not the next that turns out to be dead.
                        self.discard_idle()
                    raise translated(error, connection_lost=bool(connection.closed)) from error
                finally:
                    self._take_back(connection)
        finally:
            self._slots.give_back()

    def _checked_out(self) -> connection:
        if self._connections.closed:
            raise Unavailable("the connection pool is closed")
        self.ensure_prepared()
        connection = self._idle_connection() or self._new_connection()
        self._metrics.in_use.inc()
        return connection

    def _take_slot(self) -> bool:
        """Take one of ``size`` slots, so that there are never more connections than that.

        Tell whether waiting for it took less than half of the request's time. If it took more, a
        time-out now says nothing about the database, so the breaker must not count it.
        """
        if self._slots.take_free():
            self._was_full = False
            self._metrics.checkout.observe(0)
            return True
        left = deadline.remaining()
        with stage("pool", self._metrics.checkout):
            self._wait_for_slot()
        return deadline.remaining() >= left / 2

    def _wait_for_slot(self) -> None:
        if not self._was_full:
            self._was_full = True
            log.warning("connection pool is full: all %d connections are in use", self._size)
        self._metrics.waiting.inc()
        try:
            if not self._slots.wait(min(self._checkout_timeout, deadline.remaining())):
                self._metrics.timeouts.inc()
                raise PoolTimeout(f"no connection came free, all {self._size} are in use")
        finally:
            self._metrics.waiting.dec()

    def _idle_connection(self) -> connection | None:
        while True:
            with self._lock:
                idle = self._connections.take_idle()
            if idle is None or is_alive(idle):
                return idle
            self._discard(idle)

    def _new_connection(self) -> connection:
        opened = connect(self.dsn)
        with self._lock:
            self._connections.lend(opened)
        return opened

    def _take_back(self, connection: connection) -> None:
        self._metrics.in_use.dec()
        if self._must_be_writable and not connection.closed and has_become_read_only(connection):
            # Reads alone would never find out that there has been a failover.
            log.warning("the database has become read-only, looking for the one that is not")
            connection.close()
            self.discard_idle()
        if connection.info.transaction_status == TRANSACTION_STATUS_IDLE:
            with self._lock:
                self._connections.take_back(connection)
        else:
            self._discard(connection)

    def _discard(self, connection: connection) -> None:
        log.warning("connection pool replaces a connection that broke, or may have")
        self._metrics.replaced.inc()
        with self._lock:
            self._connections.take_back(connection, close=True)


def _beginning_cursor(begin: str, connection: connection) -> cursor:
    kind = session.sending_first(begin, connection.cursor_factory)
    return connection.cursor(cursor_factory=kind)


def _commit(cursor: cursor) -> None:
    try:
        cursor.execute("COMMIT")
    except (psycopg2.Error, DeadlineExceeded) as error:
        if cursor.connection.closed:
            raise OutcomeUnknown("the connection was lost during COMMIT") from error
        raise
    if cursor.statusmessage != "COMMIT":
        raise TransientFailure("the server rolled back instead of committing")


def _in_background(function: Callable[[], object]) -> Future[object]:
    """Run ``function`` in a thread of its own, which neither a deadline nor our end waits for."""
    future: Future[object] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 -- handed to whoever asks the future
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
