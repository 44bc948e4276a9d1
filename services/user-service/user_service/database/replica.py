"""Reads from a streaming replica, as far as it has replayed what the reader must see.

The position that a read asks for is checked by a statement of its own, before the read: a
snapshot is taken when its statement begins, so a check within it could be younger than that.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack, suppress
from decimal import Decimal
from typing import TypeVar, cast

import psycopg2
from psycopg2.extensions import cursor

from user_service.database.pool import Database
from user_service.database.probe import DatabaseProbe
from user_service.errors import (
    ConnectionLost,
    DeadlineExceeded,
    ReplicaUnusable,
    Unavailable,
)
from user_service.observability.metrics import Metrics
from user_service.resilience import consistency, deadline
from user_service.resilience.breaker import CircuitBreaker

log = logging.getLogger(__name__)

T = TypeVar("T")

# The longest that a read waits until the replica may be read, in seconds, before it asks the
# primary instead; half of its time, if that is less.
WAIT_FOR_REPLICA = 1.0


class Replica:
    """A second pool, on a server that follows the primary. Whatever it cannot do, that does.

    Its circuit breaker opens when it is away, and also when it lags: what always comes back
    with "not yet" is not worth the round trip.
    """

    def __init__(
        self,
        dsn: str,
        *,
        size: int,
        checkout_timeout: float,
        statement_timeout: float,
        transaction_pooling: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        """Take times in seconds. ``transaction_pooling`` is for a PgBouncer before one replica."""
        metrics = metrics or Metrics()
        self.database = Database(
            dsn,
            size=size,
            checkout_timeout=checkout_timeout,
            statement_timeout=statement_timeout,
            transaction_pooling=transaction_pooling,
            breaker=CircuitBreaker(
                "the replica",
                failures=(ConnectionLost, DeadlineExceeded, _Behind),
                on_change=metrics.resilience.breaker_listener("replica"),
            ),
            name="replica",
            metrics=metrics,
        )
        self._probe = DatabaseProbe(self.database.dsn, on_loss=self.database.discard_idle)
        self._asked = 0
        self.fallbacks = 0

    @property
    def reads(self) -> int:
        """How many reads were answered here; ``fallbacks`` is how many were not."""
        return self._asked - self.fallbacks

    def open(self) -> None:
        """Fill the pool, if the replica is there."""
        try:
            self.database.open()
        except Unavailable as error:
            log.warning("starting without the replica, the primary is read: %s", error)

    def close(self) -> None:
        """Close every connection."""
        self.database.close()
        self._probe.close()

    def is_reachable(self) -> bool:
        """Tell whether the replica answers, however far behind it is."""
        try:
            self._probe.ping()
        except Unavailable:
            return False
        return True

    def read(self, work: Callable[[cursor], T]) -> T:
        """Return what ``work`` reads, on a server that has replayed what this read must see.

        ``work`` has half of the time that is left then: the other half is the primary's. Raise
        ReplicaUnusable if that is not to be had here, whatever the reason, and what ``work``
        raises. Both ways are counted, in ``fallbacks`` and ``reads``.
        """
        self._asked += 1
        lsn = consistency.required()
        try:
            if lsn is None:
                raise _Behind("it is not known what it must have replayed")
            with ExitStack() as stack:
                with deadline.within(min(WAIT_FOR_REPLICA, deadline.remaining() / 2)):
                    cursor = stack.enter_context(self.database.read())
                    _require(lsn, cursor)
                with deadline.within(deadline.remaining() / 2):
                    return work(cursor)
        except (Unavailable, psycopg2.Error) as error:
            self.fallbacks += 1
            log.debug("reading from the primary: %s", error)
            raise ReplicaUnusable from error


class _Behind(Unavailable):
    """The replica has not replayed what the read must see."""


def note_lsn(cursor: cursor) -> None:
    """Note, right after a COMMIT, a position at which it certainly was in the log."""
    with suppress(psycopg2.Error, DeadlineExceeded):  # then it is not known, which is safe
        consistency.note_write(current_lsn(cursor))


def current_lsn(cursor: cursor) -> int:
    """Return the position up to which the primary has written; all that is committed is before."""
    # Of what is inserted, not of what is flushed: right with synchronous_commit off, too.
    cursor.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")
    (lsn,) = cast("tuple[Decimal]", cursor.fetchone())
    return int(lsn)


def _require(lsn: int, cursor: cursor) -> None:
    # NULL on a server that never followed another: then nothing is known of it.
    cursor.execute("SELECT pg_last_wal_replay_lsn() - '0/0' >= %(lsn)s", {"lsn": lsn})
    if cursor.fetchone() != (True,):
        raise _Behind("the replica has not replayed what this read must see")
