"""Tables of the service beside the practice before: what REVIEW.md shows."""

from benchmarks.comparisons import Found, Sections, less, results_of, to_before
from benchmarks.figures import Label, Results, Spread
from benchmarks.markdown import figure, number, ratio, share, table

WORKLOADS = {"list": "list", "get": "get by id", "create": "create"}
KINDS = {**WORKLOADS, "all": "all together"}
NAMES = {"before": "before", "ours": "now"}
CROWD = 50


def before_table(results: Results) -> str:
    """Return requests/s, ours to before's."""
    rows = []
    for users, clients in _sizes(results):
        cells = []
        for workload in WORKLOADS:
            where: dict[str, Label] = {"workload": workload, "users": users, "clients": clients}
            ours, before = {**where, "target": "ours"}, {**where, "target": "before"}
            cells.append(ratio(results.ratio("per_second", ours, before)))
        rows.append([f"{users:,} users, clients: {clients}", *cells])
    return table(("", *WORKLOADS.values()), rows)


def before_times_table(results: Results) -> str:
    """Return requests/s, median and 99th percentile, of both."""
    rows = []
    for workload, title in WORKLOADS.items():
        for users, clients in _sizes(results):
            where: dict[str, Label] = {"workload": workload, "users": users, "clients": clients}
            cells = [
                figure(results.spread(name, target=target, **where))
                for name in ("per_second", "p50_ms", "p99_ms")
                for target in NAMES
            ]
            rows.append([f"{title}, {users:,} users, clients: {clients}", *cells])
    figures = ("requests/s", "p50, ms", "p99, ms")
    titles = [f"{title} {when}" for title in figures for when in NAMES.values()]
    return table(("", *titles), rows)


def connecting_table(results: Results) -> str:
    """Return connections, the time for them, and memory, of both."""
    rows = []
    for users in results.values("users"):
        for workload, title in WORKLOADS.items():
            where: dict[str, Label] = {"workload": workload, "users": users, "clients": 10}
            for target, when in NAMES.items():
                alone: dict[str, Label] = {**where, "clients": 1, "target": target}
                opened = [
                    figure(results.spread(name, target=target, **where))
                    for name in ("postgres_opened", "redis_opened")
                ]
                spent = share(results.spread("connecting_share", **alone))
                memory = figure(results.spread("peak_memory_mb", target=target, users=users))
                rows.append([f"{users:,} users, {title}, {when}", *opened, spent, memory])
    return table(
        (
            "10 clients",
            "PostgreSQL connections opened per 1,000 requests",
            "Redis connections",
            "time spent connecting (1 client)",
            "peak memory of a process, MB",
        ),
        rows,
    )


def restart_table(results: Results) -> str:
    """Return what failed of the requests at a constant rate while PostgreSQL was away."""
    rows = []
    for kind, title in KINDS.items():
        for target, when in NAMES.items():
            where: dict[str, Label] = {"workload": kind, "target": target}
            shares = [
                share(results.spread(name, **where)) for name in ("failed_during", "failed_after")
            ]
            longest = figure(results.spread("longest_ms", **where))
            rows.append([f"{title}, {when}", *shares, longest])
    titles = ("", "failed while away", "failed in the 4 s after", "longest answer, ms")
    return table(titles, rows)


def promises_table(sections: Sections) -> str:
    """Return each promise of the review with the range that was measured, and whether it holds."""
    before = results_of(sections, "before")
    lists = to_before(before, "per_second", "list")
    every = {k: v for each in WORKLOADS for k, v in to_before(before, "per_second", each).items()}
    crowd = {where: each for where, each in every.items() if where.endswith(f"clients: {CROWD}")}
    opened = {k: v for each in WORKLOADS for k, v in to_before(before, "opened", each).items()}
    rows = [
        _promise("10 x the requests/s, lists", lists, 10),
        _promise("10 x the requests/s, everything", every, 10),
        _promise("10 to 50 x under load (50 clients), everything", crowd, 10),
        _promise("90 % less connection overhead (connections opened)", less(opened), 0.9, " %"),
        _memory(before),
        _resilience(results_of(sections, "restart")),
    ]
    titles = ("promise", "measured: lowest, or now", "highest, or before", "holds")
    return table(titles, rows, figures=False)


def _promise(title: str, found: Found, asked: float, unit: str = " x") -> list[str]:
    if not found:
        return [title, "–", "–", "not measured"]
    factor = 100 if unit == " %" else 1
    lowest = min(found.items(), key=lambda item: item[1].median)
    highest = max(found.items(), key=lambda item: item[1].median)
    texts = [f"{number(e.median * factor)}{unit} ({where})" for where, e in (lowest, highest)]
    reached = sum(each.median >= asked for each in found.values())
    return [title, *texts, _verdict(reached, len(found))]


def _verdict(reached: int, of: int) -> str:
    if reached == of:
        return "yes"
    return f"**no**: {reached} of {of}" if reached else "**no**"


def _memory(results: Results) -> list[str]:
    """Return the growth of both with the table: ours is the promise, before's what it replaced."""
    growth = {}
    for target in NAMES:
        sizes = results.values("users", target=target) or [0]  # no ratio, where none was measured
        growth[target] = results.ratio(
            "peak_memory_mb",
            {"target": target, "users": sizes[-1]},
            {"target": target, "users": sizes[0]},
        )
    ours, before = growth["ours"], growth["before"]
    if not ours or not before:
        return ["constant memory", "–", "–", "not measured"]
    texts = [f"{name} {ratio.median:.2f} x" for name, ratio in (("now", ours), ("before", before))]
    title = "constant memory, from the smallest table to the largest"
    return [title, *texts, "yes" if ours.median <= 1.05 else "**no**"]  # noqa: PLR2004


def _resilience(results: Results) -> list[str]:
    """Return what failed in an outage of 2 s, and in the 4 s after it: it must be less in both."""
    title = "better resilience: failed while PostgreSQL was away, and after it"
    during, after = _failed(results, "failed_during"), _failed(results, "failed_after")
    if not during or not after:
        return [title, "–", "–", "not measured"]
    ours, before = (
        f"{NAMES[target]} {share(during[target])}, and {share(after[target])}"
        for target in ("ours", "before")
    )
    # Not by the medians alone: one request more or less is no resilience.
    is_better = (
        during["ours"].high < during["before"].low
        and after["ours"].median <= after["before"].median
    )
    return [title, ours, before, "yes" if is_better else "**no**"]


def _failed(results: Results, figure: str) -> dict[str, Spread]:
    """Return a figure of all requests together, by target; nothing if one was not measured."""
    found = {name: results.spread(figure, target=name, workload="all") for name in NAMES}
    measured = {name: spread for name, spread in found.items() if spread}
    return measured if len(measured) == len(NAMES) else {}


def _sizes(results: Results) -> list[tuple[Label, Label]]:
    return [
        (users, clients)
        for users in results.values("users")
        for clients in results.values("clients", users=users)
    ]
