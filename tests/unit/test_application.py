"""What our Flask leaves out: hosts in URLs, sessions, and a second look at headers."""

import pytest
from flask import Response, session, url_for

from user_service.web.application import Application, JsonResponse


@pytest.fixture
def app() -> Application:
    app = Application("test", static_folder=None)
    app.testing = True

    @app.get("/things/<name>")
    def thing(name: str) -> Response:
        body = url_for("thing", name=name).encode()
        return JsonResponse(b'"%b"' % body, status=203, headers={"ETag": '"x"'})

    @app.get("/session")
    def remember() -> Response:
        session["name"] = "value"
        return JsonResponse(b"{}")

    return app


@pytest.mark.parametrize("host", ["example.com", "example.com:99999", "ü.example", "a" * 300, ""])
def test_does_not_look_at_the_host(app: Application, host: str) -> None:
    response = app.test_client().get("/things/a", headers={"Host": host})
    assert response.data == b'"/things/a"'


def test_urls_begin_with_where_it_is_mounted(app: Application) -> None:
    response = app.test_client().get("/things/a", environ_overrides={"SCRIPT_NAME": "/mounted"})
    assert response.data == b'"/mounted/things/a"'


def test_paths_are_utf_8(app: Application) -> None:
    assert app.test_client().get("/things/%C3%A4").data == b'"/things/%C3%A4"'
    assert app.test_client().get("/things/%FF").status_code == 203


def test_has_no_session(app: Application) -> None:
    with pytest.raises(RuntimeError, match="session is unavailable"):
        app.test_client().get("/session")


def test_a_session_that_a_client_claims_is_no_harm(app: Application) -> None:
    response = app.test_client().get("/things/a", headers={"Cookie": "session=x"})
    assert "Set-Cookie" not in response.headers


def test_json_response_has_the_headers_that_it_was_given(app: Application) -> None:
    response = app.test_client().get("/things/a")
    assert response.status_code == 203
    assert dict(response.headers) == {
        "ETag": '"x"',
        "Content-Type": "application/json",
        "Content-Length": "11",
    }


def test_json_response_to_head_has_no_body(app: Application) -> None:
    response = app.test_client().head("/things/a")
    assert response.data == b""
    assert response.headers["Content-Length"] == "11"
