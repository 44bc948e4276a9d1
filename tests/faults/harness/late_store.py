"""Readers of the page cache that pause between reading the rows and storing their page.

They use the service's own cache and pool on the real servers. Over HTTP the pause would be a matter
of luck.
"""

from collections.abc import Callable
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

    def __exit__(self, *_: object) -> None:
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
        if readers == 0:
            meanwhile()
            return

        def produce(_lsn: int | None) -> bytes:
            body = self._read()
            self.read_pause_and_store(readers - 1, meanwhile)
            return body

        self._services.pages.get_or_produce(f"late:{readers}", produce)

    def read_all(self, readers: int) -> list[int]:
        """Return what each of the pages shows now."""
        pages = self._services.pages
        return [
            int(pages.get_or_produce(f"late:{reader}", lambda _: self._read())[0])
            for reader in range(1, readers + 1)
        ]

    def _read(self) -> bytes:
        with self._services.database.read() as cursor:
            cursor.execute("SELECT number FROM shown")
            row = cursor.fetchone()
        assert row is not None
        return str(row[0]).encode()
