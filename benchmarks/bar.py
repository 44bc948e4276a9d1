"""What was asked of the service, beside what was measured, line by line."""

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.comparisons import (
    Found,
    Sections,
    last_to_first,
    less,
    more,
    results_of,
    to_before,
    to_peer,
    to_smallest,
)
from benchmarks.figures import Label, Results, Spread
from benchmarks.markdown import MISSING, number, table

PAGES = ("cached-10", "cached-100")
WORKLOADS = ("list", "get", "create")
# Beside the peers. What one client alone has of them is its time, and no matter of capacity.
CLIENTS = (10, 50)
# Two medians of the same thing differ by as much.
THE_SAME = 1.1


@dataclass(frozen=True, slots=True)
class Line:
    """One demand: at least, or at most, so much. It must hold for the worst of what was found."""

    title: str
    asked: float
    found: Found
    at_least: bool = True
    per_cent: bool = False

    @property
    def worst(self) -> tuple[str, Spread] | None:
        """What is furthest on the wrong side, and where that was; None if nothing was measured."""
        if not self.found:
            return None
        pick = min if self.at_least else max
        return pick(self.found.items(), key=lambda item: item[1].median)

    @property
    def holds(self) -> bool | None:
        """Whether even the worst is on the right side; None if nothing was measured."""
        if self.worst is None:
            return None
        median = self.worst[1].median
        return median >= self.asked if self.at_least else median <= self.asked

    def row(self) -> list[str]:
        """Return the line of the table."""
        asked = f"{'at least' if self.at_least else 'at most'} {self._text(self.asked)}"
        if self.worst is None:
            return [self.title, asked, MISSING, "not measured"]
        where, (median, low, high) = self.worst
        spread = f" ({self._text(low)}..{self._text(high)})" if low < high else ""
        measured = f"{self._text(median)}{spread}; {where}"
        return [self.title, asked, measured, "yes" if self.holds else "**no**"]

    def _text(self, value: float) -> str:
        return f"{value * 100:.1f} %" if self.per_cent else f"{number(value)} x"


def bar_table(sections: Sections) -> str:
    """Return the table of all demands."""
    lines = [*_beside_before(sections), *_memory(sections), *_beside_peers(sections)]
    lines += [*_granian(sections), *_limit(sections), *_growth(sections)]
    titles = ("bar", "asked", "measured, where it is worst", "holds")
    return table(titles, [line.row() for line in lines], figures=False)


def _beside_before(sections: Sections) -> list[Line]:
    results = results_of(sections, "before")
    opened: Found = {}
    for workload in WORKLOADS:
        opened |= less(to_before(results, "opened", workload))
    lists = to_before(results, "per_second", "list")
    return [
        Line("requests/s of a list, to *before*", 10, lists),
        Line("connections opened, less than *before*", 0.9, opened, per_cent=True),
    ]


def _memory(sections: Sections) -> list[Line]:
    results = results_of(sections, "memory")
    sizes = more(to_smallest(results, "peak_memory_mb", "users", part="by size"))
    turns = more(last_to_first(results, "memory_mb", part="over requests"))
    return [
        Line("peak memory, growth with the table", 0.05, sizes, at_least=False, per_cent=True),
        Line("memory, growth with requests", 0.05, turns, at_least=False, per_cent=True),
    ]


def _beside_peers(sections: Sections) -> list[Line]:
    results = results_of(sections, "peers")
    lines = [
        Line(f"cached page, to {title}", asked, _to_peer(results, ("ours", peer), PAGES))
        for peer, title, asked in (
            ("fastapi", "FastAPI", 1.0),
            ("flask-sqlalchemy", "Flask-SQLAlchemy", 2.0),
            ("django", "Django", 3.0),
        )
    ]
    for workload in ("get", "create", "update", "uncached"):
        found = _to_peer(results, ("ours", "fastapi"), [workload])
        lines.append(Line(f"{workload}, to FastAPI", 0.9, found))
    crowd = to_peer(results, "p99_ms", ("ours", "fastapi"), clients=50)
    return [*lines, Line("p99 of 50 clients, to FastAPI's", 1.0, crowd, at_least=False)]


def _to_peer(results: Results, targets: tuple[str, str], workloads: Iterable[str]) -> Found:
    found: Found = {}
    for clients in CLIENTS:
        found |= to_peer(results, "per_second", targets, workloads, clients=clients)
    return found


def _granian(sections: Sections) -> list[Line]:
    results = results_of(sections, "peers")
    asked = {PAGES: 1.6, ("get",): 1.3, ("create", "update", "uncached"): 1.1}
    return [
        Line(
            f"granian: {', '.join(workloads)}, to FastAPI",
            factor,
            _to_peer(results, ("ours-granian", "fastapi"), workloads),
        )
        for workloads, factor in asked.items()
    ]


def _limit(sections: Sections) -> list[Line]:
    results = results_of(sections, "limit")
    found: Found = {}
    for clients in results.values("clients", target="bare-flask"):
        ours: dict[str, Label] = {"target": "ours", "workload": "cached-10", "clients": clients}
        flask: dict[str, Label] = {"target": "bare-flask", "clients": clients}
        ratio = results.ratio("per_second", ours, flask)
        found |= {f"clients: {clients}": ratio} if ratio else {}
    return [Line("cached page, of a bare Flask constant", 0.8, found, per_cent=True)]


def _growth(sections: Sections) -> list[Line]:
    results = results_of(sections, "growth")
    titles = {
        "first": "first page with its exact total",
        "cursor": "page by cursor",
        "get": "get by id",
        "email": "lookup by email",
    }
    lines = [
        Line(
            f"{title}, growth with the table",
            1.2,
            to_smallest(results, "p50_ms", "users", workload=workload),
            at_least=False,
        )
        for workload, title in titles.items()
    ]
    keys = to_smallest(results, "p50_ms", "keys", workload="create")
    return [*lines, Line("a write, growth with the keys in Redis", THE_SAME, keys, at_least=False)]
