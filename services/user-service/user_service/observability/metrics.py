"""All metrics of the service. Names and units follow Prometheus' conventions.

A gauge is set when its value changes, because a scrape reaches one worker process and reports all
of them. ``multiprocess_mode`` combines the values of the live processes: the sum (connections,
requests), the highest (a breaker's state) or the latest (readiness).
"""

import platform
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from user_service.observability.metric_files import files_in, forget_dead_processes

# From a cached page to REQUEST_TIMEOUT.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD = "other"
UNMATCHED = "unmatched"
STATES = ("closed", "half-open", "open")


class PoolMetrics(NamedTuple):
    """The metrics of one connection pool."""

    size: Gauge
    in_use: Gauge
    waiting: Gauge
    checkout: Histogram
    timeouts: Counter
    replaced: Counter
    unanswered: Gauge


class Metrics:
    """All metrics of one application.

    ``directory`` is PROMETHEUS_MULTIPROC_DIR; if given, ``collector`` covers all its processes.
    The number of series is bounded: routes are templates, and odd methods are ``other``.
    """

    def __init__(self, directory: Path | None = None) -> None:
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
        registry = CollectorRegistry()
        self.collector: Collector = AllProcesses(directory) if directory else registry
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, registry=registry, buckets=SECONDS)
        total = partial(Gauge, registry=registry, multiprocess_mode="livesum")
        highest = partial(Gauge, registry=registry, multiprocess_mode="livemax")
        latest = partial(Gauge, registry=registry, multiprocess_mode="livemostrecent")

        self._duration = histogram(
            "user_service_http_request_duration_seconds",
            "Time from the arrival of a request to its response; the count is the requests",
            ["route", "method", "status"],
        )
        self.in_flight = total("user_service_http_requests_in_flight", "Requests in progress")
        self.rate_limited = counter(
            "user_service_rate_limited_requests",
            "Requests refused because the client exceeded a rate limit",
            ["limit"],
        )
        self._pools = _pool_metrics(total, histogram, counter)
        pages = counter(
            "user_service_page_cache_requests",
            "Pages served: hit, miss, bypass (Redis was not used), stale (not readable anew)",
            ["result"],
        )
        self.pages_hit, self.pages_missed = pages.labels("hit"), pages.labels("miss")
        self.pages_bypassed, self.pages_stale = pages.labels("bypass"), pages.labels("stale")
        self.stores_refused = counter(
            "user_service_page_cache_stores_refused",
            "Pages not stored because a write happened while they were read",
        )
        self.failed_invalidations = counter(
            "user_service_page_cache_invalidation_failures",
            "Writes after which the cached pages could not be invalidated at once",
        )
        self._retries = counter(
            "user_service_retries",
            "Calls with a transient failure, by outcome: recovered, failed, no_time or no_budget"
            " left for a retry",
            ["outcome"],
        )
        self._breaker_state = highest(
            "user_service_circuit_breaker_state",
            "0 closed, 1 half-open (one call is tried), 2 open; the highest of all workers",
            ["dependency"],
        )
        self._breaker_openings = counter(
            "user_service_circuit_breaker_openings",
            "Times a breaker opened, including after a failed trial call",
            ["dependency"],
        )
        self.ready = latest(
            "user_service_ready", "Result of the last readiness check: 1 ready, 0 not ready"
        )
        self._build = highest(
            "user_service_build_info",
            "Always 1; the labels identify the build",
            ["version", "commit", "python"],
        )
        self._begin_with_zero()

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request and its duration; ``route`` may be UNMATCHED."""
        known = method if method in METHODS else OTHER_METHOD
        self._duration.labels(route, known, status).observe(seconds)

    def expect(self, route: str, method: str, status: int) -> None:
        """Expose the series of such requests with 0 from now on."""
        self._duration.labels(route, method, status)

    def pool(self, name: str) -> PoolMetrics:
        """Return the metrics of one pool: ``database`` or ``replica``."""
        return PoolMetrics._make(metric.labels(name) for metric in self._pools)

    def count_retry(self, outcome: str) -> None:
        """Count a call with a transient failure by its ``outcome``."""
        self._retries.labels(outcome).inc()

    def breaker_listener(self, dependency: str) -> Callable[[str], None]:
        """Return the callback for each new state of the breaker of ``dependency``."""
        state = self._breaker_state.labels(dependency)
        openings = self._breaker_openings.labels(dependency)

        def listen(new: str) -> None:
            state.set(STATES.index(new))
            if new == "open":
                openings.inc()

        return listen

    def set_build_info(self, version: str, commit: str) -> None:
        """Expose the running version, the commit it was built from, and Python's version."""
        self._build.labels(version, commit, platform.python_version()).set(1)

    def _begin_with_zero(self) -> None:
        """Expose series before their first event: Prometheus sees no increase in a new one."""
        for limit in ("default", "writes"):
            self.rate_limited.labels(limit)
        for outcome in ("recovered", "failed", "no_time", "no_budget"):
            self._retries.labels(outcome)
        for dependency in ("database", "redis"):
            self.breaker_listener(dependency)
        self.pool("database")


def _pool_metrics(
    total: partial[Gauge], histogram: partial[Histogram], counter: partial[Counter]
) -> PoolMetrics:
    """Return the metrics that all pools share, labelled with the name of the pool."""
    return PoolMetrics(
        total(
            "user_service_pool_connections_max",
            "Most database connections that the pools of all workers may open",
            ["pool"],
        ),
        total("user_service_pool_connections_in_use", "Database connections in use", ["pool"]),
        total(
            "user_service_pool_requests_waiting",
            "Requests waiting for a database connection; requests that share one count once",
            ["pool"],
        ),
        histogram(
            "user_service_pool_checkout_duration_seconds",
            "Time that requests waited for a database connection",
            ["pool"],
        ),
        counter(
            "user_service_pool_checkout_timeouts",
            "Requests that did not get a database connection in time",
            ["pool"],
        ),
        counter(
            "user_service_pool_connections_replaced",
            "Database connections replaced because they broke or may have broken",
            ["pool"],
        ),
        total(
            "user_service_pool_commits_unanswered",
            "Database connections in use by commits that had no answer by the deadline",
            ["pool"],
        ),
    )


class AllProcesses(Collector):
    """Adds up the metrics of all processes, without the live gauges of those that have ended."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        """Return the sums."""
        forget_dead_processes(self._directory)
        metrics: Iterable[Metric] = MultiProcessCollector.merge(map(str, files_in(self._directory)))
        return metrics
