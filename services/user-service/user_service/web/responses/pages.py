"""Pages of lists, as they are cached and sent: body, ETag and links.

A cached page is its ETag, its Link header and its body, a line each, so that sending it again
parses nothing. deploy/gateway/pages.lua reads this form, too.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

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


class Neighbours(NamedTuple):
    """The cursors of the pages beside a page; None where there is none.

    ``last`` is made on demand: few pages link to it by cursor.
    """

    next: str | None
    previous: str | None
    last: Callable[[], str | None]


def cached_page(query: ListQuery, page: Page, cursors: Cursors) -> bytes:
    """Return the page as it is cached. Its links repeat the parameters of ``query``."""
    cursor = partial(cursors.written, list_name=query.list_name)
    beside = Neighbours(
        cursor(page.next), cursor(page.previous), lambda: cursor(Position(Side.END))
    )
    body = orjson.dumps(_body(query, page, beside))
    etag = hashlib.blake2b(body, digest_size=16).hexdigest()
    return b"%b\n%b\n%b" % (etag.encode(), _links(query, page, beside).encode(), body)


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


def _body(query: ListQuery, page: Page, beside: Neighbours) -> bodies.UserPage:
    number = {} if query.cursor is not None else {"page": query.page}
    totals = {}
    if page.total is not None:
        totals = {"total": page.total, "pages": -(-page.total // query.per_page)}
    cursors = {"next_cursor": beside.next, "prev_cursor": beside.previous}
    pagination = {**number, "per_page": query.per_page, **totals, **cursors}
    users = [{name: getattr(user, name) for name in query.fields} for user in page.users]
    return cast("bodies.UserPage", {"users": users, "pagination": pagination})


def _links(query: ListQuery, page: Page, beside: Neighbours) -> str:
    """Return the Link header (RFC 8288): other pages of the same list."""
    targets = _targets_by_page(query, page, beside) if query.cursor is None else _targets(beside)
    links: list[str] = []
    length = 0
    for relation, target in targets.items():
        parameters = "&".join(filter(None, (target, query.link_parameters)))
        link = f'<{USERS_PATH}?{parameters}>; rel="{relation}"'
        if length + len(link) <= LONGEST_LINK_HEADER:
            links.append(link)
            length += len(link) + len(", ")
    return ", ".join(links)


# A page number and a cursor in base64url need no encoding in a URL.
def _targets_by_page(query: ListQuery, page: Page, beside: Neighbours) -> dict[str, str]:
    """Return the query parameters by relation; a cursor where the page number is not known."""
    last = -(-page.total // query.per_page) if page.total and not page.estimated else None
    targets: dict[str, str] = {}
    if page.next:
        targets["next"] = f"page={query.page + 1}"
    if page.users and page.previous:
        targets["prev"] = f"page={query.page - 1}"
    elif page.previous:  # the page is beyond the end
        targets["prev"] = f"page={last}" if last else f"cursor={beside.previous}"
    targets["first"] = "page=1"
    if page.users or page.previous:
        targets["last"] = f"page={last}" if last else f"cursor={beside.last()}"
    return targets


def _targets(beside: Neighbours) -> dict[str, str]:
    cursors = {"next": beside.next, "prev": beside.previous, "first": "", "last": beside.last()}
    return {
        relation: cursor and f"cursor={cursor}"
        for relation, cursor in cursors.items()
        if cursor is not None
    }
