"""The figures of a row of the fault table, and the table."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.faults.harness.operations import Operation, Outcome

HEAD = ("sent", "acked", "unknown", "failed", "lost", "stale", "longest", "recovery")


@dataclass(slots=True)
class Row:
    """What one fault did: numbers of requests, and times in seconds.

    ``acknowledged`` counts definite answers (2xx and 4xx), ``failed`` the 503 that changed
    nothing, ``unknown`` what may have happened.
    """

    fault: str
    sent: int = 0
    acknowledged: int = 0
    unknown: int = 0
    failed: int = 0
    lost: int = 0
    stale: int = 0
    longest: float = 0.0
    recovery: float | None = None
    notes: list[str] = field(default_factory=list)
    outcome: str = "not run"

    def count(self, operations: Iterable[Operation]) -> None:
        """Add ``operations`` to the figures."""
        for operation in operations:
            self.sent += 1
            self.unknown += operation.outcome is Outcome.UNKNOWN
            self.failed += operation.outcome is Outcome.FAILED
            self.acknowledged += operation.outcome in (Outcome.OK, Outcome.REFUSED)
            self.longest = max(self.longest, operation.seconds)

    def note(self, text: str) -> None:
        """Add a figure that only this row has."""
        self.notes.append(text)

    def cells(self) -> tuple[str, ...]:
        recovery = "" if self.recovery is None else f"{self.recovery:.2f} s"
        numbers = (self.sent, self.acknowledged, self.unknown, self.failed, self.lost, self.stale)
        return (*map(str, numbers), f"{self.longest:.2f} s", recovery)


def table(rows: Iterable[Row]) -> list[str]:
    """Return the lines of the table, notes below each row."""
    rows = list(rows)
    width = max((len(row.fault) for row in rows), default=0)
    lines = [_line("fault", width, HEAD, "")]
    for row in rows:
        lines.append(_line(row.fault, width, row.cells(), row.outcome))
        lines += [f"{'':4}{note}" for note in row.notes]
    return lines


def _line(fault: str, width: int, cells: tuple[str, ...], outcome: str) -> str:
    return f"{fault:{width}} " + " ".join(f"{cell:>8}" for cell in cells) + f"  {outcome}"
