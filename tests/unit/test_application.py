"""What our Flask leaves out: hosts in URLs, sessions, a second look at headers, and no hook."""

from collections.abc import Callable

import pytest
from blinker import NamedSignal
from flask import (
    Blueprint,
    Response,
    after_this_request,
    appcontext_tearing_down,
    request_tearing_down,
    session,
    url_for,
)

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


Hear = Callable[[str], None]


def heard_after(hear: Hear) -> Callable[[Response], Response]:
    def after(response: Response) -> Response:
        hear("after")
        return response

    return after


def of_the_application(app: Application, _: Blueprint, hear: Hear) -> list[str]:
    app.before_request(lambda: hear("before"))
    app.after_request(heard_after(hear))
    app.teardown_request(lambda error: hear(f"request over: {error}"))
    app.teardown_appcontext(lambda error: hear(f"context over: {error}"))
    return ["before", "after", "request over: None", "context over: None"]


def of_the_blueprint(_: Application, blueprint: Blueprint, hear: Hear) -> list[str]:
    blueprint.before_request(lambda: hear("before"))
    blueprint.after_request(heard_after(hear))
    blueprint.teardown_request(lambda error: hear(f"request over: {error}"))
    return ["before", "after", "request over: None"]


def of_the_address(app: Application, blueprint: Blueprint, hear: Hear) -> list[str]:
    app.url_value_preprocessor(lambda endpoint, _: hear(f"application: {endpoint}"))
    blueprint.url_value_preprocessor(lambda endpoint, _: hear(f"blueprint: {endpoint}"))
    return ["application: parts.one", "blueprint: parts.one"]


def of_this_request(_: Application, blueprint: Blueprint, hear: Hear) -> list[str]:
    @blueprint.before_request
    def before() -> None:
        after_this_request(heard_after(hear))

    return ["after"]


@pytest.mark.parametrize(
    "listen", [of_the_application, of_the_blueprint, of_the_address, of_this_request]
)
def test_every_hook_is_called(listen: Callable[[Application, Blueprint, Hear], list[str]]) -> None:
    app, blueprint = Application("test", static_folder=None), Blueprint("parts", __name__)
    heard: list[str] = []

    def hear(what: str) -> None:
        heard.append(what)

    expected = listen(app, blueprint, hear)
    blueprint.add_url_rule("/one", "one", lambda: JsonResponse(b"1"))
    app.register_blueprint(blueprint)
    app.test_client().get("/one")
    assert heard == expected


@pytest.mark.parametrize("signal", [request_tearing_down, appcontext_tearing_down])
def test_every_signal_is_sent(app: Application, signal: NamedSignal) -> None:
    heard = []

    def hear(sender: object, **_: object) -> None:
        heard.append(sender)

    with signal.connected_to(hear):
        app.test_client().get("/things/a")
    assert heard == [app]


def test_what_ends_a_request_is_told_which_error_did(app: Application) -> None:
    told: list[BaseException | None] = []
    app.teardown_request(told.append)
    app.teardown_appcontext(told.append)

    @app.get("/interrupted")
    def interrupted() -> Response:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        app.test_client().get("/interrupted")
    assert [type(error) for error in told] == [KeyboardInterrupt, KeyboardInterrupt]


def test_hook_that_answers_stands_in_for_the_view(app: Application) -> None:
    app.before_request(lambda: JsonResponse(b"2"))
    assert app.test_client().get("/things/a").data == b"2"


def test_body_that_a_hook_has_changed_is_sent_as_it_is_then(app: Application) -> None:
    @app.after_request
    def change(response: Response) -> Response:
        response.set_data("changed")
        return response

    response = app.test_client().get("/things/a")
    assert response.data == b"changed"
    assert response.headers["Content-Length"] == "7"


def test_what_is_to_be_called_when_a_response_is_closed_is_called(app: Application) -> None:
    closed: list[str] = []

    @app.after_request
    def change(response: Response) -> Response:
        response.call_on_close(lambda: closed.append("closed"))
        return response

    app.test_client().get("/things/a").close()
    assert closed == ["closed"]


def test_text_that_a_hook_has_put_in_is_sent_as_utf_8(app: Application) -> None:
    @app.after_request
    def change(response: Response) -> Response:
        response.response = "ä"
        return response

    assert app.test_client().get("/things/a").data == b"\xc3\xa4"
