"""The database: a connection pool, and three ways to use one of its connections.

A checkout waits in turn for a bounded time, a broken connection is replaced, its loan ends whatever
happens, and a circuit breaker refuses calls while the server does not answer.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import cast

import psycopg2
from psycopg2.errorcodes import READ_ONLY_SQL_TRANSACTION
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from user_service.database.connection import (
    Connection,
    Cursor,
    has_become_read_only,
    is_alive,
    must_be_writable,
    session_settings,
)
from user_service.database.failures import translated
from user_service.database.pool import ConnectionPool
from user_service.errors import (
    ConnectionLost,
    DeadlineExceeded,
    OutcomeUnknown,
    PoolTimeout,
    ReplicaUnusable,
    TransientFailure,
    Unavailable,
)
from user_service.observability.metrics import Metrics
from user_service.observability.server_timing import stage
from user_service.resilience import deadline
from user_service.resilience.background import Preparation, in_background
from user_service.resilience.breaker import CircuitBreaker, State

log = logging.getLogger(__name__)

# Seconds between two calls that try if the database is back. A restart of PostgreSQL takes one or
# two, so that a pause of a second would prolong it noticeably.
OPEN_SECONDS = 0.25
# Seconds within which readiness is known. Orchestrators and load balancers wait for a second.
READY_SECONDS = 0.9


class Database:
    """One PostgreSQL database behind a pool of ``size`` connections in autocommit mode.

    ``read`` and ``write`` therefore cost one round trip for each statement. ``transaction`` sends
    BEGIN and COMMIT itself, and so knows whether COMMIT was sent.

    ``prepare`` runs before the first connection is lent, and again until it succeeds: the place for
    migrations, since the server may be away at start. Nothing connects before ``open`` or the first
    checkout, so the object may be made before a fork. ``current_dsn`` is called when the server is
    away or refuses a connection: the password may have changed. ``on_late_answer`` is called once a
    commit that outlasted its request was answered, or its server given up.
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
        current_dsn: Callable[[], str] | None = None,
        name: str = "database",
        open_seconds: float = OPEN_SECONDS,
        metrics: Metrics | None = None,
    ) -> None:
        """Take times in seconds. ``name`` labels the pool and its breaker in ``metrics``.

        ``transaction_pooling`` is for PgBouncer, which lends a session for one transaction: session
        settings would stay with its next client, so they go along with each transaction instead.
        """
        metrics = metrics or Metrics()
        local = session_settings(statement_timeout).items() if transaction_pooling else ()
        self._local_settings = "".join(f"SET LOCAL {key} = '{value}'; " for key, value in local)
        self.breaker = CircuitBreaker(
            f"the {name}",
            # Not an OutcomeUnknown: a commit may wait for a standby while the server serves reads.
            failures=(ConnectionLost, DeadlineExceeded, ReplicaUnusable),
            open_seconds=open_seconds,
            on_change=metrics.breaker_listener(name),
        )
        self._must_be_writable = must_be_writable(dsn)
        self._metrics = metrics.pool(name)
        self._checkout_timeout = checkout_timeout
        self._preparation = Preparation("the database", lambda: _with_errors_translated(prepare))
        self.pool = ConnectionPool(
            dsn,
            size,
            statement_timeout=None if transaction_pooling else statement_timeout,
            current_dsn=current_dsn or (lambda: dsn),
        )
        self.on_late_answer: Callable[[], object] = lambda: None
        self._was_full = False

    def open(self) -> None:
        """Open a connection. Raise Unavailable if the server is away; later checkouts try again."""
        with self.read():
            log.info("connection pool opened, for at most %d connections", self.pool.size)

    def close(self) -> None:
        """Close every idle connection now, and those in use when they come back."""
        if not self.pool.closed:
            self.pool.close()
            log.info("connection pool closed")

    def is_ready(self) -> bool:
        """Return within a second whether requests can be served.

        While requests use all connections, the circuit breaker tells. Otherwise ``SELECT 1`` does.
        Its success can close the breaker. Its failure cannot open it: it has less time than a
        request.
        """
        try:
            with deadline.within(READY_SECONDS), self.read(waits=False) as cursor:
                cursor.execute("SELECT 1")
        except PoolTimeout:
            return self._preparation.is_done and self.breaker.state is State.CLOSED
        except (Unavailable, psycopg2.Error):
            return False
        return True

    def read(self, *, waits: bool = True) -> AbstractContextManager[Cursor]:
        """Lend a cursor for statements that change nothing, each a transaction of its own.

        A lost connection raises ConnectionLost, which is transient. Without ``waits``, PoolTimeout
        is raised at once, and the breaker counts no failure.
        """
        return self._lend(waits=waits)

    @contextmanager
    def write(self, statement: str, parameters: Mapping[str, object]) -> Iterator[Cursor]:
        """Run one statement, which commits itself, and lend the cursor that has its result.

        The block reads the result, if there is one, before another caller gets the connection.
        Raise OutcomeUnknown if the connection was lost, or the deadline passed, while it ran: the
        server may have committed it, or may yet. An error that the server answers has committed
        nothing.
        """
        with self._lend(writes=True) as cursor:
            _commit(cursor, statement, parameters)
            yield cursor

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """Lend a cursor for one transaction: committed at the end of the block, or rolled back.

        BEGIN goes along with the first statement. Raise OutcomeUnknown if the connection was lost
        after COMMIT had been sent.
        """
        with self._lend(writes=True) as cursor:
            # The isolation level that the statements are written for, whatever the role's default.
            cursor.ahead_of_next = "BEGIN ISOLATION LEVEL READ COMMITTED; " + self._local_settings
            cursor.ahead_of_each = ""
            try:
                yield cursor
            except BaseException:
                with suppress(psycopg2.Error, DeadlineExceeded):  # then the connection is not kept
                    cursor.execute("ROLLBACK")
                raise
            _commit(cursor, "COMMIT")
            if cursor.statusmessage != "COMMIT":
                raise TransientFailure("the server rolled back instead of committing")

    @contextmanager
    def _lend(self, *, waits: bool = True, writes: bool = False) -> Iterator[Cursor]:
        """Lend a cursor; with ``writes``, for statements that commit changes."""
        # Only a read may close the breaker: a commit may wait for a standby although all is well.
        if writes and self.breaker.state is not State.CLOSED:
            with self.read() as cursor:
                cursor.execute("SELECT 1")
        time_left = deadline.remaining()
        if not time_left:  # it would count as a failure of the database
            raise DeadlineExceeded("no time was left to ask the database")
        until = time.monotonic() + (min(self._checkout_timeout, time_left) if waits else 0)
        is_full = False
        try:
            self.pool.begin_loan(writes=writes)
        except PoolTimeout:
            is_full = True
            if not waits:
                raise
            self._wait_for_loan(until, writes=writes)
        self._was_full = is_full
        # A time-out soon after a long wait tells nothing about the database.
        blaming = waits and (not is_full or deadline.remaining() >= time_left / 2)
        lent = None
        try:
            with self.breaker.calling(blaming=blaming):
                with stage("pool"):
                    lent = self._connection(until)
                    self._metrics.in_use.inc()
                    if not is_full:
                        self._metrics.checkout.observe(0)
                try:
                    with stage("sql"), cast("Cursor", lent.cursor()) as cursor:
                        cursor.ahead_of_each = self._local_settings
                        yield cursor
                except psycopg2.Error as error:
                    meaning = translated(error, connection_lost=bool(lent.closed))
                    self._retire_after(error, lent)
                    if meaning is None:
                        raise
                    raise meaning from error
        finally:
            if lent is not None and lent.kept_socket is not None:
                in_background(partial(self._end_after_answer, lent))
            else:
                self._end_loan(lent, writes=writes)

    def _wait_for_loan(self, until: float, *, writes: bool) -> None:
        self.breaker.refuse_if_open()  # before waiting in vain
        if not self._was_full:
            self._was_full = True
            log.warning("connection pool is full: %d connections are in use", self.pool.lent)
        with (
            self._metrics.waiting.track_inprogress(),
            self._metrics.timeouts.count_exceptions(PoolTimeout),
            stage("pool", self._metrics.checkout.observe),
        ):
            self.pool.begin_loan(until - time.monotonic(), writes=writes)

    def _connection(self, until: float) -> Connection:
        """Return a connection that works for a loan that has begun.

        The first loan of a process prepares the database: it may have been away at the start.
        """
        if not self._preparation.is_done:
            # Here, after a fork: each process has a gauge of its own.
            self._metrics.size.set(self.pool.size)
            self._preparation.ensure(self._checkout_timeout)
        while (idle := self.pool.take_idle()) is not None:
            if is_alive(idle):
                return idle
            self.pool.discard(idle)
            self._count_replaced(1)
        opened = self.pool.open_new(until - time.monotonic())
        if is_alive(opened):  # it may be one that was idle meanwhile
            return opened
        self.pool.discard(opened)
        self._count_replaced(1)
        raise ConnectionLost("the connection was lost before it was used")

    def _retire_after(self, error: psycopg2.Error, lent: Connection) -> None:
        """Close what ``error`` has made useless."""
        if error.pgcode == READ_ONLY_SQL_TRANSACTION:  # after a failover, by the old primary
            lent.close()
        if lent.closed:
            # The idle connections have probably met the same end: a retry gets a new one.
            self._count_replaced(self.pool.close_idle())

    def _end_loan(self, lent: Connection | None, *, writes: bool) -> None:
        """End a loan, and close its connection if that must not be lent again."""
        if lent is not None:
            self._metrics.in_use.dec()
            if self._must_be_writable and not lent.closed and has_become_read_only(lent):
                # Reads alone would never notice a failover.
                log.warning("the database has become read-only, looking for the one that is not")
                lent.close()
                self._count_replaced(self.pool.close_idle())
            if lent.info.transaction_status != TRANSACTION_STATUS_IDLE:
                lent.close()
                self._count_replaced(1)
            if lent.closed and self.breaker.state is not State.CLOSED:
                # The idle ones may lead to a server that is silent for ever.
                self._count_replaced(self.pool.close_idle())
        self.pool.end_loan(lent, writes=writes)

    def _end_after_answer(self, lent: Connection) -> None:
        """End the loan of a commit without an answer once the server has ended its session."""
        log.warning("a commit was not answered within its request's deadline")
        with self._metrics.unanswered.track_inprogress():
            self.pool.wait_for_answer(lent)
        self._end_loan(lent, writes=True)
        try:
            self.on_late_answer()
        except Exception:
            log.exception("what follows a late answer failed")

    def _count_replaced(self, number: int) -> None:
        if number:
            log.warning("connection pool replaces %d connections that broke, or may have", number)
            self._metrics.replaced.inc(number)


def _commit(cursor: Cursor, statement: str, parameters: Mapping[str, object] | None = None) -> None:
    """Run a statement that commits."""
    connection = cast("Connection", cursor.connection)
    connection.is_committing = True
    try:
        cursor.execute(statement, parameters)
    except Exception as error:
        if connection.closed:
            raise OutcomeUnknown("the connection was lost during a commit") from error
        raise
    finally:
        connection.is_committing = False


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
