"""Readers of the page cache that pause between reading the rows and storing their page.

They are the service's own cache and pool on the real servers, only that the pause, over HTTP a
matter of luck, is made here.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from app import create_services
from tests.faults.harness.stage import Stage
from user_service.settings import Settings


class Cache:
    """One number in the database, and pages that show it."""

    def __init__(self, stage: Stage) -> None:
        stage.sql("CREATE TABLE shown (number integer NOT NULL)")
        stage.sql("INSERT INTO shown VALUES (-1)")
        stage.sql("ALTER TABLE shown OWNER TO users")
        environment = {"database_url": stage.postgres.url, "redis_url": stage.redis.url}
        self._services = create_services(
            Settings.model_validate(environment | {"redis_timeout": 2})
        )

    def __enter__(self) -> Self:
        self._services.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._services.close()

    def write(self, number: int) -> None:
        """Commit ``number``, then put the pages out of date, as a write's route does."""
        with self._services.database.transaction() as cursor:
            cursor.execute("UPDATE shown SET number = %(number)s", {"number": number})
        self.invalidate()

    def invalidate(self) -> None:
        self._services.pages.invalidate()

    def read_pause_and_store(self, readers: int, meanwhile: Callable[[], None]) -> None:
        """Have ``readers`` read the number, then call ``meanwhile``, then have them all store."""
        self._read_and_pause(readers, meanwhile)
        self._services.pages.flush()

    def _read_and_pause(self, readers: int, meanwhile: Callable[[], None]) -> None:
        if readers == 0:
            meanwhile()
            return

        def produce(_: object = None) -> bytes:
            body = self._read()
            self._read_and_pause(readers - 1, meanwhile)
            return body

        self._services.pages.get_or_produce(f"late:{readers}", produce)

    def read_all(self, readers: int) -> list[int]:
        """Return what each of the pages shows now."""
        pages = self._services.pages
        return [
            int(pages.get_or_produce(f"late:{reader}", self._read)[0])
            for reader in range(1, readers + 1)
        ]

    def _read(self, _: object = None) -> bytes:
        with self._services.database.read() as cursor:
            cursor.execute("SELECT number FROM shown")
            row = cursor.fetchone()
        assert row is not None
        return str(row[0]).encode()
