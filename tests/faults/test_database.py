"""Faults of PostgreSQL and of the way to it."""

import pytest

from tests.faults.harness.figures import Row
from tests.faults.harness.operations import Kind, Outcome
from tests.faults.harness.stage import Stage


@pytest.mark.row("PostgreSQL backend killed")
def test_backends_killed_cost_no_read_and_no_acknowledged_write(stage: Stage, row: Row) -> None:
    with stage.scene(row) as scene, scene.fault():
        for _ in range(12):
            stage.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'users'"
                " AND random() < 0.5"
            )
            scene.wait(0.2)
    reads = [each for each in scene.during() if each.kind in (Kind.READ, Kind.LIST)]
    assert len(reads) > 20
    assert all(each.outcome in (Outcome.OK, Outcome.REFUSED) for each in reads)


@pytest.mark.row("PostgreSQL restarted")
def test_restart_is_a_burst_of_503_at_most(stage: Stage, row: Row) -> None:
    with stage.scene(row) as scene:
        with scene.fault():
            stage.postgres.restart()
        scene.wait(1)
    (connected,) = stage.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'users'")[0]
    row.note(f"{connected} connections afterwards")
