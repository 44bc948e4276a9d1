"""The benchmark turns measurements into tables, verdicts and documents."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import documents
from benchmarks.__main__ import SECTIONS
from benchmarks.calls import Counter
from benchmarks.load import load_from
from benchmarks.mechanisms import MECHANISMS, Mechanism, without
from benchmarks.profile import parts_of
from benchmarks.report import TABLES
from benchmarks.results import RESULTS, Label, Results, Spread, load_all
from benchmarks.targets import SERVICE


def compared(ours: list[float | None], theirs: list[float | None]) -> Results:
    """Return rounds of getting users by id, of the service and of FastAPI."""
    results = Results({"date": "2026-01-01"})
    for target, rounds in (("ours", ours), ("fastapi", theirs)):
        for value in rounds:
            figures = {"per_second": value, "failed": float(value is None)}
            results.add(figures, target=target, workload="get", clients=10)
    return results


LINE = (
    '{"requests": 10, "microseconds": 2000000, "p99": 9000, "connect": 1, "read": 2,'
    ' "write": 3, "status": 4, "timeout": 5}'
)


def ratio_of(results: Results) -> Spread | None:
    where: dict[str, Label] = {"workload": "get", "clients": 10}
    return results.ratio("per_second", {**where, "target": "ours"}, {**where, "target": "fastapi"})


def test_ratio_is_the_median_of_the_ratios_within_each_round_that_did_not_fail() -> None:
    # The second round is slow for both; its ratio is the same.
    assert ratio_of(compared([200.0, 20.0, 400.0], [100.0, 10.0, 200.0])) == (2.0, 2.0, 2.0)
    results = compared([None, 30.0, 50.0], [10.0, None, 10.0])
    assert ratio_of(results) == (5.0, 5.0, 5.0)
    assert results.failures() == [
        "target ours, workload get, clients 10: 1 of 3 rounds failed",
        "target fastapi, workload get, clients 10: 1 of 3 rounds failed",
    ]
    assert ratio_of(compared([None], [1.0])) is None


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda mechanism: mechanism.name)
def test_mechanism_is_removed_by_its_edits(mechanism: Mechanism, tmp_path: Path) -> None:
    copy = without(mechanism, tmp_path)
    for edit in mechanism.edits:
        source = (copy / edit.file).read_text("utf-8")
        assert edit.lines not in source
        compile(source, edit.file, "exec")


def test_every_kind_of_failure_counts() -> None:
    seen = load_from(f"Running 2s test\nsomething\n{LINE}\n")
    assert (seen.requests, seen.seconds, seen.p99_ms, seen.failed) == (10, 2.0, 9.0, 15)


def test_part_replaces_the_text_between_its_marks_only() -> None:
    text = "a\n<!-- benchmark:{} -->\n\n{}\n\n<!-- /benchmark -->\n"
    old, new = text.format("one", "old"), text.format("one", "| x |")
    other = text.format("two", "kept")
    assert documents.rewritten(old + other, {"one": "| x |"}) == new + other
    assert documents.parts_of(new + other) == {"one": "| x |", "two": "kept"}


@pytest.mark.parametrize("document", documents.DOCUMENTS, ids=lambda path: path.name)
def test_documents_show_the_saved_results(document: Path) -> None:
    made = documents.linked_from(document, documents.parts(load_all(RESULTS)))
    for name, shown in documents.parts_of(document.read_text(encoding="utf-8")).items():
        if name != "calls":
            assert name in documents.NAMES
            assert shown == made.get(name, "")


def test_every_table_has_a_section_and_a_place_in_the_documents() -> None:
    texts = [path.read_text(encoding="utf-8") for path in documents.DOCUMENTS]
    assert set().union(*map(documents.parts_of, texts)) >= documents.NAMES
    assert {section for section, _ in TABLES.values()} == set(SECTIONS)


def test_counted_calls_are_those_of_functions_in_the_folder() -> None:
    @contextmanager
    def surrounded() -> Iterator[None]:
        yield

    def called() -> int:
        return sum(each for each in [1, 2])

    with Counter(Path(__file__).parent) as counter:
        # Entering and leaving a context manager is one call of its function.
        with surrounded():
            called()
        load_from(LINE)
    assert counter.count == (2, 1)


def test_sample_belongs_to_the_library_of_its_innermost_frame() -> None:
    packages = "/v/lib/python3.13/site-packages"
    view = f"view ({SERVICE}/user_service/web/api/users.py:9)"
    samples = [
        f"{view} 4",
        f"{view};execute_command ({packages}/redis/client.py:1);pack (/usr/lib/struct.py:2) 3",
        f"{view};Cursor.execute ({SERVICE}/user_service/database/connections.py:30) 2",
        f"{view};info (/usr/lib/logging/__init__.py:3) 1",
        f"run ({packages}/gevent/threadpool.py:1);wait (/usr/lib/threading.py:1) 90",
    ]
    shares = {"this service": 0.4, "redis-py": 0.3, "psycopg2": 0.2, "logging": 0.1}
    assert parts_of(samples) == shares
