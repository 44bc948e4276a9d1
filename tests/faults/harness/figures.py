"""The figures of a row of the fault table, and the table."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.faults.harness.clients import Answer
from tests.faults.harness.operations import Operation, Outcome
from tests.faults.history import Verdict

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
    outcome: str = "FAILED"

    def count(self, answers: Iterable[Answer | Operation]) -> None:
        """Add ``answers`` to the figures."""
        for answer in answers:
            self.sent += 1
            self.unknown += answer.outcome is Outcome.UNKNOWN
            self.failed += answer.outcome is Outcome.FAILED
            self.acknowledged += answer.outcome in (Outcome.OK, Outcome.REFUSED)
            self.longest = max(self.longest, answer.ended - answer.started)

    def judge(self, verdict: Verdict) -> list[str]:
        """Add what the history checker has found to the figures, and return it."""
        self.lost += len(verdict.lost) + len(verdict.twice) + len(verdict.ghosts)
        self.stale += len(verdict.stale) + len(verdict.stale_pages)
        return verdict.findings

    def note(self, text: str) -> None:
        """Add a figure that only this row has."""
        self.notes.append(text)


def table(rows: Iterable[Row]) -> list[str]:
    """Return the lines of the table, notes below each row."""
    rows = list(rows)
    width = max(len(row.fault) for row in rows)
    lines = [_line("fault", width, HEAD)]
    for row in rows:
        numbers = (row.sent, row.acknowledged, row.unknown, row.failed, row.lost, row.stale)
        recovery = "" if row.recovery is None else f"{row.recovery:.2f} s"
        cells = (*map(str, numbers), f"{row.longest:.2f} s", recovery)
        lines += [f"{_line(row.fault, width, cells)}  {row.outcome}"]
        lines += [f"{'':4}{note}" for note in row.notes]
    return lines


def _line(fault: str, width: int, cells: tuple[str, ...]) -> str:
    return f"{fault:{width}} " + " ".join(f"{cell:>8}" for cell in cells)
