"""The commands of the page cache, on a real Redis."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from types import SimpleNamespace

import pytest
import redis as redis_py

from tests.redis_states import cut_connections, identify, out_of_memory, promote, read_only
from tests.servers import Servers
from tests.waiting import eventually
from user_service.cache.page_store import (
    CLAIM_MILLISECONDS,
    PAGE_PREFIX,
    Identify,
    LookUp,
    PageStore,
    RedisFailure,
)
from user_service.cache.redis_client import redis_client
from user_service.resilience.breaker import State

TTL, STALE_TTL = 60, 300
NAME = "page=1"
KEYS = "users:{pages}:database:"
GENERATION_KEY = f"{KEYS}generation"
MakeStore = Callable[..., PageStore]
Clock = SimpleNamespace


@pytest.fixture
def clock() -> Clock:
    """The time of every process; tests move it."""
    return Clock(now=1_700_000_000.5)


@pytest.fixture
def process(servers: Servers, redis: redis_py.Redis, clock: Clock) -> Iterator[MakeStore]:
    """Return a function that makes the store of one process, on the same Redis as the others."""
    with ExitStack() as stack:

        def make(
            url: str = servers.redis_url,
            timeout: float = 2,
            stale_ttl: int = 300,
            identify: Identify = identify,
        ) -> PageStore:
            client, time = redis_client(url, timeout=timeout), lambda: clock.now
            store = PageStore(client, identify, ttl=TTL, stale_ttl=stale_ttl, clock=time)
            return stack.enter_context(closing(store))

        yield make


@pytest.fixture
def store(process: MakeStore) -> PageStore:
    return process()


@pytest.fixture
def other(process: MakeStore) -> PageStore:
    """The store of another process."""
    return process()


def keep(store: PageStore, body: bytes = b"body", name: str = NAME) -> bytes:
    """Store a page in the current generation, and return that."""
    generation = store.look_up(name).generation
    assert store.store(name, generation, body)
    return generation


def claims(redis: redis_py.Redis) -> list[bytes]:
    return list(redis.scan_iter("*:refill"))


class TestPages:
    @pytest.mark.parametrize("body", [b"", b"\0\xff\r\n", b"0" * 100_000])
    def test_page_is_found_as_stored(self, store: PageStore, other: PageStore, body: bytes) -> None:
        generation = keep(store, body)
        assert other.look_up(NAME) == LookUp(generation, None, body)

    def test_earlier_generation_is_not_found_and_late_store_refused(self, store: PageStore) -> None:
        before = keep(store)
        store.replace_generation()
        found = store.look_up(NAME)
        assert found.body is None
        assert found.generation != before
        keep(store, b"new")
        assert not store.store(NAME, before, b"old")
        assert store.look_up(NAME).body == b"new"
        assert store.look_up_stale(NAME) == b"new"

    def test_full_server_gives_its_pages_and_every_process_reads_the_others(
        self, store: PageStore, other: PageStore, redis: redis_py.Redis
    ) -> None:
        generation = keep(store)
        with out_of_memory(redis):
            assert store.look_up(NAME).body == b"body"
            assert [each.look_up("page=2").claimed for each in (store, other)] == [True, True]
            for write in (store.replace_generation, lambda: store.store(NAME, generation, b"")) * 2:
                with pytest.raises(RedisFailure, match="maxmemory"):
                    write()
        assert store.breaker.state is State.CLOSED


class TestDamage:
    """Keys that somebody else has written."""

    @pytest.mark.parametrize("name", ["history", "generation", "lsn"])
    def test_key_of_another_type_is_replaced(
        self, store: PageStore, other: PageStore, redis: redis_py.Redis, name: str
    ) -> None:
        keep(store)
        redis.delete(f"{KEYS}{name}")
        redis.lpush(f"{KEYS}{name}", "x")
        store.replace_generation()
        assert other.look_up(NAME).body is None
        keep(store, b"new")
        assert other.look_up(NAME).body == b"new"

    def test_value_of_another_form_is_a_failure(
        self, store: PageStore, redis: redis_py.Redis
    ) -> None:
        keep(store)
        redis.set(f"{KEYS}lsn", "x")
        redis.set(f"{KEYS}{PAGE_PREFIX}{NAME}", "x")
        for read in (store.look_up, store.look_up_stale):
            with pytest.raises(RedisFailure):
                read(NAME)


class TestGeneration:
    def test_begins_once_in_all_processes(self, process: MakeStore, redis: redis_py.Redis) -> None:
        stores, together = [process() for _ in range(4)], threading.Barrier(8)

        def look_up(store: PageStore) -> bytes:
            together.wait()
            return store.look_up(NAME).generation

        with ThreadPoolExecutor(8) as threads:
            generations = set(threads.map(look_up, stores * 2))
        assert generations == {redis.get(GENERATION_KEY)}
        assert redis.ttl(GENERATION_KEY) == -1  # never expires

    def test_is_that_of_releases_with_other_pages_too(
        self, store: PageStore, other: PageStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keep(store)
        with monkeypatch.context() as release:
            release.setattr("user_service.cache.page_store.PAGE_PREFIX", "v0:")
            assert other.look_up(NAME).body is None
            other.replace_generation()
        assert store.look_up(NAME).body is None

    @pytest.mark.parametrize("loss", ["flush", "eviction"])
    def test_lost_one_never_comes_back(
        self, store: PageStore, redis: redis_py.Redis, loss: str
    ) -> None:
        seen = [keep(store)]
        for _ in range(5):
            redis.flushall() if loss == "flush" else redis.delete(GENERATION_KEY)
            redis.script_flush()  # the scripts are loaded again
            found = store.look_up(NAME)
            assert found.body is None
            assert not store.store(NAME, seen[-1], b"late")
            seen.append(found.generation)
        assert len(set(seen)) == 6


class TestHistory:
    """Redis replicates asynchronously: a promoted replica may have missed the last writes."""

    def test_promoted_replica_begins_a_new_generation(
        self, store: PageStore, other: PageStore, redis: redis_py.Redis
    ) -> None:
        before = keep(store)
        promote(redis)
        store.store(NAME, before, b"late")  # before a look-up has noticed the promotion
        found = store.look_up(NAME)
        assert found.body is None
        assert found.generation != before
        assert [each.look_up(NAME).generation for each in (other, store)] == [found.generation] * 2

    def test_new_connection_reads_nothing_from_a_replica_before_its_promotion(
        self, store: PageStore, process: MakeStore, redis: redis_py.Redis
    ) -> None:
        generation = keep(store)
        late = process()
        with read_only(redis), pytest.raises(RedisFailure, match="a replica may lack"):
            late.look_up(NAME)
        found = late.look_up(NAME)
        assert found.body is None
        assert found.generation != generation

    def test_survives_a_new_connection(self, store: PageStore, redis: redis_py.Redis) -> None:
        generation = keep(store)
        for _ in range(2):
            cut_connections(redis)
            assert store.look_up(NAME) == LookUp(generation, None, b"body")

    def test_process_that_stays_connected_takes_the_generation_of_the_new_history(
        self, store: PageStore, process: MakeStore, redis: redis_py.Redis
    ) -> None:
        keep(store)
        with read_only(redis):
            pass
        generation = process().look_up(NAME).generation
        assert {store.look_up(NAME).generation for _ in range(3)} == {generation}

    def test_write_after_a_failover_tells_it_to_processes_that_only_read(
        self, process: MakeStore
    ) -> None:
        """They may read a replica of the old timeline, whose positions are further on."""
        history, asked = ["timeline 1"], ["timeline 1"]

        def connected(*, again: bool = False) -> tuple[str, str]:
            del again
            return "database", history[-1]

        def known(*, again: bool = False) -> tuple[str, str]:
            if again:
                asked.append(history[-1])
            return "database", asked[-1]

        writer, reader = process(identify=connected), process(identify=known)
        found = reader.look_up(NAME)
        assert reader.settle(found.generation, 9).lsn == 9
        writer.look_up(NAME)
        history.append("timeline 2")
        writer.replace_generation(3)
        assert reader.look_up(NAME).lsn is None
        assert asked[-1] == "timeline 2"


class TestPosition:
    """The log position that a replica must have replayed."""

    def test_is_unknown_until_settled_and_grows(self, store: PageStore, other: PageStore) -> None:
        begun = store.current()
        assert begun.lsn is None
        assert store.settle(begun.generation, 8).lsn == 8
        for found in (store.current(), other.current(), store.look_up(NAME)):
            assert (found.generation, found.lsn) == (begun.generation, 8)
        written: int | None
        for written, required in ((9, 9), (10, 10), (2**40, 2**40), (2**63, 2**63), (1, 2**63)):
            store.replace_generation(written)
            assert store.current().lsn == required
        for written in (None, 2**63):  # after a write that does not know its own
            store.replace_generation(written)
            assert store.current().lsn is None

    @pytest.mark.parametrize("lose", [redis_py.Redis.flushall, promote])
    def test_that_is_lost_is_not_known_from_a_later_write(
        self, store: PageStore, redis: redis_py.Redis, lose: Callable[[redis_py.Redis], None]
    ) -> None:
        """The position of another acknowledged write may be lost, which is further on."""
        store.settle(store.current().generation, 10)
        lose(redis)
        assert store.current().lsn is None
        for lsn in (10, 20):
            store.replace_generation(lsn)
            assert store.current().lsn is None

    @pytest.mark.parametrize("written", [20, None])
    def test_of_a_write_is_not_replaced(self, store: PageStore, written: int | None) -> None:
        before = store.current().generation
        store.settle(before, 10)
        store.replace_generation(written)
        assert store.settle(before, 30) == store.current()
        assert store.current().lsn == written


class TestClaims:
    """A look-up of a page that is not there claims its refill for the process."""

    def test_is_of_a_process_page_and_generation(self, store: PageStore, other: PageStore) -> None:
        owners = [each.look_up(NAME).claimed for each in (store, other, store, other)]
        assert owners == [True, False, True, False]
        store.settle(store.look_up(NAME).generation, 10)
        assert not other.look_up(NAME).claimed
        assert other.look_up("page=2").claimed
        store.replace_generation()
        assert [each.look_up(NAME).claimed for each in (other, store)] == [True, False]

    def test_belongs_to_no_child(self, store: PageStore, monkeypatch: pytest.MonkeyPatch) -> None:
        assert store.look_up(NAME).claimed
        monkeypatch.setattr("os.getpid", lambda: 1)
        assert not store.look_up(NAME).claimed

    def test_store_ends_it_even_if_overtaken(self, store: PageStore, redis: redis_py.Redis) -> None:
        keep(store)
        assert claims(redis) == []
        generation = store.look_up("page=2").generation
        store.replace_generation()
        assert not store.store("page=2", generation, b"body")
        assert claims(redis) == []

    def test_store_leaves_claims_of_other_processes_and_generations(
        self, store: PageStore, other: PageStore, redis: redis_py.Redis
    ) -> None:
        before = store.look_up(NAME).generation
        assert other.store(NAME, before, b"body")
        assert len(claims(redis)) == 1
        store.replace_generation()
        assert store.look_up(NAME).claimed
        assert not store.store(NAME, before, b"late")
        assert not other.look_up(NAME).claimed

    def test_claim_is_free_when_it_is_given_back_or_runs_out(
        self, store: PageStore, other: PageStore, redis: redis_py.Redis
    ) -> None:
        store.look_up(NAME)
        store.give_back(NAME)
        assert other.look_up(NAME).claimed
        (claim,) = claims(redis)
        assert 0 < redis.pttl(claim) <= CLAIM_MILLISECONDS
        redis.pexpire(claim, 1)
        eventually(lambda: store.look_up(NAME).claimed)

    def test_that_redis_refuses_is_a_failure(self, store: PageStore, redis: redis_py.Redis) -> None:
        keep(store)
        with read_only(redis):
            assert store.look_up(NAME).body == b"body"
            with pytest.raises(RedisFailure):
                store.look_up("page=2")


class TestAge:
    @pytest.mark.parametrize(
        ("seconds", "fresh", "kept"),
        [
            (0, True, True),
            (TTL - 1.6, True, True),
            (TTL, False, True),
            (STALE_TTL - 1, False, True),
            (STALE_TTL, False, False),
            (-5, True, True),  # the clock of another process is behind
            (-TTL - 1, False, True),
        ],
    )
    def test_page_is_fresh_for_its_ttl_and_kept_for_its_stale_ttl(
        self, store: PageStore, clock: Clock, seconds: float, fresh: bool, kept: bool
    ) -> None:
        generation = keep(store)
        clock.now += seconds
        found = store.look_up(NAME)
        assert (found.body, found.generation) == (b"body" if fresh else None, generation)
        assert found.claimed is not fresh  # to be refilled
        assert store.look_up_stale(NAME) == (b"body" if kept else None)

    def test_age_begins_with_each_store_not_a_read(self, store: PageStore, clock: Clock) -> None:
        keep(store, b"first")
        clock.now += TTL
        keep(store, b"second")
        clock.now += TTL - 1
        assert store.look_up(NAME).body == b"second"
        clock.now += 1
        assert store.look_up(NAME).body is None

    @pytest.mark.parametrize(("stale_ttl", "seconds"), [(300, 300), (61, 61), (10, 60), (0, 60)])
    def test_redis_keeps_a_page_for_the_longer_of_both_times(
        self, process: MakeStore, redis: redis_py.Redis, stale_ttl: int, seconds: int
    ) -> None:
        keep(process(stale_ttl=stale_ttl))
        assert seconds - 10 < redis.ttl(f"users:{{pages}}:database:{PAGE_PREFIX}{NAME}") <= seconds


COMMANDS: list[Callable[[PageStore], object]] = [
    lambda store: store.look_up(NAME),
    lambda store: store.current(),
    lambda store: store.look_up_stale(NAME),
    lambda store: store.store(NAME, b"generation", b"body"),
    lambda store: store.give_back(NAME),
    lambda store: store.replace_generation(),
    lambda store: store.settle(b"generation", 10),
]


class TestBreaker:
    @pytest.fixture(params=["refuses connections", "does not answer"])
    def away(self, request: pytest.FixtureRequest, process: MakeStore) -> Iterator[PageStore]:
        """A store whose Redis is away."""
        with closing(socket.create_server(("127.0.0.1", 0))) as silent:
            port = 1 if request.param == "refuses connections" else silent.getsockname()[1]
            yield process(f"redis://127.0.0.1:{port}/0", timeout=0.05)

    @pytest.mark.parametrize("command", COMMANDS)
    def test_opens_after_three_commands_without_an_answer(
        self, away: PageStore, command: Callable[[PageStore], object]
    ) -> None:
        states = []
        for _ in range(3):
            with pytest.raises(RedisFailure) as failure:
                command(away)
            assert isinstance(failure.value.__cause__, redis_py.RedisError)
            states.append(away.breaker.state)
        assert states == [State.CLOSED, State.CLOSED, State.OPEN]
        with pytest.raises(RedisFailure, match="Redis did not answer lately"):
            command(away)

    def test_neither_stops_nor_counts_ping_and_the_repair_of_an_invalidation(
        self, store: PageStore, redis: redis_py.Redis, process: MakeStore
    ) -> None:
        away = process("redis://127.0.0.1:1/0")
        for command in (away.check, lambda: away.replace_generation(despite_open_breaker=True)) * 3:
            with pytest.raises(RedisFailure):
                command()
        assert away.breaker.state is State.CLOSED
        before = keep(store)
        for _ in range(3):
            with suppress(redis_py.ConnectionError), store.breaker.calling():
                raise redis_py.ConnectionError
        store.check()
        store.replace_generation(despite_open_breaker=True)
        assert store.breaker.state is State.OPEN
        assert redis.get(GENERATION_KEY) != before
