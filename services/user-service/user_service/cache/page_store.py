"""What the page cache keeps in Redis, and the commands for it. All of them raise ``RedisFailure``.

Every entry begins with the generation in which its page was read from the database. A page is
current only while its generation is; every committed write replaces the generation by another
that was never used before. So however many pages there are, invalidating them is one command; a
page read before a write and stored after it is refused by its generation; and what is out of date
is overwritten by the next reader or runs into its TTL.

A generation is random, not counted up: a counter would start again at 1 after a FLUSHALL or an
eviction, and a slow reader could then store an old page under a number that has come back.

Where there is a replica of the database, a generation begins with the position in the log (LSN)
that a replica must have replayed to show all writes up to now. Writes that finish at once move a
generation on in any order, so the position only ever grows; where Redis has lost it, it is not
known, which is more than every position, until a reader has asked the primary.

What Redis has acknowledged it may still lose: replication is asynchronous, so a promoted replica
may hold the generation before the last, and so may a server that comes back with an older dump.
Such a server has begun a new *history* (its replication id). Beside the generation stands the
history that it belongs to; whenever another server than before may answer, a reader compares that
with the server's own, and begins a new generation where they differ.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from redis import RedisError
from redis import exceptions as redis_errors

from user_service.cache.client import RedisClient
from user_service.errors import CircuitOpen
from user_service.observability.metrics import Metrics
from user_service.observability.server_timing import stage
from user_service.recent import Recent
from user_service.resilience.breaker import CircuitBreaker

# The braces keep all keys in one slot of a Redis Cluster, as one command on several keys needs;
# the version is moved on with the format of entries, so that no release serves another's pages.
PREFIX = "users:page:{v3}:"
GENERATION_KEY = PREFIX + "generation"
HISTORY_KEY = PREFIX + "history"
LSN_LENGTH = 16
GENERATION_LENGTH = LSN_LENGTH + 32
TIME_LENGTH = 10
BODY_AT = GENERATION_LENGTH + TIME_LENGTH
UNKNOWN_LSN = b"f" * LSN_LENGTH
GENERATION_ALONE = ""  # no page is called so

# Seconds for which a process may keep the others from refilling a page that it refills itself.
CLAIM_SECONDS = 2.0

# Pages that a process has copies of: those of 100 users, of 17 KB, take 2 MB.
COPIES = 128

# A claim is of a process, in which those who miss the same page wait for each other anyway. And it
# is by what is random in a generation, since its position may be settled meanwhile. For each page
# there are two answers: itself if it is current, and 1 if it is not and nobody else has claimed it.
# Without room for claims everybody reads.
_LOOK_UP_OR_CLAIM = f"""
local now, ttl, claim_ms, process = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local found = redis.call('MGET', unpack(KEYS))
local generation = found[2]
if not generation then return found end
local token = string.sub(generation, {LSN_LENGTH + 1})
for i = 3, #KEYS, 2 do
  local page, claim = found[i], found[i + 1]
  local is_current = page
    and string.sub(page, 1, {GENERATION_LENGTH}) == generation
    and math.abs(now - string.sub(page, {GENERATION_LENGTH + 1}, {BODY_AT})) < ttl
  local is_anothers = claim and claim ~= token .. process and string.sub(claim, 1, #token) == token
  local is_ours = not is_current and not is_anothers
  if is_ours then
    local answer = redis.pcall('SET', KEYS[i + 1], token .. process, 'PX', claim_ms)
    if answer.err and not string.find(answer.err, 'OOM') then return answer end
  end
  found[i] = is_current and page
  found[i + 1] = is_ours and 1 or 0
end
return found
"""

# For each page, its key and that of the claim on it; and its generation, and what goes after that.
_STORE_IF_CURRENT = f"""
local generation = redis.call('GET', KEYS[1])
local kept = 0
for i = 2, #KEYS, 2 do
  local claim = string.sub(ARGV[i + 1], {LSN_LENGTH + 1}) .. ARGV[2]
  if redis.call('GET', KEYS[i + 1]) == claim then redis.call('DEL', KEYS[i + 1]) end
  if ARGV[i + 1] == generation then
    redis.call('SET', KEYS[i], ARGV[i + 1] .. ARGV[i + 2], 'EX', ARGV[1])
    kept = kept + 1
  end
end
return kept
"""

# Hexadecimal digits of one length compare as the numbers do.
_MOVE_ON_FROM = f"""
local current = redis.call('GET', KEYS[1])
local lsn = current and string.sub(current, 1, {LSN_LENGTH}) or '{UNKNOWN_LSN.decode()}'
if lsn < ARGV[1] then lsn = ARGV[1] end
redis.call('SET', KEYS[1], lsn .. ARGV[2])
"""

_REPLACE_IF_CURRENT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""

_CONFIRM_HISTORY = """
local history = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
if redis.call('GET', KEYS[1]) ~= history then
  redis.call('SET', KEYS[1], history)
  redis.call('DEL', KEYS[2])
end
return history
"""


class RedisFailure(Exception):
    """Redis did not answer, refused the command, or was not asked since it did not lately."""


class Found(NamedTuple):
    """The current generation, and the body that is current and fresh, if there is one.

    Without a body, ``is_ours`` tells whether no other process has claimed to refill the page: then
    ours has, by the look-up.
    """

    generation: bytes
    body: bytes | None = None
    is_ours: bool = True

    @property
    def lsn(self) -> int | None:
        """What a replica must have replayed to show what the generation stands for, if known."""
        lsn = self.generation[:LSN_LENGTH]
        return None if lsn == UNKNOWN_LSN else int(lsn, 16)

    def is_as_old_as(self, other: "Found") -> bool:
        """Tell whether both are of one generation, whose position may have been settled since."""
        return self.generation[LSN_LENGTH:] == other.generation[LSN_LENGTH:]


class Refill(NamedTuple):
    """A page called ``name`` as it was read in ``generation``."""

    name: str
    generation: bytes
    body: bytes


class PageStore:
    """Pages in Redis: fresh for ``ttl`` seconds, kept for ``stale_ttl``.

    ``clock`` gives the time in seconds since 1970. It is compared between processes, so a page
    may be fresh for longer by as much as their clocks differ, but never more than twice as long:
    what seems to be of the future counts by its distance from now too.
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
        self._move_on_from = redis.register_script(_MOVE_ON_FROM)
        self._replace_if_current = redis.register_script(_REPLACE_IF_CURRENT)
        self._confirm_history = redis.register_script(_CONFIRM_HISTORY)
        # The history that the server last confirmed, and how many connections there were by then.
        self._confirmed: tuple[int, bytes] = (-1, b"")
        self._copies: Recent[str, _Copy] = Recent(COPIES)
        self._name = uuid.uuid4().hex
        # An error that Redis answers is an answer; only silence counts.
        self.breaker = CircuitBreaker(
            "Redis",
            failures=(redis_errors.ConnectionError, redis_errors.TimeoutError),
            threshold=3,
            on_change=(metrics or Metrics()).resilience.breaker_listener("redis"),
        )

    def look_up(self, name: str) -> Found:
        """Return the generation, begun if there was none, and the page or a claim on it.

        Whoever has claimed a page is to ``store`` it or to ``give_back`` the claim. One that this
        process has a copy of does not travel again if the generation shows that it is still
        current; if it is not, the page is a second round trip.
        """
        if self._copies.get(name) is not None:
            found = self._or_copy(name, self.current())
            if found.body is not None:
                return found
        # There may be a copy by the time that Redis has answered.
        return self._or_copy(name, self._look_up({name})[name])

    def current(self) -> Found:
        """Return the generation alone, begun if there was none; in a round trip as ``look_up``."""
        return self._look_up({GENERATION_ALONE})[GENERATION_ALONE]

    def settle(self, generation: bytes, lsn: int) -> Found:
        """Return the generation with its position known to be ``lsn``, or that after it.

        ``lsn`` must have been asked for after ``generation`` was read: then all writes that were
        over before that are before it, and one that ends later has replaced the generation.
        """
        settled = b"%0*x" % (LSN_LENGTH, lsn) + generation[LSN_LENGTH:]
        with self._asking():
            replaced = self._replace_if_current([GENERATION_KEY], [generation, settled])
        # What is there instead may be an old one of another history, and is to be checked.
        return Found(settled) if replaced else self.current()

    def look_up_stale(self, name: str) -> bytes | None:
        """Return the body that is kept, of whatever generation; at most ``stale_ttl`` s old."""
        with self._asking():
            entry = cast("bytes | None", self._redis.get(PREFIX + name))
        if entry is None or self._age(_stored_at(entry)) >= self._stale_ttl:
            return None
        return entry[BODY_AT:]

    def keep_copy(self, refill: "Refill") -> None:
        """Let this process's look-ups find a page that is yet to be stored.

        One that comes late may take the place of a current one, which then travels once more.
        """
        copy = _Copy(refill.generation, int(self._clock()), refill.body)
        self._copies.keep(refill.name, copy)

    def store(self, refills: "Sequence[Refill]") -> int:
        """Keep the pages of which the generation is not over; return how many that are.

        Claims on them in their generation are over, too. All are one round trip.
        """
        now = int(self._clock())
        keys = [GENERATION_KEY]
        values: list[str | bytes | int] = [max(self._ttl, self._stale_ttl), self._process()]
        for refill in refills:
            keys += PREFIX + refill.name, _claim_key(refill.name)
            values += refill.generation, b"%0*d" % (TIME_LENGTH, now) + refill.body
        with self._asking():
            return int(self._store_if_current(keys, values))

    def give_back(self, name: str) -> None:
        """End a claim without having stored the page."""
        with self._asking():
            self._redis.delete(_claim_key(name))

    def move_on(self, lsn: int | None = None) -> None:
        """Begin a new generation, by which all pages so far are out of date.

        With ``lsn``, what a replica must have replayed from now on is that, if it is not more.
        """
        self._move_on({lsn})

    def insist_on_moving_on(self) -> None:
        """Do so whatever the circuit breaker thinks.

        For making up for a failure: other processes may well be reading from a Redis that did
        not answer this one.
        """
        try:
            self._replace_generation()
        except RedisError as error:
            raise RedisFailure(error) from error

    def ping(self) -> None:
        """Ask Redis for a sign of life, whatever the circuit breaker thinks.

        Not with PING: in a cluster, the node that is asked is the one that has our keys.
        """
        try:
            self._redis.get(GENERATION_KEY)
        except RedisError as error:
            raise RedisFailure(error) from error

    def close(self) -> None:
        """Close the connections to Redis."""
        self._redis.disconnect()

    def _replace_generation(self) -> None:
        """Set another generation, whatever it was.

        redis-py's ``set`` makes the same of keywords, in a sixth of all its calls for a command.
        """
        self._redis.execute_command("SET", GENERATION_KEY, _new_generation())  # type: ignore[no-untyped-call]

    def _look_up(self, names: Set[str]) -> dict[str, Found]:
        with self._asking():
            found = self._found(names)
            if found is None:
                self._redis.set(GENERATION_KEY, _new_generation(), nx=True)
                # Once more, for claims in this generation; if it is gone by now, there is nothing
                # that holds, and no generation that a page may be of.
                found = self._found(names) or dict.fromkeys(names, Found(_new_generation()))
        return found

    def _found(self, names: Set[str]) -> dict[str, Found] | None:
        """Return what there is of ``names``; None if there is no generation that holds."""
        pages = [name for name in names if name != GENERATION_ALONE]
        keys = [HISTORY_KEY, GENERATION_KEY]
        answer: list[Any]
        if not pages:
            answer = self._redis.execute_command("MGET", *keys)  # type: ignore[no-untyped-call]
        else:
            for name in pages:
                keys += PREFIX + name, _claim_key(name)
            now, milliseconds = int(self._clock()), round(CLAIM_SECONDS * 1000)
            arguments: list[str | int] = [now, self._ttl, milliseconds, self._process()]
            answer = self._look_up_or_claim(keys, arguments)
        history, generation, *entries = answer
        if not self._is_of_the_server(history) or generation is None:
            return None
        found = {GENERATION_ALONE: Found(generation)}
        for name, entry, is_ours in zip(pages, entries[::2], entries[1::2], strict=True):
            if entry is None:
                found[name] = Found(generation, is_ours=bool(is_ours))
            else:
                copy = _Copy(generation, _stored_at(entry), entry[BODY_AT:])
                self._copies.keep(name, copy)
                found[name] = Found(generation, copy.body)
        return found

    def _process(self) -> str:
        """Return a name that no other process has, nor this one's child."""
        return f"{self._name}-{os.getpid()}"

    def _move_on(self, lsns: Set[int | None]) -> dict[int | None, None]:
        known = [lsn for lsn in lsns if lsn is not None]
        with self._asking():
            if len(known) < len(lsns):
                self._replace_generation()
            else:
                lsn = b"%0*x" % (LSN_LENGTH, max(known))
                self._move_on_from([GENERATION_KEY], [lsn, _new_generation()[LSN_LENGTH:]])
        return dict.fromkeys(lsns)

    def _or_copy(self, name: str, found: Found) -> Found:
        """Return what was found, or else the copy of the page, if that is current and fresh."""
        copy = None if found.body is not None else self._copies.get(name)
        if (
            copy is None
            or copy.generation != found.generation
            or self._age(copy.stored_at) >= self._ttl
        ):
            return found
        return Found(found.generation, copy.body)

    def _is_of_the_server(self, history: bytes | None) -> bool:
        """Tell whether ``history`` is the server's own; if not, the generation has been deleted."""
        changes = self._redis.changes
        if (changes, history) == self._confirmed:
            return True
        confirmed = cast("bytes", self._confirm_history([HISTORY_KEY, GENERATION_KEY]))
        self._confirmed = (changes, confirmed)
        return history == confirmed

    def _age(self, stored_at: int) -> float:
        # A clock that was set back would otherwise keep copies fresh for as long as that was.
        return abs(self._clock() - stored_at)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            with stage("cache"), self.breaker.calling():
                yield
        except (RedisError, CircuitOpen) as error:
            raise RedisFailure(error) from error


class _Copy(NamedTuple):
    """A page as it is in Redis, or is to be; the time is in seconds since 1970."""

    generation: bytes
    stored_at: int
    body: bytes


def _stored_at(entry: bytes) -> int:
    return int(entry[GENERATION_LENGTH:BODY_AT])


def _claim_key(name: str) -> str:
    return f"{PREFIX}{name}:refill"


def _new_generation() -> bytes:
    return UNKNOWN_LSN + uuid.uuid4().hex.encode()
