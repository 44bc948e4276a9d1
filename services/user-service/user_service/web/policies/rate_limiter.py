"""Counts the requests of each client: in Redis for all processes, in this process without Redis.

Windows slide (the sliding window counter of `limits`): requests of the previous window count in
proportion to the part of it that still overlaps. A client cannot spend two limits around the end of
a window, and two numbers for each client are enough, however high the limit.

While Redis is away, each process allows the whole limit. A client that keeps one connection is
served by one process, so a share of the limit would refuse it too early. Other clients may reach
the limit times the number of processes, which still keeps a flood away from the database.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self, cast

import limits
from limits.storage import MemoryStorage, RedisStorage
from limits.typing import RedisClient as ClientOfLimits
from redis import RedisError

from user_service.cache.redis_client import RedisClient
from user_service.errors import CircuitOpen
from user_service.observability.outage import Outage
from user_service.resilience.breaker import CircuitBreaker

# `limits` walks through all windows in memory many times a second, so their number is bounded. With
# one more, all clients of this process start from zero.
MAX_LOCAL_WINDOWS = 10_000
# Every command of the scripts of `limits`.
CHECK = """
redis.call('SET', KEYS[1], 0, 'PX', 1000)
redis.call('INCRBY', KEYS[1], redis.call('EXISTS', KEYS[1]))
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('PTTL', KEYS[2])
redis.call('GET', KEYS[2])
"""
# Seconds by which rounding to milliseconds, here and in Redis, may shorten a wait.
ROUNDING = 0.01


@dataclass(frozen=True, slots=True)
class Limit:
    """``amount`` requests in ``seconds``. Clients see the limit by its ``name``."""

    name: str
    amount: int
    seconds: int

    @classmethod
    def parsed(cls, name: str, text: str) -> Self:
        """Return the limit that ``text`` states, for example ``600/minute``."""
        item = limits.parse(text)
        return cls(name, item.amount, item.get_expiry())


@dataclass(frozen=True, slots=True)
class Window:
    """The state of a client's window after a request.

    If the request ``passes``, ``remaining`` more requests may follow within ``seconds``. If none
    remains, the next request may follow after ``seconds``.
    """

    passes: bool
    remaining: int
    seconds: int


class Counts(NamedTuple):
    """The requests that `limits` has counted in the previous and in the current window.

    The previous window counts for ``previous_seconds`` more. The current window counts for
    ``current_seconds`` more, which is one window longer than it lasts.
    """

    previous: int
    previous_seconds: float
    current: int
    current_seconds: float


class RateLimiter:
    """Counts requests, in two round trips each. Never raises because Redis is away."""

    def __init__(
        self,
        redis: RedisClient,
        breaker: CircuitBreaker,
        *,
        prefix: str = "users",
        database: Callable[[], str] = lambda: "",
    ) -> None:
        """``breaker`` is the breaker of ``redis``: once it is open, Redis costs no time.

        ``database`` returns the name of the database, which has its own counts.
        """
        self._redis = redis
        self._shared = _SharedStorage(redis, f"{prefix}:limit")
        self._check_keys = [f"{prefix}:limit:{{check}}:{n}" for n in (1, 2)]
        self._breaker = breaker
        self._database = database
        self._outage = Outage(
            "rate limits counted in each process alone", "rate limits counted in Redis again"
        )

    @cached_property
    def _local(self) -> MemoryStorage:
        # Made in the worker process that needs it: its thread would not survive a fork.
        return MemoryStorage()

    @property
    def local_windows(self) -> int:
        """The number of windows in the memory of this process."""
        return len(self._local.storage)

    def counts_in_redis(self) -> bool:
        """Return whether Redis permits what the limits need."""
        try:
            self._redis.run_script(CHECK, self._check_keys, [])
        except RedisError:
            return False
        return True

    def hit(self, limit: Limit, client: str) -> Window:
        """Count a request of ``client`` and return its window. Refused requests do not count."""
        key = f"{limit.name}:{limit.amount}/{limit.seconds}:{client}"
        try:
            with self._breaker.calling():
                shared = _hit(self._shared, limit, f"{self._database()}:{key}")
        except (RedisError, CircuitOpen, ValueError) as error:  # the latter for a damaged value
            self._outage.begin(error)
        else:
            self._outage.end()
            return shared
        if self.local_windows > MAX_LOCAL_WINDOWS:
            self._local.reset()
        return _hit(self._local, limit, key)


class _SharedStorage(RedisStorage):
    """The storage of `limits` in Redis, whose scripts run on the service's own client.

    Both keys of a client have one hash tag, so they are in one slot of a Redis Cluster.
    """

    def __init__(self, redis: RedisClient, prefix: str) -> None:
        self._redis = redis
        super().__init__("redis://", key_prefix=prefix)

    def get_connection(self, *_: bool, **__: bool) -> ClientOfLimits:
        """Return the client that runs the scripts, instead of one for the URL."""
        return cast("ClientOfLimits", self._redis)


def _hit(storage: RedisStorage | MemoryStorage, limit: Limit, key: str) -> Window:
    passes = storage.acquire_sliding_window_entry(key, limit.amount, limit.seconds)
    counts = Counts(*storage.get_sliding_window(key, limit.seconds))
    return window(limit, counts, passes=passes)


def window(limit: Limit, counts: Counts, *, passes: bool) -> Window:
    """Return the window of a client with these ``counts``."""
    ends_in = max(0.0, counts.current_seconds - limit.seconds)
    before = math.floor(counts.previous * counts.previous_seconds / limit.seconds)
    remaining = limit.amount - before - counts.current
    if remaining > 0 and not passes:  # the window has moved on since it refused the request
        return Window(passes, 0, 1)
    if remaining > 0:
        return Window(passes, remaining, max(1, math.ceil(ends_in)))
    wait = ends_in
    free = limit.amount - counts.current
    if free > 0:  # as soon as less of the previous window counts
        wait = counts.previous_seconds - free * limit.seconds / counts.previous
    return Window(passes, 0, math.floor(wait + ROUNDING) + 1)
