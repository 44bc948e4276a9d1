"""``/api/v1/users``: list, create, read, replace, change and delete users."""

import functools
from collections.abc import Callable

import orjson
from flask import Blueprint, Response, url_for

from user_service.errors import OutcomeUnknown
from user_service.idempotency import StoredResponse
from user_service.resilience.retry import retry_on_failure
from user_service.users import User
from user_service.web.idempotency import keyed_request
from user_service.web.schemas import PageQuery, UserPatch, UserWrite
from user_service.web.services import services
from user_service.web.validation import JSON, validated

blueprint = Blueprint("users", __name__, url_prefix="/api/v1/users")


def invalidates_pages(view: Callable[..., Response]) -> Callable[..., Response]:
    """Make all cached pages unreachable when the view has written, or may have."""

    @functools.wraps(view)
    def call(**arguments: object) -> Response:
        try:
            response = view(**arguments)
        except OutcomeUnknown:
            services().pages.invalidate()
            raise
        services().pages.invalidate()
        return response

    return call


@blueprint.get("")
@validated
@retry_on_failure()
def list_users(query: PageQuery) -> Response:
    """Return one page of users, in the order of their ids."""

    def page_body() -> bytes:
        users, total = services().users.page(query.page, query.per_page)
        pagination = {
            "page": query.page,
            "per_page": query.per_page,
            "total": total,
            "pages": -(-total // query.per_page),
        }
        return orjson.dumps({"users": users, "pagination": pagination})

    name = f"{query.page}:{query.per_page}"
    body, status = services().pages.get_or_produce(name, page_body)
    return Response(body, mimetype=JSON, headers={"X-Cache": status.value})


@blueprint.post("")
@validated
@retry_on_failure()
@invalidates_pages
def create_user(body: UserWrite) -> Response:
    """Create a user; with an ``Idempotency-Key``, once, however often it is asked for."""
    request = keyed_request("POST /api/v1/users", body.username, body.email)
    stored = services().users.create(body.username, body.email, _created, request)
    return Response(
        stored.body,
        status=stored.status,
        mimetype=JSON,
        headers=stored.headers | ({"Idempotent-Replay": "true"} if stored.replayed else {}),
    )


@blueprint.get("/<user_id:user_id>")
@validated
@retry_on_failure()
def get_user(user_id: int) -> Response:
    """Return a user."""
    return _user_response(services().users.get(user_id))


@blueprint.put("/<user_id:user_id>")
@validated
@retry_on_failure()
@invalidates_pages
def replace_user(user_id: int, body: UserWrite) -> Response:
    """Replace both the username and the email of a user."""
    return _user_response(services().users.update(user_id, body.username, body.email))


@blueprint.patch("/<user_id:user_id>")
@validated
@retry_on_failure()
@invalidates_pages
def change_user(user_id: int, body: UserPatch) -> Response:
    """Change the username, the email or both."""
    return _user_response(services().users.update(user_id, body.username, body.email))


@blueprint.delete("/<user_id:user_id>")
@validated
@retry_on_failure()
@invalidates_pages
def delete_user(user_id: int) -> Response:
    """Delete a user."""
    services().users.delete(user_id)
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response


def _created(user: User) -> StoredResponse:
    location = url_for("users.get_user", user_id=user.id)
    return StoredResponse(201, {"Location": location}, orjson.dumps(user))


def _user_response(
    user: User, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(user), status=status, mimetype=JSON, headers=headers)
