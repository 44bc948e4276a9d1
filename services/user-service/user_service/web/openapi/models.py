"""The objects of the OpenAPI document: parameters, responses, headers and schemas."""

from collections.abc import Callable, Iterable
from typing import Any

import orjson
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from user_service.web.openapi.examples import ProblemExample
from user_service.web.openapi.operations import ALWAYS, RESPONSE_HEADERS, Answer, Header
from user_service.web.problems import PROBLEM_JSON
from user_service.web.responses.bodies import Problem
from user_service.web.responses.reply import JSON

Object = dict[str, Any]

_REFERENCE = "#/components/schemas/{model}"


def query_schema(model: type[BaseModel]) -> Object:
    """Return the schema of a query string, with ``$defs`` that belong into the components."""
    return model.model_json_schema(ref_template=_REFERENCE, schema_generator=_QuerySchemas)


def query_parameters(model: type[BaseModel]) -> list[Object]:
    """Return the parameter objects of a query string."""
    parameters = []
    for name, schema in query_schema(model)["properties"].items():
        parameter = {"name": name, "in": "query", "description": schema.pop("description")}
        if schema.get("type") == "array":  # one value with commas
            parameter |= {"style": "form", "explode": False}
        parameters.append(parameter | {"schema": schema})
    return parameters


def answer_response(answer: Answer, sometimes: tuple[str, ...]) -> Object:
    """Return the response object of an answer; ``sometimes`` are headers that it may have."""
    headers = _headers(answer.headers, (*answer.may_have, *sometimes))
    response: Object = {"description": answer.description, "headers": headers}
    match answer.body:
        case None:
            pass
        case type():
            example = orjson.loads(orjson.dumps(answer.example))  # times become text
            content = {"schema": reference(answer.body), "example": example}
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


def problem_response(kinds: list[ProblemExample], sometimes: tuple[str, ...]) -> Object:
    """Return the response of one status, which may be of several kinds."""
    always = frozenset.intersection(*(kind.headers for kind in kinds))
    others = frozenset.union(*(kind.headers for kind in kinds)) - always
    examples = {kind.name: {"$ref": f"#/components/examples/{kind.name}"} for kind in kinds}
    content = {"schema": reference(Problem), "examples": examples}
    return {
        "description": "; ".join(dict.fromkeys(kind.title for kind in kinds)),
        "headers": _headers(sorted(always), (*sorted(others), *sometimes)),
        "content": {PROBLEM_JSON: content},
    }


def _headers(always: Iterable[str], sometimes: Iterable[str]) -> Object:
    headers: Object = {name: header_object(RESPONSE_HEADERS[name]) for name in sometimes}
    return headers | {name: {"$ref": f"#/components/headers/{name}"} for name in (*ALWAYS, *always)}


def header_object(header: Header) -> Object:
    """Return the header object, whose example is in its schema.

    Swagger UI would send an example beside the schema, and a condition would not be met.
    """
    schema = {**header.schema, "examples": [header.example]}
    return {"description": header.description, "schema": schema}


def reference(model: type) -> Object:
    """Return a reference to the schema of ``model``."""
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def schemas_of(models: Iterable[type]) -> Object:
    """Return the schemas of ``models``, and of those that they consist of, by name."""
    _, definitions = TypeAdapter.json_schemas(
        [(model.__name__, "validation", TypeAdapter(model)) for model in dict.fromkeys(models)],
        ref_template=_REFERENCE,
        schema_generator=_JsonSchemas,
    )
    schemas: Object = definitions["$defs"]
    return schemas


class _JsonSchemas(GenerateJsonSchema):
    """JSON schemas without defaults of None, which stand for absent members."""

    field_title_should_be_set: Callable[..., bool] = lambda *_: False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default") is not None:
            return super().default_schema(schema)
        return self.generate_inner(schema["schema"])

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        """Return the schema with the format of numbers that 32 bits may not hold."""
        is_small = schema.get("le", 2**31) < 2**31
        return super().int_schema(schema) | ({} if is_small else {"format": "int64"})


class _QuerySchemas(_JsonSchemas):
    """JSON schemas of query parameters, which cannot be null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])
