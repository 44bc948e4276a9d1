"""Cursors and links: a walk sees everybody once, and nobody can make a cursor by himself."""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any
from urllib.parse import urlencode

import hypothesis
import hypothesis.strategies as st
import pytest
from flask.testing import FlaskClient

from app import create_app
from tests.population import populate
from tests.responses import fields_of, json_of, problem_of
from user_service.settings import Settings
from user_service.web.services import Services, services_of

URL = "/api/v1/users"
SORTS = [
    f"{sign}{by}" for by in ("id", "username", "created_at", "updated_at") for sign in ("", "-")
]
# A name of 50 characters that has 900 in canonical form.
LONG = "ﷺ" * 49


def page(client: FlaskClient, **query: object) -> Any:
    answer = client.get(f"{URL}?{urlencode(query)}")
    assert answer.status_code == 200, answer.data
    return json_of(answer)


def ids(found: Any) -> list[int]:
    return [user["id"] for user in found["users"]]


def links(client: FlaskClient, address: str) -> dict[str, str]:
    header = client.get(address).headers["Link"]
    return {rel: to for to, rel in re.findall(r'<([^>]*)>; rel="(\w+)"', header)}


def walk(client: FlaskClient, direction: str, **query: object) -> Iterator[Any]:
    """Yield page after page, from a plain list on."""
    found = page(client, **query)
    yield found
    while cursor := found["pagination"][direction]:
        found = page(client, cursor=cursor, **query)
        yield found


class TestWalk:
    @pytest.mark.parametrize("sort", SORTS)
    def test_there_and_back_sees_what_page_numbers_show(
        self, client: FlaskClient, services: Services, sort: str
    ) -> None:
        populate(services.database, 23)
        everybody = ids(page(client, sort=sort, per_page=100))
        assert len(everybody) == 23
        there = list(walk(client, "next_cursor", sort=sort, per_page=5))
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

    def test_goes_on_from_any_page_number(self, client: FlaskClient, services: Services) -> None:
        populate(services.database, 20)
        third = page(client, page=3, per_page=4)["pagination"]
        assert ids(page(client, cursor=third["next_cursor"], per_page=4)) == [13, 14, 15, 16]
        assert ids(page(client, cursor=third["prev_cursor"], per_page=4)) == [5, 6, 7, 8]
        # As large a page as is wanted, also in the midst of the walk.
        assert ids(page(client, cursor=third["next_cursor"], per_page=2)) == [13, 14]

    def test_beyond_the_last_page_leads_back(self, client: FlaskClient, services: Services) -> None:
        populate(services.database, 3)
        beyond = page(client, page=9, per_page=2)
        assert (beyond["users"], beyond["pagination"]["next_cursor"]) == ([], None)
        assert ids(page(client, cursor=beyond["pagination"]["prev_cursor"], per_page=2)) == [2, 3]
        assert page(client, page=9, q="nobody")["pagination"]["prev_cursor"] is None

    def test_to_a_page_whose_users_are_gone_finds_the_way_back(
        self, client: FlaskClient, services: Services
    ) -> None:
        populate(services.database, 4)
        first = page(client, per_page=2)["pagination"]
        for gone in (3, 4):
            client.delete(f"{URL}/{gone}")
        empty = page(client, cursor=first["next_cursor"])
        assert (empty["users"], empty["pagination"]["next_cursor"]) == ([], None)
        # Up to and with the user after whom the empty page began.
        assert ids(page(client, cursor=empty["pagination"]["prev_cursor"])) == [1, 2]

    def test_back_to_a_page_whose_users_are_gone_finds_the_way_on(
        self, client: FlaskClient, services: Services
    ) -> None:
        populate(services.database, 4)
        second = page(client, page=2, per_page=2)["pagination"]
        for gone in (1, 2):
            client.delete(f"{URL}/{gone}")
        empty = page(client, cursor=second["prev_cursor"])
        assert (empty["users"], empty["pagination"]["prev_cursor"]) == ([], None)
        assert ids(page(client, cursor=empty["pagination"]["next_cursor"])) == [3, 4]

    def test_keeps_times_to_the_microsecond(self, client: FlaskClient, services: Services) -> None:
        populate(services.database, 9)
        with services.database.transaction() as cursor:
            cursor.execute(
                "UPDATE users SET created_at = timestamptz '2026-01-01Z' + id * interval '1 us'"
            )
        for sort in ("created_at", "-created_at"):
            seen = [ids(each) for each in walk(client, "next_cursor", sort=sort, per_page=2)]
            assert sorted(chain.from_iterable(seen)) == list(range(1, 10))

    def test_passes_names_that_are_very_long_in_canonical_form(self, client: FlaskClient) -> None:
        for n in range(5):
            body = {"username": f"{LONG}{n}", "email": f"{n}@example.com"}
            assert client.post(URL, json=body).status_code == 201
        seen = [ids(each) for each in walk(client, "next_cursor", sort="username", per_page=2)]
        assert seen == [[1, 2], [3, 4], [5]]
        # What does not fit into the header of a response is in its body only.
        middle = page(client, sort="username", per_page=2)["pagination"]["next_cursor"]
        answer = client.get(f"{URL}?sort=username&per_page=2&cursor={middle}")
        assert len(answer.headers["Link"]) <= 2000

    def test_with_a_filter_stays_within_it(self, client: FlaskClient, services: Services) -> None:
        populate(services.database, 120)
        query = {"q": "user1", "sort": "-username", "created_since": "2026-01-01T00:00:05Z"}
        everybody = ids(page(client, per_page=100, **query))
        assert len(everybody) == 31
        seen = [ids(each) for each in walk(client, "next_cursor", per_page=7, **query)]
        assert list(chain.from_iterable(seen)) == everybody


class TestCursor:
    @pytest.fixture(autouse=True)
    def users(self, services: Services) -> None:
        populate(services.database, 9)

    @pytest.mark.parametrize(
        "other",
        [
            {"sort": "-id"},
            {"sort": "username"},
            {"q": "user"},
            {"id": "1,2,3"},
            {"created_since": "2026-01-01T00:00:00Z"},
        ],
        ids=str,
    )
    def test_of_another_list_is_refused(self, client: FlaskClient, other: dict[str, str]) -> None:
        for mine, yours in (({}, other), (other, {})):
            cursor = page(client, per_page=1, **mine)["pagination"]["next_cursor"]
            refused = client.get(f"{URL}?{urlencode({**yours, 'cursor': cursor})}")
            problem_of(refused, 400)
            assert fields_of(refused) == {"cursor"}

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
            refused = client.get(f"{URL}?{urlencode({'cursor': change})}")
            problem_of(refused, 400)
            assert fields_of(refused) == {"cursor"}

    def test_made_up_is_refused(self, client: FlaskClient) -> None:
        content = b'[">",1,1]'
        for tag in (b"", b"\0" * 16, b"\0" * 32):
            cursor = base64.urlsafe_b64encode(tag + content).rstrip(b"=").decode()
            problem_of(client.get(f"{URL}?cursor={cursor}"), 400)

    def test_with_a_page_is_refused_naming_both(self, client: FlaskClient) -> None:
        cursor = page(client, per_page=2)["pagination"]["next_cursor"]
        refused = client.get(f"{URL}?cursor={cursor}&page=1")
        problem_of(refused, 400)
        assert fields_of(refused) == {"cursor", "page"}

    def test_is_of_every_replica_by_itself(self, client: FlaskClient, settings: Settings) -> None:
        cursor = page(client, per_page=2)["pagination"]["next_cursor"]
        other = create_app(settings)
        services_of(other).pages.invalidate()
        try:
            assert ids(page(other.test_client(), cursor=cursor, per_page=2)) == [3, 4]
        finally:
            services_of(other).close()

    def test_is_signed_with_the_key_that_is_set(
        self, client: FlaskClient, settings: Settings
    ) -> None:
        keyed = settings.model_validate(
            {**settings.model_dump(exclude_unset=True), "cursor_key": "a key"}
        )
        with_key = [create_app(keyed), create_app(keyed)]
        clients = [app.test_client() for app in with_key]
        try:
            services_of(with_key[0]).pages.invalidate()
            cursor = page(clients[0], per_page=2)["pagination"]["next_cursor"]
            assert ids(page(clients[1], cursor=cursor)) == [3, 4, 5, 6, 7, 8, 9]
            services_of(with_key[0]).pages.invalidate()
            problem_of(client.get(f"{URL}?cursor={cursor}"), 400)
        finally:
            for app in with_key:
                services_of(app).close()


class TestLinks:
    @pytest.fixture(autouse=True)
    def users(self, services: Services) -> None:
        populate(services.database, 9)

    def test_of_page_numbers(self, client: FlaskClient) -> None:
        start = f"{URL}?page={{}}&per_page=4"
        first = links(client, f"{URL}?per_page=4")
        assert first == {
            rel: start.format(n) for rel, n in (("next", 2), ("first", 1), ("last", 3))
        }
        assert links(client, start.format(2)) == {
            rel: start.format(n) for rel, n in (("next", 3), ("prev", 1), ("first", 1), ("last", 3))
        }
        assert links(client, start.format(3)).keys() == {"prev", "first", "last"}
        assert links(client, start.format(7))["prev"] == start.format(3)

    @pytest.mark.parametrize("count", ["none", "estimated"])
    def test_without_an_exact_total_lead_to_the_last_by_cursor(
        self, client: FlaskClient, services: Services, count: str
    ) -> None:
        with services.database.read() as cursor:
            cursor.execute("ANALYZE users")  # by which two filters let everybody pass, or nobody
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
        address = f"{URL}?{urlencode({'q': 'user' + '李' * 220})}"
        assert len(address) < 4000  # what the gateway takes
        answer = client.get(address)
        assert answer.status_code == 200
        assert "Link" not in answer.headers

    def test_of_an_empty_list_lead_to_its_beginning_only(self, client: FlaskClient) -> None:
        for count in ("exact", "estimated", "none"):
            assert links(client, f"{URL}?q=nobody&count={count}").keys() == {"first"}


@dataclass
class Story:
    """A walk, and between each page of it and the next who is deleted and how many are added."""

    per_page: int
    forward: bool
    same_times: bool
    changes: list[tuple[set[int], int]]


STORIES = st.builds(
    Story,
    per_page=st.integers(1, 5),
    forward=st.booleans(),
    same_times=st.booleans(),
    changes=st.lists(
        st.tuples(st.sets(st.integers(1, 12), max_size=4), st.integers(0, 3)), max_size=8
    ),
)


@hypothesis.settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(story=STORIES)
@pytest.mark.parametrize("sort", SORTS)
def test_walk_among_writers_sees_everybody_who_stays_exactly_once(
    client: FlaskClient, services: Services, sort: str, story: Story
) -> None:
    begin_with_twelve(services, same_times=story.same_times)
    query: dict[str, Any] = {"sort": sort, "per_page": story.per_page}
    direction = "next_cursor" if story.forward else "prev_cursor"
    found = page(client, **query) if story.forward else last_page(client, query)

    stay, seen = set(range(1, 13)), ids(found)
    while cursor := found["pagination"][direction]:
        if story.changes:
            stay -= change(services, *story.changes.pop(), same_times=story.same_times)
        found = page(client, cursor=cursor, **query)
        seen += ids(found)
    assert len(seen) == len(set(seen))
    assert stay <= set(seen)


def begin_with_twelve(services: Services, *, same_times: bool) -> None:
    with services.database.transaction() as cursor:
        cursor.execute("TRUNCATE users RESTART IDENTITY")
    populate(services.database, 12)
    if same_times:
        with services.database.transaction() as cursor:
            cursor.execute("UPDATE users SET created_at = now(), updated_at = now()")
    services.pages.invalidate()


def last_page(client: FlaskClient, query: dict[str, Any]) -> Any:
    beyond = page(client, page=100, **query)
    return page(client, cursor=beyond["pagination"]["prev_cursor"], **query)


def change(services: Services, gone: set[int], added: int, *, same_times: bool) -> set[int]:
    """Delete ``gone`` and add users whose places are among the others'; return who was deleted."""
    with services.database.transaction() as cursor:
        cursor.execute("DELETE FROM users WHERE id = ANY(%s) RETURNING id", (list(gone),))
        deleted = {row[0] for row in cursor}
        cursor.execute(
            """
            INSERT INTO users
                (username, username_canonical, email, email_canonical, created_at, updated_at)
            SELECT name, name, name || '@example.com', name || '@example.com', at, at
            FROM (
                SELECT 'user' || n || '-' || substr(gen_random_uuid()::text, 1, 8) AS name,
                       CASE WHEN %(same_times)s THEN (SELECT max(created_at) FROM users)
                            ELSE '2026-01-01Z'::timestamptz + n * interval '2.5 seconds' END AS at
                FROM generate_series(1, %(added)s) AS n
            ) AS new
            WHERE at IS NOT NULL
            """,
            {"added": added, "same_times": same_times},
        )
    services.pages.invalidate()
    return deleted
