"""Builds of the service with one mistake each, which the history checker must find."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from flask import Flask

from app import create_app
from user_service.database.connection import Cursor
from user_service.errors import OutcomeUnknown, TransientFailure
from user_service.web.services import services_of

T = TypeVar("T")


def blind_retry() -> Flask:
    """A write whose outcome is unknown is tried again as if nothing had happened."""
    app = create_app()
    database = services_of(app).database
    write = database.write

    @contextmanager
    def retried(statement: str, parameters: Mapping[str, object]) -> Iterator[Cursor]:
        try:
            with write(statement, parameters) as cursor:
                yield cursor
        except OutcomeUnknown as error:
            raise TransientFailure(str(error)) from error

    database.write = retried  # type: ignore[method-assign]
    return app


def invalidation_before_commit() -> Flask:
    """Pages are put out of date when a write begins, and not once it is committed."""
    app = create_app()
    database, pages = services_of(app).database, services_of(app).pages
    write, invalidate = database.write, pages.invalidate

    @contextmanager
    def after_invalidation(statement: str, parameters: Mapping[str, object]) -> Iterator[Cursor]:
        invalidate()
        with write(statement, parameters) as cursor:
            yield cursor

    database.write = after_invalidation  # type: ignore[method-assign]
    pages.invalidate = lambda: None  # type: ignore[method-assign]
    return app


def unchecked_replica() -> Flask:
    """Every read is answered by the replica, however far behind it is."""
    app = create_app()
    replica = services_of(app).replica
    assert replica is not None
    read = replica.read

    def unchecked(work: Callable[[Cursor], T], after_lsn: int | None) -> T:
        return read(work, 0)

    replica.read = unchecked  # type: ignore[method-assign]
    return app
