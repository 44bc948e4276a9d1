"""What the benchmark makes of its measurements: figures, tables, verdicts, documents."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import against_peers, before_after, documents, report
from benchmarks.bar import Line, bar_table
from benchmarks.bench import in_turn
from benchmarks.comparisons import last_to_first, less, more, to_before, to_peer, to_smallest
from benchmarks.documents import DOCUMENTS
from benchmarks.figures import Results, Spread
from benchmarks.load import Load, report_of
from benchmarks.markdown import figure, number, ratio, share, table
from benchmarks.measure import figures_of
from benchmarks.plan import FULL, QUICK, remaining
from benchmarks.report_before import promises_table
from benchmarks.report_limit import layers_table
from benchmarks.report_peers import ratios_table
from benchmarks.restart import Sent
from benchmarks.restart import figures as restart_figures
from benchmarks.saved import RESULTS, Saved, load_all, save
from benchmarks.sections import SECTIONS
from benchmarks.statements import statements_in
from benchmarks.targets import OURS, TARGETS


def results_of(*rounds: tuple[Mapping[str, float | None], Mapping[str, str | int]]) -> Results:
    results = Results()
    for figures, labels in rounds:
        results.add(figures, **labels)
    return results


def peers(ours: list[float | None], theirs: list[float | None], clients: int = 10) -> Results:
    results = Results()
    for target, rounds in (("ours", ours), ("fastapi", theirs)):
        for value in rounds:
            figures = {"per_second": value, "p99_ms": value}
            results.add(figures, target=target, workload="get", clients=clients)
    return results


def test_spread_is_median_and_range_of_the_valid_rounds() -> None:
    assert Spread.of([3.0, None, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert Spread.of([None]) is None


def test_ratio_is_the_median_of_ratios_within_a_round_and_not_that_of_medians() -> None:
    # A slow second round meets both alike: the ratio is 2 in every round.
    results = peers([200.0, 20.0, 400.0], [100.0, 10.0, 200.0])
    found = to_peer(results, "per_second", ("ours", "fastapi"))
    assert found == {"get, clients: 10": Spread(2.0, 2.0, 2.0)}


def test_round_that_failed_on_either_side_does_not_count() -> None:
    results = peers([None, 30.0, 50.0], [10.0, None, 10.0])
    found = to_peer(results, "per_second", ("ours", "fastapi"))
    assert found["get, clients: 10"] == (5.0, 5.0, 5.0)


def test_cell_without_a_valid_round_is_shown_as_missing_and_in_the_list_of_invalid_ones() -> None:
    results = results_of(
        ({"per_second": None, "failed": 3.0}, {"target": "ours", "workload": "get", "clients": 1})
    )
    assert figure(results.spread("per_second", target="ours")) == "–"
    listed = report.invalid_rounds({"peers": Saved("peers", {}, results)})
    assert listed == "- peers: target ours, workload get, clients 1: 1 of 1 rounds"


def test_figure_of_more_than_one_cell_is_refused() -> None:
    results = results_of(({"p50_ms": 1.0}, {"users": 1}), ({"p50_ms": 2.0}, {"users": 2}))
    with pytest.raises(LookupError):
        results.rounds("p50_ms")


def test_results_survive_being_saved(tmp_path: Path) -> None:
    saved = Saved("peers", {"date": "2026-01-01"}, peers([1.23456789, None], [1.0, 1.0]))
    save(saved, tmp_path)
    loaded = load_all(tmp_path)["peers"]
    assert loaded.about == saved.about
    assert loaded.results.rounds("per_second", target="ours") == [1.2346, None]
    assert [cell.labels for cell in loaded.results.cells] == [
        cell.labels for cell in saved.results.cells
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.1234, "0.123"),
        (1.005, "1.00"),
        (9.99, "9.99"),
        (12.34, "12.3"),
        (1234.5, "1,234"),
    ],
)
def test_number_has_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_figures_show_their_spread_if_there_is_one() -> None:
    assert ratio(Spread(1.25, 1.2, 1.31)) == "**1.25** (1.20..1.31)"
    assert figure(Spread(5, 5, 5), " ms") == "5.00 ms"
    assert share(Spread(0.25, 0.24, 0.26)) == "25.0 % (24.0..26.0)"


def test_table_is_markdown() -> None:
    assert table(("a", "b"), [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_demand_is_held_to_the_worst_that_was_found() -> None:
    found = {"here": Spread(2, 1, 3), "there": Spread(0.9, 0.8, 1)}
    at_least = Line("faster", 1.0, found)
    assert at_least.holds is False
    assert at_least.row() == ["faster", "at least 1.00 x", "0.9 x (0.8 x..1.00 x); there", "**no**"]
    at_most = Line("slower", 2.0, found, at_least=False)
    assert at_most.holds is True
    assert at_most.row()[2:] == ["2.00 x (1.00 x..3.00 x); here", "yes"]


def test_demand_is_held_to_the_median_and_not_to_the_spread() -> None:
    assert Line("faster", 1.0, {"here": Spread(1.0, 0.5, 2)}).holds is True


def test_demand_of_which_nothing_was_measured_neither_holds_nor_fails() -> None:
    line = Line("faster", 1.0, {})
    assert line.holds is None
    assert line.row()[-1] == "not measured"


def test_bar_compares_with_fastapi_by_workload_and_p99_for_the_crowd_alone() -> None:
    sections = {"peers": Saved("peers", {}, peers([80.0], [100.0], clients=50))}
    rows = {line.split(" | ")[0]: line for line in bar_table(sections).splitlines()}
    assert (
        "| get, to FastAPI | at least 0.9 x | 0.8 x; get, clients: 50 | **no** |" in rows.values()
    )
    assert rows["| p99 of 50 clients, to FastAPI's"].endswith("| yes |")
    assert rows["| create, to FastAPI"].endswith("| not measured |")


def test_second_server_of_the_service_has_a_table_beside_the_default_and_the_peers() -> None:
    results = peers([100.0], [80.0])
    labels: dict[str, str | int] = {"workload": "get", "clients": 10}
    results.add({"per_second": 200.0}, target="ours-other", **labels)
    title, _, row = ratios_table(results, ours="ours-other").splitlines()
    assert title == "| workload | this service | FastAPI, asyncpg |"
    assert row == "| get by id, clients: 10 | **2.00** | **2.50** |"


def test_service_is_measured_on_each_of_its_servers_and_the_default_is_called_ours() -> None:
    assert OURS[0] == "ours"
    assert TARGETS["ours"].environment["SERVER"] == "gunicorn"
    assert set(OURS) <= set(against_peers.TARGETS)


@pytest.mark.parametrize(("answered", "has_times"), [(49, False), (50, True)])
def test_times_are_those_of_all_clients_or_of_none(answered: int, *, has_times: bool) -> None:
    seen = Load(answered, seconds=2.0, p50_ms=10.0, p99_ms=20.0, failed=0)
    figures = figures_of(seen, used=1.0, clients=50, handled=answered)
    assert figures["per_second"] == answered / 2
    assert (figures["p50_ms"] is not None) == has_times


@pytest.mark.parametrize(("answered", "failed"), [(100, 1), (0, 0)])
def test_round_with_a_failure_or_without_an_answer_has_no_figures(
    answered: int, failed: int
) -> None:
    seen = Load(answered, seconds=2.0, p50_ms=10.0, p99_ms=20.0, failed=failed)
    figures = figures_of(seen, used=1.0, clients=1, handled=answered, failed=failed)
    assert figures.pop("failed") == 1
    assert set(figures.values()) == {None}


def test_before_is_compared_for_each_size_and_number_of_clients() -> None:
    labels: dict[str, str | int] = {"workload": "list", "users": 1000, "clients": 1}
    results = results_of(
        ({"per_second": 100.0, "opened": 0.0}, {**labels, "target": "ours"}),
        ({"per_second": 5.0, "opened": 2000.0}, {**labels, "target": "before"}),
    )
    where = "list, 1,000 users, clients: 1"
    assert to_before(results, "per_second", "list") == {where: Spread(20, 20, 20)}
    assert less(to_before(results, "opened", "list")) == {where: Spread(1, 1, 1)}


def test_growth_is_that_over_the_smallest() -> None:
    results = results_of(
        ({"p50_ms": 2.0}, {"users": 10, "workload": "get"}),
        ({"p50_ms": 3.0}, {"users": 1000, "workload": "get"}),
    )
    found = to_smallest(results, "p50_ms", "users", workload="get")
    assert found == {"1,000 users": Spread(1.5, 1.5, 1.5)}
    assert more(found) == {"1,000 users": Spread(0.5, 0.5, 0.5)}


def test_drift_of_memory_is_the_last_turn_to_the_first() -> None:
    results = results_of(*(({"memory_mb": mb}, {"part": "x"}) for mb in (50.0, 70.0, 51.0)))
    (drift,) = last_to_first(results, "memory_mb", part="x").values()
    assert drift.median == pytest.approx(1.02)


def test_connections_are_counted_per_thousand_requests_and_their_time_is_a_share() -> None:
    handled: dict[str, float | None] = {"handled": 200.0, "per_second": 100.0}
    opened = before_after.Connections(200.0, 100.0)
    figures = before_after.connecting(handled, opened, before_after.Connections(4.0, 2.0))
    assert figures["postgres_opened"] == 1000
    assert figures["redis_opened"] == 500
    # A request takes 10 ms: 4 ms for PostgreSQL, and 2 ms for Redis every second time.
    assert figures["connecting_share"] == pytest.approx(0.5)


def test_layers_are_differences_and_what_is_left_over_is_the_rest() -> None:
    us = {"middleware": 250, "redis": 300, "redis-miss": 340, "sql-user": 330}
    us |= {"sql-page": 500, "page": 530}
    us |= {"cached-10": 350, "uncached": 700, "get": 400}
    results = results_of(
        ({"cpu_us": 100.0}, {"target": "bare-wsgi", "workload": "constant"}),
        ({"cpu_us": 200.0}, {"target": "bare-flask", "workload": "constant"}),
        *(
            ({"cpu_us": float(each)}, {"target": "layered", "workload": name})
            for name, each in us.items()
        ),
    )
    lines = layers_table(results).splitlines()
    assert "| Redis | 50.0 | – | – |" in lines
    assert "| Redis: look-up, claim and store of a miss | – | 90.0 | – |" in lines
    assert "| SQL, a user | – | – | 80.0 |" in lines
    # Of 350, the server, the middleware and Redis took 200; of 700, with Flask, SQL and JSON, 620.
    assert "| validation, headers, the rest | 150 | 80.0 | 170 |" in lines


def test_restart_tells_those_sent_meanwhile_from_those_sent_afterwards() -> None:
    sent = [
        Sent("get", 0.5, 0.6, succeeded=True),
        Sent("get", 1.5, 4.0, succeeded=True),
        Sent("get", 2.0, 2.1, succeeded=False),
        Sent("get", 3.5, 3.6, succeeded=True),
    ]
    figures = restart_figures(sent, stopped=1.0, back=3.0)
    assert (figures["failed_during"], figures["failed_after"]) == (0.5, 0.0)
    assert figures["longest_ms"] == 2500


@pytest.mark.parametrize(
    ("ours", "after", "verdict"),
    [((0.2, 0.3), 0.0, "yes"), ((0.2, 0.6), 0.0, "**no**"), ((0.2, 0.3), 0.1, "**no**")],
)
def test_resilience_is_better_if_it_was_in_every_round_and_afterwards_too(
    ours: tuple[float, float], after: float, verdict: str
) -> None:
    results = Results()
    for target, rounds, later in (("before", (0.6, 0.7), 0.0), ("ours", ours, after)):
        for value in rounds:
            shares = {"failed_during": value, "failed_after": later}
            results.add(shares, target=target, workload="all")
    sections = {"restart": Saved("restart", {}, results), "before": Saved("before", {}, Results())}
    assert promises_table(sections).splitlines()[-1].endswith(f"| {verdict} |")


def test_every_kind_of_failure_counts() -> None:
    line = (
        '{"requests": 10, "microseconds": 2000000, "p50": 1500, "p99": 9000, "connect": 1,'
        ' "read": 2, "write": 3, "status": 4, "timeout": 5}'
    )
    load = report_of(f"Running 2s test\nsomething\n{line}\n")
    assert (load.per_second, load.p50_ms, load.p99_ms, load.failed) == (5.0, 1.5, 9.0, 15)


def test_statements_are_read_from_the_log_of_postgresql() -> None:
    log = (
        "2026-01-01 00:00:00.000 UTC [7] LOG:  statement: BEGIN\n"
        "2026-01-01 00:00:00.001 UTC [7] LOG:  statement: \n"
        "\t            SELECT 1\n"
        "\t            FROM users\n"
        "2026-01-01 00:00:00.002 UTC [7] LOG:  checkpoint starting: time\n"
        "2026-01-01 00:00:00.003 UTC [7] LOG:  statement: COMMIT\n"
    )
    begin, select, commit = statements_in(log)
    assert (begin, commit) == ("BEGIN", "COMMIT")
    assert select.split() == ["SELECT", "1", "FROM", "users"]
    assert "\t" not in select


def test_turns_are_in_every_order_and_the_same_in_every_run() -> None:
    orders = [in_turn("abc", number) for number in range(50)]
    assert len({tuple(order) for order in orders}) == 6
    assert orders == [in_turn("abc", number) for number in range(50)]


def test_what_is_left_is_scaled_by_how_slow_it_went_so_far() -> None:
    assert remaining(100, 0, 3) == 100
    assert remaining(100, 50, 100) == 100
    assert remaining(100, 50, 25) == 50
    assert remaining(100, 120, 100) == 0


def test_quick_run_takes_about_six_minutes_and_full_one_about_an_hour() -> None:
    quick, full = (sum(each.expected_seconds(e) for each in SECTIONS) for e in (QUICK, FULL))
    assert 240 < quick < 400
    assert 50 * 60 < full < 70 * 60


def test_table_is_put_between_its_marks_and_nothing_else_is_touched() -> None:
    text = (
        "a\n<!-- benchmark:one -->\nold\n<!-- /benchmark -->\n"
        "b\n<!-- benchmark:two -->\n<!-- /benchmark -->\n"
    )
    new = documents.rewritten(text, {"one": "| x |"})
    assert documents.regions(new) == {"one": "| x |", "two": ""}
    assert documents.rewritten(new, {"one": "| x |"}) == new
    assert new.startswith("a\n")
    assert new.count("<!-- /benchmark -->") == 2


def test_links_of_a_table_lead_from_the_document_that_it_is_in() -> None:
    tables = {"plot": "![a](benchmarks/results/a.svg) and [b](https://example.com/)"}
    assert documents.seen_from(documents.ROOT / "README.md", tables) == tables
    assert documents.seen_from(documents.ROOT / "docs" / "benchmarks.md", tables) == {
        "plot": "![a](../benchmarks/results/a.svg) and [b](https://example.com/)"
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tables_in_the_documents_are_those_that_the_results_make(document: Path) -> None:
    regions = documents.seen_from(document, report.regions(load_all(RESULTS)))
    for name, shown in documents.regions(document.read_text(encoding="utf-8")).items():
        assert name in report.NAMES
        assert shown == regions.get(name, "")


def test_page_of_results_is_the_one_that_the_results_make() -> None:
    sections = load_all(RESULTS)
    if sections:
        page = (RESULTS / "README.md").read_text(encoding="utf-8")
        assert page == report.page(sections)


def test_every_plot_of_the_documents_is_drawn(tmp_path: Path) -> None:
    plots = pytest.importorskip("benchmarks.plots", exc_type=ModuleNotFoundError)
    assert plots.PLOTS.keys() == report.PLOTS.keys()
    plots.draw({"peers": Saved("peers", {}, peers([80.0, None], [100.0, 90.0]))}, tmp_path)
    (drawn,) = tmp_path.iterdir()
    assert drawn.name == "peers.svg"
    assert "FastAPI" in drawn.read_text(encoding="utf-8")
