"""The fault tests: their stage, and the table of figures at the end.

Each test of a row of the fault table is marked with its name, ``@pytest.mark.row("...")``, and
fills in the figures of the ``row`` that it is given.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness.figures import Row, table
from tests.faults.harness.stage import Stage, set_up

ROWS = pytest.StashKey[list[Row]]()
ROW = pytest.StashKey[Row]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line a request, of thousands


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    marker = request.node.get_closest_marker("row")
    assert marker is not None, "a test with figures says which row of the fault table it is"
    server = request.getfixturevalue("server") if "server" in request.fixturenames else ""
    figures = Row(", ".join(filter(None, (marker.args[0], server))))
    request.config.stash[ROWS].append(figures)
    request.node.stash[ROW] = figures
    return figures


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call" and ROW in item.stash:
        words = {"passed": "holds", "failed": "FAILED", "skipped": "skipped"}
        item.stash[ROW].outcome = words[report.outcome]  # type: ignore[attr-defined]
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if rows := config.stash[ROWS]:
        terminalreporter.section("faults, row by row")
        for line in table(rows):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def session_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with set_up(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture
def stage(session_stage: Stage, tmp_path: Path) -> Iterator[Stage]:
    """Both servers, up, empty and without any fault."""
    session_stage.folder = tmp_path
    session_stage.reset()
    yield session_stage
    session_stage.reset()
