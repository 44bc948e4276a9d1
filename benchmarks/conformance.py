"""Whether all targets keep one contract: ``python -m benchmarks.conformance [TARGET ...]``.

Each target is served in turn on the same two servers and goes through the session of
``benchmarks/contract.py``. Prints a line for each, and every answer that was not as it should be.
"""

import sys
import tempfile
from contextlib import closing
from pathlib import Path

import httpx
import psycopg2
import redis

from benchmarks.contract import CONTRACT, SEEDED, SEEDED_AT, answers_as_before
from benchmarks.session import ContractSession, Session
from benchmarks.targets import TARGETS, Target, migrate, prepare, serving
from tests.servers import Servers, embedded


def seed(servers: Servers) -> None:
    """Leave just the users that the session knows of, and an empty Redis."""
    with closing(psycopg2.connect(servers.database_url)) as connection, connection:
        connection.cursor().execute(
            """
            TRUNCATE users RESTART IDENTITY;
            INSERT INTO users
                (username, username_canonical, email, email_canonical, created_at, updated_at)
            SELECT 'Seeded' || n, 'seeded' || n,
                   'seeded' || n || '@example.com', 'seeded' || n || '@example.com', %(at)s, %(at)s
            FROM generate_series(1, %(number)s) AS n
            """,
            {"at": SEEDED_AT, "number": SEEDED},
        )
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushdb()


def count_is_right(servers: Servers) -> bool:
    """Tell whether the number of users that is kept is the number of users."""
    with closing(psycopg2.connect(servers.database_url)) as connection:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT (SELECT sum(number) FROM users_count) = (SELECT count(*) FROM users)"
        )
        return cursor.fetchone() == (True,)


def conformance(target: Target, servers: Servers, folder: Path) -> tuple[int, list[str]]:
    """Return how many answers ``target`` gave, and what was wrong with them."""
    seed(servers)
    log = folder / f"{target.name}.log"
    with serving(target, servers.database_url, servers.redis_url, log=log) as (url, _):
        session = session_as_before(url, log) if target.name == "before" else session_now(url, log)
    session.expect("users_count is right", count_is_right(servers), wanted=True)
    return session.answers, session.complaints


def session_as_before(url: str, log: Path) -> Session:
    """Go through what there was before the review."""
    with Session(url, log) as session:
        answers_as_before(session)
    return session


def session_now(url: str, log: Path) -> ContractSession:
    """Go through the whole contract."""
    with ContractSession(url, log) as session:
        for part in CONTRACT:
            try:
                part(session)
            except (httpx.HTTPError, LookupError, TypeError, ValueError) as error:
                session.complaints.append(f"{part.__name__} cannot go on: {error!r}")
    return session


def main(names: list[str]) -> int:
    """Check the targets called ``names``, or all; return the exit code."""
    failed = False
    with tempfile.TemporaryDirectory() as path, embedded(Path(path)) as servers:
        migrate(servers.database_url)
        for target in (TARGETS[name] for name in names or TARGETS):
            prepare(target)
            answers, complaints = conformance(target, servers, Path(path))
            verdict = f"{len(complaints)} not as" if complaints else "all as"
            print(f"{target.name}: {answers} answers, {verdict} the contract has them")
            print("".join(f"  {complaint}\n" for complaint in complaints), end="")
            failed = failed or bool(complaints)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
