"""``/openapi.json``, the OpenAPI document, and ``/docs``, Swagger UI to try it with."""

import hashlib
from functools import cache
from importlib.metadata import distribution, version
from pathlib import Path

import orjson
from flask import Blueprint, Response, current_app, redirect, render_template, request, url_for
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as WerkzeugResponse

from user_service.web.openapi.document import document
from user_service.web.openapi.operations import Answer, documented, undocumented
from user_service.web.policies.access import needs, open_to_all
from user_service.web.requests.conditions import client_has
from user_service.web.responses.reply import JSON

blueprint = Blueprint("docs", __name__, template_folder=".")

_BUILT = "openapi_document"
HEADERS = ("ETag", "Cache-Control")
# The URL contains the version.
FOREVER = "public, max-age=31536000, immutable"
MIMETYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Everything comes from this origin, nothing is inline. Swagger UI's icons are `data:` URLs.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@blueprint.get("/openapi.json")
@needs("service:read", unless_public="openapi")
@documented(
    Answer(200, "The document", {"type": "object", "title": "Document"}, headers=HEADERS),
    Answer(304, "The client has it", headers=HEADERS),
    reads=("If-None-Match",),
)
def get_openapi() -> Response:
    """Return the OpenAPI document of this service."""
    etag, body = _built_document()
    headers = {"ETag": f'"{etag}"', "Cache-Control": "no-cache"}
    if client_has(etag, request.headers):
        return Response(status=304, headers=headers)
    return Response(body, mimetype=JSON, headers=headers)


# Strict slashes would redirect an empty path to the absolute URL of any Host that a client names.
@blueprint.get("/", strict_slashes=False)
@open_to_all
@undocumented("for people")
def get_root() -> WerkzeugResponse:
    """Redirect to the documentation, by a relative Location."""
    return redirect(url_for("docs.get_docs"))


@blueprint.get("/docs")
@needs("service:read", unless_public="docs")
@undocumented("for people")
def get_docs() -> Response:
    """Return the page of Swagger UI."""
    headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Cache-Control": "no-cache"}
    return Response(render_template("swagger.html", version=assets_version()), headers=headers)


@blueprint.get("/docs/assets/<version>/<name>")
@needs("service:read", unless_public="docs")
@undocumented("for the page of Swagger UI")
def get_asset(version: str, name: str) -> Response:
    """Return a file of Swagger UI, or of ours."""
    if version != assets_version() or name not in _assets():
        raise NotFound
    headers = {"ETag": f'"{version}"', "Cache-Control": FOREVER}
    if client_has(version, request.headers):
        return Response(status=304, headers=headers)
    path = _assets()[name]
    return Response(path.read_bytes(), mimetype=MIMETYPES[path.suffix], headers=headers)


def _built_document() -> tuple[str, bytes]:
    """Return the ETag and the bytes of the document, built by the first request for it."""
    extensions = current_app.extensions
    if _BUILT not in extensions:
        body = orjson.dumps(document(current_app))
        extensions[_BUILT] = (hashlib.blake2b(body, digest_size=16).hexdigest(), body)
    built: tuple[str, bytes] = extensions[_BUILT]
    return built


@cache
def assets_version() -> str:
    """Return a version that changes with every change of the files."""
    ours = hashlib.blake2b(_assets()["start.js"].read_bytes(), digest_size=4).hexdigest()
    return f"{version('flask-openapi-swagger')}-{ours}"


@cache
def _assets() -> dict[str, Path]:
    """Return the files by name. Their package is located, never imported."""
    package = distribution("flask-openapi-swagger")
    folder = Path(str(package.locate_file("flask_openapi_swagger/templates/swagger")))
    return {
        "swagger-ui.css": folder / "css" / "swagger-ui.css",
        "swagger-ui-bundle.js": folder / "js" / "swagger-ui-bundle.js",
        "swagger.svg": folder / "images" / "swagger.svg",
        "start.js": Path(__file__).with_name("start.js"),
    }
