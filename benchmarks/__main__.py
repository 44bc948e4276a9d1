"""``python -m benchmarks``: measure the claims of the documents and print the tables.

The short run takes some minutes and writes to benchmarks/results/quick. The full run takes about an
hour, writes to benchmarks/results and rewrites the tables in the documents.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import httpx

from benchmarks import comparisons, documents, growth, mechanisms, profile, report
from benchmarks.contract import ContractBroken
from benchmarks.measure import Bench, Effort
from benchmarks.results import RESULTS, Results, load_all, save
from benchmarks.stand import Stand, TargetFailed, reserve_core
from benchmarks.targets import BEFORE, COMPARED, FASTAPI, FASTIFY, InstallFailed, Target, program

SHORT = Effort(
    rounds=1,
    seconds=1,
    crowd_seconds=1,
    list_users=(1_000, 10_000),
    growth_users=(10_000, 100_000),
    growth_requests=50,
    redis_keys=(1, 1_000_000),
    memory_requests=50_000,
)
FULL = Effort(
    rounds=5,
    seconds=2,
    crowd_seconds=3,
    list_users=(1_000, 10_000, 100_000),
    growth_users=(10_000, 1_000_000, 5_000_000),
    growth_requests=400,
    redis_keys=(1, 10_000, 1_000_000),
    memory_requests=1_000_000,
)


class Section(NamedTuple):
    """A part of the benchmark that can run alone, and the targets it needs installed."""

    run: Callable[[Bench], None]
    targets: tuple[Target, ...] = ()


SECTIONS = {
    "peers": Section(comparisons.peers, COMPARED),
    "edge": Section(comparisons.edge, (FASTIFY, FASTAPI)),
    "authentication": Section(comparisons.authentication),
    "before": Section(comparisons.before, (BEFORE,)),
    "growth": Section(growth.growth),
    "memory": Section(growth.memory),
    "mechanisms": Section(mechanisms.mechanisms),
    "profile": Section(profile.profile, (FASTAPI,)),
}


def main() -> int:
    """Run the chosen sections; return 1 if a round failed, 2 if a section could not run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all rounds and sizes")
    parser.add_argument("--rounds", type=int, help="so many rounds; fewer than 5 are a trial")
    parser.add_argument("--show", action="store_true", help="show saved results, measure nothing")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections alone")
    options = parser.parse_args()
    effort = FULL if options.full else SHORT
    effort = replace(effort, rounds=options.rounds or effort.rounds)
    folder = RESULTS if options.full and effort.rounds >= FULL.rounds else RESULTS / "quick"
    chosen = [] if options.show else options.only or list(SECTIONS)
    try:
        if chosen:
            measure(chosen, effort, folder)
    except (InstallFailed, TargetFailed, ContractBroken, httpx.HTTPError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    sections = load_all(folder)
    parts = documents.parts(sections)
    for name, text in parts.items():
        section, _ = report.TABLES.get(name, ("", None))
        if section in ("", *(chosen or SECTIONS)):
            print(f"\n## {name}\n\n{text}")
    if folder == RESULTS:
        documents.plot_peers(sections.get("peers", Results()), RESULTS / "peers.svg")
        documents.rewrite_all(parts)
    return int(any(sections[name].failures() for name in chosen))


def measure(chosen: list[str], effort: Effort, folder: Path) -> None:
    """Run these sections and save the results of each in ``folder``."""
    program("wrk")
    for name in chosen:
        for target in SECTIONS[name].targets:
            target.install()
    with tempfile.TemporaryDirectory() as files, Stand(Path(files), reserve_core()) as stand:
        about = {**stand.about(), "rounds": f"{effort.rounds} rounds"}
        began = time.monotonic()
        for name in chosen:
            bench = Bench(stand, effort, Results(about), began)
            bench.say(f"section {name}")
            SECTIONS[name].run(bench)
            save(name, bench.results, folder)


if __name__ == "__main__":
    sys.exit(main())
