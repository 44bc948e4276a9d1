"""The health check's own way to the database, so that it never queues behind user requests."""

import threading
from contextlib import suppress

import psycopg2
from psycopg2.extensions import connection

from user_service.database.connect import connect
from user_service.errors import Unavailable
from user_service.resilience import deadline


class DatabaseProbe:
    """One connection outside of the pool, opened by the first ``ping`` and kept while it works."""

    def __init__(self, dsn: str, *, timeout: float = 1.0) -> None:
        """``timeout`` is the longest that a ping takes, in seconds."""
        self._dsn = dsn
        self._timeout = timeout
        self._lock = threading.Lock()
        self._connection: connection | None = None

    def ping(self) -> None:
        """Run ``SELECT 1``; raise Unavailable if it is not answered in time."""
        if not self._lock.acquire(timeout=self._timeout):
            raise Unavailable("another ping is still waiting for the database")
        try:
            with deadline.within(self._timeout):
                self._select_one()
        except (psycopg2.Error, Unavailable) as error:
            self._disconnect()
            raise Unavailable("the database does not answer") from error
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the connection; the next ping opens another."""
        with self._lock:
            self._disconnect()

    def _select_one(self) -> None:
        if self._connection is None:
            self._connection = connect(self._dsn)
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(psycopg2.Error):
                self._connection.close()
        self._connection = None
