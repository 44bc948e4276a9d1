"""All SQL on users, through asyncpg, which prepares each statement once a connection."""

from asyncpg import Pool, Record, create_pool
from asyncpg.pool import PoolConnectionProxy
from schemas import UserWrite, canonical_email, canonical_username

POOL_SIZE = 10

# Page and total in one statement, so of the same moment; beyond the last page the total is alone.
PAGE = """
    SELECT counted.total, listed.*
    FROM (SELECT sum(number)::bigint AS total FROM users_count) AS counted
    LEFT JOIN (
        SELECT id, username, email, created_at, updated_at
        FROM users ORDER BY id LIMIT $1 OFFSET $2
    ) AS listed ON true
    ORDER BY listed.id
"""
GET = "SELECT id, username, email, created_at, updated_at FROM users WHERE id = $1"
CREATE = """
    INSERT INTO users (username, username_canonical, email, email_canonical)
    VALUES ($1, $2, $3, $4)
    RETURNING id, username, email, created_at, updated_at
"""
REPLACE = """
    UPDATE users
    SET username = $1, username_canonical = $2, email = $3, email_canonical = $4,
        updated_at = now()
    WHERE id = $5
    RETURNING id, username, email, created_at, updated_at
"""
DELETE = "DELETE FROM users WHERE id = $1 RETURNING id"


async def open_pool(database_url: str) -> Pool:
    """Return a pool whose connections are all open."""
    return await create_pool(
        database_url, min_size=POOL_SIZE, max_size=POOL_SIZE, reset=leave_as_it_is
    )


async def leave_as_it_is(_connection: PoolConnectionProxy) -> None:
    """Reset nothing: the statements above change nothing of a connection.

    asyncpg's default is a round trip with four statements each time that a connection goes back.
    """


class Users:
    """The users in PostgreSQL. Every write is one statement, and so its own transaction."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(self, page: int, per_page: int) -> tuple[list[dict[str, object]], int]:
        """Return the users of a page, and how many there are in all."""
        rows = await self._pool.fetch(PAGE, per_page, (page - 1) * per_page)
        users = [as_user(row) for row in rows if row["id"] is not None]
        return users, rows[0]["total"]

    async def get(self, user_id: int) -> dict[str, object] | None:
        """Return a user, or None."""
        row = await self._pool.fetchrow(GET, user_id)
        return row and as_user(row)

    async def create(self, user: UserWrite) -> dict[str, object]:
        """Store a user; raise asyncpg's UniqueViolationError if there is one of that name."""
        return as_user(await self._pool.fetchrow(CREATE, *columns(user)))

    async def replace(self, user_id: int, user: UserWrite) -> dict[str, object] | None:
        """Change a user and return it, or None; raise UniqueViolationError as ``create``."""
        row = await self._pool.fetchrow(REPLACE, *columns(user), user_id)
        return row and as_user(row)

    async def delete(self, user_id: int) -> bool:
        """Delete a user; return whether there was one."""
        return await self._pool.fetchval(DELETE, user_id) is not None


def columns(user: UserWrite) -> tuple[str, str, str, str]:
    """Return what is stored of what a client sent."""
    return (
        user.username,
        canonical_username(user.username),
        user.email,
        canonical_email(user.email),
    )


def as_user(row: Record) -> dict[str, object]:
    """Return what clients see of a row."""
    return {
        "id": row["id"],
        "username": row["username"],
        "email": row["email"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }
