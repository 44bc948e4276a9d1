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


class HttpMetrics:
    """Requests. The number of series is bounded: routes are templates, odd methods ``other``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._duration = Histogram(
            "user_service_http_request_duration_seconds",
            "Time from the arrival of a request to its response; the count is the requests",
            ["route", "method", "status"],
            buckets=SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "user_service_http_requests_in_flight",
            "Requests in progress",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._rate_limited = Counter(
            "user_service_rate_limited_requests",
            "Requests refused because the client exceeded a rate limit",
            ["limit"],
            registry=registry,
        )
        for limit in ("default", "writes"):
            self._rate_limited.labels(limit)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request and its duration; ``route`` may be UNMATCHED."""
        known = method if method in METHODS else OTHER_METHOD
        self._duration.labels(route, known, status).observe(seconds)

    def expect(self, route: str, method: str, status: int) -> None:
        """Expose the series of such requests with 0 from now on."""
        self._duration.labels(route, method, status)

    def count_rate_limited(self, limit: str) -> None:
        """Count a request that was refused with 429."""
        self._rate_limited.labels(limit).inc()


class PoolMetrics(NamedTuple):
    """The metrics of one connection pool."""

    size: Gauge
    in_use: Gauge
    waiting: Gauge
    checkout: Histogram
    timeouts: Counter
    replaced: Counter


class PoolsMetrics:
    """The connection pools, labelled with the server: ``database`` or ``replica``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        gauge = partial(Gauge, labelnames=["pool"], registry=registry, multiprocess_mode="livesum")
        counter = partial(Counter, labelnames=["pool"], registry=registry)
        self._size = gauge(
            "user_service_pool_connections_max",
            "Most database connections that the pools of all workers may open",
        )
        self._in_use = gauge("user_service_pool_connections_in_use", "Database connections in use")
        self._waiting = gauge(
            "user_service_pool_requests_waiting",
            "Requests waiting for a database connection; requests that share one count once",
        )
        self._checkout = Histogram(
            "user_service_pool_checkout_duration_seconds",
            "Time that requests waited for a database connection",
            ["pool"],
            buckets=SECONDS,
            registry=registry,
        )
        self._timeouts = counter(
            "user_service_pool_checkout_timeouts",
            "Requests that did not get a database connection in time",
        )
        self._replaced = counter(
            "user_service_pool_connections_replaced",
            "Database connections replaced because they broke or may have broken",
        )
        self.of("database")

    def of(self, pool: str) -> PoolMetrics:
        """Return the metrics of one pool, which begin with 0."""
        return PoolMetrics(
            size=self._size.labels(pool),
            in_use=self._in_use.labels(pool),
            waiting=self._waiting.labels(pool),
            checkout=self._checkout.labels(pool),
            timeouts=self._timeouts.labels(pool),
            replaced=self._replaced.labels(pool),
        )


class CacheMetrics:
    """The page cache."""

    def __init__(self, registry: CollectorRegistry) -> None:
        pages = Counter(
            "user_service_page_cache_requests",
            "Page requests: hit, miss, bypass (Redis was not used), stale (the database was away)",
            ["result"],
            registry=registry,
        )
        self.hit, self.miss = pages.labels("hit"), pages.labels("miss")
        self.bypass, self.stale = pages.labels("bypass"), pages.labels("stale")
        self.refused = Counter(
            "user_service_page_cache_stores_refused",
            "Pages not stored because a write happened while they were read",
            registry=registry,
        )
        self.failed_invalidations = Counter(
            "user_service_page_cache_invalidation_failures",
            "Writes after which the cached pages could not be invalidated at once",
            registry=registry,
        )


class ResilienceMetrics:
    """Retries and circuit breakers, which ``resilience`` reports to callbacks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._retries = Counter(
            "user_service_retries",
            "Calls with a transient failure, by outcome: recovered, failed, no_time or no_budget"
            " left for a retry",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("recovered", "failed", "no_time", "no_budget"):
            self._retries.labels(outcome)
        self._state = Gauge(
            "user_service_circuit_breaker_state",
            "0 closed, 1 half-open (one call is tried), 2 open; the highest of all workers",
            ["dependency"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._openings = Counter(
            "user_service_circuit_breaker_openings",
            "Times a breaker opened, including after a failed trial call",
            ["dependency"],
            registry=registry,
        )
        for dependency in ("database", "redis"):
            self.breaker_listener(dependency)

    def count_retry(self, outcome: str) -> None:
        """Count a call with a transient failure; ``outcome`` is one of the four above."""
        self._retries.labels(outcome).inc()

    def breaker_listener(self, dependency: str) -> Callable[[str], None]:
        """Return the callback for each new state of the breaker of ``dependency``."""
        state, openings = self._state.labels(dependency), self._openings.labels(dependency)

        def listen(new: str) -> None:
            state.set(STATES.index(new))
            if new == "open":
                openings.inc()

        return listen


class AllProcesses(Collector):
    """Adds up the metrics of all processes, without the live gauges of those that have ended."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        """Return the sums."""
        forget_dead_processes(self._directory)
        metrics: Iterable[Metric] = MultiProcessCollector.merge(map(str, files_in(self._directory)))
        return metrics


class Metrics:
    """All metrics of one application.

    ``directory`` is PROMETHEUS_MULTIPROC_DIR; if given, ``collector`` covers all its processes.
    """

    def __init__(self, directory: Path | None = None) -> None:
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
        self.registry = registry = CollectorRegistry()
        self.collector: Collector = AllProcesses(directory) if directory else registry
        self.http = HttpMetrics(registry)
        self.pools = PoolsMetrics(registry)
        self.cache = CacheMetrics(registry)
        self.resilience = ResilienceMetrics(registry)
        self.ready = Gauge(
            "user_service_ready",
            "Result of the last readiness check: 1 ready, 0 not ready",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._build = Gauge(
            "user_service_build_info",
            "Always 1; the labels identify the build",
            ["version", "commit", "python"],
            registry=registry,
            multiprocess_mode="livemax",
        )

    def set_build_info(self, version: str, commit: str) -> None:
        """Expose the running version, the commit it was built from, and Python's version."""
        self._build.labels(version, commit, platform.python_version()).set(1)
