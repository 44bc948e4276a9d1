"""The number of users is exact without being counted: a trigger keeps it in each write."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
from psycopg2.extensions import cursor

from tests.integration.queries import value

INSERT = """
    INSERT INTO users (username, username_canonical, email, email_canonical)
    SELECT 'user' || n, 'user' || n, n || '@example.com', n || '@example.com'
    FROM generate_series(%s::int, %s::int) AS n
    ON CONFLICT DO NOTHING
"""


def numbers(admin: cursor) -> tuple[int, int]:
    """Return how many users there are by the slots, and by counting."""
    by_slots = value(admin, "SELECT sum(number)::int FROM users_count")
    return by_slots, value(admin, "SELECT count(*) FROM users")


def test_is_right_after_statements_of_many_rows_and_of_none_and_a_roll_back(admin: cursor) -> None:
    admin.execute(INSERT, (1, 1000))
    assert numbers(admin) == (1000, 1000)
    admin.execute(INSERT, (901, 1100))  # half of them are there already
    assert numbers(admin) == (1100, 1100)
    admin.execute("DELETE FROM users WHERE username_canonical ^@ 'user10'")
    assert numbers(admin) == (989, 989)
    admin.execute("DELETE FROM users WHERE false; UPDATE users SET updated_at = now()")
    assert numbers(admin) == (989, 989)
    admin.execute("BEGIN")
    admin.execute(INSERT, (1101, 1110))
    assert numbers(admin) == (999, 999)
    admin.execute("DELETE FROM users; ROLLBACK")
    assert numbers(admin) == (989, 989)
    admin.execute("TRUNCATE users")
    assert numbers(admin) == (0, 0)


def test_is_right_after_many_writers_at_once(admin: cursor, database_url: str) -> None:
    def write(number: int) -> None:
        choice = random.Random(number)
        with closing(psycopg2.connect(database_url)) as own, own.cursor() as cursor:
            own.autocommit = True
            for _ in range(50):
                first = choice.randrange(200)
                if choice.random() < 0.6:
                    cursor.execute(INSERT, (first, first))
                else:
                    cursor.execute("DELETE FROM users WHERE username = %s", (f"user{first}",))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    by_slots, counted = numbers(admin)
    assert by_slots == counted > 0


def test_writers_do_not_wait_for_each_other(admin: cursor, database_url: str) -> None:
    """Two sessions hold their uncommitted inserts at the same moment."""
    both_have_written = threading.Barrier(2)

    def write(number: int) -> int:
        with closing(psycopg2.connect(database_url)) as own, own.cursor() as cursor:
            cursor.execute(INSERT, (number, number))
            both_have_written.wait(10)
            own.commit()
            return own.info.backend_pid % 64

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(write, (1, 2))
    assert first != second
    assert numbers(admin) == (2, 2)
