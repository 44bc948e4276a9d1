"""What the tests read from responses."""

from collections.abc import Callable
from typing import Any

import orjson
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

Serve = Callable[..., FlaskClient]  # with other settings


def json_of(response: TestResponse) -> Any:
    """Return the decoded JSON body."""
    return orjson.loads(response.data)


def problem_of(response: TestResponse, status: int) -> Any:
    """Return the decoded problem, having checked what every problem has."""
    assert response.status_code == status
    assert response.mimetype == "application/problem+json"
    problem = json_of(response)
    assert problem["status"] == status
    assert problem["title"]
    assert problem["type"]
    assert problem["error"] == problem["detail"] != ""
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert response.headers["Cache-Control"] in ("no-store", "private, no-cache")
    return problem


def fields_of(response: TestResponse) -> set[str]:
    """Return the names of the fields that a 400 or 409 finds fault with."""
    return {error["field"] for error in json_of(response)["errors"]}
