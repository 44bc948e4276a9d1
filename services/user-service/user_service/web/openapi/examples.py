"""Examples for the OpenAPI document: bodies and problems."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from werkzeug.exceptions import (
    InternalServerError,
    NotFound,
    RequestEntityTooLarge,
    RequestHeaderFieldsTooLarge,
    RequestTimeout,
    RequestURITooLarge,
)

from user_service import __version__
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
    UnsupportedBody,
    UserExists,
    UserNotFound,
)
from user_service.resilience.breaker import State
from user_service.web.openapi.operations import RESPONSE_HEADERS
from user_service.web.problems import problem_of
from user_service.web.responses.bodies import Health, UserPage
from user_service.web.responses.reply import Reply
from user_service.web.responses.user_body import user_body

_THEN = datetime(2026, 11, 22, 19, 41, 6, 123456, UTC)

_ADA = User(1, "ada", "ada@example.com", _THEN, _THEN)
USER = user_body(_ADA)
PAGE: UserPage = {
    "users": [USER],
    "pagination": {
        "page": 1,
        "per_page": 1,
        "total": 2,
        "pages": 2,
        "next_cursor": "YdHFuP7sxBdatjd1ikxvFFsiPiIsMSwxXQ",
        "prev_cursor": None,
    },
}
HEALTH: Health = {
    "status": "healthy",
    "timestamp": _THEN,
    "database": "connected",
    "redis": "connected",
    "pool": {"size": 10, "in_use": 0, "waiting": 0},
    "breakers": {"database": State.CLOSED, "redis": State.CLOSED},
    "version": __version__,
    "commit": "fb2bbbb",
}

# One error of each kind that a client may see.
ERRORS: tuple[Exception, ...] = (
    InvalidInput({"username": "must have 3 to 50 characters after trimming"}),
    MalformedBody("must be a JSON object"),
    UserNotFound(),
    UserExists("username"),
    IdempotencyKeyInFlight(),
    IdempotencyKeyReused(),
    PreconditionFailed(_ADA._replace(email="countess@example.com", version=2)),
    PreconditionRequired(),
    Unavailable(),
    OutcomeUnknown(),
    NotFound(),
    RequestTimeout(),
    RequestEntityTooLarge(),
    RequestURITooLarge(),
    RequestHeaderFieldsTooLarge(),
    UnsupportedBody("The Content-Type must be one of: application/json", {}),
    RateLimited("default", 42),
    InternalServerError(),
)


@dataclass(frozen=True, slots=True)
class ProblemExample:
    """The body of a problem; ``headers`` names the headers of every response with it."""

    name: str
    status: int
    title: str
    headers: frozenset[str]
    body: dict[str, Any]


def problem_examples() -> dict[type[Exception], ProblemExample]:
    """Return an example of the problem for each class of error."""
    return {type(error): _example(problem_of(error).reply()) for error in ERRORS}


def _example(reply: Reply) -> ProblemExample:
    body = orjson.loads(reply.body)
    body["request_id"] = RESPONSE_HEADERS["X-Request-ID"].example
    kind = body["title"] if body["type"] == "about:blank" else body["type"].rpartition(":")[2]
    return ProblemExample(
        name=re.sub(r"\W+", "-", kind).lower(),
        status=reply.status,
        title=body["title"],
        headers=frozenset(reply.headers) - {"Content-Type"},
        body=body,
    )
