"""``/metrics`` under each server: one answer for all worker processes, whatever becomes of them."""

import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests import scrapes
from tests.e2e.service import GUNICORN, SERVERS, RunningService, Start
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

    def mapped() -> set[str]:
        maps = Path(f"/proc/{worker}/maps").read_text()
        return {line.split()[-1] for line in maps.splitlines() if "/counter_" in line}

    eventually(lambda: len(mapped()) == 1)  # a worker that has just started has none
    (counters,) = mapped()
    return Path(counters).parent


@pytest.fixture
def service(start: Start) -> Iterator[RunningService]:
    """The service as it is by default: the server makes the directory, and removes it."""
    with start(PROMETHEUS_MULTIPROC_DIR="", DRAIN_DELAY="0") as started:
        eventually(lambda: pools(started) == 20)  # until all of its workers are there
        made = directory_of(started.workers[0]).parent
        assert (made.parent, made.stat().st_mode & 0o777) == (Path("/dev/shm"), 0o700)
        yield started
        assert started.stop() == 0
        assert not made.exists()


def test_counters_of_all_workers_are_in_every_scrape_and_outlive_a_reload(
    service: RunningService,
) -> None:
    """tests/faults/test_processes.py kills workers under load."""
    ask(service, 40)
    before = lives(service)
    assert before >= 40
    assert [lives(service) for _ in range(10)] == [before] * 10
    counted = scrapes.samples(scraped(service))
    workers = service.workers
    files = sorted(directory_of(workers[0]).iterdir())
    service.process.send_signal(signal.SIGHUP)
    eventually(lambda: is_replaced(service, workers))
    assert scrapes.gone_backwards(counted, scrapes.samples(scraped(service))) == []
    # A reload starts the new workers before it ends the old ones: each has a place of its own.
    assert len(sorted(files[0].parent.iterdir())) <= 2 * len(files)
    ask(service, 1)
    assert lives(service) > before


def is_replaced(service: RunningService, workers: list[int]) -> bool:
    """Tell whether none of ``workers`` is left, and others are as many and ready."""
    now = service.workers
    return len(now) == len(workers) and not set(now) & set(workers) and pools(service) == 20


def pools(service: RunningService) -> float:
    try:
        return scrapes.value(scraped(service), "pool_connections_max", pool="database")
    except (KeyError, httpx.TransportError):  # nobody is there yet to tell of, or to tell
        return 0


@pytest.fixture
def small_memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory with space for the metrics of one process."""
    folder = tmp_path / "memory"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_full_memory_costs_metrics_and_no_worker(start: Start, small_memory: Path) -> None:
    with start(PROMETHEUS_MULTIPROC_DIR=str(small_memory)) as service:
        eventually(lambda: "shares no metrics: No space left on device" in service.log)
        workers = service.workers
        with suppress(OSError):
            (small_memory / "fill").write_bytes(bytes(1 << 21))
        for n in range(40):
            for path in (f"{URL}?q=a", f"/nowhere/{n}", f"{URL}/0", "/metrics", "/docs"):
                assert HTTP.get(service.url + path).status_code in (200, 404)
            assert HTTP.patch(service.url + URL).status_code == 405
        assert service.workers == workers


def test_directory_of_a_killed_launcher_is_removed_by_the_next_start(start: Start) -> None:
    with start(PROMETHEUS_MULTIPROC_DIR="") as killed:
        made = directory_of(killed.workers[0]).parent
        killed.process.kill()
    assert made.exists()
    with start(PROMETHEUS_MULTIPROC_DIR="") as service:
        assert not made.exists()
        beside = directory_of(service.workers[0]).parent
        with start(PROMETHEUS_MULTIPROC_DIR=""):
            assert beside.exists()


@pytest.mark.parametrize("server", ["gunicorn"])
@pytest.mark.parametrize(
    ("command", "variables"),
    [([*GUNICORN[:-1], "--preload", GUNICORN[-1]], {}), (None, {"GUNICORN_CMD_ARGS": "--preload"})],
)
def test_workers_of_a_preloaded_application_share_metrics(
    start: Start, command: list[str] | None, variables: dict[str, str]
) -> None:
    with start(command, **variables) as service:
        with ThreadPoolExecutor(40) as threads:
            answers = list(threads.map(HTTP.get, [f"{service.url}{URL}/1"] * 400))
        assert {answer.status_code for answer in answers} == {404}
        asked = {"route": f"{URL}/<user_id:user_id>", "method": "GET", "status": "404"}
        counted = scrapes.value(scraped(service), "http_request_duration_seconds_count", **asked)
        assert counted == 400
        assert pools(service) == 20
        assert service.stop() == 0
    assert not {"Traceback", "Warning"} & set(re.findall(r"[A-Z][a-z]+", service.log))
