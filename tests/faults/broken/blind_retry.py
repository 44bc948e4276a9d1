"""The mistake: a write whose outcome is unknown is tried again as if nothing had happened."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from app import create_app
from user_service.database.connections import Cursor
from user_service.errors import OutcomeUnknown, TransientFailure
from user_service.web.services import services_of

__all__ = ["app"]

app = create_app()

database = services_of(app).database
write = database.write


@contextmanager
def write_retried_blindly(statement: str, parameters: Mapping[str, object]) -> Iterator[Cursor]:
    try:
        with write(statement, parameters) as cursor:
            yield cursor
    except OutcomeUnknown as error:
        raise TransientFailure(str(error)) from error


database.write = write_retried_blindly  # type: ignore[method-assign]
