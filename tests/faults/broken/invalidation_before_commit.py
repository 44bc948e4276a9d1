"""The mistake: pages are put out of date when a write begins, and not once it is committed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from app import create_app
from user_service.database.connections import Cursor
from user_service.web.services import services_of

__all__ = ["app"]

app = create_app()

database, pages = services_of(app).database, services_of(app).pages
write, invalidate = database.write, pages.invalidate


@contextmanager
def write_after_invalidation(statement: str, parameters: Mapping[str, object]) -> Iterator[Cursor]:
    invalidate()
    with write(statement, parameters) as cursor:
        yield cursor


database.write = write_after_invalidation  # type: ignore[method-assign]
pages.invalidate = lambda: None  # type: ignore[method-assign]
