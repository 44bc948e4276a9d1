"""The OpenAPI 3.1 document, made of the routes, not written beside them.

Paths and methods come from Flask's map, parameters and bodies from the views' annotations, problems
from the handlers that answer what the views raise; ``@documented`` says the rest.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema
from werkzeug.exceptions import NotFound, RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.routing import Rule

from user_service import __version__
from user_service.errors import MalformedBody
from user_service.web.answers import Problem
from user_service.web.converters import UserIdConverter
from user_service.web.declarations import (
    ALWAYS,
    AT_TIMES,
    AT_TIMES_BY_TAG,
    RAISED_ALWAYS,
    RAISED_BY_TAG,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    Answer,
    Declaration,
    Header,
)
from user_service.web.problem_examples import ProblemExample, problem_examples
from user_service.web.problems import PROBLEM_JSON
from user_service.web.validation import BODY_TYPES, JSON

Object = dict[str, Any]

INFO = {
    "title": "User service",
    "version": __version__,
    "summary": "Users over HTTP: create, read, list in pages, change and delete",
    "description": (
        "`HEAD` works wherever `GET` does; `OPTIONS`, and every 405, say with `Allow` what a path"
        " takes. Every error is `application/problem+json` (RFC 9457). Unknown query parameters"
        " and members are refused (400)."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}
TAGS = [
    {"name": "users", "description": "Users"},
    {"name": "health", "description": "Whether the service works, for people and probes"},
    {"name": "docs", "description": "This document"},
]
# What comes of a path or a body before the view is called.
RAISED_BY_PATHS = (NotFound,)
RAISED_BY_BODIES = (MalformedBody, RequestEntityTooLarge, UnsupportedMediaType)


class UndeclaredView(Exception):
    """A route is registered whose view is neither ``@documented`` nor ``@undocumented``."""


def document(app: Flask) -> Object:
    """Return the document of all routes of ``app``; raise UndeclaredView."""
    operations = [
        Operation(app, rule, method)
        for rule in app.url_map.iter_rules()
        if "undocumented" not in vars(app.view_functions[rule.endpoint])
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]
    examples = problem_examples(app)
    paths: Object = {}
    for operation in operations:
        path = paths.setdefault(operation.path, {})
        path[operation.method.lower()] = operation.described(examples)
    return {
        "openapi": "3.1.0",
        "info": INFO,
        "servers": [{"url": "/"}],
        "tags": TAGS,
        "paths": paths,
        "components": {
            "schemas": _schemas(operations),
            "parameters": {
                name: {"name": name, "in": "header", **_header(header)}
                for name, header in REQUEST_HEADERS.items()
            },
            "headers": {
                name: {"required": True, **_header(header)}
                for name, header in RESPONSE_HEADERS.items()
            },
            "examples": {example.name: {"value": example.body} for example in examples.values()},
        },
    }


class Operation:
    """One method of one route, and how the document describes it."""

    def __init__(self, app: Flask, rule: Rule, method: str) -> None:
        view = app.view_functions[rule.endpoint]
        if "declaration" not in vars(view):
            raise UndeclaredView(f"{method} {rule.rule}: its view is not @documented")
        self.method = method
        self.path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        self.tag, _, self.name = rule.endpoint.rpartition(".")
        self.declaration: Declaration = vars(view)["declaration"]
        self._view = view
        # Werkzeug shows them in no other way.
        self._converters = cast("dict[str, UserIdConverter]", rule._converters)  # noqa: SLF001
        annotations = inspect.signature(view, eval_str=True).parameters
        self.body = annotations["body"].annotation if "body" in annotations else None
        self._query = annotations["query"].annotation if "query" in annotations else None

    @property
    def models(self) -> list[type[BaseModel]]:
        """The models of the body that it takes and of those that it answers with."""
        models = [self.body, *(answer.body for answer in self.declaration.answers)]
        return [model for model in models if isinstance(model, type(BaseModel))]

    def described(self, examples: Mapping[type[Exception], ProblemExample]) -> Object:
        """Return the operation object."""
        summary, _, description = (inspect.getdoc(self._view) or "").partition("\n\n")
        described: Object = {
            "operationId": self.name,
            "tags": [self.tag],
            "summary": summary.removesuffix("."),
            "parameters": self._parameters(),
            "responses": self._responses(examples),
        }
        if description:
            described["description"] = description
        if self.body is not None:
            described["requestBody"] = self._request_body(self.body)
        return described

    def _parameters(self) -> list[Object]:
        path = [
            {"name": name, "in": "path", "required": True, "schema": dict(converter.schema)}
            for name, converter in self._converters.items()
        ]
        query = [] if self._query is None else query_parameters(self._query)
        names = (*self.declaration.reads, "X-Request-ID")
        return path + query + [{"$ref": f"#/components/parameters/{name}"} for name in names]

    def _request_body(self, model: type[BaseModel]) -> Object:
        example = {
            name: field.examples[0] for name, field in model.model_fields.items() if field.examples
        }
        content = {"schema": _reference(model), "example": example}
        return {"required": True, "content": dict.fromkeys(BODY_TYPES[self.method], content)}

    def _responses(self, examples: Mapping[type[Exception], ProblemExample]) -> Object:
        at_times = (*AT_TIMES, *AT_TIMES_BY_TAG.get(self.tag, ()))
        answers = {answer.status: _answer(answer, at_times) for answer in self.declaration.answers}
        raised = [*self.declaration.raises, *RAISED_BY_TAG.get(self.tag, ()), *RAISED_ALWAYS]
        if self._converters:
            raised += RAISED_BY_PATHS
        if self.body is not None:
            raised += RAISED_BY_BODIES
        problems: dict[int, list[ProblemExample]] = {}
        for error in raised:
            problems.setdefault(examples[error].status, []).append(examples[error])
        answers |= {status: _problems(kinds, at_times) for status, kinds in problems.items()}
        return {str(status): answers[status] for status in sorted(answers)}


def query_parameters(model: type[BaseModel]) -> list[Object]:
    """Return the parameter objects of a query string."""
    parameters = []
    for name, schema in model.model_json_schema(schema_generator=_JsonSchemas)[
        "properties"
    ].items():
        parameter = {"name": name, "in": "query", "description": schema.pop("description")}
        if schema["type"] == "array":  # one word with commas
            parameter |= {"style": "form", "explode": False}
        parameters.append(parameter | {"schema": schema})
    return parameters


def _answer(answer: Answer, at_times: tuple[str, ...]) -> Object:
    headers = _headers(answer.headers, (*answer.may_have, *at_times))
    response: Object = {"description": answer.description, "headers": headers}
    match answer.body:
        case None:
            pass
        case type():
            content = {"schema": _reference(answer.body), "example": answer.body.example}
            response["content"] = {JSON: content}
        case schema:
            response["content"] = {JSON: {"schema": schema}}
    if answer.links:
        response["links"] = {
            name: {
                "operationId": link.operation,
                "parameters": link.parameters,
                "description": link.description,
            }
            for name, link in answer.links.items()
        }
    return response


def _problems(kinds: list[ProblemExample], at_times: tuple[str, ...]) -> Object:
    """Return the response of one status, which may be of several kinds."""
    always = frozenset.intersection(*(kind.headers for kind in kinds))
    others = frozenset.union(*(kind.headers for kind in kinds)) - always
    examples = {kind.name: {"$ref": f"#/components/examples/{kind.name}"} for kind in kinds}
    content = {"schema": _reference(Problem), "examples": examples}
    return {
        "description": "; ".join(dict.fromkeys(kind.title for kind in kinds)),
        "headers": _headers(sorted(always), (*sorted(others), *at_times)),
        "content": {PROBLEM_JSON: content},
    }


def _headers(always: Iterable[str], at_times: Iterable[str]) -> Object:
    headers: Object = {name: _header(RESPONSE_HEADERS[name]) for name in at_times}
    return headers | {name: {"$ref": f"#/components/headers/{name}"} for name in (*ALWAYS, *always)}


def _header(header: Header) -> Object:
    return {
        "description": header.description,
        "schema": dict(header.schema),
        "example": header.example,
    }


def _reference(model: type[BaseModel]) -> Object:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _schemas(operations: list[Operation]) -> Object:
    models: set[type[BaseModel]] = {Problem}
    models.update(model for operation in operations for model in operation.models)
    _, definitions = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)],
        ref_template="#/components/schemas/{model}",
        schema_generator=_JsonSchemas,
    )
    schemas: Object = definitions["$defs"]
    return schemas


class _JsonSchemas(GenerateJsonSchema):
    """Where None is the default it stands for "absent", and is nothing that can be sent."""

    field_title_should_be_set: Callable[..., bool] = lambda *_: False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default") is not None:
            return super().default_schema(schema)
        inner = schema["schema"]
        return self.generate_inner(inner["schema"] if inner["type"] == "nullable" else inner)
