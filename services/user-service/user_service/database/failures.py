"""The meaning of a psycopg2 error for the request that met it.

SQLSTATE (PostgreSQL manual, appendix A) and the survival of the connection decide. psycopg2's own
classes are too wide (``OperationalError`` includes statement time-outs and full disks) and too
narrow (a read-only standby after a failover raises an ``InternalError``).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
import psycopg2.errorcodes as sqlstate

from user_service.errors import (
    ConnectionLost,
    OutcomeUnknown,
    TransientFailure,
    Unavailable,
)

# What each SQLSTATE means. A class, its first two characters, stands for its other codes.
MEANINGS: dict[str, type[Unavailable]] = {
    sqlstate.TRANSACTION_RESOLUTION_UNKNOWN: OutcomeUnknown,
    sqlstate.STATEMENT_COMPLETION_UNKNOWN: OutcomeUnknown,
    # The transaction lost against another one; the server is well.
    sqlstate.SERIALIZATION_FAILURE: TransientFailure,
    sqlstate.DEADLOCK_DETECTED: TransientFailure,
    # The server takes no writes, after a failover for example. It serves reads, so that the circuit
    # breaker must not open.
    sqlstate.READ_ONLY_SQL_TRANSACTION: TransientFailure,
    # The server stops or starts; it has changed nothing.
    sqlstate.ADMIN_SHUTDOWN: ConnectionLost,
    sqlstate.CRASH_SHUTDOWN: ConnectionLost,
    sqlstate.CANNOT_CONNECT_NOW: ConnectionLost,
    sqlstate.TOO_MANY_CONNECTIONS: ConnectionLost,
    sqlstate.CLASS_CONNECTION_EXCEPTION: ConnectionLost,
    # An immediate retry would meet the same, and the request is not at fault.
    sqlstate.LOCK_NOT_AVAILABLE: Unavailable,
    sqlstate.QUERY_CANCELED: Unavailable,
    sqlstate.CLASS_INSUFFICIENT_RESOURCES: Unavailable,
    sqlstate.CLASS_OPERATOR_INTERVENTION: Unavailable,
    sqlstate.CLASS_SYSTEM_ERROR: Unavailable,
}
_MESSAGES: dict[type[Unavailable], str] = {
    OutcomeUnknown: "the server does not know the outcome",
    TransientFailure: "the transaction lost against another one, or the server takes no writes",
    ConnectionLost: "database connection failed",
    Unavailable: "database cannot serve this now",
}


def translated(error: psycopg2.Error, *, connection_lost: bool) -> Unavailable | None:
    """Return the exception that ``error`` means; the caller has ruled out an unknown outcome.

    Return None if neither the server's state nor the network caused the error: it is a fault of
    this program, or of the values that it sent.
    """
    code = error.pgcode or "connection lost"
    meaning = MEANINGS.get(code) or MEANINGS.get(code[:2])
    if connection_lost and meaning not in (OutcomeUnknown, TransientFailure):
        meaning = ConnectionLost
    return None if meaning is None else meaning(f"{_MESSAGES[meaning]} ({code})")


@contextmanager
def explained() -> Iterator[None]:
    """Raise Unavailable, with PostgreSQL's reason for operators, instead of psycopg2's errors."""
    try:
        yield
    except psycopg2.Error as error:
        reason = error.diag.message_primary or error
        raise Unavailable(f"the database refuses: {reason}") from error
