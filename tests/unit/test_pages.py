"""The page cache, on a Redis that fails when a test says so. tests/integration has a real one."""

import logging
from collections.abc import Callable
from typing import Any, cast

import pytest
from redis import ConnectionError as RedisConnectionError
from redis import Redis, RedisError, ResponseError
from redis import TimeoutError as RedisTimeoutError

from user_service.cache.pages import GENERATION_KEY, CacheStatus, PageCache

TTL = 60
HIT, MISS, BYPASS = CacheStatus.HIT, CacheStatus.MISS, CacheStatus.BYPASS


class FakeRedis:
    """What the page cache asks of Redis, in a dictionary. ``failing`` commands raise ``error``."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.ttls: list[int] = []
        self.failing: set[str] = set()
        self.error: RedisError = RedisConnectionError("away")
        self.calls: list[str] = []
        self.before: dict[str, Callable[[], None]] = {}

    def _called(self, command: str) -> None:
        self.calls.append(command)
        self.before.pop(command, lambda: None)()
        if command in self.failing:
            raise self.error

    def mget(self, *keys: str) -> list[bytes | None]:
        self._called("mget")
        return [self.values.get(key) for key in keys]

    def set(self, key: str, value: bytes, *, nx: bool = False, get: bool = False) -> bytes | None:
        self._called("set")
        current = self.values.get(key)
        if current is None or not nx:
            self.values[key] = value
        return current if get else None

    def ping(self) -> bool:
        self._called("ping")
        return True

    def register_script(self, _script: str) -> Callable[[list[str], list[Any]], int]:
        def store_if_current(keys: list[str], arguments: list[Any]) -> int:
            self._called("script")
            if self.values.get(keys[0]) != arguments[0]:
                return 0
            self.values[keys[1]] = arguments[0] + arguments[1]
            self.ttls.append(arguments[2])
            return 1

        return store_if_current


@pytest.fixture
def redis() -> FakeRedis:
    return FakeRedis()


@pytest.fixture
def pages(redis: FakeRedis) -> PageCache:
    return PageCache(cast("Redis", redis), ttl=TTL)


def get(pages: PageCache, body: bytes = b"fresh", page: int = 1) -> tuple[bytes, CacheStatus]:
    return pages.get_or_produce(f"{page}:50", lambda: body)


class TestWithRedis:
    def test_second_reader_gets_the_stored_page(self, pages: PageCache, redis: FakeRedis) -> None:
        assert get(pages, b"first") == (b"first", MISS)
        assert get(pages, b"second") == (b"first", HIT)
        assert redis.ttls == [TTL]

    def test_hit_is_one_command_and_produces_nothing(
        self, pages: PageCache, redis: FakeRedis
    ) -> None:
        get(pages)
        redis.calls.clear()
        body, _ = pages.get_or_produce("1:50", lambda: pytest.fail("produced in spite of a hit"))
        assert (body, redis.calls) == (b"fresh", ["mget"])

    @pytest.mark.parametrize("name", ["2:50", "1:5", "1:500", ""])
    def test_every_name_has_an_entry_of_its_own(self, pages: PageCache, name: str) -> None:
        get(pages, b"1:50")
        assert pages.get_or_produce(name, lambda: b"other") == (b"other", MISS)

    def test_empty_body_is_a_hit_too(self, pages: PageCache) -> None:
        get(pages, b"")
        assert get(pages, b"other") == (b"", HIT)

    def test_write_makes_every_page_unreachable(self, pages: PageCache) -> None:
        get(pages, b"old")
        get(pages, b"old", page=2)
        pages.invalidate()
        assert get(pages, b"new") == (b"new", MISS)
        assert get(pages, b"new", page=2) == (b"new", MISS)

    def test_page_read_before_a_write_is_not_stored_after_it(
        self, pages: PageCache, caplog: pytest.LogCaptureFixture
    ) -> None:
        def produce_while_another_writes() -> bytes:
            pages.invalidate()
            return b"old"

        with caplog.at_level(logging.INFO, "user_service"):
            pages.get_or_produce("1:50", produce_while_another_writes)
        assert caplog.messages == ["page cache refused a page that was read before a write"]
        assert get(pages, b"new") == (b"new", MISS)

    def test_page_read_before_a_flush_is_not_stored_after_it(
        self, pages: PageCache, redis: FakeRedis
    ) -> None:
        def produce_while_redis_is_flushed() -> bytes:
            redis.values.clear()
            get(pages, b"other", page=2)
            return b"old"

        pages.get_or_produce("1:50", produce_while_redis_is_flushed)
        assert get(pages, b"new") == (b"new", MISS)

    def test_generation_is_never_used_twice(self, pages: PageCache, redis: FakeRedis) -> None:
        seen = set()
        for _ in range(100):
            redis.values.clear()
            get(pages)
            seen.add(redis.values[GENERATION_KEY])
            pages.invalidate()
            seen.add(redis.values[GENERATION_KEY])
        assert len(seen) == 200

    def test_generation_that_another_reader_began_is_kept(
        self, pages: PageCache, redis: FakeRedis
    ) -> None:
        redis.before["set"] = lambda: redis.values.update({GENERATION_KEY: b"theirs"})
        assert get(pages) == (b"fresh", MISS)
        assert redis.values[GENERATION_KEY] == b"theirs"
        assert get(pages, b"other") == (b"fresh", HIT)

    def test_failure_of_the_producer_is_not_swallowed_or_stored(self, pages: PageCache) -> None:
        def fail() -> bytes:
            raise KeyError

        with pytest.raises(KeyError):
            pages.get_or_produce("1:50", fail)
        assert get(pages) == (b"fresh", MISS)

    def test_is_reachable(self, pages: PageCache) -> None:
        assert pages.is_reachable()


class TestWithoutRedis:
    @pytest.fixture(
        autouse=True,
        params=[
            RedisConnectionError("refused"),
            RedisTimeoutError("too slow"),
            ResponseError("MISCONF"),
            ResponseError("OOM command not allowed"),
        ],
        ids=str,
    )
    def error(self, redis: FakeRedis, request: pytest.FixtureRequest) -> None:
        redis.error = request.param

    @pytest.mark.parametrize(
        ("failing", "status"),
        [
            pytest.param({"mget"}, BYPASS, id="lookup"),
            pytest.param({"set"}, BYPASS, id="begin of a generation"),
            pytest.param({"script"}, MISS, id="store"),
            pytest.param({"mget", "set", "script", "ping"}, BYPASS, id="everything"),
        ],
    )
    def test_reader_gets_the_fresh_body(
        self, pages: PageCache, redis: FakeRedis, failing: set[str], status: CacheStatus
    ) -> None:
        redis.failing = failing
        assert get(pages) == (b"fresh", status)

    @pytest.mark.parametrize("command", ["mget", "set", "script"])
    def test_cause_is_logged_once(
        self, pages: PageCache, redis: FakeRedis, caplog: pytest.LogCaptureFixture, command: str
    ) -> None:
        redis.failing = {command}
        get(pages)
        (warning,) = caplog.records
        assert warning.levelno == logging.WARNING
        assert str(redis.error) in warning.message

    def test_bypass_costs_one_failing_command(self, pages: PageCache, redis: FakeRedis) -> None:
        redis.failing = {"mget", "set", "script"}
        get(pages)
        assert redis.calls == ["mget"]

    def test_entry_is_not_served(self, pages: PageCache, redis: FakeRedis) -> None:
        get(pages, b"old")
        redis.failing = {"mget"}
        assert get(pages, b"new") == (b"new", BYPASS)

    def test_write_raises_nothing(
        self, pages: PageCache, redis: FakeRedis, caplog: pytest.LogCaptureFixture
    ) -> None:
        redis.failing = {"set"}
        pages.invalidate()
        assert f"reading it stops until it is: {redis.error}" in caplog.text

    def test_is_not_reachable(self, pages: PageCache, redis: FakeRedis) -> None:
        redis.failing = {"ping"}
        assert not pages.is_reachable()


class TestFailedInvalidation:
    @pytest.fixture(autouse=True)
    def old_page(self, pages: PageCache, redis: FakeRedis) -> None:
        """An old page is in the cache, and the write after it could not invalidate."""
        get(pages, b"old")
        redis.failing = {"set"}
        pages.invalidate()

    def test_stops_reading_until_it_is_repaired(self, pages: PageCache, redis: FakeRedis) -> None:
        for _ in range(3):
            assert get(pages, b"new") == (b"new", BYPASS)
        redis.failing = set()
        assert get(pages, b"new") == (b"new", MISS)
        assert get(pages, b"other") == (b"new", HIT)

    def test_is_repaired_once(self, pages: PageCache, redis: FakeRedis) -> None:
        redis.failing = set()
        get(pages)
        redis.calls.clear()
        get(pages)
        assert redis.calls == ["mget"]

    def test_repair_is_logged(
        self, pages: PageCache, redis: FakeRedis, caplog: pytest.LogCaptureFixture
    ) -> None:
        redis.failing = set()
        with caplog.at_level(logging.INFO, "user_service"):
            get(pages)
        assert "page cache invalidated after all, reading it goes on" in caplog.messages

    def test_that_comes_during_a_repair_is_not_forgotten(
        self, pages: PageCache, redis: FakeRedis
    ) -> None:
        def another_write_fails() -> None:
            redis.failing = {"set"}
            pages.invalidate()
            redis.failing = set()

        redis.failing = set()
        redis.before["set"] = another_write_fails
        get(pages, b"between the writes")
        # The repair succeeded, and does not stand for the write that failed while it ran.
        assert get(pages, b"new") == (b"new", MISS)

    def test_many_are_repaired_by_one_command(self, pages: PageCache, redis: FakeRedis) -> None:
        for _ in range(9):
            pages.invalidate()
        redis.failing = set()
        redis.calls.clear()
        get(pages)
        assert redis.calls == ["set", "mget", "script"]

    def test_does_not_stop_writes_from_invalidating(
        self, pages: PageCache, redis: FakeRedis
    ) -> None:
        before = redis.values[GENERATION_KEY]
        redis.failing = set()
        pages.invalidate()
        assert redis.values[GENERATION_KEY] != before
