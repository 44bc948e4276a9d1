"""``Idempotency-Key``, on real servers: a write is done once, however often it is sent."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor
from pytest_mock import MockerFixture
from werkzeug.test import TestResponse

from tests.integration.queries import rows, value
from tests.integration.users import ADA, GRACE, URL, USER, total, x_cache
from tests.responses import json_of, problem_of
from tests.waiting import eventually
from user_service.database import stored_responses
from user_service.database.connection import Cursor
from user_service.database.stored_responses import REMOVED_PER_WRITE
from user_service.domain.idempotency import KeyedRequest, StoredResponse, fingerprint
from user_service.domain.user import User
from user_service.errors import ConnectionLost, OutcomeUnknown
from user_service.web.responses.user_body import entity_headers, user_reply
from user_service.web.services import Services

KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"
IN_FLIGHT = "urn:user-service:problem:idempotency-key-in-flight"
REUSED = "urn:user-service:problem:idempotency-key-reused"
NOW = datetime(2026, 11, 22, 19, 41, 6, tzinfo=UTC)
# What another process has answered and stored.
_OTHER = User(77, ADA["username"], ADA["email"], NOW, NOW)
STORED = StoredResponse(
    201, {**entity_headers(_OTHER), "Location": f"{URL}/77"}, user_reply(_OTHER, 201).body
)
KEYED = KeyedRequest(KEY, "POST /api/v1/users", fingerprint(ADA))
# Makes PostgreSQL end the connection that inserts a user during its COMMIT.
END_WHILE_COMMITTING = """
    CREATE FUNCTION end_connection() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_terminate_backend(pg_backend_pid());
        PERFORM pg_sleep(10);
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON users
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION end_connection()
"""


@pytest.fixture
def other(database_url: str) -> Iterator[cursor]:
    """A cursor in a transaction of its own, as another process has it."""
    with closing(psycopg2.connect(database_url)) as opened, opened.cursor() as own:
        yield own


def post(client: FlaskClient, key: str | None = KEY, body: Any = ADA) -> TestResponse:
    return client.post(URL, json=body, headers={"Idempotency-Key": key} if key else {})


def usernames(admin: cursor) -> list[str]:
    return [name for (name,) in rows(admin, "SELECT username FROM users ORDER BY id")]


def keys(admin: cursor) -> list[str]:
    return [key for (key,) in rows(admin, "SELECT key FROM idempotency_keys ORDER BY key")]


def assert_first(answer: TestResponse) -> None:
    assert answer.status_code == 201
    assert "Idempotent-Replay" not in answer.headers


def assert_replay(first: TestResponse, again: TestResponse) -> None:
    assert (again.status_code, again.data) == (first.status_code, first.data)
    for name in ("Location", "Content-Type", "ETag"):
        assert again.headers[name] == first.headers[name]
    assert again.headers["Idempotent-Replay"] == "true"
    assert again.headers["X-Request-ID"] != first.headers["X-Request-ID"]


class TestReplay:
    def test_second_answer_is_the_first_again(self, client: FlaskClient, admin: cursor) -> None:
        first = post(client)
        assert_first(first)
        assert json_of(client.get(first.headers["Location"])) == json_of(first)
        for _ in range(3):
            assert_replay(first, post(client))
        assert usernames(admin) == ["ada"]
        assert keys(admin) == [KEY]

    @pytest.mark.parametrize(
        ("method", "body"),
        [("PUT", GRACE), ("PATCH", {"email": "lovelace@example.com"}), ("DELETE", None)],
    )
    def test_it_stays_the_same_after_the_user_was_changed_or_deleted(
        self, client: FlaskClient, admin: cursor, method: str, body: dict[str, str] | None
    ) -> None:
        first = post(client)
        assert client.open(USER, method=method, json=body).status_code < 300
        before = rows(admin, "SELECT * FROM users")
        assert_replay(first, post(client))
        assert rows(admin, "SELECT * FROM users") == before

    def test_same_body_in_another_spelling_is_the_same_request(self, client: FlaskClient) -> None:
        first = post(client)
        again = client.post(
            URL,
            data=b' {"email" : " ada@example.com ",\n "\\u0075sername": "ada"}\n',
            content_type="application/json; charset=utf-8",
            headers={"Idempotency-Key": f'"{KEY}"'},
        )
        assert_replay(first, again)

    def test_without_a_key_nothing_is_stored(self, client: FlaskClient, admin: cursor) -> None:
        assert_first(post(client, key=None))
        problem_of(post(client, key=None), 409)
        assert keys(admin) == []

    def test_other_methods_do_not_read_the_header(self, client: FlaskClient) -> None:
        post(client)
        for key in (KEY, "not a key"):
            changed = client.put(USER, json=GRACE, headers={"Idempotency-Key": key})
            assert json_of(changed)["username"] == "grace"

    def test_longest_key_is_taken(self, client: FlaskClient) -> None:
        assert_replay(post(client, "k" * 255), post(client, "k" * 255))


class TestRefused:
    @pytest.mark.parametrize(
        "body", [GRACE, {**ADA, "email": "ada@example.org"}, {**ADA, "username": "Ada"}]
    )
    def test_key_with_another_body_is_not_processable(
        self, client: FlaskClient, admin: cursor, body: dict[str, str]
    ) -> None:
        first = post(client)
        assert problem_of(post(client, body=body), 422)["type"] == REUSED
        assert usernames(admin) == ["ada"]
        assert_replay(first, post(client))

    def test_refusal_is_not_stored(self, client: FlaskClient, admin: cursor) -> None:
        problem_of(post(client, body={**ADA, "email": "nowhere"}), 400)
        post(client, key=None)
        assert problem_of(post(client), 409)["type"].endswith("user-exists")
        assert keys(admin) == []
        client.delete(USER)
        assert_first(post(client))


class TestInFlight:
    def test_key_whose_lock_is_held_is_a_conflict_that_says_when_to_try_again(
        self, client: FlaskClient, admin: cursor, other: cursor
    ) -> None:
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f" {KEY}",))
        refused = post(client)
        assert problem_of(refused, 409)["type"] == IN_FLIGHT
        assert refused.headers["Retry-After"] == "1"
        assert usernames(admin) == []
        assert_first(post(client, key="another", body=GRACE))
        other.connection.rollback()
        assert_first(post(client))

    def test_key_is_replayed_after_the_commit(self, client: FlaskClient, other: cursor) -> None:
        assert stored_responses.begin(other, KEYED) is None
        stored_responses.remember(other, KEYED, STORED)
        for body in (ADA, GRACE):
            assert problem_of(post(client, body=body), 409)["type"] == IN_FLIGHT
        other.connection.commit()
        replayed = post(client)
        assert (replayed.status_code, replayed.data) == (201, STORED.body)
        assert replayed.headers["Location"] == f"{URL}/77"

    def test_key_is_locked_for_its_principal_alone(self, admin: cursor, other: cursor) -> None:
        for session, name, key in ((other, "key:ab", "1"), (admin, "key:a", "b1")):
            request = KEYED._replace(principal=name, key=key)
            assert stored_responses.begin(session, request) is None

    def test_twenty_at_once_make_one_user(self, client: FlaskClient, admin: cursor) -> None:
        with ThreadPoolExecutor(20) as threads:
            own = [client.application.test_client() for _ in range(20)]
            answers = list(threads.map(post, own))
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

    def expired_in(self, admin: cursor) -> list[str]:
        return [key for key in keys(admin) if key.startswith("expired")]

    def test_key_is_kept_for_a_day(self, client: FlaskClient, admin: cursor) -> None:
        first = post(client)
        self.age(admin, "23 hours 59 minutes")
        assert_replay(first, post(client))
        problem_of(post(client, body=GRACE), 422)

    @pytest.mark.parametrize("older", [0, 2 * REMOVED_PER_WRITE], ids=["removed", "kept"])
    def test_key_expires_after_a_day(self, client: FlaskClient, admin: cursor, older: int) -> None:
        for n in range(older):
            self.insert(admin, f"expired {n}", "25 hours")
        post(client)
        self.age(admin, "24 hours 1 second")
        created = post(client, body=GRACE)
        assert_first(created)
        assert usernames(admin) == ["ada", "grace"]
        age = "SELECT now() - created_at FROM idempotency_keys WHERE key = %s"
        assert value(admin, age, KEY) < timedelta(minutes=1)
        assert_replay(created, post(client, body=GRACE))

    def test_each_removes_oldest(
        self, client: FlaskClient, admin: cursor, expired: list[str]
    ) -> None:
        self.insert(admin, "still kept", "23 hours")
        for number, start in enumerate((10, 20, 30, 30)):
            body = {"username": f"ada{number}", "email": f"ada{number}@example.com"}
            assert_first(post(client, f"key{number}", body))
            # Neither a replay nor a refusal removes any.
            assert post(client, f"key{number}", body).status_code == 201
            problem_of(post(client, f"key{number}", GRACE), 422)
            problem_of(post(client, "other", body), 409)
            assert self.expired_in(admin) == expired[start:]
        assert "still kept" in keys(admin)

    def test_keys_that_another_removes_are_not_waited_for(
        self, client: FlaskClient, admin: cursor, other: cursor, expired: list[str]
    ) -> None:
        other.execute("DELETE FROM idempotency_keys WHERE key <= %s", (expired[4],))
        assert_first(post(client))
        other.connection.rollback()
        assert self.expired_in(admin) == expired[:5] + expired[15:]

    def test_removal_waits_for_no_write_that_waits_for_it(
        self, client: FlaskClient, admin: cursor, other: cursor, expired: list[str]
    ) -> None:
        lock = "SELECT FROM idempotency_keys WHERE key = %s FOR UPDATE NOWAIT"
        other.execute(lock, (expired[-1],))
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(post, client, f'"{expired[-1]}"')
            eventually(lambda: rows(admin, waits) != [])
            other.execute(lock, (expired[0],))
            other.connection.rollback()
            assert_first(answer.result())

    def test_uses_indexes(self, client: FlaskClient, admin: cursor, mocker: MockerFixture) -> None:
        admin.execute(
            "INSERT INTO idempotency_keys SELECT 'key' || n, '', '', 201, '{}', '',"
            " now() - n * interval '5 seconds' FROM generate_series(1, 20000) AS n"
        )
        admin.execute("ANALYZE idempotency_keys")
        execute = mocker.spy(Cursor, "execute")
        post(client)
        plans = []
        for _, statement, *values in [call.args for call in execute.call_args_list]:
            if "FROM idempotency_keys" in statement:
                admin.execute(f"EXPLAIN {statement}", *values)
                plans.append(str(admin.fetchall()))
        finding, removal = plans
        assert "Index Scan using idempotency_keys_pkey" in finding
        assert "Index Scan using idempotency_keys_created_at" in removal
        assert "Seq Scan" not in finding + removal


class TestOneTransaction:
    def test_failed_store_of_a_key_leaves_no_user(self, client: FlaskClient, admin: cursor) -> None:
        admin.execute("ALTER TABLE idempotency_keys ADD CONSTRAINT none CHECK (false)")
        try:
            problem_of(post(client), 500)
            assert usernames(admin) == keys(admin) == []
        finally:
            admin.execute("ALTER TABLE idempotency_keys DROP CONSTRAINT none")
        assert_first(post(client))

    def test_failure_to_commit_leaves_neither(self, client: FlaskClient, admin: cursor) -> None:
        admin.execute(END_WHILE_COMMITTING)
        try:
            assert problem_of(post(client), 503)["type"].endswith("outcome-unknown")
            assert usernames(admin) == keys(admin) == []
        finally:
            admin.execute("DROP FUNCTION end_connection CASCADE")
        assert_first(post(client))


class TestUnknownOutcome:
    """The connection is lost when the server has committed, before it has said so."""

    @pytest.fixture
    def losses(self, services: Services, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The next commit is followed by the loss of its answer, which is noted here."""
        losses: list[str] = []

        def losing(use: Any) -> Any:
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

    def test_is_known_by_a_key(self, client: FlaskClient, admin: cursor, losses: list[str]) -> None:
        created = post(client)
        assert losses == ["lost"]
        assert json_of(created) == json_of(client.get(created.headers["Location"]))
        assert_replay(created, post(client))
        assert usernames(admin) == ["ada"]

    @pytest.mark.parametrize("key", ["known-after-all", None])
    def test_is_seen_at_once(self, client: FlaskClient, losses: list[str], key: str | None) -> None:
        assert [x_cache(client), x_cache(client)] == ["MISS", "HIT"]
        answer = post(client, key=key)
        assert losses == ["lost"]
        if key is None:
            assert problem_of(answer, 503)["type"].endswith("outcome-unknown")
        assert total(client) == 1

    def test_stays_unknown_when_the_database_cannot_be_asked(
        self, client: FlaskClient, losses: list[str], mocker: MockerFixture
    ) -> None:
        mocker.patch.object(stored_responses, "find", side_effect=[None, ConnectionLost("away")])
        assert problem_of(post(client), 503)["type"].endswith("outcome-unknown")
        assert losses == ["lost"]
        mocker.stopall()
        assert post(client).headers["Idempotent-Replay"] == "true"
