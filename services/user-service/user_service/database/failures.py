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
    LockTimeout,
    OutcomeUnknown,
    TransientFailure,
    Unavailable,
)

# The transaction lost against another one; the server is well.
CONTENTION = frozenset({sqlstate.SERIALIZATION_FAILURE, sqlstate.DEADLOCK_DETECTED})

# The server stops, starts, or is not the primary; it has changed nothing.
TRANSIENT = CONTENTION | frozenset(
    {
        sqlstate.ADMIN_SHUTDOWN,
        sqlstate.CRASH_SHUTDOWN,
        sqlstate.CANNOT_CONNECT_NOW,
        sqlstate.TOO_MANY_CONNECTIONS,
        sqlstate.READ_ONLY_SQL_TRANSACTION,
    }
)
TRANSIENT_CLASSES = frozenset({sqlstate.CLASS_CONNECTION_EXCEPTION})

# Codes that leave open whether the transaction was committed.
UNKNOWN = frozenset(
    {sqlstate.TRANSACTION_RESOLUTION_UNKNOWN, sqlstate.STATEMENT_COMPLETION_UNKNOWN}
)

# An immediate retry would meet the same; the server is at fault, not the request.
UNAVAILABLE = frozenset({sqlstate.QUERY_CANCELED})
UNAVAILABLE_CLASSES = frozenset(
    {
        sqlstate.CLASS_INSUFFICIENT_RESOURCES,
        sqlstate.CLASS_OPERATOR_INTERVENTION,
        sqlstate.CLASS_SYSTEM_ERROR,
    }
)

# After a failover the old primary refuses all writes: such a connection is not kept.
CONNECTION_IS_USELESS = frozenset({sqlstate.READ_ONLY_SQL_TRANSACTION})


def translated(error: psycopg2.Error, *, connection_lost: bool) -> Unavailable | None:
    """Return the exception that ``error`` means; the caller has ruled out an unknown outcome.

    Return None if neither the server's state nor the network caused the error: it is a fault of
    this program, or of the values that it sent.
    """
    code = error.pgcode or ""
    if code in UNKNOWN:
        return OutcomeUnknown(f"the server does not know the outcome ({code})")
    if code in CONTENTION:
        return TransientFailure(f"the transaction lost against another one ({code})")
    if connection_lost or code in TRANSIENT or code[:2] in TRANSIENT_CLASSES:
        return ConnectionLost(f"database connection failed ({code or 'connection lost'})")
    if code == sqlstate.LOCK_NOT_AVAILABLE:
        return LockTimeout(f"another transaction holds a lock for too long ({code})")
    if code in UNAVAILABLE or code[:2] in UNAVAILABLE_CLASSES:
        return Unavailable(f"database cannot serve this now ({code})")
    return None


@contextmanager
def explained() -> Iterator[None]:
    """Raise Unavailable, with PostgreSQL's reason for operators, instead of psycopg2's errors."""
    try:
        yield
    except psycopg2.Error as error:
        reason = error.diag.message_primary or error
        raise Unavailable(f"the database refuses: {reason}") from error
