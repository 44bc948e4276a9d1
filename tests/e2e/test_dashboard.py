"""The dashboard: each panel finds data in a Prometheus that scraped the service through faults."""

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
import yaml

from dev.servers import PostgresServer, RedisServer
from tests.e2e.service import RunningService, free_port, running
from tests.programs import program
from tests.waiting import eventually

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/user-service.json").read_text("utf-8"))
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if "targets" in panel}
URL = "/api/v1/users"
WINDOW = "2m"  # in the place of Grafana's $__rate_interval

pytestmark = pytest.mark.timeout(180)

# What must have moved, or the panels would only show that nothing happens.
MOVED = {
    "Wait for a database connection": {"database: p50", "database: p99"},
    "Pool: failures": {"database: checkout time-outs", "database: connections replaced"},
    "Calls with a transient failure": {"recovered"},
    "Circuit breakers": {"redis"},  # that of the database has closed again
    "Circuit breakers: openings": {"database", "redis"},
    "Page cache": {"hit", "miss", "bypass", "stale"},
    "Page cache: hit ratio": {"hits"},
    "Page cache: failures": {"invalidations failed"},
    "Responses of the API": {"200", "201", "503"},
    "Errors: share of the API's requests": {"5xx"},
}


class Prometheus:
    """A running Prometheus with the repository's configuration."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=f"{url}/api/v1", timeout=10)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of ``expression`` now; fail if it is not valid."""
        answer = self._http.get("/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def is_up(self) -> bool:
        with suppress(httpx.TransportError, json.JSONDecodeError):  # it is starting
            return bool(self.query('up{job="user-service"} == 1'))
        return False

    def close(self) -> None:
        self._http.close()


@contextmanager
def prometheus(folder: Path, service: RunningService) -> Iterator[Prometheus]:
    """Start Prometheus on a free port; only addresses, paths and intervals are others."""
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))
    (job, _itself) = config["scrape_configs"]
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
        with closing(Prometheus(f"http://{address}")) as client:
            eventually(client.is_up, timeout=30)
            yield client
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def traffic(service: RunningService) -> Iterator[None]:
    """Read and write all the time."""
    over = threading.Event()

    def work(client_number: int) -> None:
        with httpx.Client(base_url=service.url, timeout=20) as http:
            for number in range(10**6):
                if over.wait(0.02):
                    return
                name = f"user{client_number}-{number}"
                with suppress(httpx.TransportError):
                    http.get(URL, params={"page": number % 3 + 1})
                    http.get(f"{URL}/1")
                    if number % 10 == 0:
                        http.post(URL, json={"username": name, "email": f"{name}@example.com"})

    with ThreadPoolExecutor(4) as threads:
        working = [threads.submit(work, number) for number in range(4)]
        try:
            yield
        finally:
            over.set()
        for each in working:
            each.result()


def hold_up(postgres: PostgresServer, seconds: float) -> None:
    """Lock the users for a while, then end the connection of who waits for them.

    After a second, others have mostly waited for a connection for longer than they may.
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
    """Return the series for each query of each panel, when all that they show has happened."""
    folder = tmp_path_factory.mktemp("dashboard")
    with (
        PostgresServer(folder / "postgres", durable=False) as postgres,
        RedisServer(folder / "redis") as redis,
        running(folder / "service.log", small(postgres, redis)) as service,
        prometheus(folder, service) as server,
        traffic(service),
    ):
        httpx.get(f"{service.url}/health/ready", timeout=20)
        eventually(lambda: moved(server, "page_cache_requests_total", 'result="hit"'))
        while not moved(server, "pool_checkout_timeouts_total", ""):
            hold_up(postgres, 1)  # on a busy machine it may take that for somebody to wait at all
        while not moved(server, "retries_total", 'outcome="recovered"'):
            hold_up(postgres, 0.1)  # not everyone whose connection is lost gets another in time
            time.sleep(0.5)  # calls that go well pay for further retries
        postgres.stop()
        eventually(lambda: is_open(server, "database"), timeout=30)
        eventually(lambda: moved(server, "page_cache_requests_total", 'result="stale"'))
        postgres.start()
        redis.stop()
        eventually(lambda: is_open(server, "redis"), timeout=30)
        eventually(lambda: moved(server, "page_cache_invalidation_failures_total", ""), timeout=30)
        return {
            title: [server.query(asked(target)) for target in panel["targets"]]
            for title, panel in PANELS.items()
        }


def small(postgres: PostgresServer, redis: RedisServer) -> dict[str, str]:
    """Return the environment of a service whose pool is soon exhausted, and whose pages are old."""
    scarce = {"CACHE_TTL": "1", "DB_POOL_SIZE": "1", "DB_POOL_TIMEOUT": "0.3", "RETRY_DELAY": "0.1"}
    return {"DATABASE_URL": postgres.url, "REDIS_URL": redis.url, "REDIS_TIMEOUT": "1", **scarce}


def moved(server: Prometheus, metric: str, labels: str) -> bool:
    """Tell whether Prometheus has seen a counter of the service grow."""
    return bool(server.query(f"increase(user_service_{metric}{{{labels}}}[{WINDOW}]) > 0"))


def is_open(server: Prometheus, dependency: str) -> bool:
    state = f'user_service_circuit_breaker_state{{dependency="{dependency}"}}'
    return bool(server.query(f"{state} > 0"))


def asked(target: dict[str, Any]) -> str:
    expression: str = target["expr"].replace("$__rate_interval", WINDOW).replace("$instance", ".*")
    assert "$" not in expression
    return expression


@pytest.mark.parametrize("title", PANELS)
def test_every_query_of_the_panel_finds_data(answers: Answers, title: str) -> None:
    for target, series in zip(PANELS[title]["targets"], answers[title], strict=True):
        assert series, target["expr"]
        values = [float(each["value"][1]) for each in series]
        assert any(value == value for value in values), target["expr"]  # noqa: PLR0124 -- not NaN


def filled_in(legend: str, labels: dict[str, str]) -> str:
    """Return what Grafana makes of a legend."""
    return re.sub(r"{{(\w+)}}", lambda name: labels[name[1]], legend)


@pytest.mark.parametrize("title", MOVED)
def test_panel_shows_what_happened(answers: Answers, title: str) -> None:
    shown = set()
    for target, series in zip(PANELS[title]["targets"], answers[title], strict=True):
        legend = target["legendFormat"].removesuffix(" of {{instance}}")
        moved = [each["metric"] for each in series if float(each["value"][1]) > 0]
        shown |= {filled_in(legend, labels) for labels in moved}
    assert shown >= MOVED[title]
