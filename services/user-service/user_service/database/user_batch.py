"""Reads of users by id that share a statement where several come at once."""

import threading
from collections.abc import Mapping

from user_service.database.pool import Database
from user_service.database.replica import Replica
from user_service.database.user_lists import USER_COLUMNS, composed
from user_service.database.user_repository import UserRepository
from user_service.domain.user import User
from user_service.errors import DeadlineExceeded, UserNotFound
from user_service.resilience import deadline

# Seconds for which a batch gathers at most, while the read before it is under way.
LONGEST_WAIT = 0.005

_GET_MANY = composed(
    "SELECT {columns} FROM users WHERE id = ANY(%(ids)s::bigint[])", columns=USER_COLUMNS
)


class _Batch:
    def __init__(self) -> None:
        self.ids: set[int] = set()
        self.is_read = threading.Event()
        self.users: Mapping[int, User] | None = None  # None after a failure


class BatchingUserRepository(UserRepository):
    """While a read by id is under way, later ones gather, and are then read by one statement.

    Each read begins after its request came in, so that it is as fresh as one of its own. A replica
    is asked for each alone, since the position that it must have replayed differs.
    """

    def __init__(self, database: Database, replica: Replica | None = None) -> None:
        super().__init__(database, replica)
        self._is_batching = replica is None
        self._lock = threading.Lock()
        self._under_way = threading.Lock()
        self._gathering: _Batch | None = None

    def get(self, user_id: int, *, after_lsn: int | None = None) -> User:
        """Return the user, or raise UserNotFound."""
        if not self._is_batching:
            return super().get(user_id, after_lsn=after_lsn)
        with self._lock:
            batch = self._gathering
            if leads := batch is None:
                batch = self._gathering = _Batch()
            batch.ids.add(user_id)
        if leads:
            self._lead(batch)
        elif not batch.is_read.wait(min(deadline.remaining(), threading.TIMEOUT_MAX)):
            raise DeadlineExceeded("a shared read was not answered within the deadline")
        if batch.users is None:  # what failed for another request may succeed for this one
            return super().get(user_id)
        if user_id not in batch.users:
            raise UserNotFound
        return batch.users[user_id]

    def _lead(self, batch: _Batch) -> None:
        """Read the batch when the read before it is over, or has taken too long."""
        is_turn = False
        try:
            is_turn = self._under_way.acquire(timeout=LONGEST_WAIT)
            self._close(batch)
            with self._database.read() as cursor:
                cursor.execute(_GET_MANY, {"ids": list(batch.ids)})
                users = map(User._make, cursor.fetchall())
                batch.users = {user.id: user for user in users}
        finally:
            self._close(batch)
            batch.is_read.set()
            if is_turn:
                self._under_way.release()

    def _close(self, batch: _Batch) -> None:
        """Let later requests begin another batch."""
        with self._lock:
            if self._gathering is batch:
                self._gathering = None
