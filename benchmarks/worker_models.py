"""gunicorn's worker models, measured on the service: ``python -m benchmarks.worker_models``.

One worker process on one core; wrk (Debian's package), PostgreSQL and Valkey on the other. Every
model is up at the same time and they are measured in turn, so that drift of the machine meets
all alike. Prints medians over the rounds as a Markdown table.
"""

import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx

from tests.e2e.service import GUNICORN, RunningService, running
from tests.servers import embedded

ROUNDS = 5
SECONDS = 2
CLIENTS = 50
SLOW_CLIENTS = 100
MODELS = {
    "`sync`": ["-k", "sync"],
    "`gthread`, 8 threads": ["-k", "gthread", "--threads", "8"],
    "`gevent`": ["-k", "gevent"],
    "`gunicorn_worker.Worker` (ours)": [],
}
UNITS_IN_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def main() -> None:
    service_core, load_core = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, {load_core})
    figures: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = stack.enter_context(embedded(folder))
        environment = {
            "DATABASE_URL": servers.database_url,
            "REDIS_URL": servers.redis_url,
            "WEB_CONCURRENCY": "1",
        }
        services = {}
        for number, (model, options) in enumerate(MODELS.items()):
            command = ["taskset", "-c", str(service_core), *GUNICORN, *options]
            log = folder / f"{number}.log"
            services[model] = stack.enter_context(running(log, environment, command))
        user = {"username": "ada", "email": "ada@example.com"}
        created = httpx.post(next(iter(services.values())).url + "/api/v1/users", json=user)
        created.raise_for_status()
        for number in range(ROUNDS):
            for model, service in services.items():
                print(f"round {number + 1} of {ROUNDS}: {model}", file=sys.stderr)
                figures[model].append((*under_load(service), behind_slow_clients(service)))
    titles = ("worker", "requests/s", "p50, ms", "p99, ms", "failed")
    print("| " + " | ".join(titles) + " | `/health/live` behind slow clients, ms |")
    print("|---|---|---|---|---|---|")
    for model, rounds in figures.items():
        medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
        print(f"| {model} | " + " | ".join(f"{median:,.0f}" for median in medians) + " |")


def under_load(service: RunningService) -> tuple[float, float, float, float]:
    """Return requests per second, p50 and p99 of their times in ms, and how many failed."""
    url = f"{service.url}/api/v1/users/1"
    command = ["wrk", "-t1", f"-c{CLIENTS}", f"-d{SECONDS}s", "--latency", url]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    failed = sum(map(int, re.findall(r"(?:responses:|timeout) (\d+)", report)))
    per_second = float(re.findall(r"Requests/sec:\s+([\d.]+)", report)[0])
    times = dict(re.findall(r"(50|99)%\s+([\d.]+\w+)", report))
    return per_second, in_ms(times["50"]), in_ms(times["99"]), failed


def in_ms(text: str) -> float:
    number, unit = re.findall(r"([\d.]+)(\w+)", text)[0]
    return float(number) * UNITS_IN_MS[unit]


def behind_slow_clients(service: RunningService) -> float:
    """Return the ms until liveness answers while others trickle a header; 5,000 is "not at all"."""
    with ExitStack() as stack:
        address = ("127.0.0.1", service.port)
        slow = [stack.enter_context(socket.create_connection(address)) for _ in range(SLOW_CLIENTS)]
        for each in slow:
            each.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        time.sleep(0.2)
        began = time.perf_counter()
        with suppress(httpx.TransportError):
            httpx.get(f"{service.url}/health/live", timeout=5)
        return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
