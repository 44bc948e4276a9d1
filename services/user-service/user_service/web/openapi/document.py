"""The OpenAPI 3.1 document, derived from the routes.

Paths and methods come from Flask's URL map, parameters and bodies from the annotations of the
views, and problems from the errors that a view declares. ``@documented`` adds the rest.
"""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import orjson
from flask import Flask
from pydantic import BaseModel
from werkzeug.exceptions import (
    NotFound,
    RequestEntityTooLarge,
    RequestTimeout,
    RequestURITooLarge,
)
from werkzeug.routing import Rule

from user_service import __version__
from user_service.errors import MalformedBody, UnsupportedBody
from user_service.web.openapi.examples import ProblemExample, problem_examples
from user_service.web.openapi.models import (
    Object,
    answer_response,
    header_object,
    problem_response,
    query_parameters,
    query_schema,
    reference,
    schemas_of,
)
from user_service.web.openapi.operations import (
    RAISED_ALWAYS,
    RAISED_BY_TAG,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    SOMETIMES,
    SOMETIMES_BY_TAG,
    SOMETIMES_IF_DEPRECATED,
    Declaration,
)
from user_service.web.policies.deprecation import deprecation_of
from user_service.web.requests.validation import BODY_TYPES
from user_service.web.responses.bodies import Problem

INFO = {
    "title": "User service",
    "version": __version__,
    "summary": "Users over HTTP: create, read, list in pages, change and delete",
    "description": (
        "`HEAD` works wherever `GET` does. `OPTIONS` and every 405 list the methods of a path in"
        " `Allow`. Every error is `application/problem+json` (RFC 9457). Unknown query parameters"
        " and unknown members of a body are a 400."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}
TAGS = [
    {"name": "users", "description": "Users"},
    {"name": "health", "description": "The state of the service, for people and probes"},
    {"name": "docs", "description": "This document"},
]
# The errors of routes with a path parameter, a query string or a body, which need no declaration.
RAISED_BY_PATHS = (NotFound,)
RAISED_BY_QUERIES = (RequestURITooLarge,)
RAISED_BY_BODIES = (
    MalformedBody,
    RequestEntityTooLarge,
    RequestTimeout,
    UnsupportedBody,
)


# A path parameter in the notation of the URL map: <converter:name>.
_PARAMETER = re.compile(r"<(\w+):(\w+)>")


class UndeclaredView(Exception):
    """The view of a route is neither ``@documented`` nor ``@undocumented``."""


def document(app: Flask) -> Object:
    """Return the document of ``app``; raise UndeclaredView if a view has no declaration."""
    operations = [
        Operation(app, rule, method)
        for rule in app.url_map.iter_rules()
        if "undocumented" not in vars(app.view_functions[rule.endpoint])
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]
    models = [model for operation in operations for model in operation.models]
    examples = problem_examples()
    paths: Object = {}
    for operation in operations:
        path = paths.setdefault(operation.path, {})
        path[operation.method.lower()] = operation.described(examples)
    references = orjson.dumps(paths).decode()
    queries = {operation.query for operation in operations if operation.query is not None}
    schemas = schemas_of([*models, Problem])
    for query in queries:
        schemas |= query_schema(query)["$defs"]
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
                name: {"name": name, "in": "header", **header_object(header)}
                for name, header in REQUEST_HEADERS.items()
            },
            "headers": {
                name: {"required": True, **header_object(header)}
                for name, header in RESPONSE_HEADERS.items()
                if f'"#/components/headers/{name}"' in references
            },
            "examples": {example.name: {"value": example.body} for example in examples.values()},
        },
    }


class Operation:
    """One method of one route."""

    def __init__(self, app: Flask, rule: Rule, method: str) -> None:
        view = app.view_functions[rule.endpoint]
        if "declaration" not in vars(view):
            raise UndeclaredView(f"{method} {rule.rule}: its view is not @documented")
        self.method = method
        self.path = _PARAMETER.sub(r"{\2}", rule.rule)
        self.tag, _, self.name = rule.endpoint.rpartition(".")
        self.declaration: Declaration = vars(view)["declaration"]
        self._view = view
        self._is_deprecated = deprecation_of(app, rule.endpoint) is not None
        self._converters: dict[str, Any] = {
            name: app.url_map.converters[converter]
            for converter, name in _PARAMETER.findall(rule.rule)
        }
        annotations = inspect.signature(view, eval_str=True).parameters
        self.body = annotations["body"].annotation if "body" in annotations else None
        self.query = annotations["query"].annotation if "query" in annotations else None

    @property
    def models(self) -> list[type]:
        """The models of the request body and of the response bodies."""
        models = [self.body, *(answer.body for answer in self.declaration.answers)]
        return [model for model in models if isinstance(model, type)]

    def described(self, examples: Mapping[type[Exception], ProblemExample]) -> Object:
        """Return the operation object; ``examples`` are the problems by their errors."""
        summary, _, description = (inspect.getdoc(self._view) or "").partition("\n\n")
        described: Object = {
            "operationId": self.name,
            "tags": [self.tag],
            "summary": summary.removesuffix(".").replace("``", ""),
            "parameters": self._parameters(),
            "responses": self._responses(examples),
        }
        if self._is_deprecated:
            described["deprecated"] = True
        if description:
            described["description"] = description.replace("``", "`")
        if self.body is not None:
            described["requestBody"] = self._request_body(self.body)
        return described

    def _parameters(self) -> list[Object]:
        path = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": converter.description,
                "schema": dict(converter.schema),
            }
            for name, converter in self._converters.items()
        ]
        query = [] if self.query is None else query_parameters(self.query)
        names = (*self.declaration.reads, "X-Request-ID")
        return path + query + [{"$ref": f"#/components/parameters/{name}"} for name in names]

    def _request_body(self, model: type[BaseModel]) -> Object:
        example = {
            name: field.examples[0] for name, field in model.model_fields.items() if field.examples
        }
        content = {"schema": reference(model), "example": example}
        return {"required": True, "content": dict.fromkeys(BODY_TYPES[self.method], content)}

    def _responses(self, examples: Mapping[type[Exception], ProblemExample]) -> Object:
        sometimes = (*SOMETIMES, *SOMETIMES_BY_TAG.get(self.tag, ()))
        if self._is_deprecated:
            sometimes += SOMETIMES_IF_DEPRECATED
        answers = {
            answer.status: answer_response(answer, sometimes) for answer in self.declaration.answers
        }
        raised = [*self.declaration.raises, *RAISED_BY_TAG.get(self.tag, ()), *RAISED_ALWAYS]
        if self._converters:
            raised += RAISED_BY_PATHS
        if self.query is not None:
            raised += RAISED_BY_QUERIES
        if self.body is not None:
            raised += RAISED_BY_BODIES
        problems: dict[int, list[ProblemExample]] = {}
        for error in raised:
            problems.setdefault(examples[error].status, []).append(examples[error])
        answers |= {
            status: problem_response(kinds, sometimes) for status, kinds in problems.items()
        }
        return {str(status): answers[status] for status in sorted(answers)}
