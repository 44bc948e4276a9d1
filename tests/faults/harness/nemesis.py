"""Faults at random, one after the other, from a seed: what the history checker is played under."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

from tests.faults.harness.stage import Stage

# Faults during and after which a page may be as old as the TTL: an invalidation may fail, or
# its process may die between COMMIT and invalidation.
OF_PAGES = {"Redis killed", "Redis frozen", "Redis delayed", "Redis cut", "worker killed"}


class Nemesis:
    """Provokes faults on ``stage`` and on the workers that ``workers`` returns."""

    def __init__(
        self,
        stage: Stage,
        workers: Callable[[], list[int]],
        seed: int,
        kinds: tuple[str, ...] | None = None,
    ) -> None:
        self._stage = stage
        self._workers = workers
        self._chance = random.Random(seed)
        self._faults: dict[str, Callable[[], None]] = {
            "PostgreSQL restarted": stage.postgres.restart,
            "PostgreSQL frozen": self._freeze_postgres,
            "backends killed": self._kill_backends,
            "database cut": stage.database_link.cut,
            "database held": self._hold_database,
            "database delayed": self._delay_database,
            "COMMIT cut, stored": lambda: self._cut_commits(forward=True),
            "COMMIT cut, not stored": lambda: self._cut_commits(forward=False),
            "Redis killed": self._kill_redis,
            "Redis frozen": self._freeze_redis,
            "Redis flushed": self._flush_redis,
            "Redis cut": stage.redis_link.cut,
            "Redis delayed": self._delay_redis,
            "worker killed": self._kill_worker,
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
        self._stage.say(f"{time.strftime('%X')} {kind}")
        began = time.monotonic()
        self._faults[kind]()
        self._stage.database_link.resume()
        self._stage.redis_link.resume()
        self.spans.append((kind, began, time.monotonic()))

    def _last(self, longest: float) -> None:
        time.sleep(self._chance.uniform(0.1, longest))

    def _freeze_postgres(self) -> None:
        self._stage.postgres.freeze()
        self._last(3.0)  # beyond the deadline, and within
        self._stage.postgres.thaw()

    def _kill_backends(self) -> None:
        self._stage.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename = 'users' AND random() < 0.5"
        )

    def _hold_database(self) -> None:
        self._stage.database_link.hold()
        self._last(3.0)

    def _delay_database(self) -> None:
        self._stage.database_link.delay(self._chance.uniform(0.05, 0.5))
        self._last(1.5)

    def _cut_commits(self, *, forward: bool) -> None:
        self._stage.database_link.cut_commits(3, forward=forward)
        self._last(0.6)

    def _kill_redis(self) -> None:
        self._stage.redis.kill()
        self._last(1.0)
        self._stage.redis.start()

    def _freeze_redis(self) -> None:
        self._stage.redis.freeze()
        self._last(1.0)
        self._stage.redis.thaw()

    def _flush_redis(self) -> None:
        with self._stage.redis_client() as client:
            for _ in range(5):
                client.flushall()
                time.sleep(0.05)

    def _delay_redis(self) -> None:
        self._stage.redis_link.delay(self._chance.uniform(0.05, 1.0))
        self._last(1.0)

    def _kill_worker(self) -> None:
        if workers := self._workers():
            os.kill(self._chance.choice(workers), signal.SIGKILL)
