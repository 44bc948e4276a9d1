"""Migrations: the plain SQL files beside this module, each applied once, in the order of names.

All pending migrations are one transaction, which begins by taking an advisory lock. Replicas that
start at once therefore wait for the first of them, and a process that is killed leaves nothing: the
server rolls its transaction back and frees the lock. Both hold behind a PgBouncer in transaction
mode too, where a lock of the session would not.

yoyo, the library for plain SQL, keeps a lock row that a killed process leaves behind, creates trial
tables at every start, and parses the URL itself.

Migrations may run as a role of their own, which then owns the tables. It grants the service's role
the privileges below and nothing else. They stand here and not in the migrations: a role that is
named later, or another one, gets them from the next start or ``flask migrate``.
"""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from psycopg2.errors import LockNotAvailable
from psycopg2.extensions import cursor

from user_service.database.connection import connect, role_of
from user_service.errors import Unavailable
from user_service.resilience import deadline

MIGRATIONS = Path(__file__).parent / "migrations"

# Any number that all replicas share; these are the bytes of "users".
ADVISORY_LOCK = 0x7573657273
# A migration that waits for a table, since pg_dump reads it for example, makes all later statements
# on that table wait as well. This keeps their wait below the running release's statement time-out.
LOCK_TIMEOUT = "2s"
# Seconds between two attempts to get those locks: doubled each time, up to the last.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
# Seconds for a look at the migrations that are applied.
LOOK_SECONDS = 10.0

# What the service's role may do with each table. It owns none, so it can neither change a schema
# nor disable a trigger.
_ROWS = ("SELECT", "INSERT", "UPDATE", "DELETE")
PRIVILEGES = {
    "users": _ROWS,
    "users_count": _ROWS,  # by the triggers, which run as the role that writes, and by a recount
    "idempotency_keys": _ROWS,
    "cursor_key": ("SELECT",),
    "api_keys": ("SELECT",),  # the commands run as the owner
    "api_key_uses": ("SELECT", "INSERT", "UPDATE"),
    "schema_migrations": ("SELECT",),
}
# The statements that grant a role what it lacks; without a name, the session's own. Privileges on a
# table that does not exist are not missing: its migration is pending.
_GRANTS = """
    WITH given (role) AS (SELECT coalesce(%(role)s, current_user::text))
    SELECT format('GRANT %%s ON %%I TO %%I', privilege, name, role)
    FROM given, unnest(%(privileges)s, %(tables)s) AS needed (privilege, name)
    WHERE NOT has_table_privilege(role, to_regclass(name), privilege)
    UNION ALL
    SELECT format('GRANT USAGE ON SCHEMA %%I TO %%I', current_schema, role)
    FROM given WHERE NOT has_schema_privilege(role, current_schema, 'USAGE')
"""

# No time-out ends the creation of a large index; the one for transactions is new in PostgreSQL 17.
# PostgreSQL 14 and newer end the statement of a client that has gone, but not on every platform.
_SETTINGS = """
    SET LOCAL application_name = 'user-service migrations';
    SET LOCAL statement_timeout = 0;
    SET LOCAL idle_in_transaction_session_timeout = 0;
    DO $$ BEGIN
        SET LOCAL transaction_timeout = 0;
    EXCEPTION WHEN undefined_object THEN NULL;
    END $$;
    DO $$ BEGIN
        SET LOCAL client_connection_check_interval = '1s';
    EXCEPTION WHEN undefined_object OR invalid_parameter_value THEN NULL;
    END $$
"""

log = logging.getLogger(__name__)


def migrate(
    dsn: str,
    folder: Path = MIGRATIONS,
    *,
    owner_dsn: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Apply the pending migrations and return their names, oldest first.

    With ``owner_dsn`` they run as its role, which then grants the role of ``dsn`` what it lacks.

    While another session holds a lock that one of them needs, all of them are rolled back, and
    tried again after growing pauses. Other processes wait for this one meanwhile. Raise
    ConnectionLost if the database is away, and psycopg2.Error if it refuses a migration.
    """
    role = None if owner_dsn is None else role_of(dsn)
    # Closing the connection rolls back what was not committed.
    with closing(connect(owner_dsn or dsn)) as connection, connection.cursor() as cursor:
        # A start with nothing to do neither waits nor writes.
        with deadline.within(LOOK_SECONDS):
            if not _pending(cursor, folder) and not (role and _grants(cursor, role)):
                return []
        # A snapshot from before the wait for the lock would not show what was applied meanwhile.
        cursor.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        cursor.execute(_SETTINGS)
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
        if cursor.fetchone() == (False,):
            log.info("waiting for another process that migrates")
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
        pause = FIRST_PAUSE
        while (applied := _attempt(cursor, folder, is_first=pause == FIRST_PAUSE)) is None:
            sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        if role is not None:
            for grant in _grants(cursor, role):
                cursor.execute(grant)
        cursor.execute("COMMIT")
        return applied


def require_migrated(dsn: str, folder: Path = MIGRATIONS) -> None:
    """Raise Unavailable while migrations are pending, or privileges of the role missing.

    Another process applies and grants them. More may be applied than this release has: in a
    rollout, the next release comes first.
    """
    with (
        deadline.within(LOOK_SECONDS),
        closing(connect(dsn)) as connection,
        connection.cursor() as cursor,
    ):
        if grants := _grants(cursor):
            raise Unavailable(f"privileges are missing: {'; '.join(grants)}")
        pending = _pending(cursor, folder)
    if pending:
        raise Unavailable(f"migrations are pending: {', '.join(file.stem for file in pending)}")


def _attempt(cursor: cursor, folder: Path, *, is_first: bool) -> list[str] | None:
    """Apply the pending migrations and return their names, or None if a lock is not available."""
    cursor.execute("SAVEPOINT attempt")
    try:
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations ("
            " name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        return [_apply(cursor, file) for file in _pending(cursor, folder)]
    except LockNotAvailable as error:
        if is_first:
            reason = error.diag.message_primary
            log.warning("migrations wait for a lock of another session: %s", reason)
        cursor.execute("ROLLBACK TO SAVEPOINT attempt")
        return None


def _grants(cursor: cursor, role: str | None = None) -> list[str]:
    needed = [(privilege, name) for name, given in PRIVILEGES.items() for privilege in given]
    privileges, tables = (list(column) for column in zip(*needed, strict=True))
    cursor.execute(_GRANTS, {"privileges": privileges, "tables": tables, "role": role})
    return [grant for (grant,) in cursor]


def _pending(cursor: cursor, folder: Path) -> list[Path]:
    cursor.execute("SELECT to_regclass('schema_migrations') IS NOT NULL")
    applied: set[str] = set()
    if cursor.fetchone() == (True,):
        cursor.execute("SELECT name FROM schema_migrations")
        applied = {name for (name,) in cursor}
    return [file for file in sorted(folder.glob("*.sql")) if file.stem not in applied]


def _apply(cursor: cursor, file: Path) -> str:
    log.info("applying migration %s", file.stem)
    notices = cursor.connection.notices
    notices.clear()
    cursor.execute(file.read_text(encoding="utf-8"))
    for notice in notices:
        log.warning("migration %s: %s", file.stem, notice.partition(":")[2].strip())
    cursor.execute("INSERT INTO schema_migrations (name) VALUES (%s)", (file.stem,))
    return file.stem
