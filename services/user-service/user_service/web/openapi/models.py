"""The objects of the OpenAPI document: parameters, responses, headers and schemas."""

from collections.abc import Callable, Iterable
from typing import Literal

import orjson
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from user_service.web.openapi.examples import example_name
from user_service.web.openapi.operations import RESPONSE_HEADERS, Answer, Object
from user_service.web.problems import PROBLEM_JSON, Problem
from user_service.web.requests.schemas import UNCHANGED
from user_service.web.responses import bodies
from user_service.web.responses.reply import JSON

_REFERENCE = "#/components/schemas/{model}"


def query_schema(model: type[BaseModel]) -> Object:
    """Return the schema of a query string; its ``$defs``, if any, belong into the components."""
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


def answer_response(answer: Answer, sometimes: Iterable[str]) -> Object:
    """Return the response object of an answer; ``sometimes`` are headers that it may have."""
    headers = _headers(answer.headers, (*answer.may_have, *sometimes))
    response: Object = {"description": answer.description, "headers": headers}
    if isinstance(answer.body, type):
        example = orjson.loads(orjson.dumps(answer.example))  # times become text
        response["content"] = {JSON: {"schema": reference(answer.body), "example": example}}
    elif answer.body is not None:
        response["content"] = {JSON: {"schema": answer.body}}
    if answer.links:
        response["links"] = answer.links
    return response


def problem_response(problems: list[Problem], sometimes: Iterable[str]) -> Object:
    """Return the response of one status, which may be one of several problems."""
    sent = [problem.reply().headers.keys() - {"Content-Type"} for problem in problems]
    always = set.intersection(*sent)
    others = set.union(*sent) - always
    names = map(example_name, problems)
    examples = {name: {"$ref": f"#/components/examples/{name}"} for name in names}
    return {
        "description": "; ".join(dict.fromkeys(problem.title for problem in problems)),
        "headers": _headers(sorted(always), (*sorted(others), *sometimes)),
        "content": {PROBLEM_JSON: {"schema": reference(bodies.Problem), "examples": examples}},
    }


def _headers(always: Iterable[str], sometimes: Iterable[str]) -> Object:
    headers = {name: RESPONSE_HEADERS[name] for name in sometimes}
    names = ("X-Request-ID", *always)
    return headers | {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def reference(model: type) -> Object:
    """Return a reference to the schema of ``model``."""
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def schemas_of(models: Iterable[type]) -> Object:
    """Return the schemas of ``models``, and of those that they consist of, by name."""
    _, definitions = TypeAdapter.json_schemas(
        [(model.__name__, _mode(model), TypeAdapter(model)) for model in dict.fromkeys(models)],
        ref_template=_REFERENCE,
        schema_generator=_JsonSchemas,
    )
    schemas: Object = definitions["$defs"]
    return schemas


def _mode(model: type) -> Literal["validation", "serialization"]:
    """Return which of the schemas of its members a model of requests or of responses shows."""
    return "validation" if issubclass(model, BaseModel) else "serialization"


class _JsonSchemas(GenerateJsonSchema):
    """JSON schemas without the defaults that stand for absent members."""

    field_title_should_be_set: Callable[..., bool] = lambda *_: False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default") not in (None, UNCHANGED):
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
