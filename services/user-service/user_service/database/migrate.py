"""Migrations: the plain SQL files beside this module, applied once each in order of their names.

All that is pending is one transaction, begun by taking an advisory lock. So replicas that start
at once wait for the first of them, and a process that was killed in the middle leaves nothing:
the server rolls back its half migration and frees the lock. Both also hold behind a PgBouncer in
transaction mode, which a session's lock would not.

A library would have to be told all of this: yoyo, the one for plain SQL, keeps a lock row that a
killed process leaves behind, makes trial tables on every start and reads the URL by itself.
"""

import logging
from contextlib import closing
from pathlib import Path

from psycopg2.extensions import cursor, make_dsn

from user_service.database.connection import connect, with_session_defaults
from user_service.errors import Unavailable
from user_service.resilience import deadline

MIGRATIONS = Path(__file__).parent / "migrations"

# Any number will do, as long as every replica takes the same; these are the bytes of "users".
ADVISORY_LOCK = 0x7573657273
# While a migration waits for a table that somebody else reads for long (pg_dump), everybody who
# comes after it waits too, the running release among them: for less than its statement time-out.
LOCK_TIMEOUT = "2s"
# Seconds in which somebody else's migrations are looked at.
LOOK_SECONDS = 10.0

log = logging.getLogger(__name__)


def migrate(dsn: str, folder: Path = MIGRATIONS) -> list[str]:
    """Apply what is pending and return its names, oldest first.

    Raise ConnectionLost if the database is away, and psycopg2.Error if a migration is refused, or
    does not get a lock within LOCK_TIMEOUT.

    There is no statement time-out: an index on a large table takes as long as it takes.
    """
    dsn = with_session_defaults(make_dsn(dsn, application_name="user-service migrations"), None)
    with closing(connect(dsn)) as connection:
        # One transaction. Whatever goes wrong before COMMIT, closing rolls it back.
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
            applied = [_apply(cursor, file) for file in _pending(cursor, folder)]
            cursor.execute("COMMIT")
        return applied


def require_migrated(dsn: str, folder: Path = MIGRATIONS) -> None:
    """Raise Unavailable while something is pending, which somebody else applies.

    More than ours may be applied: in a rollout, the release after this one comes first.
    """
    dsn = with_session_defaults(dsn, None)
    with (
        deadline.within(LOOK_SECONDS),
        closing(connect(dsn)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT to_regclass('schema_migrations') IS NOT NULL")
        applied = _applied(cursor) if cursor.fetchone() == (True,) else set()
    if pending := [file.stem for file in _files(folder) if file.stem not in applied]:
        raise Unavailable(f"migrations are pending: {', '.join(pending)}")


def _pending(cursor: cursor, folder: Path) -> list[Path]:
    cursor.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations ("
        " name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    applied = _applied(cursor)
    return [file for file in _files(folder) if file.stem not in applied]


def _applied(cursor: cursor) -> set[str]:
    cursor.execute("SELECT name FROM schema_migrations")
    return {name for (name,) in cursor}


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.sql"))


def _apply(cursor: cursor, file: Path) -> str:
    log.info("applying migration %s", file.stem)
    cursor.execute(file.read_text(encoding="utf-8"))
    cursor.execute("INSERT INTO schema_migrations (name) VALUES (%s)", (file.stem,))
    return file.stem
