"""The HTTP contract of ``/api/v1/users``, on real servers."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest
from flask.testing import FlaskClient
from pytest_mock import MockerFixture
from werkzeug.test import TestResponse

from tests.responses import fields_of, json_of, problem_of
from tests.waiting import eventually
from user_service.database import user_repository
from user_service.database.connections import Cursor
from user_service.web.services import Services

URL = "/api/v1/users"


def create(client: FlaskClient, username: str = "ada", email: str | None = None) -> TestResponse:
    email = f"{username}@example.com" if email is None else email
    return client.post(URL, json={"username": username, "email": email})


def create_many(client: FlaskClient, number: int) -> None:
    for n in range(1, number + 1):
        assert create(client, f"user{n}").status_code == 201


class TestCreate:
    def test_answers_with_the_user_and_its_location(self, client: FlaskClient) -> None:
        created = create(client, "Ada", "Ada@Example.com")
        assert created.status_code == 201
        user = json_of(created)
        assert list(user) == ["id", "username", "email", "created_at", "updated_at"]
        assert (user["username"], user["email"]) == ("Ada", "Ada@Example.com")
        assert created.headers["Location"] == f"{URL}/{user['id']}"
        assert json_of(client.get(created.headers["Location"])) == user

    def test_times_have_the_utc_offset(self, client: FlaskClient) -> None:
        created_at = datetime.fromisoformat(json_of(create(client))["created_at"])
        assert created_at.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - created_at) < timedelta(minutes=1)

    def test_surrounding_white_space_is_trimmed(self, client: FlaskClient) -> None:
        user = json_of(create(client, "  ada lovelace ", " ada@example.com "))
        assert (user["username"], user["email"]) == ("ada lovelace", "ada@example.com")

    @pytest.mark.parametrize(
        ("username", "email", "field"),
        [
            ("ADA", "other@example.com", "username"),
            ("ａｄａ", "other@example.com", "username"),  # full-width letters
            ("other", "ADA@EXAMPLE.com", "email"),
        ],
    )
    def test_second_of_its_canonical_form_is_a_conflict(
        self, client: FlaskClient, username: str, email: str, field: str
    ) -> None:
        create(client, "ada", "ada@example.com")
        refused = create(client, username, email)
        problem = problem_of(refused, 409)
        assert problem["detail"] == "Username or email already exists"
        assert fields_of(refused) == {field}

    def test_every_field_at_fault_is_named(self, client: FlaskClient) -> None:
        refused = client.post(URL, json={"username": "ab", "email": "nowhere", "role": "admin"})
        problem_of(refused, 400)
        assert fields_of(refused) == {"username", "email", "role"}


class TestGet:
    @pytest.mark.parametrize("user_id", ["1", "0", str(2**31), str(2**63 - 1), str(2**63)])
    def test_unknown_id_is_not_found(self, client: FlaskClient, user_id: str) -> None:
        problem_of(client.get(f"{URL}/{user_id}"), 404)

    @pytest.mark.parametrize("user_id", ["-1", "1.5", "abc", "1e3", "٣", "%00", str(10**30)])
    def test_what_is_no_id_is_not_found(self, client: FlaskClient, user_id: str) -> None:
        create_many(client, 3)
        problem_of(client.get(f"{URL}/{user_id}"), 404)


class TestReplace:
    def test_changes_both_fields_and_the_time(self, client: FlaskClient) -> None:
        before = json_of(create(client))
        answer = client.put(f"{URL}/1", json={"username": "grace", "email": "grace@example.com"})
        after = json_of(answer)
        assert answer.status_code == 200
        assert (after["username"], after["email"]) == ("grace", "grace@example.com")
        assert after["created_at"] == before["created_at"]
        assert after["updated_at"] > before["updated_at"]

    def test_is_dated_after_its_wait_for_the_row(
        self, client: FlaskClient, database_url: str
    ) -> None:
        """The other session dates its change after the start of the statement that waits for it."""
        create(client)
        with (
            closing(psycopg2.connect(database_url)) as other,
            closing(psycopg2.connect(database_url)) as watch,
            ThreadPoolExecutor(1) as thread,
            other.cursor() as cursor,
            watch.cursor() as activity,
        ):
            watch.autocommit = True
            cursor.execute("UPDATE users SET email = 'first@example.com' WHERE id = 1")
            later = thread.submit(client.patch, f"{URL}/1", json={"username": "grace"})

            def is_waiting() -> bool:
                activity.execute(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE users%'"
                )
                return activity.fetchone() == (1,)

            eventually(is_waiting)
            cursor.execute(
                "UPDATE users SET updated_at = clock_timestamp() WHERE id = 1 RETURNING updated_at"
            )
            ((first,),) = cursor.fetchall()
            other.commit()
            assert datetime.fromisoformat(json_of(later.result(20))["updated_at"]) > first

    def test_needs_both_fields(self, client: FlaskClient) -> None:
        create(client)
        refused = client.put(f"{URL}/1", json={"username": "grace"})
        problem_of(refused, 400)
        assert fields_of(refused) == {"email"}

    def test_of_another_users_name_is_a_conflict(self, client: FlaskClient) -> None:
        create_many(client, 2)
        refused = client.put(f"{URL}/2", json={"username": "User1", "email": "new@example.com"})
        problem_of(refused, 409)
        assert json_of(client.get(f"{URL}/2"))["username"] == "user2"

    def test_of_nobody_is_not_found(self, client: FlaskClient) -> None:
        missing = client.put(f"{URL}/9", json={"username": "grace", "email": "g@example.com"})
        problem_of(missing, 404)


class TestPatch:
    @pytest.mark.parametrize("mimetype", ["application/json", "application/merge-patch+json"])
    def test_changes_what_is_given(self, client: FlaskClient, mimetype: str) -> None:
        create(client)
        answer = client.patch(f"{URL}/1", data=b'{"username": "grace"}', content_type=mimetype)
        user = json_of(answer)
        assert (user["username"], user["email"]) == ("grace", "ada@example.com")

    def test_old_name_is_free_again(self, client: FlaskClient) -> None:
        create(client)
        client.patch(f"{URL}/1", json={"username": "grace", "email": "grace@example.com"})
        assert create(client).status_code == 201

    @pytest.mark.parametrize("body", [{"username": None}, {"id": 7}, {"email": 1}])
    def test_refuses_what_no_user_can_be(
        self, client: FlaskClient, body: dict[str, object]
    ) -> None:
        create(client)
        refused = client.patch(f"{URL}/1", json=body)
        problem_of(refused, 400)
        assert fields_of(refused) == set(body)


class TestDelete:
    def test_answers_nothing_and_the_second_time_not_found(self, client: FlaskClient) -> None:
        create(client)
        gone = client.delete(f"{URL}/1")
        assert (gone.status_code, gone.data) == (204, b"")
        assert "Content-Type" not in gone.headers
        problem_of(client.delete(f"{URL}/1"), 404)
        problem_of(client.get(f"{URL}/1"), 404)


class TestList:
    def test_has_pages_in_order_of_id(self, client: FlaskClient) -> None:
        create_many(client, 5)
        page = json_of(client.get(f"{URL}?page=2&per_page=2"))
        assert [user["username"] for user in page["users"]] == ["user3", "user4"]
        assert all(page["pagination"].pop(name) for name in ("next_cursor", "prev_cursor"))
        assert page["pagination"] == {"page": 2, "per_page": 2, "total": 5, "pages": 3}

    def test_defaults_to_the_first_page_of_fifty(self, client: FlaskClient) -> None:
        page = json_of(client.get(URL))
        assert page == {
            "users": [],
            "pagination": {
                "page": 1,
                "per_page": 50,
                "total": 0,
                "pages": 0,
                "next_cursor": None,
                "prev_cursor": None,
            },
        }

    def test_serves_a_hundred_at_most(self, client: FlaskClient) -> None:
        for per_page in ("100", "101", str(10**30)):
            page = json_of(client.get(f"{URL}?per_page={per_page}"))
            assert page["pagination"]["per_page"] == 100

    def test_beyond_the_end_is_empty_and_knows_the_total(self, client: FlaskClient) -> None:
        create_many(client, 2)
        page = json_of(client.get(f"{URL}?page=9&per_page=2"))
        assert page["users"] == []
        assert page["pagination"]["total"] == 2

    @pytest.mark.parametrize("per_page", [1, 100])
    def test_largest_page_is_empty(self, client: FlaskClient, per_page: int) -> None:
        page = client.get(f"{URL}?page={2**63 - 1}&per_page={per_page}")
        assert (page.status_code, json_of(page)["users"]) == (200, [])

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            *((f"page={value}", "page") for value in ("0", "-1", "1.5", "abc", "", "1_0", "%201")),
            ("page=٣", "page"),
            ("per_page=0", "per_page"),
            ("per_page=x", "per_page"),
            (f"page={2**63}", "page"),
            (f"page={2**63}&per_page=100", "page"),
            ("page=1&page=2", "page"),
            ("size=10", "size"),
        ],
    )
    def test_refuses_and_names(self, client: FlaskClient, query: str, field: str) -> None:
        refused = client.get(f"{URL}?{query}")
        problem_of(refused, 400)
        assert fields_of(refused) == {field}


class TestProblems:
    def test_unknown_path(self, client: FlaskClient) -> None:
        problem_of(client.get("/api/v2/users"), 404)

    def test_method_not_allowed_says_what_is(self, client: FlaskClient) -> None:
        refused = client.post(f"{URL}/1", json={})
        problem_of(refused, 405)
        assert refused.allow.as_set() == {"get", "put", "patch", "delete", "head", "options"}

    @pytest.mark.parametrize(
        ("method", "header", "accepted"),
        [
            ("POST", "Accept", "application/json"),
            ("PUT", "Accept", "application/json"),
            ("PATCH", "Accept-Patch", "application/merge-patch+json, application/json"),
        ],
    )
    def test_body_of_another_kind_is_told_which_is_read(
        self, client: FlaskClient, method: str, header: str, accepted: str
    ) -> None:
        path = URL if method == "POST" else f"{URL}/1"
        refused = client.open(path, method=method, data="username=ada")
        assert accepted in problem_of(refused, 415)["detail"]
        assert refused.headers[header] == accepted
        for coding in ("gzip", "identity, gzip"):
            refused = client.open(
                path, method=method, json={}, headers={"Content-Encoding": coding}
            )
            problem_of(refused, 415)
            assert refused.headers["Accept-Encoding"] == "identity"
        headers = {"Content-Encoding": "Identity"}
        assert client.open(path, method=method, json={}, headers=headers).status_code in (400, 404)

    def test_options_of_a_user_name_the_media_types_of_patch(self, client: FlaskClient) -> None:
        options = client.options(f"{URL}/1")
        assert options.headers["Accept-Patch"] == "application/merge-patch+json, application/json"
        assert options.allow.as_set() == {"get", "put", "patch", "delete", "head", "options"}

    def test_body_over_the_limit(self, client: FlaskClient) -> None:
        body = b'{"username": "' + b"a" * 70_000 + b'"}'
        problem = problem_of(client.post(URL, data=body, content_type="application/json"), 413)
        assert problem["title"] == "Content Too Large"  # whatever the version of Python calls it

    def test_unexpected_error_tells_nothing_internal(
        self, client: FlaskClient, services: Services, mocker: MockerFixture
    ) -> None:
        failure = KeyError("secret of the house")
        mocker.patch.object(services.users, "get", side_effect=failure)
        answer = client.get(f"{URL}/1")
        problem_of(answer, 500)
        assert b"secret" not in answer.data


def test_query_string_where_none_is_taken_is_refused(client: FlaskClient) -> None:
    create(client)
    problem_of(client.get(f"{URL}/1?verbose=1"), 400)


@pytest.mark.parametrize(
    ("query", "total"),
    [
        ("per_page=2", 3),
        ("page=3&per_page=2", 3),
        ("username=nobody", 0),
        ("page=20000&per_page=2", 3),
    ],
    ids=["page", "beyond the end", "lookup", "far beyond the end"],
)
def test_page_is_one_statement_even_if_it_is_empty(
    client: FlaskClient, mocker: MockerFixture, query: str, total: int
) -> None:
    create_many(client, 3)
    execute = mocker.spy(Cursor, "execute")
    listed = json_of(client.get(f"{URL}?{query}"))
    statements = [call.args[1] for call in execute.call_args_list]
    assert len([each for each in statements if "FROM users" in each]) == 1
    assert listed["pagination"]["total"] == total


def test_page_loads_no_row_that_it_does_not_return_but_the_next(
    client: FlaskClient, mocker: MockerFixture
) -> None:
    create_many(client, 5)
    page_of = mocker.spy(user_repository, "page_of")
    listed = json_of(client.get(f"{URL}?per_page=2"))
    client.get(f"{URL}?cursor={listed['pagination']['next_cursor']}&per_page=2")
    assert [len(call.args[0]) for call in page_of.call_args_list] == [3, 3]
