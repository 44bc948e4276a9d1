"""The CPU time of a request by library, under load: what the ratios to the peers are made of.

py-spy samples the stacks of the running server. A sample belongs to the library of its innermost
frame; frames of the standard library belong to their caller, except for ``logging``.
"""

import re
import subprocess
from collections import Counter

from benchmarks.comparisons import STORED
from benchmarks.load import CACHED, CREATE, FEW, GET, UNCACHED, Workload
from benchmarks.measure import Bench, process_tree, run_load, warm_up
from benchmarks.stand import Server
from benchmarks.targets import FASTAPI, OURS, OURS_ON_GRANIAN, SERVICE, program

PROFILED = (CACHED, UNCACHED, GET, CREATE)
PROFILED_TARGETS = (OURS, OURS_ON_GRANIAN, FASTAPI)
SAMPLES_PER_SECOND = 500
ALL = "all"
# The first match counts. The service's cursor is psycopg2's, which has no frames of its own, and
# what gevent's send() takes is the kernel's time.
PARTS = {
    "psycopg2": re.compile(r"^Cursor\.execute \(.*/user_service/database/"),
    "this service": re.compile(re.escape(f"({SERVICE}/")),
    "sending": re.compile(r"^SocketMixin\.send \(.*/site-packages/gevent/"),
    "gunicorn, gevent": re.compile(r"/site-packages/(gunicorn|gevent)/"),
    "Flask, Werkzeug": re.compile(r"/site-packages/(flask|werkzeug)/"),
    "redis-py": re.compile(r"/site-packages/redis/"),
    "validation": re.compile(r"/site-packages/(pydantic|email_validator|idna)/"),
    "logging": re.compile(r"/logging/__init__\.py"),
    "metrics": re.compile(r"/site-packages/prometheus_client/"),
}
# A thread of gevent's pool, which waits for names to look up and for nothing else.
IDLE = "gevent/threadpool.py"


def profile(bench: Bench) -> None:
    """Measure the CPU time of a request of each target, and its parts on gunicorn."""
    seconds = bench.effort.rounds * bench.effort.seconds
    for target in PROFILED_TARGETS:
        bench.stand.reset(STORED)
        with bench.stand.serve(target, STORED) as server:
            warm_up(server)
            for workload in PROFILED:
                bench.say(f"{target.label}: {workload.title}")
                seen, busy = run_load(server, workload, clients=FEW, seconds=seconds)
                micros = busy * seen.seconds / seen.requests * 1e6
                shares = {ALL: 1.0}
                if target is OURS:
                    shares |= _shares(bench, server, workload, seconds)
                for part, share in shares.items():
                    labels = {"target": target.name, "workload": workload.name, "part": part}
                    bench.results.add({"micros": share * micros}, **labels)


def _shares(bench: Bench, server: Server, workload: Workload, seconds: int) -> dict[str, float]:
    """Return the share of each part under a load of its own, because sampling takes time too."""
    stacks = bench.stand.folder / "stacks"
    worker = process_tree(server.pid)[-1]
    command = [program("py-spy"), "record", "--pid", str(worker), "--duration", str(seconds)]
    command += ["--rate", str(SAMPLES_PER_SECOND), "--format", "raw", "--full-filenames"]
    command += ["--output", str(stacks)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sampler:
        run_load(server, workload, clients=FEW, seconds=seconds + 2)
    if sampler.returncode != 0:
        raise subprocess.CalledProcessError(sampler.returncode, command)
    samples: Counter[str] = Counter()
    # A line is a stack, outermost frame first, and the number of its samples.
    for line in stacks.read_text(encoding="utf-8").splitlines():
        stack, _, number = line.rpartition(" ")
        if IDLE not in stack:
            samples[_part_of(stack.split(";"))] += int(number)
    return {part: number / samples.total() for part, number in samples.items()}


def _part_of(frames: list[str]) -> str:
    for frame in reversed(frames):
        for part, form in PARTS.items():
            if form.search(frame):
                return part
    return "other"
