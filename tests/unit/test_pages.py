"""The page cache, on a store that fails when a test says so. tests/integration has a real one."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import cast

import pytest

from user_service.cache.page_cache import (
    CLAIM_POLL_INTERVAL,
    REPAIR_INTERVAL,
    WAIT_FOR_CLAIM,
    CacheStatus,
    PageCache,
    Produce,
)
from user_service.cache.page_store import (
    LSN_LENGTH,
    UNKNOWN_LSN,
    Found,
    PageStore,
    RedisFailure,
    Refill,
)
from user_service.errors import DeadlineExceeded
from user_service.observability import server_timing
from user_service.resilience import deadline
from user_service.resilience.breaker import CircuitBreaker, State

LONG = 30.0  # seconds: nobody who does as they should waits for so long
HIT, MISS, BYPASS = CacheStatus.HIT, CacheStatus.MISS, CacheStatus.BYPASS


class FakeStore:
    """A store in a dictionary. ``failing`` methods raise; ``before`` one of them, a hook runs."""

    def __init__(self) -> None:
        self.breaker = CircuitBreaker("Redis", failures=())
        self.generation = UNKNOWN_LSN + b"0"
        self.entries: dict[str, tuple[bytes, bytes]] = {}
        self.claims: dict[str, bytes] = {}
        self.claims_of_another: dict[str, bytes] = {}
        self.failing: set[str] = set()
        self.calls: list[str] = []
        self.before: dict[str, Callable[[], None]] = {}
        self.closed = False

    def _called(self, method: str) -> None:
        self.calls.append(method)
        self.before.pop(method, lambda: None)()
        if method in self.failing:
            raise RedisFailure("away")

    def look_up(self, name: str) -> Found:
        self._called("look_up")
        generation, body = self.entries.get(name, (b"", b""))
        if generation == self.generation:
            return Found(generation, body)
        if self.claims_of_another.get(name) == self.generation:
            return Found(self.generation, is_ours=False)
        self.claims[name] = self.generation
        return Found(self.generation)

    def look_up_stale(self, name: str) -> bytes | None:
        self._called("look_up_stale")
        return self.entries[name][1] if name in self.entries else None

    def keep_copy(self, refill: Refill) -> None:
        """Keep none, so that what is found has been stored."""

    def store(self, refills: Sequence[Refill]) -> int:
        self._called("store")
        for name, generation, body in refills:
            if self.claims.get(name) == generation:
                del self.claims[name]
            if generation == self.generation:
                self.entries[name] = generation, body
        return sum(each.generation == self.generation for each in refills)

    def store_by_another(self, name: str, body: bytes) -> None:
        self.entries[name] = self.generation, body

    def insist_on_moving_on(self) -> None:
        self.move_on()

    def current(self) -> Found:
        self._called("current")
        return Found(self.generation)

    def give_back(self, name: str) -> None:
        self._called("give_back")
        del self.claims[name]

    def move_on(self, _lsn: int | None = None) -> None:
        self._called("move_on")
        self.generation = UNKNOWN_LSN + b"%d" % (int(self.generation[LSN_LENGTH:]) + 1)

    def ping(self) -> None:
        self._called("ping")

    def close(self) -> None:
        self.closed = True


class Sleep:
    """Moves a clock on; does what ``during`` says, and remembers how long it was asked to take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.during: Callable[[], None] = lambda: None

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self.during()


class Repairs:
    """Stands in for the event that ends the repairs: each attempt waits until a test allows it."""

    def __init__(self) -> None:
        self.intervals: list[float] = []
        self._allowed = threading.Semaphore(0)
        self._waits = threading.Semaphore(0)
        self._ended = False

    def wait(self, seconds: float) -> bool:
        self.intervals.append(seconds)
        self._waits.release()
        assert self._allowed.acquire(timeout=LONG)
        return self._ended

    def set(self) -> None:
        self._ended = True
        self._allowed.release()

    def await_the_next(self) -> None:
        """Return when an attempt waits to be allowed."""
        assert self._waits.acquire(timeout=LONG)

    def fail_once(self) -> None:
        """Allow one attempt, and return when the next waits to be allowed."""
        self._allowed.release()
        self.await_the_next()

    def succeed(self) -> None:
        """Allow one attempt, and return when the repairs are over."""
        self._allowed.release()
        self.join()

    def join(self) -> None:
        for thread in repairing():
            thread.join(LONG)
            assert not thread.is_alive()


def repairing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "page-cache-repair"]


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def sleep() -> Sleep:
    return Sleep()


@pytest.fixture
def pages(store: FakeStore, sleep: Sleep) -> PageCache:
    return PageCache(cast("PageStore", store), sleep=sleep, clock=lambda: sleep.now)


@pytest.fixture
def repairs(pages: PageCache) -> Iterator[Repairs]:
    repairs = Repairs()
    pages._closed = cast("threading.Event", repairs)
    yield repairs
    repairs.set()
    repairs.join()


@pytest.fixture
def another(store: FakeStore, sleep: Sleep) -> PageCache:
    """The page cache of another process, on the same Redis."""
    return PageCache(cast("PageStore", store), sleep=sleep, clock=lambda: sleep.now)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as threads:
        yield threads


@pytest.fixture(autouse=True)
def no_deadline() -> Iterator[None]:
    yield
    deadline.clear()


def get(pages: PageCache, body: bytes = b"fresh", page: int = 1) -> tuple[bytes, CacheStatus]:
    return stored(pages, lambda _: body, f"{page}:50")


def stored(pages: PageCache, produce: Produce, name: str = "1:50") -> tuple[bytes, CacheStatus]:
    """Return the page when it has been stored, too."""
    got = pages.get_or_produce(name, produce)
    pages.flush()
    return got


def assert_true(truth: object) -> None:
    assert truth


def never(_: object = None) -> bytes:
    pytest.fail("produced although there is a page")


class TestWithRedis:
    def test_second_reader_gets_the_stored_page(self, pages: PageCache) -> None:
        assert get(pages, b"first") == (b"first", MISS)
        assert get(pages, b"second") == (b"first", HIT)

    def test_hit_is_one_command_and_produces_nothing(
        self, pages: PageCache, store: FakeStore
    ) -> None:
        get(pages)
        store.calls.clear()
        assert pages.get_or_produce("1:50", never) == (b"fresh", HIT)
        assert store.calls == ["look_up"]

    def test_miss_is_stored_after_it_is_produced(self, pages: PageCache, store: FakeStore) -> None:
        def produce(_: object = None) -> bytes:
            store.calls.append("produce")
            return b"body"

        stored(pages, produce)
        assert store.calls == ["look_up", "produce", "store"]
        assert store.claims == {}

    def test_store_is_not_waited_for(self, pages: PageCache, store: FakeStore) -> None:
        go_on = threading.Event()
        store.before["store"] = lambda: assert_true(go_on.wait(LONG))
        assert pages.get_or_produce("1:50", lambda _: b"body") == (b"body", MISS)
        assert store.entries == {}
        go_on.set()
        pages.flush()
        assert store.entries == {"1:50": (store.generation, b"body")}

    def test_store_is_not_timed_as_a_part_of_the_request(
        self, pages: PageCache, store: FakeStore
    ) -> None:
        def take_time() -> None:
            with server_timing.stage("store"):
                pass

        store.before["store"] = take_time
        server_timing.begin()
        get(pages)
        assert server_timing.end() == {}
        assert "store" in store.calls

    def test_page_that_cannot_be_stored_any_more_is_served_and_no_longer_claimed(
        self, pages: PageCache, store: FakeStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        pages.close()
        assert pages.get_or_produce("1:50", lambda _: b"body") == (b"body", MISS)
        assert caplog.messages == ["page not stored in the cache: no more can be taken now"]
        assert store.claims == {}

    def test_empty_body_is_a_hit_too(self, pages: PageCache) -> None:
        get(pages, b"")
        assert get(pages, b"other") == (b"", HIT)

    def test_write_puts_every_page_out_of_date(self, pages: PageCache) -> None:
        get(pages, b"old")
        get(pages, b"old", page=2)
        pages.invalidate()
        assert get(pages, b"new") == (b"new", MISS)
        assert get(pages, b"new", page=2) == (b"new", MISS)

    def test_page_read_before_a_write_is_not_stored_after_it(
        self, pages: PageCache, caplog: pytest.LogCaptureFixture
    ) -> None:
        def produce_while_another_writes(_: object = None) -> bytes:
            pages.invalidate()
            return b"old"

        with caplog.at_level(logging.INFO, "user_service"):
            stored(pages, produce_while_another_writes)
        assert caplog.messages == ["page cache refused 1 of 1 pages, read before a write"]
        assert get(pages, b"new") == (b"new", MISS)

    def test_failure_of_the_producer_is_not_swallowed_or_stored(
        self, pages: PageCache, store: FakeStore
    ) -> None:
        def fail(_: object = None) -> bytes:
            raise KeyError

        with pytest.raises(KeyError):
            pages.get_or_produce("1:50", fail)
        assert (store.entries, store.claims) == ({}, {})
        assert get(pages) == (b"fresh", MISS)

    def test_is_reachable(self, pages: PageCache) -> None:
        assert pages.is_reachable()

    def test_state_of_the_breaker_is_that_of_the_store(
        self, pages: PageCache, store: FakeStore
    ) -> None:
        states = [pages.breaker_state]
        store.breaker = CircuitBreaker("Redis", failures=(KeyError,), threshold=1)
        with pytest.raises(KeyError), store.breaker.calling():
            raise KeyError
        states.append(pages.breaker_state)
        assert states == [State.CLOSED, State.OPEN]

    def test_close_stores_what_is_to_be_stored_and_closes_the_store(
        self, pages: PageCache, store: FakeStore
    ) -> None:
        pages.get_or_produce("1:50", lambda _: b"body")
        pages.close()
        assert store.closed
        assert list(store.entries) == ["1:50"]


class TestWithoutRedis:
    @pytest.mark.parametrize(
        ("failing", "status"),
        [
            pytest.param({"look_up"}, BYPASS, id="lookup"),
            pytest.param({"store"}, MISS, id="store"),
            pytest.param({"look_up", "store", "move_on", "ping"}, BYPASS, id="everything"),
        ],
    )
    def test_reader_gets_the_fresh_body(
        self, pages: PageCache, store: FakeStore, failing: set[str], status: CacheStatus
    ) -> None:
        store.failing = failing
        assert get(pages) == (b"fresh", status)

    @pytest.mark.parametrize(
        ("method", "message"),
        [
            ("look_up", "page cache bypassed: away"),
            ("store", "1 pages not stored in the cache: away"),
        ],
    )
    def test_cause_is_logged_once(
        self,
        pages: PageCache,
        store: FakeStore,
        caplog: pytest.LogCaptureFixture,
        method: str,
        message: str,
    ) -> None:
        store.failing = {method}
        get(pages)
        (warning,) = caplog.records
        assert (warning.levelno, warning.message) == (logging.WARNING, message)

    def test_bypass_costs_one_failing_command(self, pages: PageCache, store: FakeStore) -> None:
        store.failing = {"look_up", "store"}
        get(pages)
        assert store.calls == ["look_up"]

    def test_entry_is_not_served(self, pages: PageCache, store: FakeStore) -> None:
        get(pages, b"old")
        store.failing = {"look_up"}
        assert get(pages, b"new") == (b"new", BYPASS)

    def test_is_not_reachable(self, pages: PageCache, store: FakeStore) -> None:
        store.failing = {"ping"}
        assert not pages.is_reachable()


class TestStale:
    def test_last_page_is_kept_beyond_the_next_write(self, pages: PageCache) -> None:
        get(pages, b"old")
        pages.invalidate()
        assert pages.stale("1:50") == b"old"

    def test_page_that_never_was_is_none(self, pages: PageCache) -> None:
        assert pages.stale("1:50") is None

    def test_page_is_none_without_redis(self, pages: PageCache, store: FakeStore) -> None:
        get(pages, b"old")
        store.failing = {"look_up_stale"}
        assert pages.stale("1:50") is None


class TestRefillByOne:
    """Of requests that miss the same page, one produces it."""

    @pytest.fixture
    def joined(self, monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
        """Released by everybody who is about to wait for another's refill."""
        joined = threading.Semaphore(0)

        def announcing() -> float:
            joined.release()
            return deadline.remaining()

        announced = SimpleNamespace(remaining=announcing)
        monkeypatch.setattr("user_service.cache.single_flight.deadline", announced)
        return joined

    def begun(
        self, pages: PageCache, threads: ThreadPoolExecutor, end: Callable[[], bytes]
    ) -> Future[tuple[bytes, CacheStatus]]:
        """Begin a refill that is under way when this returns, and gives what ``end`` returns."""
        begun = threading.Event()

        def produce(_: object = None) -> bytes:
            begun.set()
            return end()

        refill = threads.submit(pages.get_or_produce, "1:50", produce)
        assert begun.wait(LONG)
        return refill

    def test_the_others_of_this_process_wait_for_it(
        self, pages: PageCache, threads: ThreadPoolExecutor, joined: threading.Semaphore
    ) -> None:
        def when_all_wait(_: object = None) -> bytes:
            for _ in range(19):
                assert joined.acquire(timeout=LONG)
            return b"body"

        refill = self.begun(pages, threads, when_all_wait)
        others = [threads.submit(pages.get_or_produce, "1:50", never) for _ in range(19)]
        assert [each.result(LONG) for each in [refill, *others]] == [(b"body", MISS)] * 20

    def test_other_pages_are_not_waited_for(
        self, pages: PageCache, threads: ThreadPoolExecutor
    ) -> None:
        go_on = threading.Event()
        refill = self.begun(pages, threads, lambda: b"%d" % go_on.wait(LONG))
        assert get(pages, page=2) == (b"fresh", MISS)
        assert not refill.done()
        go_on.set()

    def test_reader_after_a_write_does_not_wait_for_one_from_before(
        self, pages: PageCache, threads: ThreadPoolExecutor
    ) -> None:
        go_on = threading.Event()

        def read_before_the_write(_: object = None) -> bytes:
            assert go_on.wait(LONG)
            return b"old"

        refill = self.begun(pages, threads, read_before_the_write)
        pages.invalidate()
        assert get(pages, b"new") == (b"new", MISS)
        go_on.set()
        assert refill.result(LONG) == (b"old", MISS)
        pages.flush()
        assert get(pages, b"newer") == (b"new", HIT)

    def test_reader_after_a_write_that_could_not_invalidate_does_not_either(
        self,
        pages: PageCache,
        store: FakeStore,
        threads: ThreadPoolExecutor,
        repairs: Repairs,
    ) -> None:
        go_on = threading.Event()

        def read_before_the_write(_: object = None) -> bytes:
            assert go_on.wait(LONG)
            return b"old"

        refill = self.begun(pages, threads, read_before_the_write)
        store.failing = {"move_on"}
        pages.invalidate()
        assert get(pages, b"new") == (b"new", BYPASS)
        go_on.set()
        assert refill.result(LONG) == (b"old", MISS)
        pages.flush()
        assert get(pages, b"newer") == (b"newer", BYPASS)
        store.failing = set()
        repairs.succeed()
        assert get(pages, b"newest") == (b"newest", MISS)

    def test_who_waits_gives_up_at_the_deadline(
        self, pages: PageCache, threads: ThreadPoolExecutor
    ) -> None:
        go_on = threading.Event()
        self.begun(pages, threads, lambda: b"%d" % go_on.wait(LONG))
        with deadline.within(0), pytest.raises(DeadlineExceeded):
            pages.get_or_produce("1:50", never)
        go_on.set()

    def test_failure_is_that_of_all_who_wait(
        self, pages: PageCache, threads: ThreadPoolExecutor, joined: threading.Semaphore
    ) -> None:
        def fail(_: object = None) -> bytes:
            assert joined.acquire(timeout=LONG)
            raise KeyError

        refill = self.begun(pages, threads, fail)
        other = threads.submit(pages.get_or_produce, "1:50", never)
        for each in (refill, other):
            with pytest.raises(KeyError):
                each.result(LONG)


class TestRefillByAnotherProcess:
    @pytest.fixture(autouse=True)
    def claimed(self, store: FakeStore) -> None:
        store.claims_of_another["1:50"] = store.generation

    def test_is_waited_for(self, pages: PageCache, store: FakeStore, sleep: Sleep) -> None:
        def stored_the_third_time() -> None:
            if len(sleep.slept) == 3:
                store.store_by_another("1:50", b"theirs")

        sleep.during = stored_the_third_time
        assert pages.get_or_produce("1:50", never) == (b"theirs", MISS)
        assert sleep.slept == [CLAIM_POLL_INTERVAL] * 3

    def test_is_waited_for_only_so_long(self, pages: PageCache, sleep: Sleep) -> None:
        assert get(pages, b"ours") == (b"ours", MISS)
        assert sum(sleep.slept) == pytest.approx(WAIT_FOR_CLAIM, abs=2 * CLAIM_POLL_INTERVAL)

    def test_is_waited_for_no_longer_where_each_look_takes_long(
        self, pages: PageCache, sleep: Sleep
    ) -> None:
        def look_slowly() -> None:
            sleep.now += WAIT_FOR_CLAIM / 5

        sleep.during = look_slowly
        assert get(pages, b"ours") == (b"ours", MISS)
        assert len(sleep.slept) == 5

    def test_is_waited_for_half_of_the_time_left_at_most(
        self, pages: PageCache, sleep: Sleep
    ) -> None:
        with deadline.within(WAIT_FOR_CLAIM):
            get(pages)
        assert sum(sleep.slept) <= WAIT_FOR_CLAIM / 2 + CLAIM_POLL_INTERVAL

    def test_is_not_waited_for_without_any_time_left(self, pages: PageCache, sleep: Sleep) -> None:
        with deadline.within(0):
            assert get(pages) == (b"fresh", MISS)
        assert sleep.slept == []

    def test_is_made_up_for_when_it_does_not_come(self, pages: PageCache, store: FakeStore) -> None:
        get(pages, b"ours")
        assert store.entries["1:50"] == (store.generation, b"ours")

    def test_keeps_its_claim_where_ours_cannot_be_stored(
        self, pages: PageCache, store: FakeStore
    ) -> None:
        pages.close()
        assert pages.get_or_produce("1:50", lambda _: b"ours") == (b"ours", MISS)
        assert "give_back" not in store.calls

    def test_keeps_its_claim_where_ours_fails(self, pages: PageCache, store: FakeStore) -> None:
        def fail(_: object = None) -> bytes:
            raise KeyError

        with pytest.raises(KeyError):
            pages.get_or_produce("1:50", fail)
        assert "give_back" not in store.calls

    def test_is_ours_to_make_up_for_once_it_is_given_back(
        self, pages: PageCache, store: FakeStore, sleep: Sleep
    ) -> None:
        sleep.during = store.claims_of_another.clear
        assert get(pages, b"ours") == (b"ours", MISS)
        assert len(sleep.slept) == 1
        assert store.entries["1:50"] == (store.generation, b"ours")
        assert store.claims == {}

    def test_claim_in_a_later_generation_is_not_kept_by_who_read_before(
        self, pages: PageCache, store: FakeStore, sleep: Sleep
    ) -> None:
        sleep.during = store.move_on
        assert get(pages, b"ours") == (b"ours", MISS)
        assert len(sleep.slept) == 1
        assert (store.entries, store.claims) == ({}, {})

    def test_of_a_later_generation_is_taken_too(
        self, pages: PageCache, store: FakeStore, sleep: Sleep
    ) -> None:
        def write_and_refill() -> None:
            store.move_on()
            store.store_by_another("1:50", b"newer")

        sleep.during = write_and_refill
        assert pages.get_or_produce("1:50", never) == (b"newer", MISS)

    def test_of_an_earlier_generation_is_not_waited_for(
        self, pages: PageCache, store: FakeStore, sleep: Sleep
    ) -> None:
        store.move_on()
        assert get(pages, b"ours") == (b"ours", MISS)
        assert sleep.slept == []

    def test_is_not_waited_for_when_redis_fails(
        self, pages: PageCache, store: FakeStore, sleep: Sleep
    ) -> None:
        sleep.during = lambda: store.failing.add("look_up")
        assert get(pages, b"ours") == (b"ours", MISS)
        assert len(sleep.slept) == 1


class TestFailedInvalidation:
    @pytest.fixture(autouse=True)
    def old_page(self, pages: PageCache, store: FakeStore, repairs: Repairs) -> None:
        """An old page is in the cache, and the write after it could not invalidate."""
        get(pages, b"old")
        store.failing = {"move_on"}
        pages.invalidate()
        repairs.await_the_next()

    def test_is_logged_with_its_cause(
        self, pages: PageCache, caplog: pytest.LogCaptureFixture
    ) -> None:
        pages.invalidate()
        assert caplog.messages == ["page cache not invalidated, reading it stops until it is: away"]

    def test_stops_reading_and_asks_redis_nothing(self, pages: PageCache, store: FakeStore) -> None:
        store.calls.clear()
        for _ in range(3):
            assert get(pages, b"new") == (b"new", BYPASS)
        assert store.calls == []

    def test_is_made_up_for_in_the_background(
        self, pages: PageCache, store: FakeStore, repairs: Repairs
    ) -> None:
        store.failing = set()
        repairs.succeed()
        assert get(pages, b"new") == (b"new", MISS)
        assert get(pages, b"other") == (b"new", HIT)

    def test_is_tried_again_in_intervals_until_it_succeeds(
        self, pages: PageCache, store: FakeStore, repairs: Repairs
    ) -> None:
        for _ in range(3):
            repairs.fail_once()
            assert get(pages, b"new") == (b"new", BYPASS)
        store.failing = set()
        repairs.succeed()
        assert repairs.intervals == [REPAIR_INTERVAL * factor for factor in (1, 2, 4, 8)]
        assert get(pages, b"new") == (b"new", MISS)

    def test_is_made_up_for_once(
        self, pages: PageCache, store: FakeStore, repairs: Repairs
    ) -> None:
        store.failing = set()
        repairs.succeed()
        generation = store.generation
        get(pages)
        assert store.generation == generation
        assert repairing() == []

    def test_repair_is_logged(
        self,
        store: FakeStore,
        repairs: Repairs,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        store.failing = set()
        with caplog.at_level(logging.INFO, "user_service"):
            repairs.succeed()
        assert caplog.messages[-1:] == ["page cache invalidated after all, reading it goes on"]

    def test_that_comes_during_a_repair_is_not_forgotten(
        self, pages: PageCache, store: FakeStore, repairs: Repairs
    ) -> None:
        def another_write_fails() -> None:
            store.failing = {"move_on"}
            pages.invalidate()
            store.failing = set()

        store.failing = set()
        store.before["move_on"] = another_write_fails
        repairs.fail_once()
        # The repair succeeded, and does not stand for the write that failed while it ran.
        assert get(pages, b"new") == (b"new", BYPASS)
        repairs.succeed()
        assert get(pages, b"new") == (b"new", MISS)

    def test_many_are_made_up_for_by_one_command(
        self, pages: PageCache, store: FakeStore, repairs: Repairs
    ) -> None:
        for _ in range(9):
            pages.invalidate()
        assert len(repairing()) == 1
        store.failing = set()
        store.calls.clear()
        repairs.succeed()
        assert store.calls == ["move_on"]
        assert get(pages, b"new") == (b"new", MISS)

    def test_after_a_repair_is_repaired_too(
        self, pages: PageCache, store: FakeStore, repairs: Repairs
    ) -> None:
        for _ in range(3):
            store.failing = set()
            repairs.succeed()
            get(pages, b"old")
            store.failing = {"move_on"}
            pages.invalidate()
            assert get(pages, b"new") == (b"new", BYPASS)

    def test_does_not_stop_writes_from_invalidating(
        self, pages: PageCache, another: PageCache, store: FakeStore
    ) -> None:
        assert get(another, b"unused") == (b"old", HIT)
        store.failing = set()
        pages.invalidate()
        assert get(another, b"new") == (b"new", MISS)

    def test_does_not_stop_the_other_processes_from_reading(self, another: PageCache) -> None:
        assert get(another, b"unused") == (b"old", HIT)

    def test_is_not_tried_again_after_the_end(
        self, pages: PageCache, store: FakeStore, repairs: Repairs
    ) -> None:
        store.calls.clear()
        pages.close()
        repairs.join()
        assert store.calls == []
