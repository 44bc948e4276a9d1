"""The database moves to another server: the service follows it by itself."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dev.servers import PostgresServer
from tests.application import serving
from tests.faults.harness.figures import Row
from tests.faults.harness.stage import Stage
from tests.faults.harness.standby import Standby, follow_synchronously, run, switch_over
from tests.waiting import eventually
from user_service.database.connection import Cursor
from user_service.database.database import Database
from user_service.settings import Settings
from user_service.web.services import services_of

OURS = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'users'"
WHAT = "SELECT string_agg(query, '; ') FROM pg_stat_activity WHERE usename = 'users'"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[PostgresServer, Standby]]:
    with (
        PostgresServer(tmp_path / "primary", durable=False) as primary,
        Standby(tmp_path / "standby", primary) as standby,
    ):
        follow_synchronously(primary)
        yield primary, standby


def url_of(*servers: PostgresServer) -> str:
    """Return the URL of whichever of ``servers`` is the primary."""
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    url = servers[0].url.replace(f"@127.0.0.1:{servers[0].port}/", f"@{hosts}/")
    return f"{url}?target_session_attrs=read-write"


@pytest.mark.slow
@pytest.mark.row("failover: old primary read-only (25006)")
def test_promoted_standby_is_followed(
    stage: Stage, row: Row, pair: tuple[PostgresServer, Standby]
) -> None:
    primary, standby = pair
    environment = {"DATABASE_URL": url_of(primary, standby), "DATABASE_OWNER_URL": ""}
    with stage.scene(row, after=1, environment=environment) as scene:
        scene.stage = replace(stage, postgres=standby)
        with scene.fault():
            switch_over(primary, standby)
        time.sleep(5)
        scene.pools_in_use()  # asks each process, which may have had no request since
        row.note(f"{run(standby, OURS)} connections to the new primary")
        kept = run(primary, WHAT)
    row.note(f"kept to the old one, by their last statement: {kept or 'none'}")
    assert kept is None


def test_reads_alone_leave_the_old_primary(pair: tuple[PostgresServer, Standby]) -> None:
    primary, standby = pair
    settings = Settings.model_validate({"database_url": url_of(primary, standby)})
    with serving(settings) as client:
        services_of(client.application).open()
        switch_over(primary, standby)
        for _ in range(2):  # the first one is told by the answer that it gets
            assert client.get("/api/v1/users/1").status_code == 404
        assert run(primary, WHAT) is None
        assert run(standby, OURS) == 1


def test_old_primary_is_left_alone_while_the_new_one_serves(
    pair: tuple[PostgresServer, Standby],
) -> None:
    primary, standby = pair
    database = Database(url_of(primary, standby), size=2)

    def port(cursor: Cursor) -> int:
        return cursor.connection.info.port

    with database.read() as older:
        run(standby, "SELECT pg_promote()")
        primary.freeze()
        with database.read() as newer:
            primary.thaw()  # and nobody has told it that it is none any more
            assert (port(older), port(newer)) == (primary.port, standby.port)
    with database.read() as first, database.read() as second:
        assert (port(first), port(second)) == (standby.port, standby.port)
    standby.kill()
    with database.read() as cursor:
        assert port(cursor) == primary.port
    database.close()


def test_server_that_does_not_tell_its_timeline_serves(
    pair: tuple[PostgresServer, Standby],
) -> None:
    """As Aurora does, or a server that denies the privilege while it runs."""
    primary, standby = pair
    database = Database(url_of(primary, standby), size=2)
    with database.read():
        run(
            primary,
            "CREATE FUNCTION public.pg_current_wal_lsn() RETURNS pg_lsn LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE 'not supported' USING ERRCODE = '55000'; END $$",
            "ALTER ROLE users SET search_path = public, pg_catalog",
        )
        with database.read() as cursor:
            cursor.execute("SELECT inet_server_port()")
            assert cursor.fetchone() == (primary.port,)
    database.close()


def test_replica_that_stays_on_the_old_timeline_is_not_read(
    stage: Stage, pair: tuple[PostgresServer, Standby], tmp_path: Path
) -> None:
    primary, standby = pair
    with Standby(tmp_path / "replica", primary) as replica:
        settings = Settings.model_validate(
            {
                "database_url": url_of(primary, standby),
                "database_replica_url": replica.url,
                "redis_url": stage.redis.url,
                "redis_timeout": 1,
            }
        )
        with serving(settings) as client, serving(settings) as elsewhere:
            reader, another = (
                services_of(each.application).replica for each in (client, elsewhere)
            )
            assert reader is not None
            assert another is not None
            body = {"username": "ada", "email": "ada@example.com"}
            ada = client.post("/api/v1/users", json=body).headers["Location"]
            eventually(lambda: client.get(ada).status_code == 200 and reader.reads > 0)
            eventually(lambda: elsewhere.get(ada).status_code == 200 and another.reads > 0)
            # The replica has more of the old timeline than the new primary.
            standby.kill()
            run(primary, "SELECT pg_logical_emit_message(false, '', repeat('x', 1000000), true)")
            end = run(primary, "SELECT pg_current_wal_lsn()")
            eventually(lambda: run(replica, f"SELECT pg_last_wal_replay_lsn() >= '{end}'"))
            primary.kill()
            standby.start()
            run(standby, "SELECT pg_promote()")
            change = {"username": "lovelace"}
            eventually(lambda: client.patch(ada, json=change).status_code == 200)
            # The other process has not asked the new primary for anything yet.
            for each in (elsewhere, client):
                assert each.get(ada).get_json()["username"] == "lovelace"
            assert client.get("/api/v1/users").get_json()["users"][0]["username"] == "lovelace"
