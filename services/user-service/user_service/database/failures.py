"""What a psycopg2 error means for the request that met it.

Classified by SQLSTATE (PostgreSQL manual, appendix A) and by whether the connection survived;
psycopg2's own classes are too wide (``OperationalError`` holds a statement time-out and a full
disk) and too narrow (a read-only standby after a failover raises an ``InternalError``).
"""

import psycopg2
import psycopg2.errorcodes as sqlstate

from user_service.errors import (
    ConnectionLost,
    LockTimeout,
    OutcomeUnknown,
    TransientFailure,
    Unavailable,
)

# The transaction lost against another one: the server is well.
CONTENTION = frozenset({sqlstate.SERIALIZATION_FAILURE, sqlstate.DEADLOCK_DETECTED})

# The server is going, coming, or not the one that we need; it has said that nothing was changed.
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

# Of that class, but it says that nobody knows whether the transaction was committed.
UNKNOWN = frozenset(
    {sqlstate.TRANSACTION_RESOLUTION_UNKNOWN, sqlstate.STATEMENT_COMPLETION_UNKNOWN}
)

# Trying again at once would meet the same; the fault is the server's, not the request's.
UNAVAILABLE = frozenset({sqlstate.QUERY_CANCELED})
UNAVAILABLE_CLASSES = frozenset(
    {
        sqlstate.CLASS_INSUFFICIENT_RESOURCES,
        sqlstate.CLASS_OPERATOR_INTERVENTION,
        sqlstate.CLASS_SYSTEM_ERROR,
    }
)

# After a failover the old primary refuses writes for good: such a connection is not kept.
CONNECTION_IS_USELESS = frozenset({sqlstate.READ_ONLY_SQL_TRANSACTION})


def translated(error: psycopg2.Error, *, connection_lost: bool) -> Exception:
    """Return what the request should raise instead of ``error``, raised before any COMMIT.

    An error that is neither the server's state nor the network's is returned as it is: it is a
    fault of this program and becomes a 500.
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
    return error
