"""Holds responses against the OpenAPI document: it must name whatever a client sees.

Stricter than a client has to be: members that the document does not name are faults here.
"""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import orjson
from werkzeug.test import TestResponse

from user_service.web.policies.security_headers import HEADERS as SECURITY_HEADERS

PROBLEM = {"$ref": "#/components/schemas/Problem"}
# Headers that the document leaves out: those of HTTP itself, of browsers, of OPTIONS, 405 and 415,
# and the one that the gateway removes.
OUTSIDE = {name for name, _ in SECURITY_HEADERS} | {
    *("Accept", "Accept-Encoding", "Accept-Patch", "Allow", "Connection", "Content-Length"),
    *("Content-Type", "Date", "Server", "Vary", "X-Page-Place"),
}
# Not for the clients of the API.
UNDOCUMENTED = re.compile(r"/$|/docs|/metrics|/\.well-known/")


class Undocumented(AssertionError):
    """A response that the document does not tell of."""


class DocumentChecker:
    """Checks responses against one document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._components = _closed(document["components"])
        self._operations = [
            (re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), method.upper(), operation)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
        ]
        self._validators: dict[bytes, jsonschema_rs.Validator] = {}

    def check(self, response: TestResponse) -> None:
        """Raise Undocumented with every way in which the document does not tell of it."""
        request = response.request
        asked = "GET" if request.method == "HEAD" else request.method
        for path, method, operation in self._operations:
            if method == asked and path.fullmatch(request.path):
                faults = "; ".join(self._faults(response, operation["responses"]))
                break
        else:
            faults = "; ".join(self._faults_of_no_operation(response))
        if faults:
            raise Undocumented(
                f"{request.method} {request.full_path} {response.status_code}: {faults}"
            )

    def _faults(self, response: TestResponse, documented: dict[str, Any]) -> Iterator[str]:
        if str(response.status_code) not in documented:
            yield "the status is not documented"
            return
        told = documented[str(response.status_code)]
        headers = {name: self._resolved(header) for name, header in told["headers"].items()}
        for name, header in headers.items():
            if header.get("required") and name not in response.headers:
                yield f"{name} is missing"
        for name, value in response.headers:
            if name in headers:
                yield from self._header_faults(name, value, headers[name]["schema"])
            elif name not in OUTSIDE and not name.startswith("Access-Control-"):
                yield f"the header {name} is not documented"
        if "content" in told:
            yield from self._content_faults(response, told["content"])
        elif response.data or "Content-Type" in response.headers:
            yield "no body is documented"

    def _faults_of_no_operation(self, response: TestResponse) -> Iterator[str]:
        if response.status_code >= 400:
            yield from self._body_faults(response, PROBLEM)
        elif response.request.method != "OPTIONS" and not UNDOCUMENTED.match(response.request.path):
            yield "the operation is not documented"

    def _content_faults(self, response: TestResponse, content: dict[str, Any]) -> Iterator[str]:
        if response.mimetype not in content:
            yield f"the content type {response.mimetype} is not documented"
            return
        documented = content[response.mimetype]
        yield from self._body_faults(response, documented["schema"])
        if response.mimetype == "application/problem+json" and response.data:
            kinds = [self._resolved(kind)["value"] for kind in documented["examples"].values()]
            problem = orjson.loads(response.data)
            if (problem["type"], problem["title"]) not in [(k["type"], k["title"]) for k in kinds]:
                yield f"problems of type {problem['type']} are not documented"

    def _body_faults(self, response: TestResponse, schema: dict[str, Any]) -> Iterator[str]:
        if response.request.method == "HEAD":
            if response.data:
                yield "HEAD has a body"
            return
        for error in self._validator(schema).iter_errors(orjson.loads(response.data)):
            yield f"{error.message} at {error.instance_path}"

    def _header_faults(self, name: str, value: str, schema: dict[str, Any]) -> Iterator[str]:
        typed = int(value) if schema["type"] == "integer" and value.isdigit() else value
        for error in self._validator(schema).iter_errors(typed):
            yield f"{name}: {error.message}"

    def _validator(self, schema: dict[str, Any]) -> jsonschema_rs.Validator:
        key = orjson.dumps(schema)
        if key not in self._validators:
            whole = {**_closed(schema), "components": self._components}
            self._validators[key] = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
        return self._validators[key]

    def _resolved(self, thing: dict[str, Any]) -> Any:
        if "$ref" not in thing:
            return thing
        kind, name = thing["$ref"].split("/")[-2:]
        return self._components[kind][name]


def _closed(schema: Any) -> Any:
    """Return the schema with every object that names its members refusing others."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(part) for name, part in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        closed["additionalProperties"] = False
    return closed
