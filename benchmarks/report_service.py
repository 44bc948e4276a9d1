"""Tables of the service alone: as the table grows, with more workers, and its memory."""

from benchmarks.comparisons import to_smallest
from benchmarks.figures import Label, Results, Spread
from benchmarks.markdown import figure, ratio, table

GROWTH_TITLES = {
    "first": "first page, exact total",
    "deep": "deep page by number",
    "cursor": "deep page by cursor",
    "get": "get by id",
    "email": "lookup by email",
    "create": "create, with invalidation",
}


# Of the same statement that the service sends, by psycopg2 alone.
STATEMENT_TITLES = {"uncached": "a page's statement, alone", "get": "a get's statement, alone"}


def growth_table(results: Results) -> str:
    """Return the median time of a request for one client at each size, and its growth."""
    sizes = results.values("users")
    rows = []
    for workload, title in GROWTH_TITLES.items():
        grown = to_smallest(results, "p50_ms", "users", workload=workload)
        times = [results.spread("p50_ms", workload=workload, users=users) for users in sizes]
        rows.append([title, *map(ratio, grown.values()), *map(figure, times)])
    for workload, title in STATEMENT_TITLES.items():
        where: dict[str, Label] = {"target": "psycopg2", "workload": workload}
        grown = to_smallest(results, "ms", "users", **where)
        if not grown:
            continue
        times = [results.spread("ms", users=users, **where) for users in sizes]
        rows.append([title, *map(ratio, grown.values()), *map(figure, times)])
    ratios = [f"{users:,} users to {sizes[0]:,}" for users in sizes[1:]]
    return table(("", *ratios, *(f"ms, {users:,}" for users in sizes)), rows)


def keys_table(results: Results) -> str:
    """Return the median time of a write, by the number of other keys in Redis."""
    rows = []
    grown = to_smallest(results, "p50_ms", "keys", workload="create")
    for keys in results.values("keys"):
        spread = grown.get(f"{keys:,} keys", Spread(1, 1, 1))
        rows.append([f"{keys:,}", ratio(spread), figure(results.spread("p50_ms", keys=keys))])
    return table(("other keys", "to the fewest", "create, ms"), rows)


def workers_table(results: Results) -> str:
    """Return requests/s and memory by the number of worker processes."""
    rows = []
    for workers in results.values("workers"):
        cells = []
        for workload in ("cached-10", "get"):
            where: dict[str, Label] = {"workload": workload, "clients": 50}
            one = {**where, "workers": 1}
            cells += [
                ratio(results.ratio("per_second", {**where, "workers": workers}, one)),
                figure(results.spread("per_second", **where, workers=workers)),
                figure(results.spread("p99_ms", **where, workers=workers)),
            ]
        memory = figure(results.spread("memory_mb", workers=workers))
        rows.append([str(workers), *cells, memory])
    titles = [
        f"{title}: {what}"
        for title in ("cached page", "get by id")
        for what in ("to one", "requests/s", "p99, ms")
    ]
    return table(("workers", *titles, "memory, MB"), rows)


def memory_table(results: Results) -> str:
    """Return the memory after the same requests, by the size of the table."""
    rows = []
    grown = to_smallest(results, "peak_memory_mb", "users", part="by size")
    for users in results.values("users", part="by size"):
        spread = grown.get(f"{users:,} users", Spread(1, 1, 1))
        figures = [
            figure(results.spread(name, part="by size", users=users))
            for name in ("peak_memory_mb", "memory_mb")
        ]
        rows.append([f"{users:,}", ratio(spread), *figures])
    return table(("users", "peak, to the smallest", "peak of a process, MB", "all, MB"), rows)


def requests_table(results: Results) -> str:
    """Return the memory of all processes after so many requests: at ten points or fewer."""
    requests = results.rounds("requests", part="over requests")
    memory = results.rounds("memory_mb", part="over requests")
    points = [pair for pair in zip(requests, memory, strict=True) if None not in pair]
    step = max(1, -(-len(points) // 10))
    chosen = [*points[:-1:step], points[-1]]
    first = points[0][1] or 1
    rows = [[f"{n or 0:,.0f}", f"{(mb or 0) / first:.3f}", f"{mb:.1f}"] for n, mb in chosen]
    return table(("requests", "to the first", "MB"), rows)
