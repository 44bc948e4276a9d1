"""The OpenAPI 3.1 document, derived from the routes.

Paths and methods come from Flask's URL map, parameters and bodies from the annotations of the
views, and problems from the errors that a view declares. ``@documented`` adds the rest.
"""

import inspect
import re
from typing import Any

import orjson
from flask import Flask
from pydantic import BaseModel
from werkzeug import exceptions
from werkzeug.routing import Rule

from user_service import __version__, errors
from user_service.web.openapi import models, operations
from user_service.web.openapi.examples import PROBLEMS, problem_examples
from user_service.web.openapi.operations import Object
from user_service.web.policies.access import SCOPES, required_scope
from user_service.web.policies.deprecation import deprecation_of
from user_service.web.policies.rate_limits import is_exempt
from user_service.web.problems import Problem
from user_service.web.requests.validation import BODY_TYPES
from user_service.web.responses import bodies
from user_service.web.services import services_of

INFO = {
    "title": "User service",
    "version": __version__,
    "summary": "Users over HTTP: create, read, list in pages, change and delete",
    "description": (
        "`HEAD` works wherever `GET` does. `OPTIONS` and every 405 list the methods of a path in"
        " `Allow`. Every error is `application/problem+json` (RFC 9457). For users,"
        " unknown query parameters and unknown members of a body are a 400."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}
TAGS = [
    {"name": "users", "description": "Users"},
    {"name": "health", "description": "The state of the service, for people and probes"},
    {"name": "docs", "description": "This document"},
]
_OF_SCOPES = "\n".join(f"- `{scope}`: {text}" for scope, text in SCOPES.items())
SECURITY_SCHEMES = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": f"An access token of the issuer, with the scopes\n\n{_OF_SCOPES}",
    },
    "api_key": {
        "type": "http",
        "scheme": "bearer",
        "description": f"An API key `usk_…` of this service, with the scopes\n\n{_OF_SCOPES}",
    },
}
# A path parameter in the notation of the URL map: <converter:name>.
_PARAMETER = re.compile(r"<(\w+):(\w+)>")


class UndeclaredView(Exception):
    """The view of a route is neither ``@documented`` nor ``@undocumented``."""


def document(app: Flask) -> Object:
    """Return the document of ``app``; raise UndeclaredView if a view has no declaration."""
    authentication = services_of(app).authentication
    credentials = [] if authentication is None else authentication.kinds
    listed = [
        Operation(app, rule, method, credentials)
        for rule in app.url_map.iter_rules()
        if "undocumented" not in vars(app.view_functions[rule.endpoint])
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]
    paths: Object = {}
    for operation in listed:
        paths.setdefault(operation.path, {})[operation.method.lower()] = operation.described()
    references = orjson.dumps(paths).decode()
    schemes = {name: SECURITY_SCHEMES[name] for name in credentials}
    schemas = models.schemas_of(
        [*(model for operation in listed for model in operation.body_models), bodies.Problem]
    )
    for operation in listed:
        if operation.query is not None:
            schemas |= models.query_schema(operation.query).get("$defs", {})
    return {
        "openapi": "3.1.0",
        "info": INFO,
        "servers": [{"url": "/"}],
        "security": [],
        "tags": TAGS,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": {
                name: {"name": name, "in": "header", **header}
                for name, header in operations.REQUEST_HEADERS.items()
            },
            "headers": {
                name: {"required": True, **header}
                for name, header in operations.RESPONSE_HEADERS.items()
                if f'"#/components/headers/{name}"' in references
            },
            "examples": {
                name: example
                for name, example in problem_examples().items()
                if f'"#/components/examples/{name}"' in references
            },
            **({"securitySchemes": schemes} if schemes else {}),
        },
    }


class Operation:
    """One method of one route, which may ask for one of ``credentials``."""

    def __init__(self, app: Flask, rule: Rule, method: str, credentials: list[str]) -> None:
        view = app.view_functions[rule.endpoint]
        if "declaration" not in vars(view):
            raise UndeclaredView(f"{method} {rule.rule}: its view is not @documented")
        self.method = method
        self.path = _PARAMETER.sub(r"{\2}", rule.rule)
        self._tag, _, self._name = rule.endpoint.rpartition(".")
        self._declaration: operations.Declaration = vars(view)["declaration"]
        self._documentation = inspect.getdoc(view) or ""
        self._is_deprecated = deprecation_of(app, rule.endpoint) is not None
        self._scope = required_scope(app, rule.endpoint)
        self._credentials = credentials
        self._converters: dict[str, Any] = {
            name: app.url_map.converters[converter]
            for converter, name in _PARAMETER.findall(rule.rule)
        }
        annotations = inspect.get_annotations(view, eval_str=True)
        self._body: type[BaseModel] | None = annotations.get("body")
        self.query: type[BaseModel] | None = annotations.get("query")

    @property
    def body_models(self) -> list[type]:
        """The models of the request body and of the response bodies."""
        types = [self._body, *(answer.body for answer in self._declaration.answers)]
        return [each for each in types if isinstance(each, type)]

    def described(self) -> Object:
        """Return the operation object."""
        summary, _, description = self._documentation.partition("\n\n")
        described: Object = {
            "operationId": self._name,
            "tags": [self._tag],
            "summary": summary.removesuffix(".").replace("``", ""),
            "parameters": self._parameters(),
            "responses": self._responses(),
        }
        if self._scope is not None:
            described["security"] = [{name: [self._scope]} for name in self._credentials]
        if self._is_deprecated:
            described["deprecated"] = True
        if description:
            described["description"] = description.replace("``", "`")
        if self._body is not None:
            described["requestBody"] = self._request_body(self._body)
        return described

    def _parameters(self) -> list[Object]:
        path = [{"name": name, **each.parameter} for name, each in self._converters.items()]
        query = [] if self.query is None else models.query_parameters(self.query)
        names = (*self._declaration.reads, "X-Request-ID")
        return path + query + [{"$ref": f"#/components/parameters/{name}"} for name in names]

    def _request_body(self, model: type[BaseModel]) -> Object:
        example = {
            name: field.examples[0] for name, field in model.model_fields.items() if field.examples
        }
        content = {"schema": models.reference(model), "example": example}
        return {"required": True, "content": dict.fromkeys(BODY_TYPES[self.method], content)}

    def _responses(self) -> Object:
        """Return the response objects: the declared ones, and those that every such route has."""
        sometimes = ["Server-Timing"]
        if not is_exempt(self.path):
            sometimes += "RateLimit", "RateLimit-Policy"
        if self._is_deprecated:
            sometimes += "Deprecation", "Sunset", "Link"
        responses = {
            answer.status: models.answer_response(answer, sometimes)
            for answer in self._declaration.answers
        }
        problems: dict[int, list[Problem]] = {}
        for problem in (PROBLEMS[error] for error in dict.fromkeys(self._raised())):
            problems.setdefault(problem.status, []).append(problem)
        for status, kinds in problems.items():
            response = models.problem_response(kinds, sometimes)
            if status in responses:  # the 503 of /health has a body of its own, too
                response["content"] |= responses[status]["content"]
            responses[status] = response
        return {str(status): responses[status] for status in sorted(responses)}

    def _raised(self) -> list[type[Exception]]:
        """Return the errors of the view, and those that every such route has."""
        raised: list[type[Exception]] = [*self._declaration.raises]
        raised += exceptions.InternalServerError, exceptions.RequestHeaderFieldsTooLarge
        if not is_exempt(self.path):
            raised.append(errors.RateLimited)
        if self._scope is not None:
            raised += errors.Unauthenticated, errors.InsufficientScope, errors.Unavailable
        if self._converters:
            raised.append(exceptions.NotFound)
        if self.query is not None:
            raised.append(exceptions.RequestURITooLarge)
        if self._body is not None:
            raised += errors.MalformedBody, errors.UnsupportedBody
        if self._body is not None or self.method == "DELETE":  # whose body is read, too
            raised += exceptions.RequestEntityTooLarge, exceptions.RequestTimeout
        return raised
