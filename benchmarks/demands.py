"""Demands on the service: limits for ratios, each with the worst ratio that was measured."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.load import TITLES
from benchmarks.mechanisms import MECHANISMS, WORTH
from benchmarks.report import (
    CROWD,
    GROWTH_TITLES,
    MISSING,
    Found,
    Row,
    before_rows,
    figure,
    gain_of,
    grown,
    mechanism_rows,
    number,
    peer_rows,
    table,
)
from benchmarks.results import Results, Spread
from benchmarks.targets import (
    AUTHENTICATED,
    DJANGO,
    EDGE,
    FASTAPI,
    FASTIFY,
    FLASK_SQLALCHEMY,
    OURS,
    OURS_ON_GRANIAN,
    Target,
)

Sections = Mapping[str, Results]

# The least requests/s relative to FastAPI.
LIMITS: Mapping[Target, Mapping[str, float]] = {
    OURS: {"cached": 1.1, "get": 1.1, "create": 0.8, "update": 0.8, "uncached": 0.75, "mix": 0.75},
    OURS_ON_GRANIAN: {"cached": 2, "get": 1.5, "create": 1, "update": 1, "uncached": 1, "mix": 1},
}
FLAT = ("first", "cursor", "get", "email")


@dataclass(frozen=True, slots=True)
class Demand:
    """A limit that the worst of all ratios has to meet."""

    title: str
    limit: float
    found: Found
    at_least: bool = True

    @property
    def holds(self) -> bool | None:
        """Whether the worst ratio meets the limit; None if nothing was measured."""
        if not self.found:
            return None
        median = self._worst[1].median
        return median >= self.limit if self.at_least else median <= self.limit

    @property
    def _worst(self) -> tuple[str, Spread]:
        pick = min if self.at_least else max
        return pick(self.found.items(), key=lambda item: item[1].median)

    def row(self) -> list[str]:
        """Return title, limit, worst ratio and verdict."""
        limit = f"{'at least' if self.at_least else 'at most'} {number(self.limit)}"
        if not self.found:
            return [self.title, limit, MISSING, "not measured"]
        where, spread = self._worst
        return [self.title, limit, f"{figure(spread)}: {where}", "yes" if self.holds else "**no**"]


def demands_table(made: Iterable[Demand]) -> str:
    """Return a row for each demand."""
    rows = [demand.row() for demand in made]
    return table(("demand", "limit", "worst ratio", "holds"), rows).replace("---:", "---")


def all_demands(sections: Sections) -> list[Demand]:
    """Return every demand on the service."""
    return [
        *_beside_peers(sections.get("peers", Results())),
        *_from_the_edge(sections.get("edge", Results())),
        *_authenticated(sections.get("authentication", Results())),
        *promises(sections),
        *_flat(sections.get("growth", Results()), sections.get("memory", Results())),
        *_worthwhile(sections.get("mechanisms", Results())),
    ]


def promises(sections: Sections) -> list[Demand]:
    """Return the demands that repeat the promises of the review."""
    before, growth = sections.get("before", Results()), sections.get("growth", Results())
    lists = _to_before(before, "per_second", ["list"])
    opened = _to_before(before, "opened", TITLES)
    memory = grown(growth, "peak_memory_mb", "users")
    return [
        Demand("requests/s of lists, to before", 10, lists),
        Demand("requests/s of everything, to before", 10, _to_before(before, "per_second", TITLES)),
        Demand("connections opened, to before", 0.1, opened, at_least=False),
        Demand("peak memory, as the table grows", 1.05, memory, at_least=False),
    ]


def _beside_peers(peers: Results) -> list[Demand]:
    rows, made = peer_rows(peers), []
    for ours, limits in LIMITS.items():
        for workload, limit in limits.items():
            of_workload = [row for row in rows if row[1]["workload"] == workload]
            found = _to_peers(peers, "per_second", ours, [FASTAPI], of_workload)
            made.append(Demand(f"{ours.label}: {TITLES[workload]}, to FastAPI", limit, found))
        found = _to_peers(peers, "per_second", ours, [FLASK_SQLALCHEMY, DJANGO], rows)
        made.append(Demand(f"{ours.label}: all, to Flask-SQLAlchemy and Django", 2, found))
        crowd = [row for row in rows if row[1]["clients"] == CROWD]
        found = _to_peers(peers, "p99_ms", ours, [FASTAPI], crowd)
        title = f"{ours.label}: p99 with {CROWD} clients, to FastAPI"
        made.append(Demand(title, 1, found, at_least=False))
    return made


def _from_the_edge(edge: Results) -> list[Demand]:
    rows = [row for row in peer_rows(edge) if row[1]["clients"] != CROWD]
    return [
        Demand(
            f"{EDGE.label}: cached page, to {peer.label}",
            limit,
            _to_peers(edge, "per_second", EDGE, [peer], rows),
        )
        for peer, limit in ((FASTIFY, 2), (FASTAPI, 8))
    ]


def _authenticated(results: Results) -> list[Demand]:
    found = _to_peers(results, "per_second", AUTHENTICATED, [OURS], peer_rows(results))
    return [Demand("requests/s with verified tokens, to without authentication", 0.9, found)]


def _flat(growth: Results, memory: Results) -> list[Demand]:
    times = {
        f"{GROWTH_TITLES[kind]}, {where}": spread
        for kind in FLAT
        for where, spread in grown(growth, "ms", "users", workload=kind).items()
    }
    keys = grown(growth, "ms", "keys")
    used = [each for each in memory.rounds("memory_mb") if each]
    drift = {"all processes": Spread(*[used[-1] / used[0]] * 3)} if used else {}
    return [
        Demand("time of a request, as the table grows", 1.2, times, at_least=False),
        Demand("time of a write, as Redis fills", 1.1, keys, at_least=False),
        Demand("memory, last reading to the first", 1.05, drift, at_least=False),
    ]


def _worthwhile(mechanisms: Results) -> list[Demand]:
    """Return a demand for each mechanism; one worthwhile workload is enough."""
    made = []
    for mechanism in MECHANISMS:
        gains = {
            title: gain
            for title, where in mechanism_rows(mechanisms, mechanism.name)
            if (gain := gain_of(mechanisms, where))
        }
        best = dict(sorted(gains.items(), key=lambda item: item[1].median)[-1:])
        made.append(Demand(f"gain: {mechanism.name}", WORTH, best))
    return made


def _to_peers(
    peers: Results, name: str, ours: Target, others: Sequence[Target], rows: Iterable[Row]
) -> Found:
    found = {}
    for title, where in rows:
        for other in others:
            both = {**where, "target": ours.name}, {**where, "target": other.name}
            if relative := peers.ratio(name, *both):
                found[title if len(others) == 1 else f"{title}, {other.label}"] = relative
    return found


def _to_before(before: Results, name: str, workloads: Container[str]) -> Found:
    found = {}
    for title, where in before_rows(before):
        both = {**where, "target": OURS.name}, {**where, "target": "before"}
        if where["workload"] in workloads and (relative := before.ratio(name, *both)):
            found[title] = relative
    return found
