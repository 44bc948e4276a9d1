"""``make soak MINUTES=10``: mixed load for a while, and what the workers hold must stay flat.

Exits with 1 if memory, open files, threads or connections grow between minute 2 and the end, if
a request fails, or if the history of all requests does not agree with the database.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx

from tests.e2e.service import RunningService
from tests.faults.harness.clients import Load, Mix
from tests.faults.harness.operations import failures
from tests.faults.harness.processes import footprint
from tests.faults.harness.stage import POOL_SIZE, Stage, set_up
from tests.faults.history import check

INTERVAL = 10.0
WARM_UP_MINUTES = 2.0


def main(minutes: float) -> int:
    with tempfile.TemporaryDirectory() as folder, set_up(Path(folder)) as stage:
        stage.reset()
        with stage.service() as service:
            with Load(service.url, mix=Mix(clients=8, keyed=0.3)) as load:
                samples = watch(stage, service, load, minutes)
            idle = httpx.get(f"{service.url}/health").json()["pool"]["in_use"]
        wrong = [f"{each} {each.complaint}" for each in failures(load.operations)]
        wrong += check(load.operations, stage.users()).findings
    print(f"{len(load.operations)} requests, {len(wrong)} complaints", flush=True)
    complaints = grown(samples, minutes) + wrong[:15]
    complaints += [f"pool in_use is {idle} at the end"] if idle else []
    print("\n".join(complaints) or "flat", flush=True)
    return 1 if complaints else 0


def watch(
    stage: Stage, service: RunningService, load: Load, minutes: float
) -> list[dict[str, float]]:
    """Every ``INTERVAL`` seconds, print and return what all workers hold together."""
    samples: list[dict[str, float]] = []
    began, answered = time.monotonic(), 0
    while time.monotonic() < began + minutes * 60:
        time.sleep(INTERVAL)
        held = [footprint(pid, (*stage.ports, service.port)) for pid in service.workers]
        sample = {
            "memory in MB": sum(each.memory_mb for each in held),
            "open files": sum(each.files for each in held),
            "threads": sum(each.threads for each in held),
            "connections": sum(sum(each.connections.values()) for each in held),
            "pool in use": httpx.get(f"{service.url}/health").json()["pool"]["in_use"],
        }
        samples.append(sample)
        requests, answered = len(load.operations) - answered, len(load.operations)
        figures = "  ".join(f"{name} {value:.1f}" for name, value in sample.items())
        print(f"{requests / INTERVAL:5.0f} requests/s  {figures}", flush=True)
    return samples


def grown(samples: list[dict[str, float]], minutes: float) -> list[str]:
    """Return what was more in the last quarter than in the first after the warm-up."""
    warm = samples[int(min(WARM_UP_MINUTES, minutes / 2) * 60 / INTERVAL) :]
    quarter = max(1, len(warm) // 4)
    allowed = {
        "memory in MB": 3 + 0.02 * warm[0]["memory in MB"],
        "open files": 4,
        "threads": 0,
        "connections": 6,
        "pool in use": POOL_SIZE / 2,
    }
    complaints = []
    for name, more in allowed.items():
        first = median(sample[name] for sample in warm[:quarter])
        last = median(sample[name] for sample in warm[-quarter:])
        print(f"{name}: {first:.1f} -> {last:.1f}", flush=True)
        if last > first + more:
            complaints.append(f"{name} grew from {first:.1f} to {last:.1f}")
    return complaints


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 10))
