"""Every compared target keeps one contract, and a target that breaks it is noticed.

Peers are skipped unless their packages are installed; ``python -m benchmarks.contract`` installs
them.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from benchmarks.contract import deviations
from benchmarks.load import USERS
from benchmarks.mechanisms import MECHANISMS, Mechanism, without
from benchmarks.stand import Stand, TargetFailed
from benchmarks.targets import BEFORE, COMPARED, FASTAPI, OURS, Target


class Fault(NamedTuple):
    """One line of a peer, its replacement, and a part of the resulting complaint."""

    file: str
    line: str
    replacement: str
    complaint: str


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with Stand(tmp_path_factory.mktemp("stand")) as started:
        yield started


def installed(target: Target) -> Target:
    if not target.is_installed:
        pytest.skip(f"{target.label} is not installed")
    return target


@pytest.mark.parametrize("target", COMPARED, ids=lambda target: target.name)
def test_target_keeps_the_contract(target: Target, stand: Stand) -> None:
    assert deviations(stand, installed(target)) == []


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda mechanism: mechanism.name)
def test_service_keeps_the_contract_without_a_mechanism(
    mechanism: Mechanism, stand: Stand, tmp_path: Path
) -> None:
    assert deviations(stand, replace(OURS, folder=without(mechanism, tmp_path))) == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault("app.py", "await api.state.pages.invalidate()", "pass", "page after POST"),
        Fault("users.py", "canonical_username(user.username)", "user.username", "status is 201"),
        Fault("users.py", "ORDER BY id LIMIT", "ORDER BY id DESC LIMIT", "ids of page 2"),
        Fault("observed.py", '(b"x-request-id", request_id)', '(b"x", b"x")', "has a request id"),
        Fault("observed.py", "access.info(", "access.debug(", "log lines of a request"),
        Fault("schemas.py", "min_length=3", "min_length=1", "'ab'"),
    ],
    ids=lambda fault: fault.complaint,
)
def test_broken_peer_is_noticed(fault: Fault, stand: Stand, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(installed(FASTAPI).folder, folder)
    source = (folder / fault.file).read_text("utf-8")
    assert fault.line in source
    (folder / fault.file).write_text(source.replace(fault.line, fault.replacement), "utf-8")
    found = deviations(stand, replace(FASTAPI, folder=folder))
    assert any(fault.complaint in each for each in found), found


def test_code_before_the_review_lists_all_users(stand: Stand) -> None:
    with stand.serve(installed(BEFORE), 120) as server:
        assert len(httpx.get(server.url + USERS).json()) == 120


def test_target_that_does_not_start_is_reported_with_its_log(stand: Stand, tmp_path: Path) -> None:
    broken = replace(OURS, command=("{bin}/python", "-c", "raise SystemExit('no such thing')"))
    with (
        pytest.raises(TargetFailed, match="no such thing"),
        stand.serve(broken, 25, tmp_path / "log"),
    ):
        pass
