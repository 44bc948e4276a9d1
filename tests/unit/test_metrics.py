"""Metrics: bounded labels, series that begin with 0, and files that several processes share."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock
from wsgiref.types import WSGIApplication

import pytest
from flask import Flask
from prometheus_client import generate_latest
from werkzeug.test import Client

from tests import scrapes
from tests.e2e.service import run
from tests.scrapes import Sample
from tests.unit.conftest import Clock
from user_service.observability.metric_files import forget_dead_processes
from user_service.observability.metrics import UNMATCHED, Metrics
from user_service.resilience.breaker import CircuitBreaker
from user_service.web.middleware import UNANSWERED, RequestMiddleware


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """Return one value; fail if there is none."""
    return scrapes.value(generate_latest(metrics.collector).decode(), name, **labels)


def samples(metrics: Metrics) -> dict[Sample, float]:
    return scrapes.samples(generate_latest(metrics.collector).decode())


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_counters_are_exposed_with_0_before_the_first_event(metrics: Metrics) -> None:
    totals = {key: value for key, value in samples(metrics).items() if key[0].endswith("_total")}
    assert {name.removeprefix("user_service_").removesuffix("_total") for name, _ in totals} == {
        *("rate_limited_requests", "pool_checkout_timeouts", "pool_connections_replaced"),
        *("page_cache_requests", "page_cache_stores_refused", "page_cache_invalidation_failures"),
        *("retries", "circuit_breaker_openings"),
    }
    assert set(totals.values()) == {0}


def client_of(app: WSGIApplication, metrics: Metrics) -> Client:
    return Client(RequestMiddleware(app, request_timeout=1, metrics=metrics))


class TestHttp:
    def test_hostile_methods_and_paths_make_no_new_series(self, metrics: Metrics) -> None:
        client = client_of(Flask("test"), metrics)
        hostile = ["FOO", "GETT", "X" * 5000, 'a"b\\c', "{}"]
        client.open("/nowhere", method="FOO")
        client.get("/nowhere")
        before = len(samples(metrics))
        for number, method in enumerate(hostile):
            client.open("/nowhere" + "/x" * number, method=method)
            client.open('/%00/"\n{}' + str(number))
        assert len(samples(metrics)) == before
        labels = {"route": "unmatched", "method": "other", "status": "404"}
        assert value(metrics, "http_request_duration_seconds_count", **labels) == 1 + len(hostile)

    @pytest.mark.parametrize(
        ("error", "status"), [(KeyError, "500"), (KeyboardInterrupt, str(UNANSWERED))]
    )
    def test_request_without_a_response_is_counted_by_what_has_ended_it(
        self, metrics: Metrics, error: type[BaseException], status: str
    ) -> None:
        with pytest.raises(error):
            client_of(Mock(side_effect=error), metrics).get("/")
        labels = {"route": UNMATCHED, "method": "GET", "status": status}
        assert value(metrics, "http_request_duration_seconds_count", **labels) == 1
        assert value(metrics, "http_requests_in_flight") == 0


def test_breaker_shows_its_state_and_counts_its_openings(metrics: Metrics, clock: Clock) -> None:
    breaker = CircuitBreaker(
        "it",
        failures=(ConnectionError,),
        threshold=1,
        clock=clock,
        on_change=metrics.breaker_listener("redis"),
    )

    def shown() -> tuple[float, float]:
        state = value(metrics, "circuit_breaker_state", dependency="redis")
        return state, value(metrics, "circuit_breaker_openings_total", dependency="redis")

    for before, after in (((0, 0), (2, 1)), ((1, 1), (2, 2))):
        with pytest.raises(ConnectionError), breaker.calling():
            assert shown() == before
            raise ConnectionError
        assert shown() == after
        clock.now += 2
    with breaker.calling():
        assert shown() == (1, 2)
    assert shown() == (0, 2)
    assert value(metrics, "circuit_breaker_state", dependency="database") == 0


# ``tests/e2e/test_metrics.py`` has the workers of the service and what becomes of their counters.
TWO_PROCESSES = """
import os
from pathlib import Path
from prometheus_client import generate_latest
from user_service.observability.metrics import Metrics

metrics = Metrics(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
metrics.ready.set(1)
to_child, to_parent = os.pipe(), os.pipe()
if os.fork() == 0:
    metrics.breaker_listener("redis")("open")
    metrics.ready.set(0)
    os.write(to_parent[1], b".")
    os.read(to_child[0], 1)
    os._exit(0)
os.read(to_parent[0], 1)
metrics.breaker_listener("redis")("half-open")
print(generate_latest(metrics.collector).decode())
metrics.ready.set(1)
print(generate_latest(metrics.collector).decode())
os.write(to_child[1], b".")
os.wait()
print(generate_latest(metrics.collector).decode())
"""


def test_files_of_a_process_keep_room_for_all_requests_and_its_memory_only_until_it_ends(
    tmp_path: Path,
) -> None:
    program = """
import os
from pathlib import Path
from user_service.observability import metric_files
directory = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
metric_files.reserve(directory)
from app import create_app
from user_service.settings import Settings
from user_service.web.openapi.document import document
from user_service.web.services import services_of
app = create_app(Settings(auth_api_keys=True, prometheus_multiproc_dir=directory))
for path, methods in document(app)["paths"].items():
    for method in methods:
        for status in methods[method]["responses"]:
            for each in ("HEAD", "OPTIONS", method.upper()):
                services_of(app).metrics.observe(path, each, int(status), 0.1)
"""
    ended = run([sys.executable, "-c", program], {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)})
    assert ended.returncode == 0, ended.stderr
    (file,) = tmp_path.glob("histogram_*.db")
    assert file.stat().st_size == 1 << 20  # it did not have to grow
    before = file.read_bytes()
    forget_dead_processes(tmp_path)
    assert file.read_bytes() == before
    assert sum(each.stat().st_blocks for each in tmp_path.iterdir()) * 512 < 1 << 20


def test_several_scrapes_at_once_leave_the_file_of_a_dead_process_whole(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    file = tmp_path / f"counter_{dead.pid}.db"
    content = b"content".ljust(1 << 20, b"\0")
    with ThreadPoolExecutor(4) as threads:
        for _ in range(50):
            file.write_bytes(content)
            list(threads.map(forget_dead_processes, [tmp_path] * 4))
            assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


def test_readiness_is_the_latest_of_all_living_processes_and_a_breaker_the_worst(
    tmp_path: Path,
) -> None:
    directory = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}
    told = run([sys.executable, "-c", TWO_PROCESSES], directory).stdout
    assert re.findall(r"^user_service_ready (\d)", told, re.MULTILINE) == ["0", "1", "1"]
    breaker = r'^user_service_circuit_breaker_state{dependency="redis"} (\d)'
    assert re.findall(breaker, told, re.MULTILINE) == ["2", "2", "1"]
