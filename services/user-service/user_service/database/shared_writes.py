"""Writes that share a transaction: those of the requests that come while another one is written.

What is shared is the way there and back, and the commit. Each write succeeds or fails by itself:
whatever would fail them all, or hold them all up, is left to each alone.
"""

from collections.abc import Callable, Hashable, Mapping, Set
from typing import Generic, TypeVar

import psycopg2
from psycopg2.extensions import cursor

from user_service.database.pool import Database
from user_service.domain.user import User
from user_service.errors import LockTimeout
from user_service.observability.server_timing import stage
from user_service.resilience.batch import Batcher

W = TypeVar("W", bound=Hashable)

# Seconds for which a shared transaction waits for a lock of another one: what those usually take,
# several times over. What somebody holds for longer is not to hold everybody up; nor are those of
# two processes, that each need a name of the other, to stand still for long.
LOCK_TIMEOUT = 0.01


class SharedWrites(Generic[W]):
    """Does writes of one kind ``together`` in one transaction when several come at once.

    ``together`` returns the users of those that it has written and leaves out the others. These
    are then done ``alone``, which raises what keeps it from writing.
    """

    def __init__(
        self,
        database: Database,
        *,
        alone: Callable[[W], User],
        together: Callable[[cursor, Set[W]], Mapping[W, User]],
    ) -> None:
        """Take writes of which no two are equal: equal ones would be done once."""
        self._database = database
        self._alone = alone
        self._together = together
        self._batcher: Batcher[W, User | None] = Batcher(
            self._write_all, by_deadline=True, is_write=True
        )

    def write(self, write: W) -> User:
        """Return the user as it is then; raise what ``alone`` raises."""
        with stage("sql"):
            user = self._batcher.get(write)
        return self._alone(write) if user is None else user

    def _write_all(self, writes: Set[W]) -> dict[W, User | None]:
        if len(writes) == 1:
            (write,) = writes
            return {write: self._alone(write)}
        try:
            with self._database.transaction(
                requests=len(writes), lock_timeout=LOCK_TIMEOUT
            ) as cursor:
                written = self._together(cursor, writes)
        except (psycopg2.IntegrityError, LockTimeout):  # because of one of them
            return dict.fromkeys(writes)
        return {write: written.get(write) for write in writes}
