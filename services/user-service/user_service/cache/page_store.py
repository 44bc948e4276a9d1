"""The commands of the page cache: pages in Redis, each bound to the generation it was read in.

A page is current only while its generation is. Every committed write replaces the generation by a
new random one, so invalidating all pages is one command, and a page that was read before a write
cannot be stored after it. A counter would not do: after a FLUSHALL it would start again at 1, and
a slow reader could store an old page under a number that has come back.

Redis replicates asynchronously, so a promoted replica may hold an earlier generation. Such a
server has a new replication id, its *history*. The history that the generation belongs to is
stored beside it; on every new connection it is compared with the server's own, and a difference
begins a new generation.

With a replica of the database, the log position (LSN) that the replica must have replayed is
stored beside the generation too. An empty position is unknown: it stays unknown until a reader has
asked the primary.

Every method raises ``RedisFailure`` when Redis does not answer, refuses, or is not asked because
the circuit breaker is open.
"""

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import NamedTuple

from redis import RedisError
from redis import exceptions as redis_errors

from user_service.cache.redis_client import RedisClient
from user_service.domain.user import USER_MEMBERS
from user_service.errors import CircuitOpen
from user_service.observability.metrics import Metrics
from user_service.observability.server_timing import stage
from user_service.resilience.batcher import Batcher
from user_service.resilience.breaker import CircuitBreaker

# The braces keep all keys in one slot of a Redis Cluster: a script works on several of them.
# The number belongs to the format of pages, the digest to the members of users in them. The
# generation outlives both, so that two releases with different pages see each other's writes.
PREFIX = "users:{pages}:"
_MEMBERS = hashlib.blake2b(repr(USER_MEMBERS).encode(), digest_size=4).hexdigest()
PAGE_PREFIX = f"{PREFIX}v4-{_MEMBERS}:"
GENERATION_KEY = PREFIX + "generation"
HISTORY_KEY = PREFIX + "history"
LSN_KEY = PREFIX + "lsn"
GENERATION_LENGTH = 32
TIME_LENGTH = 10
BODY_AT = GENERATION_LENGTH + TIME_LENGTH
# How long one process keeps the others from refilling the same page.
CLAIM_MILLISECONDS = 2000
CLAIM_SUFFIX = ":refill"

# A claim is the generation and the process that refills the page. Without room for claims (OOM)
# every process reads the page itself.
_LOOK_UP_OR_CLAIM = f"""
local now, ttl, claim_ms, process = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local answer = redis.call('MGET', unpack(KEYS))
local generation = answer[2]
if not generation then return answer end
local mine = generation .. process
for i = 4, #KEYS, 2 do
  local page, claim = answer[i], answer[i + 1]
  local is_current = page
    and string.sub(page, 1, {GENERATION_LENGTH}) == generation
    and math.abs(now - string.sub(page, {GENERATION_LENGTH + 1}, {BODY_AT})) < ttl
  local is_anothers = claim and claim ~= mine
    and string.sub(claim, 1, {GENERATION_LENGTH}) == generation
  local is_ours = not is_current and not is_anothers
  if is_ours then
    local result = redis.pcall('SET', KEYS[i + 1], mine, 'PX', claim_ms)
    if result.err and not string.find(result.err, 'OOM') then return result end
  end
  answer[i] = is_current and page
  answer[i + 1] = is_ours and 1 or 0
end
return answer
"""

_STORE_IF_CURRENT = """
local ttl, generation, process, entry = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('GET', KEYS[3]) == generation .. process then redis.call('DEL', KEYS[3]) end
if redis.call('GET', KEYS[1]) ~= generation then return 0 end
redis.call('SET', KEYS[2], entry, 'EX', ttl)
return 1
"""

# Hexadecimal numbers of one length compare as strings. A position only grows, and an unknown one
# stays unknown: a write that knows its own position says nothing about the one before it.
_MOVE_ON_TO = """
redis.call('SET', KEYS[1], ARGV[1])
local lsn = redis.call('GET', KEYS[2])
if lsn and lsn ~= '' and lsn < ARGV[2] then redis.call('SET', KEYS[2], ARGV[2]) end
"""

_SETTLE_IF_CURRENT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
return 1
"""

_CONFIRM_HISTORY = """
local history = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if redis.call('GET', KEYS[1]) ~= history then
  redis.call('SET', KEYS[1], history)
  redis.call('DEL', KEYS[2], KEYS[3])
end
return history
"""


class RedisFailure(Exception):
    """Redis did not answer, refused the command, or was not asked: its breaker is open."""


class Found(NamedTuple):
    """The current generation and, if it is current and fresh, the page's body.

    ``lsn`` is the log position a replica must have replayed; None if it is unknown. Without a
    body, ``is_ours`` tells whether this process has claimed the refill of the page.
    """

    generation: bytes
    lsn: int | None = None
    body: bytes | None = None
    is_ours: bool = True


class PageStore:
    """Pages in Redis: fresh for ``ttl`` seconds, kept for ``stale_ttl`` seconds.

    ``clock`` returns the seconds since 1970. Ages are compared between processes, so clocks that
    differ make a page fresh for longer by the difference, and for 2 x ``ttl`` at most.
    """

    def __init__(
        self,
        redis: RedisClient,
        *,
        ttl: int,
        stale_ttl: int,
        clock: Callable[[], float] = time.time,
        metrics: Metrics | None = None,
    ) -> None:
        self._redis = redis
        self._ttl = ttl
        self._stale_ttl = stale_ttl
        self._clock = clock
        self._look_up_or_claim = redis.register_script(_LOOK_UP_OR_CLAIM)
        self._store_if_current = redis.register_script(_STORE_IF_CURRENT)
        self._move_on_to = redis.register_script(_MOVE_ON_TO)
        self._settle_if_current = redis.register_script(_SETTLE_IF_CURRENT)
        self._confirm_history = redis.register_script(_CONFIRM_HISTORY)
        # The number of connections made when the history was last confirmed, and that history.
        self._confirmed: tuple[int, bytes] = (-1, b"")
        self._name = uuid.uuid4().hex
        # An error that Redis answers is an answer; only silence counts as a failure.
        self.breaker = CircuitBreaker(
            "Redis",
            failures=(redis_errors.ConnectionError, redis_errors.TimeoutError),
            threshold=3,
            on_change=(metrics or Metrics()).resilience.breaker_listener("redis"),
        )

    def look_up(self, name: str) -> Found:
        """Return the generation, begun if there was none, and the page or a claim on it.

        A claim ends with ``store`` or ``give_back``.
        """
        return self.look_up_many({name})[name]

    def look_up_many(self, names: Set[str]) -> dict[str, Found]:
        """Return the same for several pages, in one round trip."""
        with self._asking():
            # The second look-up follows if the first one had to begin a generation.
            found = self._current(names) or self._current(names)
            return found or dict.fromkeys(names, Found(_new_generation()))

    def position(self) -> Found:
        """Return the generation and its log position, without a page."""
        with self._asking():
            return self._current_position() or self._current_position() or Found(_new_generation())

    def look_up_stale(self, name: str) -> bytes | None:
        """Return the stored body of any generation that is at most ``stale_ttl`` seconds old."""
        with self._asking():
            entry = self._redis.get(PAGE_PREFIX + name)
        if entry is None:
            return None
        age = abs(self._clock() - int(entry[GENERATION_LENGTH:BODY_AT]))
        return entry[BODY_AT:] if age < self._stale_ttl else None

    def store(self, name: str, generation: bytes, body: bytes) -> bool:
        """Store a page unless its generation is over, and end our claim on it.

        Return whether the page was stored.
        """
        entry = b"%b%0*d%b" % (generation, TIME_LENGTH, int(self._clock()), body)
        page = PAGE_PREFIX + name
        keys = [GENERATION_KEY, page, page + CLAIM_SUFFIX]
        ttl = max(self._ttl, self._stale_ttl)
        with self._asking():
            return bool(self._store_if_current(keys, [ttl, generation, self._process(), entry]))

    def give_back(self, name: str) -> None:
        """End our claim on a page that was not stored."""
        with self._asking():
            self._redis.delete(PAGE_PREFIX + name + CLAIM_SUFFIX)

    def move_on(self, lsn: int | None = None) -> None:
        """Begin a new generation: every page stored so far is out of date.

        ``lsn`` is the log position that a replica must have replayed from now on, if it is known.
        """
        with self._asking():
            self._begin_generation(lsn)

    def insist_on_moving_on(self) -> None:
        """Begin a new generation even while the breaker is open.

        Other processes may be reading from a Redis that did not answer this one.
        """
        try:
            self._begin_generation(None)
        except RedisError as error:
            raise RedisFailure(error) from error

    def settle(self, generation: bytes, lsn: int) -> Found:
        """Return ``generation`` with its position set to ``lsn``, or the generation after it.

        ``lsn`` must have been asked for after ``generation`` was read. Then every write that had
        ended before is covered, and a write that ended later has replaced the generation.
        """
        with self._asking():
            if self._settle_if_current([GENERATION_KEY, LSN_KEY], [generation, _hex(lsn)]):
                return Found(generation, lsn)
        return self.position()

    def ping(self) -> None:
        """Return if Redis answers, even while the breaker is open.

        GET instead of PING: in a cluster it asks the node that has the keys.
        """
        try:
            self._redis.get(GENERATION_KEY)
        except RedisError as error:
            raise RedisFailure(error) from error

    def close(self) -> None:
        """Close the connections to Redis."""
        self._redis.close()

    def _current(self, names: Set[str]) -> dict[str, Found] | None:
        """Return what Redis has; None where a generation had to be begun first."""
        keys = [HISTORY_KEY, GENERATION_KEY, LSN_KEY]
        for name in names:
            keys += PAGE_PREFIX + name, PAGE_PREFIX + name + CLAIM_SUFFIX
        history, generation, lsn, *pages = self._look_up_or_claim(
            keys, [int(self._clock()), self._ttl, CLAIM_MILLISECONDS, self._process()]
        )
        if not self._ensure_begun(history, generation):
            return None
        position = int(lsn, 16) if lsn else None
        return {
            name: Found(generation, position, entry and entry[BODY_AT:], bool(is_ours))
            for name, entry, is_ours in zip(names, pages[::2], pages[1::2], strict=True)
        }

    def _current_position(self) -> Found | None:
        keys = [HISTORY_KEY, GENERATION_KEY, LSN_KEY]
        history, generation, lsn = self._redis.mget(keys)
        if not self._ensure_begun(history, generation) or generation is None:
            return None
        return Found(generation, int(lsn, 16) if lsn else None)

    def _ensure_begun(self, history: bytes | None, generation: bytes | None) -> bool:
        """Return True if there is a generation of this server; if not, begin one."""
        connections = self._redis.connections_made
        is_confirmed = (connections, history) == self._confirmed
        if not is_confirmed:
            confirmed: bytes = self._confirm_history([HISTORY_KEY, GENERATION_KEY, LSN_KEY])
            self._confirmed = (connections, confirmed)
            is_confirmed = history == confirmed
        if is_confirmed and generation is not None:
            return True
        self._redis.set(GENERATION_KEY, _new_generation(), nx=True)
        return False

    def _begin_generation(self, lsn: int | None) -> None:
        if lsn is None:
            self._redis.mset({GENERATION_KEY: _new_generation(), LSN_KEY: b""})
        else:
            self._move_on_to([GENERATION_KEY, LSN_KEY], [_new_generation(), _hex(lsn)])

    def _process(self) -> str:
        """Return a name of this process that a forked child does not share."""
        return f"{self._name}-{os.getpid()}"

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            with stage("cache"), self.breaker.calling():
                yield
        except (RedisError, CircuitOpen) as error:
            raise RedisFailure(error) from error


class BatchingPageStore(PageStore):
    """Pages in Redis; concurrent look-ups share a round trip."""

    def __init__(
        self,
        redis: RedisClient,
        *,
        ttl: int,
        stale_ttl: int,
        clock: Callable[[], float] = time.time,
        metrics: Metrics | None = None,
    ) -> None:
        super().__init__(redis, ttl=ttl, stale_ttl=stale_ttl, clock=clock, metrics=metrics)
        self._look_ups: Batcher[str, Found] = Batcher(self.look_up_many)

    def look_up(self, name: str) -> Found:
        """Return the generation, begun if there was none, and the page or a claim on it."""
        found = self._look_ups.get(name)
        assert found is not None, "look_up_many() answers every name"  # noqa: S101
        return found


def _new_generation() -> bytes:
    return uuid.uuid4().hex.encode()


def _hex(lsn: int) -> bytes:
    return b"%016x" % lsn
