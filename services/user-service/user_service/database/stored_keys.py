"""API keys in PostgreSQL: those that are valid, for the service, and all of them, for operators.

The functions for operators take the URL of a role that may change keys. The service may not.
"""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2

from user_service.database.connection import Cursor, connect
from user_service.database.database import Database
from user_service.domain.api_key import ApiKey
from user_service.errors import Unavailable
from user_service.resilience import deadline

# Seconds for a read, beside the requests that use the keys read before.
TIMEOUT = 2.0
# Seconds for a command.
COMMAND_TIMEOUT = 10.0
# These go along with the statement: PgBouncer refuses a connection with settings.
_COMMAND_SETTINGS = "SET LOCAL statement_timeout = '2s'; SET LOCAL timezone = 'UTC'; "

_SELECT = """
    SELECT prefix, name, digest, scopes, expires_at, revoked_at, last_used_on
    FROM api_keys LEFT JOIN api_key_uses USING (prefix)
    WHERE %(every)s OR revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
    ORDER BY created_at, prefix
"""

log = logging.getLogger(__name__)


def valid_keys(database: Database, used: frozenset[str]) -> dict[str, ApiKey]:
    """Return the valid keys by prefix. Store today as the last day of use of those in ``used``."""
    with deadline.within(TIMEOUT):
        with database.read() as cursor:
            cursor.execute(_SELECT, {"every": False})
            keys = {key.prefix: key for key in _keys(cursor)}
        if used:
            _store_day(database, used)
    return keys


def all_keys(dsn: str) -> list[ApiKey]:
    """Return all keys, oldest first."""
    with _session(dsn) as cursor:
        cursor.execute(_SELECT, {"every": True})
        return list(_keys(cursor))


def add_key(dsn: str, key: ApiKey) -> bool:
    """Store ``key``; return False if one with its name is not revoked."""
    statement = """
        INSERT INTO api_keys (prefix, name, digest, scopes, expires_at)
        VALUES (%(prefix)s, %(name)s, %(digest)s, %(scopes)s, %(expires_at)s)
        ON CONFLICT DO NOTHING
    """
    with _session(dsn) as cursor:
        cursor.execute(statement, key._asdict() | {"scopes": sorted(key.scopes)})
        return cursor.rowcount > 0


def revoke_key(dsn: str, name: str) -> bool:
    """Revoke the key of this name; return whether there was one."""
    statement = """
        UPDATE api_keys SET revoked_at = now() WHERE name = %(name)s AND revoked_at IS NULL
    """
    with _session(dsn) as cursor:
        cursor.execute(statement, {"name": name})
        return cursor.rowcount > 0


@contextmanager
def _session(dsn: str) -> Iterator[Cursor]:
    with (
        deadline.within(COMMAND_TIMEOUT),
        closing(connect(dsn)) as connection,
        connection.cursor(cursor_factory=Cursor) as cursor,
    ):
        cursor.ahead_of_each = _COMMAND_SETTINGS
        yield cursor


def _store_day(database: Database, used: frozenset[str]) -> None:
    # A lost day is no harm. A commit that waited for a standby would keep a slot of the pool.
    statement = """
        SET LOCAL synchronous_commit = off;
        INSERT INTO api_key_uses (prefix, last_used_on)
        SELECT prefix, current_date FROM api_keys WHERE prefix = ANY(%(used)s) ORDER BY prefix
        ON CONFLICT (prefix) DO UPDATE SET last_used_on = excluded.last_used_on
        WHERE api_key_uses.last_used_on < excluded.last_used_on
    """
    try:
        with database.write(statement, {"used": list(used)}):
            pass
    except (Unavailable, psycopg2.Error) as error:  # the keys are valid nevertheless
        log.warning("the day of the last use of API keys was not stored: %s", error)


def _keys(cursor: Cursor) -> Iterator[ApiKey]:
    for prefix, name, digest, scopes, *times in cursor:
        yield ApiKey(prefix, name, bytes(digest), frozenset(scopes), *times)
