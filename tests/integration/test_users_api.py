"""The HTTP contract of ``/api/v1/users``, on real servers."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor
from pytest_mock import MockerFixture
from werkzeug.test import Client

from tests.integration.queries import value
from tests.integration.users import GRACE, URL, USER, create
from tests.responses import fields_of, json_of, problem_of
from tests.waiting import eventually
from user_service.database.connection import Cursor
from user_service.web.services import Services


class TestCreate:
    def test_answers_with_the_user_and_its_location(self, client: FlaskClient) -> None:
        created = client.post(URL, json={"username": "  Ada L ", "email": " Ada@Example.com "})
        assert created.status_code == 201
        user = json_of(created)
        assert list(user) == ["id", "username", "email", "created_at", "updated_at"]
        assert (user["username"], user["email"]) == ("Ada L", "Ada@Example.com")  # trimmed
        assert created.headers["Location"] == f"{URL}/{user['id']}"
        assert json_of(client.get(created.headers["Location"])) == user

    def test_times_have_the_utc_offset(self, client: FlaskClient) -> None:
        created_at = datetime.fromisoformat(json_of(create(client, "ada"))["created_at"])
        assert created_at.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - created_at) < timedelta(minutes=1)

    def test_every_field_at_fault_is_named(self, client: FlaskClient) -> None:
        refused = client.post(URL, json={"username": "ab", "email": "nowhere", "role": "admin"})
        problem_of(refused, 400)
        assert fields_of(refused) == {"username", "email", "role"}


class TestReplace:
    def test_changes_both_fields_and_the_time(self, client: FlaskClient) -> None:
        before = json_of(create(client, "ada"))
        answer = client.put(USER, json=GRACE)
        after = json_of(answer)
        assert answer.status_code == 200
        assert after == {**before, **GRACE, "updated_at": after["updated_at"]}
        assert after["updated_at"] > before["updated_at"]

    @pytest.mark.parametrize(
        ("holding", "ending"),
        [
            (
                "UPDATE users SET email = 'first@example.com' WHERE id = 1",
                "UPDATE users SET updated_at = DEFAULT WHERE id = 1 RETURNING updated_at",
            ),
            ("SELECT FROM users WHERE id = 1 FOR UPDATE", "SELECT clock_timestamp()"),
        ],
    )
    def test_is_dated_after_the_wait_for_it(
        self, client: FlaskClient, admin: cursor, database_url: str, holding: str, ending: str
    ) -> None:
        """The other session ends after the start of the statement that waits for it."""
        create(client, "ada")
        with closing(psycopg2.connect(database_url)) as other, ThreadPoolExecutor(1) as thread:
            locking = other.cursor()
            locking.execute(holding)
            later = thread.submit(client.patch, USER, json={"username": "grace"})
            waiting = (
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE users%'"
            )
            eventually(lambda: value(admin, waiting) == 1)
            first = value(locking, ending)
            other.commit()
            assert datetime.fromisoformat(json_of(later.result(20))["updated_at"]) > first

    def test_of_another_users_name_is_a_conflict(self, client: FlaskClient) -> None:
        create(client, "ada", "grace")
        problem_of(client.put(f"{URL}/2", json={**GRACE, "username": "Ada"}), 409)
        assert json_of(client.get(f"{URL}/2"))["username"] == "grace"


class TestPatch:
    @pytest.mark.parametrize("mimetype", ["application/json", "application/merge-patch+json"])
    def test_changes_what_is_given(self, client: FlaskClient, mimetype: str) -> None:
        create(client, "ada")
        answer = client.patch(USER, data=b'{"username": "grace"}', content_type=mimetype)
        user = json_of(answer)
        assert (user["username"], user["email"]) == ("grace", "ada@example.com")

    def test_times_increase_with_the_version_however_many_write_at_once(
        self, client: FlaskClient
    ) -> None:
        create(client, "ada")

        def change(number: int) -> tuple[str, datetime]:
            own = client.application.test_client()
            changed = own.patch(USER, json={"username": f"grace{number}"})
            user = json_of(changed)
            return changed.headers["ETag"], datetime.fromisoformat(user["updated_at"])

        with ThreadPoolExecutor(10) as threads:
            changes = list(threads.map(change, range(90)))
        by_version = {int(etag.split("-")[1]): time for etag, time in changes}
        assert sorted(by_version) == list(range(2, 92))
        times = [by_version[version] for version in sorted(by_version)]
        assert times == sorted(set(times))

    def test_is_dated_after_the_change_before_it_although_the_clock_was_set_back(
        self, client: FlaskClient, admin: cursor
    ) -> None:
        create(client, "ada")
        ahead = "UPDATE users SET updated_at = now() + interval '1 hour' RETURNING updated_at"
        before = value(admin, ahead)
        changed = json_of(client.patch(USER, json=GRACE))
        assert datetime.fromisoformat(changed["updated_at"]) > before

    def test_old_name_is_free_again(self, client: FlaskClient) -> None:
        create(client, "ada")
        client.patch(USER, json=GRACE)
        create(client, "ada")


def test_delete_answers_nothing_and_the_second_time_not_found(client: FlaskClient) -> None:
    create(client, "ada")
    gone = client.delete(USER)
    assert (gone.status_code, gone.data) == (204, b"")
    assert "Content-Type" not in gone.headers
    problem_of(client.delete(USER), 404)
    problem_of(client.get(USER), 404)


def test_delete_whose_body_breaks_off_is_not_executed(app: Flask, client: FlaskClient) -> None:
    create(client, "ada")
    # A plain client: the document describes no answer to a message that is incomplete.
    broken_off = {"data": b"{}", "environ_overrides": {"CONTENT_LENGTH": "50"}}
    problem_of(Client(app).delete(USER, **broken_off), 400)
    assert client.get(USER).status_code == 200


class TestList:
    def test_has_pages_in_order_of_id(self, client: FlaskClient) -> None:
        create(client, "ada", "bob", "eve", "dan", "joe")
        page = json_of(client.get(f"{URL}?page=2&per_page=2"))
        assert [user["username"] for user in page["users"]] == ["eve", "dan"]
        assert all(page["pagination"].pop(name) for name in ("next_cursor", "prev_cursor"))
        assert page["pagination"] == {"page": 2, "per_page": 2, "total": 5, "pages": 3}

    def test_defaults_to_the_first_page_of_fifty(self, client: FlaskClient) -> None:
        numbers = {"page": 1, "per_page": 50, "total": 0, "pages": 0}
        pagination = {**numbers, "next_cursor": None, "prev_cursor": None}
        assert json_of(client.get(URL)) == {"users": [], "pagination": pagination}

    def test_serves_a_hundred_at_most(self, client: FlaskClient) -> None:
        for per_page in ("100", "101", str(10**30)):
            page = json_of(client.get(f"{URL}?per_page={per_page}"))
            assert page["pagination"]["per_page"] == 100

    @pytest.mark.parametrize(
        "query", ["page=9&per_page=2", *(f"page={2**63 - 1}&per_page={n}" for n in (1, 100))]
    )
    def test_beyond_the_end_is_empty_with_the_total(self, client: FlaskClient, query: str) -> None:
        create(client, "ada", "bob")
        page = json_of(client.get(f"{URL}?{query}"))
        assert (page["users"], page["pagination"]["total"]) == ([], 2)

    @pytest.mark.parametrize(
        ("query", "total"),
        [
            *((f"page={page}&per_page=2", 3) for page in (1, 3, 20_000)),  # the last is far down
            ("username=nobody", 0),
        ],
    )
    def test_page_is_one_statement_even_if_it_is_empty(
        self, client: FlaskClient, mocker: MockerFixture, query: str, total: int
    ) -> None:
        create(client, "ada", "bob", "eve")
        execute = mocker.spy(Cursor, "execute")
        listed = json_of(client.get(f"{URL}?{query}"))
        statements = [call.args[1] for call in execute.call_args_list]
        assert len([each for each in statements if "FROM users" in each]) == 1
        assert listed["pagination"]["total"] == total


class TestProblems:
    def test_method_not_allowed_says_what_is(self, client: FlaskClient) -> None:
        refused = client.post(USER, json={})
        problem_of(refused, 405)
        options = client.options(USER)
        for answer in (refused, options):
            assert answer.allow.as_set() == {"get", "put", "patch", "delete", "head", "options"}
        assert options.headers["Accept-Patch"] == "application/merge-patch+json, application/json"

    @pytest.mark.parametrize(
        ("method", "path", "header", "accepted"),
        [
            ("POST", URL, "Accept", "application/json"),
            ("PUT", USER, "Accept", "application/json"),
            ("PATCH", USER, "Accept-Patch", "application/merge-patch+json, application/json"),
        ],
    )
    def test_body_of_another_kind_is_told_which_is_read(
        self, client: FlaskClient, method: str, path: str, header: str, accepted: str
    ) -> None:
        refused = client.open(path, method=method, data="username=ada")
        assert accepted in problem_of(refused, 415)["detail"]
        assert refused.headers[header] == accepted
        for coding, status in (("gzip", 415), ("identity, gzip", 415), ("Identity", 400)):
            headers = {"Content-Encoding": coding}
            answer = client.open(path, method=method, json={"role": 1}, headers=headers)
            problem_of(answer, status)
            assert answer.headers.get("Accept-Encoding") == ("identity" if status == 415 else None)

    def test_unexpected_error_tells_nothing_internal(
        self, client: FlaskClient, services: Services, mocker: MockerFixture
    ) -> None:
        mocker.patch.object(services.users, "get", side_effect=KeyError("secret of the house"))
        answer = client.get(USER)
        problem_of(answer, 500)
        assert b"secret" not in answer.data
