"""Idempotency keys: the forms of the header, and the fingerprint of a body."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import EnvironHeaders

from user_service.domain.idempotency import KeyedRequest, fingerprint
from user_service.errors import InvalidInput
from user_service.web.requests.idempotency_key import keyed_request

FIELDS = ("username", "email")
UUID = "8e03978e-40d5-43e8-bc93-6894a57f9324"


def read(header: str | None, *fields: str) -> KeyedRequest | None:
    environ = {} if header is None else {"HTTP_IDEMPOTENCY_KEY": header}
    return keyed_request(
        EnvironHeaders(environ), "POST /things", dict(zip(FIELDS, fields, strict=False))
    )


class TestKey:
    def test_is_none_where_there_is_no_header(self) -> None:
        assert read(None) is None

    def test_stands_for_route_and_body(self) -> None:
        assert read("k", "a", "b") == KeyedRequest("k", "POST /things", fingerprint("a", "b"))

    @pytest.mark.parametrize("key", [UUID, "k", "k" * 255, "!#$%&'()*+,-./:;<=>?@[]^_`{|}~", "0"])
    def test_may_be_quoted_or_not(self, key: str) -> None:
        bare, quoted = read(key), read(f'"{key}"')
        assert bare is not None
        assert bare.key == key
        assert quoted == bare

    @pytest.mark.parametrize(
        "header",
        [
            *("", '"', '""', '"""', "k" * 256, f'"{"k" * 256}"', "a b", " ", '" "', "a\tb", "\x7f"),
            *('"k', 'k"', 'a"b', '"a"b"', "back\\slash", '"\\""', "\x00", "k\n", '"k"\n', "ключ"),
            *("naïve", "\xa0", "k\x1b", "ﬀ"),
        ],
        ids=ascii,
    )
    def test_of_another_form_is_refused_by_the_name_of_its_header(self, header: str) -> None:
        with pytest.raises(InvalidInput) as raised:
            read(header)
        (field,) = raised.value.errors
        assert field == "Idempotency-Key"
        assert "1 to 255 visible ASCII characters" in raised.value.errors[field]

    def test_that_is_refused_is_not_told_back(self) -> None:
        with pytest.raises(InvalidInput) as raised:
            read("<script> secret")
        assert "secret" not in str(raised.value)


class TestFingerprint:
    def test_is_the_same_for_the_same_fields(self) -> None:
        assert fingerprint("ada", "ada@example.com") == fingerprint("ada", "ada@example.com")

    def test_does_not_change_between_releases(self) -> None:
        # Keys are kept for a day, so they outlive the process that stored them.
        assert fingerprint("ada", "ada@example.com").hex() == (
            "5a7daedb5857f29bbdd88a335c3f2c5ffd73ab4cf9086ed449ef38b27bf087e1"
        )

    @pytest.mark.parametrize(
        ("one", "other"),
        list(
            combinations(
                [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc"), ("c", "ab"), ()], 2
            )
        ),
    )
    def test_tells_apart_where_one_field_ends_and_the_next_begins(
        self, one: tuple[str, ...], other: tuple[str, ...]
    ) -> None:
        assert fingerprint(*one) != fingerprint(*other)

    @given(*[st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3)] * 2)
    def test_tells_different_fields_apart(self, one: list[str], other: list[str]) -> None:
        assert (fingerprint(*one) == fingerprint(*other)) == (one == other)

    @given(*[st.text(alphabet="\0,12", max_size=6)] * 4)
    def test_is_not_deceived_by_its_own_separators(self, a: str, b: str, c: str, d: str) -> None:
        assert (fingerprint(a, b) == fingerprint(c, d)) == ((a, b) == (c, d))
