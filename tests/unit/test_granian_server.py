"""The application as granian calls it."""

import io
from collections.abc import Callable
from typing import Any

import pytest

from granian_server import GuardedApp
from serve import MAX_DISCARDED_BYTES


class Parts(list[bytes]):
    is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Call:
    """One request to an application that reads ten bytes of the body."""

    def __init__(self, *, draining: bool = False, **environ: Any) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.body = io.BytesIO(b"x" * 100)
        self.read: bytes | None = None
        self.parts = Parts([b"a", b"b"])
        app = GuardedApp(self._app, lambda: draining)
        request = {"REQUEST_METHOD": "POST", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "x"}
        environ = {**request, "wsgi.input": self.body, **environ}
        self.response = app(environ, self._start)

    def _app(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Parts:
        self.read = environ["wsgi.input"].read(10)
        start_response("200 OK", [("X-Name", "1")])
        return self.parts

    def _start(self, status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Any:
        self.status, self.headers = status, headers


def test_response_is_one_part_and_that_of_the_application_is_closed() -> None:
    call = Call(CONTENT_LENGTH="100")
    assert (call.status, call.headers, call.response) == ("200 OK", [("X-Name", "1")], [b"ab"])
    assert call.parts.is_closed


def test_answers_close_their_connections_while_the_server_drains() -> None:
    assert Call(draining=True).headers == [("X-Name", "1"), ("Connection", "close")]


@pytest.mark.parametrize(
    ("environ", "is_read"),
    [
        ({"CONTENT_LENGTH": "100"}, True),
        ({"CONTENT_LENGTH": "100", "HTTP_HOST": ""}, True),
        ({"CONTENT_LENGTH": "100", "HTTP_EXPECT": "100-continue"}, False),
        ({"CONTENT_LENGTH": str(MAX_DISCARDED_BYTES + 1)}, False),
        ({}, False),
    ],
)
def test_rest_of_a_body_is_read_unless_it_is_large_or_not_sent_yet(
    environ: dict[str, Any], *, is_read: bool
) -> None:
    assert (Call(**environ).body.read() == b"") == is_read
