"""All SQL on users. Columns are named, values are bound, nothing is built from input."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from psycopg2 import errors as sql_errors
from psycopg2.extensions import cursor

from user_service.database import idempotency
from user_service.database.pool import Database
from user_service.errors import OutcomeUnknown, Unavailable, UserExists, UserNotFound
from user_service.idempotency import KeyedRequest, StoredResponse
from user_service.users import User, canonical_email, canonical_username

BIGINT_MAX = 2**63 - 1

_FIELD_OF_CONSTRAINT = {"users_username_key": "username", "users_email_key": "email"}


class UserRepository:
    """Users in PostgreSQL. Methods raise Unavailable (or a subclass) when it cannot be had."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, page: int, per_page: int) -> tuple[list[User], int]:
        """Return one page of users in order of their ids, and the number of all users.

        One statement, so both are of the same moment; no row is loaded that is not returned.
        """
        with self._database.read() as cursor:
            cursor.execute(
                """
                SELECT count.total,
                       users.id, users.username, users.email, users.created_at, users.updated_at
                FROM (SELECT count(*) AS total FROM users) AS count
                LEFT JOIN (
                    SELECT id, username, email, created_at, updated_at
                    FROM users ORDER BY id LIMIT %(limit)s OFFSET %(offset)s
                ) AS users ON true
                ORDER BY users.id
                """,
                {"limit": per_page, "offset": (page - 1) * per_page},
            )
            rows = cursor.fetchall()
        # Beyond the last page the total stands alone, beside a user of nothing but NULLs.
        return [User(*row[1:]) for row in rows if row[1] is not None], rows[0][0]

    def get(self, user_id: int) -> User:
        """Return the user; raise UserNotFound."""
        with self._database.read() as cursor:
            cursor.execute(
                """
                SELECT id, username, email, created_at, updated_at
                FROM users WHERE id = %(id)s
                """,
                {"id": user_id},
            )
            return _one_user(cursor)

    def create(
        self,
        username: str,
        email: str,
        respond: Callable[[User], StoredResponse],
        request: KeyedRequest | None = None,
    ) -> StoredResponse:
        """Store a new user and return the response for it; raise UserExists.

        With a keyed request, the response is stored in the same transaction, and what was stored
        before is returned instead; see ``idempotency.begin`` for what that raises. Then a lost
        answer to COMMIT is no unknown outcome if the response is found afterwards.
        """
        if request is None:
            with self._database.transaction() as cursor:
                return respond(_insert(cursor, username, email))
        try:
            with self._database.transaction() as cursor:
                stored = idempotency.begin(cursor, request)
                if stored is None:
                    stored = respond(_insert(cursor, username, email))
                    idempotency.remember(cursor, request, stored)
                return stored
        except OutcomeUnknown:
            with suppress(Unavailable), self._database.read() as cursor:
                stored = idempotency.find(cursor, request)
                if stored is not None:
                    return stored
            raise

    def update(self, user_id: int, username: str | None, email: str | None) -> User:
        """Change what is not None and return the user; raise UserNotFound or UserExists."""
        with self._database.transaction() as cursor, _conflicts_named():
            cursor.execute(
                """
                UPDATE users SET
                    username = coalesce(%(username)s, username),
                    username_canonical = coalesce(%(username_canonical)s, username_canonical),
                    email = coalesce(%(email)s, email),
                    email_canonical = coalesce(%(email_canonical)s, email_canonical),
                    updated_at = now()
                WHERE id = %(id)s
                RETURNING id, username, email, created_at, updated_at
                """,
                {"id": user_id, **_columns(username, email)},
            )
            return _one_user(cursor)

    def delete(self, user_id: int) -> None:
        """Remove the user; raise UserNotFound if there is none (any more)."""
        with self._database.transaction() as cursor:
            cursor.execute("DELETE FROM users WHERE id = %(id)s", {"id": user_id})
            if cursor.rowcount == 0:
                raise UserNotFound


def _insert(cursor: cursor, username: str, email: str) -> User:
    with _conflicts_named():
        cursor.execute(
            """
            INSERT INTO users (username, username_canonical, email, email_canonical)
            VALUES (%(username)s, %(username_canonical)s, %(email)s, %(email_canonical)s)
            RETURNING id, username, email, created_at, updated_at
            """,
            _columns(username, email),
        )
    return _one_user(cursor)


def _columns(username: str | None, email: str | None) -> dict[str, str | None]:
    return {
        "username": username,
        "username_canonical": None if username is None else canonical_username(username),
        "email": email,
        "email_canonical": None if email is None else canonical_email(email),
    }


def _one_user(cursor: cursor) -> User:
    row = cursor.fetchone()
    if row is None:
        raise UserNotFound
    return User(*row)


@contextmanager
def _conflicts_named() -> Iterator[None]:
    """Raise UserExists with the field's name when the database refuses a second of its kind."""
    try:
        yield
    except sql_errors.UniqueViolation as error:
        raise UserExists(_FIELD_OF_CONSTRAINT[error.diag.constraint_name or ""]) from error
