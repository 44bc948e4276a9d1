"""Every error as ``application/problem+json`` (RFC 9457)."""

import logging
from http import HTTPStatus

import orjson
from django.db import IntegrityError
from django.http import Http404, HttpRequest, HttpResponse
from rest_framework.exceptions import APIException, NotFound, ParseError, ValidationError
from rest_framework.views import set_rollback

URN = "urn:user-service:problem:"
FIELD_OF_CONSTRAINT = {"users_username_key": "username", "users_email_key": "email"}


def problem(
    request: HttpRequest,
    status: int,
    title: str,
    detail: str,
    *,
    kind: str = "about:blank",
    errors: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> HttpResponse:
    """Return the response for a problem; ``errors`` maps each field at fault to its rule."""
    body: dict[str, object] = {
        "type": kind,
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": request.id,
    }
    if errors:
        body["errors"] = [{"field": field, "message": text} for field, text in errors.items()]
    return HttpResponse(
        orjson.dumps(body),
        status=status,
        content_type="application/problem+json",
        headers=headers,
    )


def handle(error: Exception, context: dict[str, object]) -> HttpResponse | None:
    """Answer an exception that a view has raised; Django REST Framework calls it."""
    set_rollback()
    request = context["request"]._request  # noqa: SLF001 -- the one that the middleware has seen
    match error:
        case ValidationError(detail=dict() as faults):
            return invalid(request, faults)
        case ParseError() | ValidationError():
            detail = "The body must be a JSON object"
            return problem(request, 400, "Malformed body", detail, kind=URN + "malformed-body")
        case NotFound() | Http404():
            title = "User not found"
            return problem(request, 404, title, title, kind=URN + "user-not-found")
        case IntegrityError():
            return exists(request, error)
        case APIException():
            headers = {"Allow": ", ".join(context["view"].allowed_methods)}
            return of_status(
                request, error.status_code, headers if error.status_code == 405 else {}
            )
    return None


def invalid(request: HttpRequest, faults: dict[str, list[str]]) -> HttpResponse:
    """Return 400 with the fields at fault."""
    if "non_field_errors" in faults:
        detail = "The body must be a JSON object"
        return problem(request, 400, "Malformed body", detail, kind=URN + "malformed-body")
    errors = {field: " ".join(map(str, texts)) for field, texts in faults.items()}
    detail = "The request has invalid fields"
    kind = URN + "invalid-input"
    return problem(request, 400, "Invalid input", detail, kind=kind, errors=errors)


def exists(request: HttpRequest, error: IntegrityError) -> HttpResponse:
    """Return 409 with the field that somebody else has."""
    detail = "Username or email already exists"
    errors = {FIELD_OF_CONSTRAINT[error.__cause__.diag.constraint_name]: "already exists"}
    return problem(request, 409, "User exists", detail, kind=URN + "user-exists", errors=errors)


def of_status(
    request: HttpRequest, code: int, headers: dict[str, str] | None = None
) -> HttpResponse:
    """Return what HTTP's own status says."""
    status = HTTPStatus(code)
    detail = status.description or status.phrase
    return problem(request, status, status.phrase, detail, headers=headers)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001
    """Answer a path that there is not; Django calls it."""
    return of_status(request, 404)


def unexpected(request: HttpRequest) -> HttpResponse:
    """Answer a fault of the program, which Django has logged."""
    logging.getLogger(__name__).error("unexpected error")
    return of_status(request, 500)
