"""The number of users is exact without being counted: a trigger keeps it in each write."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest
from psycopg2.extensions import connection

INSERT = """
    INSERT INTO users (username, username_canonical, email, email_canonical)
    SELECT 'user' || n, 'user' || n, n || '@example.com', n || '@example.com'
    FROM generate_series(%s::int, %s::int) AS n
    ON CONFLICT DO NOTHING
"""


@pytest.fixture
def database(database_url: str) -> Iterator[connection]:
    with closing(psycopg2.connect(database_url)) as opened:
        opened.autocommit = True
        yield opened


def numbers(database: connection) -> tuple[int, int]:
    """Return how many users there are by the slots, and by counting."""
    with database.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT sum(number)::int FROM users_count), (SELECT count(*)::int FROM users)"
        )
        row = cursor.fetchone()
        assert row is not None
        return row[0], row[1]


def test_is_right_after_statements_of_many_rows_and_of_none(database: connection) -> None:
    with database.cursor() as cursor:
        cursor.execute(INSERT, (1, 1000))
        assert numbers(database) == (1000, 1000)
        cursor.execute(INSERT, (901, 1100))  # half of them are there already
        assert numbers(database) == (1100, 1100)
        cursor.execute("DELETE FROM users WHERE username_canonical ^@ 'user10'")
        assert cursor.rowcount == 111
        assert numbers(database) == (989, 989)
        cursor.execute("DELETE FROM users WHERE false")
        cursor.execute("UPDATE users SET updated_at = now()")
        assert numbers(database) == (989, 989)


def test_is_right_after_a_roll_back_and_truncate(database: connection) -> None:
    with database.cursor() as cursor:
        cursor.execute(INSERT, (1, 10))
        cursor.execute("BEGIN")
        cursor.execute(INSERT, (11, 20))
        assert numbers(database) == (20, 20)
        cursor.execute("DELETE FROM users")
        cursor.execute("ROLLBACK")
        assert numbers(database) == (10, 10)
        cursor.execute("TRUNCATE users")
        assert numbers(database) == (0, 0)


def test_is_right_after_many_writers_at_once(database: connection, database_url: str) -> None:
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
    by_slots, counted = numbers(database)
    assert by_slots == counted > 0


def test_writers_do_not_wait_for_each_other(database: connection, database_url: str) -> None:
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
    assert numbers(database) == (2, 2)
