"""Cursors and links: a walk sees everybody once, and nobody can make a cursor by himself."""

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any
from uuid import uuid4

import hypothesis
import hypothesis.strategies as st
import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor

from tests.integration.users import URL, create, page
from tests.population import SAME_TIMES, populate
from tests.responses import Serve, fields_of, json_of, problem_of
from user_service.web.services import Services

SORTS = [
    f"{sign}{by}" for by in ("id", "username", "created_at", "updated_at") for sign in ("", "-")
]


def ids(found: Any) -> list[int]:
    return [user["id"] for user in found["users"]]


def links(client: FlaskClient, address: str) -> dict[str, str]:
    header = client.get(address).headers["Link"]
    return {rel: to for to, rel in re.findall(r'<([^>]*)>; rel="(\w+)"', header)}


def walk(client: FlaskClient, **query: object) -> Iterator[Any]:
    """Yield page after page, from a plain list on."""
    found = page(client, **query)
    yield found
    while cursor := found["pagination"]["next_cursor"]:
        found = page(client, cursor=cursor, **query)
        yield found


class TestWalk:
    @pytest.mark.parametrize("sort", SORTS)
    def test_goes_there_and_back(self, client: FlaskClient, admin: cursor, sort: str) -> None:
        populate(admin, 23)
        everybody = ids(page(client, sort=sort, per_page=100))
        assert len(everybody) == 23
        there = list(walk(client, sort=sort, per_page=5))
        assert [ids(each) for each in there] == [everybody[n : n + 5] for n in range(0, 23, 5)]
        assert there[0]["pagination"]["prev_cursor"] is None
        back, cursor = [there[-1]], there[-1]["pagination"]["prev_cursor"]
        while cursor:
            back.append(page(client, sort=sort, per_page=5, cursor=cursor))
            cursor = back[-1]["pagination"]["prev_cursor"]
        assert [ids(each) for each in back] == [ids(each) for each in there[::-1]]
        # Each page that was come back to leads on to the same next one.
        assert [each["pagination"]["next_cursor"] for each in back] == [
            each["pagination"]["next_cursor"] for each in there[::-1]
        ]

    def test_goes_on_from_any_page_number(self, client: FlaskClient, admin: cursor) -> None:
        populate(admin, 20)
        third = page(client, page=3, per_page=4)["pagination"]
        assert ids(page(client, cursor=third["next_cursor"], per_page=4)) == [13, 14, 15, 16]
        assert ids(page(client, cursor=third["prev_cursor"], per_page=4)) == [5, 6, 7, 8]
        # As large a page as is wanted, also in the midst of the walk.
        assert ids(page(client, cursor=third["next_cursor"], per_page=2)) == [13, 14]

    def test_beyond_the_last_page_leads_back(self, client: FlaskClient, admin: cursor) -> None:
        populate(admin, 3)
        beyond = page(client, page=9, per_page=2)
        assert (beyond["users"], beyond["pagination"]["next_cursor"]) == ([], None)
        assert ids(page(client, cursor=beyond["pagination"]["prev_cursor"], per_page=2)) == [2, 3]
        assert page(client, page=9, q="nobody")["pagination"]["prev_cursor"] is None

    def test_finds_back_from_an_emptied_page(self, client: FlaskClient, admin: cursor) -> None:
        populate(admin, 8)
        second, third = (page(client, page=n, per_page=2)["pagination"] for n in (2, 3))
        for gone in (1, 2, 7, 8):
            client.delete(f"{URL}/{gone}")
        ahead = page(client, cursor=third["next_cursor"], per_page=2)
        assert (ahead["users"], ahead["pagination"]["next_cursor"]) == ([], None)
        # Up to and with the user after whom the empty page began.
        assert ids(page(client, cursor=ahead["pagination"]["prev_cursor"], per_page=2)) == [5, 6]
        behind = page(client, cursor=second["prev_cursor"], per_page=2)
        assert (behind["users"], behind["pagination"]["prev_cursor"]) == ([], None)
        assert ids(page(client, cursor=behind["pagination"]["next_cursor"], per_page=2)) == [3, 4]

    def test_keeps_times_to_the_microsecond(self, client: FlaskClient, admin: cursor) -> None:
        populate(admin, 9)
        admin.execute(
            "UPDATE users SET created_at = timestamptz '2026-01-01Z' + id * interval '1 us'"
        )
        for sort in ("created_at", "-created_at"):
            seen = [ids(each) for each in walk(client, sort=sort, per_page=2)]
            assert sorted(chain.from_iterable(seen)) == list(range(1, 10))

    def test_passes_the_longest_names(self, client: FlaskClient) -> None:
        name = "\N{DESERET SMALL LETTER YEE}" * 49  # in UTF-8, each has four bytes
        create(client, **{f"{name}{n}": f"{n}@example.com" for n in range(5)})
        query = {"sort": "username", "q": name, "per_page": 2}
        assert [ids(each) for each in walk(client, **query)] == [[1, 2], [3, 4], [5]]
        # What does not fit into the header of a response is in its body only.
        middle = page(client, **query)["pagination"]["next_cursor"]
        answer = client.get(URL, query_string={**query, "cursor": middle})
        assert 0 < len(answer.headers["Link"]) <= 2000

    def test_with_a_filter_stays_within_it(self, client: FlaskClient, admin: cursor) -> None:
        populate(admin, 120)
        query = {"q": "user1", "sort": "-username", "created_since": "2026-01-01T00:00:05Z"}
        everybody = ids(page(client, per_page=100, **query))
        assert len(everybody) == 31
        seen = [ids(each) for each in walk(client, per_page=7, **query)]
        assert list(chain.from_iterable(seen)) == everybody


def refused_fields(client: FlaskClient, **query: object) -> set[str]:
    """Return the parameters that a refusal finds fault with."""
    refused = client.get(URL, query_string=query)
    problem_of(refused, 400)
    return fields_of(refused)


@pytest.fixture
def nine_users(admin: cursor) -> None:
    populate(admin, 9)


@pytest.mark.usefixtures("nine_users")
class TestCursor:
    def test_of_another_list_is_refused(self, client: FlaskClient) -> None:
        times = {"created_since": "2026-01-01T00:00:00Z"}
        for other in ({"sort": "-id"}, {"sort": "username"}, {"q": "user"}, {"id": "1,2,3"}, times):
            for mine, yours in (({}, other), (other, {})):
                cursor = page(client, per_page=1, **mine)["pagination"]["next_cursor"]
                assert refused_fields(client, **yours, cursor=cursor) == {"cursor"}

    def test_takes_what_does_not_change_the_list(self, client: FlaskClient) -> None:
        cursor = page(client, per_page=2)["pagination"]["next_cursor"]
        assert ids(page(client, cursor=cursor, sort="id", per_page=3, fields="id")) == [3, 4, 5]

    def test_changed_anywhere_is_refused(self, client: FlaskClient) -> None:
        cursor = page(client, per_page=2)["pagination"]["next_cursor"]
        changes = [
            cursor[:n] + other + cursor[n + 1 :] for n in range(len(cursor)) for other in "Az"
        ]
        changes += [cursor[:-1], cursor[1:], cursor + "A", cursor + "=", cursor * 2, f" {cursor}"]
        for change in {*changes} - {cursor}:
            assert refused_fields(client, cursor=change) == {"cursor"}

    def test_with_a_page_is_refused_naming_both(self, client: FlaskClient) -> None:
        cursor = page(client, per_page=2)["pagination"]["next_cursor"]
        assert refused_fields(client, cursor=cursor, page=1) == {"cursor", "page"}

    @pytest.mark.parametrize("key", [{}, {"cursor_key": "a key"}], ids=["stored key", "given key"])
    def test_is_of_every_replica_with_the_same_key(
        self, client: FlaskClient, services: Services, serving: Serve, key: dict[str, str]
    ) -> None:
        one, other = serving(**key), serving(**key)
        cursor = page(one, per_page=2)["pagination"]["next_cursor"]
        services.pages.invalidate()
        assert ids(page(other, cursor=cursor, per_page=2)) == [3, 4]
        services.pages.invalidate()
        of_another_key = client.get(f"{URL}?cursor={cursor}&per_page=2")
        assert of_another_key.status_code == (400 if key else 200)


@pytest.mark.usefixtures("nine_users")
class TestLinks:
    def test_of_page_numbers(self, client: FlaskClient) -> None:
        def to(**pages: int) -> dict[str, str]:
            return {rel: f"{URL}?page={n}&per_page=4" for rel, n in pages.items()}

        assert links(client, f"{URL}?per_page=4") == to(next=2, first=1, last=3)
        assert links(client, f"{URL}?page=2&per_page=4") == to(next=3, prev=1, first=1, last=3)
        assert links(client, f"{URL}?page=3&per_page=4") == to(prev=2, first=1, last=3)
        assert links(client, f"{URL}?page=7&per_page=4") == to(prev=3, first=1, last=3)

    @pytest.mark.parametrize("count", ["none", "estimated"])
    def test_without_an_exact_total_lead_to_the_last_by_cursor(
        self, client: FlaskClient, admin: cursor, count: str
    ) -> None:
        admin.execute("ANALYZE users")  # by which two filters let everybody pass, or nobody
        query = f"per_page=4&count={count}&q=user&created_before=2026-01-01T00:00:07Z"
        found = links(client, f"{URL}?{query}")
        assert found.keys() == {"next", "first", "last"}
        assert found["next"].startswith(f"{URL}?page=2&per_page=4&count={count}&")
        assert ids(json_of(client.get(found["last"]))) == [3, 4, 5, 6]
        # Beyond the end a number would lead to nobody.
        beyond = links(client, f"{URL}?page=9&{query}")
        assert beyond.keys() == {"prev", "first", "last"}
        assert ids(json_of(client.get(beyond["prev"]))) == [3, 4, 5, 6]

    def test_keep_sort_fields_and_filters(self, client: FlaskClient) -> None:
        query = "q=user&sort=-username&fields=id&created_since=2026-01-01T00:00:00%2B00:00"
        for address in links(client, f"{URL}?per_page=4&{query}").values():
            there = client.get(address)
            assert there.status_code == 200
            assert list(json_of(there)["users"][0]) == ["id"]
        for _ in range(2):
            address = links(client, f"{URL}?per_page=4&{query}")["next"]
            assert ids(json_of(client.get(address))) == [5, 4, 3, 2]

    def test_of_cursors_lead_through_the_list(self, client: FlaskClient) -> None:
        cursor = page(client, sort="-id", per_page=4)["pagination"]["next_cursor"]
        middle = f"{URL}?per_page=4&sort=-id&cursor={cursor}"
        found = links(client, middle)
        seen = {rel: ids(json_of(client.get(address))) for rel, address in found.items()}
        assert seen == {
            "first": [9, 8, 7, 6],
            "prev": [9, 8, 7, 6],
            "next": [1],
            "last": [4, 3, 2, 1],
        }
        assert links(client, found["last"]).keys() == {"prev", "first", "last"}
        assert links(client, found["prev"]).keys() == {"next", "first", "last"}

    def test_that_are_too_long_for_a_header_are_left_out(self, client: FlaskClient) -> None:
        answer = client.get(URL, query_string={"q": "user" + "李" * 220})
        assert len(answer.request.full_path) < 4000  # what the gateway takes
        assert answer.status_code == 200
        assert "Link" not in answer.headers

    def test_of_an_empty_list_lead_to_its_beginning_only(self, client: FlaskClient) -> None:
        for count in ("exact", "estimated", "none"):
            assert links(client, f"{URL}?q=nobody&count={count}").keys() == {"first"}


@hypothesis.settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    per_page=st.integers(1, 5),
    forward=st.booleans(),
    same_times=st.booleans(),
    # Between each page and the next: who is deleted, and how many are added.
    changes=st.lists(
        st.tuples(st.sets(st.integers(1, 12), max_size=4), st.integers(0, 3)), max_size=8
    ),
)
@pytest.mark.parametrize("sort", SORTS)
def test_walk_among_writers_sees_everybody_who_stays_once(  # noqa: PLR0913, PLR0917 -- strategies
    client: FlaskClient,
    services: Services,
    admin: cursor,
    sort: str,
    per_page: int,
    forward: bool,
    same_times: bool,
    changes: list[tuple[set[int], int]],
) -> None:
    admin.execute("TRUNCATE users RESTART IDENTITY")
    populate(admin, 12)
    if same_times:
        admin.execute(SAME_TIMES)
    services.pages.invalidate()
    query: dict[str, Any] = {"sort": sort, "per_page": per_page}
    found, direction = page(client, **query), "next_cursor"
    if not forward:
        beyond = page(client, page=100, **query)["pagination"]["prev_cursor"]
        found, direction = page(client, cursor=beyond, **query), "prev_cursor"

    stay, seen = set(range(1, 13)), ids(found)
    while place := found["pagination"][direction]:
        if changes:
            stay -= change(services, *changes.pop())
        found = page(client, cursor=place, **query)
        seen += ids(found)
    assert len(seen) == len(set(seen))
    assert stay <= set(seen)


def change(services: Services, gone: set[int], added: int) -> set[int]:
    """Delete ``gone`` and add users among the others; return who was deleted."""
    with services.database.transaction() as cursor:
        cursor.execute("DELETE FROM users WHERE id = ANY(%s) RETURNING id", (list(gone),))
        deleted = {user_id for (user_id,) in cursor}
    for n in range(added):
        name = f"user{n}-{uuid4().hex[:8]}"
        services.users.create({"username": name, "email": f"{name}@example.com"})
    services.pages.invalidate()
    return deleted
