"""What a client did and what came of it: the lines of a history."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a client asked for."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    READ = "read"
    LIST = "list"


class Outcome(StrEnum):
    """What the client knows afterwards."""

    OK = "ok"  # 2xx: done
    REFUSED = "refused"  # 4xx: by the rules, and nothing was done
    FAILED = "failed"  # 503: the service says that nothing was done
    UNKNOWN = "unknown"  # 503 `outcome-unknown`, no answer, half an answer: done, or not


BAD = (Outcome.FAILED, Outcome.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Operation:
    """One request with its times (``time.monotonic``) and its outcome.

    A create or update writes ``value``, which no other operation writes; a read or an update
    that was refused with 404 saw ``value``, where None stands for "there is no such user". A list
    saw ``users``, the value of each user by its id.
    """

    kind: Kind
    outcome: Outcome
    started: float
    ended: float
    status: int | None = None
    user_id: int | None = None
    name: str = ""
    value: str | None = None
    users: Mapping[int, str] | None = None
    cache: str = ""
    client: int = 0
    complaint: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    def __str__(self) -> str:
        facts = (self.user_id, self.name, self.value, self.cache)
        what = " ".join(str(fact) for fact in facts if fact)
        return (
            f"{self.kind} {what} -> {self.status or 'no answer'} ({self.outcome})"
            f" {self.started:.3f}..{self.ended:.3f}"
        )


def failures(operations: Iterable[Operation]) -> list[Operation]:
    """Return the operations without a definite answer, or with a wrong one."""
    return [each for each in operations if each.complaint or each.outcome in BAD]
