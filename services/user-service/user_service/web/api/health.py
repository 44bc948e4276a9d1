"""``/health``, for people and load balancers; ``/health/live`` and ``/health/ready`` for probes."""

from datetime import UTC, datetime
from http import HTTPStatus

import orjson
from flask import Blueprint, Response

from user_service import __version__
from user_service.errors import Unavailable
from user_service.web.openapi.operations import Answer, documented
from user_service.web.requests.validation import JSON
from user_service.web.responses.bodies import Health, Liveness, Readiness
from user_service.web.services import services

blueprint = Blueprint("health", __name__, url_prefix="/health")

NO_STORE = ("Cache-Control",)


@blueprint.get("")
@documented(
    Answer(200, "Healthy, or degraded: without Redis", Health, NO_STORE),
    Answer(503, "Unhealthy: without the database", Health, (*NO_STORE, "Retry-After")),
)
def get_health() -> Response:
    """Return the state of the service and of what it depends on; 503 without the database."""
    database, redis = _database_is_ready(), services().pages.is_reachable()
    stats, replica = services().database.stats(), _replica()
    complete = redis and (replica is None or replica["status"] == "connected")
    status = "unhealthy" if not database else "healthy" if complete else "degraded"
    return _answer(
        200 if database else 503,
        status=status,
        timestamp=datetime.now(UTC).isoformat(),
        database="connected" if database else "disconnected",
        redis="connected" if redis else "disconnected",
        pool={"size": stats.size, "in_use": stats.in_use, "waiting": stats.waiting},
        breakers={
            "database": services().database.breaker.state,
            "redis": services().pages.breaker_state,
        },
        version=__version__,
        commit=services().commit,
        **({} if replica is None else {"replica": replica}),
    )


@blueprint.get("/live")
@documented(Answer(200, "The process serves", Liveness, NO_STORE))
def get_liveness() -> Response:
    """Answer: the process serves. Touches nothing outside of it."""
    return _answer(200, status="alive")


@blueprint.get("/ready")
@documented(
    Answer(200, "Send requests here", Readiness, NO_STORE),
    Answer(503, "Send none", Readiness, (*NO_STORE, "Retry-After")),
)
def get_readiness() -> Response:
    """Tell whether to send requests here: the database can be used, and no stop has begun."""
    if services().is_draining():
        status = "draining"
    else:
        status = "ready" if _database_is_ready() else "not ready"
    services().metrics.ready.set(status == "ready")
    return _answer(200 if status == "ready" else 503, status=status)


def _replica() -> dict[str, object] | None:
    replica = services().replica
    if replica is None:
        return None
    return {
        "status": "connected" if replica.is_reachable() else "disconnected",
        "breaker": replica.database.breaker.state,
        "reads": replica.reads,
        "fallbacks": replica.fallbacks,
    }


def _database_is_ready() -> bool:
    try:
        services().database.ensure_prepared()
        services().probe.ping()
    except Unavailable:
        return False
    return True


def _answer(status_code: int, **body: object) -> Response:
    response = Response(orjson.dumps(body), status=status_code, mimetype=JSON)
    response.cache_control.no_store = True
    if status_code == HTTPStatus.SERVICE_UNAVAILABLE:
        response.retry_after = 1
    return response
