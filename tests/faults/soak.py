"""``make soak MINUTES=10``: mixed load for a while, and what the workers hold must stay flat.

Exits with 1 if memory, open files, threads or connections grow between minute 2 and the end, if
a request fails, or if the history of all requests does not agree with the database.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx

from tests.e2e.service import RunningService
from tests.faults import history
from tests.faults.harness.clients import Load, Mix
from tests.faults.harness.operations import Outcome
from tests.faults.harness.processes import footprint
from tests.faults.harness.stage import DEADLINE, POOL_SIZE, Stage, set_up

INTERVAL = 10.0
WARM_UP_MINUTES = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What all workers held together, and what had been answered by then."""

    second: float
    memory_mb: float
    files: int
    threads: int
    connections: int
    in_use: int
    requests: int


def main(minutes: float) -> int:
    with tempfile.TemporaryDirectory() as folder, set_up(Path(folder)) as stage:
        stage.reset()
        with stage.service() as service:
            load = Load(service.url, deadline=DEADLINE, mix=Mix(clients=8, keyed=0.3))
            load.start()
            try:
                samples = watch(stage, service, load, minutes)
            finally:
                load.stop()
            idle = httpx.get(f"{service.url}/health").json()["pool"]["in_use"]
            complaints = [*grown(samples, minutes), *answers(stage, load)]
            complaints += [f"pool in_use is {idle} at the end"] if idle else []
    print("\n".join(complaints) or "flat", flush=True)
    return 1 if complaints else 0


def watch(stage: Stage, service: RunningService, load: Load, minutes: float) -> list[Sample]:
    """Take a sample every ``INTERVAL`` seconds and print it."""
    samples: list[Sample] = []
    began = time.monotonic()
    while time.monotonic() < began + minutes * 60:
        time.sleep(INTERVAL)
        ports = (*stage.ports, service.port)
        held = [footprint(pid, ports) for pid in service.workers]
        sample = Sample(
            time.monotonic() - began,
            sum(each.memory_mb for each in held),
            sum(each.files for each in held),
            sum(each.threads for each in held),
            sum(sum(each.connections.values()) for each in held),
            httpx.get(f"{service.url}/health", timeout=20).json()["pool"]["in_use"],
            len(load.operations),
        )
        samples.append(sample)
        since = samples[-2].requests if len(samples) > 1 else 0
        print(
            f"{sample.second:5.0f} s  {(sample.requests - since) / INTERVAL:5.0f} requests/s"
            f"  memory {sample.memory_mb:6.1f} MB  files {sample.files:3}"
            f"  threads {sample.threads:3}  connections {sample.connections:3}"
            f"  pool in use {sample.in_use}",
            flush=True,
        )
    return samples


def grown(samples: list[Sample], minutes: float) -> list[str]:
    """Return what was more in the last quarter than in the first after the warm-up."""
    warm_up = min(WARM_UP_MINUTES, minutes / 2) * 60
    warm = [each for each in samples if each.second >= warm_up]
    quarter = max(1, len(warm) // 4)
    measures: list[tuple[str, Callable[[Sample], float], float]] = [
        ("memory in MB", lambda each: each.memory_mb, 3 + 0.02 * warm[0].memory_mb),
        ("open files", lambda each: each.files, 4),
        ("threads", lambda each: each.threads, 0),
        ("connections", lambda each: each.connections, 6),
        ("pool in use", lambda each: each.in_use, POOL_SIZE / 2),
    ]
    complaints = []
    for name, measure, allowed in measures:
        first = median(map(measure, warm[:quarter]))
        last = median(map(measure, warm[-quarter:]))
        print(f"{name}: {first:.1f} -> {last:.1f}", flush=True)
        if last > first + allowed:
            complaints.append(f"{name} grew from {first:.1f} to {last:.1f}")
    return complaints


def answers(stage: Stage, load: Load) -> list[str]:
    """Return what was wrong with the answers."""
    operations = load.operations
    bad = [each for each in operations if each.outcome in (Outcome.FAILED, Outcome.UNKNOWN)]
    complaints = [f"not answered as asked: {each}" for each in bad]
    complaints += [each.complaint for each in operations if each.complaint]
    complaints += history.check(operations, stage.users()).findings
    print(f"{len(operations)} requests, {len(complaints)} complaints", flush=True)
    return complaints[:15]


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 10))
