"""Faults at random, one after the other, from a seed: what the history checker is played under."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

from tests.e2e.service import RunningService
from tests.faults.harness.stage import Stage
from tests.faults.harness.standby import Standby, lag, pause, resume

LAG = 0.2  # seconds by which a replica shows a commit later

# Faults during and after which a page may be as old as the TTL: an invalidation may fail, or
# its process may die between COMMIT and invalidation.
OF_PAGES = {"Redis killed", "Redis frozen", "Redis delayed", "Redis cut", "worker killed"}


class Nemesis:
    """Provokes faults on ``stage``, the ``standby`` and the workers of ``service``."""

    def __init__(
        self,
        stage: Stage,
        service: RunningService,
        seed: int,
        kinds: tuple[str, ...] | None = None,
        standby: Standby | None = None,
    ) -> None:
        self._stage = stage
        self._service = service
        self._chance = random.Random(seed)
        postgres, database = stage.postgres, stage.database_link
        redis, cache, uniform = stage.redis, stage.redis_link, self._chance.uniform
        self._faults: dict[str, Callable[[], None]] = {
            "PostgreSQL restarted": postgres.restart,
            # Beyond the deadline, and within.
            "PostgreSQL frozen": lambda: self._last(3.0, postgres.freeze, postgres.thaw),
            "backends killed": self._kill_backends,
            "database cut": database.cut,
            "database held": lambda: self._last(3.0, database.hold),
            "database delayed": lambda: self._last(1.5, lambda: database.delay(uniform(0.05, 0.5))),
            "COMMIT cut, stored": lambda: self._cut_commits(forward=True),
            "COMMIT cut, not stored": lambda: self._cut_commits(forward=False),
            "Redis killed": lambda: self._last(1.0, redis.kill, redis.start),
            "Redis frozen": lambda: self._last(1.0, redis.freeze, redis.thaw),
            "Redis flushed": self._flush_redis,
            "Redis cut": cache.cut,
            "Redis delayed": lambda: self._last(1.0, lambda: cache.delay(uniform(0.05, 1.0))),
            "worker killed": self._kill_worker,
        }
        if standby is not None:
            self._faults |= {
                "replica lags": lambda: self._last(
                    2.0, lambda: lag(standby, LAG), lambda: lag(standby, 0)
                ),
                "replica stands still": lambda: self._last(
                    1.0, lambda: pause(standby), lambda: resume(standby)
                ),
                "replica frozen": lambda: self._last(2.0, standby.freeze, standby.thaw),
                "replica killed": lambda: self._last(1.0, standby.kill, standby.start),
            }
        self._kinds = tuple(self._faults) if kinds is None else kinds
        self.provoked: Counter[str] = Counter()
        self.spans: list[tuple[str, float, float]] = []

    def rage(self, seconds: float) -> None:
        """Provoke one fault after the other, every kind before any comes again."""
        end = time.monotonic() + seconds
        left: list[str] = []
        while time.monotonic() < end:
            if not left:
                left = self._chance.sample(self._kinds, len(self._kinds))
            if left:
                self._provoke(left.pop())
            time.sleep(self._chance.uniform(0.1, 0.8))

    def _provoke(self, kind: str) -> None:
        self.provoked[kind] += 1
        began = time.monotonic()
        self._faults[kind]()
        self._stage.database_link.resume()
        self._stage.redis_link.resume()
        self.spans.append((kind, began, time.monotonic()))

    def _last(
        self, longest: float, begin: Callable[[], object], end: Callable[[], object] = int
    ) -> None:
        """Have a fault last for a random time; the links resume by themselves afterwards."""
        begin()
        time.sleep(self._chance.uniform(0.1, longest))
        end()

    def _kill_backends(self) -> None:
        self._stage.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename = 'users_service' AND random() < 0.5"
        )

    def _cut_commits(self, *, forward: bool) -> None:
        self._last(0.6, lambda: self._stage.database_link.cut_commits(3, forward=forward))

    def _flush_redis(self) -> None:
        with self._stage.redis_client() as client:
            for _ in range(5):
                client.flushall()
                time.sleep(0.05)

    def _kill_worker(self) -> None:
        if workers := self._service.workers:
            os.kill(self._chance.choice(workers), signal.SIGKILL)
