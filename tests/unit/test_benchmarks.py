"""The benchmark turns measurements into tables, verdicts and documents."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import documents
from benchmarks.__main__ import SECTIONS
from benchmarks.calls import Counter
from benchmarks.load import MIX
from benchmarks.report import TABLES, number
from benchmarks.results import RESULTS, Results, load_all
from benchmarks.targets import OURS


def test_failed_round_is_listed_and_counts_in_no_ratio() -> None:
    results = Results()
    for ours in (None, 30.0, 50.0):
        results.add({"per_second": ours, "failed": float(ours is None)}, target="ours")
        results.add({"per_second": 10.0, "failed": 0.0}, target="fastapi")
    ratio = results.ratio("per_second", "target", "ours", "fastapi")
    assert ratio == (4.0, 3.0, 5.0)
    assert results.failures() == ["target ours: 1 of 3 rounds failed"]


@pytest.mark.parametrize("document", documents.DOCUMENTS, ids=lambda path: path.name)
def test_documents_show_the_saved_results(document: Path) -> None:
    made = documents.parts(load_all(RESULTS))
    for name, shown in documents.parts_of(document.read_text(encoding="utf-8")).items():
        if name != "calls":
            assert name in documents.NAMES
            assert shown == made.get(name, "")


def test_example_of_the_sizing_page_has_the_measured_rate() -> None:
    peers = load_all(RESULTS)["peers"]
    rate = peers.spread("per_second", target=OURS.name, workload=MIX.name, clients=10)
    assert rate is not None
    text = (documents.ROOT / "docs" / "sizing.md").read_text(encoding="utf-8")
    assert f"on gunicorn: *r* = {number(rate.median)}," in text


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
        documents.parts_of("")
    assert counter.count == (2, 1)
