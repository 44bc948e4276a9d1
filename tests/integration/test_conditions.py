"""Validators and conditional requests (RFC 9110, section 13) on users."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.http import http_date, parse_date
from werkzeug.test import TestResponse

from app import create_app
from tests.responses import json_of, problem_of
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


class TestValidatorsOfAUser:
    def test_are_on_every_response_that_holds_it(
        self, client: FlaskClient, ada: TestResponse
    ) -> None:
        read = client.get(f"{URL}/1")
        assert ada.headers["ETag"] == read.headers["ETag"] == '"1-1"'
        assert changed(client, username="grace").headers["ETag"] == '"1-2"'
        assert client.put(f"{URL}/1", json=ADA).headers["ETag"] == '"1-3"'
        assert client.get(f"{URL}/1").headers["ETag"] == '"1-3"'

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
        assert client.get(f"{URL}/1").headers["ETag"] == '"1-2"'


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
        "tags", ['"1-1"', 'W/"1-1"', "*", '"x", "1-1"', 'W/"x",W/"1-1","y"'], ids=str
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.usefixtures("ada")
    def test_names_what_is_current(self, client: FlaskClient, method: str, tags: str) -> None:
        answer = client.open(f"{URL}/1", method=method, headers={"If-None-Match": tags})
        assert (answer.status_code, answer.data) == (304, b"")
        assert answer.headers["ETag"] == '"1-1"'
        assert answer.headers["Cache-Control"] == "private, no-cache"
        assert answer.headers["X-Request-ID"]
        assert "Content-Type" not in answer.headers
        assert "Content-Length" not in answer.headers

    @pytest.mark.parametrize("tags", ['"1-2"', '"2-1"', '""', "", '"1"', "garbage, , ,"], ids=ascii)
    def test_names_something_else(self, client: FlaskClient, ada: TestResponse, tags: str) -> None:
        answer = client.get(f"{URL}/1", headers={"If-None-Match": tags})
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
    @pytest.mark.parametrize("tags", ["*", '"1-1"', 'W/"1-1"'])
    @pytest.mark.usefixtures("ada")
    def test_on_a_write_means_unless_it_is_so(
        self, client: FlaskClient, method: str, body: Any, tags: str
    ) -> None:
        headers = {"If-None-Match": tags}
        problem_of(client.open(f"{URL}/1", method=method, json=body, headers=headers), 412)
        headers = {"If-None-Match": '"1-7"'}
        assert client.open(f"{URL}/1", method=method, json=body, headers=headers).status_code < 300


class TestIfModifiedSince:
    def test_is_asked_where_there_is_no_tag(self, client: FlaskClient, ada: TestResponse) -> None:
        since = ada.headers["Last-Modified"]
        assert client.get(f"{URL}/1", headers={"If-Modified-Since": since}).status_code == 304
        headers = {"If-Modified-Since": since, "If-None-Match": '"1-7"'}
        assert client.get(f"{URL}/1", headers=headers).status_code == 200

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
    @pytest.mark.parametrize("tags", ['"1-1"', "*", '"1-9", "1-1"', 'W/"1-1", "1-1"'])
    @pytest.mark.usefixtures("ada")
    def test_of_the_current_version_lets_the_write_pass(
        self, client: FlaskClient, method: str, body: Any, tags: str
    ) -> None:
        headers = {"If-Match": tags}
        answer = client.open(f"{URL}/1", method=method, json=body, headers=headers)
        assert answer.status_code == (204 if method == "DELETE" else 200)

    @pytest.mark.parametrize(
        "tags",
        ['"1-1"', '"1-3"', '"2-2"', 'W/"1-2"', '""', "", " ", '"x"', '"1-02"', '"1-9' + '9"' * 99],
        ids=ascii,
    )
    @pytest.mark.usefixtures("ada")
    def test_of_anything_else_is_refused_with_the_user_as_it_is(
        self, client: FlaskClient, method: str, body: Any, tags: str
    ) -> None:
        current = json_of(changed(client, email="countess@example.com"))
        headers = {"If-Match": tags}
        refused = client.open(f"{URL}/1", method=method, json=body, headers=headers)
        assert problem_of(refused, 412)["user"] == current
        assert refused.headers["ETag"] == '"1-2"'
        assert json_of(client.get(f"{URL}/1")) == current

    @pytest.mark.parametrize("tags", ["*", '"1-1"'])
    def test_of_nobody_is_still_not_found(
        self, client: FlaskClient, method: str, body: Any, tags: str
    ) -> None:
        headers = {"If-Match": tags}
        problem_of(client.open(f"{URL}/1", method=method, json=body, headers=headers), 404)

    def test_is_wanted_where_the_service_is_set_to(
        self, careful: FlaskClient, method: str, body: Any
    ) -> None:
        assert careful.post(URL, json=ADA).status_code == 201
        problem_of(careful.open(f"{URL}/1", method=method, json=body), 428)
        headers = {"If-Match": '"1-1"'}
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
        return own.put(f"{URL}/1", json=body, headers={"If-Match": '"1-1"'})

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(replace, range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 19
    (winner,) = [json_of(answer) for answer in answers if answer.status_code == 200]
    assert json_of(client.get(f"{URL}/1")) == winner
    losers = [json_of(answer) for answer in answers if answer.status_code == 412]
    assert [loser["user"] for loser in losers] == [winner] * 19
