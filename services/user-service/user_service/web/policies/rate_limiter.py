"""Counting a client's requests: in Redis, for all processes together, and here while it is away.

Windows slide (limits' "sliding window counter"): what was counted in the window before still
counts, by the share of it that is not over yet. So nobody gets two windows' worth of requests by
asking at the end of one and the beginning of the next, and it takes two numbers a client, however
high the limit, where an exact log of its requests would take one entry a request.

While Redis is away each process allows the whole limit, not its share: a client that keeps one
connection is served by one process, and must not be refused at a fraction of its limit. Others may
get up to the number of processes times as much, which still holds a flood off the database.
"""

import logging
import math
from dataclasses import dataclass
from typing import NamedTuple, Self, cast

import limits
from limits.storage import MemoryStorage, RedisStorage
from redis import Redis, RedisError

from user_service.errors import CircuitOpen
from user_service.resilience.breaker import CircuitBreaker

log = logging.getLogger(__name__)

PREFIX = "users:limit:"
# Beyond this many windows those of this process are forgotten, and all clients begin anew: limits
# goes through all of them up to a hundred times a second, 0.7 ms for 10,000, 19 ms for 100,000.
MOST_LOCAL_WINDOWS = 10_000
# In seconds: what rounding to milliseconds, here and in Redis, may make a wait too short.
ROUNDING = 0.01

# limits' own two scripts, run as one, since it would count in one round trip to Redis and read
# where the client stands in a second: 52 us instead of 108.
_HIT_AND_READ = b"""
local passes = (function()
%b
end)()
local window = (function(ARGV)
%b
end)({ARGV[2]})
return {passes and 1 or 0, unpack(window)}
""" % (RedisStorage.SCRIPT_ACQUIRE_SLIDING_WINDOW, RedisStorage.SCRIPT_SLIDING_WINDOW)


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests (``amount``) in so many ``seconds``; clients see it by its ``name``."""

    name: str
    amount: int
    seconds: int

    @classmethod
    def parsed(cls, name: str, text: str) -> Self:
        """Return the limit that ``text`` tells, like ``600/minute``."""
        item = limits.parse(text)
        return cls(name, item.amount, item.get_expiry())


@dataclass(frozen=True, slots=True)
class Window:
    """Where a client stands, this request included.

    ``remaining`` requests may follow in the next ``seconds``; if none, one may after them.
    """

    passes: bool
    remaining: int
    seconds: int


class Counts(NamedTuple):
    """What limits has counted of a client, in the window before and in this one.

    ``previous_seconds`` is how long the former still counts; ``current_seconds`` how long the
    latter does, which is a whole window longer than it lasts.
    """

    previous: int
    previous_seconds: float
    current: int
    current_seconds: float


class RateLimiter:
    """Counts requests, in no more than one round trip each. Never raises for want of Redis."""

    def __init__(self, redis: Redis, breaker: CircuitBreaker) -> None:
        """``breaker`` is the one of Redis: once it is open, Redis costs nothing."""
        self._hit_and_read = redis.register_script(_HIT_AND_READ)
        self._breaker = breaker
        # Made now, not by the first who needs it: it starts a thread, during which a second would
        # make another one, and what is counted in the one is unknown in the other.
        self._local = MemoryStorage()

    def hit(self, limit: Limit, client: str) -> Window:
        """Count a request of ``client``, and tell whether it passes; a refused one counts not."""
        # The braces keep both of a client's numbers in one slot of a Redis Cluster.
        key = f"{PREFIX}{{{limit.name}:{limit.amount}/{limit.seconds}:{client}}}"
        try:
            with self._breaker.calling():
                answer = self._hit_and_read([f"{key}/-1", key], [limit.amount, limit.seconds, 1])
        except (RedisError, CircuitOpen) as error:
            log.debug("rate limit counted in this process: %s", error)
            return self._hit_locally(limit, key)
        # A number of requests is None where nothing was counted, and bytes else.
        passes, *numbers = (int(each or 0) for each in cast("list[bytes | int | None]", answer))
        before, before_ms, now, now_ms = numbers
        return window(limit, bool(passes), Counts(before, before_ms / 1000, now, now_ms / 1000))

    def _hit_locally(self, limit: Limit, key: str) -> Window:
        if len(self._local.storage) > MOST_LOCAL_WINDOWS:
            self._local.reset()
        passes = self._local.acquire_sliding_window_entry(key, limit.amount, limit.seconds)
        counts = Counts(*self._local.get_sliding_window(key, limit.seconds))
        return window(limit, passes, counts)


def window(limit: Limit, passes: bool, counts: Counts) -> Window:  # noqa: FBT001
    """Return where a client with these ``counts`` stands."""
    ends_in = max(0.0, counts.current_seconds - limit.seconds)
    before = math.floor(counts.previous * counts.previous_seconds / limit.seconds)
    remaining = limit.amount - before - counts.current
    if remaining > 0:
        return Window(passes, remaining, max(1, math.ceil(ends_in)))
    wait = ends_in
    free = limit.amount - counts.current
    if free > 0:  # then it is enough that less of the window before counts
        wait = counts.previous_seconds - free * limit.seconds / counts.previous
    return Window(passes, 0, math.floor(wait + ROUNDING) + 1)
