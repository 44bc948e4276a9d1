"""The database moves to another server: the service follows it by itself."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dev.servers import PostgresServer
from tests.faults.harness.figures import Row
from tests.faults.harness.stage import Stage
from tests.faults.harness.standby import Standby, follow_synchronously, run, switch_over

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


@pytest.mark.slow
@pytest.mark.parametrize("how", ["old primary read-only (25006)", "old primary killed"])
@pytest.mark.row("failover:")
def test_promoted_standby_is_followed(
    stage: Stage, row: Row, pair: tuple[PostgresServer, Standby], how: str
) -> None:
    row.fault += f" {how}"
    primary, standby = pair
    hosts = f"@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/users"
    url = primary.url.replace(f"@127.0.0.1:{primary.port}/users", hosts)
    environment = {"DATABASE_URL": f"{url}?target_session_attrs=read-write"}
    with stage.scene(row, after=1, environment=environment) as scene:
        scene.stage = replace(stage, postgres=standby)
        with scene.fault():
            if how == "old primary killed":
                primary.kill()
                run(standby, "SELECT pg_promote()")
            else:
                switch_over(primary, standby)
        scene.wait(5)
        scene.pools_in_use()  # asks for health, whose connection learns of it only then
        row.note(f"{run(standby, OURS)} connections to the new primary")
        kept = run(primary, WHAT) if primary.running else None
    if primary.running:
        row.note(f"kept to the old one, by their last statement: {kept or 'none'}")
    assert kept is None
