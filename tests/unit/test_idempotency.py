"""Idempotency keys: the forms of the header, and the fingerprint of a body."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from werkzeug.datastructures import EnvironHeaders

from user_service.domain.idempotency import KeyedRequest, fingerprint
from user_service.errors import InvalidInput
from user_service.web.requests.idempotency_key import keyed_request

Members = dict[str, str | None]


class Thing(BaseModel):
    name: str = "a"
    note: str | None = None
    seen_at: datetime | None = None


def read(header: str, body: BaseModel | None = None) -> KeyedRequest:
    headers = EnvironHeaders({"HTTP_IDEMPOTENCY_KEY": header})
    keyed = keyed_request(headers, "POST /things", body or Thing())
    assert keyed is not None
    return keyed


class TestKey:
    def test_outlives_a_release_that_adds_an_optional_member(self) -> None:
        assert read("k", Thing(name="ada", note=None)) == read("k", Thing(name="ada"))

    @pytest.mark.parametrize("key", ["k", "!#$%&'()*+-./:;<=>?@[]^_`{|}~", "0"])
    def test_may_be_quoted_or_not(self, key: str) -> None:
        assert read(key).key == key
        assert read(f'"{key}"') == read(key)

    @pytest.mark.parametrize(
        ("header", "key"),
        [
            *(('"a b"', "a b"), ('" "', " "), (' "a" ', "a"), (r'"a\"b\\c"', r'a"b\c')),
            *(('"' + r"\\" * 255 + '"', "\\" * 255), ('"a";p=1', "a")),
            ('"a"; p; q=?0; *r="x;\\""; s=tok/en; t=:YQ==:; u=-1.5; v=@1; w=%"%c3"', "a"),
        ],
    )
    def test_is_a_string_with_escapes_and_ignored_parameters(self, header: str, key: str) -> None:
        assert read(header).key == key

    @pytest.mark.parametrize(
        "header",
        [
            *('"k"\n', "ﬀ", '"a\\b"', '"a\tb"', '"a\n"', '"a" ;p=1', '"a" b', '"a";', '"a";P'),
            *('"a";p=', '"a";p=a b', "<script> secret"),
        ],
        ids=ascii,
    )
    def test_of_another_form_is_refused_by_the_name_of_its_header(self, header: str) -> None:
        """``tests/integration/test_malformed.py`` sends many more."""
        with pytest.raises(InvalidInput) as raised:
            read(header)
        (field,) = raised.value.errors
        assert field == "Idempotency-Key"
        assert "one string of 1 to 255 ASCII characters" in raised.value.errors[field]
        assert "secret" not in str(raised.value)


class TestFingerprint:
    def test_covers_members_of_any_type(self) -> None:
        then, later = (Thing(seen_at=datetime(year, 1, 1, tzinfo=UTC)) for year in (2026, 2027))
        assert read("k", then) == read("k", then) != read("k", later)

    def test_does_not_depend_on_the_order_of_members_or_the_release(self) -> None:
        # Keys are kept for a day, so they outlive the process that stored them.
        one = fingerprint({"username": "ada", "email": "ada@example.com"})
        assert one.hex() == "a6fdba13e9ac4c00c8b2c1bb764e42f99ed5599189d05e074ea3d4f9d1e7ebbe"
        assert fingerprint({"email": "ada@example.com", "username": "ada"}) == one

    @given(*[st.dictionaries(st.text(), st.text() | st.none(), max_size=3)] * 2)
    def test_tells_different_members_apart(self, one: Members, other: Members) -> None:
        assert (fingerprint(one) == fingerprint(other)) == (one == other)
