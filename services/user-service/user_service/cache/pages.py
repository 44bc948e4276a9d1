"""The page cache: response bodies in Redis that one write makes unreachable, all at once.

Every entry begins with the generation in which its page was read from the database. A page is
served only while its generation is the current one, and every committed write replaces the
current one by another that was never used before. So however many pages there are, invalidating
them is one command; a page read before a write and stored after it is refused by its generation;
and what becomes unreachable is overwritten by the next reader or runs into its TTL.

A generation is random, not counted up: a counter would start again at 1 after a FLUSHALL or an
eviction, and a slow reader could then store an old page under a number that has come back.
"""

import logging
import uuid
from collections.abc import Callable
from enum import StrEnum
from typing import cast

from redis import Redis, RedisError

log = logging.getLogger(__name__)

# The braces keep all keys in one slot of a Redis Cluster, as one command on several keys needs;
# the version is moved on with the format of the body, so that no release serves another's pages.
PREFIX = "users:page:{v1}:"
GENERATION_KEY = PREFIX + "generation"

_STORE_IF_CURRENT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[1] .. ARGV[2], 'EX', ARGV[3])
return 1
"""


class CacheStatus(StrEnum):
    """What the cache did for a request: the value of the ``X-Cache`` header."""

    HIT = "HIT"
    MISS = "MISS"
    BYPASS = "BYPASS"


class PageCache:
    """Bodies of pages, fresh for ``ttl`` seconds at most. Without Redis it lets everything pass.

    An invalidation that failed stops this process from reading the cache until one has succeeded.
    Other processes may meanwhile serve a page from before that write, for ``ttl`` seconds at most.
    """

    def __init__(self, redis: Redis, *, ttl: int) -> None:
        self._redis = redis
        self._ttl = ttl
        self._store_if_current = redis.register_script(_STORE_IF_CURRENT)
        # Counted rather than flagged, so that a failure during a repair is not forgotten.
        self._failed_invalidations = 0
        self._repaired_invalidations = 0

    def get_or_produce(self, name: str, produce: Callable[[], bytes]) -> tuple[bytes, CacheStatus]:
        """Return the body called ``name``, from the cache or else from ``produce``, and store it.

        The name says all that the body depends on, in one spelling.
        """
        key = PREFIX + name
        generation, body = self._lookup(key)
        if body is not None:
            return body, CacheStatus.HIT
        body = produce()
        if generation is None:
            return body, CacheStatus.BYPASS
        self._store(key, generation, body)
        return body, CacheStatus.MISS

    def invalidate(self) -> None:
        """Make every cached page unreachable. Call it when a write has been committed."""
        try:
            self._redis.set(GENERATION_KEY, _new_generation())
        except RedisError as error:
            self._failed_invalidations += 1
            log.warning("page cache not invalidated, reading it stops until it is: %s", error)

    def is_reachable(self) -> bool:
        """Tell whether Redis answers a PING."""
        try:
            return bool(self._redis.ping())
        except RedisError:
            return False

    def close(self) -> None:
        """Close the connections to Redis."""
        self._redis.connection_pool.disconnect()

    def _lookup(self, key: str) -> tuple[bytes | None, bytes | None]:
        """Return the current generation and the body stored in it; None is what there is not."""
        try:
            self._repair()
            # redis-py's types know neither decode_responses=False nor how many keys were asked for.
            found = self._redis.mget(GENERATION_KEY, key)
            generation, entry = cast("tuple[bytes | None, bytes | None]", found)
            if generation is None:
                return self._begin_generation(), None
        except RedisError as error:
            log.warning("page cache bypassed: %s", error)
            return None, None
        if entry is not None and entry.startswith(generation):
            return generation, entry[len(generation) :]
        return generation, None

    def _store(self, key: str, generation: bytes, body: bytes) -> None:
        try:
            if not self._store_if_current([GENERATION_KEY, key], [generation, body, self._ttl]):
                log.info("page cache refused a page that was read before a write")
        except RedisError as error:
            log.warning("page not stored in the cache: %s", error)

    def _begin_generation(self) -> bytes:
        """Set a generation where there is none, and return the one that is then current."""
        new = _new_generation()
        current = self._redis.set(GENERATION_KEY, new, nx=True, get=True)
        return cast("bytes | None", current) or new

    def _repair(self) -> None:
        """Make up for failed invalidations; raise RedisError while that is not possible."""
        failed = self._failed_invalidations
        if failed > self._repaired_invalidations:
            self._redis.set(GENERATION_KEY, _new_generation())
            self._repaired_invalidations = failed
            log.info("page cache invalidated after all, reading it goes on")


def _new_generation() -> bytes:
    return uuid.uuid4().hex.encode()
