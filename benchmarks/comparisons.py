"""Ratios between targets or sizes, each with where it was found: "get, clients: 10"."""

from collections.abc import Iterable, Mapping

from benchmarks.figures import Label, Results, Spread
from benchmarks.saved import Saved

Sections = Mapping[str, Saved]
Found = dict[str, Spread]


def results_of(sections: Sections, name: str) -> Results:
    """Return the results of a section, none if it has not been measured."""
    return sections[name].results if name in sections else Results()


def to_before(results: Results, figure: str, workload: str, **where: Label) -> Found:
    """Return the ratios of ours to *before*, for each number of users and of clients."""
    found = {}
    for cell in _cells(results, target="before", workload=workload, **where):
        ratio = results.ratio(figure, {**cell, "target": "ours"}, {**cell, "target": "before"})
        if ratio:
            found[f"{workload}, {cell['users']:,} users, clients: {cell['clients']}"] = ratio
    return found


def to_peer(
    results: Results,
    figure: str,
    targets: tuple[str, str],
    workloads: Iterable[str] = (),
    **where: Label,
) -> Found:
    """Return the ratios of one target to another, for each workload (or these) and its clients."""
    of, to = targets
    chosen, found = set(workloads), {}
    for cell in _cells(results, target=to, **where):
        if chosen and cell["workload"] not in chosen:
            continue
        ratio = results.ratio(figure, {**cell, "target": of}, {**cell, "target": to})
        if ratio:
            found[f"{cell['workload']}, clients: {cell['clients']}"] = ratio
    return found


def to_smallest(results: Results, figure: str, label: str, **where: Label) -> Found:
    """Return the ratios of a figure at each size to that at the smallest."""
    sizes = results.values(label, **where)
    found = {}
    for size in sizes[1:]:
        ratio = results.ratio(figure, {label: size, **where}, {label: sizes[0], **where})
        if ratio:
            found[f"{size:,} {label}"] = ratio
    return found


def last_to_first(results: Results, figure: str, **where: Label) -> Found:
    """Return the ratio of the last round of a figure to its first."""
    try:
        rounds = [each for each in results.rounds(figure, **where) if each is not None]
    except LookupError:
        return {}
    ratio = rounds[-1] / rounds[0]
    return {"from the first turn to the last": Spread(ratio, ratio, ratio)}


def less(found: Found) -> Found:
    """Return by how much less than 1 the ratios are: 0.1 becomes 0.9."""
    return {where: Spread(1 - a, 1 - c, 1 - b) for where, (a, b, c) in found.items()}


def more(found: Found) -> Found:
    """Return by how much more than 1 the ratios are: 1.05 becomes 0.05."""
    return {where: Spread(*(value - 1 for value in each)) for where, each in found.items()}


def _cells(results: Results, **where: Label) -> list[dict[str, Label]]:
    cells = (cell for cell in results.cells if cell.has(where) and "clients" in cell.labels)
    return [{k: v for k, v in cell.labels.items() if k != "target"} for cell in cells]
