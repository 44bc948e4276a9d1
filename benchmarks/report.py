"""Tables of the results in Markdown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from benchmarks.growth import KINDS
from benchmarks.load import CROWD, FEW, TITLES, WORKLOADS
from benchmarks.mechanisms import MECHANISMS, WITH, WITHOUT
from benchmarks.profile import ALL, PROFILED_TARGETS
from benchmarks.results import Label, Results, Spread
from benchmarks.targets import (
    ALL_PEERS,
    AUTHENTICATED,
    BEFORE,
    COMPARED,
    EDGE,
    EDGE_WITH_TLS,
    FASTAPI,
    FASTIFY,
    OURS,
    OURS_ON_GRANIAN,
    Target,
)

Found = dict[str, Spread]
# The title of a row and the labels of its cells.
Row = tuple[str, dict[str, Label]]

MISSING = "–"
# A server that uses less of its core than this waits for the load or for a database.
BUSY = 0.9


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose other columns are figures."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """Return a figure with three significant digits, and all before the point: 0.125, 1,250."""
    if value == 0:
        return "0"
    digits = next((digits for digits, limit in ((2, 10), (1, 100)) if abs(value) < limit), 0)
    return f"{value:.3g}" if abs(value) < 1 else f"{value:,.{digits}f}"


def figure(spread: Spread | None) -> str:
    """Return a figure with its lowest and highest, like ``1,250 (1,200..1,310)``."""
    if spread is None:
        return MISSING
    if spread.low == spread.high:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.low)}..{number(spread.high)})"


def ratio(spread: Spread | None) -> str:
    """Return a ratio with its lowest and highest, like ``**1.25** (1.20..1.31)``."""
    median, *rest = figure(spread).split(" ")
    return " ".join([f"**{median}**", *rest]) if spread else MISSING


# Targets compared in turn.


def summary_table(peers: Results) -> str:
    """Return requests/s with 10 and 50 clients, in one row for each workload."""
    rows = []
    for workload in WORKLOADS:
        row = [workload.title]
        for target in COMPARED:
            where: dict[str, Label] = {"target": target.name, "workload": workload.name}
            spreads = [peers.spread("per_second", **where, clients=n) for n in (FEW, CROWD)]
            row.append(" / ".join(number(each.median) if each else MISSING for each in spreads))
        rows.append(row)
    return table(("requests/s, 10 / 50 clients", *(each.label for each in COMPARED)), rows)


def peers_table(peers: Results, name: str) -> str:
    """Return one figure of every target, in one row for each workload and number of clients."""
    rows = [[title, *figures(peers, name, COMPARED, where)] for title, where in compared(peers)]
    return table(("", *(each.label for each in COMPARED)), rows)


def ratios_table(peers: Results, ours: Target) -> str:
    """Return requests/s relative to each peer; * marks a server that waited for something else."""
    rows = []
    for title, where in compared(peers):
        row = [title]
        for peer in ALL_PEERS:
            spreads = [peers.spread("busy", target=each.name, **where) for each in (ours, peer)]
            waited = any(spread.median < BUSY for spread in spreads if spread)
            row.append(relative(peers, ours, peer, where) + (" *" if waited else ""))
        rows.append(row)
    return table((f"{ours.label}, relative to", *(each.label for each in ALL_PEERS)), rows)


def edge_table(results: Results) -> str:
    """Return requests/s of cached pages from the gateway, and relative to the fastest peers."""
    peers = (FASTIFY, FASTAPI)
    rows = [
        [
            title,
            *figures(results, "per_second", (EDGE, *peers), where),
            *(relative(results, EDGE, peer, where) for peer in peers),
            *figures(results, "p99_ms", (EDGE,), where),
            *figures(results, "per_second", (EDGE_WITH_TLS,), where),
        ]
        for title, where in compared(results)
    ]
    titles = [EDGE.label, *(peer.label for peer in peers), *(f"to {peer.label}" for peer in peers)]
    return table(("requests/s", *titles, "p99, ms", EDGE_WITH_TLS.label), rows)


def authentication_table(results: Results) -> str:
    """Return requests/s with and without authentication, and the ratio of the two."""
    both = (AUTHENTICATED, OURS)
    rows = [
        [title, *figures(results, "per_second", both, where), relative(results, *both, where)]
        for title, where in compared(results)
    ]
    return table(("requests/s", AUTHENTICATED.label, "without", "ratio"), rows)


def before_table(before: Results) -> str:
    """Return requests/s, connections and peak memory, before the review and now."""
    both = (BEFORE, OURS)
    rows = [
        [
            title,
            *figures(before, "per_second", both, where),
            relative(before, OURS, BEFORE, where),
            *figures(before, "opened", both, where),
            *figures(before, "peak_memory_mb", both, where),
        ]
        for title, where in compared(before)
    ]
    titles = ("requests/s before", "now", "ratio", "connections per 1,000 requests before", "now")
    return table(("", *titles, "peak memory before, MB", "now"), rows)


def mechanisms_table(mechanisms: Results) -> str:
    """Return the gain by each mechanism in each of its workloads."""
    both = (WITH, WITHOUT)
    rows = [
        [
            f"{mechanism.name}: {title}, requests/s",
            *figures(mechanisms, "per_second", both, where),
            relative(mechanisms, *both, where),
        ]
        for mechanism in MECHANISMS
        for title, where in compared(mechanisms, mechanism=mechanism.name)
    ]
    return table(("mechanism and workload", "with", "without", "gain"), rows)


def compared(results: Results, **labels: Label) -> list[Row]:
    """Return the workloads with ``labels`` that targets got in turn, in the order measured."""
    rows: list[Row] = []
    for cell in (each for each in results.cells if each.has(labels)):
        where = {name: value for name, value in cell.labels.items() if name != "target"}
        users = f"{where['users']:,} users, " if "users" in where else ""
        row = (f"{TITLES[str(where['workload'])]}, {users}{where['clients']} clients", where)
        if row not in rows:
            rows.append(row)
    return rows


def figures(
    results: Results, name: str, targets: Iterable[Target], where: Mapping[str, Label]
) -> list[str]:
    """Return one figure of each of these targets."""
    return [figure(results.spread(name, target=each.name, **where)) for each in targets]


def relative(results: Results, of: Target, to: Target, where: Mapping[str, Label]) -> str:
    """Return the requests/s of one target relative to those of another."""
    return ratio(results.ratio("per_second", "target", of.name, to.name, **where))


# One target alone.


def growth_table(growth: Results) -> str:
    """Return the median time of one request and the peak memory at each size of the table."""
    sizes = growth.values("users")
    rows = []
    measured = [(title, "ms", {"workload": kind}) for kind, title in KINDS.items()]
    for title, name, where in [*measured, ("peak memory, MB", "peak_memory_mb", {})]:
        spreads = [growth.spread(name, users=users, **where) for users in sizes]
        ratios = grown(growth, name, "users", **where).values()
        rows.append([title, *map(figure, spreads), *map(ratio, ratios)])
    titles = [f"{users:,} users" for users in sizes]
    titles += [f"{users:,} to {sizes[0]:,}" for users in sizes[1:]]
    return table(("ms, one client", *titles), rows)


def keys_table(growth: Results) -> str:
    """Return the median time of a write beside so many other keys in Redis."""
    ratios = grown(growth, "ms", "keys")
    rows = [
        [f"{keys:,}", figure(growth.spread("ms", keys=keys)), ratio(ratios.get(f"{keys:,} keys"))]
        for keys in growth.values("keys")
    ]
    return table(("other keys", "create, ms", "to the fewest"), rows)


def memory_table(memory: Results) -> str:
    """Return the memory of all processes after so many requests."""
    requests, megabytes = memory.rounds("requests"), memory.rounds("memory_mb")
    rows = [
        [f"{n or 0:,.0f}", f"{mb or 0:.1f}", f"{(mb or 0) / (megabytes[0] or 1):.3f}"]
        for n, mb in zip(requests, megabytes, strict=True)
    ]
    return table(("requests", "MB", "to the first"), rows)


def grown(results: Results, name: str, label: str, **where: str) -> Found:
    """Return the ratios of a figure at each larger size to the smallest size."""
    sizes = results.values(label, **where)
    found = {}
    for size in sizes[1:]:
        if spread := results.ratio(name, label, size, sizes[0], **where):
            found[f"{size:,} {label}"] = spread
    return found


def profile_table(profile: Results) -> str:
    """Return the CPU time of a request, and on gunicorn that of its parts."""
    workloads = profile.values("workload")
    rows = []
    for target in PROFILED_TARGETS:
        for part in profile.values("part", target=target.name):
            where: dict[str, Label] = {"target": target.name, "part": part}
            spreads = [profile.spread("micros", workload=each, **where) for each in workloads]
            title = target.label if part == ALL else f"– {part}"
            rows.append([title, *(number(each.median) if each else "0" for each in spreads)])
    return table(("CPU time of a request in µs", *(TITLES[str(each)] for each in workloads)), rows)


TABLES: Mapping[str, tuple[str, Callable[[Results], str]]] = {
    "summary": ("peers", summary_table),
    "peers": ("peers", partial(ratios_table, ours=OURS)),
    "peers-granian": ("peers", partial(ratios_table, ours=OURS_ON_GRANIAN)),
    "peers-requests": ("peers", partial(peers_table, name="per_second")),
    "peers-p99": ("peers", partial(peers_table, name="p99_ms")),
    "edge": ("edge", edge_table),
    "authentication": ("authentication", authentication_table),
    "before": ("before", before_table),
    "growth": ("growth", growth_table),
    "keys": ("growth", keys_table),
    "memory": ("memory", memory_table),
    "mechanisms": ("mechanisms", mechanisms_table),
    "profile": ("profile", profile_table),
}
