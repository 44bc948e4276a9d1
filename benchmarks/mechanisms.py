"""Mechanisms that exist only for speed, each measured by its removal.

A variant is a copy of the service with some lines replaced. Each mechanism has to be worth at
least ``WORTH`` in one of the workloads it is for, and the variant has to keep the contract.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.comparisons import Comparison, compare
from benchmarks.load import CACHED, GET, Workload
from benchmarks.measure import Bench
from benchmarks.targets import OURS, SERVICE

WORTH = 1.15
# The names under which the results keep the service and any variant of it.
WITH = replace(OURS, name="with")
WITHOUT = replace(OURS, name="without")


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One mechanism with a unique name and the workloads it is for.

    ``replacement`` in place of ``code`` in the service's app.py removes it.
    """

    name: str
    workloads: Sequence[Workload]
    code: str
    replacement: str


MECHANISMS = (
    Mechanism(
        "fast path",
        (CACHED, GET),
        "        fast_path=FastPath(app, services, tells_place=settings.gateway_pages),\n",
        "",
    ),
    Mechanism(
        "batches of users by id",
        (GET,),
        "import BatchingUserRepository",
        "import UserRepository as BatchingUserRepository",
    ),
    Mechanism(
        "batches of page look-ups",
        (CACHED,),
        "import BatchingPageStore",
        "import PageStore as BatchingPageStore",
    ),
)


def without(mechanism: Mechanism, folder: Path) -> Path:
    """Return the folder of a copy of the service without ``mechanism``, made below ``folder``.

    Raises LookupError unless the code to replace occurs exactly once.
    """
    copy = folder / mechanism.name.replace(" ", "-")
    shutil.copytree(SERVICE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    path = copy / "app.py"
    source = path.read_text(encoding="utf-8")
    if (found := source.count(mechanism.code)) != 1:
        raise LookupError(f"{mechanism.name}: app.py has {mechanism.code!r} {found} times")
    path.write_text(source.replace(mechanism.code, mechanism.replacement), encoding="utf-8")
    return copy


def mechanisms(bench: Bench) -> None:
    """Measure the service with and without each mechanism, in turn."""
    comparisons = []
    for mechanism in MECHANISMS:
        removed = replace(
            WITHOUT,
            label=f"{OURS.label}, without {mechanism.name}",
            folder=without(mechanism, bench.stand.folder / "variants"),
        )
        labels = {"mechanism": mechanism.name}
        comparisons.append(Comparison((WITH, removed), mechanism.workloads, labels))
    compare(bench, *comparisons)
