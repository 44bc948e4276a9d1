"""Validators and conditional requests (RFC 9110, section 13) on users."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from threading import Barrier
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor
from pytest_mock import MockerFixture
from werkzeug.http import http_date
from werkzeug.test import TestResponse

from tests.integration.users import ADA, GRACE, URL, USER, create, x_cache
from tests.responses import Serve, json_of, problem_of
from user_service.database.database import Database
from user_service.web.services import Services

Write = tuple[str, Any]  # method and body
WRITES: list[Write] = [("PUT", GRACE), ("PATCH", {"username": "grace"}), ("DELETE", None)]


def send(client: FlaskClient, method: str, body: Any, **conditions: str) -> TestResponse:
    """Send a request for user 1 with headers named like ``If_Match``."""
    headers = {name.replace("_", "-"): value for name, value in conditions.items()}
    return client.open(USER, method=method, json=body, headers=headers)


def changed(client: FlaskClient, **members: str) -> TestResponse:
    return client.patch(USER, json=members)


def tags(client: FlaskClient, template: str) -> str:
    """Return ``template`` with the ETag of user 1 for ``{now}``."""
    return template.replace("{now}", client.head(USER).headers["ETag"])


def second_before(user: TestResponse) -> str:
    """Return the time a second before the last change of the user."""
    assert user.last_modified is not None
    return http_date(user.last_modified - timedelta(seconds=1))


class TestValidatorsOfAUser:
    def test_are_on_every_response_with_it(self, client: FlaskClient, ada: TestResponse) -> None:
        seen = [ada, changed(client, username="Ada"), client.put(USER, json=ADA)]  # two changes
        assert [answer.headers["ETag"][:5] for answer in seen] == ['"1-1-', '"1-2-', '"1-3-']
        read = client.get(USER)
        assert read.headers["ETag"] == seen[-1].headers["ETag"]
        updated_at = datetime.fromisoformat(json_of(read)["updated_at"])
        assert read.headers["Last-Modified"] == http_date(updated_at)
        assert read.headers["Cache-Control"] == "private, no-cache"

    def test_never_recur(self, client: FlaskClient, ada: TestResponse, admin: cursor) -> None:
        """Of two changes to the same version, one is lost with the database."""
        admin.execute("CREATE TABLE dump AS TABLE users")
        lost = changed(client, username="grace")
        admin.execute("DELETE FROM users")
        admin.execute("INSERT INTO users OVERRIDING SYSTEM VALUE TABLE dump")
        admin.execute("DROP TABLE dump")
        assert client.get(USER).headers["ETag"] == ada.headers["ETag"]
        current = changed(client, username="other")
        problem_of(send(client, "PUT", GRACE, If_Match=lost.headers["ETag"]), 412)
        assert json_of(client.get(USER)) == json_of(current)

    @pytest.mark.usefixtures("ada")
    def test_change_with_updates_by_hand(self, client: FlaskClient, services: Services) -> None:
        with services.database.transaction() as cursor:
            cursor.execute("UPDATE users SET username = 'Ada' WHERE id = 1")
        assert client.get(USER).headers["ETag"].startswith('"1-2-')


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize(
    "text",
    [
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2020 99999999999999999999:00:00 GMT",
        "Mon, 01 Jan 2020 00:00:00 +99999999999999",
        "yesterday",
        "",
        "2026-11-22",
        "٣",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        f"{http_date(2**32)}, {http_date(2**32)}",
    ],
)
def test_what_is_no_date_is_ignored(client: FlaskClient, text: str) -> None:
    for method, name in (("GET", "MODIFIED"), ("PUT", "UNMODIFIED")):
        environ = {f"HTTP_IF_{name}_SINCE": text}
        body = GRACE if method == "PUT" else None
        answer = client.open(USER, method=method, json=body, environ_overrides=environ)
        assert answer.status_code == 200


class TestIfNoneMatch:
    @pytest.mark.parametrize(
        "template", ["{now}", "W/{now}", "*", '"x", {now}', 'W/"x",W/{now},"y"'], ids=str
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.usefixtures("ada")
    def test_names_what_is_current(self, client: FlaskClient, method: str, template: str) -> None:
        current = changed(client, username="grace")
        answer = send(client, method, None, If_None_Match=tags(client, template))
        assert (answer.status_code, answer.data) == (304, b"")
        assert answer.headers["ETag"] == current.headers["ETag"]
        assert answer.headers["Cache-Control"] == "private, no-cache"
        assert answer.headers["X-Request-ID"]
        assert not {"Content-Type", "Content-Length"} & set(answer.headers.keys())

    @pytest.mark.parametrize(
        "text", [*('"1-1"', '"2-1"', '""', "", '"1"', "garbage, , ,"), "{old}"], ids=ascii
    )
    def test_names_something_else(self, client: FlaskClient, ada: TestResponse, text: str) -> None:
        current = changed(client, username="grace")
        text = text.replace("{old}", ada.headers["ETag"])
        assert json_of(send(client, "GET", None, If_None_Match=text)) == json_of(current)

    def test_of_nobody_is_not_found(self, client: FlaskClient) -> None:
        problem_of(send(client, "GET", None, If_None_Match="*"), 404)

    @pytest.mark.parametrize("write", WRITES)
    @pytest.mark.parametrize("template", ["*", "{now}", "W/{now}"])
    @pytest.mark.usefixtures("ada")
    def test_on_a_write_is_refused(self, client: FlaskClient, write: Write, template: str) -> None:
        problem_of(send(client, *write, If_None_Match=tags(client, template)), 412)
        assert send(client, *write, If_None_Match='"1-7"').status_code < 300


class TestIfModifiedSince:
    def test_is_asked_where_there_is_no_tag(self, client: FlaskClient, ada: TestResponse) -> None:
        since = ada.headers["Last-Modified"]
        assert send(client, "GET", None, If_Modified_Since=since).status_code == 304
        asked = send(client, "GET", None, If_Modified_Since=since, If_None_Match='"1-7"')
        assert asked.status_code == 200
        earlier = send(client, "GET", None, If_Modified_Since=second_before(ada))
        assert earlier.status_code == 200

    @pytest.mark.usefixtures("ada")
    @pytest.mark.parametrize(("year", "status"), [(2016, 200), (2999, 304)])
    def test_may_be_a_leap_second(self, client: FlaskClient, year: int, status: int) -> None:
        since = f"Sat, 31 Dec {year} 23:59:60 GMT"
        assert send(client, "GET", None, If_Modified_Since=since).status_code == status


@pytest.mark.parametrize("write", WRITES)
class TestIfMatch:
    @pytest.mark.parametrize("template", ["{now}", "*", '"1-9", {now}', "W/{now}, {now}"])
    @pytest.mark.usefixtures("ada")
    def test_that_is_current_passes(self, client: FlaskClient, write: Write, template: str) -> None:
        answer = send(client, *write, If_Match=tags(client, template))
        assert answer.status_code == (204 if write[0] == "DELETE" else 200)

    @pytest.mark.parametrize(
        "template",
        [
            *("{old}", '"1-2"', "W/{now}", '""', "", " ", '"x"', '"x{now}'),
            *('"1-9' + '9"' * 99, '"\xe9"'),
        ],
        ids=ascii,
    )
    def test_of_anything_else_is_refused_with_the_user_and_the_cached_pages_as_they_are(
        self, client: FlaskClient, ada: TestResponse, write: Write, template: str
    ) -> None:
        current = changed(client, email="countess@example.com")
        client.get(URL)
        text = tags(client, template).replace("{old}", ada.headers["ETag"])
        refused = send(client, *write, If_Match=text)
        assert problem_of(refused, 412)["user"] == json_of(current)
        assert refused.headers["ETag"] == current.headers["ETag"]
        assert json_of(client.get(USER)) == json_of(current)
        assert x_cache(client) == "HIT"

    @pytest.mark.parametrize("text", ["*", '"1-1"'])
    def test_of_nobody_is_not_found(self, client: FlaskClient, write: Write, text: str) -> None:
        problem_of(send(client, *write, If_Match=text), 404)

    def test_is_wanted_where_it_is_required(self, serving: Serve, write: Write) -> None:
        careful = serving(require_if_match=True)
        created = careful.post(URL, json=ADA)
        problem_of(send(careful, *write), 428)
        assert send(careful, *write, If_Match=created.headers["ETag"]).status_code < 300

    def test_or_if_unmodified(self, client: FlaskClient, ada: TestResponse, write: Write) -> None:
        # PostgreSQL refuses the second one's offset.
        for since in (second_before(ada), "Mon, 01 Jan 2020 00:00:00 +1600"):
            problem_of(send(client, *write, If_Unmodified_Since=since), 412)
        since = ada.headers["Last-Modified"]
        assert send(client, *write, If_Unmodified_Since=since).status_code < 300


def test_of_twenty_writes_of_a_version_one_wins(client: FlaskClient, ada: TestResponse) -> None:
    barrier = Barrier(20)

    def replace(number: int) -> TestResponse:
        body = {"username": f"user{number}", "email": f"user{number}@example.com"}
        own = client.application.test_client()
        barrier.wait(10)
        return own.put(USER, json=body, headers={"If-Match": ada.headers["ETag"]})

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(replace, range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 19
    (winner,) = [json_of(answer) for answer in answers if answer.status_code == 200]
    assert json_of(client.get(USER)) == winner
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
        for conditions in ({}, {"If_Match": ada.headers["ETag"]}):
            answer = send(client, method, body, **conditions)
            assert (answer.status_code, answer.data) == (200, ada.data)
            assert answer.headers["ETag"] == ada.headers["ETag"]
        assert x_cache(client) == "HIT"
        problem_of(send(client, method, body, If_Match='"1-7"'), 412)
        problem_of(client.open(f"{URL}/2", method=method, json=body), 404)

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


@pytest.mark.parametrize(("method", "status"), [("PATCH", 200), ("DELETE", 204)])
def test_write_that_another_one_overtakes_is_done_again(
    serving: Serve, mocker: MockerFixture, method: str, status: int
) -> None:
    """Between finding nothing to do and reading why. It is no failure that counts as a retry."""
    client, read = serving(retry_attempts=0), Database.read
    tag = create(client, "ada").headers["ETag"]

    def after_another(*arguments: Any, **options: Any) -> Any:
        mocker.patch.object(Database, "read", read)
        changed(client, username="grace")
        return read(*arguments, **options)

    mocker.patch.object(Database, "read", after_another)
    conditions = {"If_None_Match": tag} if method == "DELETE" else {}
    answer = send(client, method, {"username": "ada"}, **conditions)
    assert answer.status_code == status
    if method == "PATCH":
        assert json_of(answer)["username"] == "ada"
        assert answer.headers["ETag"].startswith('"1-3-')


@pytest.mark.usefixtures("ada")
def test_write_that_a_trigger_prevents_is_given_up(client: FlaskClient, admin: cursor) -> None:
    admin.execute(
        "CREATE FUNCTION prevent() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER prevent BEFORE UPDATE OR DELETE ON users"
        " FOR EACH ROW EXECUTE FUNCTION prevent()"
    )
    try:
        for method, body in WRITES:
            problem = problem_of(send(client, method, body), 503)
            assert problem["type"] == "urn:user-service:problem:unavailable"
    finally:
        admin.execute("DROP FUNCTION prevent CASCADE")


@pytest.mark.usefixtures("ada")
class TestReadModifyWrite:
    @pytest.mark.parametrize("method", ["PUT", "PATCH"])
    def test_may_send_back_what_was_read(self, client: FlaskClient, method: str) -> None:
        read = json_of(client.get(USER))
        created_at = datetime.fromisoformat(read["created_at"])
        elsewhere = created_at.astimezone(timezone(timedelta(hours=2)))
        # An offset without a colon, as openapi-generator's client for Python sends it.
        without_colon = elsewhere.strftime("%Y-%m-%dT%H:%M:%S.%f%z")
        body = {**read, "username": "grace", "created_at": without_colon}
        answer = json_of(send(client, method, body))
        assert answer == {**read, "username": "grace", "updated_at": answer["updated_at"]}
        assert json_of(send(client, method, answer)) == answer

    @pytest.mark.parametrize(
        ("member", "value", "rule"),
        [
            ("id", 2, "cannot be changed"),
            ("id", 2**63, "is too large"),
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
        before = client.get(USER).data
        for method, names in itertools.product(("PUT", "PATCH"), (GRACE, ADA)):
            refused = client.open(USER, method=method, json={**names, member: value})
            (error,) = problem_of(refused, 400)["errors"]
            assert error["field"] == member
            assert rule in error["message"]
        assert client.get(USER).data == before
