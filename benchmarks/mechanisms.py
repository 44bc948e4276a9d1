"""Mechanisms that exist only for speed, each measured by its removal.

A variant is a copy of the service with some lines replaced. Each mechanism has to be worth at
least ``WORTH`` in one of the workloads it is for, and the variant has to keep the contract.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.comparisons import CLIENTS, Turn, compare
from benchmarks.load import CACHED, GET, Workload
from benchmarks.measure import Bench
from benchmarks.targets import OURS, SERVICE, Target

WORTH = 1.15


class Edit(NamedTuple):
    """Lines of a file of the service, and their replacement."""

    file: str
    lines: str
    replacement: str


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One mechanism with a unique name, the workloads it is for, and the edits that remove it."""

    name: str
    workloads: Sequence[Workload]
    edits: Sequence[Edit]


MECHANISMS = (
    Mechanism(
        "fast path",
        (CACHED, GET),
        (
            Edit(
                "app.py",
                "        fast_path=FastPath(app, services, tells_place=settings.gateway_pages),\n",
                "",
            ),
        ),
    ),
    Mechanism(
        "batches of users by id",
        (GET,),
        (
            Edit(
                "app.py",
                "import BatchingUserRepository",
                "import UserRepository as BatchingUserRepository",
            ),
        ),
    ),
    Mechanism(
        "batches of page look-ups",
        (CACHED,),
        (Edit("app.py", "import BatchingPageStore", "import PageStore as BatchingPageStore"),),
    ),
)


def without(mechanism: Mechanism, folder: Path) -> Path:
    """Return the folder of a copy of the service without ``mechanism``, made below ``folder``.

    Raises LookupError unless the lines of each edit occur exactly once.
    """
    copy = folder / mechanism.name.replace(" ", "-")
    shutil.copytree(SERVICE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in mechanism.edits:
        path = copy / edit.file
        source = path.read_text(encoding="utf-8")
        if (found := source.count(edit.lines)) != 1:
            raise LookupError(f"{mechanism.name}: {edit.file} has {edit.lines!r} {found} times")
        path.write_text(source.replace(edit.lines, edit.replacement), encoding="utf-8")
    return copy


def mechanisms(bench: Bench) -> None:
    """Measure the service with and without each mechanism, in turn."""
    targets: dict[str, Target] = {}
    turns = []
    for mechanism in MECHANISMS:
        whole = replace(OURS, name="with")
        removed = replace(
            whole,
            name="without",
            label=f"{whole.label}, without {mechanism.name}",
            folder=without(mechanism, bench.stand.folder / "variants"),
        )
        targets |= {whole.label: whole, removed.label: removed}
        turns += [
            Turn(workload, clients, (whole, removed), {"mechanism": mechanism.name})
            for workload in mechanism.workloads
            for clients in CLIENTS
        ]
    compare(bench, list(targets.values()), turns)
