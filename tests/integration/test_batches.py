"""What requests ask for at the same moment, on a real PostgreSQL and a real Redis."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import psycopg2
import pytest
import redis as redis_py
from flask.testing import FlaskClient
from psycopg2.extensions import connection

from tests.integration.test_metrics import users_locked, value
from tests.responses import json_of
from tests.servers import Servers
from tests.waiting import eventually
from user_service.cache.connection import redis_client
from user_service.cache.store import PREFIX, PageStore
from user_service.errors import ConnectionLost, Unavailable
from user_service.resilience import batch, deadline
from user_service.resilience.batch import Batcher
from user_service.resilience.breaker import State
from user_service.web.services import Services

URL = "/api/v1/users"
LONG = 30.0  # seconds: nobody who does as they should waits for so long


@pytest.fixture(autouse=True)
def _batches_gather_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "BATCH_WAIT", LONG)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as threads:
        yield threads


@pytest.fixture
def store(servers: Servers, redis: redis_py.Redis) -> Iterator[PageStore]:
    store = PageStore(redis_client(servers.redis_url, timeout=LONG), ttl=60, stale_ttl=300)
    yield store
    store.close()


@contextmanager
def writes_held_up(redis: redis_py.Redis) -> Iterator[None]:
    """Let Redis answer no command that may write for a block."""
    redis.execute_command("CLIENT PAUSE", int(1000 * LONG), "WRITE")
    try:
        yield
    finally:
        redis.execute_command("CLIENT UNPAUSE")


def has_gathered(batcher: Batcher[Any, Any], number: int) -> bool:
    """Tell whether the next batch has so many questions."""
    gathering = batcher._gathering
    return (len(gathering.keys) if gathering else 0) == number


def terminated_one(admin: connection) -> bool:
    """End the session that waits for the lock, if there is one; return whether there was."""
    with admin.cursor() as cursor:
        cursor.execute("""
            SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'
        """)
        return cursor.fetchall() == [(True,)]


def together(
    batcher: Batcher[Any, Any],
    threads: ThreadPoolExecutor,
    first: Callable[[], object],
    calls: list[Callable[[], Any]],
) -> list[Future[Any]]:
    """Begin ``first``, which must be held up, and then all of ``calls``, as one batch."""
    threads.submit(first)
    eventually(lambda: batcher._under_way.locked() and not batcher._gathering)
    begun = []
    for number, call in enumerate(calls, 1):
        begun.append(threads.submit(call))
        eventually(partial(has_gathered, batcher, number))
    return begun


def test_gets_are_one_statement_and_each_has_its_own_user(
    client: FlaskClient, services: Services, database_url: str, threads: ThreadPoolExecutor
) -> None:
    for name in ("ada", "bob", "eve"):
        client.post(URL, json={"username": name, "email": f"{name}@example.com"})

    def get(number: int) -> tuple[int, object]:
        answer = client.application.test_client().get(f"{URL}/{number}")
        return answer.status_code, json_of(answer).get("username")

    before = value(client, "pool_checkout_duration_seconds_count", pool="database")
    with users_locked(database_url):
        answers = together(
            services.users._gets,
            threads,
            lambda: get(1),
            [partial(get, number) for number in (1, 3, 2**63 - 1, 2)],
        )
        answers += [threads.submit(get, 3) for _ in range(10)]
        eventually(lambda: services.users._gets._gathering is not None)
        assert services.database.stats().in_use == 1
    assert [answer.result(LONG) for answer in answers] == [
        (200, "ada"),
        (200, "eve"),
        (404, None),
        (200, "bob"),
        *[(200, "eve")] * 10,
    ]
    after = value(client, "pool_checkout_duration_seconds_count", pool="database")
    assert 2 <= after - before <= 3


def test_get_sees_what_was_committed_while_another_was_under_way(
    client: FlaskClient, services: Services, database_url: str, threads: ThreadPoolExecutor
) -> None:
    client.post(URL, json={"username": "ada", "email": "ada@example.com"})
    with users_locked(database_url) as cursor:
        (second,) = together(
            services.users._gets,
            threads,
            lambda: services.users.get(1),
            [lambda: services.users.get(1)],
        )
        cursor.execute("UPDATE users SET username = 'eve', username_canonical = 'eve'")
    assert second.result(LONG).username == "eve"


def test_lost_connection_of_many_is_a_retry_of_one(
    client: FlaskClient, services: Services, database_url: str, threads: ThreadPoolExecutor
) -> None:
    for name in ("ada", "bob", "eve"):
        client.post(URL, json={"username": name, "email": f"{name}@example.com"})
    with users_locked(database_url), closing(psycopg2.connect(database_url)) as admin:
        admin.autocommit = True
        answers = together(
            services.users._gets,
            threads,
            partial(services.users.get, 9),
            [partial(services.users.get, number) for number in (1, 2, 3)],
        )
        eventually(lambda: terminated_one(admin))  # after which the three are asked for
        eventually(lambda: terminated_one(admin))
    ends = [answer.exception(LONG) for answer in answers]
    assert [type(end) for end in ends if end] == [ConnectionLost]  # of the one who asked


def test_what_many_waited_for_in_vain_opens_the_breaker(
    services: Services, database_url: str, threads: ThreadPoolExecutor
) -> None:
    def get(number: int) -> object:
        with deadline.within(2):
            return services.users.get(number)

    gets = services.users._gets
    with users_locked(database_url):
        with gets._under_way:
            answers = [threads.submit(get, number) for number in range(1, 6)]
            eventually(lambda: has_gathered(gets, 5))
        assert all(isinstance(answer.exception(LONG), Unavailable) for answer in answers)
        assert services.database.breaker.state is State.OPEN


def test_claim_of_one_refill_is_had_by_one(
    store: PageStore, redis: redis_py.Redis, threads: ThreadPoolExecutor
) -> None:
    generation = store.current().generation
    store.claim("before", generation, LONG)
    names = ["1:50"] * 5 + ["2:50", "before"]
    with writes_held_up(redis):
        claims = together(
            store._claims,
            threads,
            lambda: store.claim("first", generation, LONG),
            [partial(store.claim, name, generation, LONG) for name in names],
        )
    had = [claim.result(LONG) for claim in claims]
    assert sum(had[:5]) == 1
    assert had[5:] == [True, False]


def test_of_refills_each_is_kept_if_it_is_current(
    store: PageStore, redis: redis_py.Redis, threads: ThreadPoolExecutor
) -> None:
    old = store.current().generation
    store.move_on()
    new = store.current().generation
    for generation, name in ((old, "late"), (new, "1:50"), (new, "2:50")):
        store.claim(name, generation, LONG)
    with writes_held_up(redis):
        refills = together(
            store._stores,
            threads,
            lambda: store.store("first", new, b"first"),
            [
                lambda: store.store("late", old, b"old"),
                lambda: store.store("1:50", new, b"one"),
                lambda: store.store("2:50", new, b"two"),
            ],
        )
    assert [refill.result(LONG) for refill in refills] == [False, True, True]
    assert store.look_up("late").body is None
    assert (store.look_up("1:50").body, store.look_up("2:50").body) == (b"one", b"two")
    assert 0 < redis.ttl(PREFIX + "2:50") <= 300
    assert not list(redis.scan_iter("*refill*"))  # all claims are given back


@pytest.mark.parametrize(("positions", "reached"), [([5, 9, 7], 9), ([5, None, 9], None), ([1], 2)])
def test_invalidations_are_one_that_reaches_the_last_write(
    store: PageStore,
    redis: redis_py.Redis,
    threads: ThreadPoolExecutor,
    positions: list[int | None],
    reached: int | None,
) -> None:
    store.settle(store.current().generation, 1)
    with writes_held_up(redis):
        moves = together(
            store._moves,
            threads,
            lambda: store.move_on(2),
            [partial(store.move_on, lsn) for lsn in positions],
        )
    for move in moves:
        move.result(LONG)
    assert store.current().lsn == reached


def test_invalidation_is_waited_for_by_whoever_has_no_time_left(
    store: PageStore, redis: redis_py.Redis, threads: ThreadPoolExecutor
) -> None:
    def late() -> None:
        with deadline.within(0):
            store.move_on(3)

    with writes_held_up(redis):
        calls: list[Callable[[], object]] = [partial(store.move_on, 2), late]
        moves = together(store._moves, threads, partial(store.move_on, 1), calls)
        with pytest.raises(TimeoutError):
            moves[1].result(0.1)
    assert moves[1].result(LONG) is None
