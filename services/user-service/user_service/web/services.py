"""The parts that one application owns, and the decorators of routes that need them."""

import functools
import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from flask import Flask

from user_service.cache.page_cache import PageCache
from user_service.database.database import Database
from user_service.database.replica import Replica
from user_service.database.user_repository import UserRepository
from user_service.errors import NotPrepared, OutcomeUnknown, Unavailable
from user_service.observability.metrics import Metrics
from user_service.resilience.retry import RetryPolicy
from user_service.web.policies.authentication import Authentication
from user_service.web.policies.rate_limiter import RateLimiter
from user_service.web.responses.cursors import Cursors

_NAME = "user_service"

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(slots=True)
class Services:
    """The parts of an application. Call ``begin`` after a fork and ``close`` before the end.

    ``git_commit`` names the build. ``authentication`` is None while all callers are trusted.
    ``is_draining`` tells whether the server is about to stop.
    """

    database: Database
    users: UserRepository
    pages: PageCache
    rate_limiter: RateLimiter | None
    cursors: Cursors
    metrics: Metrics
    retry_policy: RetryPolicy
    git_commit: str
    require_if_match: bool = False
    replica: Replica | None = None
    authentication: Authentication | None = None
    is_draining: Callable[[], bool] = lambda: False
    stop_tracing: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Connect to the database, the replica and Redis.

        Raise Unavailable if the database is away; requests then try again.
        """
        self.pages.open()
        if self.replica is not None:
            self.replica.open()
        self.database.open()

    def begin(self, is_draining: Callable[[], bool]) -> None:
        """Open in a server's worker process, and continue if the database is away.

        The keys of callers are read in the background. Raise NotPrepared if the database refused a
        migration: that needs an operator.
        """
        self.is_draining = is_draining
        try:
            self.open()
        except NotPrepared:
            raise
        except Unavailable as error:
            log.warning("starting without the database, requests will try again: %s", error)
        if self.authentication is not None:
            self.authentication.read_keys()
        # What exists now lives until the end. Freezing it keeps each full garbage collection from
        # examining it again while requests wait.
        gc.collect()
        gc.freeze()

    def close(self) -> None:
        """Close every connection, and end the traces."""
        self.database.close()
        if self.replica is not None:
            self.replica.database.close()
        self.pages.close()
        self.stop_tracing()


def attach(app: Flask, services: Services) -> None:
    """Make ``services`` the parts of ``app``."""
    app.extensions[_NAME] = services


def services_of(app: Flask) -> Services:
    """Return the parts of ``app``."""
    attached: Services = app.extensions[_NAME]
    return attached


def retry_on_failure(
    operation: Callable[Concatenate[Services, P], R],
) -> Callable[Concatenate[Services, P], R]:
    """Repeat ``operation`` after a transient failure, as the application's retry policy says."""

    @functools.wraps(operation)
    def call(services: Services, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return services.retry_policy.call(operation, services, *args, **kwargs)

    return call


def invalidates_pages(
    operation: Callable[Concatenate[Services, P], R],
) -> Callable[Concatenate[Services, P], R]:
    """Put all cached pages out of date once ``operation`` has written, or may have."""

    @functools.wraps(operation)
    def call(services: Services, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = operation(services, *args, **kwargs)
        except BaseException as error:
            # Anything but an Exception ends the request from outside, perhaps during a commit.
            if isinstance(error, OutcomeUnknown) or not isinstance(error, Exception):
                services.pages.invalidate()
            raise
        services.pages.invalidate()
        return result

    return call
