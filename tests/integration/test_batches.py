"""What requests ask for at the same moment, on a real PostgreSQL and a real Redis."""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import Any, get_args

import psycopg2
import pytest
import redis as redis_py
from flask.testing import FlaskClient
from psycopg2.extensions import connection, cursor
from pytest_mock import MockerFixture

from tests.integration.test_database import every_connection_held
from tests.integration.test_metrics import users_locked, value
from tests.responses import json_of
from tests.servers import Servers
from tests.waiting import eventually
from user_service.cache.page_store import PREFIX, PageStore, Refill
from user_service.cache.redis_client import redis_client
from user_service.database import page_reader, pool, shared_writes
from user_service.database.page_reader import MOST, Place
from user_service.database.replica import Replica
from user_service.database.user_lists import Shape, list_statement, statement_together
from user_service.database.user_repository import UserRepository
from user_service.domain.idempotency import StoredResponse
from user_service.domain.positions import Count, Order, Position, Side, SortColumn
from user_service.errors import ConnectionLost, DeadlineExceeded, Unavailable
from user_service.resilience import batch, deadline
from user_service.resilience.batch import Batcher
from user_service.resilience.breaker import State
from user_service.web.services import Services

URL = "/api/v1/users"
LONG = 30.0  # seconds: nobody who does as they should waits for so long


@pytest.fixture(autouse=True)
def _batches_gather_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "BATCH_WAIT", LONG)
    monkeypatch.setattr(batch, "DEADLINE_SPREAD", 0.5)  # and gathering takes a test its time


@pytest.fixture
def _locks_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let shared transactions do so for as long as a test takes."""
    monkeypatch.setattr(shared_writes, "LOCK_TIMEOUT", LONG)


@pytest.fixture
def _pool_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pages share a statement as if it were, while there are connections for the test."""
    monkeypatch.setattr(pool.Database, "is_full", True)


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
    calls: Sequence[Callable[[], Any]],
) -> list[Future[Any]]:
    """Begin ``first``, which must be held up, and then all of ``calls``, as one batch."""
    threads.submit(first)
    eventually(lambda: batcher._under_way.locked() and not batcher._gathering)
    return _begun(batcher, threads, calls)


def at_once(
    batcher: Batcher[Any, Any], threads: ThreadPoolExecutor, calls: Sequence[Callable[[], Any]]
) -> list[Future[Any]]:
    """Begin all of ``calls`` as one batch."""
    with batcher._under_way:
        return _begun(batcher, threads, calls)


def _begun(
    batcher: Batcher[Any, Any], threads: ThreadPoolExecutor, calls: Sequence[Callable[[], Any]]
) -> list[Future[Any]]:
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


def created(users: UserRepository, name: str) -> StoredResponse:
    return users.create(name, f"{name}@example.com", lambda _: StoredResponse(201, {}, b""))


Asked = tuple[Batcher[Any, Any], Callable[[int], object]]


@pytest.fixture(params=["gets", "pages", "creates"])
def asked(services: Services, request: pytest.FixtureRequest) -> Asked:
    """What is shared by those who ask the database, and how to ask for something with a number."""
    users = services.users
    if request.param == "creates":
        return users._creations._batcher, lambda number: created(users, f"user{number}")
    for number in range(6):
        created(users, f"user{number}")
    if request.param == "pages":
        request.getfixturevalue("_pool_is_full")
        batcher = users._pages._batcher(Shape(counted=True))
        return batcher, lambda number: users.page(number, 2)
    return users._gets, lambda number: users.get(number + 1)


@pytest.mark.parametrize("asked", ["gets", "pages"], indirect=True)
def test_lost_connection_of_many_is_one_failure(
    asked: Asked, database_url: str, admin: connection, threads: ThreadPoolExecutor
) -> None:
    """One who asked has to retry, and the breaker counts one: it opens after five."""
    batcher, ask = asked
    with users_locked(database_url):
        answers = at_once(batcher, threads, [partial(ask, number) for number in range(6)])
        eventually(lambda: terminated_one(admin))
    ends = [answer.exception(LONG) for answer in answers]
    assert [type(end) for end in ends if end] == [ConnectionLost]


def places_of(order: Order, side: Side | None, number: int, *, far: bool) -> list[Place]:
    """Return places of every kind in a list of ``number`` users, with pages of several sizes."""
    if side is None:
        positions: list[Position | int] = [int(far), 2, number - 1, number, number + 1, 99]
    elif side is Side.END:
        positions = [Position(side)]
    else:
        values: dict[str, list[Any]] = {
            "id": [0, 1, 3, number, number + 1],
            "username": ["", "user3", "user_a", "user.", "z"],
        }
        at = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 4, 28)]
        of_order = values.get(order.by, at)
        positions = [Position(side, value, user_id) for value in of_order for user_id in (0, 3, 99)]
    places = [Place(position, limit) for position in positions for limit in (1, 3, 100)]
    return random.Random(0).sample(places, min(MOST - 1, len(places)))


@pytest.mark.usefixtures("_pool_is_full")
@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("count", ["exact", "none"])
def test_page_that_was_read_with_others_is_the_one_that_is_read_alone(
    services: Services,
    threads: ThreadPoolExecutor,
    mocker: MockerFixture,
    count: Count,
    far: bool,
) -> None:
    mocker.patch.object(page_reader, "MANY", 1 if far else 100)
    days = (1, 2, 2, 2, 3, 4, 5)  # some of the same moment, whose ids tell the order
    # Sorted by code point, as an index is, and not by a language.
    names = ("user_b", "user.a", "user-c", "userz", "USER3", "user_a", "user.b")
    for name, created_on in zip(names, days, strict=True):
        created(services.users, name)
        with services.database.read() as cursor:
            cursor.execute(
                "UPDATE users SET created_at = %(on)s, updated_at = %(on)s WHERE username = %(of)s",
                {"on": datetime(2026, 1, created_on, tzinfo=UTC), "of": name},
            )
    together = mocker.spy(page_reader, "statement_together")
    sides = (None,) if far else (None, *Side)
    for by, descending, side in product(get_args(SortColumn), (False, True), sides):
        order = Order(by, descending)
        read = partial(services.users.page, order=order, count=count)
        places = places_of(order, side, len(days), far=far)
        shape = Shape((), order, side, counted=count == "exact", far=far)
        batcher = services.users._pages._batcher(shape)
        answers = at_once(batcher, threads, [partial(read, *place) for place in places])
        for place, answer in zip(places, answers, strict=True):
            assert answer.result(LONG) == read(*place), (order, place)
        if len(places) > 1:
            together.assert_called_with(shape, len(places))


def test_pages_that_wait_for_a_connection_are_one_statement(
    client: FlaskClient, services: Services, threads: ThreadPoolExecutor, mocker: MockerFixture
) -> None:
    for name in ("ada", "bob", "eve"):
        post(client, name)
    rows = mocker.spy(page_reader, "_rows")
    batcher = services.users._pages._batcher(Shape(counted=True))

    def names_on(page: int) -> tuple[list[str], int]:
        answer = json_of(client.application.test_client().get(f"{URL}?page={page}&per_page=1"))
        return [user["username"] for user in answer["users"]], answer["pagination"]["total"]

    with every_connection_held(services.database) as held:
        answers = [threads.submit(names_on, 3)]
        eventually(lambda: services.database.stats().waiting == 1)
        for number, page in enumerate((1, 4, 2), 1):
            answers.append(threads.submit(names_on, page))
            eventually(partial(has_gathered, batcher, number))
        held.close()
        results = [answer.result(LONG) for answer in answers]
    assert results == [(["eve"], 3), (["ada"], 3), ([], 3), (["bob"], 3)]
    shape = Shape(counted=True)
    assert [call.args[1] for call in rows.call_args_list] == [
        list_statement(shape),
        statement_together(shape, 3),
        list_statement(shape, even_if_empty=True),
    ]


def test_page_is_read_alone_while_there_are_connections_unless_others_wait(
    services: Services, threads: ThreadPoolExecutor, mocker: MockerFixture
) -> None:
    batcher = services.users._pages._batcher(Shape(counted=True))
    get = mocker.spy(batcher, "get")
    services.users.page(0, 2)
    assert get.call_count == 0
    with batcher._under_way, every_connection_held(services.database) as held:
        waiting = threads.submit(services.users.page, 0, 2)
        eventually(lambda: batcher.is_gathering)
        held.close()
        overtaking = threads.submit(services.users.page, 2, 2)
        eventually(lambda: get.call_count == 2)
    assert not waiting.result(LONG).users
    assert not overtaking.result(LONG).users


@pytest.mark.usefixtures("_pool_is_full")
def test_no_more_pages_are_one_statement_than_would_wait_for_each_other(
    services: Services, threads: ThreadPoolExecutor, mocker: MockerFixture
) -> None:
    together = mocker.spy(page_reader, "statement_together")
    shape = Shape(counted=True)
    batcher = services.users._pages._batcher(shape)
    with batcher._under_way:
        pages = [threads.submit(services.users.page, number, 1) for number in range(MOST + 3)]
        eventually(lambda: has_gathered(batcher, 3))
    assert [page.result(LONG).total for page in pages] == [0] * (MOST + 3)
    assert sorted(call.args[1] for call in together.call_args_list) == [3, MOST]


@pytest.mark.usefixtures("_pool_is_full")
def test_pages_share_the_primary_where_the_replica_cannot_be_read(
    services: Services, database_url: str, threads: ThreadPoolExecutor
) -> None:
    replica = Replica(database_url, size=1, checkout_timeout=LONG, statement_timeout=LONG)
    users = UserRepository(services.database, replica)
    batcher = users._pages._batcher(Shape(counted=True))
    with batcher._under_way:  # a server that never followed another is no replica
        pages = [threads.submit(users.page, number, 1) for number in range(3)]
        eventually(lambda: has_gathered(batcher, 3))
        assert replica.fallbacks == 3
    assert [page.result(LONG).total for page in pages] == [0] * 3
    replica.close()


def ask_soon(ask: Callable[[int], object], number: int = 0) -> object:
    with deadline.within(2):
        return ask(number)


@pytest.mark.usefixtures("_locks_are_waited_for")
def test_what_many_waited_for_in_vain_opens_the_breaker(
    services: Services, asked: Asked, database_url: str, threads: ThreadPoolExecutor
) -> None:
    batcher, ask = asked
    calls = [partial(ask_soon, ask, number) for number in range(5)]
    with users_locked(database_url):
        answers = at_once(batcher, threads, calls)
        assert all(isinstance(answer.exception(LONG), Unavailable) for answer in answers)
        assert services.database.breaker.state is not State.CLOSED


@pytest.mark.usefixtures("_locks_are_waited_for")
def test_who_has_little_time_left_fails_nobody_who_has_more(
    asked: Asked, database_url: str, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "BATCH_WAIT", 1)  # for which others could join
    batcher, ask = asked
    with users_locked(database_url), batcher._under_way:
        soon = threads.submit(ask_soon, ask)
        eventually(lambda: has_gathered(batcher, 1))
        others = [threads.submit(ask, number) for number in (1, 2)]
        assert isinstance(soon.exception(LONG), DeadlineExceeded)
    assert all(other.exception(LONG) is None for other in others)


def post(client: FlaskClient, username: str, email: str | None = None) -> tuple[int | str, ...]:
    """Create a user in a client of one's own; return the status and what the problem is, if any."""
    body = {"username": username, "email": email or f"{username}@example.com"}
    answer = client.application.test_client().post(URL, json=body)
    if answer.status_code == 201:
        return (201,)
    problem = json_of(answer)
    at_fault = [error["field"] for error in problem.get("errors", [])]
    return answer.status_code, problem["type"].rpartition(":")[2], *at_fault


def patch(client: FlaskClient, user_id: int, username: str) -> int:
    own = client.application.test_client()
    return own.patch(f"{URL}/{user_id}", json={"username": username}).status_code


def written(admin: connection) -> dict[str, tuple[int, str]]:
    """Return the version of each user, and the transaction that has written it, by username."""
    with admin.cursor() as cursor:
        cursor.execute("SELECT username, version, xmin::text FROM users")
        return {name: (version, xid) for name, version, xid in cursor.fetchall()}


@pytest.fixture
def admin(database_url: str) -> Iterator[connection]:
    with closing(psycopg2.connect(database_url)) as admin:
        admin.autocommit = True
        yield admin


def test_creates_are_one_transaction_and_each_its_own_success(
    client: FlaskClient,
    services: Services,
    database_url: str,
    admin: connection,
    threads: ThreadPoolExecutor,
) -> None:
    post(client, "ada")
    with users_locked(database_url):
        answers = together(
            services.users._creations._batcher,
            threads,
            partial(post, client, "first"),
            [
                partial(post, client, *names)
                for names in (("Ada",), ("eve",), ("bob",), ("bob",), ("BOB", "b@b.org"), ("dan",))
            ],
        )
    taken, eve, *bobs, dan = [answer.result(LONG) for answer in answers]
    assert taken == (409, "user-exists", "username")
    assert eve == dan == (201,)
    assert sorted(bobs) == [(201,), *[(409, "user-exists", "username")] * 2]
    users = written(admin)
    assert sorted(map(str.lower, users)) == ["ada", "bob", "dan", "eve", "first"]
    assert users["eve"] == users["dan"] != users["first"]


def test_creates_of_one_address_are_one_user(
    client: FlaskClient, services: Services, admin: connection, threads: ThreadPoolExecutor
) -> None:
    names = [f"user{n}" for n in range(9)]
    answers = at_once(
        services.users._creations._batcher,
        threads,
        [partial(post, client, name, "same@example.com") for name in names],
    )
    ends = {name: answer.result(LONG) for name, answer in zip(names, answers, strict=True)}
    refused = (409, "user-exists", "email")
    assert sorted(ends.values()) == [(201,), *[refused] * 8]
    assert list(written(admin)) == [name for name, end in ends.items() if end != refused]


def test_updates_are_one_transaction_and_none_is_lost(
    client: FlaskClient, services: Services, admin: connection, threads: ThreadPoolExecutor
) -> None:
    for name in ("ada", "bob", "eve"):
        post(client, name)
    changes = [(1, "ada2"), (2, "bob2"), (2, "bob3"), (99, "nobody"), (3, "eve2")]
    answers = at_once(
        services.users._changes._batcher,
        threads,
        [partial(patch, client, *change) for change in changes],
    )
    assert [answer.result(LONG) for answer in answers] == [200, 200, 200, 404, 200]
    users = written(admin)
    assert users["ada2"] == users["eve2"]
    bob = users.get("bob2") or users["bob3"]
    assert bob[0] == 3  # both changes were made to it, one after the other
    assert bob[1] != users["ada2"][1]


def test_update_that_is_refused_refuses_no_other(
    client: FlaskClient, services: Services, admin: connection, threads: ThreadPoolExecutor
) -> None:
    for name in ("ada", "bob", "eve", "dan"):
        post(client, name)
    answers = at_once(
        services.users._changes._batcher,
        threads,
        [partial(patch, client, *change) for change in ((1, "ada2"), (2, "DAN"), (3, "eve2"))],
    )
    assert [answer.result(LONG) for answer in answers] == [200, 409, 200]
    versions = {name: version for name, (version, _) in written(admin).items()}
    assert versions == {"ada2": 2, "bob": 1, "eve2": 2, "dan": 1}


@pytest.mark.usefixtures("_locks_are_waited_for")
def test_who_waits_for_a_locked_user_waits_alone(
    client: FlaskClient,
    services: Services,
    database_url: str,
    threads: ThreadPoolExecutor,
) -> None:
    for name in ("ada", "bob", "eve"):
        post(client, name)
    with closing(psycopg2.connect(database_url)) as other:
        other.cursor().execute("SELECT FROM users WHERE id = 1 FOR UPDATE")
        ada, bob, eve = at_once(
            services.users._changes._batcher,
            threads,
            [partial(patch, client, *change) for change in ((1, "ada2"), (2, "bob2"), (3, "eve2"))],
        )
        assert (bob.result(LONG), eve.result(LONG)) == (200, 200)
        assert not ada.done()
    assert ada.result(LONG) == 200


def test_who_waits_for_a_name_waits_alone(
    client: FlaskClient, services: Services, database_url: str, threads: ThreadPoolExecutor
) -> None:
    with closing(psycopg2.connect(database_url)) as other:
        other.cursor().execute("""
            INSERT INTO users (username, username_canonical, email, email_canonical)
            VALUES ('ada', 'ada', 'other@example.com', 'other@example.com')
        """)
        ada, bob = at_once(
            services.users._creations._batcher,
            threads,
            [partial(post, client, "ada"), partial(post, client, "bob")],
        )
        assert bob.result(LONG) == (201,)
        assert not ada.done()
    assert ada.result(LONG) == (201,)


@pytest.mark.usefixtures("_locks_are_waited_for")
def test_lost_connection_of_many_writes_is_made_up_for_once(
    services: Services,
    database_url: str,
    admin: connection,
    threads: ThreadPoolExecutor,
) -> None:
    with users_locked(database_url):
        answers = at_once(
            services.users._creations._batcher,
            threads,
            [partial(created, services.users, f"user{number}") for number in range(6)],
        )
        eventually(lambda: terminated_one(admin))
    ends = [answer.exception(LONG) for answer in answers]
    assert [type(end) for end in ends if end] == [ConnectionLost]  # of the one who led
    assert len(written(admin)) == 5


def test_commit_that_is_lost_leaves_all_outcomes_unknown(
    client: FlaskClient,
    services: Services,
    admin: connection,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit = pool._commit

    def cut(cursor: cursor) -> None:
        with admin.cursor() as ending:
            ending.execute(
                "SELECT pg_terminate_backend(%s, 10000)", (cursor.connection.get_backend_pid(),)
            )
        commit(cursor)

    client.get(URL)
    monkeypatch.setattr(pool, "_commit", cut)
    answers = at_once(
        services.users._creations._batcher,
        threads,
        [partial(post, client, name) for name in ("ada", "bob", "eve")],
    )
    assert {answer.result(LONG) for answer in answers} == {(503, "outcome-unknown")}
    assert written(admin) == {}
    assert client.get(URL).headers["X-Cache"] == "MISS"  # as it may have been committed


def ended(_: cursor) -> None:
    raise SystemExit


def test_whose_writer_is_told_to_end_does_not_know_the_outcome(
    client: FlaskClient,
    services: Services,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "_commit", ended)
    leader, follower = at_once(
        services.users._creations._batcher,
        threads,
        [partial(post, client, "ada"), partial(post, client, "bob")],
    )
    assert isinstance(leader.exception(LONG), SystemExit)
    assert follower.result(LONG) == (503, "outcome-unknown")


def test_write_that_is_told_to_end_may_have_been_committed(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.get(URL)
    monkeypatch.setattr(pool, "_commit", ended)
    with pytest.raises(SystemExit):
        post(client, "ada")
    assert client.get(URL).headers["X-Cache"] == "MISS"


def test_writes_beside_a_replica_share_nothing(
    services: Services, database_url: str, threads: ThreadPoolExecutor
) -> None:
    replica = Replica(database_url, size=1, checkout_timeout=LONG, statement_timeout=LONG)
    users = UserRepository(services.database, replica)
    with users._creations._batcher._under_way, users._changes._batcher._under_way:
        assert threads.submit(created, users, "ada").result(LONG / 2).status == 201
        assert threads.submit(users.update, 1, "bob", None).result(LONG / 2).username == "bob"
    replica.close()


@pytest.fixture
def another(servers: Servers) -> Iterator[PageStore]:
    """The store of another process."""
    another = PageStore(redis_client(servers.redis_url, timeout=LONG), ttl=60, stale_ttl=300)
    yield another
    another.close()


def test_look_up_claims_what_is_not_there_and_no_other_process_has_claimed(
    store: PageStore, another: PageStore, redis: redis_py.Redis, threads: ThreadPoolExecutor
) -> None:
    another.look_up("claimed")
    another.store([Refill("stored", store.current().generation, b"body")])
    names = ["1:50", "2:50", "claimed", "stored"]
    with writes_held_up(redis):
        looks = together(
            store._look_ups,
            threads,
            lambda: store.look_up("first"),
            [partial(store.look_up, name) for name in names],
        )
    found = [look.result(LONG) for look in looks]
    assert [each.is_ours for each in found[:3]] == [True, True, False]
    assert [each.body for each in found] == [None, None, None, b"body"]
    assert [store.look_up(name).is_ours for name in names[:3]] == [True, True, False]
    assert [another.look_up(name).is_ours for name in names[:3]] == [False, False, True]


def test_of_refills_each_is_kept_if_it_is_current(
    store: PageStore, another: PageStore, redis: redis_py.Redis
) -> None:
    old = store.look_up("late").generation
    store.move_on()
    new = store.look_up("1:50").generation
    assert store.look_up("2:50").is_ours
    assert store.look_up("late").is_ours  # in the new generation, so not that of who is late
    another.look_up("3:50")
    kept = store.store(
        [
            Refill("late", old, b"old"),
            Refill("1:50", new, b"one"),
            Refill("2:50", new, b"two"),
            Refill("3:50", new, b"three"),
        ]
    )
    assert kept == 3
    left = {f"{PREFIX}late:refill".encode(), f"{PREFIX}3:50:refill".encode()}
    assert set(redis.scan_iter("*refill*")) == left
    assert store.look_up("late").body is None
    assert (store.look_up("1:50").body, store.look_up("2:50").body) == (b"one", b"two")
    assert 0 < redis.ttl(PREFIX + "2:50") <= 300


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
