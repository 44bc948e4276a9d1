"""Every error as ``application/problem+json`` (RFC 9457)."""

import logging
from http import HTTPStatus

import orjson
from flask import Flask, Response, g
from flask_smorest import Api
from sqlalchemy.exc import IntegrityError
from werkzeug.exceptions import HTTPException

URN = "urn:user-service:problem:"
FIELD_OF_CONSTRAINT = {"users_username_key": "username", "users_email_key": "email"}


class UserNotFound(Exception):
    """There is no such user."""


class ProblemApi(Api):
    """Flask-Smorest's API with problems for its errors."""

    def _register_error_handlers(self) -> None:
        register_problems(self._app)


def register_problems(app: Flask) -> None:
    """Answer every exception of a request with a problem."""
    app.register_error_handler(UserNotFound, not_found)
    app.register_error_handler(IntegrityError, exists)
    app.register_error_handler(HTTPException, http_exception)
    app.register_error_handler(Exception, unexpected)


def problem(
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
        "request_id": g.request_id,
    }
    if errors:
        body["errors"] = [{"field": field, "message": text} for field, text in errors.items()]
    return Response(orjson.dumps(body), status, headers, mimetype="application/problem+json")


def not_found(_error: UserNotFound) -> Response:
    """Return the problem that there is no such user."""
    return problem(404, "User not found", "User not found", kind=URN + "user-not-found")


def exists(error: IntegrityError) -> Response:
    """Return 409 with the field that somebody else has."""
    field = FIELD_OF_CONSTRAINT[error.orig.diag.constraint_name]
    detail = "Username or email already exists"
    errors = {field: "already exists"}
    return problem(409, "User exists", detail, kind=URN + "user-exists", errors=errors)


def http_exception(error: HTTPException) -> Response:
    """Return what was wrong with the fields, or else what HTTP's own status says."""
    faults = getattr(error, "data", {}).get("messages", {})
    if error.code == HTTPStatus.BAD_REQUEST:
        fields = [part for part in faults.values() if isinstance(part, dict)]
        return invalid({name: texts for part in fields for name, texts in part.items()})
    status = HTTPStatus(error.code)
    headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
    detail = status.description or status.phrase
    return problem(status, status.phrase, detail, headers=headers)


def invalid(faults: dict[str, list[str]]) -> Response:
    """Return 400 with the fields at fault."""
    if not faults or "_schema" in faults:
        detail = "The body must be a JSON object"
        return problem(400, "Malformed body", detail, kind=URN + "malformed-body")
    errors = {field: " ".join(texts) for field, texts in faults.items()}
    detail = "The request has invalid fields"
    return problem(400, "Invalid input", detail, kind=URN + "invalid-input", errors=errors)


def unexpected(error: Exception) -> Response:
    """Return 500, and nothing of what went wrong."""
    logging.getLogger(__name__).error("unexpected error", exc_info=error)
    return problem(500, "Internal Server Error", "An unexpected error occurred")
