"""A complete response as data. Views and the fast path send the same ones."""

from typing import NamedTuple

from flask import Response

JSON = "application/json"


class Reply(NamedTuple):
    """Status, headers and body of a response. ``Content-Length`` is added when it is sent."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


def respond(reply: Reply) -> Response:
    """Return ``reply`` as Flask's response."""
    response = Response(reply.body, reply.status, reply.headers)
    if "Content-Type" not in reply.headers:
        del response.headers["Content-Type"]  # Flask's default is text/html
    return response
