"""Load by wrk (Debian's package), and what it says of the answers."""

import itertools
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workloads import PAGE_SIZES, Workload

SCRIPT = Path(__file__).with_name("load.lua")
# A slow answer is measured, not counted as failed: the slowest target needs minutes at the worst.
TIMEOUT_SECONDS = 600

_runs = itertools.count()


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw: answers per second, half and 99 % of them within so many ms, failures.

    Failed is what could not connect, was cut, timed out, or had a status of 400 or more.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failed: int

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return self.requests / self.seconds


def load(url: str, workload: Workload, *, users: int, clients: int, seconds: int) -> Load:
    """Let ``clients`` ask ``url`` for ``seconds``, each for the next as soon as it is answered."""
    run = next(_runs)
    # By the clock: what an earlier run of the benchmark created may still be there.
    tag = f"{time.time_ns() // 1_000_000:x}n{run}"
    arguments = [str(users), tag, str(workload.pages or 1), *map(str, PAGE_SIZES), str(run)]
    for request in workload.requests:
        arguments += [str(request.weight), request.method, request.path, request.body]
    options = ["-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", f"{TIMEOUT_SECONDS}s"]
    command = ["wrk", *options, "-s", str(SCRIPT), url, "--", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:  # nobody listens
        print(done.stdout, done.stderr, sep="", end="", file=sys.stderr)
        return Load(0, seconds, 0, 0, failed=clients)
    return report_of(done.stdout)


def report_of(output: str) -> Load:
    """Return what the line of JSON says that ``load.lua`` prints last."""
    report = json.loads(output.splitlines()[-1])
    failed = sum(report[kind] for kind in ("connect", "read", "write", "status", "timeout"))
    return Load(
        report["requests"],
        report["microseconds"] / 1e6,
        report["p50"] / 1000,
        report["p99"] / 1000,
        failed,
    )
