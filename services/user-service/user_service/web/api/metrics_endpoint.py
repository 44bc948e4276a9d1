"""``/metrics``, for Prometheus. The gateway does not let it out."""

from flask import Blueprint, Response

from user_service.observability.metrics import CONTENT_TYPE
from user_service.web.openapi.operations import undocumented
from user_service.web.services import services

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
@undocumented("for Prometheus")
def metrics() -> Response:
    """Return what all worker processes have counted. Asks neither the database nor Redis."""
    return Response(services().metrics.exposition(), content_type=CONTENT_TYPE)
