"""Tables of the results in Markdown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from benchmarks.load import TITLES, WORKLOADS
from benchmarks.mechanisms import MECHANISMS
from benchmarks.results import Label, Results, Spread
from benchmarks.targets import (
    ALL_PEERS,
    AUTHENTICATED,
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
CROWD = 50
# A server that uses less of its core than this waits for the load or for a database.
BUSY = 0.9
GROWTH_TITLES = {
    "first": "first page with its total",
    "cursor": "page by cursor, far down",
    "deep": "page by number, far down",
    "get": "get by id",
    "email": "look-up by email",
    "create": "create",
}


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


# Peers.


def summary_table(peers: Results) -> str:
    """Return requests/s with 10 and 50 clients, in one row for each workload."""
    rows = []
    for workload in WORKLOADS:
        row = [workload.title]
        for target in COMPARED:
            where: dict[str, Label] = {"target": target.name, "workload": workload.name}
            spreads = [peers.spread("per_second", **where, clients=n) for n in (10, CROWD)]
            row.append(" / ".join(number(each.median) if each else MISSING for each in spreads))
        rows.append(row)
    return table(("requests/s, 10 / 50 clients", *(each.label for each in COMPARED)), rows)


def peers_table(peers: Results, name: str) -> str:
    """Return one figure of every target, in one row for each workload and number of clients."""
    rows = [
        [title, *(figure(peers.spread(name, target=each.name, **where)) for each in COMPARED)]
        for title, where in peer_rows(peers)
    ]
    return table(("", *(each.label for each in COMPARED)), rows)


def ratios_table(peers: Results, ours: Target) -> str:
    """Return requests/s relative to each peer; * marks a server that waited for something else."""
    rows = []
    for title, where in peer_rows(peers):
        row = [title]
        for peer in ALL_PEERS:
            both = {**where, "target": ours.name}, {**where, "target": peer.name}
            busy = [spread.median for each in both if (spread := peers.spread("busy", **each))]
            mark = " *" if busy and min(busy) < BUSY else ""
            row.append(ratio(peers.ratio("per_second", *both)) + mark)
        rows.append(row)
    return table((f"{ours.label}, relative to", *(each.label for each in ALL_PEERS)), rows)


def peer_rows(peers: Results) -> list[Row]:
    """Return the workloads and numbers of clients that the peers were measured with."""
    return [
        (_with_clients(workload.name, clients), {"workload": workload.name, "clients": clients})
        for workload in WORKLOADS
        for clients in peers.values("clients", workload=workload.name)
    ]


def _with_clients(workload: Label, clients: Label) -> str:
    return f"{TITLES[str(workload)]}, {clients} clients"


def edge_table(results: Results) -> str:
    """Return requests/s of cached pages from the gateway, and relative to the fastest peers."""
    rows = []
    for title, where in peer_rows(results):
        of = {**where, "target": EDGE.name}
        others = [{**where, "target": each.name} for each in (FASTIFY, FASTAPI)]
        row = [figure(results.spread("per_second", **each)) for each in (of, *others)]
        row += [ratio(results.ratio("per_second", of, each)) for each in others]
        row.append(figure(results.spread("p99_ms", **of)))
        of["target"] = EDGE_WITH_TLS.name
        rows.append([title, *row, figure(results.spread("per_second", **of))])
    labels = [each.label for each in (EDGE, FASTIFY, FASTAPI)]
    to = [f"to {label}" for label in labels[1:]]
    return table(("requests/s", *labels, *to, "p99, ms", EDGE_WITH_TLS.label), rows)


def authentication_table(results: Results) -> str:
    """Return requests/s with and without authentication, and the ratio of the two."""
    rows = []
    for title, where in peer_rows(results):
        both = [{**where, "target": each.name} for each in (AUTHENTICATED, OURS)]
        row = [figure(results.spread("per_second", **each)) for each in both]
        rows.append([title, *row, ratio(results.ratio("per_second", *both))])
    return table(("requests/s", AUTHENTICATED.label, "without", "ratio"), rows)


# Before and now.


def before_table(before: Results) -> str:
    """Return requests/s, connections and peak memory, before the review and now."""
    rows = []
    for title, where in before_rows(before):
        then, now = {**where, "target": "before"}, {**where, "target": OURS.name}
        rows.append(
            [
                title,
                *(figure(before.spread("per_second", **each)) for each in (then, now)),
                ratio(before.ratio("per_second", now, then)),
                *(figure(before.spread("opened", **each)) for each in (then, now)),
                *(figure(before.spread("peak_memory_mb", **each)) for each in (then, now)),
            ]
        )
    titles = ("requests/s before", "now", "ratio", "connections per 1,000 requests before", "now")
    return table(("", *titles, "peak memory before, MB", "now"), rows)


def before_rows(before: Results) -> list[Row]:
    """Return the workloads, table sizes and numbers of clients that both were measured with."""
    rows: list[Row] = []
    for workload in before.values("workload"):
        for users in before.values("users", workload=workload):
            for clients in before.values("clients", workload=workload, users=users):
                title = f"{TITLES[str(workload)]}, {users:,} users, {clients} clients"
                rows.append((title, {"workload": workload, "users": users, "clients": clients}))
    return rows


# Growth and memory.


def growth_table(growth: Results) -> str:
    """Return the median time of one request and the peak memory at each size of the table."""
    sizes = growth.values("users")
    rows = []
    measured = [(title, "ms", {"workload": kind}) for kind, title in GROWTH_TITLES.items()]
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
        relative = results.ratio(name, {label: size, **where}, {label: sizes[0], **where})
        if relative:
            found[f"{size:,} {label}"] = relative
    return found


# Mechanisms and calls.


def mechanisms_table(mechanisms: Results) -> str:
    """Return the gain by each mechanism in each of its workloads."""
    rows = []
    for mechanism in MECHANISMS:
        for title, where in mechanism_rows(mechanisms, mechanism.name):
            both = [
                figure(mechanisms.spread("per_second", target=state, **where))
                for state in ("with", "without")
            ]
            gain = ratio(gain_of(mechanisms, where))
            rows.append([f"{mechanism.name}: {title}, requests/s", *both, gain])
    return table(("mechanism and workload", "with", "without", "gain"), rows)


def mechanism_rows(mechanisms: Results, name: str) -> list[Row]:
    """Return the workloads and numbers of clients that a mechanism was measured with."""
    cells = (cell.labels for cell in mechanisms.cells if cell.has({"mechanism": name}))
    wheres = [{key: cell[key] for key in ("mechanism", "workload", "clients")} for cell in cells]
    rows = {_with_clients(where["workload"], where["clients"]): where for where in wheres}
    return list(rows.items())


def gain_of(mechanisms: Results, where: Mapping[str, Label]) -> Spread | None:
    """Return the requests/s with a mechanism, divided by those without."""
    of, to = ({**where, "target": state} for state in ("with", "without"))
    return mechanisms.ratio("per_second", of, to)


def profile_table(profile: Results) -> str:
    """Return the CPU time of a request, and on gunicorn that of its parts."""
    workloads = profile.values("workload")
    rows = []
    for target in (OURS, OURS_ON_GRANIAN, FASTAPI):
        for part in profile.values("part", target=target.name):
            where: dict[str, Label] = {"target": target.name, "part": part}
            spreads = [profile.spread("micros", workload=each, **where) for each in workloads]
            title = target.label if part == "all" else f"– {part}"
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
