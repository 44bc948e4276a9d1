"""The OpenAPI document is valid, whole and made of the routes; a route cannot forget it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import jsonschema_rs
import pytest
from flask import Flask, Response
from openapi_spec_validator import validate
from pydantic import BaseModel, Field

from app import create_app
from tests.document_checker import DocumentChecker, Undocumented
from user_service.settings import Settings
from user_service.web.openapi.document import UndeclaredView, document
from user_service.web.openapi.examples import ERRORS
from user_service.web.openapi.operations import Answer, documented, undocumented
from user_service.web.policies.deprecation import Deprecation
from user_service.web.requests.schemas import ListQuery

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
PATHS = {
    "/api/v1/users": {"get", "post"},
    "/api/v1/users/{user_id}": {"get", "put", "patch", "delete"},
    "/health": {"get"},
    "/health/live": {"get"},
    "/health/ready": {"get"},
    "/openapi.json": {"get"},
}


def new_app(**settings: object) -> Flask:
    """Return an application whose servers are never asked for anything."""
    return create_app(Settings.model_validate(settings))


@pytest.fixture
def app() -> Flask:
    return new_app()


BUILT = document(new_app())
COMPONENTS = BUILT["components"]
OPERATIONS = [operation for methods in BUILT["paths"].values() for operation in methods.values()]
RESPONSES = [each for operation in OPERATIONS for each in operation["responses"].values()]
BODIES = [*(operation.get("requestBody", {}) for operation in OPERATIONS), *RESPONSES]
MEDIA = [media for body in BODIES for media in body.get("content", {}).values()]


def objects(part: Any) -> Iterator[dict[str, Any]]:
    """Yield every object within ``part`` of a document."""
    if isinstance(part, dict):
        yield part
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from objects(each)


def check(schema: dict[str, Any], instance: object) -> None:
    whole = {**schema, "components": COMPONENTS}
    jsonschema_rs.Draft202012Validator(whole, validate_formats=True).validate(instance)


def test_is_valid_and_names_every_route_and_method() -> None:
    validate(BUILT)
    named = {path: set(methods) for path, methods in BUILT["paths"].items()}
    assert named.items() >= PATHS.items()


def test_answer_without_the_database_has_two_bodies_where_a_key_may_be_checked() -> None:
    health = document(new_app(auth_api_keys=True))["paths"]["/health"]["get"]
    content = health["responses"]["503"]["content"]
    assert content.keys() == {"application/json", "application/problem+json"}


def test_delete_names_what_is_wrong_with_its_body() -> None:
    assert {"408", "413"} <= BUILT["paths"]["/api/v1/users/{user_id}"]["delete"]["responses"].keys()


def test_operations_have_names_words_and_examples() -> None:
    names = [operation["operationId"] for operation in OPERATIONS]
    assert len(names) == len(set(names))
    assert {"list_users", "create_user", "get_user", "replace_user"} <= set(names)
    for operation in OPERATIONS:
        assert operation["summary"]
        assert set(operation["tags"]) <= {tag["name"] for tag in BUILT["tags"]}
    for media in MEDIA:
        assert {"example", "examples"} & media.keys() or "title" in media["schema"]


def test_examples_are_what_the_schemas_say_and_all_are_used() -> None:
    components, used = COMPONENTS["examples"], set()
    for media in MEDIA:
        for name in media.get("examples", {}):
            check(media["schema"], components[name]["value"])
            used.add(name)
        if "example" in media:
            check(media["schema"], media["example"])
    assert used == components.keys()
    assert len(used) > 10


def test_every_error_that_is_handled_has_an_example_which_logs_nothing(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    handled = app.error_handler_spec[None][None].keys() - {Exception}
    for error in handled:
        assert any(isinstance(example, error) for example in ERRORS), error
    document(app)
    assert not caplog.records


def test_parameters_of_lists_are_those_of_the_model_and_of_its_page() -> None:
    listed = BUILT["paths"]["/api/v1/users"]["get"]["parameters"]
    named = {parameter["name"] for parameter in listed if parameter.get("in") == "query"}
    assert named == ListQuery.model_fields.keys()
    table = PAGE.read_text("utf-8").split("## Lists\n", 1)[1].split("\n\n")[1]
    for name in named:
        assert f"`{name}`" in table


def test_every_parameter_and_header_has_a_valid_example() -> None:
    described = [*COMPONENTS["parameters"].values(), *COMPONENTS["headers"].values()]
    for operation in OPERATIONS:
        described += [each for each in operation["parameters"] if "$ref" not in each]
    for each in described:
        (example,) = each["schema"]["examples"]
        check(each["schema"], example)
        assert each.get("example") == (example if each.get("in") == "path" else None)


def test_enumerations_have_names_and_components_are_used() -> None:
    text = json.dumps(BUILT)
    for kind, components in COMPONENTS.items():
        for name in components:
            assert kind == "schemas" or f'"#/components/{kind}/{name}"' in text
    names = {name for name, schema in COMPONENTS["schemas"].items() if "enum" in schema}
    assert names >= {"Sort", "Precision", "UserMember", "HealthStatus", "ReadinessStatus", "State"}
    assert '"enum": ' not in json.dumps(BUILT["paths"])
    assert COMPONENTS["schemas"]["ReadinessStatus"] == {
        "type": "string",
        "enum": ["ready", "not ready", "draining"],
        "x-enum-varnames": ["ready", "not_ready", "draining"],
    }


def test_numbers_that_32_bits_may_not_hold_say_so() -> None:
    parts = objects([BUILT["paths"], COMPONENTS["schemas"]])
    found = [each for each in parts if each.get("type") == "integer"]
    assert len(found) > 10
    found.remove({"type": "integer", "minimum": 1, "default": 50, "examples": [100]})  # per_page
    for schema in found:
        assert schema.get("format") == "int64" or schema.get("maximum", 2**31) < 2**31


def test_times_have_no_pattern_and_no_credentials_are_asked_for() -> None:
    """Clients in Ruby and PHP take the pattern of a time for one of their own time objects."""
    times = [each for each in objects(BUILT) if each.get("format") == "date-time"]
    assert len(times) >= 5
    assert not any("pattern" in each for each in times)
    assert BUILT["security"] == []


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_route_without_a_declaration_is_refused(app: Flask, method: str) -> None:
    app.add_url_rule("/hidden", "hidden", undocumented("for nobody")(lambda: Response(status=204)))
    assert "/hidden" not in document(app)["paths"]
    app.add_url_rule("/forgotten", "forgotten", Response, methods=[method])
    with pytest.raises(UndeclaredView, match=f"{method} /forgotten"):
        document(app)


def test_query_may_have_parameters_of_plain_types_alone(app: Flask) -> None:
    class Query(BaseModel):
        limit: int = Field(default=1, description="number of things")

    @documented(Answer(200, "Things"))
    def list_things(query: Query) -> Response:
        """List things."""
        return Response()

    app.add_url_rule("/things", "things.list", list_things)
    (parameter, *_) = document(app)["paths"]["/things"]["get"]["parameters"]
    assert parameter["name"] == "limit"


def test_route_that_is_going_says_so_and_names_its_headers(app: Flask) -> None:
    @Deprecation(
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
    operation = built["paths"].pop("/old")["get"]
    assert operation["deprecated"] is True
    assert {"Deprecation", "Sunset", "Link"} <= operation["responses"]["200"]["headers"].keys()
    assert not any("deprecated" in each for each in objects(built["paths"]))


class TestChecker:
    """The checker that the integration tests use finds each kind of untruth."""

    BODY: ClassVar = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    HEADERS: ClassVar = {"ETag": '"1"', "Content-Type": "application/json"}

    @pytest.mark.parametrize(
        ("status", "body", "headers", "fault"),
        [
            (202, '{"n": 1}', {}, "status is not documented"),
            (200, '{"n": "1"}', {}, "is not of type"),
            (200, "{}", {}, "is a required property"),
            (200, '{"n": 1, "m": 2}', {}, "Additional properties"),
            (200, '{"n": 1}', {"Content-Type": "text/plain"}, "content type text/plain"),
            (200, '{"n": 1}', {"X-New": "1"}, "X-New"),
            (200, '{"n": 1}', {"ETag": None}, "ETag is missing"),
            (200, '{"n": 1}', {"ETag": "1"}, "ETag: "),
        ],
    )
    def test_finds_what_is_not_documented(
        self, app: Flask, status: int, body: str, headers: dict[str, str | None], fault: str
    ) -> None:
        sent = {name: value for name, value in (self.HEADERS | headers).items() if value}
        declared = documented(Answer(200, "n", self.BODY, headers=("ETag",)))
        app.add_url_rule("/n", "docs.n", declared(lambda: Response(body, status, sent)))
        checker = DocumentChecker(document(app))
        with pytest.raises(Undocumented, match=fault):
            checker.check(app.test_client().get("/n"))
