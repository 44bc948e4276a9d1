"""Every error as ``application/problem+json`` (RFC 9457), made in this one place.

``error`` repeats ``detail`` for clients of the earlier API, which answered ``{"error": …}``.
"""

import functools
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from user_service.errors import (
    CircuitOpen,
    DeadlineExceeded,
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
from user_service.observability import request_id
from user_service.web.responses.user_body import entity_headers, members_of

log = logging.getLogger(__name__)

RETRY_AFTER = {"Retry-After": "1"}
PROBLEM_JSON = "application/problem+json"

Handler = Callable[[Any], Response]

# As RFC 9110 has them; Python has had other ones before 3.13.
_PHRASES = {413: "Content Too Large", 414: "URI Too Long"}
_DESCRIPTIONS = {413: "The body is too large", 414: "The URI is too long"}


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A kind of problem: ``type`` is its URI, by which programs tell it from the others."""

    type: str
    status: int
    title: str


INVALID_INPUT = ProblemType("urn:user-service:problem:invalid-input", 400, "Invalid input")
MALFORMED_BODY = ProblemType("urn:user-service:problem:malformed-body", 400, "Malformed body")
USER_NOT_FOUND = ProblemType("urn:user-service:problem:user-not-found", 404, "User not found")
USER_EXISTS = ProblemType("urn:user-service:problem:user-exists", 409, "User exists")
KEY_IN_FLIGHT = ProblemType(
    "urn:user-service:problem:idempotency-key-in-flight", 409, "Idempotency key in flight"
)
KEY_REUSED = ProblemType(
    "urn:user-service:problem:idempotency-key-reused", 422, "Idempotency key reused"
)
PRECONDITION_FAILED = ProblemType(
    "urn:user-service:problem:precondition-failed", 412, "Precondition failed"
)
PRECONDITION_REQUIRED = ProblemType(
    "urn:user-service:problem:precondition-required", 428, "Precondition required"
)
RATE_LIMITED = ProblemType("urn:user-service:problem:rate-limited", 429, "Rate limited")
UNAVAILABLE = ProblemType("urn:user-service:problem:unavailable", 503, "Service unavailable")
OUTCOME_UNKNOWN = ProblemType(
    "urn:user-service:problem:outcome-unknown", 503, "Outcome of the write unknown"
)


def register_problems(app: Flask) -> None:
    """Answer every exception of a request with a problem."""
    app.register_error_handler(InvalidInput, _invalid_input)
    app.register_error_handler(MalformedBody, _malformed_body)
    app.register_error_handler(UserNotFound, _user_not_found)
    app.register_error_handler(UserExists, _user_exists)
    app.register_error_handler(IdempotencyKeyInFlight, _key_in_flight)
    app.register_error_handler(IdempotencyKeyReused, _key_reused)
    app.register_error_handler(PreconditionFailed, _precondition_failed)
    app.register_error_handler(PreconditionRequired, _precondition_required)
    app.register_error_handler(RateLimited, _rate_limited)
    app.register_error_handler(Unavailable, _unavailable)
    app.register_error_handler(OutcomeUnknown, _outcome_unknown)
    app.register_error_handler(HTTPException, _http_exception)
    if not app.debug:  # under debug the traceback is for the developer's eyes
        app.register_error_handler(Exception, _unexpected)


def problem(
    kind: ProblemType,
    detail: str,
    *,
    errors: Mapping[str, str] | None = None,
    members: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the response for a problem; ``errors`` maps each field at fault to its rule.

    ``members`` are the ones that only this kind of problem has.
    """
    body: dict[str, object] = {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "error": detail,
        "request_id": request_id.current(),
    }
    if errors:
        body["errors"] = [{"field": field, "message": text} for field, text in errors.items()]
    body |= members or {}
    return Response(
        orjson.dumps(body),
        status=kind.status,
        mimetype=PROBLEM_JSON,
        # Or a 404 might be kept by a cache, and served when there is such a user.
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def _invalid_input(error: InvalidInput) -> Response:
    return problem(INVALID_INPUT, str(error), errors=error.errors)


def _malformed_body(error: MalformedBody) -> Response:
    return problem(MALFORMED_BODY, f"The body {error}")


def _user_not_found(_error: UserNotFound) -> Response:
    return problem(USER_NOT_FOUND, "User not found")


def _user_exists(error: UserExists) -> Response:
    detail = "Username or email already exists"
    return problem(USER_EXISTS, detail, errors={error.field: "already exists"})


def _key_in_flight(_error: IdempotencyKeyInFlight) -> Response:
    detail = "A request with this Idempotency-Key is under way; its answer can be had when it ends"
    return problem(KEY_IN_FLIGHT, detail, headers=RETRY_AFTER)


def _key_reused(_error: IdempotencyKeyReused) -> Response:
    return problem(KEY_REUSED, "This Idempotency-Key was used for another request")


def _precondition_failed(error: PreconditionFailed) -> Response:
    return problem(
        PRECONDITION_FAILED,
        "The user is not in the state that the request asks for; nothing was changed",
        members={"user": members_of(error.current)},
        headers=entity_headers(error.current),
    )


def _precondition_required(_error: PreconditionRequired) -> Response:
    return problem(
        PRECONDITION_REQUIRED, "Send If-Match with the ETag of the user that you have read"
    )


def _rate_limited(error: RateLimited) -> Response:
    # The member is the IETF draft's (draft-ietf-httpapi-ratelimit-headers-11, section 5.1).
    return problem(
        RATE_LIMITED,
        f"Too many requests; the next one is answered in {error.retry_after} s",
        members={"violated-policies": [error.policy]},
        headers={"Retry-After": str(error.retry_after)},
    )


def _logged(name: str) -> Callable[[Handler], Handler]:
    """Have the errors that a handler answers in the log, as ``name``."""

    def decorate(handler: Handler) -> Handler:
        @functools.wraps(handler)
        def call(error: Any) -> Response:  # noqa: ANN401 -- as the handler has it
            log.error("%s: %s", name, error)
            return handler(error)

        return call

    return decorate


@_logged("unavailable")
def _unavailable(error: Unavailable) -> Response:
    detail = "The service cannot answer at the moment; nothing was changed, try again"
    if isinstance(error, DeadlineExceeded):
        detail = "The service could not answer in time; nothing was changed, try again"
    seconds = math.ceil(error.retry_after) if isinstance(error, CircuitOpen) else 1
    return problem(UNAVAILABLE, detail, headers={"Retry-After": str(max(1, seconds))})


@_logged("outcome unknown")
def _outcome_unknown(_error: OutcomeUnknown) -> Response:
    detail = "The database was lost while it stored the change; read before you try again"
    return problem(OUTCOME_UNKNOWN, detail, headers=RETRY_AFTER)


def _http_exception(error: HTTPException) -> Response:
    status = HTTPStatus(error.code or 500)
    headers = {key: value for key, value in error.get_headers() if key != "Content-Type"}
    title = _PHRASES.get(status, status.phrase)
    detail = _DESCRIPTIONS.get(status) or status.description or title
    return problem(ProblemType("about:blank", status, title), detail, headers=headers)


def _unexpected(error: Exception) -> Response:
    log.error("unexpected error", exc_info=error)
    return problem(
        ProblemType("about:blank", 500, "Internal Server Error"), "An unexpected error occurred"
    )
