"""The application as granian calls it."""

import io
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from werkzeug.test import create_environ

from granian_server import GuardedApp
from serve import MAX_DISCARDED_BYTES


@pytest.mark.parametrize("added", [[], [("Connection", "close")]], ids=["", "while it drains"])
def test_response_is_one_part_and_that_of_the_application_is_closed(
    added: list[tuple[str, str]],
) -> None:
    parts, start_response = MagicMock(), Mock()
    parts.__iter__.return_value = iter([b"a", b"b"])

    def app(_environ: object, start: Any) -> Any:
        start("200 OK", [("X-Name", "1")])
        return parts

    response = GuardedApp(app, lambda: bool(added))(create_environ(), start_response)
    assert response == [b"ab"]
    start_response.assert_called_once_with("200 OK", [("X-Name", "1"), *added], None)
    parts.close.assert_called_once_with()


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
    body = io.BytesIO(b"x" * 100)
    app = GuardedApp(lambda environ, _: [environ["wsgi.input"].read(10)], lambda: False)
    app({**create_environ(), "wsgi.input": body, **environ}, Mock())
    assert (body.read() == b"") == is_read
