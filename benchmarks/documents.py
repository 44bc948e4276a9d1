"""The generated parts of the documents, and the plot.

A part stands between ``<!-- benchmark:NAME -->`` and ``<!-- /benchmark -->``.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.demands import Sections, all_demands, demands_table, promises
from benchmarks.load import FEW, WORKLOADS
from benchmarks.report import TABLES
from benchmarks.results import Label, Results, Spread
from benchmarks.targets import COMPARED

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "REVIEW.md", *sorted((ROOT / "docs").glob("*.md")))
_PART = re.compile(r"<!-- benchmark:([\w-]+) -->\n(.*?)<!-- /benchmark -->", re.DOTALL)

NAMES = {*TABLES, "demands", "promises", "measured-on"}

COLOURS = ("#1f6feb", "#79b8ff", "#2da44e", "#bf8700", "#cf222e", "#8250df")


def parts(sections: Sections) -> dict[str, str]:
    """Return every part that the results make, by its name."""
    made = {
        name: make(sections[section])
        for name, (section, make) in TABLES.items()
        if section in sections
    }
    made["demands"] = demands_table(all_demands(sections))
    made["promises"] = demands_table(promises(sections))
    made["measured-on"] = about(sections)
    return made


def about(sections: Sections) -> str:
    """Return the circumstances of the measurements, and the rounds that failed."""
    groups: dict[str, list[str]] = {}
    for name, results in sections.items():
        groups.setdefault("; ".join(results.about.values()), []).append(name)
    lines = [f"- {', '.join(names)}: {circumstances}" for circumstances, names in groups.items()]
    lines += [f"- {name}: {line}" for name, each in sections.items() for line in each.failures()]
    return "\n".join(lines)


def parts_of(text: str) -> dict[str, str]:
    """Return the generated parts of a document by name."""
    return {name: content.strip() for name, content in _PART.findall(text)}


def rewrite_all(new: Mapping[str, str]) -> None:
    """Replace these parts in every document; the other parts stay."""

    def replacement(found: re.Match[str]) -> str:
        name, content = found.groups()
        part = f"\n{new[name]}\n\n" if name in new else content
        return f"<!-- benchmark:{name} -->\n{part}<!-- /benchmark -->"

    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        document.write_text(_PART.sub(replacement, text), encoding="utf-8")


def plot_peers(peers: Results, path: Path) -> None:
    """Draw requests/s of all targets as SVG, one group of bars for each workload.

    Whiskers show the lowest and the highest round.
    """
    # The same figures make the same file, and text stays text.
    mpl.rc("svg", fonttype="none", hashsalt="benchmark")
    mpl.rc("font", size=9)
    sheet = Figure(figsize=(7.5, 3.6), layout="constrained", facecolor="white")
    axes = sheet.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#d0d7de", linewidth=0.5)
    axes.set_axisbelow(True)
    width = 0.8 / len(COMPARED)
    for place, (target, colour) in enumerate(zip(COMPARED, COLOURS, strict=True)):
        where: dict[str, Label] = {"target": target.name, "clients": FEW}
        bars = [
            peers.spread("per_second", workload=workload.name, **where) or Spread(0, 0, 0)
            for workload in WORKLOADS
        ]
        axes.bar(
            [group + place * width for group in range(len(bars))],
            [bar.median for bar in bars],
            width,
            color=colour,
            label=target.label,
            yerr=[[bar.median - bar.low for bar in bars], [bar.high - bar.median for bar in bars]],
            error_kw={"elinewidth": 0.7, "ecolor": "#24292f"},
        )
    middles = [group + 0.4 - width / 2 for group in range(len(WORKLOADS))]
    axes.set_xticks(middles, [workload.title for workload in WORKLOADS])
    axes.set_ylabel(f"requests/s, {FEW} clients, one core")
    axes.legend(frameon=False, fontsize=8)
    sheet.savefig(path, metadata={"Date": None})
