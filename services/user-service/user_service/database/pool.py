"""The database: a connection pool, and three ways to use one of its connections.

Around psycopg2's SimpleConnectionPool: a checkout waits in FIFO order for a bounded time, a broken
connection is replaced, its slot comes back whatever happens, and a circuit breaker refuses calls
while the server does not answer.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass

import psycopg2
from psycopg2.extensions import (
    TRANSACTION_STATUS_INERROR,
    TRANSACTION_STATUS_INTRANS,
    connection,
)

from user_service.database.connect import (
    must_be_writable,
    session_settings,
    with_session_defaults,
)
from user_service.database.connections import (
    Connections,
    Cursor,
    cursor_of,
    has_become_read_only,
    is_alive,
    is_reusable,
)
from user_service.database.failures import CONNECTION_IS_USELESS, translated
from user_service.errors import (
    ConnectionLost,
    DeadlineExceeded,
    OutcomeUnknown,
    PoolTimeout,
    TransientFailure,
    Unavailable,
)
from user_service.observability.metrics import Metrics
from user_service.observability.server_timing import stage
from user_service.resilience import deadline
from user_service.resilience.background import Preparation
from user_service.resilience.breaker import CircuitBreaker
from user_service.resilience.fair_semaphore import FairSemaphore

log = logging.getLogger(__name__)

# Seconds between two calls that try if the database is back. A restart of PostgreSQL takes one or
# two, so that a pause of a second would prolong it noticeably.
OPEN_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The pool of this process at one moment: connections, and requests that wait for one."""

    size: int
    in_use: int
    waiting: int


class Database:
    """One PostgreSQL database behind a pool of ``size`` connections in autocommit mode.

    ``read`` and ``write`` therefore cost one round trip for each statement. ``transaction`` sends
    BEGIN and COMMIT itself, and so knows whether COMMIT was sent.

    ``prepare`` runs before the first connection is lent, and again until it succeeds: the place for
    migrations, since the server may be away at start. Nothing connects before ``open`` or the first
    checkout, so the object may be made before a fork.
    """

    def __init__(  # noqa: PLR0913 -- one required, the others have defaults
        self,
        dsn: str,
        *,
        size: int = 10,
        checkout_timeout: float = 2.0,
        statement_timeout: float = 3.0,
        transaction_pooling: bool = False,
        prepare: Callable[[], object] = lambda: None,
        breaker: CircuitBreaker | None = None,
        name: str = "database",
        metrics: Metrics | None = None,
    ) -> None:
        """Take times in seconds. ``name`` labels the pool and its own breaker in ``metrics``.

        ``transaction_pooling`` is for PgBouncer, which lends a session for one transaction: session
        settings would stay with its next client, so they go along with each transaction instead.
        """
        metrics = metrics or Metrics()
        self.dsn = with_session_defaults(dsn, None if transaction_pooling else statement_timeout)
        self._local_settings = ""
        if transaction_pooling:
            self._local_settings = "".join(
                f"SET LOCAL {setting} = '{value}'; "
                for setting, value in session_settings(statement_timeout).items()
            )
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
        self._preparation = Preparation("the database", lambda: _with_errors_translated(prepare))
        self._connections = Connections(self.dsn, size)
        self._slots = FairSemaphore(size)
        self._was_full = False
        # Without a new connection, the same server answers.
        self.connections_made = 0

    def open(self) -> None:
        """Fill the pool. Raise Unavailable if the server is away; later checkouts try again."""
        failure: Unavailable | None = None
        with ExitStack() as stack:
            try:
                for _ in range(self._size):
                    stack.enter_context(self.read())
            except Unavailable as error:  # raised below, after the loans that were successful
                failure = error
        if failure is not None:
            raise failure
        log.info("connection pool opened with %d connections", self._size)

    def close(self) -> None:
        """Close every idle connection now, and those in use when they come back."""
        if not self._connections.closed:
            self._connections.close()
            log.info("connection pool closed")

    def discard_idle(self) -> None:
        """Close the connections that are not in use; new ones take their place when needed."""
        while (idle := self._connections.take_idle()) is not None:
            self._discard(idle)

    def ensure_prepared(self) -> None:
        """Return once ``prepare`` has succeeded, or raise Unavailable.

        That is NotPrepared if it failed although the database was there.
        """
        self._preparation.ensure(self._checkout_timeout)

    def stats(self) -> PoolStats:
        """Return the size of the pool, the connections in use and the waiting requests."""
        return PoolStats(self._size, self._connections.lent, self._slots.waiting)

    def read(self) -> AbstractContextManager[Cursor]:
        """Lend a cursor for statements that change nothing, each a transaction of its own.

        A lost connection raises ConnectionLost, which is transient.
        """
        return self._cursor()

    @contextmanager
    def write(self, statement: str, parameters: Mapping[str, object]) -> Iterator[Cursor]:
        """Run one statement, which commits itself, and lend the cursor that has its result.

        Raise OutcomeUnknown if the connection was lost, or the deadline passed, while it ran: the
        server may have committed it, or may yet. An error that the server answers has committed
        nothing.
        """
        with self._cursor() as cursor:
            try:
                cursor.execute(statement, parameters)
            except (psycopg2.Error, DeadlineExceeded) as error:
                if cursor.connection.closed:
                    raise OutcomeUnknown("the connection was lost during a write") from error
                raise
            yield cursor

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """Lend a cursor for one transaction: committed at the end of the block, or rolled back.

        BEGIN goes along with the first statement. Raise OutcomeUnknown if the connection was lost
        after COMMIT had been sent.
        """
        with self._cursor() as cursor:
            # The isolation level that the statements are written for, whatever the role's default.
            cursor.ahead_of_next = "BEGIN ISOLATION LEVEL READ COMMITTED; " + self._local_settings
            cursor.ahead_of_each = ""
            try:
                yield cursor
            except BaseException:
                _roll_back(cursor)
                raise
            _commit(cursor)

    @contextmanager
    def _cursor(self) -> Iterator[Cursor]:
        self.breaker.refuse_if_open()  # before waiting for a slot in vain
        if not deadline.remaining():  # it would count as a failure of the database
            raise DeadlineExceeded("no time was left to ask the database")
        had_time = self._take_slot()
        try:
            with self.breaker.calling(blaming=had_time):
                with stage("pool"):
                    connection = self._check_out()
                try:
                    with stage("sql"), cursor_of(connection) as cursor:
                        cursor.ahead_of_each = self._local_settings
                        yield cursor
                except psycopg2.Error as error:
                    meaning = translated(error, connection_lost=bool(connection.closed))
                    self._retire_after(error, connection)
                    if meaning is None:
                        raise
                    raise meaning from error
                finally:
                    self._take_back(connection)
        finally:
            self._slots.release()

    def _take_slot(self) -> bool:
        """Take one of ``size`` slots, which bound the connections, or raise PoolTimeout.

        Return whether at least half of the request's time is left. If not, a time-out tells nothing
        about the database, and the breaker must not count it.
        """
        if self._slots.acquire():
            self._was_full = False
            self._metrics.checkout.observe(0)
            return True
        if not self._was_full:
            self._was_full = True
            log.warning("connection pool is full: all %d connections are in use", self._size)
        left = deadline.remaining()
        self._metrics.waiting.inc()
        try:
            with stage("pool", self._metrics.checkout):
                taken = self._slots.acquire(timeout=min(self._checkout_timeout, left))
        finally:
            self._metrics.waiting.dec()
        if not taken:
            self._metrics.timeouts.inc()
            raise PoolTimeout(f"no connection came free, all {self._size} are in use")
        return deadline.remaining() >= left / 2

    def _check_out(self) -> connection:
        if self._connections.closed:
            raise Unavailable("the connection pool is closed")
        self.ensure_prepared()
        while (idle := self._connections.take_idle()) is not None and not is_alive(idle):
            self._discard(idle)
        if idle is None:
            idle = self._connections.open()
            self.connections_made += 1
        self._metrics.in_use.inc()
        return idle

    def _retire_after(self, error: psycopg2.Error, connection: connection) -> None:
        """Close what ``error`` has made useless."""
        if error.pgcode in CONNECTION_IS_USELESS:
            connection.close()
        if connection.closed:
            # The idle connections have probably met the same end: a retry gets a new one.
            self.discard_idle()

    def _take_back(self, connection: connection) -> None:
        self._metrics.in_use.dec()
        if self._must_be_writable and not connection.closed and has_become_read_only(connection):
            # Reads alone would never notice a failover.
            log.warning("the database has become read-only, looking for the one that is not")
            connection.close()
            self.discard_idle()
        if is_reusable(connection):
            self._connections.put_back(connection)
        else:
            self._discard(connection)

    def _discard(self, connection: connection) -> None:
        log.warning("connection pool replaces a connection that broke, or may have")
        self._metrics.replaced.inc()
        connection.close()
        self._connections.put_back(connection)


def _roll_back(cursor: Cursor) -> None:
    """End the transaction, if there is one. Without success, the connection is not kept."""
    status = cursor.connection.info.transaction_status
    if status in (TRANSACTION_STATUS_INTRANS, TRANSACTION_STATUS_INERROR):
        with suppress(psycopg2.Error, DeadlineExceeded):
            cursor.execute("ROLLBACK")


def _commit(cursor: Cursor) -> None:
    try:
        cursor.execute("COMMIT")
    except (psycopg2.Error, DeadlineExceeded) as error:
        if cursor.connection.closed:
            raise OutcomeUnknown("the connection was lost during COMMIT") from error
        raise
    if cursor.statusmessage != "COMMIT":
        raise TransientFailure("the server rolled back instead of committing")


def _with_errors_translated(prepare: Callable[[], object]) -> None:
    try:
        prepare()
    except psycopg2.Error as error:
        is_of_connection = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
        lost = is_of_connection and error.pgcode is None
        meaning = translated(error, connection_lost=lost)
        if meaning is None:
            raise
        raise meaning from error
