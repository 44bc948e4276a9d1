"""What the routes work with, put into the application by ``app.py``."""

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass

from flask import Flask

from user_service.cache.page_cache import PageCache
from user_service.database.pool import Database
from user_service.database.probe import DatabaseProbe
from user_service.database.replica import Replica
from user_service.database.user_repository import UserRepository
from user_service.domain.user import User
from user_service.errors import NotPrepared, Unavailable
from user_service.observability.metrics import Metrics
from user_service.resilience.retry import RetryPolicy
from user_service.web import at_hand
from user_service.web.policies.rate_limiter import RateLimiter
from user_service.web.responses.cursors import Cursors

_NAME = "user_service"

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Services:
    """The parts that one application owns. ``begin`` after a fork, ``close`` before the end.

    ``commit`` says what the service was built from.
    ``is_draining`` tells whether the server is about to stop.
    """

    database: Database
    probe: DatabaseProbe
    users: UserRepository
    pages: PageCache
    rate_limiter: RateLimiter
    cursors: Cursors
    metrics: Metrics
    retry_policy: RetryPolicy
    commit: str
    replica: Replica | None = None
    is_draining: Callable[[], bool] = lambda: False
    stop_tracing: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Connect to the database; raise Unavailable if it is away (requests then try again)."""
        if self.replica is not None:
            self.replica.open()
        self.database.open()

    def begin(self, is_draining: Callable[[], bool]) -> None:
        """Open, in a worker of a server that tells when it drains; go on without the database.

        Raise NotPrepared if it is there and refused a migration: somebody has to look at that.
        """
        self.is_draining = is_draining
        try:
            self.open()
        except NotPrepared:
            raise
        except Unavailable as error:
            log.warning("starting without the database, requests will try again: %s", error)
        # What there is by now stays until the end. Going through it again and again for garbage
        # that it is not, halted all requests for 67 ms each time (75,000 objects).
        gc.collect()
        gc.freeze()

    def get_user(self, user_id: int) -> User:
        """Return the user, from a replica if there is one that will do; raise UserNotFound."""
        return self.users.get(user_id, after_lsn=self.pages.position())

    def close(self) -> None:
        """Close every connection."""
        self.database.close()
        self.probe.close()
        if self.replica is not None:
            self.replica.close()
        self.pages.close()
        self.stop_tracing()


def attach(app: Flask, services: Services) -> None:
    """Make ``services`` the ones of ``app``."""
    app.extensions[_NAME] = services


def services_of(app: Flask) -> Services:
    """Return the services of ``app``."""
    attached: Services = app.extensions[_NAME]
    return attached


def services() -> Services:
    """Return the services of the application that handles the request at hand."""
    return services_of(at_hand.application())
