"""The mistake: a write whose outcome is unknown is tried again as if nothing had happened."""

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg2.extensions import cursor

from app import create_app
from user_service.errors import OutcomeUnknown, TransientFailure
from user_service.web.services import services_of

__all__ = ["app"]

app = create_app()

database = services_of(app).database
transaction = database.transaction


@contextmanager
def transaction_retried_blindly(
    *, requests: int = 1, lock_timeout: float | None = None
) -> Iterator[cursor]:
    try:
        with transaction(requests=requests, lock_timeout=lock_timeout) as cursor:
            yield cursor
    except OutcomeUnknown as error:
        raise TransientFailure(str(error)) from error


database.transaction = transaction_retried_blindly  # type: ignore[method-assign]
