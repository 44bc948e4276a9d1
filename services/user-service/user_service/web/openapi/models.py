"""The objects that the OpenAPI document describes an operation with."""

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from user_service.web.openapi.examples import ProblemExample
from user_service.web.openapi.operations import ALWAYS, RESPONSE_HEADERS, Answer, Header
from user_service.web.problems import PROBLEM_JSON
from user_service.web.requests.validation import JSON
from user_service.web.responses.bodies import Problem

Object = dict[str, Any]


def query_parameters(model: type[BaseModel]) -> list[Object]:
    """Return the parameter objects of a query string."""
    parameters = []
    for name, schema in model.model_json_schema(schema_generator=_JsonSchemas)[
        "properties"
    ].items():
        # In words, since Swagger UI would send what is marked as an example: all of it at once.
        (example,) = schema.pop("examples")
        description = f"{schema.pop('description')}; like `{name}={example}`"
        parameter = {"name": name, "in": "query", "description": description}
        if schema["type"] == "array":  # one word with commas
            parameter |= {"style": "form", "explode": False}
        parameters.append(parameter | {"schema": schema})
    return parameters


def answer_response(answer: Answer, at_times: tuple[str, ...]) -> Object:
    """Return the response object of an answer; ``at_times`` are headers that it may have."""
    headers = _headers(answer.headers, (*answer.may_have, *at_times))
    response: Object = {"description": answer.description, "headers": headers}
    match answer.body:
        case None:
            pass
        case type():
            content = {"schema": reference(answer.body), "example": answer.body.example}
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


def problem_response(kinds: list[ProblemExample], at_times: tuple[str, ...]) -> Object:
    """Return the response of one status, which may be of several kinds."""
    always = frozenset.intersection(*(kind.headers for kind in kinds))
    others = frozenset.union(*(kind.headers for kind in kinds)) - always
    examples = {kind.name: {"$ref": f"#/components/examples/{kind.name}"} for kind in kinds}
    content = {"schema": reference(Problem), "examples": examples}
    return {
        "description": "; ".join(dict.fromkeys(kind.title for kind in kinds)),
        "headers": _headers(sorted(always), (*sorted(others), *at_times)),
        "content": {PROBLEM_JSON: content},
    }


def _headers(always: Iterable[str], at_times: Iterable[str]) -> Object:
    headers: Object = {name: header_object(RESPONSE_HEADERS[name]) for name in at_times}
    return headers | {name: {"$ref": f"#/components/headers/{name}"} for name in (*ALWAYS, *always)}


def header_object(header: Header) -> Object:
    """Return what the document says about a header, sent or got."""
    described = {"description": header.description, "schema": dict(header.schema)}
    return described if header.example is None else described | {"example": header.example}


def reference(model: type[BaseModel]) -> Object:
    """Return a reference to the schema of ``model``."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def schemas_of(models: Iterable[type[BaseModel]]) -> Object:
    """Return the schemas of ``models``, and of those that they consist of, by name."""
    _, definitions = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)],
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
