"""The identity of a database, by which its keys in Redis differ from those of another one."""

from typing import cast

import psycopg2

from user_service.database.pool import Database
from user_service.errors import Unavailable
from user_service.resilience import deadline

# Seconds that the question may take.
TIMEOUT = 1.0

# A copy of the database has another name: a restored dump, also within one server. The history
# ends when the timeline does (a replica was promoted, or the server restored to an earlier time),
# and when the table gets another file (it was truncated, or restored in place).
_IDENTITY = """
SELECT concat_ws('-', system_identifier, pg_database.oid, relnamespace),
       concat_ws('-', left(pg_walfile_name(pg_current_wal_lsn()), 8), relfilenode)
FROM pg_control_system(), pg_database, pg_class
WHERE datname = current_database() AND pg_class.oid = 'users'::regclass
"""


class DatabaseIdentity:
    """The names of a database and of its history, asked for again after each new connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connections = 0
        self._known: tuple[str, str] | None = None

    def __call__(self, *, again: bool = False) -> tuple[str, str]:
        """Return both names. Raise Unavailable if they were never known.

        They stay the same while the primary is away.
        """
        connections = self._database.connections_made
        if self._known is None or again or connections != self._connections:
            try:
                with deadline.within(TIMEOUT):
                    self._known = self._ask()
                self._connections = connections
            except Unavailable:
                if self._known is None:
                    raise
        return self._known

    def name(self) -> str:
        """Return the name of the database, or nothing as long as it is not known."""
        try:
            return (self._known or self())[0]
        except Unavailable:
            return ""

    def _ask(self) -> tuple[str, str]:
        try:
            with self._database.read() as cursor:
                cursor.execute(_IDENTITY)
                return cast("tuple[str, str]", cursor.fetchone())
        except psycopg2.Error as error:  # a standby, for example
            raise Unavailable("the primary does not tell its identity") from error
