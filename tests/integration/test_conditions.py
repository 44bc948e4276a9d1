"""Validators and conditional requests (RFC 9110, section 13) on users."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from threading import Barrier
from typing import Any

import pytest
from flask.testing import FlaskClient
from pytest_mock import MockerFixture
from werkzeug.http import http_date, parse_date
from werkzeug.test import TestResponse

from app import create_app
from tests.responses import json_of, problem_of
from user_service.database.pool import Database
from user_service.settings import Settings
from user_service.web.services import services_of

URL = "/api/v1/users"
ADA = {"username": "ada", "email": "ada@example.com"}
GRACE = {"username": "grace", "email": "grace@example.com"}
WRITES = [("PUT", GRACE), ("PATCH", {"username": "grace"}), ("DELETE", None)]


@pytest.fixture
def ada(client: FlaskClient) -> TestResponse:
    """User 1, as she was created."""
    return client.post(URL, json=ADA)


@pytest.fixture
def careful(settings: Settings) -> Iterator[FlaskClient]:
    """A client of a service that wants If-Match."""
    app = create_app(settings.model_copy(update={"require_if_match": True}))
    yield app.test_client()
    services_of(app).close()


def changed(client: FlaskClient, **members: str) -> TestResponse:
    return client.patch(f"{URL}/1", json=members)


def tags(client: FlaskClient, template: str) -> str:
    """Return ``template`` with the ETag of user 1 for ``{now}``."""
    return template.replace("{now}", client.head(f"{URL}/1").headers["ETag"])


class TestValidatorsOfAUser:
    def test_are_on_every_response_that_holds_it(
        self, client: FlaskClient, ada: TestResponse
    ) -> None:
        seen = [ada, changed(client, username="grace"), client.put(f"{URL}/1", json=ADA)]
        assert [answer.headers["ETag"][:5] for answer in seen] == ['"1-1-', '"1-2-', '"1-3-']
        assert client.get(f"{URL}/1").headers["ETag"] == seen[-1].headers["ETag"]

    def test_do_not_come_again_after_a_restore(
        self, client: FlaskClient, ada: TestResponse
    ) -> None:
        """Of two changes to the same version, one is lost with the database."""
        database = services_of(client.application).database
        with database.transaction() as cursor:
            cursor.execute("CREATE TABLE dump AS TABLE users")
        lost = changed(client, username="grace")
        with database.transaction() as cursor:
            cursor.execute("DELETE FROM users")
            cursor.execute("INSERT INTO users OVERRIDING SYSTEM VALUE TABLE dump")
            cursor.execute("DROP TABLE dump")
        assert client.get(f"{URL}/1").headers["ETag"] == ada.headers["ETag"]
        current = changed(client, username="other")
        headers = {"If-Match": lost.headers["ETag"]}
        problem_of(client.put(f"{URL}/1", json=GRACE, headers=headers), 412)
        assert json_of(client.get(f"{URL}/1")) == json_of(current)

    @pytest.mark.usefixtures("ada")
    def test_say_when_it_was_changed_and_that_it_must_be_asked_for_again(
        self, client: FlaskClient
    ) -> None:
        read = client.get(f"{URL}/1")
        updated_at = datetime.fromisoformat(json_of(read)["updated_at"])
        assert read.headers["Last-Modified"] == http_date(updated_at)
        assert read.headers["Cache-Control"] == "private, no-cache"

    def test_are_not_members_of_the_body(self, ada: TestResponse) -> None:
        assert list(json_of(ada)) == ["id", "username", "email", "created_at", "updated_at"]

    @pytest.mark.usefixtures("ada")
    def test_change_with_what_is_done_by_hand(self, client: FlaskClient) -> None:
        with services_of(client.application).database.transaction() as cursor:
            cursor.execute("UPDATE users SET username = 'Ada' WHERE id = 1")
        assert client.get(f"{URL}/1").headers["ETag"].startswith('"1-2-')


NO_DATES = [
    "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
    "Mon, 01 Jan 2020 99999999999999999999:00:00 GMT",
    "Mon, 01 Jan 2020 00:00:00 +99999999999999",
    "yesterday",
    "",
]


@pytest.mark.usefixtures("ada")
class TestWhatIsNoDate:
    @pytest.mark.parametrize("text", NO_DATES)
    def test_is_ignored_by_reads(self, client: FlaskClient, text: str) -> None:
        answer = client.get(f"{URL}/1", headers={"If-Modified-Since": text})
        assert answer.status_code == 200

    @pytest.mark.parametrize("text", NO_DATES)
    def test_is_ignored_by_writes(self, client: FlaskClient, text: str) -> None:
        headers = {"If-Unmodified-Since": text}
        assert client.put(f"{URL}/1", json=GRACE, headers=headers).status_code == 200

    def test_offset_that_postgresql_refuses_is_worked_out_before(self, client: FlaskClient) -> None:
        headers = {"If-Unmodified-Since": "Mon, 01 Jan 2020 00:00:00 +1600"}
        problem_of(client.put(f"{URL}/1", json=GRACE, headers=headers), 412)


class TestIfNoneMatch:
    @pytest.mark.parametrize(
        "template", ["{now}", "W/{now}", "*", '"x", {now}', 'W/"x",W/{now},"y"'], ids=str
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_names_what_is_current(
        self, client: FlaskClient, ada: TestResponse, method: str, template: str
    ) -> None:
        headers = {"If-None-Match": tags(client, template)}
        answer = client.open(f"{URL}/1", method=method, headers=headers)
        assert (answer.status_code, answer.data) == (304, b"")
        assert answer.headers["ETag"] == ada.headers["ETag"]
        assert answer.headers["Cache-Control"] == "private, no-cache"
        assert answer.headers["X-Request-ID"]
        assert "Content-Type" not in answer.headers
        assert "Content-Length" not in answer.headers

    @pytest.mark.parametrize("text", ['"1-1"', '"2-1"', '""', "", '"1"', "garbage, , ,"], ids=ascii)
    def test_names_something_else(self, client: FlaskClient, ada: TestResponse, text: str) -> None:
        answer = client.get(f"{URL}/1", headers={"If-None-Match": text})
        assert json_of(answer) == json_of(ada)

    def test_of_an_older_version_gets_the_newer(
        self, client: FlaskClient, ada: TestResponse
    ) -> None:
        changed(client, username="grace")
        answer = client.get(f"{URL}/1", headers={"If-None-Match": ada.headers["ETag"]})
        assert json_of(answer)["username"] == "grace"

    def test_of_nobody_is_still_not_found(self, client: FlaskClient) -> None:
        problem_of(client.get(f"{URL}/1", headers={"If-None-Match": "*"}), 404)

    @pytest.mark.parametrize(("method", "body"), WRITES)
    @pytest.mark.parametrize("template", ["*", "{now}", "W/{now}"])
    @pytest.mark.usefixtures("ada")
    def test_on_a_write_means_unless_it_is_so(
        self, client: FlaskClient, method: str, body: Any, template: str
    ) -> None:
        headers = {"If-None-Match": tags(client, template)}
        problem_of(client.open(f"{URL}/1", method=method, json=body, headers=headers), 412)
        headers = {"If-None-Match": '"1-7"'}
        assert client.open(f"{URL}/1", method=method, json=body, headers=headers).status_code < 300


class TestIfModifiedSince:
    def test_is_asked_where_there_is_no_tag(self, client: FlaskClient, ada: TestResponse) -> None:
        since = ada.headers["Last-Modified"]
        assert client.get(f"{URL}/1", headers={"If-Modified-Since": since}).status_code == 304
        headers = {"If-Modified-Since": since, "If-None-Match": '"1-7"'}
        assert client.get(f"{URL}/1", headers=headers).status_code == 200

    @pytest.mark.usefixtures("ada")
    @pytest.mark.parametrize(("year", "status"), [(2016, 200), (2999, 304)])
    def test_may_be_a_leap_second(self, client: FlaskClient, year: int, status: int) -> None:
        headers = {"If-Modified-Since": f"Sat, 31 Dec {year} 23:59:60 GMT"}
        assert client.get(f"{URL}/1", headers=headers).status_code == status

    def test_of_an_earlier_time_gets_the_user(self, client: FlaskClient, ada: TestResponse) -> None:
        since = http_date(parsed(ada.headers["Last-Modified"]) - timedelta(seconds=1))
        assert client.get(f"{URL}/1", headers={"If-Modified-Since": since}).status_code == 200

    @pytest.mark.parametrize("since", ["", "yesterday", "2026-11-22", "٣"])
    @pytest.mark.usefixtures("ada")
    def test_that_is_no_time_is_ignored(self, client: FlaskClient, since: str) -> None:
        answer = client.get(f"{URL}/1", environ_overrides={"HTTP_IF_MODIFIED_SINCE": since})
        assert answer.status_code == 200


def parsed(text: str) -> datetime:
    date = parse_date(text)
    assert date is not None
    return date


@pytest.mark.parametrize(("method", "body"), WRITES)
class TestIfMatch:
    @pytest.mark.parametrize("template", ["{now}", "*", '"1-9", {now}', "W/{now}, {now}"])
    @pytest.mark.usefixtures("ada")
    def test_of_the_current_version_lets_the_write_pass(
        self, client: FlaskClient, method: str, body: Any, template: str
    ) -> None:
        headers = {"If-Match": tags(client, template)}
        answer = client.open(f"{URL}/1", method=method, json=body, headers=headers)
        assert answer.status_code == (204 if method == "DELETE" else 200)

    @pytest.mark.parametrize(
        "template",
        [
            "{old}",
            '"1-2"',
            "W/{now}",
            '""',
            "",
            " ",
            '"x"',
            '"x{now}',
            '"1-9' + '9"' * 99,
            '"\xe9"',
        ],
        ids=ascii,
    )
    def test_of_anything_else_is_refused_with_the_user_as_it_is(
        self, client: FlaskClient, ada: TestResponse, method: str, body: Any, template: str
    ) -> None:
        current = changed(client, email="countess@example.com")
        text = tags(client, template).replace("{old}", ada.headers["ETag"])
        refused = client.open(f"{URL}/1", method=method, json=body, headers={"If-Match": text})
        assert problem_of(refused, 412)["user"] == json_of(current)
        assert refused.headers["ETag"] == current.headers["ETag"]
        assert json_of(client.get(f"{URL}/1")) == json_of(current)

    @pytest.mark.parametrize("text", ["*", '"1-1"'])
    def test_of_nobody_is_still_not_found(
        self, client: FlaskClient, method: str, body: Any, text: str
    ) -> None:
        headers = {"If-Match": text}
        problem_of(client.open(f"{URL}/1", method=method, json=body, headers=headers), 404)

    def test_is_wanted_where_the_service_is_set_to(
        self, careful: FlaskClient, method: str, body: Any
    ) -> None:
        created = careful.post(URL, json=ADA)
        problem_of(careful.open(f"{URL}/1", method=method, json=body), 428)
        headers = {"If-Match": created.headers["ETag"]}
        answer = careful.open(f"{URL}/1", method=method, json=body, headers=headers)
        assert answer.status_code < 300

    @pytest.mark.usefixtures("ada")
    def test_failing_leaves_the_page_cache_alone(
        self, client: FlaskClient, method: str, body: Any
    ) -> None:
        client.get(URL)
        headers = {"If-Match": '"1-7"'}
        problem_of(client.open(f"{URL}/1", method=method, json=body, headers=headers), 412)
        assert client.get(URL).headers["X-Cache"] == "HIT"

    def test_or_if_unmodified_since_an_earlier_time_is_refused(
        self, client: FlaskClient, ada: TestResponse, method: str, body: Any
    ) -> None:
        changed_at = parsed(ada.headers["Last-Modified"])
        headers = {"If-Unmodified-Since": http_date(changed_at - timedelta(seconds=1))}
        problem_of(client.open(f"{URL}/1", method=method, json=body, headers=headers), 412)
        headers = {"If-Unmodified-Since": http_date(changed_at)}
        assert client.open(f"{URL}/1", method=method, json=body, headers=headers).status_code < 300


def test_of_twenty_writes_of_the_same_version_at_once_one_wins(
    client: FlaskClient, ada: TestResponse
) -> None:
    barrier = Barrier(20)

    def replace(number: int) -> TestResponse:
        body = {"username": f"user{number}", "email": f"user{number}@example.com"}
        own = client.application.test_client()
        barrier.wait(10)
        return own.put(f"{URL}/1", json=body, headers={"If-Match": ada.headers["ETag"]})

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(replace, range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 19
    (winner,) = [json_of(answer) for answer in answers if answer.status_code == 200]
    assert json_of(client.get(f"{URL}/1")) == winner
    losers = [json_of(answer) for answer in answers if answer.status_code == 412]
    assert [loser["user"] for loser in losers] == [winner] * 19


class TestChangeOfNothing:
    @pytest.mark.parametrize(
        ("method", "body"),
        [("PATCH", {}), ("PATCH", {"username": "ada"}), ("PATCH", ADA), ("PUT", ADA)],
        ids=str,
    )
    def test_answers_with_the_user_and_leaves_it_and_the_cached_pages(
        self, client: FlaskClient, ada: TestResponse, method: str, body: dict[str, str]
    ) -> None:
        client.get(URL)
        for headers in ({}, {"If-Match": ada.headers["ETag"]}):
            answer = client.open(f"{URL}/1", method=method, json=body, headers=headers)
            assert (answer.status_code, answer.data) == (200, ada.data)
            assert answer.headers["ETag"] == ada.headers["ETag"]
        assert client.get(URL).headers["X-Cache"] == "HIT"
        headers = {"If-Match": '"1-7"'}
        problem_of(client.open(f"{URL}/1", method=method, json=body, headers=headers), 412)
        problem_of(client.open(f"{URL}/2", method=method, json=body), 404)

    @pytest.mark.usefixtures("ada")
    def test_is_not_one_of_another_spelling(self, client: FlaskClient) -> None:
        assert json_of(changed(client, username="Ada"))["username"] == "Ada"

    def test_after_a_wait_for_the_same_change_is_seen_too(
        self, client: FlaskClient, ada: TestResponse, mocker: MockerFixture
    ) -> None:
        """Both want the same: the later one finds it done when its turn comes."""
        write = Database.write

        def after_another(*arguments: Any) -> Any:
            mocker.patch.object(Database, "write", write)
            changed(client, username="grace")
            return write(*arguments)

        mocker.patch.object(Database, "write", after_another)
        answer = changed(client, username="grace")
        assert answer.headers["ETag"].startswith('"1-2-')
        assert json_of(answer)["updated_at"] > json_of(ada)["updated_at"]


@pytest.mark.usefixtures("ada")
class TestReadModifyWrite:
    @pytest.mark.parametrize("method", ["PUT", "PATCH"])
    def test_may_send_back_what_the_database_has_set(
        self, client: FlaskClient, method: str
    ) -> None:
        read = json_of(client.get(f"{URL}/1"))
        created_at = datetime.fromisoformat(read["created_at"]).astimezone(
            timezone(timedelta(hours=2))
        )
        body = {**read, "username": "grace", "created_at": created_at.isoformat()}
        answer = json_of(client.open(f"{URL}/1", method=method, json=body))
        assert answer == {**read, "username": "grace", "updated_at": answer["updated_at"]}
        again = json_of(client.open(f"{URL}/1", method=method, json=answer))
        assert again == answer

    @pytest.mark.parametrize(
        ("member", "value", "rule"),
        [
            ("id", 2, "cannot be changed"),
            ("id", 2**63, "less than"),
            ("id", "1", "must be a whole number"),
            ("id", True, "must be a whole number"),
            ("id", None, "must be a whole number"),
            ("created_at", "2020-01-01T00:00:00Z", "cannot be changed"),
            ("updated_at", "2020-01-01T00:00:00Z", "cannot be changed"),
            ("updated_at", "yesterday", "must be a time"),
            ("updated_at", None, "must be a time"),
        ],
    )
    def test_may_not_change_it(
        self, client: FlaskClient, member: str, value: Any, rule: str
    ) -> None:
        before = client.get(f"{URL}/1").data
        for method, names in itertools.product(("PUT", "PATCH"), (GRACE, ADA)):
            refused = client.open(f"{URL}/1", method=method, json={**names, member: value})
            (error,) = problem_of(refused, 400)["errors"]
            assert error["field"] == member
            assert rule in error["message"]
        assert client.get(f"{URL}/1").data == before

    def test_of_a_create_may_not_send_it(self, client: FlaskClient) -> None:
        refused = client.post(URL, json={**GRACE, "id": 1})
        problem_of(refused, 400)
