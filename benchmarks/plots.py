"""Plots of the results, as small SVG files that read on light and dark pages."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.against_peers import WORKLOADS
from benchmarks.comparisons import Sections
from benchmarks.figures import Label, Results, Spread
from benchmarks.report_service import GROWTH_TITLES
from benchmarks.targets import TARGETS

COLOURS = ("#1f6feb", "#8b949e", "#2da44e", "#bf8700", "#cf222e", "#8250df", "#57606a")
CLIENTS = 10


class Series(NamedTuple):
    """What is drawn in one colour: the figures with these labels."""

    title: str
    where: dict[str, Label]
    colour: int
    line: str = "-"


def draw(sections: Sections, folder: Path) -> None:
    """Write a file for each plot whose section has been measured."""
    # Text stays text, and the same figures make the same file.
    mpl.rc("svg", fonttype="none", hashsalt="benchmark")
    mpl.rc("font", size=9)
    for name, plot in PLOTS.items():
        if name not in sections:
            continue
        sheet = Figure(figsize=(7.5, 3.6), layout="constrained", facecolor="white")
        axes = sheet.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#d0d7de", linewidth=0.5)
        axes.set_axisbelow(True)
        plot(axes, sections[name].results)
        sheet.savefig(folder / f"{name}.svg", metadata={"Date": None})


def peers(axes: Axes, results: Results) -> None:
    """Draw requests/s of all targets, a group of bars for each workload."""
    targets = [name for name in TARGETS if name in results.values("target")]
    width = 0.8 / len(targets)
    for number, target in enumerate(targets):
        series = Series(TARGETS[target].label, {"target": target, "clients": CLIENTS}, number)
        _bars(axes, results, series, width)
    places = [place + 0.4 - width / 2 for place in range(len(WORKLOADS))]
    axes.set_xticks(places, [each.title.replace(" ", "\n", 1) for each in WORKLOADS], fontsize=7)
    axes.set_ylabel("requests/s, 10 clients, one core")
    axes.legend(frameon=False, fontsize=8)


def before(axes: Axes, results: Results) -> None:
    """Draw requests/s of a list before and now, by the size of the table, both logarithmic."""
    for colour, (target, title) in enumerate({"ours": "now", "before": "before"}.items()):
        for clients, line in ((1, ":"), (10, "--"), (50, "-")):
            where: dict[str, Label] = {"workload": "list", "target": target, "clients": clients}
            series = Series(f"{title}, clients: {clients}", where, colour, line)
            _line(axes, results, "per_second", series)
    axes.set(xscale="log", yscale="log", xlabel="users", ylabel="lists/s")
    axes.legend(frameon=False, fontsize=8)


def growth(axes: Axes, results: Results) -> None:
    """Draw the time of each kind of request by the size of the table, both logarithmic."""
    for colour, (workload, title) in enumerate(GROWTH_TITLES.items()):
        _line(axes, results, "p50_ms", Series(title, {"workload": workload}, colour))
    axes.set(xscale="log", yscale="log", xlabel="users", ylabel="ms, one client")
    axes.legend(frameon=False, fontsize=8)


def memory(axes: Axes, results: Results) -> None:
    """Draw the memory of the service over requests, from nought."""
    requests = results.rounds("requests", part="over requests")
    used = results.rounds("memory_mb", part="over requests")
    axes.plot([each or 0 for each in requests], [each or 0 for each in used], color=COLOURS[0])
    axes.set_ylim(0, 1.2 * max(each or 0 for each in used))
    axes.set(xlabel="requests answered", ylabel="memory of all processes, MB")


# By the name of the section and of the file.
PLOTS: dict[str, Callable[[Axes, Results], None]] = {
    "before": before,
    "peers": peers,
    "growth": growth,
    "memory": memory,
}


def _bars(axes: Axes, results: Results, series: Series, width: float) -> None:
    """Draw a bar for each workload, with a whisker from the lowest to the highest round."""
    found = [results.spread("per_second", workload=each.name, **series.where) for each in WORKLOADS]
    spreads = [each or Spread(0, 0, 0) for each in found]
    axes.bar(
        [place + series.colour * width for place in range(len(spreads))],
        [each.median for each in spreads],
        width,
        color=COLOURS[series.colour],
        label=series.title,
        yerr=[
            [each.median - each.low for each in spreads],
            [each.high - each.median for each in spreads],
        ],
        error_kw={"elinewidth": 0.7, "ecolor": "#24292f"},
    )


def _line(axes: Axes, results: Results, figure: str, series: Series) -> None:
    points = [
        (float(users), spread.median)
        for users in results.values("users", **series.where)
        if (spread := results.spread(figure, **series.where, users=users))
    ]
    axes.plot(
        [users for users, _ in points],
        [median for _, median in points],
        series.line,
        color=COLOURS[series.colour],
        marker="o",
        markersize=3,
        label=series.title,
    )
