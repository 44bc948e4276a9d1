"""The benchmark turns measurements into tables, verdicts and documents."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import documents
from benchmarks.__main__ import SECTIONS
from benchmarks.calls import Counter
from benchmarks.demands import Demand, all_demands
from benchmarks.load import load_from
from benchmarks.mechanisms import MECHANISMS, Mechanism, without
from benchmarks.profile import parts_of
from benchmarks.report import (
    TABLES,
    figure,
    mechanisms_table,
    number,
    ratio,
    ratios_table,
)
from benchmarks.results import RESULTS, Label, Results, Spread, load_all, save
from benchmarks.targets import OURS, SERVICE


def compared(ours: list[float | None], theirs: list[float | None], clients: int = 10) -> Results:
    """Return rounds of getting users by id, of the service and of FastAPI."""
    results = Results({"date": "2026-01-01"})
    for target, rounds in (("ours", ours), ("fastapi", theirs)):
        for value in rounds:
            figures = {"per_second": value, "p99_ms": value, "failed": float(value is None)}
            results.add(figures, target=target, workload="get", clients=clients)
    return results


def verdicts(demands: list[Demand]) -> dict[str, bool | None]:
    return {demand.title: demand.holds for demand in demands if demand.found}


def ratio_of(results: Results) -> Spread | None:
    where: dict[str, Label] = {"workload": "get", "clients": 10}
    return results.ratio("per_second", {**where, "target": "ours"}, {**where, "target": "fastapi"})


def test_ratio_is_the_median_of_the_ratios_within_each_round() -> None:
    # The second round is slow for both; its ratio is the same.
    assert ratio_of(compared([200.0, 20.0, 400.0], [100.0, 10.0, 200.0])) == (2.0, 2.0, 2.0)


def test_round_that_failed_on_either_side_does_not_count_and_is_listed() -> None:
    results = compared([None, 30.0, 50.0], [10.0, None, 10.0])
    assert ratio_of(results) == (5.0, 5.0, 5.0)
    assert results.failures() == [
        "target ours, workload get, clients 10: 1 of 3 rounds failed",
        "target fastapi, workload get, clients 10: 1 of 3 rounds failed",
    ]
    assert ratio_of(compared([None], [1.0])) is None


def test_saved_results_are_read_again(tmp_path: Path) -> None:
    results = compared([1.23456789, None], [1.0, 1.0])
    save("peers", results, tmp_path)
    loaded = load_all(tmp_path)["peers"]
    assert loaded.about == results.about
    assert loaded.rounds("per_second", target="ours") == [1.2346, None]
    assert [cell.labels for cell in loaded.cells] == [cell.labels for cell in results.cells]


def test_figures_have_three_digits_and_show_the_lowest_and_the_highest_round() -> None:
    assert [number(each) for each in (0.1234, 12.34, 1234)] == ["0.123", "12.3", "1,234"]
    assert ratio(Spread(1.25, 1.2, 1.31)) == "**1.25** (1.20..1.31)"
    assert figure(Spread(5, 5, 5)) == "5.00"
    assert figure(None) == "–"


def test_ratio_of_a_server_that_waited_for_something_else_is_marked() -> None:
    results = compared([300.0], [100.0])
    for target, busy in (("ours", 0.99), ("fastapi", 0.5)):
        results.add({"busy": busy}, target=target, workload="get", clients=10)
    assert "| get by id, 10 clients | **3.00** * |" in ratios_table(results, OURS)


def test_demand_is_met_by_the_median_of_the_worst_ratio() -> None:
    found = {"here": Spread(2, 0.5, 3), "there": Spread(0.9, 0.8, 1.2)}
    faster = Demand("faster", 1.0, found)
    assert faster.row() == ["faster", "at least 1.00", "0.9 (0.8..1.20): there", "**no**"]
    assert Demand("slower", 2.0, found, at_least=False).holds is True
    assert Demand("faster", 1.0, {}).row()[-1] == "not measured"


def test_demands_compare_with_fastapi_and_look_at_p99_of_50_clients_only() -> None:
    found = verdicts(all_demands({"peers": compared([80.0], [100.0], clients=50)}))
    assert found == {
        "this service on gunicorn: get by id, to FastAPI": False,
        "this service on gunicorn: p99 with 50 clients, to FastAPI": True,
    }


def test_gain_by_a_mechanism_is_that_of_its_best_workload() -> None:
    mechanism = MECHANISMS[0]
    results = Results()
    for workload, per_second in (("cached", 110.0), ("get", 120.0)):
        for state, value in (("with", per_second), ("without", 100.0)):
            labels = {"mechanism": mechanism.name, "workload": workload, "target": state}
            results.add({"per_second": value}, clients=10, **labels)
    assert f"| {mechanism.name}: get by id, 10 clients, requests/s | 120 | 100 | **1.20** |" in (
        mechanisms_table(results)
    )
    assert verdicts(all_demands({"mechanisms": results})) == {f"gain: {mechanism.name}": True}


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda mechanism: mechanism.name)
def test_mechanism_is_removed_by_its_edits(mechanism: Mechanism, tmp_path: Path) -> None:
    copy = without(mechanism, tmp_path)
    for edit in mechanism.edits:
        source = (copy / edit.file).read_text("utf-8")
        assert edit.lines not in source
        compile(source, edit.file, "exec")


def test_every_kind_of_failure_counts() -> None:
    line = (
        '{"requests": 10, "microseconds": 2000000, "p99": 9000, "connect": 1, "read": 2,'
        ' "write": 3, "status": 4, "timeout": 5}'
    )
    seen = load_from(f"Running 2s test\nsomething\n{line}\n")
    assert (seen.requests, seen.seconds, seen.p99_ms, seen.failed) == (10, 2.0, 9.0, 15)


def test_part_replaces_the_text_between_its_marks_only() -> None:
    text = (
        "a\n<!-- benchmark:one -->\nold\n<!-- /benchmark -->\n"
        "b\n<!-- benchmark:two -->\nkept\n<!-- /benchmark -->\n"
    )
    new = documents.rewritten(text, {"one": "| x |"})
    assert documents.parts_of(new) == {"one": "| x |", "two": "kept"}
    assert documents.rewritten(new, {"one": "| x |"}) == new
    assert new.startswith("a\n")


@pytest.mark.parametrize("document", documents.DOCUMENTS, ids=lambda path: path.name)
def test_documents_show_the_saved_results(document: Path) -> None:
    made = documents.linked_from(document, documents.parts(load_all(RESULTS)))
    for name, shown in documents.parts_of(document.read_text(encoding="utf-8")).items():
        if name != "calls":
            assert name in documents.NAMES
            assert shown == made.get(name, "")


def test_every_table_has_a_section_and_a_place_in_the_documents() -> None:
    shown = {
        name
        for path in documents.DOCUMENTS
        for name in documents.parts_of(path.read_text(encoding="utf-8"))
    }
    assert shown >= documents.NAMES
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
        number(1.0)
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
    assert parts_of(samples) == {
        "this service": 0.4,
        "redis-py": 0.3,
        "psycopg2": 0.2,
        "logging": 0.1,
    }
