"""Every error as ``application/problem+json`` (RFC 9457), made in this one place.

``error`` repeats ``detail`` for clients of the earlier API, which answered ``{"error": …}``.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson
from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from user_service import errors
from user_service.observability import request_id
from user_service.security import principal
from user_service.web.responses.reply import Reply, respond
from user_service.web.responses.user_body import entity_headers, user_body

log = logging.getLogger(__name__)

RETRY_SOON = {"Retry-After": "1"}
PROBLEM_JSON = "application/problem+json"
# RFC 6750, section 3.
CHALLENGE = 'Bearer realm="user-service"'

# As RFC 9110 names them; Python used older names before 3.13.
_TITLES = {413: "Content Too Large", 414: "URI Too Long"}
_DETAILS = {413: "The body is too large", 414: "The URI is too long"}


@dataclass(frozen=True, slots=True)
class Problem:
    """What a client is told about an error.

    ``kind`` is the last part of the problem's type; without one the status says everything.
    ``errors`` maps each field at fault to its rule. ``members`` are extensions of this kind.
    """

    status: int
    title: str
    detail: str
    kind: str = ""
    errors: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def reply(self) -> Reply:
        """Return the response."""
        body: dict[str, object] = {
            "type": f"urn:user-service:problem:{self.kind}" if self.kind else "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "error": self.detail,
            "request_id": request_id.current(),
        }
        if self.errors:
            body["errors"] = [
                {"field": name, "message": rule} for name, rule in self.errors.items()
            ]
        headers = {
            "Content-Type": PROBLEM_JSON,
            # A cached 404 would outlive the creation of the user.
            "Cache-Control": "no-store",
            **self.headers,
        }
        return Reply(self.status, headers, orjson.dumps({**body, **self.members}))


def register_problems(app: Flask) -> None:
    """Answer every exception of a request with a problem."""
    for error in KNOWN:
        app.register_error_handler(error, problem_response)
    if not app.debug:  # in debug mode the developer gets the traceback
        app.register_error_handler(Exception, problem_response)


def problem_response(error: Exception) -> Response:
    """Return the reply to ``error`` as Flask's response."""
    return respond(problem_reply(error))


def problem_reply(error: Exception) -> Reply:
    """Return the reply to ``error``, and log what operators should see."""
    if isinstance(error, errors.OutcomeUnknown):
        log.error("outcome unknown: %s", error)
    elif isinstance(error, errors.Unavailable):
        log.error("unavailable: %s", error)
    elif not isinstance(error, tuple(KNOWN)):
        log.error("unexpected error", exc_info=error)
    return problem_of(error).reply()


def _may_see_users() -> bool:
    """Tell whether the caller may see a user. The scope to delete users shows none."""
    return principal.has_any("users:read", "users:write")


def problem_of(error: Exception) -> Problem:
    """Return the problem that ``error`` is; a 500 that reveals nothing for an unknown error."""
    for kind in type(error).__mro__:
        if kind in KNOWN:
            return KNOWN[kind](error)
    return Problem(500, "Internal Server Error", "An unexpected error occurred")


def _unavailable(error: errors.Unavailable) -> Problem:
    detail = "The service cannot answer at the moment; nothing was changed, try again"
    if isinstance(error, errors.DeadlineExceeded):
        detail = "The service could not answer in time; nothing was changed, try again"
    seconds = math.ceil(error.retry_after) if isinstance(error, errors.CircuitOpen) else 1
    headers = {"Retry-After": str(max(1, seconds))}
    return Problem(503, "Service unavailable", detail, "unavailable", headers=headers)


def _unauthenticated(error: errors.Unauthenticated) -> Problem:
    challenge, detail = CHALLENGE, "Send a bearer token or an API key in Authorization"
    if reason := str(error):
        challenge += f', error="invalid_token", error_description="{reason}"'
        detail = f"The credential is not accepted: {reason}"
    headers = {"WWW-Authenticate": challenge}
    return Problem(401, "Authentication required", detail, "unauthenticated", headers=headers)


def _http_exception(error: HTTPException) -> Problem:
    status = HTTPStatus(error.code or 500)
    title = _TITLES.get(status, status.phrase)
    detail = _DETAILS.get(status) or status.description or title
    headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
    return Problem(status, title, detail, headers=headers)


# Each kind of error that clients may cause or meet, and the problem that it is.
KNOWN: Mapping[type[Exception], Callable[[Any], Problem]] = {
    errors.InvalidInput: lambda error: Problem(
        400, "Invalid input", str(error), "invalid-input", errors=error.errors
    ),
    errors.MalformedBody: lambda error: Problem(
        400, "Malformed body", f"The body {error}", "malformed-body"
    ),
    errors.UnsupportedBody: lambda error: Problem(
        415, "Unsupported Media Type", str(error), headers=error.headers
    ),
    errors.UserNotFound: lambda _: Problem(
        404, "User not found", "User not found", "user-not-found"
    ),
    errors.UserExists: lambda error: Problem(
        409,
        "User exists",
        "Username or email already exists",
        "user-exists",
        errors={error.field: "already exists"},
    ),
    errors.IdempotencyKeyInFlight: lambda _: Problem(
        409,
        "Idempotency key in flight",
        "A request with this Idempotency-Key is in progress; repeat it to get its answer",
        "idempotency-key-in-flight",
        headers=RETRY_SOON,
    ),
    errors.IdempotencyKeyReused: lambda _: Problem(
        422,
        "Idempotency key reused",
        "This Idempotency-Key was used for another request",
        "idempotency-key-reused",
    ),
    errors.Unauthenticated: _unauthenticated,
    errors.InsufficientScope: lambda error: Problem(
        403,
        "Insufficient scope",
        f"The credential lacks the scope {error.scope}",
        "insufficient-scope",
        headers={
            "WWW-Authenticate": f'{CHALLENGE}, error="insufficient_scope", scope="{error.scope}"'
        },
    ),
    errors.PreconditionFailed: lambda error: Problem(
        412,
        "Precondition failed",
        "The user is not in the state that the request asks for; nothing was changed",
        "precondition-failed",
        members={"user": user_body(error.current)} if _may_see_users() else {},
        headers=entity_headers(error.current),
    ),
    errors.PreconditionRequired: lambda _: Problem(
        428,
        "Precondition required",
        "Send If-Match with the ETag of the user that you have read",
        "precondition-required",
    ),
    # The member is the IETF draft's (draft-ietf-httpapi-ratelimit-headers-11, section 5.1).
    errors.RateLimited: lambda error: Problem(
        429,
        "Rate limited",
        f"Too many requests; the next one is answered in {error.retry_after} s",
        "rate-limited",
        members={"violated-policies": [error.policy]},
        headers={"Retry-After": str(error.retry_after)},
    ),
    errors.Unavailable: _unavailable,
    errors.OutcomeUnknown: lambda _: Problem(
        503,
        "Outcome of the write unknown",
        "The database was lost while it stored the change; read before you try again",
        "outcome-unknown",
        headers=RETRY_SOON,
    ),
    HTTPException: _http_exception,
}
