"""The policy of the page cache, on a store in memory; tests/integration has the real one."""

import json
import runpy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.waiting import LONG, eventually
from user_service.cache import page_store
from user_service.cache.page_cache import (
    CLAIM_POLL_INTERVAL,
    WAIT_FOR_CLAIM,
    CacheStatus,
    PageCache,
)
from user_service.cache.page_store import LookUp, PageStore, RedisFailure
from user_service.resilience import deadline

HIT, MISS, BYPASS = CacheStatus.HIT, CacheStatus.MISS, CacheStatus.BYPASS
PAGE = "page=1"
INVALIDATIONS = {"replace_generation", "repair"}
Position = Callable[[], int | None]


class FakeStore(PageStore):
    """A store in memory. ``failing`` names the methods that raise; ``before`` has hooks of them.

    It has the clock of the processes, too, which only ``sleep`` moves.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.lsn: int | None = None
        self.pages: dict[str, tuple[bytes, bytes]] = {}
        self.our_claims: set[tuple[str, bytes]] = set()
        self.claimed_by_others: set[str] = set()
        self.failing: set[str] = set()
        self.before: dict[str, Callable[[], object]] = {}
        self.calls: list[str] = []
        self.slept: list[float] = []
        self.during_sleep: Callable[[], object] = lambda: None

    def sleep(self, seconds: float) -> None:
        """Move the clock on."""
        self.slept.append(seconds)
        self.during_sleep()

    def _called(self, method: str) -> bytes:
        self.calls.append(method)
        self.before.pop(method, lambda: None)()
        if method in self.failing:
            raise RedisFailure("away")
        return b"%d" % self.generation

    def look_up(self, name: str) -> LookUp:
        current = self._called("look_up")
        generation, body = self.pages.get(name, (b"", b""))
        if generation == current:
            return LookUp(current, self.lsn, body)
        if name in self.claimed_by_others:
            return LookUp(current, self.lsn)
        self.our_claims.add((name, current))
        return LookUp(current, self.lsn, claimed=True)

    def current(self) -> LookUp:
        return LookUp(self._called("current"), self.lsn)

    def settle(self, generation: bytes, lsn: int) -> LookUp:
        if generation == self._called("settle"):
            self.lsn = lsn
        return self.current()

    def store(self, name: str, generation: bytes, body: bytes) -> bool:
        is_current = generation == self._called("store")
        self.our_claims.discard((name, generation))
        if is_current:
            self.pages[name] = (generation, body)
        return is_current

    def give_back(self, name: str) -> None:
        self._called("give_back")
        self.our_claims = {claim for claim in self.our_claims if claim[0] != name}

    def replace_generation(
        self, lsn: int | None = None, *, despite_open_breaker: bool = False
    ) -> None:
        self._called("repair" if despite_open_breaker else "replace_generation")
        self.generation, self.lsn = self.generation + 1, lsn
        self.claimed_by_others.clear()

    def close(self) -> None:
        self._called("close")


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def primary() -> list[int]:
    """The log position of the primary; empty while the primary is away."""
    return [10]


@pytest.fixture
def pages(
    request: pytest.FixtureRequest, store: FakeStore, primary: list[int]
) -> Iterator[PageCache]:
    has_replica = request.cls is TestPosition
    pages = PageCache(
        store,
        current_lsn=(lambda: next(iter(primary), None)) if has_replica else None,
        sleep=store.sleep,
        clock=lambda: sum(store.slept),
    )
    yield pages
    pages.close()


def get(pages: PageCache, body: bytes = b"fresh") -> tuple[bytes, CacheStatus]:
    return pages.get_or_produce(PAGE, lambda _: body)


def never(_lsn: int | None) -> bytes:
    pytest.fail("produced although there is a page")


def fail(_lsn: int | None) -> bytes:
    raise KeyError


class TestReading:
    def test_page_read_before_a_write_is_not_stored_after_it(
        self, pages: PageCache, caplog: pytest.LogCaptureFixture
    ) -> None:
        def overtaken(_lsn: int | None) -> bytes:
            pages.invalidate()
            return b"old"

        with caplog.at_level("INFO", "user_service"):
            assert pages.get_or_produce(PAGE, overtaken) == (b"old", MISS)
        assert caplog.messages == ["page cache refused a page that was read before a write"]
        assert get(pages, b"new") == (b"new", MISS)

    def test_failed_producer_gives_its_claim_back(self, pages: PageCache, store: FakeStore) -> None:
        for store.failing in (set(), {"give_back"}):
            with pytest.raises(KeyError):
                pages.get_or_produce(PAGE, fail)
            assert store.calls[-1] == "give_back"
        assert store.pages == {}

    def test_redis_that_stores_no_page_costs_one_command_and_two_lines_of_the_log(
        self, pages: PageCache, store: FakeStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        """``tests/integration/test_page_cache.py`` has commands that read."""
        caplog.set_level("INFO", "user_service")
        store.failing = {"store"}
        for _ in range(3):
            assert get(pages) == (b"fresh", MISS)
        assert store.calls.count("store") == 3
        store.failing = set()
        get(pages)
        assert caplog.messages == [
            "pages not stored in the cache: away",
            "pages stored in the cache again",
        ]


@pytest.mark.parametrize("fails", [False, True])
def test_reader_after_a_write_does_not_join_a_read_from_before(
    pages: PageCache, store: FakeStore, fails: bool
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def read_slowly(_lsn: int | None) -> bytes:
        begun.set()
        assert go_on.wait(LONG)
        return b"old"

    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(pages.get_or_produce, PAGE, read_slowly)
        assert begun.wait(LONG)
        store.failing = INVALIDATIONS if fails else set()
        pages.invalidate()
        assert get(pages, b"new") == (b"new", BYPASS if fails else MISS)
        go_on.set()
        assert first.result(LONG) == (b"old", MISS)
    assert get(pages, b"newer")[0] != b"old"


class TestClaimOfAnotherProcess:
    @pytest.fixture(autouse=True)
    def claimed(self, store: FakeStore) -> None:
        store.claimed_by_others.add(PAGE)

    def test_is_awaited_until_the_page_is_stored(self, pages: PageCache, store: FakeStore) -> None:
        def stored_the_third_time() -> None:
            if len(store.slept) == 3:
                store.pages[PAGE] = (b"0", b"theirs")

        store.during_sleep = stored_the_third_time
        assert pages.get_or_produce(PAGE, never) == (b"theirs", MISS)
        assert store.slept == [CLAIM_POLL_INTERVAL] * 3

    @pytest.mark.parametrize(
        ("seconds_left", "waits"),
        [(LONG, WAIT_FOR_CLAIM), (WAIT_FOR_CLAIM, WAIT_FOR_CLAIM / 2), (0, 0)],
    )
    def test_is_waited_for_half_of_the_time_left_at_most(
        self, pages: PageCache, store: FakeStore, seconds_left: float, waits: float
    ) -> None:
        with deadline.within(seconds_left):
            assert get(pages, b"ours") == (b"ours", MISS)
        assert sum(store.slept) == pytest.approx(waits, abs=2 * CLAIM_POLL_INTERVAL)
        assert store.pages == {PAGE: (b"0", b"ours")}

    @pytest.mark.parametrize(
        ("meanwhile", "is_stored"),
        [
            pytest.param(lambda store: store.claimed_by_others.clear(), True, id="claim ended"),
            pytest.param(FakeStore.replace_generation, False, id="write"),
            pytest.param(lambda store: store.failing.add("look_up"), False, id="failure of Redis"),
        ],
    )
    def test_is_waited_for_no_longer_than_it_counts(
        self,
        pages: PageCache,
        store: FakeStore,
        meanwhile: Callable[[FakeStore], None],
        is_stored: bool,
    ) -> None:
        store.during_sleep = lambda: meanwhile(store)
        assert get(pages, b"ours") == (b"ours", MISS)
        assert len(store.slept) == 1
        assert (PAGE in store.pages, store.our_claims) == (is_stored, set())

    @pytest.mark.parametrize("ended", [False, True])
    def test_is_given_back_only_by_the_process_that_has_it(
        self, pages: PageCache, store: FakeStore, ended: bool
    ) -> None:
        store.during_sleep = store.claimed_by_others.clear if ended else lambda: None
        with pytest.raises(KeyError):
            pages.get_or_produce(PAGE, fail)
        assert ("give_back" in store.calls) is ended


def told_to_a_miss(pages: PageCache) -> int | None:
    """Return the position with which the cache asks for a page that it does not have."""
    body, _ = pages.get_or_produce(PAGE, lambda lsn: json.dumps(lsn).encode())
    told: int | None = json.loads(body)
    return told


class TestPosition:
    """With a replica of the database, reads need the position that it must have replayed."""

    @pytest.fixture(params=[PageCache.required_lsn, told_to_a_miss])
    def position(self, request: pytest.FixtureRequest, pages: PageCache) -> Position:
        return partial(request.param, pages)

    def test_is_not_asked_for_to_serve_a_hit(self, pages: PageCache, store: FakeStore) -> None:
        store.pages[PAGE] = (b"0", b"page")
        assert pages.get_or_produce(PAGE, never) == (b"page", HIT)
        assert store.calls == ["look_up"]

    def test_leaves_claims_of_others_alone(self, pages: PageCache, store: FakeStore) -> None:
        store.claimed_by_others.add(PAGE)
        get(pages)
        assert store.slept

    def test_is_that_of_a_write_in_between(self, position: Position, store: FakeStore) -> None:
        store.before["settle"] = lambda: store.replace_generation(20)
        assert position() == 20

    @pytest.mark.parametrize("failing", [{"look_up", "current"}, {"settle"}, {"primary"}])
    def test_is_unknown_without_redis_or_the_primary(
        self, position: Position, store: FakeStore, primary: list[int], failing: set[str]
    ) -> None:
        store.failing = failing
        if "primary" in failing:
            primary.clear()
        assert position() is None

    def test_is_unknown_after_a_failed_invalidation(
        self, position: Position, pages: PageCache, store: FakeStore
    ) -> None:
        assert position() == 10
        store.failing = INVALIDATIONS
        pages.invalidate()
        assert position() is None


class TestFailedInvalidation:
    """A process whose invalidation failed reads no page until it has succeeded."""

    @pytest.fixture(autouse=True)
    def old_page(self, pages: PageCache, store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """A page in the cache after a write that could not invalidate it."""
        monkeypatch.setattr("user_service.cache.page_cache.REPAIR_INTERVAL", 0.001)
        get(pages, b"old")
        store.failing = INVALIDATIONS
        pages.invalidate()

    def test_stops_reading_in_this_process_only(
        self, pages: PageCache, store: FakeStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(3):
            assert get(pages, b"new") == (b"new", BYPASS)
        assert get(PageCache(store)) == (b"old", HIT)
        pages.invalidate()
        message = "page cache not invalidated, reading it stops until it is: away"
        assert [each.message for each in caplog.get_records("setup")] == [message]
        assert caplog.messages == []

    def test_is_repeated_in_the_background_until_it_succeeds(
        self, pages: PageCache, store: FakeStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        eventually(lambda: store.calls.count("repair") > 3)
        with caplog.at_level("INFO", "user_service"):
            store.failing = set()
            eventually(lambda: get(pages, b"new") == (b"new", MISS))
            message = "page cache invalidated after all, reading it goes on"
            eventually(lambda: caplog.messages == [message])
        assert get(pages) == get(PageCache(store)) == (b"new", HIT)
        assert store.generation == 1  # one command makes up for it

    def test_during_its_repair_is_repaired_too(self, pages: PageCache, store: FakeStore) -> None:
        second_repair = threading.Event()

        def fail_again() -> None:
            store.before["repair"] = lambda: second_repair.wait(LONG)
            pages.invalidate()
            store.failing = set()

        store.before["repair"] = fail_again
        eventually(lambda: store.generation == 1)
        # The first repair has succeeded. It does not cover the write that failed meanwhile.
        assert get(pages, b"new") == (b"new", BYPASS)
        second_repair.set()
        eventually(lambda: get(pages, b"new") == (b"new", MISS))
        assert store.generation == 2

    def test_is_not_repeated_after_the_end(self, pages: PageCache, store: FakeStore) -> None:
        eventually(lambda: "repair" in store.calls)
        pages.close()
        assert "close" in store.calls
        eventually(lambda: "page-cache-repair" not in {each.name for each in threading.enumerate()})


def test_page_with_other_members_of_users_has_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("user_service.domain.user.USER_MEMBERS", ("id", "username"))
    assert runpy.run_path(page_store.__file__)["PAGE_PREFIX"] != page_store.PAGE_PREFIX
