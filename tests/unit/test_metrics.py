"""Metrics: bounded labels, series that begin with 0, and files that several processes share."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from prometheus_client import generate_latest
from pytest_mock import MockerFixture

from tests import scrapes
from tests.e2e.service import SERVICE
from tests.scrapes import Sample
from user_service.observability.metrics import UNMATCHED, AllProcesses, Metrics
from user_service.resilience.breaker import CircuitBreaker
from user_service.resilience.retry import Outcome
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
    counted = samples(metrics)
    totals = {name for name, _ in counted if name.endswith("_total")}
    assert {f"user_service_{name}_total" for name in COUNTERS} == totals
    assert {value for (name, _), value in counted.items() if name.endswith("_total")} == {0}


COUNTERS = [
    "rate_limited_requests",
    "pool_checkout_timeouts",
    "pool_connections_replaced",
    "page_cache_requests",
    "page_cache_stores_refused",
    "page_cache_invalidation_failures",
    "retries",
    "circuit_breaker_openings",
]


def surrounded(app: Flask, metrics: Metrics) -> Flask:
    app.wsgi_app = RequestMiddleware(  # type: ignore[method-assign]
        app.wsgi_app,
        request_timeout=1,
        metrics=metrics.http,
    )
    return app


class TestHttp:
    @pytest.fixture
    def app(self, metrics: Metrics) -> Flask:
        """Return an application with one route, and the middleware around it."""
        app = Flask("test")
        app.add_url_rule("/users/<int:user_id>", "user", "{user_id}".format)
        return surrounded(app, metrics)

    def test_request_is_counted_by_template_method_and_status(
        self, app: Flask, metrics: Metrics
    ) -> None:
        for user_id in range(3):
            app.test_client().get(f"/users/{user_id}")
        labels = {"route": "/users/<int:user_id>", "method": "GET", "status": "200"}
        assert value(metrics, "http_request_duration_seconds_count", **labels) == 3
        assert 0 < value(metrics, "http_request_duration_seconds_sum", **labels) < 3
        assert value(metrics, "http_request_duration_seconds_bucket", le="5.0", **labels) == 3

    def test_hostile_methods_and_paths_make_no_new_series(
        self, app: Flask, metrics: Metrics
    ) -> None:
        client = app.test_client()
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

    def test_request_in_progress_is_in_flight(self, metrics: Metrics) -> None:
        app = Flask("test")
        seen: list[float] = []

        @app.get("/")
        def view() -> str:
            seen.append(value(metrics, "http_requests_in_flight"))
            raise ZeroDivisionError

        surrounded(app, metrics)
        assert app.test_client().get("/").status_code == 500
        assert seen == [1]
        assert value(metrics, "http_requests_in_flight") == 0

    def test_request_that_the_server_ends_is_counted_as_unanswered(self, metrics: Metrics) -> None:
        class Overdue(BaseException):
            pass

        app = Flask("test")

        @app.get("/")
        def view() -> str:
            raise Overdue

        surrounded(app, metrics)
        with pytest.raises(Overdue):
            app.test_client().get("/")
        labels = {"route": UNMATCHED, "method": "GET", "status": str(UNANSWERED)}
        assert value(metrics, "http_request_duration_seconds_count", **labels) == 1
        assert value(metrics, "http_requests_in_flight") == 0

    def test_error_outside_flask_is_counted_as_the_500_of_the_server(
        self, metrics: Metrics, mocker: MockerFixture
    ) -> None:
        app = Flask("test")
        mocker.patch.object(app, "wsgi_app", side_effect=KeyError)
        with pytest.raises(KeyError):
            surrounded(app, metrics).test_client().get("/")
        labels = {"route": UNMATCHED, "method": "GET", "status": "500"}
        assert value(metrics, "http_request_duration_seconds_count", **labels) == 1

    def test_context_without_a_request_does_not_change_the_requests_in_flight(
        self, app: Flask, metrics: Metrics
    ) -> None:
        with app.test_request_context("/"):
            pass
        assert value(metrics, "http_requests_in_flight") == 0

    @pytest.mark.parametrize("limit", ["default", "writes"])
    def test_refused_requests_are_counted_by_limit(self, metrics: Metrics, limit: str) -> None:
        metrics.http.count_rate_limited(limit)
        assert value(metrics, "rate_limited_requests_total", limit=limit) == 1


def test_retried_calls_are_counted_by_outcome(metrics: Metrics) -> None:
    for outcome in Outcome:
        metrics.resilience.count_retry(outcome)
        assert value(metrics, "retries_total", outcome=outcome) == 1


def test_breaker_shows_its_state_and_counts_its_openings(metrics: Metrics) -> None:
    now = [0.0]
    breaker = CircuitBreaker(
        "it",
        failures=(ConnectionError,),
        threshold=1,
        clock=lambda: now[0],
        on_change=metrics.resilience.breaker_listener("redis"),
    )

    def shown() -> tuple[float, float]:
        state = value(metrics, "circuit_breaker_state", dependency="redis")
        return state, value(metrics, "circuit_breaker_openings_total", dependency="redis")

    def call(error: Exception | None) -> list[tuple[float, float]]:
        try:
            with breaker.calling():
                seen = [shown()]
                if error is not None:
                    raise error
        except ConnectionError:
            pass
        return [*seen, shown()]

    assert call(ConnectionError()) == [(0, 0), (2, 1)]
    now[0] = 2
    assert call(ConnectionError()) == [(1, 1), (2, 2)]
    now[0] = 4
    assert call(None) == [(1, 2), (0, 2)]
    assert value(metrics, "circuit_breaker_state", dependency="database") == 0


# A worker process: it executes the lines that it reads, until it is killed.
WORKER = """
import sys
from pathlib import Path
from user_service.observability.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Worker:
    """A process that shares its metrics in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(directory)],
            cwd=SERVICE,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._expect("ready")

    def _expect(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def do(self, statement: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{statement}\n")
        self.process.stdin.flush()
        self._expect("done")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class TestSeveralProcesses:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        """Return a folder that does not exist yet."""
        return tmp_path / "of" / "metrics"

    @pytest.fixture
    def start(self, directory: Path) -> Iterator[Callable[[], Worker]]:
        started: list[Worker] = []

        def start() -> Worker:
            started.append(Worker(directory))
            return started[-1]

        yield start
        for worker in started:
            worker.kill()

    def scraped(self, directory: Path, name: str, **labels: str) -> float | None:
        exposition = generate_latest(AllProcesses(directory)).decode()
        return scrapes.samples(exposition).get((f"user_service_{name}", frozenset(labels.items())))

    def test_counts_are_added_up_and_survive_the_death_of_a_process(
        self, directory: Path, start: Callable[[], Worker]
    ) -> None:
        first, second = start(), start()
        first.do("metrics.cache.hit.inc(3)")
        second.do("metrics.cache.hit.inc(4)")
        second.do("metrics.http.observe('/', 'GET', 200, 0.5)")
        route = {"route": "/", "method": "GET", "status": "200"}
        counts = [("page_cache_requests_total", {"result": "hit"}, 7.0)]
        counts.append(("http_request_duration_seconds_count", route, 1.0))
        for change in (lambda: None, first.kill, second.kill, start):
            change()
            for name, labels, expected in counts:
                assert self.scraped(directory, name, **labels) == expected

    def test_child_of_a_fork_counts_on_its_own(
        self, directory: Path, start: Callable[[], Worker]
    ) -> None:
        parent = start()
        parent.do("metrics.cache.hit.inc(3)")
        parent.do(
            "import os; child = os.fork();"
            " os.waitpid(child, 0) if child else (metrics.cache.hit.inc(4), os._exit(0))"
        )
        assert self.scraped(directory, "page_cache_requests_total", result="hit") == 7
        parent.do("metrics.cache.hit.inc(5)")
        assert self.scraped(directory, "page_cache_requests_total", result="hit") == 12

    def test_live_gauges_of_a_killed_process_are_gone_at_the_next_scrape(
        self, directory: Path, start: Callable[[], Worker]
    ) -> None:
        first, second = start(), start()
        first.do("metrics.pools.of('database').in_use.set(3)")
        first.do("metrics.resilience.breaker_listener('redis')('open')")
        second.do("metrics.pools.of('database').in_use.set(4)")
        assert self.scraped(directory, "pool_connections_in_use", pool="database") == 7
        assert self.scraped(directory, "circuit_breaker_state", dependency="redis") == 2
        first.kill()
        assert self.scraped(directory, "pool_connections_in_use", pool="database") == 4
        assert self.scraped(directory, "circuit_breaker_state", dependency="redis") == 0

    def test_readiness_is_the_latest_result_of_any_process(
        self, directory: Path, start: Callable[[], Worker]
    ) -> None:
        first, second = start(), start()
        assert self.scraped(directory, "ready") is None
        for worker, ready in ((second, 1), (first, 0), (second, 1)):
            worker.do(f"metrics.ready.set({ready})")
            assert self.scraped(directory, "ready") == ready

    def test_files_of_other_programs_are_ignored(
        self, directory: Path, start: Callable[[], Worker]
    ) -> None:
        start().do("metrics.cache.hit.inc()")
        for name in ("sessions.db", "notes.txt", "counter_of_visits.db", "gauge_1.db"):
            (directory / name).write_text("of another program")
        assert self.scraped(directory, "page_cache_requests_total", result="hit") == 1
        assert (directory / "sessions.db").exists()
