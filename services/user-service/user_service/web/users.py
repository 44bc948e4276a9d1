"""``/api/v1/users``: list, create, read, replace, change and delete users."""

import functools
from collections.abc import Callable

import orjson
from flask import Blueprint, Response, url_for

from user_service.errors import OutcomeUnknown
from user_service.resilience.retry import retry_on_failure
from user_service.users import User
from user_service.web.conditions import client_has_user, precondition_on
from user_service.web.listing import page_entry, page_response
from user_service.web.representation import entity_headers, members_of
from user_service.web.schemas import ListQuery, UserPatch, UserWrite
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
def list_users(query: ListQuery) -> Response:
    """Return one page of a list of users, or 304 to a client that has it."""
    pages = services().pages
    return page_response(*pages.get_or_produce(query.page_name, lambda: page_entry(query)))


@blueprint.post("")
@validated
@retry_on_failure()
@invalidates_pages
def create_user(body: UserWrite) -> Response:
    """Create a user."""
    user = services().users.create(body.username, body.email)
    location = url_for("users.get_user", user_id=user.id)
    return _user_response(user, status=201, headers={"Location": location})


@blueprint.get("/<user_id:user_id>")
@validated
@retry_on_failure()
def get_user(user_id: int) -> Response:
    """Return a user, or 304 to a client that has it."""
    user = services().users.get(user_id)
    if client_has_user(user):
        return Response(status=304, headers=entity_headers(user))
    return _user_response(user)


@blueprint.put("/<user_id:user_id>")
@validated
@retry_on_failure()
@invalidates_pages
def replace_user(user_id: int, body: UserWrite) -> Response:
    """Replace both the username and the email of a user."""
    precondition = precondition_on(user_id)
    users = services().users
    return _user_response(users.update(user_id, body.username, body.email, precondition))


@blueprint.patch("/<user_id:user_id>")
@validated
@retry_on_failure()
@invalidates_pages
def change_user(user_id: int, body: UserPatch) -> Response:
    """Change the username, the email or both."""
    precondition = precondition_on(user_id)
    users = services().users
    return _user_response(users.update(user_id, body.username, body.email, precondition))


@blueprint.delete("/<user_id:user_id>")
@validated
@retry_on_failure()
@invalidates_pages
def delete_user(user_id: int) -> Response:
    """Delete a user."""
    services().users.delete(user_id, precondition_on(user_id))
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response


def _user_response(
    user: User, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    headers = entity_headers(user) | (headers or {})
    return Response(orjson.dumps(members_of(user)), status=status, mimetype=JSON, headers=headers)
