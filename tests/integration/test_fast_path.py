"""The fast path gives the responses of the views, and leaves every other request to Flask."""

import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import product

import pytest
import redis as redis_py
from flask import Flask, Response, request, request_started
from flask.testing import FlaskClient
from pytest_mock import MockerFixture

from tests import scrapes
from tests.integration.users import URL, create
from tests.redis_states import out_of_memory
from tests.responses import Serve, json_of
from user_service.errors import CircuitOpen, DeadlineExceeded, TransientFailure
from user_service.settings import Settings
from user_service.web.api.users import delete_user
from user_service.web.policies.deprecation import Deprecation
from user_service.web.services import services_of

GETS = [
    *("", "?", "?page=2&per_page=2", "?page=99", "?per_page=500&count=none"),
    *("?sort=-username&fields=username,id", "?id=3,1&count=estimated", "?username=%C3%A9daa"),
    *("?q=a&username=ada&email=ada@example.com", "?created_since=2026-01-01T00:00:00Z"),
    *("?page=0", "?page=1&page=1", "?page=9223372036854775808", "?colour=red", "?q=%E9"),
    *("?cursor=" + "A" * 32, "?page=1&cursor=x", "?username=%E9daa", "?q=" + "a" * 4000),
    "?cursor={}",
    *("/1", "/1?", "/001", "/9", "/0", "/" + "9" * 18),
]
SETUPS: list[Callable[[Flask], object]] = [
    lambda app: app.before_request(lambda: None),
    lambda app: app.after_request(lambda response: response),
    lambda app: app.teardown_request(lambda _error: None),
    lambda app: app.url_value_preprocessor(lambda _endpoint, _values: None),
    lambda app: app.register_error_handler(KeyError, lambda _error: Response()),
    lambda app: setattr(app, "debug", True),
]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"retry_delay": 0.001})


@pytest.fixture(autouse=True)
def users(client: FlaskClient) -> None:
    create(client, "ada", "grace", "joan")


@pytest.fixture
def dispatched() -> Iterator[list[str]]:
    """The paths of the requests that reach a Flask."""
    seen: list[str] = []

    def note(_sender: Flask, **_: object) -> None:
        seen.append(request.path)

    with request_started.connected_to(note):
        yield seen


@pytest.fixture
def by_view(serving: Serve) -> FlaskClient:
    """A client of an application whose requests all reach the views, because of a hook."""
    client = serving()
    client.application.after_request(lambda response: response)
    return client


def sent(client: FlaskClient, path: str) -> tuple[str, set[tuple[str, str]], bytes]:
    """Return status, headers and body of a response to a request with a fixed id."""
    answer = client.get(URL + path, headers={"X-Request-ID": "mine"})
    return answer.status, set(answer.headers), answer.data


@pytest.mark.parametrize("path", GETS)
def test_responses_are_those_of_the_views(
    client: FlaskClient,
    by_view: FlaskClient,
    redis: redis_py.Redis,
    dispatched: list[str],
    path: str,
) -> None:
    cursor = json_of(client.get(f"{URL}?per_page=1"))["pagination"]["next_cursor"]
    answers = []
    for each in (client, by_view):
        redis.flushall()
        answers.append([sent(each, path.format(cursor)) for _ in ("MISS", "HIT")])
    assert answers[0] == answers[1]
    assert len(dispatched) == 2  # those of the other application


@pytest.mark.parametrize("path", ["", "?page=2", "/1"])
@pytest.mark.parametrize(
    "error",
    [
        TransientFailure("lost"),
        CircuitOpen("closed to us", 7.2),
        DeadlineExceeded("late"),
        KeyError("secret"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failures_are_answered_and_logged_as_by_the_views(  # noqa: PLR0913, PLR0917 -- fixtures
    client: FlaskClient,
    by_view: FlaskClient,
    dispatched: list[str],
    mocker: MockerFixture,
    caplog: pytest.LogCaptureFixture,
    path: str,
    error: Exception,
) -> None:
    client.get(URL)
    services_of(client.application).pages.invalidate()  # leaves a stale page
    outcomes = []
    for each in (client, by_view):
        users = services_of(each.application).users
        reads = [mocker.patch.object(users, name, side_effect=error) for name in ("page", "get")]
        caplog.clear()
        answer = sent(each, path)
        attempts = sum(read.call_count for read in reads)
        logged = [record.message for record in caplog.records if "problems" in record.name]
        outcomes.append((answer, attempts, logged))
    assert outcomes[0] == outcomes[1]
    assert b"secret" not in outcomes[0][0][2]
    assert len(dispatched) == 1


@pytest.mark.parametrize(
    ("path", "route", "status"),
    [
        ("", URL, 200),
        ("/9", f"{URL}/<user_id:user_id>", 404),
    ],
)
def test_request_is_counted_and_logged_by_its_route(
    client: FlaskClient, log: io.StringIO, path: str, route: str, status: int
) -> None:
    sent(client, path)
    line = log.getvalue().splitlines()[-1]
    assert f" - user_service.access - INFO - GET {route} {status} " in line
    assert line.endswith(" request_id=mine")
    labels = {"method": "GET", "route": route, "status": str(status)}
    exposition = client.get("/metrics").text
    assert scrapes.value(exposition, "http_request_duration_seconds_count", **labels) == 1


def test_pages_tell_a_gateway_where_they_are(serving: Serve, redis: redis_py.Redis) -> None:
    assert "X-Page-Place" not in serving().get(URL).headers
    client = serving(gateway_pages="on")
    for path in ("", "?page=0", "/1"):
        assert ("X-Page-Place" in client.get(URL + path).headers) == (path == "")
    ttl, base, pages = client.get(URL).headers["X-Page-Place"].split()
    assert ttl == "60"
    keys = (f"{base}history", f"{base}generation", f"{pages}page=1&per_page=50")
    assert redis.exists(*keys) == len(keys)
    with out_of_memory(redis):
        services_of(client.application).pages.invalidate()
        answer = client.get(URL)
    assert answer.headers["X-Cache"] == "BYPASS"
    assert "X-Page-Place" not in answer.headers


class TestRequestsForFlask:
    @pytest.mark.parametrize(
        ("asked", "environ", "status"),
        [
            (("GET", "/1?fields=id"), {}, 400),
            *((("GET", f"/{path}"), {}, 404) for path in ("9" * 19, "9" * 20, "1/", "/1", "+1")),
            *((("GET", f"/{path}"), {}, 404) for path in ("1.0", "%D9%A1", "")),
            *((asked, {}, 200) for asked in product(("HEAD", "OPTIONS"), ("", "/1"))),
            *((("TRACE", path), {}, 405) for path in ("", "/1")),
            (("GET", ""), {"HTTP_IF_NONE_MATCH": '"other"'}, 200),
            (("GET", "/1"), {"HTTP_IF_NONE_MATCH": "*"}, 304),
            (("GET", "/1"), {"HTTP_IF_MODIFIED_SINCE": "Tue, 31 Dec 2999 00:00:00 GMT"}, 304),
            *((("GET", path), {"SCRIPT_NAME": "/mounted"}, 200) for path in ("", "/1")),
        ],
    )
    def test_other_methods_paths_conditions_and_places(
        self,
        client: FlaskClient,
        dispatched: list[str],
        asked: tuple[str, str],
        environ: dict[str, str],
        status: int,
    ) -> None:
        method, path = asked
        answer = client.open(URL + path, method=method, environ_overrides=environ)
        assert answer.status_code == status
        assert len(dispatched) == 1

    def check_that_none_is_taken(self, client: FlaskClient, dispatched: list[str]) -> None:
        for number, path in enumerate(("", "?page=1", "/1"), start=1):
            answer = client.get(URL + path)
            assert answer.status_code == 200
            assert "X-Page-Place" not in answer.headers
            assert len(dispatched) == number

    @pytest.mark.parametrize(
        "changed",
        [{"rate_limit": "9/day"}, {"cors_origins": "https://a.example"}, {"server_timing": "on"}],
    )
    def test_application_with_hooks(
        self, serving: Serve, dispatched: list[str], changed: dict[str, str]
    ) -> None:
        self.check_that_none_is_taken(serving(gateway_pages="on", **changed), dispatched)

    @pytest.mark.parametrize("setup", SETUPS)
    def test_application_that_was_changed_after_it_was_made(
        self, serving: Serve, dispatched: list[str], setup: Callable[[Flask], object]
    ) -> None:
        client = serving(gateway_pages="on")
        setup(client.application)
        self.check_that_none_is_taken(client, dispatched)

    def test_application_with_a_deprecated_route(
        self, serving: Serve, dispatched: list[str], mocker: MockerFixture
    ) -> None:
        deprecation = Deprecation(since=datetime(2026, 11, 22, tzinfo=UTC))
        mocker.patch.dict(vars(delete_user), deprecation=deprecation)
        self.check_that_none_is_taken(serving(), dispatched)
