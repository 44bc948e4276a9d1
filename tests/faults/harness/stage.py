"""The stage of a fault: real servers, the service under gunicorn, clients, and the checks.

A *scene* is one fault: clients are at work before, during and after it, and when it is over all
that goes for every row of the fault table is checked.
"""

import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import redis as redis_py

from dev.processes import wait_until
from dev.servers import PostgresServer, RedisServer
from tests.e2e.edge import USER, edge, hits
from tests.e2e.gateway import Gateway
from tests.e2e.service import RunningService, running
from tests.faults.harness import credentials
from tests.faults.harness.clients import DEADLINE, SLACK, Load, Mix
from tests.faults.harness.figures import Row
from tests.faults.harness.operations import BAD, Operation
from tests.faults.harness.processes import Footprint, footprint
from tests.faults.harness.proxy import Proxy
from tests.faults.harness.standby import rows
from tests.faults.history import PageRule, check
from tests.waiting import eventually

STALE_TTL = 300.0  # CACHE_STALE_TTL's default
RECOVERY = 5.0  # "back within 5 s without a restart"
REDIS_CONNECTIONS = 32
POOL_SIZE = 10
# What a worker writes to the log when it serves.
STARTED = {"gunicorn": "connection pool opened", "granian": "Started worker-"}

# For a busy machine: the default of 0.05 s is missed now and then, which the cache survives, but
# tests of what it answers would not.
PATIENT = {"REDIS_TIMEOUT": "1"}


@dataclass
class Stage:
    """The servers, a proxy before each, and the folder for logs."""

    postgres: PostgresServer
    redis: RedisServer
    database_link: Proxy
    redis_link: Proxy
    folder: Path
    dumps: Path  # where Redis would write its dumps
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def reset(self) -> None:
        """End every fault and empty both servers."""
        for link in (self.database_link, self.redis_link):
            link.resume()
        for server in (self.postgres, self.redis):
            if server.running:
                server.thaw()
            server.start()
        self.dumps.mkdir(exist_ok=True)
        self.sql("DROP SCHEMA public CASCADE")
        self.sql("CREATE SCHEMA public AUTHORIZATION users")
        with self.redis_client() as client:
            client.flushall()

    @contextmanager
    def service(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        command: list[str] | None = None,
        ready: bool = True,
    ) -> Iterator[RunningService]:
        """Start the service with production's settings but for ``environment``."""
        database, redis = f":{self.postgres.port}/", f":{self.redis.port}/"
        to_database, to_redis = f":{self.database_link.port}/", f":{self.redis_link.port}/"
        behind_links = {
            "DATABASE_URL": self.postgres.service_url.replace(database, to_database),
            "DATABASE_OWNER_URL": self.postgres.url.replace(database, to_database),
            "REDIS_URL": self.redis.url.replace(redis, to_redis),
        }
        log = self.folder / f"service-{next(self._numbers)}.log"
        own_settings = {**PATIENT, **credentials.settings(self.folder), **(environment or {})}
        with running(log, {**behind_links, **own_settings}, command) as service:
            if ready:
                url = f"{service.url}/health/ready"
                eventually(lambda: httpx.get(url, timeout=20).status_code == 200)
            yield service

    @contextmanager
    def _edge(self, service: RunningService, own: Mapping[str, str]) -> Iterator[Gateway | None]:
        if "GATEWAY_PAGES" not in own:
            yield None
            return
        credentials.skip_edge()
        timeout = 1000 * float(own.get("REDIS_TIMEOUT", PATIENT["REDIS_TIMEOUT"]))
        changes = {"TIMEOUT = 50": f"TIMEOUT = {timeout:.0f}"}
        folder = self.folder / f"edge-{next(self._numbers)}"
        with edge(folder, service.port, self.redis_link.port, changes) as started:
            yield started

    @property
    def admin_url(self) -> str:
        return self.postgres.admin_url

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement as a superuser, not through the proxy, and return its rows."""
        return rows(self.admin_url, statement)

    def users(self) -> dict[int, str]:
        """Return the address of each stored user by its id."""
        return dict(self.sql("SELECT id, email FROM users ORDER BY id"))

    def redis_client(self) -> redis_py.Redis:
        return redis_py.Redis.from_url(self.redis.url, socket_timeout=10)

    @property
    def database_ports(self) -> tuple[int, ...]:
        return (self.database_link.port, self.postgres.port)

    @property
    def redis_ports(self) -> tuple[int, ...]:
        return (self.redis_link.port, self.redis.port)

    @property
    def ports(self) -> tuple[int, ...]:
        return self.database_ports + self.redis_ports

    @contextmanager
    def scene(
        self,
        row: Row,
        mix: Mix | None = None,
        *,
        after: float = 2.0,
        environment: Mapping[str, str] | None = None,
        command: list[str] | None = None,
    ) -> Iterator["Scene"]:
        """Play a fault under load, for ``after`` seconds beyond its end; then check it all.

        With GATEWAY_PAGES in its ``environment``, the service is behind the edge.
        """
        own = environment or {}
        with (
            self.service(own, command=command) as service,
            self._edge(service, own) as gateway,
        ):
            # One worker answers before the others, whose files are to be counted too.
            line, number = STARTED[own.get("SERVER", "gunicorn")], len(service.workers)
            eventually(lambda: service.log.count(line) >= number)
            deadline = float(own.get("REQUEST_TIMEOUT", DEADLINE))
            load = Load((gateway or service).url, deadline=deadline, mix=mix or Mix())
            replica = urlsplit(own.get("DATABASE_REPLICA_URL", "")).port
            scene = Scene(self, row, service, load, gateway, replica)
            # What is marked STALE may be as old as that; all else is fresh unless a test says so.
            scene.pages = PageRule(stale_bound=float(own.get("CACHE_STALE_TTL", STALE_TTL)))
            with load:
                time.sleep(1)
                for pid in service.workers:
                    with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                        scene.workers[pid] = scene.footprint(pid)
                yield scene
                time.sleep(after)
            scene.finish()


@dataclass
class Scene:
    """One fault being played: the service, its clients, and when the fault began and ended."""

    stage: Stage
    row: Row
    service: RunningService
    load: Load
    edge: Gateway | None = None
    replica_port: int | None = None
    workers: dict[int, Footprint] = field(default_factory=dict)
    began: float = 0.0
    ended: float = 0.0
    workers_may_change: bool = False
    checked: bool = True
    pages: PageRule = field(default_factory=PageRule)

    @contextmanager
    def fault(self) -> Iterator[None]:
        """Mark the block as the time of the fault; it ends with the block."""
        self.began = time.monotonic()
        yield
        self.ended = time.monotonic()

    def health(self) -> Any:
        return httpx.get(f"{self.service.url}/health", timeout=20).json()

    def during(self) -> list[Operation]:
        """Return the operations that began during the fault."""
        return [each for each in self.load.operations if self.began <= each.started < self.ended]

    def footprint(self, pid: int) -> Footprint:
        """Return what a worker holds, but for the connections of its clients."""
        return footprint(pid, (*self.stage.ports, *self.replica_ports, self.service.port))

    @property
    def replica_ports(self) -> tuple[int, ...]:
        return () if self.replica_port is None else (self.replica_port,)

    def finish(self) -> None:
        """Check what goes for every row and fill in the figures."""
        operations = self.load.operations
        self.row.count(operations)
        if not self.checked:
            return
        complaints = [each.complaint for each in operations if each.complaint]
        if not self.workers_may_change:  # who else than a dying worker leaves without a word?
            silent = (each for each in operations if each.status is None and not each.complaint)
            complaints += [f"connection closed without an answer: {each}" for each in silent]
        if self.edge is not None:
            served = hits(self.edge)
            self.row.note(f"{served} pages by the edge")
            complaints += [] if served else ["the edge served no page"]
        complaints += self._recovery()
        complaints += self._residue()
        complaints += self.row.judge(check(operations, self.stage.users(), self.pages))
        assert not complaints, "\n".join([f"{len(complaints)} complaints:", *complaints[:15]])

    def _recovery(self) -> list[str]:
        operations = self.load.operations
        bad = (each.ended for each in operations if each.outcome in BAD)
        last = max(bad, default=self.ended)
        self.row.recovery = max(0.0, last - self.ended)
        if self.row.recovery > RECOVERY + SLACK:
            return [f"still not back {self.row.recovery:.1f} s after the fault"]
        later = any(each.started > last for each in operations)
        return [] if later else ["nothing was answered after the fault"]

    def _residue(self) -> list[str]:
        """Return what is left of the fault in the workers: connections, threads, files, memory."""
        complaints = []
        if not self.workers_may_change and self.service.workers != sorted(self.workers):
            complaints.append("workers were replaced")
        if not wait_until(lambda: self.pools_in_use() == 0, seconds=3):
            complaints.append(f"pool in_use is {self.pools_in_use()}")
        wait_until(lambda: not self._grown(), seconds=2)
        return complaints + self._grown()

    def pools_in_use(self) -> int:
        """Ask /health until every worker has most likely answered; return the largest in_use."""
        largest = 0
        for _ in range(6 * max(1, len(self.workers))):
            with suppress(httpx.TransportError):
                largest = max(largest, self.health()["pool"]["in_use"])
        return largest

    def _grown(self) -> list[str]:
        """Return what the workers of the beginning hold more than then."""
        complaints = []
        for pid in set(self.workers) & set(self.service.workers):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                complaints += self._grown_in(pid)
        return complaints

    def _grown_in(self, pid: int) -> list[str]:
        before, now = self.workers[pid], self.footprint(pid)
        database, replica, redis = (
            sum(now.connections.get(port, 0) for port in ports)
            for ports in (self.stage.database_ports, self.replica_ports, self.stage.redis_ports)
        )
        growths = [
            ("threads", before.threads, now.threads, 2),
            ("files", before.files, now.files, 3),
            ("connections to the database", 0, database, POOL_SIZE + 2),
            ("connections to the replica", 0, replica, POOL_SIZE + 2),
            (
                "connections to Redis, some reset",
                before.others,
                redis + now.others,
                REDIS_CONNECTIONS,
            ),
            ("MB of memory", before.memory_mb, now.memory_mb, before.memory_mb * 0.2 + 10),
        ]
        return [
            f"worker {pid}: {what} {old:.0f} -> {new:.0f}"
            for what, old, new, allowed in growths
            if new > old + allowed
        ]


@contextmanager
def set_up(folder: Path) -> Iterator[Stage]:
    """Start both servers, each behind a proxy."""
    dumps = folder / "dumps"
    dumps.mkdir(mode=0o777)
    with ExitStack() as stack:
        start = stack.enter_context
        postgres = start(PostgresServer(folder / "postgres", durable=False))
        options = {"dir": f'"{dumps}"', "user": USER}
        redis = start(RedisServer(folder / "redis", options=options))
        links = start(Proxy(postgres.port)), start(Proxy(redis.port))
        yield Stage(postgres, redis, *links, folder, dumps)
