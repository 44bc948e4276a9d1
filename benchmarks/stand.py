"""The stand: targets on one core; load, PostgreSQL and Redis on the other.

``Stand.serve`` is the only place that starts a target.
"""

import os
import platform
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx
import psycopg2
import redis

from benchmarks.targets import Target, program
from dev.ports import free_port
from dev.processes import spawn, wait_until
from dev.servers import PostgresServer, RedisServer
from tests.e2e.service import FLASK, clean_environment, run

# The cache holds the tables, and no commit waits for a disk: the targets are compared, not disks.
POSTGRES = {"shared_buffers": "1GB", "max_connections": "300", "max_wal_size": "8GB"}
REDIS = {"databases": "1000"}
START_SECONDS = 60.0
STOP_SECONDS = 15.0
# User n is "User<n>", created n seconds after the beginning of 2026.
POPULATE = """
    TRUNCATE users RESTART IDENTITY;
    INSERT INTO users
        (username, username_canonical, email, email_canonical, created_at, updated_at)
    SELECT
        'User' || n, 'user' || n, 'user' || n || '@example.com', 'user' || n || '@example.com',
        '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 second',
        '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 second'
    FROM generate_series(1, %s) AS n
"""
# What a workload has added and changed.
RESTORE = """
    DELETE FROM users WHERE id > %s;
    UPDATE users
    SET email = 'user' || id || '@example.com', email_canonical = 'user' || id || '@example.com'
    WHERE email <> 'user' || id || '@example.com'
"""


class TargetFailed(Exception):
    """A target ended or did not answer in time."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running target, its first process and its databases."""

    target: Target
    url: str
    pid: int
    users: int
    redis: redis.Redis


def reserve_core() -> int | None:
    """Leave one core to the targets and return it; None on a machine with a single core.

    This process and its children from now on use the second core.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) == 1:
        return None
    os.sched_setaffinity(0, {allowed[1]})
    return allowed[0]


class Stand:
    """PostgreSQL and Redis, and targets on ``core``: a context manager with files in ``folder``."""

    def __init__(self, folder: Path, core: int | None = None) -> None:
        self.folder = folder
        self._core = core
        self._postgres = PostgresServer(folder / "postgres", options=POSTGRES, durable=False)
        self._redis = RedisServer(folder / "redis", options=REDIS)
        self._redis_databases = 0

    def __enter__(self) -> Self:
        self._postgres.start()
        self._redis.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._redis.stop()
        finally:
            self._postgres.stop()

    def query(
        self, statement: str, *values: object, url: str | None = None
    ) -> list[tuple[Any, ...]]:
        """Run a statement in autocommit mode and return its rows; as superuser without ``url``."""
        with closing(psycopg2.connect(url or self._postgres.admin_url)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def database(self, users: int) -> str:
        """Return the URL of a database with so many users; the first call makes it."""
        name = f"users_{users}"
        url = f"{self._postgres.url.rpartition('/')[0]}/{name}"
        if (name,) not in self.query("SELECT datname FROM pg_database"):
            self.query(f'CREATE DATABASE "{name}" OWNER users')
            migrated = run([*FLASK, "migrate"], {"DATABASE_URL": url, "LOG_LEVEL": "WARNING"})
            if migrated.returncode != 0:
                raise TargetFailed(f"the migrations failed\n{migrated.stderr}")
            self.query(POPULATE, users, url=url)
            self.query("VACUUM (ANALYZE)", url=url)
            self.query("CHECKPOINT")
        return url

    def reset(self, users: int) -> None:
        """Restore the database of ``users`` after a workload, and empty Redis.

        Vacuum as well: dead rows slow down the next reader until autovacuum removes them.
        """
        url = self.database(users)
        self.query(RESTORE, users, url=url)
        self.query("VACUUM (ANALYZE) users", url=url)
        with redis.Redis.from_url(self._redis.url) as client:
            client.flushall()

    def connections(self, server: Server) -> int:
        """Return how many connections PostgreSQL and Redis have accepted for a server.

        PostgreSQL counts a session some time after its end.
        """
        asked = "SELECT sessions FROM pg_stat_database WHERE datname = %s"
        earlier = None
        while (now := self.query(asked, f"users_{server.users}")) != earlier:
            earlier = now
            time.sleep(0.1)
        ((sessions,),) = now
        return int(sessions) + int(server.redis.info("stats")["total_connections_received"])

    def urls(self, users: int) -> dict[str, str]:
        """Return settings for the database of ``users`` and a Redis database that is new."""
        self._redis_databases += 1
        redis_url = f"{self._redis.url.rpartition('/')[0]}/{self._redis_databases}"
        return {"DATABASE_URL": self.database(users), "REDIS_URL": redis_url}

    @contextmanager
    def serve(self, target: Target, users: int, log: Path | None = None) -> Iterator[Server]:
        """Serve the database of ``users`` with one worker process, and end it afterwards.

        Each call uses a Redis database of its own. The output goes to ``log``, or nowhere.
        Raises TargetFailed if the target does not answer within a minute.
        """
        port, urls = free_port(), self.urls(users)
        environment = {**clean_environment(), **urls, "PORT": str(port), "WEB_CONCURRENCY": "1"}
        environment |= target.environment
        words = {"bin": str(target.home / "bin"), "port": str(port)}
        command = [part.format(**words) for part in target.command]
        if self._core is not None:
            command = [program("taskset"), "-c", str(self._core), *command]
        with (log or Path(os.devnull)).open("wb") as output, ExitStack() as stack:
            process = spawn(
                command,
                signal.SIGKILL,
                cwd=target.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            stack.callback(_end, process)
            url = f"{target.scheme}://127.0.0.1:{port}"
            _wait_until_ready(target, process, url, log)
            client = stack.enter_context(redis.Redis.from_url(urls["REDIS_URL"]))
            client.ping()
            yield Server(target, url, process.pid, users, client)

    def about(self) -> dict[str, str]:
        """Return date, commit, machine and versions, for readers of the figures."""
        cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        ((postgres,),) = self.query("SHOW server_version")
        with redis.Redis.from_url(self._redis.url) as client:
            valkey = client.info("server")["valkey_version"]
        wrk = _output("dpkg-query", "--show", "--showformat=${Version}", "wrk")
        changed = _output("git", "status", "--porcelain", "--", ":/services", ":/benchmarks/*.py")
        return {
            "date": datetime.now(UTC).date().isoformat(),
            "commit": _output("git", "rev-parse", "--short", "HEAD") + "+" * bool(changed),
            "software": f"Python {platform.python_version()}, Node {_output('node', '--version')},"
            f" PostgreSQL {postgres}, Valkey {valkey}, wrk {wrk}, Linux {platform.release()}",
            "machine": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores",
            "cores": "targets on one core; load, PostgreSQL and Redis on another"
            if self._core is not None
            else "one core for everything",
        }


def _wait_until_ready(
    target: Target, process: subprocess.Popen[bytes], url: str, log: Path | None
) -> None:
    def has_ended_or_answers() -> bool:
        if process.poll() is not None:
            return True
        with suppress(httpx.TransportError):
            return httpx.get(url + target.ready_path, verify=False).is_success  # noqa: S501
        return False

    if wait_until(has_ended_or_answers, START_SECONDS) and process.poll() is None:
        return
    output = log.read_text("utf-8", "replace")[-2000:] if log else ""
    raise TargetFailed(f"{target.label} does not answer; exit code: {process.poll()}\n{output}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the first process, which stops its workers; then kill the rest of its session."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _output(*command: str) -> str:
    """Return the output of a program, or "unknown" without the program."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
