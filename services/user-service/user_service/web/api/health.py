"""``/health``, for people and load balancers; ``/health/live`` and ``/health/ready`` for probes."""

from datetime import UTC, datetime
from http import HTTPStatus

import orjson
from flask import Blueprint, Response, current_app

from user_service import __version__
from user_service.resilience.breaker import State
from user_service.web.openapi.examples import HEALTH
from user_service.web.openapi.operations import Answer, documented
from user_service.web.policies.access import needs, open_to_all
from user_service.web.responses import bodies
from user_service.web.responses.reply import JSON, Reply, respond
from user_service.web.services import Services, services_of

blueprint = Blueprint("health", __name__, url_prefix="/health")

# The headers of each status, for the OpenAPI document.
ON_200 = ("Cache-Control",)
ON_503 = (*ON_200, "Retry-After")


@blueprint.get("")
@needs("service:read", unless_public="health")
@documented(
    Answer(200, "Healthy, or degraded: without its cache", bodies.Health, HEALTH, ON_200),
    Answer(503, "Unhealthy: without the database", bodies.Health, HEALTH, ON_503),
)
def get_health() -> Response:
    """Return the state of the service and of its dependencies; 503 without the database."""
    health = _health(services_of(current_app))
    return _respond(503 if health["status"] == "unhealthy" else 200, health)


@blueprint.get("/live")
@open_to_all
@documented(Answer(200, "The process serves", bodies.Liveness, {"status": "alive"}, ON_200))
def get_liveness() -> Response:
    """Answer: the process serves. Touches nothing outside of it."""
    return _respond(200, bodies.Liveness(status="alive"))


@blueprint.get("/ready")
@open_to_all
@documented(
    Answer(200, "Send requests here", bodies.Readiness, {"status": "ready"}, ON_200),
    Answer(503, "Send no requests here", bodies.Readiness, {"status": "not ready"}, ON_503),
)
def get_readiness() -> Response:
    """Tell whether to send requests here: the database can be used, and no stop has begun."""
    services = services_of(current_app)
    readiness = _readiness(services)
    services.metrics.ready.set(readiness["status"] == "ready")
    return _respond(200 if readiness["status"] == "ready" else 503, readiness)


def _health(services: Services) -> bodies.Health:
    has_database, cache = services.database.is_ready(), services.pages.health()
    replica, pool = services.replica, services.database.pool
    breakers: bodies.Breakers = {
        "database": services.database.breaker.state,
        "redis": services.pages.store.breaker.state,
    }
    health: bodies.Health = {
        "status": "healthy",
        "timestamp": datetime.now(UTC),
        "database": "connected" if has_database else "disconnected",
        "redis": "connected" if cache.is_connected else "disconnected",
        "pool": {"size": pool.size, "in_use": pool.lent, "waiting": pool.waiting},
        "breakers": breakers,
        "version": __version__,
        "commit": services.git_commit,
    }
    if replica is not None:
        state: bodies.ReplicaState = {
            "status": "connected" if replica.database.is_ready() else "disconnected",
            "breaker": replica.database.breaker.state,
            "reads": replica.reads,
            "fallbacks": replica.fallbacks,
        }
        health["replica"] = state
        if state["status"] == "disconnected" or state["breaker"] is State.OPEN:
            health["status"] = "degraded"
    limiter = services.rate_limiter
    counts = limiter is None or limiter.counts_in_redis()
    if not (cache.works and counts) or breakers["redis"] is State.OPEN:
        health["status"] = "degraded"
    if not has_database or breakers["database"] is State.OPEN:
        health["status"] = "unhealthy"
    return health


def _readiness(services: Services) -> bodies.Readiness:
    if services.is_draining():
        return {"status": "draining"}
    return {"status": "ready" if services.database.is_ready() else "not ready"}


def _respond(status: int, body: bodies.Health | bodies.Liveness | bodies.Readiness) -> Response:
    headers = {"Content-Type": JSON, "Cache-Control": "no-store"}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    return respond(Reply(status, headers, orjson.dumps(body)))
