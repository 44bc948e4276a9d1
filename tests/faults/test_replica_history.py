"""Concurrent clients of a service that reads from a replica, under faults of that too.

``ALTER SYSTEM`` on a standby is its own, so the lag is the replica's alone.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.service import GUNICORN
from tests.faults.harness.clients import Mix
from tests.faults.harness.figures import Row
from tests.faults.harness.nemesis import Nemesis
from tests.faults.harness.stage import Stage
from tests.faults.harness.standby import Standby, lag, pause, resume
from tests.faults.history import PageRule, check
from tests.faults.test_history import ENVIRONMENT, REPOSITORY, SECONDS, SEED, page_rule

LAG = 0.2  # seconds


class ReplicaNemesis(Nemesis):
    """Provokes the faults of a replica too."""

    def __init__(self, stage: Stage, standby: Standby, workers: Callable[[], list[int]]) -> None:
        super().__init__(stage, workers, SEED)
        self._standby = standby
        ours = {
            "replica lags": self._let_lag,
            "replica stands still": self._let_stand,
            "replica frozen": self._freeze,
            "replica killed": self._kill,
        }
        self._faults |= ours
        self._kinds = (*self._kinds, *ours)

    def _let_lag(self) -> None:
        lag(self._standby, LAG)
        self._last(2.0)
        lag(self._standby, 0)

    def _let_stand(self) -> None:
        pause(self._standby)
        self._last(1.0)
        resume(self._standby)

    def _freeze(self) -> None:
        self._standby.freeze()
        self._last(2.0)
        self._standby.thaw()

    def _kill(self) -> None:
        self._standby.kill()
        self._last(1.0)
        self._standby.start()


@pytest.fixture
def standby(stage: Stage, tmp_path: Path) -> Iterator[Standby]:
    with Standby(tmp_path / "standby", stage.postgres) as standby:
        yield standby


@pytest.mark.slow
@pytest.mark.row("replica, faults at random, history checked")
@pytest.mark.timeout(120 + 2 * SECONDS)
def test_no_answer_is_contradicted_with_a_replica(stage: Stage, row: Row, standby: Standby) -> None:
    row.note(f"FAULT_SEED={SEED} FAULT_SECONDS={SECONDS:.0f}")
    environment = {**ENVIRONMENT, "DATABASE_REPLICA_URL": standby.url}
    mix = Mix(clients=10, keyed=0.5, seed=SEED)
    with stage.scene(row, mix, environment=environment, after=4) as scene:
        scene.workers_may_change = True
        nemesis = ReplicaNemesis(stage, standby, scene.worker_pids)
        with scene.fault():
            nemesis.rage(SECONDS)
        scene.pages = page_rule(nemesis, lag=LAG)
        row.note(", ".join(f"{kind} {times}" for kind, times in sorted(nemesis.provoked.items())))
        replica = scene.health()["replica"]
        row.note(
            f"of the reads of one worker's life {replica['reads']} on the replica, "
            f"{replica['fallbacks']} on the primary"
        )


@pytest.mark.slow
@pytest.mark.row("broken build: replica read whatever it has")
def test_checker_finds_reads_of_a_replica_that_lags(
    stage: Stage, row: Row, standby: Standby
) -> None:
    application = "tests.faults.broken.unchecked_replica:app"
    command = [*GUNICORN[:-1], "--pythonpath", str(REPOSITORY), application]
    environment = {**ENVIRONMENT, "DATABASE_REPLICA_URL": standby.url}
    mix = Mix(clients=10, seed=SEED)
    with stage.scene(row, mix, environment=environment, command=command, after=0.5) as scene:
        scene.checked = False
        with scene.fault():
            lag(standby, LAG)
            scene.wait(3)
            lag(standby, 0)
    verdict = check(scene.load.operations, stage.users(), PageRule(reads_too=True))
    row.note(f"FAULT_SEED={SEED}: {len(verdict.findings)} findings, such as")
    row.notes += [f"  {line}" for line in (*verdict.stale[:1], *verdict.stale_pages[:1])]
    assert verdict.stale
    assert verdict.stale_pages
