"""``Idempotency-Key``, on real servers: a write is done once, however often it is sent."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import timedelta
from typing import Any

import orjson
import psycopg2
import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import connection, cursor
from pytest_mock import MockerFixture
from werkzeug.test import TestResponse

from tests.responses import fields_of, json_of, problem_of
from user_service.database import stored_responses
from user_service.database.stored_responses import REMOVED_PER_WRITE
from user_service.domain.idempotency import KeyedRequest, StoredResponse, fingerprint
from user_service.errors import ConnectionLost, OutcomeUnknown
from user_service.web.services import Services

URL = "/api/v1/users"
KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"
ADA = {"username": "ada", "email": "ada@example.com"}
GRACE = {"username": "grace", "email": "grace@example.com"}
IN_FLIGHT = "urn:user-service:problem:idempotency-key-in-flight"
REUSED = "urn:user-service:problem:idempotency-key-reused"
NOW = "2026-11-22T19:41:06.123456+00:00"
# What another process has answered and stored.
STORED = StoredResponse(
    201,
    {
        "ETag": '"77-1"',
        "Last-Modified": "Sun, 22 Nov 2026 19:41:06 GMT",
        "Cache-Control": "private, no-cache",
        "Location": f"{URL}/77",
    },
    orjson.dumps({"id": 77, **ADA, "created_at": NOW, "updated_at": NOW}),
)


@pytest.fixture
def admin(database_url: str) -> Iterator[cursor]:
    """A cursor of the tests' own, beside the pool, on a database without keys."""
    with closing(psycopg2.connect(database_url)) as opened:
        opened.autocommit = True
        with opened.cursor() as own:
            own.execute("TRUNCATE idempotency_keys")
            yield own


@pytest.fixture(autouse=True)
def no_keys(admin: cursor) -> None:
    """No key is known."""


@pytest.fixture
def other(database_url: str, admin: cursor) -> Iterator[cursor]:
    """A cursor in a transaction of its own, as another process has it."""
    with closing(psycopg2.connect(database_url)) as opened, opened.cursor() as own:
        yield own


def post(client: FlaskClient, key: str | None = KEY, body: Any = None) -> TestResponse:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post(URL, json=ADA if body is None else body, headers=headers)


def rows(admin: cursor, sql: str) -> list[tuple[Any, ...]]:
    admin.execute(sql)
    return admin.fetchall()


def usernames(admin: cursor) -> list[str]:
    return [name for (name,) in rows(admin, "SELECT username FROM users ORDER BY id")]


def keys(admin: cursor) -> list[str]:
    return [key for (key,) in rows(admin, "SELECT key FROM idempotency_keys ORDER BY key")]


def same_answer(one: TestResponse, other: TestResponse) -> bool:
    return (one.status_code, one.data, one.headers["Location"], one.mimetype) == (
        other.status_code,
        other.data,
        other.headers["Location"],
        other.mimetype,
    )


def keyed(body: dict[str, str], key: str = KEY) -> KeyedRequest:
    """Return what the route makes of a request with ``key`` and ``body``."""
    return KeyedRequest(key, "POST /api/v1/users", fingerprint(body))


class TestReplay:
    def test_first_answer_is_an_ordinary_one(self, client: FlaskClient, admin: cursor) -> None:
        created = post(client)
        assert created.status_code == 201
        assert "Idempotent-Replay" not in created.headers
        assert json_of(client.get(created.headers["Location"])) == json_of(created)
        assert keys(admin) == [KEY]

    def test_second_answer_is_the_first_again(self, client: FlaskClient, admin: cursor) -> None:
        first = post(client)
        for _ in range(3):
            again = post(client)
            assert same_answer(first, again)
            assert again.headers["Idempotent-Replay"] == "true"
            assert again.headers["X-Request-ID"] != first.headers["X-Request-ID"]
        assert usernames(admin) == ["ada"]

    @pytest.mark.parametrize(
        ("method", "body"),
        [
            ("PUT", GRACE),
            ("PATCH", {"email": "lovelace@example.com"}),
            ("DELETE", None),
        ],
    )
    def test_it_stays_the_same_after_the_user_was_changed_or_deleted(
        self, client: FlaskClient, admin: cursor, method: str, body: dict[str, str] | None
    ) -> None:
        first = post(client)
        location = first.headers["Location"]
        assert client.open(location, method=method, json=body).status_code < 300
        before = rows(admin, "SELECT * FROM users")
        again = post(client)
        assert same_answer(first, again)
        assert again.headers["Idempotent-Replay"] == "true"
        assert rows(admin, "SELECT * FROM users") == before

    def test_same_body_in_another_spelling_is_the_same_request(self, client: FlaskClient) -> None:
        first = post(client)
        spelled = b' {"email" : " ada@example.com ",\n "\\u0075sername": "ada"}\n'
        again = client.post(
            URL,
            data=spelled,
            content_type="application/json; charset=utf-8",
            headers={"Idempotency-Key": f'"{KEY}"'},
        )
        assert same_answer(first, again)

    def test_without_a_key_nothing_is_kept_or_replayed(
        self, client: FlaskClient, admin: cursor
    ) -> None:
        assert post(client, key=None).status_code == 201
        problem_of(post(client, key=None), 409)
        assert keys(admin) == []

    def test_answer_of_another_process_is_replayed_too(
        self, client: FlaskClient, other: cursor
    ) -> None:
        assert stored_responses.begin(other, keyed(ADA)) is None
        stored_responses.remember(other, keyed(ADA), STORED)
        other.connection.commit()
        replayed = post(client)
        assert (replayed.status_code, replayed.data) == (201, STORED.body)
        assert replayed.headers["Location"] == f"{URL}/77"

    def test_other_methods_do_not_read_the_header(self, client: FlaskClient) -> None:
        post(client)
        for key in (KEY, "not a key"):
            changed = client.put(f"{URL}/1", json=GRACE, headers={"Idempotency-Key": key})
            assert json_of(changed)["username"] == "grace"


class TestRefused:
    @pytest.mark.parametrize(
        "body", [GRACE, {**ADA, "email": "ada@example.org"}, {**ADA, "username": "Ada"}]
    )
    def test_key_with_another_body_is_not_processable(
        self, client: FlaskClient, admin: cursor, body: dict[str, str]
    ) -> None:
        first = post(client)
        problem = problem_of(post(client, body=body), 422)
        assert problem["type"] == REUSED
        assert usernames(admin) == ["ada"]
        assert same_answer(first, post(client))

    def test_conflict_is_not_stored(self, client: FlaskClient, admin: cursor) -> None:
        post(client, key=None)
        problem = problem_of(post(client), 409)
        assert problem["type"].endswith("user-exists")
        assert keys(admin) == []
        client.delete(f"{URL}/1")
        created = post(client)
        assert created.status_code == 201
        assert "Idempotent-Replay" not in created.headers

    def test_invalid_body_is_not_stored(self, client: FlaskClient, admin: cursor) -> None:
        problem_of(post(client, body={**ADA, "email": "nowhere"}), 400)
        assert keys(admin) == []
        assert post(client).status_code == 201

    @pytest.mark.parametrize(
        "key", ["", '""', "a b", '"a', "k" * 256, "na\xefve", "a,b", '"a", "b"'], ids=ascii
    )
    def test_malformed_key_is_named_by_its_header_and_writes_nothing(
        self, client: FlaskClient, admin: cursor, key: str
    ) -> None:
        refused = client.post(URL, json=ADA, environ_overrides={"HTTP_IDEMPOTENCY_KEY": key})
        problem_of(refused, 400)
        assert fields_of(refused) == {"Idempotency-Key"}
        assert usernames(admin) == []

    def test_longest_key_is_taken(self, client: FlaskClient) -> None:
        assert post(client, "k" * 255).status_code == 201
        assert post(client, "k" * 255).headers["Idempotent-Replay"] == "true"


class TestInFlight:
    def test_key_whose_lock_is_held_is_a_conflict_that_says_when_to_try_again(
        self, client: FlaskClient, admin: cursor, other: cursor
    ) -> None:
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (KEY,))
        refused = post(client)
        assert problem_of(refused, 409)["type"] == IN_FLIGHT
        assert refused.headers["Retry-After"] == "1"
        assert usernames(admin) == []
        other.connection.rollback()
        assert post(client).status_code == 201

    def test_key_of_an_open_transaction_is_replayed_when_that_is_committed(
        self, client: FlaskClient, other: cursor
    ) -> None:
        assert stored_responses.begin(other, keyed(ADA)) is None
        stored_responses.remember(other, keyed(ADA), STORED)
        for body in (ADA, GRACE):
            assert problem_of(post(client, body=body), 409)["type"] == IN_FLIGHT
        other.connection.commit()
        assert post(client).data == STORED.body

    def test_other_keys_do_not_wait_for_it(self, client: FlaskClient, other: cursor) -> None:
        assert stored_responses.begin(other, keyed(ADA)) is None
        assert post(client, key="another", body=GRACE).status_code == 201

    def test_twenty_at_once_make_one_user(self, client: FlaskClient, admin: cursor) -> None:
        def create(_: int) -> TestResponse:
            return post(client.application.test_client())

        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(create, range(20)))
        created = [answer for answer in answers if answer.status_code == 201]
        refused = [answer for answer in answers if answer.status_code != 201]
        assert len({(each.data, each.headers["Location"]) for each in created}) == 1
        assert sum("Idempotent-Replay" not in each.headers for each in created) == 1
        assert {problem_of(each, 409)["type"] for each in refused} <= {IN_FLIGHT}
        assert usernames(admin) == ["ada"]
        assert keys(admin) == [KEY]


class TestExpiry:
    @pytest.fixture
    def expired(self, admin: cursor) -> list[str]:
        """Three times as many expired keys as one write removes, the oldest first."""
        names = [f"expired {n:02}" for n in range(3 * REMOVED_PER_WRITE)]
        for age, name in enumerate(reversed(names)):
            self.insert(admin, name, f"25 hours {age} minutes")
        return names

    def insert(self, admin: cursor, key: str, age: str) -> None:
        admin.execute(
            "INSERT INTO idempotency_keys (key, route, fingerprint, status, headers, body,"
            " created_at) VALUES (%s, '', '', 201, '{}', '', now() - %s::interval)",
            (key, age),
        )

    def age(self, admin: cursor, age: str) -> None:
        """Make ``KEY`` as old as that."""
        admin.execute(
            "UPDATE idempotency_keys SET created_at = now() - %s::interval WHERE key = %s",
            (age, KEY),
        )

    def test_key_is_kept_for_a_day(self, client: FlaskClient, admin: cursor) -> None:
        first = post(client)
        self.age(admin, "23 hours 59 minutes")
        assert same_answer(first, post(client))
        problem_of(post(client, body=GRACE), 422)

    def test_key_is_forgotten_after_a_day(self, client: FlaskClient, admin: cursor) -> None:
        post(client)
        self.age(admin, "24 hours 1 second")
        created = post(client, body=GRACE)
        assert created.status_code == 201
        assert "Idempotent-Replay" not in created.headers
        assert usernames(admin) == ["ada", "grace"]
        assert same_answer(created, post(client, body=GRACE))

    @pytest.mark.usefixtures("expired")
    def test_key_that_is_used_again_before_it_is_removed_is_kept_for_another_day(
        self, client: FlaskClient, admin: cursor
    ) -> None:
        post(client)
        self.age(admin, "24 hours 1 second")
        created = post(client, body=GRACE)
        assert created.status_code == 201
        age = f"SELECT now() - created_at FROM idempotency_keys WHERE key = '{KEY}'"
        assert rows(admin, age)[0][0] < timedelta(minutes=1)
        assert same_answer(created, post(client, body=GRACE))

    def test_each_keyed_write_removes_some_of_the_oldest(
        self, client: FlaskClient, admin: cursor, expired: list[str]
    ) -> None:
        self.insert(admin, "still kept", "23 hours")
        for number, start in enumerate((10, 20, 30, 30)):
            body = {"username": f"ada{number}", "email": f"ada{number}@example.com"}
            assert post(client, f"key{number}", body).status_code == 201
            left = [key for key in keys(admin) if key.startswith("expired")]
            assert left == expired[start:]
        assert "still kept" in keys(admin)

    @pytest.mark.usefixtures("expired")
    def test_replay_and_refusal_remove_nothing(self, client: FlaskClient, admin: cursor) -> None:
        post(client)
        left = keys(admin)
        post(client)
        post(client, body=GRACE)
        post(client, key="other")
        assert keys(admin) == left

    def test_keys_that_another_removes_are_not_waited_for(
        self, client: FlaskClient, admin: cursor, other: cursor, expired: list[str]
    ) -> None:
        other.execute("DELETE FROM idempotency_keys WHERE key <= %s", (expired[4],))
        assert post(client).status_code == 201
        other.connection.rollback()
        left = [key for key in keys(admin) if key.startswith("expired")]
        assert left == expired[:5] + expired[15:]

    def test_keys_are_found_by_their_indexes(self, database_url: str, admin: cursor) -> None:
        admin.execute(
            "INSERT INTO idempotency_keys SELECT 'key' || n, '', '', 201, '{}', '',"
            " now() - n * interval '5 seconds' FROM generate_series(1, 20000) AS n"
        )
        admin.execute("ANALYZE idempotency_keys")
        with closing(psycopg2.connect(database_url)) as opened:
            explaining = Explaining(opened)
            stored_responses.remember(explaining, keyed(ADA), StoredResponse(201, {}, b""))
            removal, _ = explaining.plans
            explaining.plans.clear()
            stored_responses.find(explaining, keyed(ADA))
            (finding,) = explaining.plans
        for plan in (removal, finding):
            assert "Seq Scan" not in plan
        assert "Index Scan using idempotency_keys_created_at" in removal
        assert "Index Scan using idempotency_keys_pkey" in finding


class Explaining(cursor):
    """Explains every statement instead of running it."""

    def __init__(self, opened: connection) -> None:
        super().__init__(opened)
        self.plans: list[str] = []

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002 -- psycopg2's name
        super().execute(f"EXPLAIN {query}", vars)
        self.plans.append("\n".join(line for (line,) in self.fetchall()))

    def fetchone(self) -> None:
        return None


class TestOneTransaction:
    def test_key_and_user_are_of_the_same(self, client: FlaskClient, admin: cursor) -> None:
        post(client)
        sql = "SELECT users.xmin = idempotency_keys.xmin FROM users, idempotency_keys"
        assert rows(admin, sql) == [(True,)]

    def test_failure_to_store_the_key_leaves_no_user(
        self, client: FlaskClient, admin: cursor
    ) -> None:
        with nothing_can_be_stored(admin):
            problem_of(post(client), 500)
            assert usernames(admin) == keys(admin) == []
        assert post(client).status_code == 201
        assert usernames(admin) == ["ada"]

    def test_failure_to_commit_leaves_neither(self, client: FlaskClient, admin: cursor) -> None:
        with ended_while_committing(admin):
            assert problem_of(post(client), 503)["type"].endswith("outcome-unknown")
            assert usernames(admin) == keys(admin) == []
        again = post(client)
        assert again.status_code == 201
        assert "Idempotent-Replay" not in again.headers


@contextmanager
def nothing_can_be_stored(admin: cursor) -> Iterator[None]:
    """Make PostgreSQL refuse every new key, after the user was inserted."""
    admin.execute("ALTER TABLE idempotency_keys ADD CONSTRAINT none CHECK (false)")
    try:
        yield
    finally:
        admin.execute("ALTER TABLE idempotency_keys DROP CONSTRAINT none")


@contextmanager
def ended_while_committing(admin: cursor) -> Iterator[None]:
    """Make PostgreSQL end the connection that inserts a user during its COMMIT."""
    admin.execute(
        """
        CREATE FUNCTION end_connection() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_terminate_backend(pg_backend_pid());
            PERFORM pg_sleep(10);
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON users
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION end_connection()
        """
    )
    try:
        yield
    finally:
        admin.execute("DROP FUNCTION end_connection CASCADE")


class TestUnknownOutcome:
    """The connection is lost when the server has committed, before it has said so."""

    @pytest.fixture
    def losses(self, services: Services, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The next commit is followed by the loss of its answer, which is noted here."""
        losses: list[str] = []

        def losing(
            use: Callable[..., AbstractContextManager[cursor]],
        ) -> Callable[..., AbstractContextManager[cursor]]:
            @contextmanager
            def use_and_lose(*arguments: object) -> Iterator[cursor]:
                with use(*arguments) as lent:
                    yield lent
                if not losses:
                    losses.append("lost")
                    raise OutcomeUnknown("the connection was lost during COMMIT")

            return use_and_lose

        for use in ("write", "transaction"):
            unspoilt = getattr(services.database, use)
            monkeypatch.setattr(services.database, use, losing(unspoilt))
        return losses

    def test_is_known_after_all_by_the_key(
        self, client: FlaskClient, admin: cursor, losses: list[str]
    ) -> None:
        created = post(client)
        assert losses == ["lost"]
        assert created.status_code == 201
        assert created.headers["Location"] == f"{URL}/1"
        assert json_of(created) == json_of(client.get(f"{URL}/1"))
        assert usernames(admin) == ["ada"]

    @pytest.mark.parametrize("key", ["known-after-all", None])
    def test_write_of_it_is_seen_by_the_next_reader(
        self, client: FlaskClient, losses: list[str], key: str | None
    ) -> None:
        assert client.get(URL).headers["X-Cache"] == "MISS"
        assert client.get(URL).headers["X-Cache"] == "HIT"
        post(client, key=key)
        assert losses == ["lost"]
        assert json_of(client.get(URL))["pagination"]["total"] == 1

    def test_stays_unknown_without_a_key(
        self, client: FlaskClient, admin: cursor, losses: list[str]
    ) -> None:
        problem = problem_of(post(client, key=None), 503)
        assert losses == ["lost"]
        assert problem["type"].endswith("outcome-unknown")
        assert usernames(admin) == ["ada"]

    def test_stays_unknown_when_the_database_cannot_be_asked(
        self, client: FlaskClient, losses: list[str], mocker: MockerFixture
    ) -> None:
        mocker.patch.object(stored_responses, "find", side_effect=[None, ConnectionLost("away")])
        problem = problem_of(post(client), 503)
        assert losses == ["lost"]
        assert problem["type"].endswith("outcome-unknown")
        mocker.stopall()
        assert post(client).headers["Idempotent-Replay"] == "true"

    def test_that_the_client_sends_again_is_replayed(
        self, client: FlaskClient, admin: cursor, losses: list[str]
    ) -> None:
        first = post(client)
        again = post(client)
        assert losses == ["lost"]
        assert same_answer(first, again)
        assert again.headers["Idempotent-Replay"] == "true"
        assert usernames(admin) == ["ada"]
