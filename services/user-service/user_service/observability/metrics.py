"""Every metric of the service is declared here. Names and units are after Prometheus' conventions.

Gauges are set when what they show changes, since a scrape meets one worker process of several and
must tell of all. How the values of the live ones are put together (``multiprocess_mode``): sums of
what each has (connections, requests), the worst of what each thinks (a breaker), the newest of
what each has found out (readiness).
"""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from user_service.observability import metric_files

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

# From what a cached page takes to REQUEST_TIMEOUT.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD = "other"
UNMATCHED = "unmatched"
M = TypeVar("M", Counter, Gauge, Histogram)
STATES = ("closed", "half-open", "open")


def _complete(metric: M) -> M:
    """Return ``metric``, which is never asked again whether it has all of its labels.

    prometheus_client asks by two calls each time that anything is counted: seven times
    for a page that is read from the database. Without that, with commands to Redis packed by
    hiredis alone, and with named tuples, 1.03 times as many cached pages are served.
    """
    metric._raise_if_not_observable = bool  # type: ignore[method-assign]  # noqa: SLF001 -- does nothing
    return metric


class HttpMetrics:
    """Requests. Labels are bounded: routes are templates, methods are known ones or ``other``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._duration = Histogram(
            "user_service_http_request_duration_seconds",
            "Time from a request's arrival to its response; the count is that of requests",
            ["route", "method", "status"],
            buckets=SECONDS,
            registry=registry,
        )
        self.in_flight = _complete(
            Gauge(
                "user_service_http_requests_in_flight",
                "Requests being worked on",
                registry=registry,
                multiprocess_mode="livesum",
            )
        )
        self.rate_limited = Counter(
            "user_service_rate_limited_requests",
            "Requests refused because their client had sent too many",
            ["limit"],
            registry=registry,
        )
        for limit in ("default", "writes"):
            self.rate_limited.labels(limit)
        # prometheus_client's labels() takes longer than all the rest of counting a request.
        self._durations: dict[tuple[str | None, str, int], Histogram] = {}

    def observe(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """Count a request and how long it took; ``route`` is None where no route is matched."""
        if method not in METHODS:
            method = OTHER_METHOD
        labels = route, method, status
        (self._durations.get(labels) or self.expect(*labels)).observe(seconds)

    def expect(self, route: str | None, method: str, status: int) -> Histogram:
        """Begin a series with 0, so that its first request is seen as an increase too."""
        duration = _complete(self._duration.labels(route or UNMATCHED, method, status))
        return self._durations.setdefault((route, method, status), duration)

    def count_rate_limited(self, limit: str) -> None:
        """Count a request that was refused with 429."""
        self.rate_limited.labels(limit).inc()


@dataclass(frozen=True, slots=True)
class PoolMetrics:
    """Those of one pool."""

    size: Gauge
    in_use: Gauge
    waiting: Gauge
    checkout: Histogram
    timeouts: Counter
    replaced: Counter


class PoolsMetrics:
    """The database's connection pools, by what they connect to: ``database`` or ``replica``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._size = Gauge(
            "user_service_pool_connections_max",
            "Database connections that a pool may have, of all workers together",
            ["pool"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._in_use = Gauge(
            "user_service_pool_connections_in_use",
            "Database connections that are lent",
            ["pool"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._waiting = Gauge(
            "user_service_pool_requests_waiting",
            "Requests waiting for a database connection; those that share one count once",
            ["pool"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._checkout = Histogram(
            "user_service_pool_checkout_duration_seconds",
            "Time that requests waited until they might have a database connection",
            ["pool"],
            buckets=SECONDS,
            registry=registry,
        )
        self._timeouts = Counter(
            "user_service_pool_checkout_timeouts",
            "Requests that got no database connection in time",
            ["pool"],
            registry=registry,
        )
        self._replaced = Counter(
            "user_service_pool_connections_replaced",
            "Database connections given up because they broke, or may have",
            ["pool"],
            registry=registry,
        )
        self.of("database")

    def of(self, pool: str) -> PoolMetrics:
        """Return the metrics of one pool, which begin with 0."""
        return PoolMetrics(
            size=self._size.labels(pool),
            in_use=_complete(self._in_use.labels(pool)),
            waiting=self._waiting.labels(pool),
            checkout=_complete(self._checkout.labels(pool)),
            timeouts=self._timeouts.labels(pool),
            replaced=self._replaced.labels(pool),
        )


class CacheMetrics:
    """The page cache."""

    def __init__(self, registry: CollectorRegistry) -> None:
        pages = Counter(
            "user_service_page_cache_requests",
            "Pages asked for: hit, miss, bypass (Redis not asked), stale (it could not be read)",
            ["result"],
            registry=registry,
        )
        self.hit, self.miss = _complete(pages.labels("hit")), _complete(pages.labels("miss"))
        self.bypass, self.stale = pages.labels("bypass"), pages.labels("stale")
        self.refused = Counter(
            "user_service_page_cache_stores_refused",
            "Pages not stored because a write came between reading and storing them",
            registry=registry,
        )
        self.failed_invalidations = Counter(
            "user_service_page_cache_invalidation_failures",
            "Writes after which the cached pages could not be put out of date at once",
            registry=registry,
        )


class ResilienceMetrics:
    """Retries and circuit breakers: counted by listeners, for ``resilience`` knows no metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._retries = Counter(
            "user_service_retries",
            "Calls that met a transient failure, by how they ended: recovered, failed,"
            " no_time or no_budget for trying again",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("recovered", "failed", "no_time", "no_budget"):
            self._retries.labels(outcome)
        self._state = Gauge(
            "user_service_circuit_breaker_state",
            "0 closed, 1 half-open (a call tries), 2 open; of several workers the worst",
            ["dependency"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._openings = Counter(
            "user_service_circuit_breaker_openings",
            "Times a breaker opened, also again after a call that tried had failed",
            ["dependency"],
            registry=registry,
        )
        for dependency in ("database", "redis"):
            self.breaker_listener(dependency)

    def count_retry(self, outcome: str) -> None:
        """Count a call that met a transient failure."""
        self._retries.labels(outcome).inc()

    def breaker_listener(self, dependency: str) -> Callable[[str], None]:
        """Return what the breaker of ``dependency`` is to call with each state it comes into."""
        state, openings = self._state.labels(dependency), self._openings.labels(dependency)

        def listen(new: str) -> None:
            state.set(STATES.index(new))
            if new == "open":
                openings.inc()

        return listen


class Metrics:
    """All metrics of one application.

    With a ``directory``, which several processes may share, what is shown is of all of them.
    """

    def __init__(self, directory: Path | None = None) -> None:
        if directory is not None:
            metric_files.share(directory)
        self._directory = directory
        self.registry = registry = CollectorRegistry()
        self.http = HttpMetrics(registry)
        self.pools = PoolsMetrics(registry)
        self.cache = CacheMetrics(registry)
        self.resilience = ResilienceMetrics(registry)
        self.ready = Gauge(
            "user_service_ready",
            "What the last readiness check found: 1 ready, 0 not",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._build = Gauge(
            "user_service_build_info",
            "1, with what is running as labels",
            ["version", "commit", "python"],
            registry=registry,
            multiprocess_mode="livemax",
        )

    def tell_build(self, version: str, commit: str) -> None:
        """Show what is running."""
        self._build.labels(version, commit, platform.python_version()).set(1)

    def exposition(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        if self._directory is None:
            return generate_latest(self.registry)
        return generate_latest(metric_files.registry_of(self._directory))
