"""Several databases, and several histories of one database, on the same Redis."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_py
from flask.testing import FlaskClient
from psycopg2.extensions import cursor

from dev.servers import PostgresServer
from tests.faults.harness.standby import Standby, run
from tests.integration.users import URL, USER, create, first_page
from tests.links import linked
from tests.responses import Serve
from tests.waiting import eventually
from user_service.web.services import services_of


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path / "primary", durable=False) as primary:
        yield primary


def test_copy_of_a_database_shares_nothing_with_it(primary: PostgresServer, serving: Serve) -> None:
    run(primary, "CREATE DATABASE copy TEMPLATE users OWNER users")
    with linked(f"{primary.url.removesuffix('users')}copy") as (link, url):
        original = serving(database_url=primary.url, rate_limit="4/minute")
        copy = serving(database_url=url, rate_limit="4/minute", retry_attempts=0)
        create(original, "ada")
        assert [first_page(each) for each in (original, copy)] == [(["ada"], "MISS"), ([], "MISS")]
        services_of(copy.application).pages.invalidate()
        assert first_page(original) == (["ada"], "HIT")
        link.refuse()
        assert first_page(copy) == ([], "STALE")
        assert [original.get(URL).status_code for _ in range(2)] == [200, 429]
        assert first_page(copy) == ([], "STALE")


def test_prefix_separates_what_the_database_does_not(serving: Serve) -> None:
    one, other = (serving(redis_prefix=prefix, rate_limit="9/day") for prefix in ("one", "other"))
    for client in (one, other):
        assert first_page(client)[1] == "MISS"
        assert client.get(URL).headers["RateLimit"].startswith('"default";r=7;')


def test_restore_shows_no_old_page(client: FlaskClient, serving: Serve, admin: cursor) -> None:
    """The other process stays connected, and hears of it from what is stored in Redis."""
    other = serving()
    create(client, "ada")
    assert [first_page(each)[1] for each in (client, other)] == ["MISS", "HIT"]
    admin.execute("TRUNCATE users")
    with services_of(client.application).database.read():  # the connection that there is
        assert client.get(USER).status_code == 404  # on a new one
    seen = [first_page(each) for each in (client, other, client, other)]
    assert seen == [([], "MISS"), *[([], "HIT")] * 3]


def test_replica_of_a_restored_database_is_read_though_the_position_before_was_higher(
    tmp_path: Path, primary: PostgresServer, serving: Serve
) -> None:
    before = serving(database_url=primary.url, database_replica_url=primary.url)
    for number in range(9):
        run(primary, "SELECT pg_logical_emit_message(false, '', '')", "SELECT pg_switch_wal()")
        create(before, f"lost{number}")
    position = run(primary, "SELECT pg_current_wal_lsn()")
    assert len(first_page(before)[0]) == 9
    with (
        PostgresServer(tmp_path / "restored", durable=False) as restored,
        Standby(tmp_path / "standby", restored) as standby,
    ):
        after = serving(database_url=restored.url, database_replica_url=standby.url)
        create(after, "ada")
        assert run(restored, f"SELECT pg_current_wal_lsn() < '{position}'")
        replica = services_of(after.application).replica
        assert replica is not None
        eventually(lambda: after.get(USER).status_code == 200 and replica.reads > 0)
        assert first_page(after) == (["ada"], "MISS")


def test_promoted_standby_shows_no_page_of_a_write_that_it_has_not(
    tmp_path: Path, primary: PostgresServer, serving: Serve, redis: redis_py.Redis
) -> None:
    """The log position of the lost write is beyond the end of the new primary's log."""

    def required_lsn() -> int:
        return int(redis.get(*redis.scan_iter("*:lsn")) or b"", 16)

    with Standby(tmp_path / "standby", primary) as standby:
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        url = primary.url.replace(f"127.0.0.1:{primary.port}", hosts)
        client = serving(
            database_url=f"{url}?target_session_attrs=read-write", database_replica_url=standby.url
        )
        create(client, "ada")
        written = run(primary, "SELECT pg_current_wal_lsn()")
        eventually(lambda: run(standby, f"SELECT pg_last_wal_replay_lsn() >= '{written}'"))
        run(standby, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        eventually(lambda: run(standby, "SELECT count(*) FROM pg_stat_wal_receiver") == 0)
        run(primary, "SELECT pg_switch_wal()")  # so that the position is far ahead
        create(client, "lost")
        assert first_page(client) == (["ada", "lost"], "MISS")
        before = required_lsn()
        primary.kill()
        run(standby, "SELECT pg_promote()")
        eventually(lambda: client.get(USER).status_code == 200)
        assert first_page(client) == (["ada"], "MISS")
        assert required_lsn() < before
