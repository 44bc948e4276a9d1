"""``/metrics`` for Prometheus; the gateway does not expose it."""

from flask import Blueprint, Response

from user_service.observability.metrics import CONTENT_TYPE
from user_service.web.openapi.operations import undocumented
from user_service.web.services import services

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
@undocumented("for Prometheus")
def metrics() -> Response:
    """Return the metrics of all worker processes, without a call to the database or Redis."""
    return Response(services().metrics.exposition(), content_type=CONTENT_TYPE)
