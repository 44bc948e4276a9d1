"""The fault tests: their stage, and the table of figures at the end.

Each test of a row of the fault table is marked with its name, ``@pytest.mark.row("...")``, and
fills in the figures of the ``row`` that it is given.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.harness.figures import Row, table
from tests.faults.harness.stage import Stage, set_up

ROWS = pytest.StashKey[list[Row]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line a request, of thousands


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Show a line while the test runs, if somebody wants to see progress (``-v``)."""
    config = request.config
    capture = config.pluginmanager.getplugin("capturemanager")
    reporter = config.pluginmanager.getplugin("terminalreporter")

    def show(line: str) -> None:
        if config.option.verbose > 0 and reporter is not None and capture is not None:
            with capture.global_and_fixture_disabled():
                reporter.ensure_newline()
                reporter.write_line(f"    {line}")

    return show


@pytest.fixture
def row(request: pytest.FixtureRequest, say: Callable[[str], None]) -> Iterator[Row]:
    marker = request.node.get_closest_marker("row")
    assert marker is not None, "a test with figures says which row of the fault table it is"
    name = str(marker.args[0])
    if "server" in request.fixturenames:
        name += f", {request.getfixturevalue('server')}"
    figures = Row(name, outcome="FAILED")
    request.config.stash[ROWS].append(figures)
    yield figures
    figures.outcome = getattr(request.node, "outcome", "FAILED")
    for line in table([figures])[1:]:
        say(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        words = {"passed": "holds", "failed": "FAILED", "skipped": "skipped"}
        item.outcome = words[report.outcome]  # type: ignore[attr-defined]
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    rows = config.stash[ROWS]
    if rows:
        terminalreporter.section("faults, row by row")
        for line in table(rows):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def session_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with set_up(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture
def stage(session_stage: Stage, tmp_path: Path, say: Callable[[str], None]) -> Iterator[Stage]:
    """Both servers, up, empty and without any fault."""
    session_stage.folder, session_stage.say = tmp_path, say
    session_stage.reset()
    yield session_stage
    session_stage.reset()
