"""Reads of users by id that share a statement, on a database that answers when a test says so."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.waiting import eventually
from user_service.database import user_batch
from user_service.database.user_batch import BatchingUserRepository
from user_service.domain.user import User
from user_service.errors import ConnectionLost, DeadlineExceeded, UserNotFound
from user_service.resilience import deadline

LONG = 30.0  # seconds
NOW = datetime.now(UTC)


def user(user_id: int) -> User:
    return User(user_id, f"user{user_id}", f"user{user_id}@example.com", NOW, NOW, 1)


class FakeDatabase:
    """Has users 1 to 9. Each read is noted and passes ``gate``."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.gate: Callable[[list[int]], None] = lambda _: None
        self._ids: list[int] = []

    @contextmanager
    def read(self) -> Iterator["FakeCursor"]:
        yield FakeCursor(self)


class FakeCursor:
    def __init__(self, database: FakeDatabase) -> None:
        self._database = database
        self._ids: list[int] = []

    def execute(self, _statement: str, bound: dict[str, Any]) -> None:
        self._ids = sorted(bound["ids"]) if "ids" in bound else [bound["id"]]
        self._database.asked.append(self._ids)
        self._database.gate(self._ids)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return [tuple(user(each)) for each in self._ids if each < 10]

    def fetchone(self) -> tuple[Any, ...] | None:
        return next(iter(self.fetchall()), None)


@pytest.fixture
def database() -> FakeDatabase:
    return FakeDatabase()


@pytest.fixture
def repository(database: FakeDatabase, monkeypatch: pytest.MonkeyPatch) -> BatchingUserRepository:
    monkeypatch.setattr(user_batch, "LONGEST_WAIT", LONG)
    untyped: Any = database
    return BatchingUserRepository(untyped)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def gathered(
    repository: BatchingUserRepository,
    database: FakeDatabase,
    threads: ThreadPoolExecutor,
    user_ids: list[int],
    meanwhile: Callable[[], object] = lambda: None,
) -> list[Future[User]]:
    """Return reads of ``user_ids`` that gathered while a read of user 1 was under way."""
    go_on = threading.Event()
    database.gate = lambda ids: _pass(ids != [1] or go_on.wait(LONG))
    first = threads.submit(repository.get, 1)
    eventually(lambda: database.asked == [[1]])
    reads: list[Future[User]] = []
    for user_id in user_ids:
        reads.append(threads.submit(repository.get, user_id))
        eventually(lambda: len(_gathering(repository)) == len(reads))
    meanwhile()
    go_on.set()
    assert first.result(LONG) == user(1)
    return reads


def _pass(passed: object) -> None:
    assert passed


def _gathering(repository: BatchingUserRepository) -> set[int]:
    batch = repository._gathering
    return set() if batch is None else batch.ids


def test_reads_that_come_while_one_is_under_way_share_a_statement(
    repository: BatchingUserRepository, database: FakeDatabase, threads: ThreadPoolExecutor
) -> None:
    reads = gathered(repository, database, threads, [2, 3, 4])
    assert [read.result(LONG) for read in reads] == [user(2), user(3), user(4)]
    assert database.asked == [[1], [2, 3, 4]]
    assert repository.get(5) == user(5)


def test_missing_user_is_missing_for_its_own_caller(
    repository: BatchingUserRepository, database: FakeDatabase, threads: ThreadPoolExecutor
) -> None:
    missing, found = gathered(repository, database, threads, [77, 2])
    with pytest.raises(UserNotFound):
        missing.result(LONG)
    assert found.result(LONG) == user(2)


def test_failed_shared_read_is_repeated_individually(
    repository: BatchingUserRepository, database: FakeDatabase, threads: ThreadPoolExecutor
) -> None:
    def fail_shared(ids: list[int]) -> None:
        if len(ids) > 1:
            raise ConnectionLost("lost")

    def break_it() -> None:
        passes = database.gate
        database.gate = lambda ids: passes(ids) if ids == [1] else fail_shared(ids)

    leader, *others = gathered(repository, database, threads, [2, 3, 4], break_it)
    with pytest.raises(ConnectionLost):
        leader.result(LONG)
    assert [read.result(LONG) for read in others] == [user(3), user(4)]
    assert sorted(database.asked[2:]) == [[3], [4]]


def test_caller_waits_for_others_no_longer_than_its_deadline(
    repository: BatchingUserRepository, database: FakeDatabase, threads: ThreadPoolExecutor
) -> None:
    def hurry() -> None:
        with deadline.within(0.01), pytest.raises(DeadlineExceeded):
            repository.get(3)

    (leader,) = gathered(repository, database, threads, [2], hurry)
    assert leader.result(LONG) == user(2)


def test_read_that_takes_too_long_is_not_waited_for(
    database: FakeDatabase, threads: ThreadPoolExecutor
) -> None:
    untyped: Any = database
    repository = BatchingUserRepository(untyped)
    go_on = threading.Event()
    database.gate = lambda ids: _pass(ids != [1] or go_on.wait(LONG))
    stuck = threads.submit(repository.get, 1)
    eventually(lambda: database.asked == [[1]])
    assert repository.get(2) == user(2)
    go_on.set()
    assert stuck.result(LONG) == user(1)
