"""Metrics: bounded labels, series that begin with 0, and files that several processes share."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from prometheus_client import CollectorRegistry, generate_latest, values
from pytest_mock import MockerFixture

from tests import scrapes
from tests.e2e.service import SERVICE
from tests.scrapes import Sample
from user_service.observability import metric_files
from user_service.observability.logs import AccessLog
from user_service.observability.metrics import UNMATCHED, Metrics
from user_service.resilience.breaker import CircuitBreaker
from user_service.resilience.retry import Outcome
from user_service.web.middleware import UNANSWERED, RequestMiddleware


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """Return one value; fail if there is none."""
    return scrapes.value(metrics.exposition().decode(), name, **labels)


def samples(metrics: Metrics) -> dict[Sample, float]:
    return scrapes.samples(metrics.exposition().decode())


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_counters_are_there_before_anything_was_counted(metrics: Metrics) -> None:
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
        access_log=AccessLog("WARNING", "text"),
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
        assert len(metrics.http._durations) == 2
        labels = {"route": "unmatched", "method": "other", "status": "404"}
        assert value(metrics, "http_request_duration_seconds_count", **labels) == 1 + len(hostile)

    def test_request_is_in_flight_while_it_is_worked_on(self, metrics: Metrics) -> None:
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

    def test_error_outside_of_flask_is_counted_as_the_500_that_the_server_makes_of_it(
        self, metrics: Metrics, mocker: MockerFixture
    ) -> None:
        app = Flask("test")
        mocker.patch.object(app, "wsgi_app", side_effect=KeyError)
        with pytest.raises(KeyError):
            surrounded(app, metrics).test_client().get("/")
        labels = {"route": UNMATCHED, "method": "GET", "status": "500"}
        assert value(metrics, "http_request_duration_seconds_count", **labels) == 1

    def test_context_without_a_request_takes_nothing_out_of_flight(
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


# A worker process: it tells its slot, does what it is told, and waits for its end.
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
    def start(self, tmp_path: Path) -> Iterator[Callable[[], Worker]]:
        started: list[Worker] = []

        def start() -> Worker:
            started.append(Worker(tmp_path))
            return started[-1]

        yield start
        for worker in started:
            worker.kill()

    def scraped(self, directory: Path, name: str, **labels: str) -> float | None:
        exposition = generate_latest(metric_files.registry_of(directory)).decode()
        key = f"user_service_{name}", frozenset(labels.items())
        return scrapes.samples(exposition).get(key)

    def test_counts_of_all_are_added_up_and_survive_their_death(
        self, tmp_path: Path, start: Callable[[], Worker]
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
                assert self.scraped(tmp_path, name, **labels) == expected

    def test_child_of_a_fork_counts_on_its_own(
        self, tmp_path: Path, start: Callable[[], Worker]
    ) -> None:
        parent = start()
        parent.do("metrics.cache.hit.inc(3)")
        parent.do(
            "import os; child = os.fork();"
            " os.waitpid(child, 0) if child else (metrics.cache.hit.inc(4), os._exit(0))"
        )
        assert self.scraped(tmp_path, "page_cache_requests_total", result="hit") == 7
        parent.do("metrics.cache.hit.inc(5)")
        assert self.scraped(tmp_path, "page_cache_requests_total", result="hit") == 12

    def test_threads_lose_no_count(self, tmp_path: Path, start: Callable[[], Worker]) -> None:
        worker = start()
        worker.do("import sys; sys.setswitchinterval(1e-6)")
        worker.do("from concurrent.futures import ThreadPoolExecutor as Threads")
        worker.do("count = lambda _: [metrics.cache.hit.inc() for _ in range(2000)]")
        worker.do("_ = list(Threads(8).map(count, range(8)))")
        assert self.scraped(tmp_path, "page_cache_requests_total", result="hit") == 16_000

    def test_gauges_of_the_dead_are_gone_at_the_next_scrape(
        self, tmp_path: Path, start: Callable[[], Worker]
    ) -> None:
        first, second = start(), start()
        first.do("metrics.pools.of('database').in_use.set(3)")
        first.do("metrics.resilience.breaker_listener('redis')('open')")
        second.do("metrics.pools.of('database').in_use.set(4)")
        assert self.scraped(tmp_path, "pool_connections_in_use", pool="database") == 7
        assert self.scraped(tmp_path, "circuit_breaker_state", dependency="redis") == 2
        first.kill()
        assert self.scraped(tmp_path, "pool_connections_in_use", pool="database") == 4
        assert self.scraped(tmp_path, "circuit_breaker_state", dependency="redis") == 0

    def test_gauges_of_a_predecessor_are_not_taken_over(
        self, tmp_path: Path, start: Callable[[], Worker]
    ) -> None:
        first = start()
        first.do("metrics.pools.of('database').waiting.inc()")
        first.kill()
        start()  # before any scrape
        assert self.scraped(tmp_path, "pool_requests_waiting", pool="database") == 0

    def test_readiness_is_what_was_found_out_last(
        self, tmp_path: Path, start: Callable[[], Worker]
    ) -> None:
        first, second = start(), start()
        assert self.scraped(tmp_path, "ready") is None
        for worker, ready in ((second, 1), (first, 0), (second, 1)):
            worker.do(f"metrics.ready.set({ready})")
            assert self.scraped(tmp_path, "ready") == ready

    def test_files_do_not_grow_in_number_however_many_workers_are_replaced(
        self, tmp_path: Path, start: Callable[[], Worker]
    ) -> None:
        start()
        files = set()
        for number in range(1, 6):
            worker = start()
            worker.do("metrics.cache.hit.inc()")
            files.add(frozenset(path.name for path in tmp_path.iterdir()))
            worker.kill()
            assert self.scraped(tmp_path, "page_cache_requests_total", result="hit") == number
        assert len(files) == 1

    def test_slot_is_another_after_a_fork(self, tmp_path: Path) -> None:
        slot = metric_files.Slot(tmp_path)
        assert slot.name() == slot.name() == "0"
        child = os.fork()
        if child == 0:
            os._exit(7 if slot.name() == "1" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert slot.name() == "0"

    def test_slot_that_is_looked_at_by_a_scrape_is_not_waited_for(self, tmp_path: Path) -> None:
        with (tmp_path / "0.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert metric_files.Slot(tmp_path).name() == "1"

    def test_directory_is_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(values, "ValueClass", values.ValueClass)
        metric_files.share(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir()
        assert isinstance(metric_files.registry_of(tmp_path / "a" / "b"), CollectorRegistry)
