"""Read-your-writes with a replica: what a read must reflect, and what a write has reached.

Both are positions in PostgreSQL's write-ahead log (LSN), as numbers: a replica that has replayed
up to the position of a commit shows it. Like the deadline they belong to the request at hand, and
the database, the page cache and the routes, which hand them on, do not know each other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_required: ContextVar[int | None] = ContextVar("required_lsn", default=None)
_reached: ContextVar[int | None] = ContextVar("reached_lsn", default=None)


def required() -> int | None:
    """Return how far a replica must have replayed to be read from; None: only the primary will do.

    None is also the default: whoever reads from a replica has been told by ``reading_after``.
    """
    return _required.get()


@contextmanager
def reading_after(lsn: int | None) -> Iterator[None]:
    """Have the reads of a block reflect all that was committed up to ``lsn``."""
    token = _required.set(lsn)
    try:
        yield
    finally:
        _required.reset(token)


def note_write(lsn: int) -> None:
    """Say that a write was committed, at ``lsn`` or before."""
    _reached.set(lsn)


def take_write() -> int | None:
    """Return what was noted since the last call; None if that is not known."""
    lsn = _reached.get()
    _reached.set(None)
    return lsn
