"""Every error as ``application/problem+json`` (RFC 9457)."""

import logging
from http import HTTPStatus

import orjson
from asyncpg import UniqueViolationError
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

URN = "urn:user-service:problem:"
FIELD_OF_CONSTRAINT = {"users_username_key": "username", "users_email_key": "email"}


def register_problems(app: FastAPI) -> None:
    """Answer every exception of a request with a problem."""
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(UniqueViolationError, exists)
    app.add_exception_handler(HTTPException, http_exception)
    app.add_exception_handler(Exception, unexpected)


def problem(
    request: Request,
    status: int,
    title: str,
    detail: str,
    *,
    kind: str = "about:blank",
    errors: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """Return the response for a problem; ``errors`` maps each field at fault to its rule."""
    body: dict[str, object] = {
        "type": kind,
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": request.scope["request_id"],
    }
    if errors:
        body["errors"] = [{"field": field, "message": text} for field, text in errors.items()]
    return Response(orjson.dumps(body), status, headers, "application/problem+json")


def not_found(request: Request) -> Response:
    """Return the problem that there is no such user."""
    title = "User not found"
    return problem(request, 404, title, title, kind=URN + "user-not-found")


async def invalid(request: Request, error: RequestValidationError) -> Response:
    """Return 400 with the fields at fault; 404 for an id that no user can have."""
    faults = error.errors()
    if any(fault["loc"][0] == "path" for fault in faults):
        return not_found(request)
    fields = {str(fault["loc"][1]): fault["msg"] for fault in faults if len(fault["loc"]) > 1}
    if any(fault["type"] == "json_invalid" for fault in faults) or not fields:
        detail = "The body must be a JSON object"
        return problem(request, 400, "Malformed body", detail, kind=URN + "malformed-body")
    detail = "The request has invalid fields"
    kind = URN + "invalid-input"
    return problem(request, 400, "Invalid input", detail, kind=kind, errors=fields)


async def exists(request: Request, error: UniqueViolationError) -> Response:
    """Return 409 with the field that somebody else has."""
    detail = "Username or email already exists"
    errors = {FIELD_OF_CONSTRAINT[error.constraint_name]: "already exists"}
    return problem(request, 409, "User exists", detail, kind=URN + "user-exists", errors=errors)


async def http_exception(request: Request, error: HTTPException) -> Response:
    """Return what HTTP's own status says."""
    status = HTTPStatus(error.status_code)
    detail = status.description or status.phrase
    return problem(request, status, status.phrase, detail, headers=dict(error.headers or {}))


async def unexpected(request: Request, error: Exception) -> Response:
    """Return 500, and nothing of what went wrong."""
    logging.getLogger(__name__).error("unexpected error", exc_info=error)
    return problem(request, 500, "Internal Server Error", "An unexpected error occurred")
