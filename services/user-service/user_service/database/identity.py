"""The identity of a database, by which its keys in Redis differ from those of another one."""

import math
import time
from collections.abc import Callable
from typing import cast

import psycopg2

from user_service.database.connection import TIMELINE
from user_service.database.database import Database
from user_service.database.user_lists import composed
from user_service.errors import Unavailable
from user_service.resilience import deadline

# Seconds for one query of the identity, and from a failed one to the next.
TIMEOUT = 1.0

# A restored dump has another name, also within one server; a copy of the data directory has the
# same. The history ends when the timeline does (a replica was promoted, or the server restored to
# an earlier time), and when the table gets another file (it was truncated, or restored in place).
_IDENTITY = composed(
    """
    SELECT concat_ws('-', system_identifier, pg_database.oid, relnamespace),
           concat_ws('-', {timeline}, relfilenode)
    FROM pg_control_system(), pg_database, pg_class
    WHERE datname = current_database() AND pg_class.oid = 'users'::regclass
    """,
    timeline=TIMELINE,
)


class DatabaseIdentity:
    """The names of a database and of its history, asked for again after each new connection."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._connections = 0
        self._known: tuple[str, str] | None = None
        self._unanswered_until = -math.inf

    def __call__(self, *, again: bool = False) -> tuple[str, str]:
        """Return both names; the last known ones if the primary does not answer.

        Raise Unavailable if they were never known.
        """
        connections = self._database.pool.made
        is_current = connections == self._connections and not again
        if self._known is not None and (is_current or self._clock() < self._unanswered_until):
            return self._known
        try:
            with deadline.within(TIMEOUT), self._database.read(waits=False) as cursor:
                cursor.execute(_IDENTITY)
                self._known = cast("tuple[str, str]", cursor.fetchone())
            self._connections = connections
        except (Unavailable, psycopg2.Error) as error:  # the latter from a standby, for example
            self._unanswered_until = self._clock() + TIMEOUT
            if self._known is None:
                raise Unavailable(f"the primary does not tell its identity: {error}") from error
        return self._known

    def timeline(self) -> int:
        """Return the timeline of the primary, or raise Unavailable."""
        _, history = self()
        return int(history[:8], 16)

    def name(self) -> str:
        """Return the name of the database, or nothing as long as it is not known."""
        try:
            return (self._known or self())[0]
        except Unavailable:
            return ""
