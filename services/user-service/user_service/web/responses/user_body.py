"""A user over HTTP: its members in JSON, and the headers that describe its state."""

from typing import cast

import orjson
from werkzeug.http import http_date, quote_etag

from user_service.domain.user import USER_MEMBERS, User
from user_service.observability.server_timing import stage
from user_service.web.responses import bodies
from user_service.web.responses.reply import JSON, Reply

# The client alone may keep it, and must ask before each use: a 304 is cheap, a stale user is wrong.
CACHE_CONTROL = "private, no-cache"


def user_body(user: User) -> bodies.User:
    """Return ``user`` as clients see it."""
    # `version`, the last column, is no member that clients see.
    return cast("bodies.User", dict(zip(USER_MEMBERS, user, strict=False)))


def entity_headers(user: User) -> dict[str, str]:
    """Return the headers of a response that holds ``user``."""
    return {
        "ETag": quote_etag(user.revision),
        "Last-Modified": http_date(user.updated_at),
        "Cache-Control": CACHE_CONTROL,
    }


def user_reply(user: User, status: int = 200) -> Reply:
    """Return the response that holds ``user``."""
    with stage("json"):
        body = orjson.dumps(user_body(user))
    return Reply(status, {"Content-Type": JSON, **entity_headers(user)}, body)
