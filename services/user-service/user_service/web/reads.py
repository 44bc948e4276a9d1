"""The two reads that views and the fast path share."""

from functools import partial

from user_service.cache.page_cache import CacheStatus
from user_service.domain.user import User
from user_service.errors import Unavailable
from user_service.web.requests.schemas import ListQuery
from user_service.web.responses.pages import produce_page
from user_service.web.services import Services, retry_on_failure


def read_page(services: Services, query: ListQuery) -> tuple[bytes, CacheStatus]:
    """Return the page of a list, as it is cached, and what the cache did.

    If the page cannot be read, for whatever reason, it is the last stored one, if there is one.
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
    """Return a user; raise UserNotFound."""
    return services.users.get(user_id, after_lsn=services.pages.required_lsn())
