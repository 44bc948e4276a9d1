"""The health check's own connection, so that a probe never queues behind user requests."""

import threading
from collections.abc import Callable
from contextlib import suppress

import psycopg2
from psycopg2.extensions import connection

from user_service.database.connect import connect, must_be_writable
from user_service.errors import Unavailable
from user_service.resilience import deadline


class DatabaseProbe:
    """One connection outside of the pool, opened by the first ``ping`` and kept while it works.

    A connection that is lost, or whose server has become read-only although the DSN asks for one
    that takes writes, is replaced after a call of ``on_loss``.
    """

    def __init__(
        self, dsn: str, *, timeout: float = 1.0, on_loss: Callable[[], None] = lambda: None
    ) -> None:
        """``timeout`` bounds a ping, in seconds."""
        self._dsn = dsn
        self._must_be_writable = must_be_writable(dsn)
        self._on_loss = on_loss
        self._timeout = timeout
        self._lock = threading.Lock()
        self._connection: connection | None = None

    def ping(self) -> None:
        """Run ``SELECT 1``; raise Unavailable if it is not answered in time."""
        if not self._lock.acquire(timeout=self._timeout):
            raise Unavailable("another ping is still waiting for the database")
        try:
            with deadline.within(self._timeout):
                if self._connection is None or not self._connection_is_good(self._connection):
                    self._connection = connect(self._dsn)
                    self._select_one(self._connection)
        except (psycopg2.Error, Unavailable) as error:
            self._disconnect()
            raise Unavailable("the database does not answer") from error
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the connection; the next ping opens another."""
        with self._lock:
            self._disconnect()

    def _connection_is_good(self, connection: connection) -> bool:
        with suppress(psycopg2.Error):
            if self._select_one(connection) or not self._must_be_writable:
                return True
        self._disconnect()
        self._on_loss()
        return False

    def _select_one(self, connection: connection) -> bool:
        """Return whether the server takes writes."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1, current_setting('transaction_read_only')")
            return cursor.fetchone() == (1, "off")

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(psycopg2.Error):
                self._connection.close()
        self._connection = None
