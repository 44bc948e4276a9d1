"""The commands of the page cache: pages in Redis, each bound to the generation it was read in.

A page is current only while its generation is. Every committed write replaces the generation by a
new random one, so invalidating all pages is one command, and a page that was read before a write
cannot be stored after it. A counter would not do: after a FLUSHALL it would start again at 1, and
a slow reader could store an old page under a number that has come back.

The keys belong to one database, so that several may share a Redis. A generation belongs to one
*history*: that of the database, which ends when a replica is promoted or a backup is restored, and
that of Redis, whose promoted replicas may hold an earlier generation. The history is stored beside
the generation. A process compares it with its own, which it asks for again after each new
connection; a difference begins a new generation.

With a replica of the database, the log position (LSN) that the replica must have replayed is
stored beside the generation too. An empty LSN is unknown: it stays unknown until a reader has
asked the primary.

Every method raises ``RedisFailure`` when Redis does not answer or refuses, and when it is not
asked: its circuit breaker is open, or the database was not reached yet.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import NamedTuple, Protocol

from redis import RedisError, ResponseError
from redis import exceptions as redis_errors

from user_service.cache import page_scripts
from user_service.cache.page_scripts import BODY_AT, GENERATION_LENGTH, TIME_LENGTH
from user_service.cache.redis_client import RedisClient, Value
from user_service.domain.user import USER_MEMBERS
from user_service.errors import Unavailable
from user_service.observability.metrics import Metrics
from user_service.observability.server_timing import stage
from user_service.resilience.batcher import Batcher
from user_service.resilience.breaker import CircuitBreaker

# How long one process keeps the others from refilling the same page.
CLAIM_MILLISECONDS = 2000
CLAIM_SUFFIX = ":refill"
# The number belongs to the format of pages, the digest to the members of users in them. The
# generation outlives both, so that two releases with different pages see each other's writes.
PAGE_PREFIX = f"v5-{hashlib.blake2b(repr(USER_MEMBERS).encode(), digest_size=4).hexdigest()}:"


class RedisFailure(Exception):
    """Redis did not answer, refused the command, or was not asked."""


class RedisRefusal(RedisFailure):
    """Redis refused the command, for example because the user may not run it."""


class LookUp(NamedTuple):
    """The current generation and the page's body: None if it is not current, or not fresh.

    ``lsn`` is the log position a replica must have replayed; None if it is unknown. Without a
    body, ``claimed`` tells whether this process has claimed the refill.
    """

    generation: bytes
    lsn: int | None = None
    body: bytes | None = None
    claimed: bool = False


class Confirmed(NamedTuple):
    """The state in which the history in Redis was last confirmed as that of the database.

    ``connections`` is the number of those made to Redis, ``stored`` the history as Redis has it.
    """

    connections: int = 0
    history: str = ""
    stored: bytes | None = None


class Identify(Protocol):
    """Names the database, and its history."""

    def __call__(self, *, again: bool = False) -> tuple[str, str]:
        """Return both names, ``again`` from the database itself; raise Unavailable."""


class PageStore:
    """Pages in Redis: fresh for ``ttl`` seconds, served as stale for ``stale_ttl`` seconds.

    ``clock`` returns the seconds since 1970. Ages are compared between processes, so clocks that
    differ make a page fresh for longer by the difference, and for 2 x ``ttl`` at most.
    """

    def __init__(  # noqa: PLR0913 -- by name
        self,
        redis: RedisClient,
        identify: Identify,
        *,
        ttl: int,
        stale_ttl: int,
        prefix: str = "users",
        clock: Callable[[], float] = time.time,
        metrics: Metrics | None = None,
    ) -> None:
        self._redis = redis
        self._identify = identify
        self._ttl = ttl
        self._stale_ttl = stale_ttl
        # The braces keep all keys in one slot of a Redis Cluster: a script works on several.
        self._prefix = f"{prefix}:{{pages}}:"
        self._clock = clock
        self._confirmed = Confirmed()
        # With the process id, a child that was forked meanwhile has another name.
        self._name = secrets.token_hex(16)
        # An error that Redis answers is an answer; only silence counts as a failure.
        self.breaker = CircuitBreaker(
            "Redis",
            failures=(redis_errors.ConnectionError, redis_errors.TimeoutError),
            threshold=3,
            on_change=(metrics or Metrics()).breaker_listener("redis"),
        )

    def look_up(self, name: str) -> LookUp:
        """Return the generation, begun if there was none, and the page or a claim on it.

        A claim ends with ``store`` or ``give_back``.
        """
        return self.look_up_many({name})[name]

    def look_up_many(self, names: Set[str]) -> dict[str, LookUp]:
        """Return the same for several pages, in one round trip."""
        generation, lsn, pages = self._current(names)
        return {
            name: LookUp(generation, lsn, entry and entry[BODY_AT:], bool(claimed))
            for name, entry, claimed in zip(names, pages[::2], pages[1::2], strict=True)
        }

    def current(self) -> LookUp:
        """Return the generation and its LSN, without a page."""
        generation, lsn, _ = self._current(set())
        return LookUp(generation, lsn)

    def look_up_stale(self, name: str) -> bytes | None:
        """Return the page, of any generation, if it was stored within ``stale_ttl`` seconds."""
        with self._asking():
            *_, key, _ = self._keys(self._identify()[0], [name])
            page: bytes | None = self._redis.execute("GET", key)
            if page is None:
                return None
            age = abs(self._clock() - int(page[GENERATION_LENGTH:BODY_AT]))
            return page[BODY_AT:] if age < self._stale_ttl else None

    def store(self, name: str, generation: bytes, body: bytes) -> bool:
        """Store a page unless its generation is over, and end our claim on it.

        Return whether the page was stored.
        """
        entry = b"%b%0*d%b" % (generation, TIME_LENGTH, int(self._clock()), body)
        ttl = max(self._ttl, self._stale_ttl)
        process = f"{self._name}-{os.getpid()}"
        arguments: list[Value] = [ttl, generation, process, entry]
        with self._asking():
            keys = self._keys(self._identify()[0], [name])
            return bool(self._redis.run_script(page_scripts.STORE_IF_CURRENT, keys, arguments))

    def give_back(self, name: str) -> None:
        """End the claim on a page that was not stored: ours, or another one if ours has run out."""
        with self._asking():
            *_, claim = self._keys(self._identify()[0], [name])
            self._redis.execute("DEL", claim)

    def replace_generation(
        self, lsn: int | None = None, *, despite_open_breaker: bool = False
    ) -> None:
        """Begin a new generation: every page stored so far is out of date.

        ``lsn`` is the log position that a replica must have replayed from now on, if it is known.
        With ``despite_open_breaker``, Redis is asked although it did not answer this process:
        others may still read pages from it.
        """
        arguments = [secrets.token_hex(16), "" if lsn is None else f"{lsn:016x}"]
        with self._asking(despite_open_breaker=despite_open_breaker):
            database, history = self._identify()
            if history != self._confirmed.history:
                # The others hear of a failover from this process, before they read a replica.
                self._confirm()
            keys = self._keys(database)
            self._redis.run_script(page_scripts.REPLACE_GENERATION, keys, arguments)

    def settle(self, generation: bytes, lsn: int) -> LookUp:
        """Return ``generation`` with its LSN set to ``lsn``, or the generation after it.

        ``lsn`` must have been asked for after ``generation`` was read. Then every write that had
        ended before is covered, and a write that ended later has replaced the generation.
        """
        arguments: list[Value] = [generation, f"{lsn:016x}"]
        with self._asking():
            keys = self._keys(self._identify()[0])
            is_current = self._redis.run_script(page_scripts.SETTLE_IF_CURRENT, keys, arguments)
        return LookUp(generation, lsn) if is_current else self.current()

    def check(self) -> None:
        """Return if Redis permits what the store needs, even while the breaker is open."""
        key = self._prefix + "check"
        with self._asking(despite_open_breaker=True):
            self._redis.execute("EVAL", page_scripts.CHECK, 1, key)
            self._redis.run_script(page_scripts.CHECK, [key], [])  # EVALSHA

    def place(self) -> str:
        """Return where a gateway finds pages: the TTL, the prefix of all keys, that of pages."""
        history, _, _, page, _ = self._keys(self._identify()[0], [""])
        return f"{self._ttl} {history.removesuffix('history')} {page}"

    def close(self) -> None:
        """Close the connections to Redis."""
        self._redis.close()

    def _current(self, names: Set[str]) -> tuple[bytes, int | None, list[bytes | None]]:
        """Return the generation, its LSN, and a page and a claim for each of ``names``."""
        with self._asking():
            for _ in range(3):  # again where a generation had to be begun
                database, history = self._identify()
                now, process = int(self._clock()), f"{self._name}-{os.getpid()}"
                arguments: list[Value] = [now, self._ttl, CLAIM_MILLISECONDS, process]
                stored, generation, lsn, *pages = self._redis.run_script(
                    page_scripts.LOOK_UP_OR_CLAIM, self._keys(database, names), arguments
                )
                seen = Confirmed(self._redis.connections_made, history, stored)
                if generation is None or self._confirmed != seen:
                    self._confirm()
                confirmed = self._confirmed.history, self._confirmed.stored
                if generation is not None and confirmed == (history, stored):
                    return generation, int(lsn, 16) if lsn else None, pages
        raise RedisFailure("the generation was lost as soon as it had begun")

    def _confirm(self) -> None:
        """Begin a generation if there is none in this history of the database and of Redis."""
        connections = self._redis.connections_made
        is_connected_anew = connections != self._confirmed.connections
        # Otherwise another process has stored another history, that of the database perhaps.
        database, history = self._identify(again=not is_connected_anew)
        connection = secrets.token_hex(16) if is_connected_anew else ""
        arguments = [history, connection, secrets.token_hex(16)]
        stored: bytes = self._redis.run_script(
            page_scripts.CONFIRM_HISTORY, self._keys(database), arguments
        )
        self._confirmed = Confirmed(connections, history, stored)

    def _keys(self, database: str, names: Iterable[str] = ()) -> list[str]:
        base = f"{self._prefix}{database}:"
        keys = [base + "history", base + "generation", base + "lsn"]
        for name in names:
            page = base + PAGE_PREFIX + name
            keys += page, page + CLAIM_SUFFIX
        return keys

    @contextmanager
    def _asking(self, *, despite_open_breaker: bool = False) -> Iterator[None]:
        calling = nullcontext() if despite_open_breaker else self.breaker.calling()
        try:
            with stage("cache"), calling:
                yield
        except (RedisError, Unavailable, ValueError) as error:  # the latter for a damaged value
            failure = RedisRefusal if isinstance(error, ResponseError) else RedisFailure
            raise failure(error) from error


class BatchingPageStore(PageStore):
    """Pages in Redis; concurrent look-ups share a round trip."""

    @cached_property
    def _look_ups(self) -> Batcher[str, LookUp]:
        return Batcher(self.look_up_many)

    def look_up(self, name: str) -> LookUp:
        """Return the generation, begun if there was none, and the page or a claim on it."""
        return self._look_ups.get(name)
