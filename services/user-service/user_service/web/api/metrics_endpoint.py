"""``/metrics`` for Prometheus; the gateway does not expose it."""

import gzip

from flask import Blueprint, Response, current_app, request
from prometheus_client.exposition import choose_encoder

from user_service.web.openapi.operations import undocumented
from user_service.web.policies.access import needs
from user_service.web.services import services_of

blueprint = Blueprint("metrics", __name__)

OPENMETRICS = "application/openmetrics-text"


@blueprint.get("/metrics")
@needs("service:read", unless_public="metrics")
@undocumented("for Prometheus")
def metrics() -> Response:
    """Return the metrics of all worker processes, without a call to the database or Redis."""
    # Without a version, which means 1.0.0: choose_encoder raises an error for a malformed one.
    is_wanted = any(q > 0 and name.startswith(OPENMETRICS) for name, q in request.accept_mimetypes)
    encode, content_type = choose_encoder(OPENMETRICS if is_wanted else "")
    exposition = encode(services_of(current_app).metrics.collector)
    headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
    if request.accept_encodings["gzip"] > 0:
        exposition = gzip.compress(exposition, compresslevel=5)
        headers["Content-Encoding"] = "gzip"
    return Response(exposition, headers=headers)
