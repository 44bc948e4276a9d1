"""``/api/v1/users``: list, create, read, replace, change and delete users."""

import functools
from collections.abc import Callable

from flask import Blueprint, Response, request

from user_service.cache.page_cache import CacheStatus
from user_service.domain.idempotency import StoredResponse
from user_service.domain.user import User
from user_service.errors import (
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    InvalidInput,
    OutcomeUnknown,
    PreconditionFailed,
    PreconditionRequired,
    Unavailable,
    UserExists,
    UserNotFound,
)
from user_service.resilience.retry import retry_on_failure
from user_service.web import shortcuts
from user_service.web.application import JsonResponse
from user_service.web.openapi.operations import Answer, Link, documented
from user_service.web.requests.conditions import client_has_user, precondition_on
from user_service.web.requests.idempotency_key import keyed_request
from user_service.web.requests.schemas import PER_PAGE, ListQuery, UserPatch, UserWrite
from user_service.web.requests.validation import validated
from user_service.web.responses import bodies
from user_service.web.responses.pages import page_entry, page_response
from user_service.web.responses.user_body import entity_headers, json_of
from user_service.web.services import services

blueprint = Blueprint("users", __name__, url_prefix="/api/v1/users")

# For the OpenAPI document.
ENTITY = ("ETag", "Last-Modified", "Cache-Control")
PAGE = ("ETag", "Cache-Control", "X-Cache")
READS = (InvalidInput, Unavailable)
WRITES = (*READS, OutcomeUnknown)
CHANGES = (*WRITES, UserNotFound, PreconditionFailed, PreconditionRequired)
CONDITIONS = ("If-Match", "If-None-Match", "If-Unmodified-Since")
NEW_ID = {"user_id": "$response.body#/id"}
THIS_VERSION = {"user_id": "$request.path.user_id", "If-Match": "$response.header.ETag"}
SAME_LIST = {
    name: f"$request.query.{name}" for name in ListQuery.model_fields if name not in PER_PAGE
}


def invalidates_pages(view: Callable[..., Response]) -> Callable[..., Response]:
    """Make all cached pages unreachable when the view has written, or may have."""

    @functools.wraps(view)
    def call(**arguments: object) -> Response:
        pages = services().pages
        try:
            response = view(**arguments)
        except BaseException as error:
            is_told_to_end = not isinstance(error, Exception)  # maybe during COMMIT
            if is_told_to_end or isinstance(error, OutcomeUnknown):
                pages.invalidate()
            raise
        pages.invalidate()
        return response

    return call


def stale_if_unavailable(view: Callable[..., Response]) -> Callable[..., Response]:
    """Answer with the last page that the cache still keeps, when the view could not."""

    @functools.wraps(view)
    def call(query: ListQuery) -> Response:
        try:
            return view(query)
        except Unavailable:
            entry = services().pages.stale(query.page_name)
            if entry is None:
                raise
            return page_response(entry, CacheStatus.STALE)

    return call


@blueprint.get("")
@documented(
    Answer(
        200,
        "A page of users",
        bodies.UserPage,
        PAGE,
        ("Link",),
        {
            "first_user": Link(
                "get_user", {"user_id": "$response.body#/users/0/id"}, "The first user on it"
            ),
            "next_page": Link(
                "list_users",
                {"cursor": "$response.body#/pagination/next_cursor", **SAME_LIST},
                "The page after it, if there is one",
            ),
        },
    ),
    Answer(304, "The client has this page", headers=PAGE, may_have=("Link",)),
    raises=READS,
    reads=("If-None-Match",),
)
@validated
@stale_if_unavailable
@retry_on_failure(lambda: services().retry_policy)
def list_users(query: ListQuery) -> Response:
    """Return one page of a list of users, or 304 to a client that has it."""
    pages, name = services().pages, query.page_name
    look_up = functools.partial(shortcuts.look_up, pages)
    return page_response(*pages.get_or_produce(name, functools.partial(page_entry, query), look_up))


@blueprint.post("")
@documented(
    Answer(
        201,
        "The new user",
        bodies.User,
        (*ENTITY, "Location"),
        ("Idempotent-Replay",),
        {
            "get": Link("get_user", NEW_ID, "Read the user"),
            "replace": Link("replace_user", NEW_ID, "Replace both names"),
            "change": Link("change_user", NEW_ID, "Change one name or both"),
            "delete": Link("delete_user", NEW_ID, "Delete the user"),
        },
    ),
    raises=(*WRITES, UserExists, IdempotencyKeyInFlight, IdempotencyKeyReused),
    reads=("Idempotency-Key",),
)
@validated
@retry_on_failure(lambda: services().retry_policy)
@invalidates_pages
def create_user(body: UserWrite) -> Response:
    """Create a user; with an ``Idempotency-Key``, once, however often it is asked for."""
    keyed = keyed_request("POST /api/v1/users", body.username, body.email)
    members = body.model_dump()
    if keyed is None:
        stored = _created(services().users.create(members))
    else:
        stored = services().users.create_once(members, keyed, _created)
    return JsonResponse(
        stored.body,
        status=stored.status,
        headers=stored.headers | ({"Idempotent-Replay": "true"} if stored.replayed else {}),
    )


@blueprint.get("/<user_id:user_id>")
@documented(
    Answer(
        200,
        "The user",
        bodies.User,
        ENTITY,
        links={
            "change_this_version": Link("change_user", THIS_VERSION, "Change what was read"),
            "delete_this_version": Link("delete_user", THIS_VERSION, "Delete what was read"),
        },
    ),
    Answer(304, "The client has this version", headers=("ETag", "Cache-Control")),
    raises=(*READS, UserNotFound),
    reads=("If-None-Match", "If-Modified-Since"),
)
@validated
@retry_on_failure(lambda: services().retry_policy)
def get_user(user_id: int) -> Response:
    """Return a user, or 304 to a client that has it."""
    user = shortcuts.read_user(services().get_user, user_id)
    if client_has_user(user):
        return Response(status=304, headers=entity_headers(user))
    return _user_response(user)


@blueprint.put("/<user_id:user_id>")
@documented(
    Answer(200, "The user as it is now", bodies.User, ENTITY),
    raises=(*CHANGES, UserExists),
    reads=CONDITIONS,
)
@validated
@retry_on_failure(lambda: services().retry_policy)
@invalidates_pages
def replace_user(user_id: int, body: UserWrite) -> Response:
    """Replace both the username and the email of a user."""
    precondition = precondition_on(user_id)
    changes = body.model_dump(exclude_unset=True)
    return _user_response(services().users.update(user_id, changes, precondition))


@blueprint.patch("/<user_id:user_id>")
@documented(
    Answer(200, "The user as it is now", bodies.User, ENTITY),
    raises=(*CHANGES, UserExists),
    reads=CONDITIONS,
)
@validated
@retry_on_failure(lambda: services().retry_policy)
@invalidates_pages
def change_user(user_id: int, body: UserPatch) -> Response:
    """Change the username, the email or both."""
    precondition = precondition_on(user_id)
    changes = body.model_dump(exclude_unset=True)
    return _user_response(services().users.update(user_id, changes, precondition))


@blueprint.delete("/<user_id:user_id>")
@documented(Answer(204, "The user is gone"), raises=CHANGES, reads=CONDITIONS)
@validated
@retry_on_failure(lambda: services().retry_policy)
@invalidates_pages
def delete_user(user_id: int) -> Response:
    """Delete a user."""
    services().users.delete(user_id, precondition_on(user_id))
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response


def _created(user: User) -> StoredResponse:
    location = f"{request.script_root}{request.path}/{user.id}"
    headers = entity_headers(user) | {"Location": location}
    return StoredResponse(201, headers, json_of(user))


def _user_response(user: User) -> Response:
    return JsonResponse(json_of(user), headers=entity_headers(user))
