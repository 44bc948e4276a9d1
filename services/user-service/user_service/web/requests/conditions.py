"""Conditional requests (RFC 9110, section 13): "only if it has changed", "only if it has not"."""

import re
from datetime import UTC, datetime

from werkzeug.datastructures import ETags, Headers
from werkzeug.http import parse_date, parse_etags

from user_service.database.user_repository import Precondition
from user_service.domain.user import User
from user_service.errors import PreconditionRequired

# The alphabet of revisions.
_REVISION = re.compile("[0-9a-f-]+")
# In each of the three forms of an HTTP date. Werkzeug would read a list of dates as one date.
_COLONS_OF_A_DATE = 2


def client_has(etag: str, headers: Headers) -> bool:
    """Tell whether If-None-Match names ``etag``, so that the client needs no body.

    The comparison is weak: a gateway that compresses turns ``"x"`` into ``W/"x"``.
    """
    return parse_etags(headers.get("If-None-Match")).contains_weak(etag)


def client_has_user(user: User, headers: Headers) -> bool:
    """Tell whether the client has ``user`` in its present version.

    If-Modified-Since counts only without If-None-Match: HTTP dates have a resolution of a second.
    """
    if "If-None-Match" in headers:
        return client_has(user.revision, headers)
    since = _http_date(headers.get("If-Modified-Since"))
    return since is not None and user.updated_at.replace(microsecond=0) <= since


def precondition_of(headers: Headers, *, is_required: bool) -> Precondition:
    """Return the condition under which the request changes the user.

    Raise PreconditionRequired if one ``is_required`` and the request has no If-Match.
    """
    if_match = headers.get("If-Match")
    if if_match is None and is_required:
        raise PreconditionRequired
    if if_match is None:
        one_of, unmodified_since = None, _http_date(headers.get("If-Unmodified-Since"))
    else:  # If-Match takes precedence over If-Unmodified-Since
        tags = parse_etags(if_match)
        one_of, unmodified_since = None if tags.star_tag else _revisions(tags, weak=False), None
    unless = parse_etags(headers.get("If-None-Match"))
    if unless.star_tag:  # "only if there is none", which no change can meet
        one_of = []
    return Precondition(one_of, _revisions(unless, weak=True), unmodified_since)


def _http_date(text: str | None) -> datetime | None:
    """Return a time in UTC, or None for a header that is absent or no HTTP date.

    Werkzeug accepts more: numbers beyond any date, and offsets that PostgreSQL refuses. It knows no
    leap seconds, which count as the second before.
    """
    if text is None or text.count(":") != _COLONS_OF_A_DATE:
        return None
    try:
        date = parse_date(text.replace(":60 ", ":59 "))
        return None if date is None else date.astimezone(UTC)
    except OverflowError:
        return None


def _revisions(tags: ETags, *, weak: bool) -> list[str]:
    """Return those of ``tags`` that may be revisions of users. Others match nothing."""
    # Werkzeug turns the empty tag into None.
    return [tag for tag in tags.as_set(include_weak=weak) if tag and _REVISION.fullmatch(tag)]
