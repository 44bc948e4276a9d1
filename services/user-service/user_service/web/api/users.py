"""``/api/v1/users``: list, create, read, replace, change and delete users."""

from flask import Blueprint, Response, current_app, request

from user_service import errors
from user_service.domain.idempotency import StoredResponse
from user_service.domain.user import READ_ONLY_MEMBERS, User
from user_service.web.openapi.examples import PAGE, USER
from user_service.web.openapi.operations import Answer, documented, link, undocumented
from user_service.web.policies.access import needs, open_to_all
from user_service.web.reads import read_page, read_user
from user_service.web.requests.conditions import client_has, client_has_user, precondition_of
from user_service.web.requests.idempotency_key import keyed_request
from user_service.web.requests.schemas import (
    UNCHANGED,
    ListQuery,
    UserPatch,
    UserReplacement,
    UserWrite,
)
from user_service.web.requests.validation import BODY_TYPES, validated
from user_service.web.responses import bodies
from user_service.web.responses.pages import USERS_PATH, page_reply
from user_service.web.responses.reply import JSON, Reply, respond
from user_service.web.responses.user_body import entity_headers, user_reply
from user_service.web.services import Services, invalidates_pages, retry_on_failure

blueprint = Blueprint("users", __name__, url_prefix=USERS_PATH)

# For the OpenAPI document.
ENTITY = ("ETag", "Last-Modified", "Cache-Control")
OF_PAGE = ("ETag", "Cache-Control", "X-Cache")
READS = (errors.InvalidInput, errors.Unavailable)
WRITES = (*READS, errors.OutcomeUnknown)
CHANGES = (*WRITES, errors.UserNotFound, errors.PreconditionFailed, errors.PreconditionRequired)
CONDITIONS = ("If-Match", "If-None-Match", "If-Unmodified-Since")
NEW_ID = {"user_id": "$response.body#/id"}
THIS_VERSION = {"user_id": "$request.path.user_id", "If-Match": "$response.header.ETag"}
SAME_LIST = {
    name: f"$request.query.{name}"
    for name in ListQuery.model_fields
    if name not in ListQuery.page_parameters
}

answers_with_the_changed_user = documented(
    Answer(200, "The user as it is now", bodies.User, USER, ENTITY),
    raises=(*CHANGES, errors.UserExists),
    reads=CONDITIONS,
)


@blueprint.get("")
@needs("users:read")
@documented(
    Answer(
        200,
        "A page of users",
        bodies.UserPage,
        PAGE,
        OF_PAGE,
        may_have=("Link",),
        links={
            "first_user": link(
                "get_user", {"user_id": "$response.body#/users/0/id"}, "The first user on it"
            ),
            "next_page": link(
                "list_users",
                {"cursor": "$response.body#/pagination/next_cursor", **SAME_LIST},
                "The page after it, if there is one",
            ),
        },
    ),
    Answer(304, "The client has this page", headers=OF_PAGE, may_have=("Link",)),
    raises=READS,
    reads=("If-None-Match",),
)
@validated
def list_users(services: Services, query: ListQuery) -> Response:
    """Return one page of a list of users, or 304 to a client that has it."""
    reply = page_reply(*read_page(services, query))
    if client_has(reply.headers["ETag"].strip('"'), request.headers):
        return respond(Reply(304, reply.headers))
    return respond(reply)


@blueprint.post("")
@needs("users:write")
@documented(
    Answer(
        201,
        "The new user",
        bodies.User,
        USER,
        (*ENTITY, "Location"),
        may_have=("Idempotent-Replay",),
        links={
            "get": link("get_user", NEW_ID, "Read the user"),
            "replace": link("replace_user", NEW_ID, "Replace its members"),
            "change": link("change_user", NEW_ID, "Change some members"),
            "delete": link("delete_user", NEW_ID, "Delete the user"),
        },
    ),
    raises=(*WRITES, errors.UserExists, errors.IdempotencyKeyInFlight, errors.IdempotencyKeyReused),
    reads=("Idempotency-Key",),
)
@validated
@retry_on_failure
@invalidates_pages
def create_user(services: Services, body: UserWrite) -> Response:
    """Create a user; with an ``Idempotency-Key``, once, however often it is asked for."""
    members = body.model_dump()
    keyed = keyed_request(request.headers, f"POST {USERS_PATH}", body)
    if keyed is None:
        return respond(_created(services.users.create(members)))
    stored = services.users.create_once(members, keyed, _stored)
    headers = {"Content-Type": JSON, **stored.headers}
    if stored.replayed:
        headers["Idempotent-Replay"] = "true"
    return respond(Reply(stored.status, headers, stored.body))


@blueprint.route("/<user_id:user_id>", methods=["OPTIONS"])
@open_to_all
@undocumented("every path has OPTIONS")
def get_options(user_id: int) -> Response:  # noqa: ARG001 -- the same for every id
    """Return the methods of a user, and the media types of its PATCH."""
    response = current_app.make_default_options_response()
    response.headers["Accept-Patch"] = ", ".join(BODY_TYPES["PATCH"])
    return response


@blueprint.get("/<user_id:user_id>")
@needs("users:read")
@documented(
    Answer(
        200,
        "The user",
        bodies.User,
        USER,
        ENTITY,
        links={
            "change_this_version": link("change_user", THIS_VERSION, "Change what was read"),
            "delete_this_version": link("delete_user", THIS_VERSION, "Delete what was read"),
        },
    ),
    Answer(304, "The client has this version", headers=("ETag", "Cache-Control")),
    raises=(*READS, errors.UserNotFound),
    reads=("If-None-Match", "If-Modified-Since"),
)
@validated
def get_user(services: Services, user_id: int) -> Response:
    """Return a user, or 304 to a client that has it."""
    user = read_user(services, user_id)
    if client_has_user(user, request.headers):
        return respond(Reply(304, entity_headers(user)))
    return respond(user_reply(user))


@blueprint.put("/<user_id:user_id>")
@needs("users:write")
@answers_with_the_changed_user
@validated
def replace_user(services: Services, user_id: int, body: UserReplacement) -> Response:
    """Replace all members of a user that clients set."""
    return _respond_to_change(services, user_id, body)


@blueprint.patch("/<user_id:user_id>")
@needs("users:write")
@answers_with_the_changed_user
@validated
def change_user(services: Services, user_id: int, body: UserPatch) -> Response:
    """Change some members of a user."""
    return _respond_to_change(services, user_id, body)


@blueprint.delete("/<user_id:user_id>")
@needs("users:delete")
@documented(Answer(204, "The user is gone"), raises=CHANGES, reads=CONDITIONS)
@validated
@retry_on_failure
@invalidates_pages
def delete_user(services: Services, user_id: int) -> Response:
    """Delete a user."""
    precondition = precondition_of(request.headers, is_required=services.require_if_match)
    services.users.delete(user_id, precondition)
    return respond(Reply(204, {}))


@retry_on_failure
def _respond_to_change(services: Services, user_id: int, body: UserReplacement) -> Response:
    try:
        user = _change(services, user_id, body)
    except errors.NothingChanged as nothing:  # an error, so that the cached pages stay
        user = nothing.current
    return respond(user_reply(user))


@invalidates_pages
def _change(services: Services, user_id: int, body: UserReplacement) -> User:
    precondition = precondition_of(request.headers, is_required=services.require_if_match)
    changes = {name: value for name, value in body if value is not UNCHANGED}
    expected = {name: changes.pop(name) for name in READ_ONLY_MEMBERS if name in changes}
    return services.users.update(user_id, changes, precondition, expected)


def _created(user: User) -> Reply:
    reply = user_reply(user, 201)
    reply.headers["Location"] = f"{request.script_root}{USERS_PATH}/{user.id}"
    return reply


def _stored(user: User) -> StoredResponse:
    status, headers, body = _created(user)
    del headers["Content-Type"]  # the same for every body
    return StoredResponse(status, headers, body)
