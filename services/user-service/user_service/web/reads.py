"""The two reads that views and the fast path share."""

from functools import partial

from user_service.cache.page_cache import CacheStatus
from user_service.domain.positions import Position
from user_service.domain.user import BIGINT_MAX, User
from user_service.errors import Unavailable
from user_service.observability.server_timing import stage
from user_service.web.requests.schemas import ListQuery
from user_service.web.responses.pages import cached_page
from user_service.web.services import Services, retry_on_failure


def read_page(services: Services, query: ListQuery) -> tuple[bytes, CacheStatus]:
    """Return the page of a list, as it is cached, and what the cache did.

    While the database cannot serve, it is the page that was stored last, if there is one.
    """
    produce = partial(produce_page, services, query)
    try:
        return services.pages.get_or_produce(query.page_name, produce)
    except Unavailable:
        page = services.pages.stale(query.page_name)
        if page is None:
            raise
        return page, CacheStatus.STALE


@retry_on_failure
def read_user(services: Services, user_id: int) -> User:
    """Return a user; raise UserNotFound.

    The log position that a replica must have replayed is stored beside the cached pages.
    """
    return services.users.get(user_id, after_lsn=services.pages.required_lsn())


@retry_on_failure
def produce_page(services: Services, query: ListQuery, after_lsn: int | None) -> bytes:
    """Read the page from the database and return it as it is cached."""
    position: Position | int
    if query.cursor is not None:
        position = services.cursors.decode(query.cursor, query.list_name, query.sort)
    else:  # PostgreSQL takes no larger offset, and no list is that long
        position = min((query.page - 1) * query.per_page, BIGINT_MAX)
    page = services.users.page(
        position,
        query.per_page,
        order=query.order,
        filters=query.filters,
        count=query.count or ("exact" if query.cursor is None else "none"),
        after_lsn=after_lsn,
    )
    with stage("json"):
        return cached_page(query, page, services.cursors)
