"""Lists and gets from a real streaming replica: nobody misses a write that was acknowledged."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor

from dev.servers import PostgresServer
from tests.application import serving
from tests.faults.harness.stage import Stage
from tests.faults.harness.standby import Standby, pause, resume, run
from tests.redis_states import generation_key
from tests.responses import json_of
from tests.waiting import eventually
from user_service.database.replica import WAIT_FOR_REPLICA, Replica
from user_service.errors import Unavailable
from user_service.resilience import deadline
from user_service.resilience.breaker import State
from user_service.settings import Settings
from user_service.web.services import services_of

URL = "/api/v1/users"


@pytest.fixture(scope="module")
def standby(tmp_path_factory: pytest.TempPathFactory, session_stage: Stage) -> Iterator[Standby]:
    with Standby(tmp_path_factory.mktemp("standby"), session_stage.postgres) as standby:
        yield standby


@pytest.fixture
def primary(stage: Stage) -> PostgresServer:
    return stage.postgres


@pytest.fixture
def settings(stage: Stage, standby: Standby) -> Settings:
    urls = {"database_url": stage.postgres.url, "database_replica_url": standby.url}
    return Settings.model_validate(urls | {"redis_url": stage.redis.url, "redis_timeout": 1})


@pytest.fixture
def client(settings: Settings, primary: PostgresServer, standby: Standby) -> Iterator[FlaskClient]:
    with serving(settings) as client:
        client.get("/health/ready")  # migrates
        eventually(lambda: has_it_all(standby, primary))
        yield client
    standby.thaw()
    standby.start()
    resume(standby)


def has_it_all(standby: PostgresServer, primary: PostgresServer) -> bool:
    end = run(primary, "SELECT pg_current_wal_insert_lsn()")
    return bool(run(standby, f"SELECT pg_last_wal_replay_lsn() >= '{end}'"))


def replica_of(client: FlaskClient) -> Replica:
    replica = services_of(client.application).replica
    assert replica is not None
    return replica


def create(client: FlaskClient, name: str) -> str:
    """Return the path of a new user."""
    created = client.post(URL, json={"username": name, "email": f"{name}@example.com"})
    assert created.status_code == 201
    return f"{URL}/{json_of(created)['id']}"


def names(client: FlaskClient) -> list[str]:
    return [user["username"] for user in json_of(client.get(URL))["users"]]


def name_of(client: FlaskClient, path: str) -> str:
    name: str = json_of(client.get(path))["username"]
    return name


@pytest.fixture
def ada(client: FlaskClient, primary: PostgresServer, standby: Standby) -> str:
    """The path of a user that the replica has, and that was read from it."""
    path = create(client, "ada")
    eventually(lambda: has_it_all(standby, primary))
    assert client.get(path).status_code == 200
    return path


def is_read_again(client: FlaskClient, path: str) -> None:
    """Wait until the replica is read."""
    replica = replica_of(client)
    before = replica.reads
    eventually(lambda: client.get(path).status_code == 200 and replica.reads > before)


def test_reads_go_to_the_replica_that_has_replayed_them(client: FlaskClient, ada: str) -> None:
    client.get(URL)
    replica = replica_of(client)
    fallbacks = replica.fallbacks
    assert name_of(client, ada) == "ada"
    assert names(client) == ["ada"]
    assert client.get(f"{URL}/999").status_code == 404
    assert replica.reads >= 2
    assert replica.fallbacks == fallbacks


def test_writer_reads_its_write_through_any_process_while_the_replica_lags(
    client: FlaskClient, settings: Settings, standby: Standby, ada: str
) -> None:
    with serving(settings) as elsewhere:
        assert names(elsewhere) == ["ada"]
        pause(standby)
        for number in range(10):
            name = f"countess{number}"
            assert client.patch(ada, json={"username": name}).status_code == 200
            for reader in (client, elsewhere):
                assert name_of(reader, ada) == name
                assert names(reader) == [name]
        assert client.delete(ada).status_code == 204
        for reader in (client, elsewhere):
            assert reader.get(ada).status_code == 404
            assert names(reader) == []
    assert run(standby, "SELECT username FROM users") == "ada"  # it did lag


def test_conditions_and_conflicts_are_decided_by_the_primary(
    client: FlaskClient, standby: Standby, ada: str
) -> None:
    pause(standby)
    current = client.patch(ada, json={"username": "lovelace"}).headers["ETag"]
    refused = client.patch(ada, json={"email": "x@y.org"}, headers={"If-Match": '"1-1"'})
    assert refused.status_code == 412
    assert json_of(refused)["user"]["username"] == "lovelace"
    body = {"username": "Lovelace", "email": "other@example.com"}
    assert client.post(URL, json=body).status_code == 409
    assert client.get(ada, headers={"If-None-Match": current}).status_code == 304


def test_replica_that_lags_is_left_alone_for_a_while_and_read_again(
    client: FlaskClient, standby: Standby, ada: str
) -> None:
    pause(standby)
    create(client, "grace")
    replica = replica_of(client)
    fallbacks = replica.fallbacks
    for _ in range(10):
        assert client.get(ada).status_code == 200
    assert replica.database.breaker.state is State.OPEN
    assert replica.fallbacks == fallbacks + 10
    resume(standby)
    is_read_again(client, ada)


def test_reads_go_on_when_the_replica_is_killed_and_come_back_to_it(
    client: FlaskClient, standby: Standby, ada: str
) -> None:
    standby.kill()
    for _ in range(10):
        assert client.get(ada).status_code == 200
    create(client, "grace")
    assert names(client) == ["ada", "grace"]
    health = client.get("/health")
    assert (health.status_code, json_of(health)["status"]) == (200, "degraded")
    assert json_of(health)["replica"]["status"] == "disconnected"
    assert client.get("/health/ready").status_code == 200
    standby.start()
    is_read_again(client, ada)
    assert json_of(client.get("/health"))["status"] == "healthy"


@pytest.mark.slow
def test_frozen_replica_costs_a_read_its_patience_and_then_nothing(
    client: FlaskClient, standby: Standby, ada: str
) -> None:
    standby.freeze()

    def timed_read(_number: int) -> float:
        began = time.monotonic()
        assert client.application.test_client().get(ada).status_code == 200
        return time.monotonic() - began

    with ThreadPoolExecutor(8) as threads:
        longest = max(threads.map(timed_read, range(8)))
    assert WAIT_FOR_REPLICA - 0.1 < longest < WAIT_FOR_REPLICA + 0.5
    assert replica_of(client).database.breaker.state is State.OPEN
    assert timed_read(0) < 0.3


@pytest.mark.usefixtures("ada")
def test_read_may_take_longer_than_the_replica_is_waited_for(client: FlaskClient) -> None:
    client.get(URL)
    replica, seconds = replica_of(client), WAIT_FOR_REPLICA + 0.2

    def read_slowly(cursor: cursor) -> bool:
        cursor.execute("SELECT pg_sleep(%s), pg_is_in_recovery()", (seconds,))
        return cursor.fetchone() == ("", True)

    with deadline.within(5):
        assert replica.read(read_slowly, 0)
    # Half of the time is the primary's.
    with deadline.within(2), pytest.raises(Unavailable):
        replica.read(read_slowly, 0)


def test_reads_go_on_while_the_primary_is_away(
    client: FlaskClient, primary: PostgresServer, ada: str
) -> None:
    primary.freeze()
    try:
        assert name_of(client, ada) == "ada"
        assert names(client) == ["ada"]
    finally:
        primary.thaw()


@pytest.mark.parametrize("loss", ["flushed", "key evicted"])
def test_when_redis_has_lost_the_position_it_is_asked_of_the_primary(
    client: FlaskClient, standby: Standby, stage: Stage, ada: str, loss: str
) -> None:
    pause(standby)
    client.patch(ada, json={"username": "lovelace"})
    with stage.redis_client() as redis:
        redis.flushall() if loss == "flushed" else redis.delete(generation_key(redis))
    assert name_of(client, ada) == "lovelace"
    assert names(client) == ["lovelace"]
    resume(standby)
    is_read_again(client, ada)


def test_without_redis_the_primary_is_read(
    client: FlaskClient, standby: Standby, stage: Stage, ada: str
) -> None:
    stage.redis.kill()
    pause(standby)
    before = replica_of(client).reads
    client.patch(ada, json={"username": "lovelace"})
    assert name_of(client, ada) == "lovelace"
    assert names(client) == ["lovelace"]
    assert replica_of(client).reads == before


@pytest.mark.usefixtures("client")
def test_server_that_follows_nobody_is_not_read(
    settings: Settings, primary: PostgresServer
) -> None:
    with serving(settings, database_replica_url=primary.url) as client:
        assert client.get(create(client, "ada")).status_code == 200
        assert replica_of(client).reads == 0


@pytest.mark.usefixtures("client")
def test_promoted_replica_is_not_read_for_what_was_written_elsewhere(
    tmp_path: Path, settings: Settings, primary: PostgresServer
) -> None:
    """Two primaries for a moment: what was a replica has rows of its own, and the same ids."""
    with (
        Standby(tmp_path / "promoted", primary) as promoted,
        serving(settings, database_replica_url=promoted.url) as client,
    ):
        ada = create(client, "ada")
        eventually(lambda: has_it_all(promoted, primary))
        client.get(ada)
        assert replica_of(client).reads == 1
        run(promoted, "SELECT pg_promote()")
        run(promoted, "UPDATE users SET username = 'somebody else'", "SELECT pg_switch_wal()")
        client.patch(ada, json={"username": "lovelace"})
        assert name_of(client, ada) == "lovelace"
        assert names(client) == ["lovelace"]
