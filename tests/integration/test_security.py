"""What every response tells browsers not to do, and the contact for reports."""

from datetime import UTC, datetime, timedelta

import pytest
from flask import Response
from flask.testing import FlaskClient
from pytest_mock import MockerFixture
from werkzeug.test import TestResponse

from app import create_app
from tests.responses import Serve
from user_service.settings import Settings
from user_service.web.openapi.operations import undocumented
from user_service.web.services import services_of

URL = "/api/v1/users"
ADA = {"username": "ada", "email": "ada@example.com"}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def assert_protected(answer: TestResponse) -> None:
    for name, value in HEADERS.items():
        assert answer.headers.getlist(name) == [value]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", URL, 200),
        ("HEAD", URL, 200),
        ("OPTIONS", URL, 200),
        ("GET", f"{URL}/1", 404),
        ("HEAD", f"{URL}/1", 404),
        ("GET", f"{URL}?page=0", 400),
        ("POST", URL, 415),
        ("PUT", URL, 405),
        ("DELETE", f"{URL}/1", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/health", 200),
        ("GET", "/health/live", 200),
    ],
)
def test_every_response_is_protected(
    client: FlaskClient, method: str, path: str, status: int
) -> None:
    answer = client.open(path, method=method)
    assert answer.status_code == status
    assert_protected(answer)


def test_so_are_304_429_500_and_503(serving: Serve, mocker: MockerFixture) -> None:
    client = serving()
    again = client.get(URL, headers={"If-None-Match": client.get(URL).headers["ETag"]})
    limited = serving(rate_limit="1/minute")
    limited.get("/nowhere")
    away = serving(database_url="postgresql://users@127.0.0.1:1/users", retry_attempts=0)
    mocker.patch.object(services_of(client.application).users, "get", side_effect=ValueError)
    answers = [again, limited.get("/nowhere"), client.get(f"{URL}/1"), away.get(f"{URL}/1")]
    assert [each.status_code for each in answers] == [304, 429, 500, 503]
    for answer in answers:
        assert_protected(answer)


def test_view_may_have_a_policy_of_its_own(settings: Settings) -> None:
    app = create_app(settings)
    policy = "default-src 'self'"

    @app.get("/docs/page")
    @undocumented("is no route of the service")
    def page() -> Response:
        return Response("", headers={"Content-Security-Policy": policy})

    answer = app.test_client().get("/docs/page")
    assert answer.headers.getlist("Content-Security-Policy") == [policy]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


class TestContact:
    def test_is_nowhere_unless_set(self, client: FlaskClient) -> None:
        assert client.get("/.well-known/security.txt").status_code == 404

    def test_is_served_with_an_end_of_less_than_a_year(self, serving: Serve) -> None:
        client = serving(security_contact="mailto:security@example.com")
        answer = client.get("/.well-known/security.txt")
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        contact, expires = answer.text.splitlines()
        assert contact == "Contact: mailto:security@example.com"
        left = datetime.fromisoformat(expires.removeprefix("Expires: ")) - datetime.now(UTC)
        assert timedelta(days=170) < left < timedelta(days=365)
        assert_protected(answer)
