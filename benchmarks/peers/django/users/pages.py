"""The page cache. A write replaces the generation: older pages are read no more."""

import logging
import uuid

from django.core.cache import cache
from django_redis.exceptions import ConnectionInterrupted

log = logging.getLogger(__name__)

GENERATION = "generation"


def look_up(name: str) -> tuple[str | None, bytes | None]:
    """Return generation and body in one round trip; without Redis there is neither."""
    try:
        found = cache.get_many([GENERATION, name])
        generation = found.get(GENERATION)
        if generation is None:
            generation = cache.get_or_set(GENERATION, uuid.uuid4().hex, None)
    except ConnectionInterrupted:
        return None, None
    read_in, body = found.get(name, (None, None))
    return generation, body if read_in == generation else None


def keep(name: str, generation: str | None, body: bytes) -> None:
    """Keep a body; if its generation is over by now, nobody will read it."""
    if generation is not None:
        try:
            cache.set(name, (generation, body))
        except ConnectionInterrupted:
            log.warning("page not stored in the cache")


def invalidate() -> None:
    """Put every page out of date."""
    try:
        cache.set(GENERATION, uuid.uuid4().hex, None)
    except ConnectionInterrupted:
        log.warning("page cache not invalidated")
