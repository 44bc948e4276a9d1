"""Pages of lists, as they are cached and sent: body, ETag and links.

A cached page is its ETag, its Link header and its body, a line each, so that sending it again
parses nothing. deploy/gateway/pages.lua reads this form, too.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import cast
from urllib.parse import urlencode

import orjson

from user_service.cache.page_cache import CacheStatus
from user_service.domain.positions import Page, Position, Side
from user_service.web.requests.schemas import ListQuery
from user_service.web.responses import bodies
from user_service.web.responses.cursors import Cursors
from user_service.web.responses.reply import JSON, Reply
from user_service.web.responses.user_body import CACHE_CONTROL

USERS_PATH = "/api/v1/users"
# nginx accepts 4 KiB of response header by default; links that would not fit are left out.
LONGEST_LINK_HEADER = 2000
LAST_PAGE = Position(Side.END)

# Returns the cursor of a position in the list of the page; None if there is no position.
CursorOf = Callable[[Position | None], str | None]


def cached_page(query: ListQuery, page: Page, cursors: Cursors) -> bytes:
    """Return the page as it is cached. Its links repeat the parameters of ``query``."""
    cursor_of = partial(cursors.encode, list_name=query.list_name)
    body = orjson.dumps(_body(query, page, cursor_of))
    etag = hashlib.blake2b(body, digest_size=16).hexdigest()
    return b"%b\n%b\n%b" % (etag.encode(), _links(query, page, cursor_of).encode(), body)


def page_reply(cached: bytes, status: CacheStatus) -> Reply:
    """Return the response that a cached page makes."""
    etag, links, body = cached.split(b"\n", 2)
    headers = {
        "Content-Type": JSON,
        "X-Cache": status.value,
        "ETag": f'"{etag.decode()}"',
        "Cache-Control": CACHE_CONTROL,
    }
    if links:
        headers["Link"] = links.decode()
    return Reply(200, headers, body)


def _body(query: ListQuery, page: Page, cursor_of: CursorOf) -> bodies.UserPage:
    number = {} if query.cursor is not None else {"page": query.page}
    totals = {}
    if page.total is not None:
        totals = {"total": page.total, "pages": -(-page.total // query.per_page)}
    cursors = {"next_cursor": cursor_of(page.next), "prev_cursor": cursor_of(page.previous)}
    pagination = {**number, "per_page": query.per_page, **totals, **cursors}
    users = [{name: getattr(user, name) for name in query.fields} for user in page.users]
    return cast("bodies.UserPage", {"users": users, "pagination": pagination})


def _links(query: ListQuery, page: Page, cursor_of: CursorOf) -> str:
    """Return the Link header (RFC 8288): other pages of the same list."""
    if query.cursor is None:
        targets = _targets_by_page(query, page, cursor_of)
    else:
        targets = _targets(page, cursor_of)
    repeated = urlencode(query.parameters)
    links: list[str] = []
    length = 0
    for relation, target in targets.items():
        parameters = "&".join(filter(None, (target, repeated)))
        link = f'<{USERS_PATH}?{parameters}>; rel="{relation}"'
        if length + len(link) <= LONGEST_LINK_HEADER:
            links.append(link)
            length += len(link) + len(", ")
    return ", ".join(links)


# A page number and a cursor in base64url need no encoding in a URL.
def _targets_by_page(query: ListQuery, page: Page, cursor_of: CursorOf) -> dict[str, str]:
    """Return the query parameters by relation; a cursor where the page number is not known."""
    last = -(-page.total // query.per_page) if page.total and not page.estimated else None
    targets: dict[str, str] = {}
    if page.next:
        targets["next"] = f"page={query.page + 1}"
    if page.users and page.previous:
        targets["prev"] = f"page={query.page - 1}"
    elif page.previous:  # the page is beyond the end
        targets["prev"] = f"page={last}" if last else f"cursor={cursor_of(page.previous)}"
    targets["first"] = "page=1"
    if page.users or page.previous:
        targets["last"] = f"page={last}" if last else f"cursor={cursor_of(LAST_PAGE)}"
    return targets


def _targets(page: Page, cursor_of: CursorOf) -> dict[str, str]:
    targets: dict[str, str] = {}
    if page.next:
        targets["next"] = f"cursor={cursor_of(page.next)}"
    if page.previous:
        targets["prev"] = f"cursor={cursor_of(page.previous)}"
    return {**targets, "first": "", "last": f"cursor={cursor_of(LAST_PAGE)}"}
