"""The OpenAPI document is valid, whole and made of the routes; a route cannot forget it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

import jsonschema_rs
import pytest
from flask import Flask, Response
from openapi_spec_validator import validate

from tests.document_checker import DocumentChecker, Undocumented
from user_service.settings import Settings
from user_service.web.openapi.document import UndeclaredView, document
from user_service.web.openapi.examples import ERRORS
from user_service.web.openapi.operations import Answer, documented, undocumented
from user_service.web.policies.deprecation import deprecated
from user_service.web.requests.schemas import ListQuery
from user_service.web.requests.validation import parse_query

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
PATHS = {
    "/api/v1/users": {"get", "post"},
    "/api/v1/users/{user_id}": {"get", "put", "patch", "delete"},
    "/health": {"get"},
    "/health/live": {"get"},
    "/health/ready": {"get"},
    "/openapi.json": {"get"},
}


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Flask:
    """An application whose servers are never asked for anything."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@localhost/nothing")
    from app import create_app

    return create_app(Settings())


@pytest.fixture
def built(app: Flask) -> dict[str, Any]:
    return document(app)


def operations(built: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in built["paths"].values():
        yield from methods.values()


def test_is_valid(built: dict[str, Any]) -> None:
    validate(built)


def test_names_every_route_and_method(built: dict[str, Any]) -> None:
    named = {path: set(methods) for path, methods in built["paths"].items()}
    assert named.items() >= PATHS.items()


def test_operations_have_names_words_and_examples(built: dict[str, Any]) -> None:
    names = [operation["operationId"] for operation in operations(built)]
    assert len(names) == len(set(names))
    assert {"list_users", "create_user", "get_user", "replace_user"} <= set(names)
    for operation in operations(built):
        assert operation["summary"]
        assert set(operation["tags"]) <= {tag["name"] for tag in built["tags"]}
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in (body.get("content", {}) for body in bodies):
            for media in content.values():
                assert {"example", "examples"} & media.keys() or "title" in media["schema"]


def test_examples_are_what_the_schemas_say(built: dict[str, Any]) -> None:
    checked = 0
    for operation in operations(built):
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for media in (media for body in bodies for media in body.get("content", {}).values()):
            validator = jsonschema_rs.Draft202012Validator(
                {**media["schema"], "components": built["components"]}, validate_formats=True
            )
            named = media.get("examples", {})
            examples = [built["components"]["examples"][name]["value"] for name in named]
            for example in [*examples, *([media["example"]] if "example" in media else [])]:
                validator.validate(example)
                checked += 1
    assert checked > 40


def test_every_example_of_a_problem_is_used(built: dict[str, Any]) -> None:
    used = {
        name
        for operation in operations(built)
        for response in operation["responses"].values()
        for media in response.get("content", {}).values()
        for name in media.get("examples", {})
    }
    assert used == built["components"]["examples"].keys()


def test_every_error_that_is_handled_has_an_example(app: Flask) -> None:
    handled = app.error_handler_spec[None][None].keys() - {Exception}
    for error in handled:
        assert any(isinstance(example, error) for example in ERRORS), error


def test_making_examples_writes_nothing_into_the_log(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    document(app)
    assert not caplog.records


def test_links_lead_to_operations_and_their_parameters(built: dict[str, Any]) -> None:
    parameters = {
        operation["operationId"]: {
            parameter.get("name") or parameter["$ref"].rpartition("/")[2]
            for parameter in operation["parameters"]
        }
        for operation in operations(built)
    }
    links = [
        link
        for operation in operations(built)
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]
    assert len(links) >= 8
    for link in links:
        assert link["parameters"].keys() <= parameters[link["operationId"]]


def test_parameters_of_lists_are_those_of_the_model_and_of_its_page(
    built: dict[str, Any],
) -> None:
    listed = built["paths"]["/api/v1/users"]["get"]["parameters"]
    named = {parameter["name"] for parameter in listed if parameter.get("in") == "query"}
    assert named == ListQuery.model_fields.keys()
    table = PAGE.read_text("utf-8").split("## Lists\n", 1)[1].split("\n\n")[1]
    for name in named:
        assert f"`{name}`" in table


def test_every_parameter_and_header_has_a_valid_example(built: dict[str, Any]) -> None:
    components = built["components"]
    described = [*components["parameters"].values(), *components["headers"].values()]
    for operation in operations(built):
        described += [each for each in operation["parameters"] if "$ref" not in each]
    for each in described:
        (example,) = each["schema"]["examples"]
        schema = {**each["schema"], "components": components}
        jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(example)


def test_examples_of_list_parameters_are_taken() -> None:
    for name, field in ListQuery.model_fields.items():
        (example,) = field.examples or []
        text = ",".join(map(str, example)) if isinstance(example, list) else example
        assert getattr(parse_query(ListQuery, urlencode({name: text})), name), name


def test_enumerations_have_names_and_components_are_used(built: dict[str, Any]) -> None:
    text = json.dumps(built)
    for kind, components in built["components"].items():
        for name in components:
            assert kind == "schemas" or f'"#/components/{kind}/{name}"' in text
    names = {name for name, schema in built["components"]["schemas"].items() if "enum" in schema}
    assert names >= {"Sort", "Precision", "UserMember", "HealthStatus", "ReadinessStatus", "State"}
    assert '"enum": ' not in json.dumps(built["paths"])
    assert built["components"]["schemas"]["ReadinessStatus"] == {
        "type": "string",
        "enum": ["ready", "not ready", "draining"],
        "x-enum-varnames": ["ready", "not_ready", "draining"],
    }


def test_numbers_that_32_bits_may_not_hold_say_so(built: dict[str, Any]) -> None:
    def integers(part: Any) -> Iterator[dict[str, Any]]:
        if isinstance(part, dict):
            if part.get("type") == "integer":
                yield part
            part = list(part.values())
        if isinstance(part, list):
            for each in part:
                yield from integers(each)

    found = list(integers(built["paths"])) + list(integers(built["components"]["schemas"]))
    assert len(found) > 10
    found.remove({"type": "integer", "minimum": 1, "default": 50, "examples": [100]})  # per_page
    for schema in found:
        assert schema.get("format") == "int64" or schema.get("maximum", 2**31) < 2**31


def forgotten() -> Response:
    return Response()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_route_without_a_declaration_is_refused(app: Flask, method: str) -> None:
    app.add_url_rule("/forgotten", "forgotten", forgotten, methods=[method])
    with pytest.raises(UndeclaredView, match=f"{method} /forgotten"):
        document(app)


def test_a_route_may_be_left_out_for_a_reason(app: Flask) -> None:
    @undocumented("for nobody")
    def view() -> Response:
        return Response()

    app.add_url_rule("/hidden", "hidden", view)
    assert "/hidden" not in document(app)["paths"]


def test_route_that_is_going_says_so_and_names_its_headers(app: Flask) -> None:
    @deprecated(
        since=datetime(2027, 1, 1, tzinfo=UTC),
        sunset=datetime(2027, 7, 1, tzinfo=UTC),
        link="https://users.example.com/from-v1-to-v2",
    )
    @documented(Answer(200, "n", {"type": "object"}))
    def old() -> Response:
        return Response("{}", mimetype="application/json")

    app.add_url_rule("/old", "docs.old", old)
    built = document(app)
    validate(built)
    DocumentChecker(built).check(app.test_client().get("/old"))
    operation = built["paths"]["/old"]["get"]
    assert operation["deprecated"] is True
    assert {"Deprecation", "Sunset", "Link"} <= operation["responses"]["200"]["headers"].keys()
    others = [each for each in operations(built) if each is not operation]
    assert not any("deprecated" in each for each in others)


class TestChecker:
    """The checker that the integration tests use finds each kind of untruth."""

    BODY: ClassVar = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    def check(self, app: Flask, response: Response, method: str = "GET") -> None:
        declared = documented(Answer(200, "n", self.BODY, headers=("ETag",), may_have=("X-Cache",)))
        app.add_url_rule("/n", "docs.n", declared(lambda: response))
        checker = DocumentChecker(document(app))
        checker.check(app.test_client().open("/n", method=method))

    def ok(self, body: str = '{"n": 1}', **headers: str) -> Response:
        return Response(body, mimetype="application/json", headers={"ETag": '"1"', **headers})

    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT"])
    def test_finds_nothing_in_what_is_true(self, app: Flask, method: str) -> None:
        self.check(app, self.ok(**{"X-Cache": "HIT"}), method)

    @pytest.mark.parametrize(
        ("changed", "fault"),
        [
            ({"status_code": 202}, "status is not documented"),
            ({"data": '{"n": "1"}'}, "is not of type"),
            ({"data": "{}"}, "is a required property"),
            ({"data": '{"n": 1, "m": 2}'}, "Additional properties"),
            ({"mimetype": "text/plain"}, "content type text/plain"),
            (
                {"headers": {"ETag": '"1"', "Content-Type": "application/json", "X-New": "1"}},
                "X-New",
            ),
            ({"headers": {"Content-Type": "application/json"}}, "ETag is missing"),
            ({"headers": {"ETag": "1", "Content-Type": "application/json"}}, "ETag: "),
        ],
    )
    def test_finds_what_is_not_documented(
        self, app: Flask, changed: dict[str, Any], fault: str
    ) -> None:
        response = self.ok()
        for name, value in changed.items():
            if name == "headers":
                response.headers.clear()
                response.headers.update(value)
            else:
                setattr(response, name, value)
        with pytest.raises(Undocumented, match=fault):
            self.check(app, response)
