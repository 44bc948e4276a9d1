"""The same bytes for every request: by WSGI alone, and by Flask."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from flask import Flask, Response

BODY = Path(os.environ["CONSTANT_BODY"]).read_bytes()
HEADERS = [("Content-Type", "application/json"), ("Content-Length", str(len(BODY)))]

flask = Flask(__name__, static_folder=None)


def wsgi(
    _environ: dict[str, object], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    start_response("200 OK", HEADERS)
    return [BODY]


@flask.get("/health/live")
@flask.get("/constant")
def constant() -> Response:
    return Response(BODY, mimetype="application/json")
