"""The mistake: pages are put out of date when a write begins, and not once it is committed."""

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg2.extensions import cursor

from app import create_app
from user_service.web.services import services_of

__all__ = ["app"]

app = create_app()

database, pages = services_of(app).database, services_of(app).pages
transaction, invalidate = database.transaction, pages.invalidate


@contextmanager
def transaction_after_invalidation(
    *, requests: int = 1, lock_timeout: float | None = None
) -> Iterator[cursor]:
    invalidate()
    with transaction(requests=requests, lock_timeout=lock_timeout) as cursor:
        yield cursor


database.transaction = transaction_after_invalidation  # type: ignore[method-assign]
pages.invalidate = lambda: None  # type: ignore[method-assign]
