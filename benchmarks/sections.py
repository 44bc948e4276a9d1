"""The sections of the benchmark, in the order in which they are measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import against_peers, before_after, growth, layers, limit, memory, restart, scale
from benchmarks.bench import Bench
from benchmarks.plan import Effort


@dataclass(frozen=True, slots=True)
class Section:
    """What can be measured alone: ``run`` adds its results to a Bench."""

    name: str
    run: Callable[[Bench], None]
    expected_seconds: Callable[[Effort], float]
    targets: Sequence[str]


SECTIONS = tuple(
    Section(module.NAME, module.run, module.expected_seconds, module.TARGETS)
    for module in (before_after, restart, against_peers, limit, layers, growth, scale, memory)
)
