"""The page cache: when bodies of pages are served from Redis, and what happens without it.

It fails open: whatever goes wrong with Redis, the page is read from the database.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum

from user_service.cache.page_store import Found, PageStore, RedisFailure, Refill
from user_service.cache.single_flight import SingleFlight
from user_service.cache.write_behind import WriteBehind
from user_service.errors import Unavailable
from user_service.observability import server_timing
from user_service.observability.metrics import Metrics
from user_service.resilience import deadline
from user_service.resilience.breaker import State

log = logging.getLogger(__name__)

# Reads a page from the database. Its argument is the log position that a replica must have
# replayed to be read from; None allows the primary only.
Produce = Callable[[int | None], bytes]

# Seconds before the first attempt to make up for an invalidation that failed; each further pause
# is twice as long, up to the second number.
REPAIR_INTERVAL = 0.2
REPAIR_INTERVAL_MAX = 2.0
# The longest, in seconds, that a page is awaited which another process refills, and how often it
# is looked for.
WAIT_FOR_CLAIM = 0.5
CLAIM_POLL_INTERVAL = 0.01


class CacheStatus(StrEnum):
    """What the cache did for a request: the value of the ``X-Cache`` header."""

    HIT = "HIT"
    MISS = "MISS"
    BYPASS = "BYPASS"
    STALE = "STALE"


class PageCache:
    """Bodies of pages, by name. A name says all that its body depends on, in one spelling.

    An invalidation that failed stops this process from reading the cache until one has succeeded,
    which it tries in the background. Other processes may meanwhile serve a page from before that
    write, for the store's ``ttl`` at most.
    """

    def __init__(
        self,
        store: PageStore,
        *,
        current_lsn: Callable[[], int] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        metrics: Metrics | None = None,
    ) -> None:
        """``current_lsn`` asks the primary how far it is; it is for those who have a replica."""
        self._store = store
        self._metrics = (metrics or Metrics()).cache
        self._current_lsn = current_lsn
        self._sleep = sleep
        self._clock = clock
        self._refills: SingleFlight[tuple[str, bytes], bytes] = SingleFlight()
        self._stores = WriteBehind(self._store_all)
        # Counted rather than flagged, so that a failure during a repair is not forgotten.
        self._failed_invalidations = 0
        self._repaired_invalidations = 0
        self._repairing = threading.Lock()
        self._closed = threading.Event()

    @property
    def breaker_state(self) -> State:
        """Whether Redis is asked at the moment."""
        return self._store.breaker.state

    def look_up(self, name: str) -> Found | None:
        """Return what the cache has of the page called ``name``; None if it is not read now.

        What is not found is for ``get_or_produce`` to make up for.
        """
        if self._is_unrepaired():
            return None
        try:
            found = self._store.look_up(name)
            if found.body is None:
                return self._settled(found)
        except RedisFailure as error:
            log.warning("page cache bypassed: %s", error)
            return None
        self._metrics.hit.inc()
        return found

    def get_or_produce(
        self,
        name: str,
        produce: Produce,
        look_up: Callable[[str], Found | None] | None = None,
    ) -> tuple[bytes, CacheStatus]:
        """Return the body called ``name``, from the cache or else from ``produce``, and store it.

        Of requests that miss the same page in the same generation, one calls ``produce``, in
        this process and, as long as Redis is there, in all. Another generation is another flight:
        whoever comes after a write must not get what was read before it.

        ``look_up`` is for a caller who may have looked already, and stands for that of the cache.
        """
        found = (look_up or self.look_up)(name)
        if found is None:
            self._metrics.bypass.inc()
            return produce(None), CacheStatus.BYPASS
        if found.body is not None:
            return found.body, CacheStatus.HIT
        self._metrics.miss.inc()
        body = self._refills.run(
            (name, found.generation), lambda: self._refill(name, found, produce)
        )
        return body, CacheStatus.MISS

    def position(self) -> int | None:
        """Return the log position that covers every acknowledged write; None if it is unknown.

        Without a replica the answer is None, and Redis is not asked.
        """
        if self._current_lsn is None or self._is_unrepaired():
            return None
        try:
            return self._settled(self._store.current()).lsn
        except RedisFailure:
            return None

    def stale(self, name: str) -> bytes | None:
        """Return the last body called ``name`` that is still kept, current or not."""
        try:
            body = self._store.look_up_stale(name)
        except RedisFailure:
            return None
        if body is not None:
            self._metrics.stale.inc()
        return body

    def invalidate(self) -> None:
        """Put every cached page out of date. Call it when a write has been committed."""
        try:
            self._store.move_on(self._primary_lsn())
        except RedisFailure as error:
            self._failed_invalidations += 1
            self._metrics.failed_invalidations.inc()
            log.warning("page cache not invalidated, reading it stops until it is: %s", error)
            self._repair_in_background()

    def is_reachable(self) -> bool:
        """Tell whether Redis answers a PING."""
        try:
            self._store.ping()
        except RedisFailure:
            return False
        return True

    def flush(self) -> None:
        """Return when all pages that have been produced are stored, or could not be."""
        self._stores.flush()

    def close(self) -> None:
        """Stop repairing, store what is still to be stored, and close the connections to Redis."""
        self._closed.set()
        self._stores.close()
        self._store.close()

    def _primary_lsn(self) -> int | None:
        """Return the position of the primary, where there is a replica and the primary answers."""
        if self._current_lsn is None:
            return None
        try:
            return self._current_lsn()
        except Unavailable:
            return None

    def _settled(self, found: Found) -> Found:
        """Return ``found`` with its position known, where that is wanted and can be had."""
        lsn = None if found.lsn is not None else self._primary_lsn()
        if lsn is None:
            return found
        settled = self._store.settle(found.generation, lsn)
        return settled._replace(is_ours=found.is_ours or not settled.is_as_old_as(found))

    def _refill(self, name: str, missed: Found, produce: Produce) -> bytes:
        try:
            found = missed if missed.is_ours else self._wait_for_other_process(name, missed)
        except RedisFailure as error:
            log.warning("page cache bypassed: %s", error)
            return produce(missed.lsn)
        if found.body is not None:
            return found.body
        try:
            body = produce(missed.lsn)
        except BaseException:
            if found.is_ours:
                with suppress(RedisFailure):
                    self._store.give_back(name)
            raise
        is_to_be_stored = self._keep(Refill(name, missed.generation, body))
        if found.is_ours and not is_to_be_stored:
            with suppress(RedisFailure):
                self._store.give_back(name)
        return body

    def _wait_for_other_process(self, name: str, missed: Found) -> Found:
        """Return the page as soon as it is there, or its claim if that is over before.

        Return what was missed when neither came in time.
        """
        ended = self._clock() + min(WAIT_FOR_CLAIM, deadline.remaining() / 2)
        while self._clock() < ended:
            self._sleep(CLAIM_POLL_INTERVAL)
            found = self._store.look_up(name)
            if found.body is not None:
                return found
            if found.is_ours:
                if found.is_as_old_as(missed):
                    return found
                self._store.give_back(name)  # it is for those who come now
                break
        return missed

    def _keep(self, refill: Refill) -> bool:
        """Let this process find the page from now on, and the others as soon as it is stored.

        Until then those have its claim to wait by, as they had while it was read. Return whether it
        will be stored.
        """
        self._store.keep_copy(refill)
        is_to_be_stored = self._stores.put(refill)
        if not is_to_be_stored:
            log.warning("page not stored in the cache: no more can be taken now")
        return is_to_be_stored

    def _store_all(self, refills: Sequence[Refill]) -> None:
        server_timing.end()  # no request waits for it
        try:
            refused = len(refills) - self._store.store(refills)
        except RedisFailure as error:
            log.warning("%d pages not stored in the cache: %s", len(refills), error)
            return
        if refused:
            self._metrics.refused.inc(refused)
            log.info(
                "page cache refused %d of %d pages, read before a write", refused, len(refills)
            )

    def _is_unrepaired(self) -> bool:
        return self._failed_invalidations > self._repaired_invalidations

    def _repair_in_background(self) -> None:
        if self._repairing.acquire(blocking=False):
            threading.Thread(target=self._repair, name="page-cache-repair", daemon=True).start()

    def _repair(self) -> None:
        pause = REPAIR_INTERVAL
        try:
            while self._is_unrepaired():
                if self._closed.wait(pause):
                    return
                pause = min(2 * pause, REPAIR_INTERVAL_MAX)
                failed = self._failed_invalidations
                try:
                    self._store.insist_on_moving_on()
                except RedisFailure:
                    continue
                self._repaired_invalidations = failed
                log.info("page cache invalidated after all, reading it goes on")
        finally:
            self._repairing.release()
        if self._is_unrepaired():  # one failed after the last look, and found us repairing still
            self._repair_in_background()
