"""The tables that the results make, and the page that shows them all."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from benchmarks.bar import bar_table
from benchmarks.comparisons import Sections
from benchmarks.figures import Results
from benchmarks.report_before import (
    before_table,
    before_times_table,
    connecting_table,
    promises_table,
    restart_table,
)
from benchmarks.report_limit import layers_table, limit_table, reached_table
from benchmarks.report_peers import (
    cpu_table,
    p99_ms_table,
    p99_table,
    peers_table,
    ratios_table,
)
from benchmarks.report_service import (
    growth_table,
    keys_table,
    memory_table,
    requests_table,
    workers_table,
)
from benchmarks.targets import OURS, TARGETS


class Shown(NamedTuple):
    """A table: of which section, how it is made, and what it shows."""

    section: str
    make: Callable[[Results], str]
    title: str


# By the name between the marks in the documents.
TABLES: Mapping[str, Shown] = {
    "before": Shown("before", before_table, "Requests/s, to *before*"),
    "before-times": Shown("before", before_times_table, "Requests/s and times, before and now"),
    "connecting": Shown("before", connecting_table, "Connections and memory, before and now"),
    "restart": Shown("restart", restart_table, "PostgreSQL away for 2 s"),
    "peers": Shown("peers", ratios_table, "Requests/s, ours to theirs"),
    "peers-p99": Shown("peers", p99_table, "99th percentile of the times, ours to theirs"),
    "peers-p99-ms": Shown("peers", p99_ms_table, "99th percentile of the times, in ms"),
    "peers-absolute": Shown("peers", peers_table, "Requests/s"),
    "peers-cpu": Shown("peers", cpu_table, "CPU time of the server a request, in µs"),
    **{
        f"peers-{name.removeprefix('ours-')}": Shown(
            "peers",
            partial(ratios_table, ours=name),
            f"Requests/s, {TARGETS[name].label} to others",
        )
        for name in OURS[1:]
    },
    "limit": Shown("limit", limit_table, "Beside what it stands on, alone"),
    "limit-reached": Shown("limit", reached_table, "What each reaches"),
    "layers": Shown("layers", layers_table, "Where the time goes, in µs of CPU a request"),
    "growth": Shown("growth", growth_table, "One request, as the table grows, in ms"),
    "keys": Shown("growth", keys_table, "A write, as Redis fills"),
    "workers": Shown("workers", workers_table, "Worker processes"),
    "memory": Shown("memory", memory_table, "Memory, by the size of the table"),
    "memory-requests": Shown("memory", requests_table, "Memory, by requests served"),
}


# What `plots.draw` draws, by section.
PLOTS = {
    "before": "Lists a second before and now, by the size of the table",
    "peers": "Requests a second, the service and its peers",
    "growth": "Times of requests, by the size of the table",
    "memory": "Memory, by requests served",
}
# Of all sections together.
VERDICTS = {"bar": "The bar", "promises": "The promises of the review"}
ABOUT = "measured-on"
NAMES = {*TABLES, *VERDICTS, ABOUT, *(f"plot-{name}" for name in PLOTS)}


def regions(sections: Sections) -> dict[str, str]:
    """Return what the documents show of the results, by its name there: tables and plots."""
    if not sections:
        return {}
    plots = {
        f"plot-{name}": f"![{title}](benchmarks/results/{name}.svg)"
        for name, title in PLOTS.items()
        if name in sections
    }
    everything = "[All tables and plots](benchmarks/results/README.md)."
    return tables(sections) | plots | {ABOUT: f"{about(sections)}\n\n{everything}"}


def tables(sections: Sections) -> dict[str, str]:
    """Return every table of what has been measured, by its name in the documents."""
    made = {
        name: shown.make(sections[shown.section].results)
        for name, shown in TABLES.items()
        if shown.section in sections
    }
    if sections:
        made["bar"] = bar_table(sections)
    if "before" in sections and "restart" in sections:
        made["promises"] = promises_table(sections)
    return made


def page(sections: Sections) -> str:
    """Return the page with all tables and plots, in Markdown."""
    made = tables(sections)
    titles = VERDICTS | {name: shown.title for name, shown in TABLES.items()}
    parts = ["# Results", "Made by `make bench`; not to be edited. See the README for what it is."]
    parts += [f"## {titles[name]}\n\n{made[name]}" for name in titles if name in made]
    parts += [f"![{title}]({name}.svg)" for name, title in PLOTS.items() if name in sections]
    parts.append("## Measured on\n\n" + about(sections))
    invalid = invalid_rounds(sections)
    if invalid:
        parts.append(f"## Invalid rounds\n\nThese had failures and do not count:\n\n{invalid}")
    return "\n\n".join(parts) + "\n"


def about(sections: Sections) -> str:
    """Return on what the sections were measured, those on the same together."""
    names: dict[str, list[str]] = {}
    for name, saved in sections.items():
        told = saved.about
        effort = f"{told['effort']}, rounds: {told['rounds']}"
        when = f"{told['date']}, commit {told['commit']}"
        on = f"{when}, {effort}; {told['software']}; {told['machine']}; {told['cores']}"
        names.setdefault(on, []).append(name)
    return "\n".join(f"- {', '.join(of)}: {on}" for on, of in names.items())


def invalid_rounds(sections: Sections) -> str:
    """Return the cells in which requests failed, a line each."""
    lines = []
    for name, saved in sections.items():
        for cell in saved.results.cells:
            failed = [each for each in cell.figures.get("failed", []) if each]
            if failed:
                where = ", ".join(f"{key} {value}" for key, value in cell.labels.items())
                rounds = len(cell.figures["failed"])
                lines.append(f"- {name}: {where}: {len(failed)} of {rounds} rounds")
    return "\n".join(lines)
