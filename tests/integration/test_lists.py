"""Lists: sorted, filtered, counted on demand, with the members that are wanted."""

from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor
from pytest_mock import MockerFixture

from tests.integration.users import URL, USER, create, names, page, total
from tests.population import SAME_TIMES, populate
from tests.responses import fields_of, json_of, problem_of
from user_service.web.services import Services


def pagination(client: FlaskClient, **query: object) -> Any:
    return page(client, **query)["pagination"]


class TestSort:
    @pytest.fixture(autouse=True)
    def users(self, client: FlaskClient) -> None:
        create(client, "bob", "Eve", "ada", "Dan", "carol")
        client.patch(f"{URL}/2", json={"email": "second@example.com"})  # Eve is the last to change

    @pytest.mark.parametrize(
        ("sort", "expected"),
        [
            ("id", ["bob", "Eve", "ada", "Dan", "carol"]),
            ("username", ["ada", "bob", "carol", "Dan", "Eve"]),  # by canonical form
            ("created_at", ["bob", "Eve", "ada", "Dan", "carol"]),
            ("updated_at", ["bob", "ada", "Dan", "carol", "Eve"]),
        ],
    )
    def test_goes_both_ways(self, client: FlaskClient, sort: str, expected: list[str]) -> None:
        assert names(client, sort=sort) == expected
        assert names(client, sort=f"-{sort}") == expected[::-1]
        assert names(client, sort=sort, page=2, per_page=2) == expected[2:4]

    @pytest.mark.parametrize("sort", ["created_at", "updated_at"])
    def test_breaks_ties_by_id(
        self, client: FlaskClient, services: Services, admin: cursor, sort: str
    ) -> None:
        admin.execute(SAME_TIMES)
        services.pages.invalidate()
        assert names(client, sort=sort) == ["bob", "Eve", "ada", "Dan", "carol"]
        assert names(client, sort=f"-{sort}") == ["carol", "Dan", "ada", "Eve", "bob"]

    @pytest.mark.parametrize("by", ["id", "username", "created_at", "updated_at"])
    @pytest.mark.parametrize("sign", ["", "-"])
    def test_pages_far_down_are_those_of_any_page(
        self, client: FlaskClient, services: Services, mocker: MockerFixture, by: str, sign: str
    ) -> None:
        def pages() -> list[Any]:
            query = {"sort": f"{sign}{by}", "per_page": 2}
            return [page(client, **query, page=number) for number in range(1, 5)]

        near = pages()
        mocker.patch("user_service.database.user_lists.FAR_OFFSET", 0)
        services.pages.invalidate()
        assert pages() == near


def test_fields_are_the_members_of_users_also_from_the_cache(client: FlaskClient) -> None:
    create(client, "ada")
    assert "email" in client.get(f"{URL}?fields=id,email").text
    found = page(client, fields="username,id")
    assert [list(user.items()) for user in found["users"]] == [[("id", 1), ("username", "ada")]]
    assert found["pagination"]["total"] == 1


class TestFilters:
    @pytest.fixture(autouse=True)
    def users(self, client: FlaskClient) -> None:
        emails = {
            "Ada": "3Ada",
            "adam": "4ada",
            "Grace": "5Gra",
            "straße": "6str",
            "ａｄａ１": "4EF",
        }
        create(client, **{name: f"{email}@Example.com" for name, email in emails.items()})

    def test_names_are_exact_in_canonical_form(self, client: FlaskClient) -> None:
        for username in ("Ada", "ADA", "ａｄａ", " ada "):
            assert names(client, username=username) == ["Ada"]
        for email in ("3Ada@example.com", "3ADA@EXAMPLE.COM"):
            assert names(client, email=email) == ["Ada"]
        assert names(client, email="nobody@example.com") == []

    def test_ids_are_those_that_there_are(self, client: FlaskClient) -> None:
        assert names(client, id="3,1,1,99") == ["Ada", "Grace"]
        assert names(client, id=2**63 - 1) == []
        hundred = ",".join(str(2**62 + n) for n in range(99)) + ",2"
        assert names(client, id=hundred) == ["adam"]

    @pytest.mark.parametrize(
        ("q", "expected"),
        [
            ("ada", ["Ada", "adam", "ａｄａ１"]),
            ("ADA", ["Ada", "adam", "ａｄａ１"]),
            ("3", ["Ada"]),  # of the address
            ("STRASS", ["straße"]),
            ("a", ["Ada", "adam", "ａｄａ１"]),
            ("%", []),
            ("_da", []),
            ("ada\\", []),
            ("da", []),
            ("\ufffd", []),
        ],
    )
    def test_q_begins_name_or_email(self, client: FlaskClient, q: str, expected: list[str]) -> None:
        assert names(client, q=q) == expected

    @pytest.mark.parametrize(
        "q",
        ["idn@bücher.example", "IDN@BÜCHER.ex", "idn@bücher", "idn@xn--bcher", "idn@bücher."],
    )
    def test_q_finds_a_domain_in_both_spellings(self, client: FlaskClient, q: str) -> None:
        create(client, **{"international": "idn@Bücher.example", "us@ßtreet": "us@example.com"})
        assert names(client, q=q) == ["international"]
        assert names(client, q="US@ßTR") == ["us@ßtreet"]

    def test_times_are_since_and_before(self, client: FlaskClient) -> None:
        third = json_of(client.get(f"{URL}/3"))["created_at"]
        assert names(client, created_since=third) == ["Grace", "straße", "ａｄａ１"]
        assert names(client, created_before=third) == ["Ada", "adam"]
        client.patch(USER, json={"username": "ada"})
        assert names(client, updated_since=third) == ["ada", "Grace", "straße", "ａｄａ１"]
        assert names(client, updated_since=third, created_before=third) == ["ada"]

    def test_time_may_have_any_offset_and_an_unescaped_plus(self, client: FlaskClient) -> None:
        third = datetime.fromisoformat(json_of(client.get(f"{URL}/3"))["created_at"])
        text = third.astimezone(UTC).isoformat()
        assert text.endswith("+00:00")
        answer = client.get(f"{URL}?created_since={text}")  # the "+" arrives as a space
        assert len(json_of(answer)["users"]) == 3
        assert len(names(client, created_since=text.replace("+00:00", "z"))) == 3
        assert len(names(client, created_since="2020-01-01T00:00:00.123456789-23:59")) == 5

    def test_are_combined_with_and(self, client: FlaskClient) -> None:
        assert names(client, q="ada", id="1,3,5", sort="-id") == ["ａｄａ１", "Ada"]
        assert names(client, q="ada", username="adam") == ["adam"]
        assert names(client, username="adam", email="3ada@example.com") == []

    def test_count_those_who_pass(self, client: FlaskClient) -> None:
        found = pagination(client, q="ada", per_page=2)
        assert (found["total"], found["pages"]) == (3, 2)


class TestCount:
    def test_is_exact_or_none_unless_said(self, client: FlaskClient, admin: cursor) -> None:
        populate(admin, 250)
        exact = pagination(client)
        assert exact["total"] == 250
        assert pagination(client, count="exact") == exact
        cursors = {"per_page", "next_cursor", "prev_cursor"}
        assert pagination(client, count="none").keys() == {"page", *cursors}
        assert pagination(client, cursor=exact["next_cursor"]).keys() == cursors
        assert total(client, cursor=exact["next_cursor"], count="exact") == 250

    def test_estimate_agrees_with_the_page(self, client: FlaskClient, admin: cursor) -> None:
        populate(admin, 5000)  # and nobody has told the planner
        assert total(client, count="estimated", q="user499") == 11
        assert total(client, count="estimated", q="nobody") == 0
        last = pagination(client, count="estimated", q="user499", page=2, per_page=10)
        assert (last["total"], last["pages"]) == (11, 2)
        assert total(client, count="estimated", q="user", page=40) >= 40 * 50
        admin.execute("ANALYZE users")
        assert total(client, count="estimated") == 5000  # exact is as cheap here
        # 1 + 10 + 100 + 1000 and so on are exact; the planner knows only of shares.
        assert 500 < total(client, count="estimated", q="user1") < 2500

    def test_low_estimate_counts_who_follows(self, client: FlaskClient, admin: cursor) -> None:
        admin.execute("ANALYZE users")  # and then everybody comes
        populate(admin, 100)
        found = pagination(client, count="estimated", id="1,2,3,4,5", q="user", per_page=2, page=2)
        assert found["next_cursor"] is not None
        assert (found["total"], found["pages"]) >= (5, 3)
        query = {"count": "estimated", "q": "user1", "per_page": 2}
        cursor = pagination(client, **query)["next_cursor"]
        assert total(client, cursor=cursor, **query) >= 4

    def test_estimate_beyond_the_end_is_bounded(self, client: FlaskClient, admin: cursor) -> None:
        populate(admin, 500)
        admin.execute("ANALYZE users")
        admin.execute("DELETE FROM users WHERE id > 10")  # of which the planner does not know
        found = pagination(client, count="estimated", q="user", page=3, per_page=10)
        assert 1 <= found["total"] <= 20
        assert total(client, count="estimated", q="nobody", page=9) == 0


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        ("sort=email", "sort", "must be 'id', '-id', 'username'"),
        ("count=all", "count", "must be 'exact', 'estimated' or 'none'"),
        ("fields=id,password", "fields", "must be some of id, username, email"),
        ("fields=", "fields", "must be some of"),
        ("id=1,,2", "id", "must be ids, separated by commas"),
        ("id=0x1", "id", "must be ids"),
        (f"id={2**63}", "id", "must be ids"),
        ("id=" + ",".join(map(str, range(101))), "id", "must be at most 100 ids"),
        ("email=nowhere", "email", "must be an email address"),
        ("username=ab", "username", "must have 3 to 50 characters"),
        ("q=", "q", "must have 1 to 255 characters"),
        ("q=a%00", "q", "must not contain control"),
        ("created_since=2026-11-22", "created_since", "must be a time with its offset"),
        ("created_since=2026-11-22T10:00:00", "created_since", "must be a time with its offset"),
        ("updated_since=2026-02-30T10:00:00Z", "updated_since", "must be a time"),
        ("created_before=0000-01-01T00:00:00%2B14:00", "created_before", "must be a time"),
        ("cursor=", "cursor", "must be one that a page with the same sort and filters gave"),
    ],
)
def test_message_says_the_rule(client: FlaskClient, query: str, field: str, message: str) -> None:
    refused = client.get(f"{URL}?{query}")
    problem_of(refused, 400)
    assert fields_of(refused) == {field}
    assert json_of(refused)["errors"][0]["message"].startswith(message)
