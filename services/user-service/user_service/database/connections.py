"""psycopg2's SimpleConnectionPool, taken apart into steps. ``pool.py`` holds the lock for each."""

from collections.abc import Callable

from psycopg2.extensions import connection
from psycopg2.pool import SimpleConnectionPool


class Connections(SimpleConnectionPool):
    """SimpleConnectionPool in steps between which its lock can be let go.

    Its own ``getconn`` connects where it finds no idle connection, which may take as long as the
    network likes. Here taking an idle connection and adding a new one are two steps, each under
    the lock, and connecting happens in between, without it.
    """

    # Inherited, and the same since psycopg2 2.0; the stubs leave out what begins with a "_".
    _pool: list[connection]
    _used: dict[int, connection]
    _rused: dict[int, int]
    _getkey: Callable[[], int]

    def __init__(self, size: int) -> None:
        super().__init__(0, size)
        # minconn is how many are kept when they come back: all, so that none is opened anew.
        self.minconn = size

    @property
    def lent(self) -> int:
        """How many are in use."""
        return len(self._used)

    def take_idle(self) -> connection | None:
        """Lend the one that was in use last, or return None if there is none."""
        return self.getconn() if self._pool and not self.closed else None

    def lend(self, opened: connection) -> None:
        """Add a connection that is in use from the start."""
        key = self._getkey()
        self._used[key] = opened
        self._rused[id(opened)] = key

    def take_back(self, connection: connection, *, close: bool = False) -> None:
        """End a loan; the connection is kept for the next one unless ``close`` says otherwise."""
        if self.closed:
            connection.close()
            del self._used[self._rused.pop(id(connection))]
        else:
            self.putconn(connection, close=close)

    def close_idle(self) -> None:
        """Do what closeall does, but leave what is lent to those who work with it."""
        lent, self._used = self._used, {}
        self.closeall()
        self._used = lent
