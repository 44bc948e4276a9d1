"""Users in PostgreSQL; ``user_lists.py`` has the SQL of lists.

Columns are named, values are bound, and no input becomes SQL.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from datetime import datetime
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeVar, cast

import psycopg2
from psycopg2 import errors as sql_errors

from user_service.database import stored_responses
from user_service.database.connection import Cursor
from user_service.database.database import Database
from user_service.database.migrate import LOCK_TIMEOUT
from user_service.database.replica import Replica
from user_service.database.user_lists import (
    LIST_SETTINGS,
    USER_COLUMNS,
    binds,
    composed,
    estimate_statement,
    list_statement,
    page_of,
    shape_of,
    with_estimate,
)
from user_service.domain.idempotency import KeyedRequest, StoredResponse
from user_service.domain.names import canonical_email, canonical_username
from user_service.domain.positions import Count, Filters, Order, Page, Position
from user_service.domain.user import WRITABLE_MEMBERS, User
from user_service.errors import (
    InvalidInput,
    NothingChanged,
    OutcomeUnknown,
    PreconditionFailed,
    Unavailable,
    UserExists,
    UserNotFound,
)
from user_service.resilience.batcher import Batcher

T = TypeVar("T")

# Of a write that concurrent writes overtake. The number is bounded because a trigger or a policy of
# an operator may suppress each attempt.
ATTEMPTS = 100
BY_ID = Order()
ALL_USERS = Filters()

# Members that are unique by a canonical form, which the column "<member>_canonical" holds.
_CANONICAL_FORMS: dict[str, Callable[[str], str]] = {
    "username": canonical_username,
    "email": canonical_email,
}
_MEMBER_OF_CONSTRAINT = {f"users_{name}_key": name for name in _CANONICAL_FORMS}


def _placeholders(columns: tuple[str, ...]) -> str:
    return ", ".join(f"%({column})s" for column in columns)


_GET = composed("SELECT {columns} FROM users WHERE id = %(id)s", columns=USER_COLUMNS)
_GET_MANY = composed(
    "SELECT {columns} FROM users WHERE id = ANY(%(ids)s::bigint[])", columns=USER_COLUMNS
)
_INSERT = "INSERT INTO users ({columns}) VALUES ({values}) RETURNING {user}"
_UPDATE = """
    UPDATE users SET {assignments}
    WHERE id = %(id)s AND {precondition}
        AND ({changed}) IS DISTINCT FROM ({values}) AND {as_expected}
    RETURNING {user}
"""
# As User.revision has it.
_REVISION = (
    "id || '-' || version || '-' || to_hex((extract(epoch FROM updated_at) * 1000000)::bigint)"
)
_PRECONDITION = f"""
    (%(one_of)s::text[] IS NULL OR {_REVISION} = ANY(%(one_of)s::text[]))
    AND {_REVISION} <> ALL(%(other_than)s::text[])
    AND (%(unmodified_since)s::timestamptz IS NULL
         OR date_trunc('second', updated_at) <= %(unmodified_since)s::timestamptz)
"""
_DELETE = composed(
    "DELETE FROM users WHERE id = %(id)s AND {precondition}", precondition=_PRECONDITION
)
_GET_WITH_PRECONDITION = composed(
    "SELECT {precondition}, {columns} FROM users WHERE id = %(id)s",
    precondition=_PRECONDITION,
    columns=USER_COLUMNS,
)

_RECOUNT = """
    INSERT INTO users_count
    SELECT slot, CASE slot WHEN 0 THEN (SELECT count(*) FROM users) ELSE 0 END
    FROM generate_series(0, 63) AS slot
    RETURNING number
"""


class Precondition(NamedTuple):
    """The stored state in which a write takes place; None sets no condition.

    ``one_of`` and ``other_than`` are revisions.
    """

    one_of: list[str] | None
    other_than: list[str]
    unmodified_since: datetime | None


class NewUser(NamedTuple):
    """The columns of a user that is stored with times of its own."""

    username: str
    username_canonical: str
    email: str
    email_canonical: str
    created_at: datetime
    updated_at: datetime


_INSERT_MANY = composed(
    "INSERT INTO users ({columns}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING",
    columns=", ".join(NewUser._fields),
    arrays=_placeholders(NewUser._fields),
)


class UserRepository:
    """Users in PostgreSQL. All methods raise Unavailable, or a subclass, when it cannot serve them.

    ``page`` and ``get`` read from ``replica``, if there is one and it has replayed the log up to
    ``after_lsn``. Without that position, and for everything else, the primary is used.

    Writes take members by name. A member that is absent from a change stays as it is, so that None
    is left for members that can be null.
    """

    def __init__(self, database: Database, replica: Replica | None = None) -> None:
        self._database = database
        self._replica = replica

    def page(  # noqa: PLR0913 -- by name, each with its default
        self,
        position: Position | int,
        limit: int,
        *,
        order: Order = BY_ID,
        filters: Filters = ALL_USERS,
        count: Count = "exact",
        after_lsn: int | None = None,
    ) -> Page:
        """Return the page of ``limit`` users that begins at an offset or beside a place.

        It is read by one statement, and so of one moment, except for an estimated total.
        """
        shape = shape_of(position, order, filters, count)
        bound = binds(filters, position, limit)

        def read(cursor: Cursor) -> Page:
            cursor.ahead_of_next = LIST_SETTINGS
            cursor.execute(list_statement(shape), bound)
            page = page_of(cursor.fetchall(), position, limit)
            if shape.counted or count == "none":
                return page
            cursor.execute(estimate_statement(shape.names), bound)
            return with_estimate(page, cursor.fetchall()[0], position)

        return self._read(read, after_lsn)

    def get(self, user_id: int, *, after_lsn: int | None = None) -> User:
        """Return the user, or raise UserNotFound."""

        def read(cursor: Cursor) -> User:
            cursor.execute(_GET, {"id": user_id})
            row = cursor.fetchone()
            if row is None:
                raise UserNotFound
            return User._make(row)

        return self._read(read, after_lsn)

    def create(self, members: Mapping[str, Any]) -> User:
        """Store a new user and return it, or raise UserExists."""
        columns = _columns(members)
        with (
            _conflicts_named(),
            self._database.write(_insert_statement(tuple(columns)), columns) as cursor,
        ):
            return _user(cursor)

    def create_once(
        self,
        members: Mapping[str, Any],
        request: KeyedRequest,
        respond: Callable[[User], StoredResponse],
    ) -> StoredResponse:
        """Store a new user together with the response to its request, and return the response.

        If the request was served before, return the stored response instead. Raise UserExists, and
        whatever ``stored_responses.begin`` raises. A lost answer to COMMIT is no unknown outcome if
        the response is found afterwards.
        """
        columns = _columns(members)
        try:
            with self._database.transaction() as cursor:
                stored = stored_responses.begin(cursor, request)
                if stored is None:
                    with _conflicts_named():
                        cursor.execute(_insert_statement(tuple(columns)), columns)
                    stored = respond(_user(cursor))
                    stored_responses.remember(cursor, request, stored)
                return stored
        except OutcomeUnknown:
            with suppress(Unavailable), self._database.read() as cursor:
                stored = stored_responses.find(cursor, request)
                if stored is not None:
                    return stored
            raise

    def update(
        self,
        user_id: int,
        changes: Mapping[str, Any],
        precondition: Precondition,
        expected: Mapping[str, object],
    ) -> User:
        """Change the members in ``changes`` and return the user.

        ``expected`` are read-only members, as the client knows them. Raise InvalidInput
        if the user has others, NothingChanged if it has the values of ``changes`` already, and
        UserNotFound, PreconditionFailed or UserExists.
        """
        columns = _columns(changes)
        statement = _update_statement(tuple(columns), tuple(changes), tuple(expected))
        known = {f"expected_{name}": value for name, value in expected.items()}
        bound = {**columns, **known, "id": user_id, **precondition._asdict()}
        for _ in range(ATTEMPTS):  # another write may come between the two statements
            if changes:
                with _conflicts_named(), self._database.write(statement, bound) as cursor:
                    if cursor.rowcount == 1:
                        return _user(cursor)
            current = self._current(user_id, precondition)
            others = [name for name, value in expected.items() if getattr(current, name) != value]
            if others:
                raise InvalidInput(dict.fromkeys(others, "cannot be changed; leave it out"))
            if all(getattr(current, name) == value for name, value in changes.items()):
                raise NothingChanged(current)
        raise Unavailable("the database does not store the change of a user")

    def delete(self, user_id: int, precondition: Precondition) -> None:
        """Remove the user, or raise UserNotFound or PreconditionFailed."""
        bound = {"id": user_id, **precondition._asdict()}
        for _ in range(ATTEMPTS):  # as for a change
            with self._database.write(_DELETE, bound) as cursor:
                if cursor.rowcount == 1:
                    return
            self._current(user_id, precondition)
        raise Unavailable("the database does not remove a user")

    def add_many(self, users: Sequence[NewUser]) -> int:
        """Store those of ``users`` whose names are free, and return their number."""
        columns = zip(NewUser._fields, zip(*users, strict=True), strict=True)
        arrays = {name: list(values) for name, values in columns}
        with self._database.write(_INSERT_MANY, arrays) as cursor:
            return cursor.rowcount

    def recount(self) -> int:
        """Count the users again, and return their number. Writes wait meanwhile.

        Raise Unavailable if another transaction holds the table for too long: writes would have
        to wait for both.
        """
        with self._database.transaction() as cursor:
            cursor.execute(
                "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = %s", (LOCK_TIMEOUT,)
            )
            cursor.execute("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE")
            cursor.execute("DELETE FROM users_count")
            cursor.execute(_RECOUNT)
            return sum(number for (number,) in cursor.fetchall())

    def current_lsn(self) -> int | None:
        """Return a position in the log of the primary after all that is committed.

        Return None if the primary does not tell it.
        """
        try:
            with self._database.read() as cursor:
                # The insert position, not the flush position, covers commits that are not flushed
                # yet, as with synchronous_commit off.
                cursor.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")
                (lsn,) = cast("tuple[Decimal]", cursor.fetchone())
                return int(lsn)
        except (Unavailable, psycopg2.Error):
            return None

    def cursor_key(self) -> bytes:
        """Return the key by which all processes sign cursors, unless a setting gives them one."""
        with self._database.read() as cursor:
            cursor.execute("SELECT key FROM cursor_key")
            row = cursor.fetchone()
            if row is None:
                raise LookupError("the table cursor_key is empty; migration 0005 filled it")
            return bytes(row[0])

    def _read(self, work: Callable[[Cursor], T], after_lsn: int | None) -> T:
        """Return the result of ``work`` on the replica, or else on the primary."""
        if self._replica is not None:
            with suppress(Unavailable, psycopg2.Error):
                return self._replica.read(work, after_lsn)
        with self._database.read() as cursor:
            return work(cursor)

    def _current(self, user_id: int, precondition: Precondition) -> User:
        """Return the user that a write left unchanged; raise UserNotFound or PreconditionFailed."""
        with self._database.read() as cursor:
            cursor.execute(_GET_WITH_PRECONDITION, {"id": user_id, **precondition._asdict()})
            row = cursor.fetchone()
        if row is None:
            raise UserNotFound
        is_met, *columns = row
        user = User._make(columns)
        if not is_met:
            raise PreconditionFailed(user)
        return user


class BatchingUserRepository(UserRepository):
    """Users in PostgreSQL; concurrent reads by id share a statement.

    A replica is asked for each user alone: the position that it must have replayed differs.
    """

    @cached_property
    def _reads(self) -> Batcher[int, User | None]:
        return Batcher(self._get_many)

    def get(self, user_id: int, *, after_lsn: int | None = None) -> User:
        """Return the user, or raise UserNotFound."""
        if self._replica is not None:
            return super().get(user_id, after_lsn=after_lsn)
        user = self._reads.get(user_id)
        if user is None:
            raise UserNotFound
        return user

    def _get_many(self, user_ids: Set[int]) -> dict[int, User | None]:
        with self._database.read() as cursor:
            cursor.execute(_GET_MANY, {"ids": list(user_ids)})
            found = {row[0]: User._make(row) for row in cursor.fetchall()}
        return dict.fromkeys(user_ids) | found


@lru_cache
def _insert_statement(columns: tuple[str, ...]) -> str:
    return composed(
        _INSERT, columns=", ".join(columns), values=_placeholders(columns), user=USER_COLUMNS
    )


@lru_cache
def _update_statement(
    columns: tuple[str, ...], changed: tuple[str, ...], expected: tuple[str, ...]
) -> str:
    assignments = [f"{column} = %({column})s" for column in columns]
    as_expected = [f"{name} = %(expected_{name})s" for name in expected]
    return composed(
        _UPDATE,
        assignments=", ".join(assignments),
        precondition=_PRECONDITION,
        changed=", ".join(changed),
        values=_placeholders(changed),
        as_expected=" AND ".join(as_expected) or "true",
        user=USER_COLUMNS,
    )


def _columns(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that store ``members``, with their values."""
    columns: dict[str, Any] = {}
    for name, value in members.items():
        if name not in WRITABLE_MEMBERS:
            raise ValueError(f"{name} is not a member that can be written")
        columns[name] = value
        if name in _CANONICAL_FORMS:
            columns[f"{name}_canonical"] = _CANONICAL_FORMS[name](value)
    return columns


def _user(cursor: Cursor) -> User:
    """Return the user that a write has stored."""
    (row,) = cursor.fetchall()
    return User._make(row)


@contextmanager
def _conflicts_named() -> Iterator[None]:
    """Raise UserExists with the member for which the database refused a second user."""
    try:
        yield
    except sql_errors.UniqueViolation as error:
        raise UserExists(_MEMBER_OF_CONSTRAINT[error.diag.constraint_name or ""]) from error
