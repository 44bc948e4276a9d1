"""Bodies and query strings become models, or errors that name the invalid fields."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast
from unittest.mock import Mock
from urllib.parse import urlencode

import pytest
from flask import Flask, Response
from pydantic import BaseModel, model_validator
from werkzeug.exceptions import ClientDisconnected
from werkzeug.test import create_environ

from user_service.errors import InvalidInput, MalformedBody
from user_service.web.requests.schemas import ListQuery, UserPatch, UserWrite
from user_service.web.requests.validation import json_object, parse_body, parse_query, validated
from user_service.web.services import Services, attach

ADA = b'{"username": "ada", "email": "ada@example.com"}'


def nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    return b'{"a": ' + opening * depth + b"1" + closing * depth + b"}"


TOO_DEEP = nested(10_000, b"[", b"]")
TWICE_WITHIN = b'{"b": [{"c": [{"a": 1, "a": 2}]}]}'


def sent(data: bytes) -> Any:
    return create_environ(method="POST", content_type="application/json", data=data)


def body(data: bytes, model: Any = UserWrite) -> Any:
    return parse_body(model, sent(data))


def errors_of(call: Callable[[], object]) -> dict[str, str]:
    """Return the fields that ``call`` finds fault with, and the rule of each."""
    with pytest.raises(InvalidInput) as raised:
        call()
    return raised.value.errors


def outcome_of(data: bytes) -> str:
    try:
        json_object(data)
    except MalformedBody as error:
        return str(error)
    return "taken"


class TestJsonObject:
    """``tests/integration/test_malformed.py`` sends many more to the routes."""

    @pytest.mark.parametrize(
        ("rule", "bodies"),
        [
            ("must not be empty", [b""]),
            ("must be JSON in UTF-8", [b" ", b"{}x", b'{"a": NaN}', b'{"a": "\xff"}', TOO_DEEP]),
            ("must be a JSON object", [b"null", b"true", b"1", b"1.5", b'"{}"', b"[]", b"[{}]"]),
            ("must not name a member twice", [b'{"a": 1, "\\u0061": 2}', TWICE_WITHIN]),
        ],
    )
    def test_refuses_with_the_rule(self, rule: str, bodies: list[bytes]) -> None:
        assert {outcome_of(data) for data in bodies} == {rule}

    @pytest.mark.parametrize("depth", range(900, 1100, 25))
    def test_nesting_near_the_limit_of_the_parsers_is_taken_or_refused(self, depth: int) -> None:
        for data in (nested(depth, b"[", b"]"), nested(depth, b'{"a": ', b"}")):
            assert outcome_of(data) in {"taken", "is nested too deeply", "must be JSON in UTF-8"}

    def test_returns_the_members_and_tells_those_apart_that_are_no_repetition(self) -> None:
        members = {"a": [None, True, 1e30, {"a": 1}, {"a": "😀"}], "é": 1, "e\u0301": 2, "É": 3}
        assert json_object(json.dumps(members).encode()) == members
        assert json_object(f" {json.dumps(members, ensure_ascii=False)}\r\n".encode()) == members


class TestParseBody:
    """``tests/integration/test_malformed.py`` has the types, and values of every other kind."""

    def test_gives_the_rule_of_every_field_and_not_the_value(self) -> None:
        assert errors_of(lambda: body(b'{"username": 10000000000000000000000, "id": 1}')) == {
            "username": "must be a string",
            "email": "is required",
            "id": "is not known",
        }
        errors = errors_of(lambda: body(b'{"username": "\\u0000x7", "email": "x7@@"}'))
        assert errors == {
            "username": "must not contain control, invisible or unassigned characters",
            "email": "must be an email address, like ada@example.com",
        }

    @pytest.mark.parametrize(
        "gone",
        [
            {"wsgi.input": Mock(read=Mock(side_effect=OSError("no more data")))},
            {"wsgi.input": Mock(read=Mock(side_effect=ValueError("no chunk")))},
            {"CONTENT_LENGTH": "200"},
            {"CONTENT_LENGTH": "200", "wsgi.input_terminated": False},
        ],
    )
    def test_client_that_goes_away_meanwhile_is_to_blame(self, gone: dict[str, object]) -> None:
        with pytest.raises(ClientDisconnected):
            parse_body(UserWrite, sent(ADA) | {"wsgi.input_terminated": True} | gone)

    def test_rule_of_a_whole_model_names_the_request(self) -> None:
        class Period(BaseModel):
            since: int
            before: int

            @model_validator(mode="after")
            def _is_ordered(self) -> "Period":
                if self.since > self.before:
                    raise ValueError("since must not be after before")
                return self

        errors = errors_of(lambda: body(b'{"since": 2, "before": 1}', Period))
        assert errors == {"request": "since must not be after before"}


def query(**values: object) -> ListQuery:
    parsed: ListQuery = parse_query(ListQuery, urlencode(values))
    return parsed


class TestParseQuery:
    @pytest.mark.parametrize(
        ("rule", "texts"),
        [
            ("must be a whole number", ["1.0", "9" * 5000]),  # more digits than Python converts
            ("must be at least 1", ["0", "-1"]),
            ("is too large", [str(2**63), str(10**999)]),
        ],
    )
    def test_gives_the_rule_of_a_page(self, rule: str, texts: list[str]) -> None:
        """``tests/integration/test_malformed.py`` sends many more to the route."""
        for text in texts:
            values = {"page": text, "per_page": "100"}
            assert errors_of(partial(query, **values)) == {"page": rule}
        assert errors_of(lambda: query(per_page="1.0")) == {"per_page": "must be a whole number"}

    @pytest.mark.parametrize(
        ("text", "time"),
        [
            ("0001-01-01T00:00:00+23:59", datetime(1, 1, 1, tzinfo=UTC)),
            ("9999-12-31T23:59:59-00:01", datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)),
        ],
    )
    def test_takes_times_beyond_the_calendar_as_its_ends(self, text: str, time: datetime) -> None:
        assert query(created_since=text).created_since == time

    @pytest.mark.parametrize(
        ("digits", "microsecond"),
        [("123456", 123456), ("1234560", 123456), ("1234561", 123457), ("123456001", 123457)],
    )
    def test_time_between_microseconds_is_the_later(self, digits: str, microsecond: int) -> None:
        """No user is between the two, so that since and before hold for the same users."""
        parsed = query(created_before=f"2026-11-22T19:41:06.{digits}Z")
        assert parsed.created_before == datetime(2026, 11, 22, 19, 41, 6, microsecond, UTC)

    @pytest.mark.parametrize(
        "text",
        # Latin-1, cut off, a surrogate, overlong, a name, not encoded, no byte at all.
        ["username=%E9daa", "q=%E9", "q=%ED%A0%80", "q=%C0%AF", "%FF=1", "q=\xe9", "q=\u0142"],
    )
    def test_refuses_what_is_no_utf_8(self, text: str) -> None:
        errors = errors_of(lambda: parse_query(ListQuery, text))
        assert errors == {"query string": "must be percent-encoded UTF-8"}

    @pytest.mark.parametrize("text", ["q=%C3%A9", "q=\xc3\xa9", "%71=%c3%a9"])
    def test_takes_utf_8_encoded_or_not(self, text: str) -> None:
        assert parse_query(ListQuery, text).q == "é"

    def test_refuses_what_is_repeated_or_unknown(self) -> None:
        errors = errors_of(lambda: parse_query(ListQuery, "page=1&q=a&page=1"))
        assert errors == {"page": "must be given once"}
        assert errors_of(lambda: query(limit=1)) == {"limit": "is not known"}

    @pytest.mark.parametrize("text", ["id=1&id=2,3&q=a", "id=1%2C2&q=a&id=3", "id=3,2,1&q=a"])
    def test_takes_lists_with_commas_and_as_repeated_parameters(self, text: str) -> None:
        parsed = parse_query(ListQuery, f"{text}&fields=username&fields=id")
        assert (parsed.id, parsed.fields) == ((1, 2, 3), ("id", "username"))
        assert parsed.page_name == query(id="1,2,3", fields="id,username", q="a").page_name

    @pytest.mark.parametrize("offset", ["Z", "z", "+00:00", "+0000", "-0000", " 00:00", "+01:00"])
    @pytest.mark.parametrize("separator", ["T", "t"])
    def test_takes_every_spelling_of_an_offset(self, offset: str, separator: str) -> None:
        hour = 20 if offset == "+01:00" else 19
        parsed = query(created_since=f"2026-11-22{separator}{hour}:41:06{offset}")
        assert parsed.created_since == datetime(2026, 11, 22, 19, 41, 6, tzinfo=UTC)

    @pytest.mark.parametrize("text", ["{}=", "{0}=1&{0}=2"])
    def test_tells_made_up_names_back_in_64_characters_at_most(self, text: str) -> None:
        name = "x" * 1000
        assert list(errors_of(lambda: parse_query(ListQuery, text.format(name)))) == [name[:64]]
        assert list(errors_of(lambda: body(f'{{"{name}": 1}}'.encode(), UserPatch))) == [name[:64]]

    def test_tells_a_hundred_of_them_back_at_most(self) -> None:
        names = [f"name-{number}" for number in range(1000)]
        assert list(errors_of(lambda: parse_query(ListQuery, "&".join(names)))) == names[:100]
        sent = json.dumps(dict.fromkeys(names)).encode()
        assert list(errors_of(lambda: body(sent, UserPatch))) == names[:100]


def test_view_that_takes_no_body_does_not_look_at_one() -> None:
    @validated
    def view(services: object) -> Response:
        return Response("fine")

    app = Flask("test")
    attach(app, cast("Services", None))
    with app.test_request_context(data=b"{", content_type="text/html"):
        assert view().data == b"fine"
