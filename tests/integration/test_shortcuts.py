"""What is sent on the ways past Flask is what Flask would have sent."""

import io
from collections.abc import Iterator

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from pytest_mock import MockerFixture

from app import create_app
from tests.responses import json_of, problem_of
from user_service.errors import TransientFailure
from user_service.resilience.retry import RetryBudget
from user_service.settings import Settings
from user_service.web.services import services_of

URL = "/api/v1/users"
ADA = {"username": "ada", "email": "ada@example.com"}


@pytest.fixture
def views(client: FlaskClient, mocker: MockerFixture) -> list[str]:
    """The query strings that have reached the view."""
    seen: list[str] = []
    view = client.application.view_functions["users.list_users"]

    def spied() -> object:
        from flask import request

        seen.append(request.query_string.decode())
        return view()

    mocker.patch.dict(client.application.view_functions, {"users.list_users": spied})
    return seen


@pytest.fixture(autouse=True)
def ada(client: FlaskClient) -> None:
    client.post(URL, json=ADA)


def test_second_request_for_a_page_does_not_reach_the_view(
    client: FlaskClient, views: list[str]
) -> None:
    first, second = client.get(f"{URL}?per_page=5"), client.get(f"{URL}?per_page=5")
    assert views == ["per_page=5"]
    assert [each.headers["X-Cache"] for each in (first, second)] == ["MISS", "HIT"]
    assert second.data == first.data
    differing = {"X-Cache", "X-Request-ID"}
    assert dict(item for item in second.headers if item[0] not in differing) == dict(
        item for item in first.headers if item[0] not in differing
    )


def test_it_is_counted_and_logged_as_the_views_are(
    client: FlaskClient, views: list[str], log: io.StringIO
) -> None:
    client.get(URL)
    identifier = client.get(URL, headers={"X-Request-ID": "mine"}).headers["X-Request-ID"]
    assert identifier == "mine"
    *_, line = log.getvalue().splitlines()
    assert " - user_service.access - INFO - GET /api/v1/users 200 " in line
    assert line.endswith("request_id=mine")
    metrics = services_of(client.application).metrics.exposition().decode()
    counted = 'duration_seconds_count{method="GET",route="/api/v1/users",status="200"} 2.0'
    assert counted in metrics
    assert 'page_cache_requests_total{result="hit"} 1.0' in metrics
    assert len(views) == 1


def test_write_is_seen_by_the_next_request(client: FlaskClient) -> None:
    for number in range(3):
        assert json_of(client.get(URL))["pagination"]["total"] == 1 + number
        assert client.get(URL).headers["X-Cache"] == "HIT"
        client.post(URL, json={"username": f"user{number}", "email": f"{number}@example.com"})


def test_miss_looks_into_the_cache_once(
    client: FlaskClient, app: Flask, mocker: MockerFixture
) -> None:
    client.get(URL)
    client.delete(f"{URL}/1")
    looked_up = mocker.spy(services_of(app).pages, "look_up")
    assert client.get(URL).headers["X-Cache"] == "MISS"
    assert looked_up.call_count == 1


def test_redis_that_is_away_is_asked_once(
    client: FlaskClient, app: Flask, mocker: MockerFixture
) -> None:
    client.get(URL)
    looked_up = mocker.patch.object(services_of(app).pages, "look_up", return_value=None)
    assert client.get(URL).headers["X-Cache"] == "BYPASS"
    assert looked_up.call_count == 1


@pytest.mark.parametrize(
    "headers", [{"If-None-Match": "*"}, {"If-None-Match": '"other"'}], ids=["*", "other"]
)
def test_conditions_are_for_the_view(
    client: FlaskClient, views: list[str], headers: dict[str, str]
) -> None:
    client.get(URL)
    answer = client.get(URL, headers=headers)
    assert len(views) == 2
    assert answer.status_code == (304 if headers["If-None-Match"] == "*" else 200)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "DELETE"])
def test_other_methods_are_for_flask(client: FlaskClient, method: str) -> None:
    client.get(URL)
    answer = client.open(URL, method=method)
    assert answer.data == b"" or answer.status_code == 405


@pytest.mark.parametrize("query", ["page=0", "page=1&page=1", "colour=red"])
def test_what_was_refused_is_refused_again(client: FlaskClient, query: str) -> None:
    for _ in range(2):
        assert client.get(f"{URL}?{query}").status_code == 400


class TestHooks:
    """Whoever has a say in every response is not gone past."""

    @pytest.fixture(
        params=[
            {"rate_limit": "100/minute"},
            {"cors_origins": "https://app.example.com"},
            {"server_timing": "on"},
        ],
        ids=lambda change: next(iter(change)),
    )
    def client(self, settings: Settings, request: pytest.FixtureRequest) -> Iterator[FlaskClient]:
        given = settings.model_dump(exclude_unset=True) | request.param
        application = create_app(Settings.model_validate(given))
        yield application.test_client()
        services_of(application).close()

    def test_users_reach_the_view_too(self, client: FlaskClient, mocker: MockerFixture) -> None:
        view = mocker.Mock(wraps=client.application.view_functions["users.get_user"])
        mocker.patch.dict(client.application.view_functions, {"users.get_user": view})
        assert client.get(f"{URL}/1").status_code == 200
        assert view.call_count == 1

    def test_every_request_reaches_the_view(self, client: FlaskClient, views: list[str]) -> None:
        answers = [client.get(URL) for _ in range(3)]
        assert len(views) == 3
        assert [each.headers["X-Cache"] for each in answers] == ["MISS", "HIT", "HIT"]


def test_hook_that_comes_after_the_application_was_made_is_not_gone_past(
    settings: Settings,
) -> None:
    application = create_app(settings)

    seen: list[Response] = []

    @application.after_request
    def see(response: Response) -> Response:
        seen.append(response)
        return response

    client = application.test_client()
    try:
        answers = [client.get(path) for path in (URL, URL, f"{URL}/1")]
        assert [answer.data for answer in answers] == [response.data for response in seen]
    finally:
        services_of(application).close()


def test_deprecated_view_is_not_gone_past(settings: Settings, mocker: MockerFixture) -> None:
    mocker.patch("user_service.web.shortcuts.deprecation_of", return_value=object())
    application = create_app(settings)
    try:
        view = mocker.Mock(wraps=application.view_functions["users.list_users"])
        mocker.patch.dict(application.view_functions, {"users.list_users": view})
        answers = [application.test_client().get(URL) for _ in range(3)]
        assert view.call_count == 3
        of_user = mocker.Mock(wraps=application.view_functions["users.get_user"])
        mocker.patch.dict(application.view_functions, {"users.get_user": of_user})
        application.test_client().get(f"{URL}/1")
        assert of_user.call_count == 1
        assert answers[-1].headers["X-Cache"] == "HIT"
    finally:
        services_of(application).close()


def test_who_tries_again_looks_anew(client: FlaskClient, mocker: MockerFixture) -> None:
    """What was claimed by the first look has been given back by then."""
    client.get(URL)
    client.post(URL, json={"username": "bob", "email": "bob@example.com"})
    services = services_of(client.application)
    look_up = mocker.spy(services.pages, "look_up")
    read = services.users.page
    mocker.patch.object(
        services.users, "page", side_effect=[TransientFailure("gone"), mocker.DEFAULT], wraps=read
    )
    assert client.get(URL).headers["X-Cache"] == "MISS"
    assert look_up.call_count == 2
    assert client.get(URL).headers["X-Cache"] == "HIT"


class TestUser:
    """A user by id, asked for plainly."""

    @pytest.fixture
    def views(self, client: FlaskClient, mocker: MockerFixture) -> list[int]:
        """The ids with which the view was called."""
        seen: list[int] = []
        view = client.application.view_functions["users.get_user"]

        def spied(user_id: int) -> object:
            seen.append(user_id)
            return view(user_id=user_id)

        mocker.patch.dict(client.application.view_functions, {"users.get_user": spied})
        return seen

    def test_is_what_the_view_sends_and_does_not_reach_it(
        self, client: FlaskClient, views: list[int]
    ) -> None:
        plain = client.get(f"{URL}/1")
        assert views == []
        by_the_view = client.get(f"{URL}/1", headers={"If-None-Match": '"other"'})
        assert views == [1]
        assert plain.status == by_the_view.status == "200 OK"
        assert plain.data == by_the_view.data
        sent, expected = (
            {item for item in each.headers if item[0] != "X-Request-ID"}
            for each in (plain, by_the_view)
        )
        assert sent == expected

    def test_is_counted_and_logged_as_the_views_are(
        self, client: FlaskClient, log: io.StringIO
    ) -> None:
        client.get(f"{URL}/1", headers={"X-Request-ID": "mine"})
        client.get(f"{URL}/1", headers={"X-Request-ID": "mine", "If-None-Match": '"other"'})
        plain, by_the_view = log.getvalue().splitlines()[-2:]
        for line in (plain, by_the_view):
            assert "GET /api/v1/users/<user_id:user_id> 200 " in line
            assert line.endswith("request_id=mine")
        metrics = services_of(client.application).metrics.exposition().decode()
        route = 'method="GET",route="/api/v1/users/<user_id:user_id>",status="200"'
        assert f"duration_seconds_count{{{route}}} 2.0" in metrics

    def test_is_read_anew_each_time(self, client: FlaskClient) -> None:
        for name in ("grace", "hopper"):
            assert client.patch(f"{URL}/1", json={"username": name}).status_code == 200
            assert json_of(client.get(f"{URL}/1"))["username"] == name

    @pytest.mark.parametrize("user_id", ["2", "0", "007", "9" * 18])
    def test_that_is_not_there_is_looked_for_once(
        self, client: FlaskClient, mocker: MockerFixture, user_id: str
    ) -> None:
        get = mocker.spy(services_of(client.application).users, "get")
        problem_of(client.get(f"{URL}/{user_id}"), 404)
        assert get.call_count == 1

    @pytest.mark.parametrize(
        "path",
        [
            "9" * 19,
            "9" * 20,
            "1/",
            "/1",
            "+1",
            "-1",
            "1.0",
            "1e0",
            "%31%20",
            "%C2%B9",
            "%D9%A1",
            "a",
        ],
    )
    def test_what_is_no_id_is_for_flask(
        self, client: FlaskClient, mocker: MockerFixture, path: str
    ) -> None:
        get = mocker.spy(services_of(client.application).users, "get")
        problem_of(client.get(f"{URL}/{path}"), 404)
        assert get.call_count == 0

    def test_id_that_begins_with_zeros_is_what_it_is_to_the_view(
        self, client: FlaskClient, views: list[int]
    ) -> None:
        plain = client.get(f"{URL}/001")
        by_the_view = client.get(f"{URL}/001", headers={"If-None-Match": '"other"'})
        assert views == [1]
        assert plain.status_code == by_the_view.status_code == 200
        assert plain.data == by_the_view.data

    def test_query_is_refused(self, client: FlaskClient) -> None:
        problem_of(client.get(f"{URL}/1?fields=id"), 400)

    def test_conditions_are_for_the_view(self, client: FlaskClient, views: list[int]) -> None:
        of = client.get(f"{URL}/1").headers
        for name, value in (
            ("If-None-Match", of["ETag"]),
            ("If-Modified-Since", of["Last-Modified"]),
        ):
            assert client.get(f"{URL}/1", headers={name: value}).status_code == 304
        assert views == [1, 1]

    @pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
    def test_other_methods_are_for_flask(self, client: FlaskClient, method: str) -> None:
        assert client.open(f"{URL}/1", method=method).data == b""

    def test_failure_in_passing_is_tried_again_by_the_view(
        self, client: FlaskClient, views: list[int], mocker: MockerFixture
    ) -> None:
        users = services_of(client.application).users
        failing = [TransientFailure("gone"), mocker.DEFAULT]
        get = mocker.patch.object(users, "get", side_effect=failing, wraps=users.get)
        assert client.get(f"{URL}/1").status_code == 200
        assert (views, get.call_count) == ([1], 2)

    def test_failure_is_tried_again_as_often_as_by_the_view_alone(
        self, client: FlaskClient, mocker: MockerFixture
    ) -> None:
        users = services_of(client.application).users
        get = mocker.patch.object(users, "get", side_effect=TransientFailure("gone"))
        plain = client.get(f"{URL}/1")
        assert plain.status_code == 503
        attempts, get.call_count = get.call_count, 0
        by_the_view = client.get(f"{URL}/1", headers={"If-None-Match": "*"})
        assert problem_of(by_the_view, 503)["detail"] == json_of(plain)["detail"]
        assert get.call_count == attempts > 1

    @pytest.mark.parametrize("user_id", [1, 2])
    def test_pays_for_retries_once(
        self, client: FlaskClient, mocker: MockerFixture, user_id: int
    ) -> None:
        pay_in = mocker.spy(RetryBudget, "pay_in")
        client.get(f"{URL}/{user_id}")
        assert pay_in.call_count == 1

    def test_what_nobody_foresaw_is_a_500(
        self, client: FlaskClient, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
    ) -> None:
        users = services_of(client.application).users
        get = mocker.patch.object(users, "get", side_effect=KeyError("secret"))
        answer = client.get(f"{URL}/1")
        problem_of(answer, 500)
        assert b"secret" not in answer.data
        assert get.call_count == 1
        assert [record.message for record in caplog.records] == ["unexpected error"]

    def test_what_cannot_be_told_is_a_problem_too(
        self, client: FlaskClient, mocker: MockerFixture
    ) -> None:
        mocker.patch("user_service.web.shortcuts.json_of", side_effect=TypeError("no JSON"))
        problem_of(client.get(f"{URL}/1"), 500)

    def test_failure_is_no_context_of_what_is_raised_after_it(
        self, client: FlaskClient, mocker: MockerFixture
    ) -> None:
        """Errors are shared by those who ask together: each would be chained to others'."""
        users = services_of(client.application).users
        second = KeyError("second")
        mocker.patch.object(users, "get", side_effect=[TransientFailure("first"), second])
        problem_of(client.get(f"{URL}/1"), 500)
        assert second.__context__ is None
