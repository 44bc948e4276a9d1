"""The stand: servers on one core, service on the other, databases of any number of users."""

import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg2
import redis

from benchmarks.plan import Effort
from benchmarks.targets import migrate
from dev.servers import PostgresServer, RedisServer

# A cache that holds the tables of the benchmark, as a server of that size is given one. What is
# acknowledged is not waited for to be on disk: services are compared here, and not disks.
POSTGRES = {"shared_buffers": "1GB", "max_connections": "300", "max_wal_size": "8GB"}
# A database for each server that is started.
REDIS = {"databases": "1000"}
# User n is "User<n>", n seconds after the first.
POPULATE = """
    INSERT INTO users
        (username, username_canonical, email, email_canonical, created_at, updated_at)
    SELECT
        'User' || n, 'user' || n, 'user' || n || '@example.com', 'user' || n || '@example.com',
        '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 second',
        '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 second'
    FROM generate_series(1, %s) AS n
"""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core the services run on, and which everything else; None: nothing is pinned."""

    service: int | None
    others: int | None
    all: frozenset[int]

    def __str__(self) -> str:
        if self.service is None:
            return "this machine has one core: nothing is pinned, load and service share it"
        return f"service on core {self.service}; load, PostgreSQL and Redis on core {self.others}"


@contextmanager
def pinned() -> Iterator[Cores]:
    """Keep this process, and what it starts from now on, off the core of the services."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:  # noqa: PLR2004 -- one for each side
        yield Cores(None, None, frozenset(allowed))
        return
    service, others = sorted(allowed)[:2]
    os.sched_setaffinity(0, {others})
    try:
        yield Cores(service, others, frozenset(allowed))
    finally:
        os.sched_setaffinity(0, allowed)


class Stand:
    """The servers that all targets share, and the databases on them."""

    def __init__(self, folder: Path, cores: Cores) -> None:
        self.folder = folder
        self.cores = cores
        self.postgres = PostgresServer(folder / "postgres", options=POSTGRES, durable=False)
        self.redis = RedisServer(folder / "redis", options=REDIS)
        self._redis_databases = 0

    def database(self, users: int, name: str = "") -> str:
        """Return the URL of a database with so many users, made if there is none yet."""
        name = name or f"users_{users}"
        url = self.postgres.url.rpartition("/")[0] + f"/{name}"
        if (name,) not in self.ask("SELECT datname FROM pg_database"):
            self.ask(f'CREATE DATABASE "{name}" OWNER users')
            migrate(url)
            self.ask(POPULATE, users, url=url)
            self.ask("VACUUM (ANALYZE)", url=url)
            self.ask("CHECKPOINT")
        return url

    def redis_database(self) -> str:
        """Return the URL of a Redis database that nobody else was given."""
        self._redis_databases += 1
        return self.redis.url.rpartition("/")[0] + f"/{self._redis_databases}"

    def postgres_log(self) -> str:
        """Return what PostgreSQL has logged since it was started."""
        return (self.folder / "postgres" / "server.log").read_text(encoding="utf-8")

    def ask(self, statement: str, *values: object, url: str = "") -> list[tuple[object, ...]]:
        """Run a statement, as the superuser where no URL is given, and return its rows."""
        connection = psycopg2.connect(url or self.postgres.admin_url)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, values or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def forget_created(self, url: str, users: int) -> None:
        """Delete whom a workload created, and empty all caches.

        What is dead of them, and of whom a workload updated, goes too, or it would be in the way
        of whoever reads next until autovacuum comes, within a minute or not: it makes the statement
        of a page take up to 1.9 times as long.
        """
        self.ask("DELETE FROM users WHERE id > %s", users, url=url)
        self.ask("VACUUM (ANALYZE) users", url=url)
        with redis.Redis.from_url(self.redis.url) as client:
            client.flushall()


@contextmanager
def stand(cores: Cores) -> Iterator[Stand]:
    """Start the servers, with their files in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        made = Stand(Path(folder), cores)
        with made.postgres, made.redis:
            yield made


def about(stand: Stand, effort: Effort) -> dict[str, str]:
    """Return on what and how it is measured, for whoever reads the figures."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    ((postgres,),) = stand.ask("SHOW server_version")
    with redis.Redis.from_url(stand.redis.url) as client:
        valkey = client.info("server")["valkey_version"]
    software = [
        f"Python {platform.python_version()}",
        f"Node {_said_by('node', '--version').removeprefix('v')}",
        f"PostgreSQL {postgres}",
        f"Valkey {valkey}",
        f"wrk {_said_by('dpkg-query', '--show', '--showformat=${Version}', 'wrk')}",
        f"Linux {platform.release()}",
    ]
    return {
        "commit": _commit(),
        "effort": effort.name,
        "rounds": str(effort.rounds),
        "turns": str(effort.turns),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores",
        "cores": str(stand.cores),
        "software": ", ".join(software),
    }


def _commit() -> str:
    """Return the commit of what is measured; with a "+" if something has been changed since."""
    changed = _said_by("git", "status", "--porcelain", "--", ":/services", ":/benchmarks/*.py")
    return _said_by("git", "rev-parse", "--short", "HEAD") + "+" * bool(changed)


def _said_by(*command: str) -> str:
    """Return what a program prints, "unknown" where it is not there or has nothing to say."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
