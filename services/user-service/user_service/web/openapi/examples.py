"""Examples for the OpenAPI document: bodies and problems."""

import re
from datetime import UTC, datetime

import orjson
from werkzeug import exceptions

from user_service import __version__, errors
from user_service.domain.user import User
from user_service.resilience.breaker import State
from user_service.web.openapi.operations import REQUEST_ID, Object
from user_service.web.problems import Problem, problem_of
from user_service.web.responses.bodies import Health, UserPage
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
    errors.InvalidInput({"username": "must have 3 to 50 characters after trimming"}),
    errors.MalformedBody("must be a JSON object"),
    errors.UserNotFound(),
    errors.UserExists("username"),
    errors.IdempotencyKeyInFlight(),
    errors.IdempotencyKeyReused(),
    errors.Unauthenticated("the token has expired"),
    errors.InsufficientScope("users:read"),
    errors.PreconditionFailed(_ADA._replace(email="countess@example.com", version=2)),
    errors.PreconditionRequired(),
    errors.Unavailable(),
    errors.OutcomeUnknown(),
    exceptions.NotFound(),
    exceptions.RequestTimeout(),
    exceptions.RequestEntityTooLarge(),
    exceptions.RequestURITooLarge(),
    exceptions.RequestHeaderFieldsTooLarge(),
    errors.UnsupportedBody("The Content-Type must be one of: application/json", {}),
    errors.RateLimited("default", 42),
    exceptions.InternalServerError(),
)
PROBLEMS = {type(error): problem_of(error) for error in ERRORS}


def example_name(problem: Problem) -> str:
    """Return the name of the example of ``problem``."""
    return re.sub(r"\W+", "-", problem.kind or problem.title).lower()


def problem_examples() -> Object:
    """Return the example objects of all problems, by name."""
    return {
        example_name(problem): {
            "value": orjson.loads(problem.reply().body) | {"request_id": REQUEST_ID}
        }
        for problem in PROBLEMS.values()
    }
