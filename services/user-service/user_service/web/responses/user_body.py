"""How a user looks over HTTP: its members in JSON, and the headers that speak of its state."""

from collections.abc import Iterable

import orjson
from werkzeug.http import http_date, quote_etag

from user_service.domain.user import USER_MEMBERS, User
from user_service.observability.server_timing import stage

# May be kept by the client alone, and used again only after asking: 304 is cheap, stale is wrong.
CACHE_CONTROL = "private, no-cache"


def members_of(user: User, names: Iterable[str] = USER_MEMBERS) -> dict[str, object]:
    """Return what clients see of ``user``, or of that only the members in ``names``."""
    if names is USER_MEMBERS:  # as nearly always, ten times for a page
        return dict(zip(USER_MEMBERS, user, strict=False))
    return {name: getattr(user, name) for name in names}


def json_of(user: User) -> bytes:
    """Return the body of a response that holds ``user``."""
    with stage("json"):
        return orjson.dumps(members_of(user))


def etag_of(user: User) -> str:
    """Return the user's strong entity tag, without quotes. No two states of users share one."""
    return f"{user.id}-{user.version}"


def entity_headers(user: User) -> dict[str, str]:
    """Return the headers of a response that holds ``user``."""
    return {
        "ETag": quote_etag(etag_of(user)),
        "Last-Modified": http_date(user.updated_at),
        "Cache-Control": CACHE_CONTROL,
    }
