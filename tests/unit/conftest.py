"""A clock that stands still and errors of PostgreSQL, for several unit tests."""

import psycopg2
import pytest


class Clock:
    """Stands still until a test moves it on. Stands in for the ``time`` module too."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    monotonic = __call__


@pytest.fixture
def clock() -> Clock:
    return Clock()


def error_with(sqlstate: str | None, message: str = "the server said no") -> psycopg2.Error:
    """Return an error as the driver raises it; ``pgcode`` can be set in no other way."""

    class Failure(psycopg2.Error):
        pgcode = sqlstate

    return Failure(message)
