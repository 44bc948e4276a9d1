"""``/metrics`` under each server: every scrape covers all worker processes, also after they end."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests import scrapes
from tests.e2e.service import SERVERS, RunningService, running
from tests.faults.harness.processes import children
from tests.waiting import eventually

URL = "/api/v1/users"
HEALTHY = {"route": "/health/live", "method": "GET", "status": "200"}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Each request has a connection of its own, which any worker may accept.
HTTP = httpx.Client(headers={"Connection": "close"}, timeout=10)


def scraped(service: RunningService) -> str:
    return HTTP.get(f"{service.url}/metrics").text


def lives(service: RunningService) -> float:
    """Return the number of liveness requests that were counted."""
    return scrapes.value(scraped(service), "http_request_duration_seconds_count", **HEALTHY)


def ask(service: RunningService, number: int) -> None:
    """Send liveness requests."""
    for _ in range(number):
        assert HTTP.get(f"{service.url}/health/live").status_code == 200


def directory_of(worker: int) -> Path:
    """Return the folder of a process' metrics, from its memory map."""
    maps = Path(f"/proc/{worker}/maps").read_text()
    (counters,) = {line.split()[-1] for line in maps.splitlines() if "/counter_" in line}
    return Path(counters).parent


@pytest.fixture
def service(tmp_path: Path, environment: dict[str, str]) -> Iterator[RunningService]:
    """Start the service with its default folder, which the server creates and removes."""
    own = environment | {"PROMETHEUS_MULTIPROC_DIR": "", "DRAIN_DELAY": "0"}
    with running(tmp_path / "service.log", own) as started:
        eventually(lambda: pools(started) == 20)  # all workers have started
        made = directory_of(children(started.process.pid)[0])
        assert (made.parent, made.stat().st_mode & 0o777) == (Path("/dev/shm"), 0o700)
        yield started
        assert started.stop() == 0
        assert not made.exists()


def test_every_scrape_has_the_counters_of_all_workers_also_of_those_that_ended(
    service: RunningService,
) -> None:
    ask(service, 40)
    before = lives(service)
    assert before >= 40
    assert [lives(service) for _ in range(10)] == [before] * 10
    assert pools(service) == 20
    for replace in (kill_workers, reload):
        counted = scrapes.samples(scraped(service))
        workers = children(service.process.pid)
        replace(service)
        eventually(partial(is_replaced, service, workers))
        assert scrapes.gone_backwards(counted, scrapes.samples(scraped(service))) == []
        ask(service, 1)
    assert lives(service) > before


def kill_workers(service: RunningService) -> None:
    for worker in children(service.process.pid):
        os.kill(worker, signal.SIGKILL)


def reload(service: RunningService) -> None:
    service.process.send_signal(signal.SIGHUP)


def is_replaced(service: RunningService, workers: list[int]) -> bool:
    """Return whether as many other processes have taken the place of ``workers``."""
    now = children(service.process.pid)
    return len(now) == len(workers) and not set(now) & set(workers) and pools(service) == 20


def pools(service: RunningService) -> float:
    try:
        return scrapes.value(scraped(service), "pool_connections_max", pool="database")
    except (KeyError, httpx.TransportError):  # no worker has started yet
        return 0
