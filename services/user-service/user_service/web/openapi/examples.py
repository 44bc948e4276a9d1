"""One example of each problem, for the OpenAPI document: what the handlers make of these errors."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from flask import Flask, Response
from werkzeug.exceptions import (
    InternalServerError,
    NotFound,
    RequestEntityTooLarge,
    RequestHeaderFieldsTooLarge,
    RequestTimeout,
    RequestURITooLarge,
    UnsupportedMediaType,
)

from user_service.domain.user import User
from user_service.errors import (
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    InvalidInput,
    MalformedBody,
    OutcomeUnknown,
    PreconditionFailed,
    PreconditionRequired,
    RateLimited,
    Unavailable,
    UserExists,
    UserNotFound,
)
from user_service.web.openapi.operations import RESPONSE_HEADERS

_THEN = datetime(2026, 11, 22, 19, 41, 6, 123456, UTC)

ERRORS: tuple[Exception, ...] = (
    InvalidInput({"username": "must have 3 to 50 characters after trimming"}),
    MalformedBody("must be a JSON object"),
    UserNotFound(),
    UserExists("username"),
    IdempotencyKeyInFlight(),
    IdempotencyKeyReused(),
    PreconditionFailed(User(1, "ada", "countess@example.com", _THEN, _THEN, version=2)),
    PreconditionRequired(),
    Unavailable(),
    OutcomeUnknown(),
    NotFound(),
    RequestTimeout(),
    RequestEntityTooLarge(),
    RequestURITooLarge(),
    RequestHeaderFieldsTooLarge(),
    UnsupportedMediaType(),
    RateLimited("default", 42),
    InternalServerError(),
)


@dataclass(frozen=True, slots=True)
class ProblemExample:
    """A problem as clients get it; ``headers`` are the names of those that it always has."""

    name: str
    status: int
    title: str
    headers: frozenset[str]
    body: dict[str, Any]


def problem_examples(app: Flask) -> dict[type[Exception], ProblemExample]:
    """Return the problem that each error is answered with, by the class of the error."""
    return {type(error): _example(_handler(app, error)(error)) for error in ERRORS}


def _handler(app: Flask, error: Exception) -> Callable[[Exception], Response]:
    """Return what answers ``error``, without what writes it into the log: it did not happen."""
    handlers = app.error_handler_spec[None][None]
    kind = next(kind for kind in type(error).__mro__ if kind in handlers)
    handler: Callable[[Exception], Response] = inspect.unwrap(handlers[kind])
    return handler


def _example(response: Response) -> ProblemExample:
    body = orjson.loads(response.get_data())
    body["request_id"] = RESPONSE_HEADERS["X-Request-ID"].example
    kind = body["title"] if body["type"] == "about:blank" else body["type"].rpartition(":")[2]
    return ProblemExample(
        name=re.sub(r"\W+", "-", kind).lower(),
        status=response.status_code,
        title=body["title"],
        headers=frozenset(response.headers.keys()) - {"Content-Type", "Content-Length"},
        body=body,
    )
