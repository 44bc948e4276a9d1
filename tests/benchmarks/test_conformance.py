"""What the benchmark compares keeps one contract, and the check of that can fail.

Of the peers, those are tried whose packages are there: ``python -m benchmarks.conformance``
installs them, and so does ``make bench``, which measures nothing before all keep the contract.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.conformance import conformance, seed, session_now
from benchmarks.targets import TARGETS, Target, is_installed, serving
from tests.servers import Servers


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Target:
    chosen = TARGETS[request.param]
    if not is_installed(chosen):
        pytest.skip(f"{chosen.label} is not installed: python -m benchmarks.conformance does it")
    return chosen


@pytest.mark.parametrize("target", list(TARGETS), indirect=True)
def test_target_keeps_the_contract(target: Target, servers: Servers, tmp_path: Path) -> None:
    answers, complaints = conformance(target, servers, tmp_path)
    assert complaints == []
    assert answers > 10


@pytest.mark.parametrize("target", ["before"], indirect=True)
def test_what_came_before_does_not_keep_it(
    target: Target, servers: Servers, tmp_path: Path
) -> None:
    seed(servers)
    log = tmp_path / "log"
    with serving(target, servers.database_url, servers.redis_url, log=log) as (url, _):
        complaints = "\n".join(session_now(url, log).complaints)
    assert "content type is 'application/json', not 'application/problem+json'" in complaints


class Fault(NamedTuple):
    """One line of a target, what it is replaced by, and what is then complained of."""

    file: str
    line: str
    instead: str
    complaint: str


@pytest.mark.parametrize("target", ["fastapi"], indirect=True)
@pytest.mark.parametrize(
    "fault",
    [
        Fault("app.py", "await api.state.pages.invalidate()", "pass", "page after POST"),
        Fault("users.py", "canonical_username(user.username)", "user.username", "status is 201"),
        Fault("users.py", "ORDER BY id LIMIT", "ORDER BY id DESC LIMIT", "ids of page 2"),
        Fault("observed.py", '(b"x-request-id", request_id)', '(b"x", b"x")', "has a request id"),
        Fault("observed.py", "access.info(", "access.debug(", "number of lines in the log"),
        Fault("schemas.py", "min_length=3", "min_length=1", "'ab'"),
    ],
    ids=lambda fault: fault.complaint,
)
def test_broken_target_is_found(
    target: Target, fault: Fault, servers: Servers, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(target.folder, folder)
    source = (folder / fault.file).read_text("utf-8")
    assert fault.line in source
    (folder / fault.file).write_text(source.replace(fault.line, fault.instead), "utf-8")
    broken = Target(target.name, "a broken one", folder, target.command)
    _, complaints = conformance(broken, servers, tmp_path)
    assert any(fault.complaint in each for each in complaints), complaints
