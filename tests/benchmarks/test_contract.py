"""Every compared target keeps one contract.

Peers are skipped unless their packages are installed; ``python -m benchmarks.contract`` installs
them.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.contract import deviations
from benchmarks.mechanisms import MECHANISMS, Mechanism, without
from benchmarks.stand import Stand, TargetFailed
from benchmarks.targets import COMPARED, OURS, Target


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("stand")) as started:
        yield started


@pytest.mark.parametrize("target", COMPARED, ids=lambda target: target.name)
def test_target_keeps_the_contract(target: Target, stand: Stand) -> None:
    if not target.is_installed:
        pytest.skip(f"{target.label} is not installed")
    assert deviations(stand, target) == []


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda mechanism: mechanism.name)
def test_service_keeps_the_contract_without_a_mechanism(
    mechanism: Mechanism, stand: Stand, tmp_path: Path
) -> None:
    folder = without(mechanism, tmp_path)
    assert mechanism.code not in (folder / "app.py").read_text("utf-8")
    assert deviations(stand, replace(OURS, folder=folder)) == []


def test_target_that_does_not_start_is_reported_with_its_log(stand: Stand, tmp_path: Path) -> None:
    broken = replace(OURS, command=("{bin}/python", "-c", "raise SystemExit('no such thing')"))
    with (
        pytest.raises(TargetFailed, match="no such thing"),
        stand.serve(broken, 25, tmp_path / "log"),
    ):
        pass
