"""Many users at once, for tests of lists."""

from psycopg2.extensions import cursor

# User n is "User<n>", n seconds after the first; by when they were changed their order is another.
BEGINNING = "2026-01-01T00:00:00Z"
_POPULATE = """
    INSERT INTO users
        (username, username_canonical, email, email_canonical, created_at, updated_at)
    SELECT
        'User' || n, 'user' || n, 'user' || n || '@example.com', 'user' || n || '@example.com',
        %(beginning)s::timestamptz + n * interval '1 second',
        %(beginning)s::timestamptz + (n * 7919 %% %(number)s) * interval '1 second'
    FROM generate_series(1, %(number)s::int) AS n
"""

# Two users with the same times, which the trigger would not allow.
SAME_TIMES = """
    ALTER TABLE users DISABLE TRIGGER move_version_on;
    UPDATE users SET created_at = now(), updated_at = now();
    ALTER TABLE users ENABLE TRIGGER move_version_on
"""


def populate(cursor: cursor, number: int) -> None:
    """Add ``number`` users to an empty table."""
    cursor.execute(_POPULATE, {"number": number, "beginning": BEGINNING})
