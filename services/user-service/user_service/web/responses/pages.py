"""The pages of lists as they are kept in the cache and sent: body, ETag and links.

A cached page is its ETag, its Link header and its body, a line each, so that sending it once more
parses nothing, and answering "you have it already" neither. Every list is cached, also those of
which there are endlessly many: who asks once more whether it has changed costs no SQL, and Redis
gives up first what was not used for longest.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import orjson
from flask import Response, url_for

from user_service.cache.page_cache import CacheStatus
from user_service.domain.positions import Page, Position, Side
from user_service.observability.server_timing import stage
from user_service.web import at_hand
from user_service.web.application import JsonResponse
from user_service.web.requests.conditions import client_has
from user_service.web.requests.fields import BIGINT_MAX
from user_service.web.requests.schemas import ListQuery
from user_service.web.responses.cursors import Cursors
from user_service.web.responses.user_body import CACHE_CONTROL, members_of
from user_service.web.services import services

# A proxy takes 4 KiB of header (nginx's default); links that would not leave room are left out.
LONGEST_LINK_HEADER = 2000


class Beside(NamedTuple):
    """The cursors of what lies beside a page, where there is something."""

    next: str | None
    previous: str | None
    last: Callable[[], str | None]


def page_entry(query: ListQuery, after_lsn: int | None) -> bytes:
    """Read the page that ``query`` asks for, and return it as it is cached."""
    parts = services()
    page = parts.users.page(
        _position(query, parts.cursors),
        query.per_page,
        order=query.order,
        filters=query.filters,
        count=query.count or ("exact" if query.cursor is None else "none"),
        after_lsn=after_lsn,
    )
    with stage("json"):
        cursor = partial(parts.cursors.written, the_list=query.list_name)
        beside = Beside(
            cursor(page.next), cursor(page.previous), lambda: cursor(Position(Side.END))
        )
        users = [members_of(user, query.fields) for user in page.users]
        body = orjson.dumps({"users": users, "pagination": _pagination(query, page, beside)})
        etag = hashlib.blake2b(body, digest_size=16).hexdigest()
        return b"%b\n%b\n%b" % (etag.encode(), _links(query, page, beside).encode(), body)


def page_response(entry: bytes, status: CacheStatus) -> Response:
    """Return the response that a cached page makes, or 304 to a client that has it."""
    headers, body = headers_and_body(entry, status)
    if client_has(headers["ETag"].strip('"')):
        return Response(status=304, headers=headers)
    return JsonResponse(body, headers=headers)


def headers_and_body(entry: bytes, status: CacheStatus) -> tuple[dict[str, str], bytes]:
    """Return what a cached page is sent as, but for what every body of JSON has."""
    etag, links, body = entry.split(b"\n", 2)
    headers = {
        "X-Cache": str(status),
        "ETag": f'"{etag.decode()}"',
        "Cache-Control": CACHE_CONTROL,
    }
    if links:
        headers["Link"] = links.decode()
    return headers, body


def _position(query: ListQuery, cursors: Cursors) -> Position | int:
    if query.cursor is None:
        # Past the largest offset that PostgreSQL takes there is as little as at it.
        return min((query.page - 1) * query.per_page, BIGINT_MAX)
    return cursors.read(query.cursor, query.list_name, query.sort)


def _pagination(query: ListQuery, page: Page, beside: Beside) -> dict[str, object]:
    numbers: dict[str, object] = {} if query.cursor is not None else {"page": query.page}
    numbers["per_page"] = query.per_page
    if page.total is not None:
        numbers |= {"total": page.total, "pages": -(-page.total // query.per_page)}
    return numbers | {"next_cursor": beside.next, "prev_cursor": beside.previous}


def _links(query: ListQuery, page: Page, beside: Beside) -> str:
    """Return the Link header (RFC 8288): the same list, elsewhere."""
    by_page = query.cursor is None
    others = _elsewhere_by_page(query, page, beside) if by_page else _elsewhere(beside)
    path, same = _path(at_hand.environ().get("SCRIPT_NAME", "")), query.elsewhere
    links: list[str] = []
    length = 0
    for relation, where in others.items():
        query_string = f"{where}&{same}" if where else same
        link = f'<{path}?{query_string}>; rel="{relation}"'
        if length + len(link) <= LONGEST_LINK_HEADER:
            links.append(link)
            length += len(link) + len(", ")
    return ", ".join(links)


@lru_cache(maxsize=16)
def _path(_script_name: str) -> str:
    """Return the path of lists, where the service is mounted; Flask takes 30 us to make it."""
    return url_for("users.list_users")


# Neither a page's number nor a cursor, in base64url, needs to be encoded in an address.
def _elsewhere_by_page(query: ListQuery, page: Page, beside: Beside) -> dict[str, str]:
    """Return where to go; by cursor where only an exact total would tell the number of the page."""
    last = -(-page.total // query.per_page) if page.total and not page.estimated else None
    others: dict[str, str] = {}
    if page.next:
        others["next"] = f"page={query.page + 1}"
    if page.users and page.previous:
        others["prev"] = f"page={query.page - 1}"
    elif page.previous:  # beyond the end
        others["prev"] = f"page={last}" if last else f"cursor={beside.previous}"
    others["first"] = "page=1"
    if page.users or page.previous:
        others["last"] = f"page={last}" if last else f"cursor={beside.last()}"
    return others


def _elsewhere(beside: Beside) -> dict[str, str]:
    others = {"next": beside.next, "prev": beside.previous, "first": "", "last": beside.last()}
    return {
        relation: cursor and f"cursor={cursor}"
        for relation, cursor in others.items()
        if cursor is not None
    }
