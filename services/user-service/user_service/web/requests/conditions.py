"""Conditional requests (RFC 9110, section 13): "only if it has changed", "only if it has not"."""

import re
from datetime import UTC, datetime

from flask import current_app
from werkzeug.datastructures import ETags
from werkzeug.http import parse_date, parse_etags

from user_service.database.user_repository import UNCONDITIONAL, Precondition
from user_service.domain.user import User
from user_service.errors import PreconditionRequired
from user_service.web import at_hand
from user_service.web.responses.user_body import etag_of

# Set from Settings.require_if_match.
REQUIRE_IF_MATCH = "REQUIRE_IF_MATCH"


def client_has(etag: str) -> bool:
    """Tell whether If-None-Match names ``etag``, so that the client needs no body.

    By weak comparison: a gateway that compresses makes ``W/"x"`` of ``"x"``.
    """
    tags = at_hand.environ().get("HTTP_IF_NONE_MATCH")
    return tags is not None and _are_met_by(etag, tags)


def client_has_user(user: User) -> bool:
    """Tell whether the client has ``user`` as it is now.

    If-Modified-Since counts only where no ETag is asked about, since HTTP's times are in seconds.
    """
    environ = at_hand.environ()
    if (tags := environ.get("HTTP_IF_NONE_MATCH")) is not None:
        return _are_met_by(etag_of(user), tags)
    if (text := environ.get("HTTP_IF_MODIFIED_SINCE")) is None:
        return False
    since = _http_date(text)
    return since is not None and user.updated_at.replace(microsecond=0) <= since


def _are_met_by(etag: str, tags: str) -> bool:
    return parse_etags(tags).contains_weak(etag)


def precondition_on(user_id: int) -> Precondition:
    """Return under which condition the request at hand wants to change the user.

    Raise PreconditionRequired if it names none and the service asks for one.
    """
    environ = at_hand.environ()
    if_match = environ.get("HTTP_IF_MATCH")
    if_none_match = environ.get("HTTP_IF_NONE_MATCH")
    if_unmodified_since = environ.get("HTTP_IF_UNMODIFIED_SINCE")
    if if_match is None and current_app.config.get(REQUIRE_IF_MATCH):
        raise PreconditionRequired
    if if_match is None and if_none_match is None and if_unmodified_since is None:
        return UNCONDITIONAL
    if if_match is None:
        versions, unmodified_since = None, _http_date(if_unmodified_since)
    else:  # If-Unmodified-Since is for those who do not know If-Match
        versions, unmodified_since = _matching(parse_etags(if_match), user_id), None
    unless = parse_etags(if_none_match)
    if unless.star_tag:  # "only if there is none", and a write needs one
        versions = []
    return Precondition(versions, _versions(unless, user_id, weak=True), unmodified_since)


def _http_date(text: str | None) -> datetime | None:
    """Return a time in UTC; None, as if it had not been sent, for what is no HTTP date.

    Werkzeug takes more than that: numbers that no date can hold, offsets that PostgreSQL refuses.
    """
    try:
        date = parse_date(text)
        return None if date is None else date.astimezone(UTC)
    except OverflowError:
        return None


def _matching(tags: ETags, user_id: int) -> list[int] | None:
    return None if tags.star_tag else _versions(tags, user_id, weak=False)


def _versions(tags: ETags, user_id: int, *, weak: bool) -> list[int]:
    """Return the versions of this user that ``tags`` name. A tag of anything else matches none."""
    ours = re.compile(rf"{user_id}-([1-9][0-9]{{0,17}})")
    # Werkzeug makes None of the empty tag.
    matches = map(ours.fullmatch, filter(None, tags.as_set(include_weak=weak)))
    return [int(match[1]) for match in matches if match]
