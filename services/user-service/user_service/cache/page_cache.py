"""The policy of the page cache: when a page comes from Redis, and the behaviour without Redis.

The cache fails open: whatever goes wrong with Redis, the page is read from the database.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from functools import partial
from typing import NamedTuple

from user_service.cache.page_store import LookUp, PageStore, RedisFailure, RedisRefusal
from user_service.cache.single_flight import SingleFlight
from user_service.observability.metrics import Metrics
from user_service.observability.outage import Outage
from user_service.resilience import deadline

log = logging.getLogger(__name__)

# Seconds before an invalidation that failed is tried again; each pause is twice the one before.
REPAIR_INTERVAL = 0.2
REPAIR_INTERVAL_MAX = 2.0
# Seconds: the longest wait for another process's refill, and the pause between two looks for it.
WAIT_FOR_CLAIM = 0.5
CLAIM_POLL_INTERVAL = 0.01

# Reads a page from the database. Its argument is the log position (LSN) that a replica must have
# replayed to be read from; None allows the primary only.
Produce = Callable[[int | None], bytes]


class CacheStatus(StrEnum):
    """What the cache did for a request: the value of the ``X-Cache`` header."""

    HIT = "HIT"
    MISS = "MISS"
    BYPASS = "BYPASS"
    STALE = "STALE"


class CacheHealth(NamedTuple):
    """Whether Redis answers, and whether the cache works.

    It works if Redis permits all of its commands, and no invalidation has to be repeated.
    """

    is_connected: bool
    works: bool


class PageCache:
    """Bodies of pages by name. A name spells out everything that the body depends on.

    While an invalidation has failed, this process does not read the cache; it repeats the
    invalidation in the background until it succeeds. Other processes may serve an older page
    until then, for the store's ``ttl`` at most.
    """

    def __init__(
        self,
        store: PageStore,
        *,
        current_lsn: Callable[[], int | None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        metrics: Metrics | None = None,
    ) -> None:
        """``current_lsn`` returns the primary's log position, or None if it is unknown.

        Without a replica there is no such function.
        """
        self.store = store
        self._metrics = metrics or Metrics()
        self._current_lsn = current_lsn
        self._sleep = sleep
        self._clock = clock
        self._refills: SingleFlight[tuple[str, bytes], bytes] = SingleFlight()
        self._read_outage = Outage("page cache bypassed", "page cache read again")
        self._store_outage = Outage(
            "pages not stored in the cache", "pages stored in the cache again"
        )
        # A number instead of a flag: a failure during a repair must not be forgotten.
        self._unrepaired = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def open(self) -> None:
        """Log the reason if Redis cannot be used; requests then do without it, and try again."""
        try:
            self.store.check()
        except RedisFailure as error:
            log.warning("starting without Redis: %s", error)

    def health(self) -> CacheHealth:
        """Ask Redis whether the cache works."""
        try:
            self.store.check()
        except RedisFailure as error:
            return CacheHealth(isinstance(error, RedisRefusal), works=False)
        return CacheHealth(is_connected=True, works=not self._unrepaired)

    def get_or_produce(self, name: str, produce: Produce) -> tuple[bytes, CacheStatus]:
        """Return the page called ``name`` from the cache, or else produce and store it.

        Of concurrent misses of one page in one generation, one request of this process calls
        ``produce``, and usually one of all processes: each waits a short time for another's page. A
        request that begins after a write finds another generation and never joins a read from
        before it.
        """
        found = self._look_up(name)
        if found is None:
            body = produce(None)
            self._metrics.pages_bypassed.inc()
            return body, CacheStatus.BYPASS
        if found.body is not None:
            self._metrics.pages_hit.inc()
            return found.body, CacheStatus.HIT
        refill = partial(self._refill, name, found, produce)
        body = self._refills.run((name, found.generation), refill)
        self._metrics.pages_missed.inc()
        return body, CacheStatus.MISS

    def required_lsn(self) -> int | None:
        """Return the log position that covers every acknowledged write; None if it is unknown.

        Without a replica the answer is None, and Redis is not asked.
        """
        if self._current_lsn is None or self._unrepaired:
            return None
        try:
            return self._settled(self.store.current()).lsn
        except RedisFailure:
            return None

    def stale(self, name: str) -> bytes | None:
        """Return the last stored page called ``name``, current or not; None if there is none."""
        try:
            body = self.store.look_up_stale(name)
        except RedisFailure:
            return None
        if body is not None:
            self._metrics.pages_stale.inc()
        return body

    def invalidate(self) -> None:
        """Put every cached page out of date. Call it after each write that may be committed."""
        lsn = None if self._current_lsn is None else self._current_lsn()
        try:
            self.store.replace_generation(lsn)
        except RedisFailure as error:
            self._metrics.failed_invalidations.inc()
            with self._lock:
                self._unrepaired += 1
                begins = self._unrepaired == 1
            if begins:
                log.warning("page cache not invalidated, reading it stops until it is: %s", error)
                threading.Thread(target=self._repair, name="page-cache-repair", daemon=True).start()

    def close(self) -> None:
        """Stop repairing and close the connections to Redis."""
        self._closed.set()
        self.store.close()

    def _look_up(self, name: str) -> LookUp | None:
        """Return what the store has; None if the cache cannot be read at the moment."""
        if self._unrepaired:
            return None
        try:
            found = self.store.look_up(name)
            if found.body is None:
                found = self._settled(found)
        except RedisFailure as error:
            self._read_outage.begin(error)
            return None
        if self._read_outage.lasts:
            self._read_outage.end()
        return found

    def _settled(self, found: LookUp) -> LookUp:
        """Return ``found`` with its log position known, where a replica needs it."""
        if self._current_lsn is None or found.lsn is not None:
            return found
        lsn = self._current_lsn()
        if lsn is None:
            return found
        settled = self.store.settle(found.generation, lsn)
        # A claim on the page was made in the generation that was found.
        return settled if settled.generation != found.generation else found._replace(lsn=lsn)

    def _refill(self, name: str, missed: LookUp, produce: Produce) -> bytes:
        try:
            found = missed if missed.claimed else self._wait_for_other_process(name, missed)
        except RedisFailure as error:
            self._read_outage.begin(error)
            return produce(missed.lsn)
        if found.body is not None:
            return found.body
        try:
            body = produce(found.lsn)
        except BaseException:
            if found.claimed:
                with suppress(RedisFailure):
                    self.store.give_back(name)
            raise
        self._keep(name, found.generation, body)
        return body

    def _wait_for_other_process(self, name: str, missed: LookUp) -> LookUp:
        """Return the page when another process has stored it, or its claim once it has ended.

        Return ``missed`` if neither comes in time.
        """
        ends_at = self._clock() + min(WAIT_FOR_CLAIM, deadline.remaining() / 2)
        while self._clock() < ends_at:
            self._sleep(CLAIM_POLL_INTERVAL)
            found = self.store.look_up(name)
            if found.body is not None:
                return found
            if found.claimed:
                if found.generation == missed.generation:
                    return found._replace(lsn=missed.lsn)
                # This request read its generation before a write; the claim is for later ones.
                self.store.give_back(name)
                break
        return missed

    def _keep(self, name: str, generation: bytes, body: bytes) -> None:
        try:
            is_stored = self.store.store(name, generation, body)
        except RedisFailure as error:
            self._store_outage.begin(error)
            return
        if self._store_outage.lasts:
            self._store_outage.end()
        if not is_stored:
            self._metrics.stores_refused.inc()
            log.info("page cache refused a page that was read before a write")

    def _repair(self) -> None:
        """Invalidate all pages, however long it takes to succeed.

        An attempt repairs the failures from before it; a failure during it needs another attempt.
        """
        pause = REPAIR_INTERVAL
        while not self._closed.wait(pause):
            pause = min(2 * pause, REPAIR_INTERVAL_MAX)
            failed = self._unrepaired
            with suppress(RedisFailure):
                self.store.replace_generation(despite_open_breaker=True)
                with self._lock:
                    self._unrepaired -= failed
                    ends = not self._unrepaired
                if ends:
                    log.info("page cache invalidated after all, reading it goes on")
                    return
