"""Demands on the service: limits for ratios, each with the worst ratio that was measured."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.growth import KINDS
from benchmarks.load import CROWD, FEW, LIST, TITLES
from benchmarks.mechanisms import MECHANISMS, WITH, WITHOUT, WORTH
from benchmarks.report import MISSING, Found, compared, figure, grown, number, table
from benchmarks.results import Label, Results, Spread
from benchmarks.targets import (
    AUTHENTICATED,
    BEFORE,
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

    def row(self) -> list[str]:
        """Return title, limit, worst ratio and verdict."""
        limit = f"{'at least' if self.at_least else 'at most'} {number(self.limit)}"
        if not self.found:
            return [self.title, limit, MISSING, "not measured"]
        worst = min if self.at_least else max
        where, spread = worst(self.found.items(), key=lambda item: item[1].median)
        holds = spread.median >= self.limit if self.at_least else spread.median <= self.limit
        return [self.title, limit, f"{figure(spread)}: {where}", "yes" if holds else "**no**"]


def demands_table(made: Iterable[Demand]) -> str:
    """Return a row for each demand."""
    rows = [demand.row() for demand in made]
    return table(("demand", "limit", "worst ratio", "holds"), rows).replace("---:", "---")


def all_demands(sections: Sections) -> list[Demand]:
    """Return every demand on the service."""
    authentication = sections.get("authentication", Results())
    verified = _ratios(authentication, "per_second", AUTHENTICATED, OURS)
    return [
        *_beside_peers(sections.get("peers", Results())),
        *_from_the_edge(sections.get("edge", Results())),
        Demand("requests/s with verified tokens, to without authentication", 0.9, verified),
        *promises(sections),
        *_flat(sections.get("growth", Results()), sections.get("memory", Results())),
        *_worthwhile(sections.get("mechanisms", Results())),
    ]


def promises(sections: Sections) -> list[Demand]:
    """Return the demands that repeat the promises of the review."""
    before, growth = sections.get("before", Results()), sections.get("growth", Results())
    lists = _ratios(before, "per_second", OURS, BEFORE, workload=LIST.name)
    everything = _ratios(before, "per_second", OURS, BEFORE)
    opened = _ratios(before, "opened", OURS, BEFORE)
    memory = grown(growth, "peak_memory_mb", "users")
    return [
        Demand("requests/s of lists, to before", 10, lists),
        Demand("requests/s of everything, to before", 10, everything),
        Demand("connections opened, to before", 0.1, opened, at_least=False),
        Demand("peak memory, as the table grows", 1.05, memory, at_least=False),
    ]


def _beside_peers(peers: Results) -> list[Demand]:
    made = []
    for ours, limits in LIMITS.items():
        for workload, limit in limits.items():
            found = _ratios(peers, "per_second", ours, FASTAPI, workload=workload)
            made.append(Demand(f"{ours.label}: {TITLES[workload]}, to FastAPI", limit, found))
        found = {
            f"{title}, {peer.label}": ratio
            for peer in (FLASK_SQLALCHEMY, DJANGO)
            for title, ratio in _ratios(peers, "per_second", ours, peer).items()
        }
        made.append(Demand(f"{ours.label}: all, to Flask-SQLAlchemy and Django", 2, found))
        found = _ratios(peers, "p99_ms", ours, FASTAPI, clients=CROWD)
        title = f"{ours.label}: p99 with {CROWD} clients, to FastAPI"
        made.append(Demand(title, 1, found, at_least=False))
    return made


def _from_the_edge(edge: Results) -> list[Demand]:
    made = []
    for peer, limit in ((FASTIFY, 2), (FASTAPI, 8)):
        found = _ratios(edge, "per_second", EDGE, peer, clients=FEW)
        made.append(Demand(f"{EDGE.label}: cached page, to {peer.label}", limit, found))
    return made


def _flat(growth: Results, memory: Results) -> list[Demand]:
    times = {
        f"{KINDS[kind]}, {where}": spread
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
        gains = _ratios(mechanisms, "per_second", WITH, WITHOUT, mechanism=mechanism.name)
        best = dict(sorted(gains.items(), key=lambda item: item[1].median)[-1:])
        made.append(Demand(f"gain: {mechanism.name}", WORTH, best))
    return made


def _ratios(results: Results, name: str, of: Target, to: Target, **labels: Label) -> Found:
    """Return the ratios of two targets in each workload that they got in turn."""
    return {
        title: ratio
        for title, where in compared(results, **labels)
        if (ratio := results.ratio(name, "target", of.name, to.name, **where))
    }
