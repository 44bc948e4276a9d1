"""How much is measured, how long that takes, and how far it has got."""

import sys
import time
from dataclasses import dataclass

TURN_SECONDS = 1
# Of a crowd, whose first requests all come at once: they are to be few beside the 99th percentile.
CROWD_SECONDS = 4


@dataclass(frozen=True, slots=True)
class Effort:
    """The sizes of a run. Times are in whole seconds, as wrk takes them.

    What is compared has ``turns`` in each round, of ``TURN_SECONDS``: two of a second rather than
    one of two, since a shared machine may be half as fast for a second.
    ``crowded`` are the workloads that 50 clients ask for too, beside the peers, in one turn of
    ``CROWD_SECONDS`` in each round; ``lonely`` those that one client alone asks for, in a turn of
    ``TURN_SECONDS``: what requests share, they share with others.
    """

    name: str
    rounds: int
    turns: int
    crowded: tuple[str, ...]
    lonely: tuple[str, ...]
    before_seconds: int
    before_users: tuple[int, ...]
    before_clients: tuple[int, ...]
    growth_users: tuple[int, ...]
    growth_requests: int
    redis_keys: tuple[int, ...]
    requests_for_memory: int

    @property
    def turns_by_round(self) -> list[range]:
        """The numbers of the turns of each round."""
        starts = range(0, self.rounds * self.turns, self.turns)
        return [range(start, start + self.turns) for start in starts]


QUICK = Effort(
    "quick",
    rounds=1,
    turns=1,
    crowded=("get",),
    lonely=(),
    before_seconds=1,
    before_users=(1_000, 10_000),
    before_clients=(10,),
    growth_users=(10_000, 100_000),
    growth_requests=50,
    redis_keys=(1, 10_000, 1_000_000),
    requests_for_memory=10_000,
)
FULL = Effort(
    "full",
    rounds=5,
    turns=2,
    crowded=("cached-10", "uncached", "get", "create", "update"),
    lonely=("get", "create"),
    before_seconds=1,
    before_users=(1_000, 10_000, 100_000),
    before_clients=(1, 10, 50),
    growth_users=(10_000, 1_000_000, 5_000_000),
    growth_requests=400,
    redis_keys=(1, 10_000, 1_000_000),
    requests_for_memory=1_000_000,
)


class Progress:
    """Says on stderr what is being done, and how long everything may still take."""

    def __init__(self, expected_seconds: float) -> None:
        self._expected = expected_seconds
        self._done = 0.0
        self._began = time.monotonic()

    def step(self, title: str, expected_seconds: float) -> None:
        """Say that ``title`` begins, which was expected to take so long."""
        elapsed = time.monotonic() - self._began
        left = remaining(self._expected, self._done, elapsed)
        print(f"[{_clock(elapsed)}, {_clock(left)} left] {title}", file=sys.stderr, flush=True)
        self._done += expected_seconds

    def warn(self, text: str) -> None:
        """Say what makes figures invalid, so that nobody overlooks it."""
        print(f"!!! {text}", file=sys.stderr, flush=True)


def remaining(expected: float, done: float, elapsed: float) -> float:
    """Return the seconds left, if the rest is as much slower than expected as the start was."""
    # Not by the first steps, which also wait for servers to start.
    slower = max(1.0, elapsed / done) if done > expected / 50 else 1.0
    return max(0.0, expected - done) * slower


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
