"""The fast path gives the responses of the views, and leaves every other request to Flask."""

import io
from collections.abc import Callable, Iterator

import pytest
import redis as redis_py
from flask import Flask, Response, request, request_started
from flask.testing import FlaskClient
from prometheus_client import generate_latest
from pytest_mock import MockerFixture

from tests.responses import Serve, json_of, problem_of
from tests.scrapes import samples
from user_service.errors import CircuitOpen, DeadlineExceeded, TransientFailure
from user_service.settings import Settings
from user_service.web.services import services_of

URL = "/api/v1/users"
NAMES = ("ada", "grace", "joan")
PAGES = [
    "",
    "?",
    "?page=2&per_page=2",
    "?page=99",
    "?per_page=500&count=none",
    "?sort=-username&fields=username,id",
    "?id=3,1&count=estimated",
    "?q=a&username=ada&email=ada@example.com",
    "?username=%C3%A9daa",
    "?created_since=2026-01-01T00:00:00Z",
]
BAD_QUERIES = [
    "?page=0",
    "?page=1&page=1",
    "?page=9223372036854775808",
    "?colour=red",
    "?cursor=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "?page=1&cursor=x",
    "?username=%E9daa",
    "?q=%E9",
    "?q=" + "a" * 4000,
]
USERS = ["/1", "/1?", "/001"]
MISSING_USERS = ["/9", "/0", "/" + "9" * 18]
# Requests of the same routes, or nearly so, that are left to Flask.
OTHERS = [
    "/1?fields=id",
    "/" + "9" * 19,
    "/" + "9" * 20,
    "/1/",
    "//1",
    "/+1",
    "/1.0",
    "/%D9%A1",
    "/",
]
PATHS = ["", "?page=1", "/1"]
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
    for name in NAMES:
        client.post(URL, json={"username": name, "email": f"{name}@example.com"})


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


@pytest.mark.parametrize("path", [*PAGES, *BAD_QUERIES, *USERS, *MISSING_USERS])
def test_responses_are_those_of_the_views(
    client: FlaskClient,
    by_view: FlaskClient,
    redis: redis_py.Redis,
    dispatched: list[str],
    path: str,
) -> None:
    answers = []
    for each in (client, by_view):
        redis.flushall()
        answers.append([sent(each, path) for _ in ("MISS", "HIT")])
    assert answers[0] == answers[1]
    assert len(dispatched) == 2  # those of the other application


def test_page_by_cursor_is_that_of_the_view(
    client: FlaskClient, by_view: FlaskClient, dispatched: list[str]
) -> None:
    cursor = json_of(client.get(f"{URL}?per_page=1"))["pagination"]["next_cursor"]
    client.get(f"{URL}?cursor={cursor}")
    assert sent(client, f"?cursor={cursor}") == sent(by_view, f"?cursor={cursor}")
    assert dispatched == [URL]


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
        ("?page=0", URL, 400),
        ("/1", f"{URL}/<user_id:user_id>", 200),
        ("/9", f"{URL}/<user_id:user_id>", 404),
    ],
)
def test_request_is_counted_and_logged_as_by_the_view(  # noqa: PLR0913, PLR0917 -- fixtures
    client: FlaskClient,
    by_view: FlaskClient,
    log: io.StringIO,
    path: str,
    route: str,
    status: int,
) -> None:
    labels = frozenset({"method": "GET", "route": route, "status": str(status)}.items())
    counter = "user_service_http_request_duration_seconds_count", labels
    for each in (client, by_view):
        metrics = services_of(each.application).metrics
        before = samples(generate_latest(metrics.collector).decode()).get(counter, 0)
        lines_before = len(log.getvalue().splitlines())
        sent(each, path)
        (line,) = log.getvalue().splitlines()[lines_before:]
        assert f" - user_service.access - INFO - GET {route} {status} " in line
        assert line.endswith(" request_id=mine")
        assert samples(generate_latest(metrics.collector).decode())[counter] == before + 1


class TestRequestsForFlask:
    @pytest.mark.parametrize("path", OTHERS)
    def test_paths_that_are_neither_the_list_nor_a_plain_id(
        self, client: FlaskClient, dispatched: list[str], path: str
    ) -> None:
        problem_of(client.get(URL + path), 400 if "?" in path else 404)
        assert len(dispatched) == 1

    @pytest.mark.parametrize(
        ("path", "condition", "validator"),
        [
            ("", "If-None-Match", "ETag"),
            ("/1", "If-None-Match", "ETag"),
            ("/1", "If-Modified-Since", "Last-Modified"),
        ],
    )
    def test_conditional_requests(
        self,
        client: FlaskClient,
        dispatched: list[str],
        path: str,
        condition: str,
        validator: str,
    ) -> None:
        current = client.get(URL + path).headers[validator]
        for value, status in ((current, 304), ('"other"', 200)):
            assert client.get(URL + path, headers={condition: value}).status_code == status
        assert len(dispatched) == 2

    @pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE"])
    @pytest.mark.parametrize("path", ["", "/1"])
    def test_other_methods(
        self, client: FlaskClient, dispatched: list[str], path: str, method: str
    ) -> None:
        answer = client.open(URL + path, method=method)
        assert answer.status_code == (405 if method == "TRACE" else 200)
        assert (method == "TRACE") is bool(answer.data)
        assert len(dispatched) == 1

    def test_mounted_application(self, client: FlaskClient, dispatched: list[str]) -> None:
        for path in (URL, f"{URL}/1"):
            mounted = {"SCRIPT_NAME": "/mounted"}
            assert client.get(path, environ_overrides=mounted).status_code == 200
        assert dispatched == [URL, f"{URL}/1"]

    @pytest.mark.parametrize(
        "changed",
        [
            {"rate_limit": "100/minute"},
            {"cors_origins": "https://app.example.com"},
            {"server_timing": "on"},
        ],
        ids=lambda changed: next(iter(changed)),
    )
    def test_application_with_hooks(
        self, serving: Serve, dispatched: list[str], changed: dict[str, str]
    ) -> None:
        client = serving(**changed)
        assert [client.get(URL).headers["X-Cache"] for _ in range(2)] == ["MISS", "HIT"]
        assert client.get(f"{URL}/1").status_code == 200
        assert dispatched == [URL, URL, f"{URL}/1"]

    @pytest.mark.parametrize("setup", SETUPS)
    def test_application_that_was_changed_after_it_was_made(
        self, serving: Serve, dispatched: list[str], setup: Callable[[Flask], object]
    ) -> None:
        client = serving()
        setup(client.application)
        for path in PATHS:
            assert client.get(URL + path).status_code == 200
        assert len(dispatched) == len(PATHS)

    def test_deprecated_view(
        self, serving: Serve, dispatched: list[str], mocker: MockerFixture
    ) -> None:
        mocker.patch("user_service.web.fast_path.deprecation_of", return_value=object())
        client = serving()
        for path in PATHS:
            assert client.get(URL + path).status_code == 200
        assert len(dispatched) == len(PATHS)
