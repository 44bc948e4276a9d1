"""``python -m benchmarks``: measure, print, and with ``--full`` write what the documents show.

``--show`` measures nothing: it makes tables, plots and documents anew from what was saved.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks import documents, plots, report
from benchmarks.bench import Bench
from benchmarks.checks import AnswersDiffer
from benchmarks.environments import InstallFailed, program
from benchmarks.plan import FULL, QUICK, Effort, Progress
from benchmarks.saved import RESULTS, Saved, load_all, save
from benchmarks.sections import SECTIONS, Section
from benchmarks.stand import Stand, about, pinned, stand
from benchmarks.targets import TARGETS, TargetFailed, prepare

REQUIRED_PROGRAMS = ("wrk", "taskset")


def main() -> int:
    try:
        return run(arguments())
    except (InstallFailed, TargetFailed, AnswersDiffer) as error:
        print(f"!!! {type(error).__name__}: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    """Do what was asked for, and return the exit code: 1 if a round was invalid."""
    effort = FULL if options.full else QUICK
    effort = replace(effort, rounds=options.rounds or effort.rounds)
    is_final = options.full and effort.rounds >= FULL.rounds
    chosen = [section for section in SECTIONS if section.name in (options.only or section.name)]
    folder = RESULTS if is_final else RESULTS / "quick"
    if options.show:
        show(folder, {section.name for section in SECTIONS}, in_documents=is_final)
        return 0
    for name in REQUIRED_PROGRAMS:
        program(name)
    for name in dict.fromkeys(name for section in chosen for name in section.targets):
        prepare(TARGETS[name])
    progress = Progress(sum(section.expected_seconds(effort) for section in chosen))
    invalid = 0
    with pinned() as cores, stand(cores) as made:
        print(cores, file=sys.stderr)
        for section in chosen:
            invalid += measured(section, made, effort, progress, folder)
    show(folder, {section.name for section in chosen}, in_documents=is_final)
    if invalid:
        progress.warn(f"{invalid} rounds had failures and do not count")
    return int(invalid > 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all rounds and sizes")
    parser.add_argument("--rounds", type=int, help="as a trial, so many rounds of each")
    parser.add_argument("--show", action="store_true", help="what was saved; measure nothing")
    names = [section.name for section in SECTIONS]
    parser.add_argument("--only", nargs="+", choices=names, help="these sections alone")
    return parser.parse_args()


def measured(
    section: Section, made: Stand, effort: Effort, progress: Progress, folder: Path
) -> int:
    """Run one section, save what it found, and return how many of its rounds were invalid."""
    bench = Bench(made, effort, progress)
    section.run(bench)
    save(Saved(section.name, about(made, effort), bench.results), folder)
    return bench.invalid_rounds


def show(folder: Path, measured_now: set[str], *, in_documents: bool) -> None:
    """Print the tables of what was measured; draw all, and put all into the documents."""
    sections = load_all(folder)
    tables = report.tables(sections)
    for name, table in tables.items():
        section = report.TABLES[name].section if name in report.TABLES else None
        if section is None or section in measured_now:
            print(f"\n## {name}\n\n{table}")
    plots.draw(sections, folder)
    (folder / "README.md").write_text(report.page(sections), encoding="utf-8")
    if in_documents:
        documents.rewrite_all(report.regions(sections))


if __name__ == "__main__":
    sys.exit(main())
