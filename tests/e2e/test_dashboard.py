"""The dashboard: each panel finds data in a Prometheus that scraped the service during faults."""

import json
import math
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
import yaml

from dev.ports import free_port
from dev.servers import PostgresServer, RedisServer
from tests.e2e.service import RunningService, running
from tests.faults.harness.clients import Load, Mix
from tests.programs import ROOT, program
from tests.waiting import eventually

DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/user-service.json").read_text("utf-8"))
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if "targets" in panel}
WINDOW = "2m"  # replaces Grafana's $__rate_interval
MIX = Mix(clients=4, create=3, update=2, delete=2, read=45, list=48)

pytestmark = pytest.mark.timeout(180)

# The series of each panel that must be above zero after the faults.
MOVED = {
    "Wait for a database connection": {"database: p50", "database: p99"},
    "Pool: trouble": {"database: checkout time-outs", "database: connections replaced"},
    "Calls that met a transient failure": {"recovered"},
    "Circuit breakers": {"redis"},  # the database breaker has closed again
    "Circuit breakers: openings": {"database", "redis"},
    "Page cache": {"hit", "miss", "bypass", "stale"},
    "Page cache: hit ratio": {"hits"},
    "Page cache: trouble": {"invalidations failed"},
    "Responses of the API": {"200", "201", "503"},
    "Errors, of the API's requests": {"5xx"},
}


class Prometheus:
    """A running Prometheus with the repository's configuration."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/api/v1/query"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the current series of ``expression``; fail if it is invalid."""
        answer = httpx.get(self._url, params={"query": expression}, timeout=10).json()
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def is_up(self) -> bool:
        with suppress(httpx.TransportError, json.JSONDecodeError):  # Prometheus is starting
            return bool(self.query('up{job="user-service"} == 1'))
        return False


@contextmanager
def prometheus(folder: Path, service: RunningService) -> Iterator[Prometheus]:
    """Start Prometheus on a free port, with other addresses, paths and intervals only."""
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))
    (job, *_others) = config["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{service.port}"]}]
    config["scrape_configs"] = [job]
    config["global"] = dict.fromkeys(config["global"], "1s")
    config["rule_files"] = [str(DEPLOY / "prometheus/rules/*.yml")]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/prometheus",
        f"--web.listen-address={address}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([program("prometheus"), *arguments], stdout=log, stderr=log)
    try:
        client = Prometheus(f"http://{address}")
        eventually(client.is_up)
        yield client
    finally:
        process.terminate()
        process.wait(20)


def hold_up(postgres: PostgresServer, seconds: float) -> None:
    """Lock the users for ``seconds``, then end the connections that wait for the lock.

    After a second, most other requests have timed out waiting for a connection.
    """
    with closing(psycopg2.connect(postgres.admin_url)) as connection, connection:
        cursor = connection.cursor()
        cursor.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        time.sleep(seconds)
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        )


Answers = dict[str, list[list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Return the series of each query of each panel, after all faults have happened."""
    folder = tmp_path_factory.mktemp("dashboard")
    with (
        PostgresServer(folder / "postgres", durable=False) as postgres,
        RedisServer(folder / "redis") as redis,
        running(folder / "service.log", small(postgres, redis)) as service,
        prometheus(folder, service) as server,
        Load(service.url, deadline=20, mix=MIX),
    ):
        httpx.get(f"{service.url}/health/ready", timeout=20)
        eventually(lambda: moved(server, "page_cache_requests_total", 'result="hit"'))
        while not moved(server, "pool_checkout_timeouts_total", ""):
            hold_up(postgres, 1)  # a busy machine needs several attempts until requests wait
        while not moved(server, "retries_total", 'outcome="recovered"'):
            hold_up(postgres, 0.1)  # not every lost connection is replaced in time
            time.sleep(0.5)  # successful calls refill the retry budget
        postgres.stop()
        eventually(lambda: is_open(server, "database"))
        eventually(lambda: moved(server, "page_cache_requests_total", 'result="stale"'))
        postgres.start()
        redis.stop()
        eventually(lambda: is_open(server, "redis"))
        eventually(lambda: moved(server, "page_cache_invalidation_failures_total", ""))
        return {
            title: [server.query(asked(target)) for target in panel["targets"]]
            for title, panel in PANELS.items()
        }


def small(postgres: PostgresServer, redis: RedisServer) -> dict[str, str]:
    """Return the environment of a service with a tiny pool and a short CACHE_TTL."""
    scarce = {"CACHE_TTL": "1", "DB_POOL_SIZE": "1", "DB_POOL_TIMEOUT": "0.3", "RETRY_DELAY": "0.1"}
    return {"DATABASE_URL": postgres.url, "REDIS_URL": redis.url, "REDIS_TIMEOUT": "1", **scarce}


def moved(server: Prometheus, metric: str, labels: str) -> bool:
    """Return whether Prometheus has seen a counter of the service grow."""
    return bool(server.query(f"increase(user_service_{metric}{{{labels}}}[{WINDOW}]) > 0"))


def is_open(server: Prometheus, dependency: str) -> bool:
    state = f'user_service_circuit_breaker_state{{dependency="{dependency}"}}'
    return bool(server.query(f"{state} > 0"))


def asked(target: dict[str, Any]) -> str:
    expression: str = target["expr"].replace("$__rate_interval", WINDOW).replace("$instance", ".*")
    assert "$" not in expression
    return expression


def filled_in(legend: str, labels: dict[str, str]) -> str:
    """Return a legend with its labels filled in, as Grafana does."""
    return re.sub(r"{{(\w+)}}", lambda name: labels.get(name[1], ""), legend)


def test_panels_fill_a_rectangle_and_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    height = max(place["y"] + place["h"] for place in places)
    assert sorted(cells) == [(x, y) for x in range(24) for y in range(height)]


@pytest.mark.parametrize("title", PANELS)
def test_every_query_of_the_panel_finds_data_and_shows_what_happened(
    answers: Answers, title: str
) -> None:
    shown = set()
    for target, series in zip(PANELS[title]["targets"], answers[title], strict=True):
        values = [float(each["value"][1]) for each in series]
        assert not all(map(math.isnan, values)), target["expr"]
        legend = target["legendFormat"].removesuffix(" of {{instance}}")
        moved = [each["metric"] for each in series if float(each["value"][1]) > 0]
        shown |= {filled_in(legend, labels) for labels in moved}
    assert shown >= MOVED.get(title, set())
