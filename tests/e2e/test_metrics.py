"""``/metrics`` under each server: one answer for all worker processes, whatever becomes of them."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests import scrapes
from tests.e2e.service import SERVERS, RunningService, running
from tests.waiting import eventually

URL = "/api/v1/users"
HEALTHY = {"route": "/health/live", "method": "GET", "status": "200"}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Each request on a connection of its own: any of the workers may get it.
HTTP = httpx.Client(headers={"Connection": "close"}, timeout=10)


def scraped(service: RunningService) -> str:
    return HTTP.get(f"{service.url}/metrics").text


def lives(service: RunningService) -> float:
    """Return how often liveness was asked for."""
    return scrapes.value(scraped(service), "http_request_duration_seconds_count", **HEALTHY)


def ask(service: RunningService, number: int) -> None:
    """Ask for liveness."""
    for _ in range(number):
        assert HTTP.get(f"{service.url}/health/live").status_code == 200


def directory_of(worker: int) -> Path:
    """Return where a process keeps its metrics, as its memory map shows."""
    maps = Path(f"/proc/{worker}/maps").read_text()
    (counters,) = {line.split()[-1] for line in maps.splitlines() if "/counter_" in line}
    return Path(counters).parent


@pytest.fixture
def service(tmp_path: Path, environment: dict[str, str]) -> Iterator[RunningService]:
    """The service as it is by default: the server makes the directory, and removes it."""
    own = environment | {"PROMETHEUS_MULTIPROC_DIR": "", "DRAIN_DELAY": "0"}
    with running(tmp_path / "service.log", own) as started:
        eventually(lambda: pools(started) == 20)  # until all of its workers are there
        made = directory_of(started.workers[0]).parent
        assert (made.parent, made.stat().st_mode & 0o777) == (Path("/dev/shm"), 0o700)
        yield started
        assert started.stop() == 0
        assert not made.exists()


def test_counters_of_all_workers_are_in_every_scrape_and_outlive_them(
    service: RunningService,
) -> None:
    ask(service, 40)
    before = lives(service)
    assert before >= 40
    assert [lives(service) for _ in range(10)] == [before] * 10
    assert pools(service) == 20
    for replace in (kill_workers, reload):
        counted = scrapes.samples(scraped(service))
        workers = service.workers
        files = sorted(directory_of(workers[0]).iterdir())
        replace(service)
        eventually(partial(is_replaced, service, workers))
        assert scrapes.gone_backwards(counted, scrapes.samples(scraped(service))) == []
        # A reload starts the new workers before it ends the old ones: each has a place of its own.
        assert len(sorted(files[0].parent.iterdir())) <= 2 * len(files)
        ask(service, 1)
    assert lives(service) > before


def kill_workers(service: RunningService) -> None:
    for worker in service.workers:
        os.kill(worker, signal.SIGKILL)


def reload(service: RunningService) -> None:
    service.process.send_signal(signal.SIGHUP)


def is_replaced(service: RunningService, workers: list[int]) -> bool:
    """Tell whether none of ``workers`` is left, and others are as many and ready."""
    now = service.workers
    return len(now) == len(workers) and not set(now) & set(workers) and pools(service) == 20


def pools(service: RunningService) -> float:
    try:
        return scrapes.value(scraped(service), "pool_connections_max", pool="database")
    except (KeyError, httpx.TransportError):  # nobody is there yet to tell of, or to tell
        return 0
