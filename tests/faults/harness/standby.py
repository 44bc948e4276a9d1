"""A standby of a PostgreSQL server, by streaming replication, that can be promoted."""

from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import parse_dsn

from dev.servers import PostgresServer, postgres_program
from tests.waiting import eventually


class Standby(PostgresServer):
    """Copies ``primary`` when it is first started, and follows it."""

    def __init__(self, data_dir: Path, primary: PostgresServer) -> None:
        super().__init__(data_dir, durable=False)
        self._primary = primary

    def _make_cluster(self, folder: Path) -> None:
        password = parse_dsn(self._primary.admin_url)["password"]
        self._dir.write("password", password)
        line = f"127.0.0.1:{self._primary.port}:*:postgres:{password}\n"
        passwords = self._dir.write("pgpass", line)
        source = f"host=127.0.0.1 port={self._primary.port} user=postgres passfile={passwords}"
        copy = ["-D", str(folder), "-d", source, "--write-recovery-conf", "--checkpoint=fast"]
        self._run([postgres_program("pg_basebackup"), *copy, "--no-sync"])


def rows(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements, each for itself; return the rows of the last one."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


def run(server: PostgresServer, *statements: str) -> Any:
    """Run statements as a superuser, each for itself; return the last one's first value."""
    found = rows(server.admin_url, *statements)
    return found[0][0] if found else None


def pause(standby: Standby) -> None:
    """Let ``standby`` lag from now on, for certain."""
    run(standby, "SELECT pg_wal_replay_pause()")
    state = "SELECT pg_get_wal_replay_pause_state()"
    eventually(lambda: run(standby, state) == "paused")


def resume(standby: Standby) -> None:
    """Let ``standby`` replay again."""
    run(standby, "SELECT pg_wal_replay_resume()")


def lag(standby: Standby, seconds: float) -> None:
    """Let ``standby`` show commits so much later than they were."""
    setting = f"ALTER SYSTEM SET recovery_min_apply_delay = '{seconds * 1000:.0f}ms'"
    run(standby, setting, "SELECT pg_reload_conf()")


def follow_synchronously(primary: PostgresServer) -> None:
    """Have ``primary`` acknowledge only what its standby has too."""
    run(primary, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
    state = "SELECT sync_state FROM pg_stat_replication"
    eventually(lambda: run(primary, state) == "sync")


def switch_over(primary: PostgresServer, standby: PostgresServer) -> None:
    """Make ``primary`` read-only, wait until ``standby`` has it all, and promote that.

    The sessions on the old primary stay open, and find out by SQLSTATE 25006.
    """
    run(
        primary,
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "ALTER SYSTEM SET synchronous_standby_names = ''",
        "SELECT pg_reload_conf()",
    )
    end = run(primary, "SELECT pg_sleep(0.3)", "SELECT pg_current_wal_lsn()")
    eventually(lambda: run(standby, f"SELECT pg_last_wal_replay_lsn() >= '{end}'"))
    run(standby, "SELECT pg_promote()")
