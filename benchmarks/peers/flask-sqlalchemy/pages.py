"""The page cache in Redis. A write replaces the generation: older pages are read no more."""

import uuid

from redis import Redis
from redis.exceptions import RedisError

PREFIX = "flask-sqlalchemy:page:"
GENERATION_KEY = PREFIX + "generation"
GENERATION_LENGTH = 32
TTL = 60


class Pages:
    """Bodies of pages by name, each kept behind the generation that it was read in."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def look_up(self, name: str) -> tuple[bytes | None, bytes | None]:
        """Return generation and body in one round trip; without Redis there is neither."""
        try:
            generation, entry = self._redis.mget(GENERATION_KEY, PREFIX + name)
            if generation is None:
                generation = self._begin()
        except RedisError:
            return None, None
        if entry is None or not entry.startswith(generation):
            return generation, None
        return generation, entry[GENERATION_LENGTH:]

    def keep(self, name: str, generation: bytes | None, body: bytes) -> None:
        """Keep a body; if its generation is over by now, nobody will read it."""
        if generation is not None:
            try:
                self._redis.set(PREFIX + name, generation + body, ex=TTL)
            except RedisError:
                return

    def invalidate(self) -> None:
        """Put every page out of date."""
        try:
            self._redis.set(GENERATION_KEY, uuid.uuid4().hex)
        except RedisError:
            return

    def _begin(self) -> bytes:
        new = uuid.uuid4().hex.encode()
        return self._redis.set(GENERATION_KEY, new, nx=True, get=True) or new
