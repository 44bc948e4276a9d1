"""What the page cache keeps in Redis, on one that fails when a test says so."""

from collections.abc import Callable
from typing import Any, cast

import pytest
from redis import ConnectionError as RedisConnectionError
from redis import RedisError, ResponseError
from redis import TimeoutError as RedisTimeoutError

from user_service.cache.page_store import (
    _CONFIRM_HISTORY,
    _LOOK_UP_OR_CLAIM,
    _MOVE_ON_FROM,
    _REPLACE_IF_CURRENT,
    _STORE_IF_CURRENT,
    BODY_AT,
    CLAIM_SECONDS,
    GENERATION_KEY,
    GENERATION_LENGTH,
    HISTORY_KEY,
    LSN_LENGTH,
    PREFIX,
    UNKNOWN_LSN,
    Found,
    PageStore,
    RedisFailure,
    Refill,
)
from user_service.cache.redis_client import RedisClient
from user_service.resilience.breaker import State

TTL, STALE_TTL = 60, 300
PAGE_KEY = PREFIX + "1:50"
CLAIM_KEY = PAGE_KEY + ":refill"


class FakeRedis:
    """What the store asks of Redis, in a dictionary. ``failing`` commands raise ``error``."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.expiries: dict[str, object] = {}
        self.failing: set[str] = set()
        self.error: RedisError = RedisConnectionError("away")
        self.calls: list[str] = []
        self.before: dict[str, Callable[[], None]] = {}
        self.history = b"0f" * 20
        self.connections_made = 0
        self.disconnected = False

    def _called(self, command: str) -> None:
        self.calls.append(command)
        self.before.pop(command, lambda: None)()
        if command in self.failing:
            raise self.error

    def get(self, key: str) -> bytes | None:
        self._called("get")
        return self.values.get(key)

    def set(self, key: str, value: bytes, *, nx: bool = False) -> bool | None:
        self._called("set")
        if nx and key in self.values:
            return None
        self.values[key], self.expiries[key] = value, None
        return True

    def mget(self, keys: list[str]) -> Any:
        self._called("mget")
        return [self.values.get(key) for key in keys]

    def delete(self, key: str) -> None:
        self._called("delete")
        self.values.pop(key, None)

    def close(self) -> None:
        self.disconnected = True

    def register_script(self, script: str) -> Callable[..., Any]:
        scripts: dict[str, Callable[..., Any]] = {
            _CONFIRM_HISTORY: self._confirm_history,
            _LOOK_UP_OR_CLAIM: self._look_up_or_claim,
            _MOVE_ON_FROM: self._move_on_from,
            _REPLACE_IF_CURRENT: self._replace_if_current,
            _STORE_IF_CURRENT: self._store_if_current,
        }
        return scripts[script]

    def _move_on_from(self, keys: list[str], arguments: list[bytes]) -> None:
        self._called("script")
        lsn, rest = arguments
        current = self.values.get(keys[0], UNKNOWN_LSN)[:LSN_LENGTH]
        self.values[keys[0]] = max(current, lsn) + rest

    def _replace_if_current(self, keys: list[str], arguments: list[bytes]) -> int:
        self._called("script")
        old, new = arguments
        if self.values.get(keys[0]) != old:
            return 0
        self.values[keys[0]] = new
        return 1

    def _look_up_or_claim(self, keys: list[str], arguments: list[Any]) -> list[Any]:
        self._called("look_up")
        now, ttl, claim_ms, process = arguments
        history, generation, *found = [self.values.get(key) for key in keys]
        if generation is None:
            return [history, None, *found]
        answer: list[Any] = [history, generation]
        for page, claim, key in zip(found[::2], found[1::2], keys[3::2], strict=True):
            is_current = (
                page is not None
                and page.startswith(generation)
                and abs(now - int(page[GENERATION_LENGTH:BODY_AT])) < ttl
            )
            token = generation[LSN_LENGTH:]
            mine = token + process.encode()
            is_anothers = claim is not None and claim != mine and claim.startswith(token)
            is_ours = not is_current and not is_anothers
            if is_ours:
                self.values[key], self.expiries[key] = mine, claim_ms
            answer += [page if is_current else None, int(is_ours)]
        return answer

    def _store_if_current(self, keys: list[str], arguments: list[Any]) -> int:
        self._called("script")
        ((generation, *keys), (ttl, process, *arguments)), kept = (keys, arguments), 0
        for page, claim, of, rest in zip(
            keys[::2], keys[1::2], arguments[::2], arguments[1::2], strict=True
        ):
            if self.values.get(claim) == of[LSN_LENGTH:] + process.encode():
                del self.values[claim]
            is_current = self.values.get(generation) == of
            if is_current:
                self.values[page], self.expiries[page] = of + rest, ttl
            kept += is_current
        return kept

    def _confirm_history(self, keys: list[str]) -> bytes:
        self._called("confirm")
        if self.values.get(keys[0]) != self.history:
            self.values[keys[0]] = self.history
            self.values.pop(keys[1], None)
        return self.history


class Clock:
    """Stands still until a test moves it on."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def redis() -> FakeRedis:
    return FakeRedis()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(redis: FakeRedis, clock: Clock) -> PageStore:
    return PageStore(cast("RedisClient", redis), ttl=TTL, stale_ttl=STALE_TTL, clock=clock)


def generation_of(store: PageStore) -> bytes:
    return store.current().generation


def keep(store: PageStore, body: bytes = b"body", name: str = "1:50") -> bytes:
    """Store ``body`` in the current generation, as another process does, and return that."""
    generation = generation_of(store)
    assert another(store).store([Refill(name, generation, body)])
    return generation


def another(store: PageStore) -> PageStore:
    """Return the store of another process, on the same Redis."""
    ttl, stale_ttl = store._ttl, store._stale_ttl
    return PageStore(store._redis, ttl=ttl, stale_ttl=stale_ttl, clock=store._clock)


class TestLookUp:
    def test_finds_what_was_stored_with_one_command(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        generation = keep(store)
        redis.calls.clear()
        assert store.look_up("1:50") == Found(generation, b"body")
        assert redis.calls == ["look_up"]

    @pytest.mark.parametrize("body", [b"", b"\0\xff\r\n", b"0" * 100])
    def test_finds_the_same_bytes(self, store: PageStore, body: bytes) -> None:
        keep(store, body)
        assert store.look_up("1:50").body == body

    @pytest.mark.parametrize("name", ["2:50", "1:5", "1:500", ""])
    def test_every_name_has_an_entry_of_its_own(self, store: PageStore, name: str) -> None:
        keep(store)
        assert store.look_up(name).body is None

    def test_begins_a_generation_where_there_is_none(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        generation = generation_of(store)
        assert redis.values == {GENERATION_KEY: generation, HISTORY_KEY: redis.history}
        assert generation_of(store) == generation

    def test_takes_the_generation_that_another_began_meanwhile(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        redis.before["set"] = lambda: redis.values.update({GENERATION_KEY: b"theirs"})
        assert generation_of(store) == b"theirs"
        assert redis.values[GENERATION_KEY] == b"theirs"

    def test_generation_does_not_expire(self, store: PageStore, redis: FakeRedis) -> None:
        generation_of(store)
        store.move_on()
        assert redis.expiries[GENERATION_KEY] is None

    def test_generation_is_never_used_twice(self, store: PageStore, redis: FakeRedis) -> None:
        seen = set()
        for _ in range(100):
            redis.values.clear()
            seen.add(generation_of(store))
            store.move_on()
            seen.add(generation_of(store))
        assert len(seen) == 200

    def test_does_not_find_what_is_of_another_generation(self, store: PageStore) -> None:
        before = keep(store)
        store.move_on()
        found = store.look_up("1:50")
        assert found.body is None
        assert found.generation != before

    def test_finds_nothing_after_redis_lost_the_generation(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        keep(store)
        del redis.values[GENERATION_KEY]
        assert store.look_up("1:50").body is None
        assert store.look_up("1:50").body is None


class TestCopies:
    """A page that the process has had travels no more; the generation is asked for every time."""

    @pytest.fixture
    def generation(self, store: PageStore) -> bytes:
        """The generation, in which a page was stored and looked up once."""
        generation = keep(store)
        assert store.look_up("1:50") == Found(generation, b"body")
        return generation

    def test_is_found_without_asking_for_the_page(
        self, store: PageStore, redis: FakeRedis, generation: bytes
    ) -> None:
        del redis.values[PAGE_KEY], redis.calls[:]
        assert store.look_up("1:50") == Found(generation, b"body")
        assert redis.calls == ["mget"]

    def test_is_also_had_of_what_the_process_is_yet_to_store(
        self, store: PageStore, redis: FakeRedis, generation: bytes
    ) -> None:
        redis.calls.clear()
        store.keep_copy(Refill("2:50", generation, b"ours"))
        assert store.look_up("2:50") == Found(generation, b"ours")
        assert redis.calls == ["mget"]

    def test_is_also_had_of_what_was_produced_during_the_look_up(
        self, store: PageStore, redis: FakeRedis, generation: bytes
    ) -> None:
        redis.before["look_up"] = lambda: store.keep_copy(Refill("2:50", generation, b"ours"))
        assert store.look_up("2:50") == Found(generation, b"ours")

    def test_is_not_had_of_what_was_read_before_a_write(
        self, store: PageStore, generation: bytes
    ) -> None:
        store.move_on()
        store.keep_copy(Refill("2:50", generation, b"late"))
        assert store.look_up("2:50").body is None

    def test_is_not_found_after_a_write(self, store: PageStore, generation: bytes) -> None:
        store.move_on()
        found = store.look_up("1:50")
        assert found.body is None
        assert found.generation != generation

    @pytest.mark.usefixtures("generation")
    def test_is_not_found_after_redis_lost_everything(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        redis.values.clear()
        assert store.look_up("1:50").body is None

    @pytest.mark.usefixtures("generation")
    def test_gives_way_to_what_another_process_has_stored_since(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        store.move_on()
        current = redis.values[GENERATION_KEY]
        store.store([Refill("1:50", current, b"newer")])
        assert store.look_up("1:50") == Found(current, b"newer")

    @pytest.mark.usefixtures("generation")
    def test_does_not_outlive_it_when_the_clock_is_set_back(
        self, store: PageStore, clock: Clock
    ) -> None:
        keep(store)
        assert store.look_up("1:50").body
        clock.now -= 3600
        assert store.look_up("1:50").body is None

    def test_does_not_outlive_the_page(self, store: PageStore, clock: Clock) -> None:
        clock.now += TTL
        assert store.look_up("1:50").body is None

    @pytest.mark.usefixtures("generation")
    def test_failure_is_a_failure_whatever_is_copied(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        redis.failing.add("mget")
        with pytest.raises(RedisFailure):
            store.look_up("1:50")

    @pytest.mark.parametrize("junk", [b"", b"x", b"junk" * 40])
    def test_what_is_no_page_is_none(
        self, store: PageStore, redis: FakeRedis, junk: bytes, generation: bytes
    ) -> None:
        redis.values[PREFIX + "2:50"] = junk
        assert store.look_up("2:50") == Found(generation)


class TestHistory:
    def test_is_confirmed_once_for_as_long_as_the_server_is_the_same(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        keep(store)
        redis.calls.clear()
        for _ in range(3):
            store.look_up("1:50")
        assert redis.calls == ["look_up", "mget", "mget"]

    def test_is_confirmed_after_each_change_and_keeps_the_generation(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        generation = keep(store)
        for _ in range(2):
            redis.connections_made += 1
            assert store.look_up("1:50") == Found(generation, b"body")
        assert redis.calls.count("confirm") == 3

    def test_of_another_server_ends_the_generation(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        generation = keep(store)
        redis.connections_made, redis.history = 1, b"a0" * 20
        found = store.look_up("1:50")
        assert found.body is None
        assert found.generation != generation
        assert store.look_up("1:50").generation == found.generation

    def test_that_another_process_confirmed_is_confirmed_here_too(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        """A server may begin a new history without losing its connections."""
        keep(store)
        redis.history = b"a0" * 20
        redis.connections_made = 1
        other = PageStore(cast("RedisClient", redis), ttl=TTL, stale_ttl=STALE_TTL)
        generation = generation_of(other)
        redis.connections_made = 0
        assert [generation_of(store) for _ in range(3)] == [generation] * 3

    def test_change_during_the_look_up_is_noticed(self, store: PageStore, redis: FakeRedis) -> None:
        keep(store)

        def reconnect() -> None:
            redis.connections_made, redis.history = 1, b"a0" * 20

        redis.before["look_up"] = reconnect
        assert store.look_up("1:50").body is None

    def test_copy_is_not_found_where_the_server_is_lost_after_its_generation_was(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        """The next server is behind a write, and has the generation from before that."""
        generation = keep(store)
        assert store.look_up("1:50").body == b"body"
        del redis.values[GENERATION_KEY]

        def promote() -> None:
            redis.connections_made, redis.history = 1, b"a0" * 20
            redis.values[GENERATION_KEY] = generation

        redis.before["set"] = promote
        assert store.current().generation != generation
        assert store.look_up("1:50").body is None

    def test_late_page_of_a_former_history_is_not_found(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        generation = generation_of(store)
        redis.connections_made, redis.history = 1, b"a0" * 20
        assert store.store([Refill("1:50", generation, b"old")])  # before anybody has looked
        assert store.look_up("1:50").body is None

    @pytest.mark.parametrize("ask", ["current", "settle"])
    def test_of_another_server_makes_the_position_unknown(
        self, store: PageStore, redis: FakeRedis, ask: str
    ) -> None:
        """A write whose position is lost may have been acknowledged: the primary is to be asked."""
        begun = generation_of(store)
        store.settle(begun, 10)
        redis.connections_made, redis.history = 1, b"a0" * 20
        found = store.current() if ask == "current" else store.settle(b"of the old master", 20)
        assert found.lsn is None
        assert store.current() == found


class TestFreshness:
    @pytest.mark.parametrize(
        ("seconds", "fresh"),
        [
            (0, True),
            (TTL - 1.6, True),
            (TTL, False),
            (STALE_TTL, False),
            (-5, True),
            (-TTL - 1, False),
        ],
    )
    def test_is_a_matter_of_the_clock(
        self, store: PageStore, clock: Clock, seconds: float, fresh: bool
    ) -> None:
        keep(store)
        clock.now += seconds
        assert (store.look_up("1:50").body is not None) is fresh

    def test_is_not_prolonged_by_reading(self, store: PageStore, clock: Clock) -> None:
        keep(store)
        for _ in range(6):
            clock.now += TTL / 6
            found = store.look_up("1:50")
        assert found.body is None

    def test_begins_anew_when_the_page_is_stored_again(
        self, store: PageStore, clock: Clock
    ) -> None:
        keep(store, b"first")
        clock.now += TTL
        keep(store, b"second")
        clock.now += TTL - 2
        assert store.look_up("1:50").body == b"second"

    def test_of_an_old_page_is_not_its_generations_fault(
        self, store: PageStore, clock: Clock
    ) -> None:
        generation = keep(store)
        clock.now += TTL
        assert store.look_up("1:50") == Found(generation, None)


class TestStale:
    def test_page_is_found_whatever_its_generation_and_age(
        self, store: PageStore, clock: Clock
    ) -> None:
        keep(store)
        clock.now += TTL + 1
        store.move_on()
        assert store.look_up_stale("1:50") == b"body"

    def test_page_that_never_was_is_not_found(self, store: PageStore) -> None:
        assert store.look_up_stale("1:50") is None

    @pytest.mark.parametrize(("stale_ttl", "kept"), [(300, 300), (61, 61), (10, 60), (0, 60)])
    def test_page_is_kept_for_the_longer_of_both_times(
        self, redis: FakeRedis, stale_ttl: int, kept: int
    ) -> None:
        keep(PageStore(cast("RedisClient", redis), ttl=60, stale_ttl=stale_ttl))
        assert redis.expiries[PAGE_KEY] == kept


class TestStore:
    def test_refuses_what_is_of_a_generation_that_is_over(self, store: PageStore) -> None:
        before = generation_of(store)
        store.move_on()
        assert not store.store([Refill("1:50", before, b"old")])
        assert store.look_up("1:50").body is None

    def test_late_page_does_not_displace_the_one_stored_meanwhile(self, store: PageStore) -> None:
        before = generation_of(store)
        store.move_on()
        keep(store, b"new")
        assert not store.store([Refill("1:50", before, b"old")])
        assert store.look_up("1:50").body == b"new"
        assert store.look_up_stale("1:50") == b"new"


class TestClaim:
    """Whoever looks a page up that is not there has claimed it for its process by that."""

    @pytest.fixture
    def other(self, store: PageStore) -> PageStore:
        return another(store)

    def test_is_had_by_one_process(self, store: PageStore, other: PageStore) -> None:
        looks = [each.look_up("1:50").is_ours for each in (store, other, store, other)]
        assert looks == [True, False, True, False]

    def test_is_not_that_of_the_child_of_a_process(
        self, store: PageStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert store.look_up("1:50").is_ours
        monkeypatch.setattr("os.getpid", lambda: 1)
        assert not store.look_up("1:50").is_ours

    def test_is_of_one_page_in_one_generation(self, store: PageStore, other: PageStore) -> None:
        for each in (store, other):
            store.move_on()
            assert all(each.look_up(name).is_ours for name in ("1:50", "2:50"))

    def test_is_on_nothing_that_is_there(self, store: PageStore, redis: FakeRedis) -> None:
        keep(store)
        store.look_up("1:50")
        assert redis.values.keys() == {GENERATION_KEY, HISTORY_KEY, PAGE_KEY}

    def test_is_on_what_is_out_of_date(
        self, store: PageStore, other: PageStore, clock: Clock
    ) -> None:
        keep(store)
        clock.now += TTL
        assert [each.look_up("1:50").is_ours for each in (store, other)] == [True, False]

    def test_of_a_new_generation_is_in_that(
        self, store: PageStore, other: PageStore, redis: FakeRedis
    ) -> None:
        """Also of one that begins with the look-up: of many after a flush, one reads a page."""
        store.look_up("1:50")
        redis.values.clear()
        assert [each.look_up("1:50").is_ours for each in (other, store)] == [True, False]

    def test_outlives_that_its_position_is_settled(
        self, store: PageStore, other: PageStore
    ) -> None:
        found = store.look_up("1:50")
        settled = store.settle(found.generation, 10)
        assert settled.is_as_old_as(found)
        assert not other.look_up("1:50").is_ours

    @pytest.mark.parametrize("over", [False, True])
    def test_is_given_back_by_storing_also_in_vain(
        self, store: PageStore, redis: FakeRedis, over: bool
    ) -> None:
        generation = store.look_up("1:50").generation
        if over:
            store.move_on()
        assert store.store([Refill("1:50", generation, b"body")]) is not over
        assert CLAIM_KEY not in redis.values

    def test_of_another_generation_is_not_given_back_by_storing(
        self, store: PageStore, other: PageStore
    ) -> None:
        before = store.look_up("1:50").generation
        store.move_on()
        assert store.look_up("1:50").is_ours
        assert not store.store([Refill("1:50", before, b"old")])
        assert not other.look_up("1:50").is_ours

    def test_of_another_process_is_not_given_back_by_storing(
        self, store: PageStore, other: PageStore, redis: FakeRedis
    ) -> None:
        generation = store.look_up("1:50").generation
        assert other.store([Refill("1:50", generation, b"body")])
        assert CLAIM_KEY in redis.values

    def test_is_another_s_once_it_is_given_back(self, store: PageStore, other: PageStore) -> None:
        store.look_up("1:50")
        store.give_back("1:50")
        assert other.look_up("1:50").is_ours

    def test_runs_out_by_itself(self, store: PageStore, redis: FakeRedis) -> None:
        store.look_up("1:50")
        assert redis.expiries[CLAIM_KEY] == CLAIM_SECONDS * 1000

    def test_is_no_page(self, store: PageStore) -> None:
        store.look_up("1:50")
        assert store.look_up("1:50").body is None
        assert store.look_up_stale("1:50") is None


COMMANDS: dict[str, Callable[[PageStore], object]] = {
    "look_up": lambda store: store.look_up("1:50"),
    "look_up_stale": lambda store: store.look_up_stale("1:50"),
    "store": lambda store: store.store([Refill("1:50", b"generation", b"body")]),
    "give_back": lambda store: store.give_back("1:50"),
    "move_on": lambda store: store.move_on(),
}
EVERYTHING = {"look_up", "mget", "delete", "get", "set", "script", "confirm"}


class TestFailure:
    @pytest.mark.parametrize(
        "command", [*COMMANDS.values(), PageStore.ping], ids=[*COMMANDS, "ping"]
    )
    @pytest.mark.parametrize(
        "error",
        [
            RedisConnectionError("refused"),
            RedisTimeoutError("too slow"),
            ResponseError("MISCONF"),
            ResponseError("OOM command not allowed"),
        ],
        ids=str,
    )
    def test_is_one_exception_with_its_cause(
        self,
        store: PageStore,
        redis: FakeRedis,
        error: RedisError,
        command: Callable[[PageStore], object],
    ) -> None:
        redis.failing, redis.error = EVERYTHING, error
        with pytest.raises(RedisFailure, match=str(error)) as raised:
            command(store)
        assert raised.value.__cause__ is error

    def test_of_the_begin_of_a_generation_is_one_too(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        redis.failing = {"set"}
        with pytest.raises(RedisFailure):
            store.look_up("1:50")


class TestBreaker:
    def test_who_insists_moves_the_generation_on_whatever_it_says(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        redis.failing = EVERYTHING
        for _ in range(3):
            with pytest.raises(RedisFailure):
                store.look_up("1:50")
        redis.failing, before = set(), redis.values.get(GENERATION_KEY)
        assert store.breaker.state is State.OPEN
        store.insist_on_moving_on()
        assert redis.values[GENERATION_KEY] != before

    @pytest.mark.parametrize("error", [RedisConnectionError("refused"), RedisTimeoutError("slow")])
    @pytest.mark.parametrize("name", COMMANDS)
    def test_silence_opens_it_after_three_commands(
        self, store: PageStore, redis: FakeRedis, name: str, error: RedisError
    ) -> None:
        redis.failing, redis.error = EVERYTHING, error
        states = []
        for _ in range(3):
            with pytest.raises(RedisFailure):
                COMMANDS[name](store)
            states.append(store.breaker.state)
        assert states == [State.CLOSED, State.CLOSED, State.OPEN]
        redis.calls.clear()
        with pytest.raises(RedisFailure, match="Redis did not answer lately"):
            store.look_up("1:50")
        assert redis.calls == []

    def test_error_that_redis_answers_does_not_open_it(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        redis.failing, redis.error = EVERYTHING, ResponseError("OOM command not allowed")
        for _ in range(9):
            with pytest.raises(RedisFailure, match="OOM"):
                store.move_on()
        assert store.breaker.state is State.CLOSED

    def test_ping_is_asked_whatever_its_state_and_does_not_change_it(
        self, store: PageStore, redis: FakeRedis
    ) -> None:
        redis.failing = EVERYTHING
        for _ in range(9):
            with pytest.raises(RedisFailure, match="away"):
                store.ping()
        for _ in range(3):
            store.breaker.refuse_if_open()
            with pytest.raises(RedisFailure):
                store.look_up("1:50")
        redis.failing = set()
        store.ping()
        assert store.breaker.state is State.OPEN


def test_close_closes_the_connections(store: PageStore, redis: FakeRedis) -> None:
    store.close()
    assert redis.disconnected
