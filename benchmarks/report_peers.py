"""Tables of the service beside its peers: ratios first."""

from collections.abc import Callable

from benchmarks.against_peers import CROWD, WORKLOADS
from benchmarks.figures import Label, Results
from benchmarks.markdown import figure, ratio, table
from benchmarks.targets import PEERS, TARGETS

TITLES = {workload.name: workload.title for workload in WORKLOADS}
Cell = Callable[[str, dict[str, Label]], str]


# A server that uses less of its core than this waits for something else: load or databases.
BUSY = 0.9


def ratios_table(results: Results, ours: str = "ours") -> str:
    """Return requests/s, ours to each peer's; above 1 ours are more.

    Marked with * is what is less about the two servers than about what they waited for.
    """
    cell = _ratio(results, "per_second", ours, mark_idle=True)
    return _table(results, _others(results, ours), cell)


def p99_table(results: Results, ours: str = "ours") -> str:
    """Return the 99th percentiles for 50 clients, ours to each peer's; below 1 ours is shorter."""
    return _table(results, _others(results, ours), _ratio(results, "p99_ms", ours), CROWD)


def p99_ms_table(results: Results) -> str:
    """Return the 99th percentiles of all for 50 clients."""
    return _table(results, _targets(results), _figure(results, "p99_ms"), CROWD)


def peers_table(results: Results) -> str:
    """Return requests/s of all."""
    return _table(results, _targets(results), _figure(results, "per_second"))


def cpu_table(results: Results) -> str:
    """Return the CPU time of the server a request, of all."""
    return _table(results, _targets(results), _figure(results, "cpu_us"))


def _table(results: Results, targets: list[str], cell: Cell, only: int | None = None) -> str:
    rows = []
    for workload in results.values("workload"):
        for clients in results.values("clients", workload=workload):
            if clients == (only or clients):
                where: dict[str, Label] = {"workload": workload, "clients": clients}
                figures = [cell(target, where) for target in targets]
                rows.append([f"{TITLES[str(workload)]}, clients: {clients}", *figures])
    return table(("workload", *(TARGETS[target].label for target in targets)), rows)


def _ratio(results: Results, name: str, ours: str, *, mark_idle: bool = False) -> Cell:
    def cell(target: str, where: dict[str, Label]) -> str:
        both = ({**where, "target": ours}, {**where, "target": target})
        busy = [spread.median for each in both if (spread := results.spread("busy", **each))]
        mark = " *" if mark_idle and busy and min(busy) < BUSY else ""
        return ratio(results.ratio(name, *both)) + mark

    return cell


def _figure(results: Results, name: str) -> Cell:
    return lambda target, where: figure(results.spread(name, target=target, **where))


def _targets(results: Results) -> list[str]:
    measured = results.values("target")
    return [name for name in TARGETS if name in measured]


def _others(results: Results, ours: str) -> list[str]:
    """Return the peers; beside the service on another server, the service on its default too."""
    compared = PEERS if ours == "ours" else ("ours", *PEERS)
    return [name for name in _targets(results) if name in compared]
