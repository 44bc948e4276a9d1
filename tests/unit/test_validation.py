"""Bodies and query strings become models, or errors that name the invalid fields."""

from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlencode

import pytest
from flask import Flask, Response
from werkzeug.exceptions import ClientDisconnected
from werkzeug.test import create_environ

from user_service.errors import InvalidInput, MalformedBody, UnsupportedBody
from user_service.web.requests.schemas import ListQuery, UserPatch, UserWrite
from user_service.web.requests.validation import json_object, parse_body, parse_query, validated
from user_service.web.services import Services, attach

SERVICES = object()
ADA = b'{"username": "ada", "email": "ada@example.com"}'


def nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    return b'{"a": ' + opening * depth + b"1" + closing * depth + b"}"


def environ_of(method: str, content_type: str, data: bytes) -> Any:
    return create_environ(method=method, content_type=content_type, data=data)


def body(data: bytes, model: Any = UserWrite, method: str = "POST") -> Any:
    return parse_body(model, environ_of(method, "application/json", data))


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
    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b" ", id="white space"),
            pytest.param(b"{", id="cut off"),
            pytest.param(b"{}x", id="rest"),
            pytest.param(b"{}{}", id="two"),
            pytest.param(b"{'a': 1}", id="single quotes"),
            pytest.param(b"{a: 1}", id="no quotes"),
            pytest.param(b'{"a": 1,}', id="trailing comma"),
            pytest.param(b'{"a": 1} // x', id="comment"),
            pytest.param(b'{"a": 01}', id="leading zero"),
            pytest.param(b'{"a": "\n"}', id="raw line break"),
            pytest.param(b'{"a": "\x00"}', id="raw NUL"),
            pytest.param(b'{"a": "\\x41"}', id="unknown escape"),
            pytest.param(b'{"a": NaN}', id="NaN"),
            pytest.param(b'{"a": Infinity}', id="Infinity"),
            pytest.param(b'{"a": 1e999}', id="beyond a double"),
            pytest.param(b'{"a": ' + b"9" * 5000 + b"}", id="5000 digits"),
            pytest.param(b"\xef\xbb\xbf{}", id="BOM"),
            pytest.param(b'{"a": "\xff"}', id="invalid UTF-8"),
            pytest.param(b'{"a": "\xc0\xaf"}', id="overlong UTF-8"),
            pytest.param(b'{"a": "\xed\xa0\x80"}', id="surrogate in UTF-8"),
            pytest.param('{"a": "ä"}'.encode("latin-1"), id="Latin-1"),
            pytest.param('{"a": 1}'.encode("utf-16"), id="UTF-16"),
            pytest.param('{"a": 1}'.encode("utf-16-be"), id="UTF-16 without BOM"),
            pytest.param('{"a": 1}'.encode("utf-32-le"), id="UTF-32"),
            pytest.param(b'{"a": "\\ud800"}', id="lone surrogate"),
            pytest.param(b'{"a": "\\udc00\\ud800"}', id="surrogates in the wrong order"),
            pytest.param(b'{"\\ud800": 1}', id="lone surrogate in a name"),
            pytest.param(nested(10_000, b"[", b"]"), id="10000 arrays"),
            pytest.param(nested(10_000, b'{"a": ', b"}"), id="10000 objects"),
            pytest.param(b"[" * 10_000, id="10000 arrays, cut off"),
            pytest.param(b"username=ada", id="form"),
        ],
    )
    def test_refuses_what_is_no_json_in_utf_8(self, data: bytes) -> None:
        with pytest.raises(MalformedBody, match=r"^must be JSON in UTF-8$"):
            json_object(data)

    def test_refuses_nothing_at_all(self) -> None:
        with pytest.raises(MalformedBody, match="must not be empty"):
            json_object(b"")

    @pytest.mark.parametrize("data", [b"null", b"true", b"1", b"1.5", b'"{}"', b"[]", b"[{}]"])
    def test_refuses_what_is_no_object(self, data: bytes) -> None:
        with pytest.raises(MalformedBody, match="must be a JSON object"):
            json_object(data)

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b'{"a": 1, "a": 2}', id="other value"),
            pytest.param(b'{"a": 1, "a": 1}', id="same value"),
            pytest.param(b'{"a": 1, "\\u0061": 2}', id="escaped"),
            pytest.param(b'{"": 1, "": 2}', id="empty name"),
            pytest.param(b'{"b": {"a": 1, "a": 2}}', id="in an object"),
            pytest.param(b'{"b": [{"c": [{"a": 1, "a": 2}]}]}', id="deep in arrays"),
        ],
    )
    def test_refuses_a_member_named_twice(self, data: bytes) -> None:
        with pytest.raises(MalformedBody, match="must not name a member twice"):
            json_object(data)

    @pytest.mark.parametrize("depth", range(900, 1100, 25))
    def test_nesting_near_the_limit_of_the_parsers_is_taken_or_refused(self, depth: int) -> None:
        for data in (nested(depth, b"[", b"]"), nested(depth, b'{"a": ', b"}")):
            assert outcome_of(data) in {"taken", "is nested too deeply", "must be JSON in UTF-8"}

    def test_same_name_in_different_objects_is_no_repetition(self) -> None:
        assert json_object(b'{"a": {"a": {"a": 1}}, "b": [{"a": 1}, {"a": 2}]}')["b"][1] == {"a": 2}

    def test_names_that_differ_in_case_or_form_are_different(self) -> None:
        assert len(json_object('{"é": 1, "e\u0301": 2, "É": 3}'.encode())) == 3

    def test_returns_the_members(self) -> None:
        data = ' {"a": "\\ud83d\\ude00é", "b": [null, true, 1e30]}\r\n'.encode()
        assert json_object(data) == {"a": "😀é", "b": [None, True, 1e30]}


class TestParseBody:
    def test_returns_the_model(self) -> None:
        assert body(ADA) == UserWrite(username="ada", email="ada@example.com")

    @pytest.mark.parametrize(
        "value",
        [b"true", b"1", b"1.5", b"1" + b"0" * 30, b"null", b"[]", b'["ada"]', b"{}"],
    )
    def test_takes_nothing_but_a_string_for_a_string(self, value: bytes) -> None:
        data = b'{"username": %b, "email": "ada@example.com"}' % value
        assert errors_of(lambda: body(data)) == {"username": "must be a string"}
        data = b'{"email": %b}' % value
        assert errors_of(lambda: body(data, UserPatch)) == {"email": "must be a string"}

    def test_names_every_field_that_is_missing_or_not_known(self) -> None:
        assert errors_of(lambda: body(b'{"id": 1, "role": "admin", "Username": "ada"}')) == {
            "username": "is required",
            "email": "is required",
            "id": "is not known",
            "role": "is not known",
            "Username": "is not known",
        }

    def test_gives_the_rule_and_not_the_value(self) -> None:
        errors = errors_of(lambda: body(b'{"username": "\\u0000x7", "email": "x7@@"}'))
        assert errors == {
            "username": "must not contain control, invisible or unassigned characters",
            "email": "must be an email address, like ada@example.com",
        }

    def test_tells_a_made_up_name_back_in_64_characters_at_most(self) -> None:
        (name,) = errors_of(lambda: body(b'{"' + b"x" * 1000 + b'": 1}', UserPatch))
        assert name == "x" * 64

    def test_patch_may_be_empty_or_partial(self) -> None:
        assert body(b"{}", UserPatch).model_dump(exclude_unset=True) == {}
        assert body(b'{"username": "ada"}', UserPatch).username == "ada"

    @pytest.mark.parametrize(
        ("method", "mimetype", "taken"),
        [
            ("POST", "application/json", True),
            ("PATCH", "application/json", True),
            ("PATCH", "application/merge-patch+json", True),
            ("POST", "application/merge-patch+json", False),
            ("PUT", "application/merge-patch+json", False),
            ("PATCH", "application/json-patch+json", False),
            ("POST", "", False),
            ("POST", "text/json", False),
            ("POST", "application/x-www-form-urlencoded", False),
            ("POST", "multipart/form-data", False),
        ],
    )
    def test_takes_json_and_for_patch_also_merge_patch(
        self, method: str, mimetype: str, taken: bool
    ) -> None:
        environ = environ_of(method, mimetype, ADA)
        if taken:
            assert parse_body(UserWrite, environ).username == "ada"
        else:
            with pytest.raises(UnsupportedBody):
                parse_body(UserWrite, environ)

    def test_takes_methods_in_any_case(self) -> None:
        environ = environ_of("POST", "application/json", ADA)
        assert parse_body(UserWrite, environ | {"REQUEST_METHOD": "post"}).username == "ada"

    @pytest.mark.parametrize("error", [OSError("no more data"), ValueError("no chunk")])
    def test_client_that_goes_away_meanwhile_is_to_blame(self, error: Exception) -> None:
        def read(_size: int) -> bytes:
            raise error

        environ = environ_of("POST", "application/json", ADA)
        gone = {"wsgi.input": SimpleNamespace(read=read), "wsgi.input_terminated": True}
        with pytest.raises(ClientDisconnected):
            parse_body(UserWrite, environ | gone)

    @pytest.mark.parametrize("terminated", [{}, {"wsgi.input_terminated": True}])
    def test_body_that_is_shorter_than_announced_is_not_taken(
        self, terminated: dict[str, bool]
    ) -> None:
        environ = environ_of("POST", "application/json", ADA)
        with pytest.raises(ClientDisconnected):
            parse_body(UserWrite, environ | terminated | {"CONTENT_LENGTH": "200"})


def query(**values: object) -> ListQuery:
    parsed: ListQuery = parse_query(ListQuery, urlencode(values))
    return parsed


class TestParseQuery:
    def test_defaults(self) -> None:
        for text in ("", "&"):
            parsed = parse_query(ListQuery, text)
            assert (parsed.page, parsed.per_page) == (1, 50)

    @pytest.mark.parametrize(("given", "served"), [(1, 1), (100, 100), (101, 100)])
    def test_serves_100_rows_at_most(self, given: int, served: int) -> None:
        assert query(per_page=given).per_page == served

    @pytest.mark.parametrize(
        "text",
        ["", " ", "1.0", "1e3", "abc", "+1", " 1", "1 ", "1\n", "1_0", "0x1", "١", "１", "²"],
    )
    @pytest.mark.parametrize("name", ["page", "per_page"])
    def test_refuses_what_is_no_whole_number(self, name: str, text: str) -> None:
        assert errors_of(lambda: query(**{name: text})) == {name: "must be a whole number"}

    @pytest.mark.parametrize("text", ["0", "-0", "-1", "-" + "9" * 30, "00"])
    def test_refuses_less_than_one(self, text: str) -> None:
        assert errors_of(lambda: query(page=text)) == {"page": "must be at least 1"}

    @pytest.mark.parametrize(
        ("page", "rule"),
        [
            (2**63, "is too large"),
            (10**30, "is too large"),
            (10**999, "is too large"),
            ("9" * 5000, "must be a whole number"),  # more digits than Python converts
        ],
        ids=["2^63", "10^30", "10^999", "5000 digits"],
    )
    def test_refuses_a_page_that_no_bigint_holds(self, page: object, rule: str) -> None:
        assert errors_of(lambda: query(page=page, per_page=100)) == {"page": rule}
        assert query(page=2**63 - 1).page == 2**63 - 1

    @pytest.mark.parametrize(
        ("text", "time"),
        [
            ("0001-01-01T00:00:00+23:59", datetime(1, 1, 1, tzinfo=UTC)),
            ("9999-12-31T23:59:59-00:01", datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)),
        ],
    )
    def test_takes_times_beyond_the_calendars_ends_as_its_ends(
        self, text: str, time: datetime
    ) -> None:
        assert query(created_since=text).created_since == time

    @pytest.mark.parametrize(
        ("digits", "microsecond"),
        [("123456", 123456), ("1234560", 123456), ("1234561", 123457), ("123456001", 123457)],
    )
    def test_time_between_two_microseconds_is_the_later_one(
        self, digits: str, microsecond: int
    ) -> None:
        """No user is between the two, so that since and before hold for the same users."""
        parsed = query(created_before=f"2026-11-22T19:41:06.{digits}Z")
        assert parsed.created_before == datetime(2026, 11, 22, 19, 41, 6, microsecond, UTC)

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("username=%E9daa", id="Latin-1"),
            pytest.param("q=%E9", id="cut off"),
            pytest.param("q=%ED%A0%80", id="surrogate"),
            pytest.param("q=%C0%AF", id="overlong"),
            pytest.param("%FF=1", id="name"),
            pytest.param("q=\xe9", id="not encoded"),
            pytest.param("q=\u0142", id="no byte"),
        ],
    )
    def test_refuses_what_is_no_utf_8(self, text: str) -> None:
        errors = errors_of(lambda: parse_query(ListQuery, text))
        assert errors == {"query string": "must be percent-encoded UTF-8"}

    @pytest.mark.parametrize("text", ["q=%C3%A9", "q=\xc3\xa9", "%71=%c3%a9"])
    def test_takes_utf_8_encoded_or_not(self, text: str) -> None:
        assert parse_query(ListQuery, text).q == "é"

    def test_refuses_a_repeated_parameter_even_with_the_same_value(self) -> None:
        errors = errors_of(lambda: parse_query(ListQuery, "page=1&q=a&page=1"))
        assert errors == {"page": "must be given once"}

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

    def test_refuses_an_unknown_parameter(self) -> None:
        assert errors_of(lambda: query(limit=1)) == {"limit": "is not known"}

    @pytest.mark.parametrize("text", ["{}=", "{0}=1&{0}=2"])
    def test_tells_made_up_names_back_in_64_characters_at_most(self, text: str) -> None:
        name = "x" * 1000
        assert list(errors_of(lambda: parse_query(ListQuery, text.format(name)))) == [name[:64]]


class TestValidated:
    @pytest.fixture
    def app(self) -> Flask:
        app = Flask("test")
        attach(app, cast("Services", SERVICES))
        return app

    def test_gives_a_view_what_its_annotations_ask_for(self, app: Flask) -> None:
        @validated
        def view(services: object, user_id: int, body: UserPatch, query: ListQuery) -> Response:
            assert services is SERVICES
            return Response(f"{user_id} {body.username} {query.page}")

        with app.test_request_context(
            "/?page=3", method="PATCH", data=b'{"username": "ada"}', content_type="application/json"
        ):
            assert view(user_id=7).data == b"7 ada 3"

    def test_refuses_a_query_where_the_view_takes_none(self, app: Flask) -> None:
        @validated
        def view(services: object) -> Response:
            raise AssertionError("called in spite of its query")

        with app.test_request_context("/?page=1"):
            assert errors_of(view) == {"page": "is not known"}

    def test_does_not_look_at_a_body_that_the_view_does_not_take(self, app: Flask) -> None:
        @validated
        def view(services: object) -> Response:
            return Response("fine")

        with app.test_request_context(data=b"{", content_type="text/html"):
            assert view().data == b"fine"
