"""What is sent to PostgreSQL along with our statements, in the same round trip.

BEGIN, with the first statement of a transaction; and where a session cannot be told, what
PostgreSQL is to observe while it works for us.

PgBouncer in transaction mode lends a server's session for one transaction only: what was set for
the session would stay with whoever has it next, and what a client asks for when it connects is
refused. There, it is sent along with each transaction and ends with it.
"""

from functools import lru_cache
from typing import Any

from psycopg2.extensions import cursor


def settings_for(statement_timeout: float) -> dict[str, str]:
    """Return the settings of PostgreSQL that we rely on; the time-out is in seconds.

    It ends a transaction that waits for us for so long, too: of a client that has vanished without
    a word PostgreSQL learns after two hours, for which its locks would be in everybody's way.
    """
    milliseconds = str(max(1, round(statement_timeout * 1000)))  # 0 would mean no time-out at all
    return {
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
        "timezone": "UTC",
    }


def for_one_transaction(statement_timeout: float) -> str:
    """Return the SQL that makes them hold until the end of the transaction that it is in."""
    settings = settings_for(statement_timeout).items()
    return "".join(f"SET LOCAL {name} = '{value}'; " for name, value in settings)


@lru_cache(maxsize=1024)
def sending_along(prefix: str, kind: type[cursor] | None) -> type[cursor]:
    """Return a ``kind`` of cursor that sends ``prefix`` with each statement, in one round trip.

    In autocommit mode what is sent together is one transaction, and each statement in it gets the
    time-out that holds when it begins.
    """

    class PrefixingCursor(kind or cursor):  # type: ignore[misc]  # of the connection: traced, say
        def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002 -- psycopg2's
            super().execute(prefix + query, vars)

    return PrefixingCursor


@lru_cache(maxsize=1024)
def sending_first(prefix: str, kind: type[cursor] | None) -> type[cursor]:
    """Return a ``kind`` of cursor that sends ``prefix`` with its first statement only."""

    class BeginningCursor(kind or cursor):  # type: ignore[misc]  # of the connection: traced, say
        _has_begun = False

        def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002 -- psycopg2's
            if not self._has_begun:
                self._has_begun = True
                query = prefix.encode() + query if isinstance(query, bytes) else prefix + query
            super().execute(query, vars)

    return BeginningCursor
