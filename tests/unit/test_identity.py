"""The identity of a database, while the primary does not tell it."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from user_service.database.database import Database
from user_service.database.identity import TIMEOUT, DatabaseIdentity
from user_service.errors import Unavailable


class FakeDatabase:
    def __init__(self) -> None:
        self.pool = SimpleNamespace(made=1)
        self.history: str | None = "1"
        self.asked = 0

    @contextmanager
    def read(self, *, waits: bool) -> Iterator[Any]:
        assert not waits
        self.asked += 1
        if self.history is None:
            raise Unavailable("the server is away")
        yield SimpleNamespace(execute=lambda _: None, fetchone=lambda: ("users", self.history))


def test_names_are_asked_for_after_each_connection_and_once_a_second_without_an_answer() -> None:
    database, now = FakeDatabase(), [0.0]
    identify = DatabaseIdentity(cast("Database", database), clock=lambda: now[0])
    for _ in range(2):
        assert identify() == ("users", "1")
    assert database.asked == 1
    database.pool.made, database.history = 2, None
    for _ in range(2):
        assert identify() == ("users", "1")
    assert database.asked == 2
    now[0], database.history = TIMEOUT, "2"
    assert identify() == ("users", "2")


def test_names_that_were_never_known_are_a_failure() -> None:
    database = FakeDatabase()
    database.history = None
    with pytest.raises(Unavailable):
        DatabaseIdentity(cast("Database", database))()
