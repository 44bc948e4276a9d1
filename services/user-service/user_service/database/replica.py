"""Reads from a streaming replica that follows the primary and has replayed what a read must see.

A statement of its own checks the replayed position before the read: a snapshot is taken when its
statement begins, so a check within the read could be younger than the snapshot.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar, cast

import psycopg2

from user_service.database.connection import Connection, Cursor
from user_service.database.database import Database
from user_service.database.identity import DatabaseIdentity
from user_service.errors import ReplicaUnusable, Unavailable
from user_service.resilience import deadline

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds that a read waits for the replica before it turns to the primary; half of the request's
# time, if that is less.
WAIT_FOR_REPLICA = 1.0
# Seconds for which a replica is skipped that could not serve several reads in a row.
SKIP_SECONDS = 1.0

# The first two change with the next restartpoint after a failover, or with writes to disk. The
# third changes at once, and is visible to members of pg_read_all_stats.
_TIMELINE = """
SELECT greatest(checkpoint.timeline_id, recovery.min_recovery_end_timeline,
                (SELECT received_tli FROM pg_stat_wal_receiver))
FROM pg_control_checkpoint() AS checkpoint, pg_control_recovery() AS recovery
"""


class Replica:
    """A server that follows the primary. The primary answers each read that the replica cannot.

    Its circuit breaker opens when the replica is away, and also when it lags: a read that is
    regularly refused is not worth the round trip.
    """

    def __init__(self, database: Database, primary: DatabaseIdentity) -> None:
        self.database = database
        self._primary = primary
        self._asked = 0
        self.fallbacks = 0

    @property
    def reads(self) -> int:
        """The number of reads that were answered here; ``fallbacks`` counts the others."""
        return self._asked - self.fallbacks

    def open(self) -> None:
        """Open a connection, if the replica is there."""
        try:
            self.database.open()
        except Unavailable as error:
            log.warning("starting without the replica, the primary is read: %s", error)

    def read(self, work: Callable[[Cursor], T], after_lsn: int | None) -> T:
        """Return the result of ``work`` on a server that has replayed up to ``after_lsn``.

        Raise Unavailable or psycopg2.Error if this server cannot serve the read, and if
        ``after_lsn`` is None: the position is not known. ``work`` has half of the time that is left
        then; the other half is the primary's.
        """
        self._asked += 1
        try:
            if after_lsn is None:
                raise ReplicaUnusable("the log position that this read needs is not known")
            with ExitStack() as stack:
                with deadline.within(min(WAIT_FOR_REPLICA, deadline.remaining() / 2)):
                    cursor = stack.enter_context(self.database.read())
                    _require_timeline(self._primary.timeline(), cursor)
                    _require_replayed(after_lsn, cursor)
                with deadline.within(deadline.remaining() / 2):
                    return work(cursor)
        except (Unavailable, psycopg2.Error) as error:
            self.fallbacks += 1
            log.debug("reading from the primary: %s", error)
            raise


def _require_timeline(timeline: int, cursor: Cursor) -> None:
    """Refuse a server that stayed behind at a failover: its positions mean other changes."""
    server = cast("Connection", cursor.connection)
    if server.timeline < timeline:
        cursor.execute(_TIMELINE)
        (server.timeline,) = cast("tuple[int]", cursor.fetchone())
        if server.timeline < timeline:
            raise ReplicaUnusable("the replica is not known to follow the present primary")


def _require_replayed(lsn: int, cursor: Cursor) -> None:
    cursor.execute(
        "SELECT pg_is_in_recovery() AND pg_last_wal_replay_lsn() - '0/0' >= %(lsn)s", {"lsn": lsn}
    )
    if cursor.fetchone() != (True,):
        raise ReplicaUnusable("the replica has not replayed what this read must see")
