"""What holds for every route: HEAD, OPTIONS, Allow, and calls from the scripts of other origins."""

from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pytest_mock import MockerFixture

from tests.integration.users import URL, USER, create
from tests.responses import Serve, json_of, problem_of
from user_service.web.openapi.operations import REQUEST_HEADERS, RESPONSE_HEADERS
from user_service.web.services import Services, services_of

ORIGIN = "https://app.example.com"


def routes(app: Flask) -> dict[str, set[str]]:
    """Return every path of the service, with user 1 for the parameter, and the methods it takes."""
    found: dict[str, set[str]] = {}
    for rule in app.url_map.iter_rules():
        path = rule.rule.replace("<user_id:user_id>", "1")
        if "<" not in path:
            found.setdefault(path, set()).update(rule.methods or ())
    return found


@pytest.mark.usefixtures("ada")
def test_head_answers_like_get_without_the_body(app: Flask, client: FlaskClient) -> None:
    paths = [path for path, methods in routes(app).items() if "GET" in methods]
    assert {URL, USER, "/health", "/health/live", "/health/ready"} <= set(paths)
    for path in paths:
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.data) == (got.status_code, b""), path
        for name in ("Content-Type", "ETag", "Link", "Last-Modified", "Cache-Control"):
            assert head.headers.get(name) == got.headers.get(name), path
        if path != "/metrics":  # where asking is itself counted
            assert head.headers["Content-Length"] == got.headers["Content-Length"]
    missing = client.head(f"{URL}/2")
    assert (missing.status_code, missing.data) == (404, b"")
    assert missing.mimetype == "application/problem+json"


@pytest.mark.usefixtures("ada")
def test_options_and_405_say_what_is_allowed(app: Flask, client: FlaskClient) -> None:
    for path, methods in routes(app).items():
        options = client.options(path)
        assert (options.status_code, options.data) == (200, b""), path
        assert set(options.headers["Allow"].split(", ")) == methods
        refused = client.open(path, method="TRACE")
        problem_of(refused, 405)
        assert set(refused.headers["Allow"].split(", ")) == methods
    assert json_of(client.get(USER))["username"] == "ada"


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize("path", [URL, USER, f"{URL}/2", f"{URL}?page=0", "/docs"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("HOST", host) for host in ("example.com:99999", "ü.example", "", "[", "[::1", "a b")),
        *(("HOST", host) for host in ("evil.example@x", "x?y", ".", "a" * 64)),
        *(("COOKIE", cookie) for cookie in ("session=x", "s=eyJhIjoxfQ.x.y", 'a="', "\x00;=;é")),
        ("ACCEPT", "text/html"),
        ("AUTHORIZATION", "Basic !!!"),
        ("RANGE", "bytes=9-1"),
        ("X_FORWARDED_FOR", "'; DROP TABLE users; --"),
        ("X_HTTP_METHOD_OVERRIDE", "DELETE"),
    ],
)
def test_odd_headers_change_nothing(client: FlaskClient, path: str, name: str, value: str) -> None:
    for conditions in ({}, {"If-None-Match": '"other"'}):  # by the fast path, and by Flask
        headers = {"X-Request-ID": "mine", **conditions}
        usual = client.get(path, headers=headers)
        answer = client.get(path, headers=headers, environ_overrides={f"HTTP_{name}": value})
        assert (answer.status_code, answer.data) == (usual.status_code, usual.data)
        assert not {"Set-Cookie", "Vary"} & set(answer.headers.keys())


class TestValidatorsOfAPage:
    def test_say_that_the_client_has_it_until_it_changes(self, client: FlaskClient) -> None:
        create(client, "ada")
        page = client.get(URL)
        assert page.headers["Cache-Control"] == "private, no-cache"
        for template in ("{}", "W/{}", '"x", {}'):
            tags = template.format(page.headers["ETag"])
            again = client.get(URL, headers={"If-None-Match": tags})
            assert (again.status_code, again.data) == (304, b"")
            for name in ("ETag", "Cache-Control", "Link"):
                assert again.headers[name] == page.headers[name]
            assert "Content-Type" not in again.headers
        before = page.headers["ETag"]
        assert client.get(f"{URL}?per_page=1").headers["ETag"] != before
        client.patch(USER, json={"username": "grace"})
        after = client.get(URL, headers={"If-None-Match": f"W/{before}, {before}"})
        assert json_of(after)["users"][0]["username"] == "grace"
        assert after.headers["ETag"] != before

    def test_are_the_same_from_every_replica(self, client: FlaskClient, serving: Serve) -> None:
        create(client, "ada", "ava", "eve")
        first = client.get(f"{URL}?per_page=1")
        services_of(client.application).pages.invalidate()
        second = serving().get(f"{URL}?per_page=1")
        assert second.headers["X-Cache"] == "MISS"
        assert second.headers["ETag"] == first.headers["ETag"]

    @pytest.mark.parametrize("query", ["", "?q=a&sort=-username", "?id=1,2", "?cursor={}"])
    def test_of_a_cached_page_cost_no_sql(
        self, client: FlaskClient, services: Services, mocker: MockerFixture, query: str
    ) -> None:
        create(client, "ada", "ava")
        cursor = json_of(client.get(f"{URL}?per_page=1"))["pagination"]["next_cursor"]
        address = URL + query.format(cursor)
        page = client.get(address)
        for method in ("read", "write", "transaction"):
            mocker.patch.object(services.database, method, side_effect=AssertionError("SQL"))
        hit = client.get(address)
        assert (hit.headers["X-Cache"], hit.data) == ("HIT", page.data)
        revalidated = client.get(address, headers={"If-None-Match": page.headers["ETag"]})
        assert revalidated.status_code == 304


class TestCors:
    def test_lets_listed_origins_read_every_documented_header(self, serving: Serve) -> None:
        client = serving(cors_origins=f"https://other.example, {ORIGIN}")
        headers = {"Origin": ORIGIN, "If-None-Match": client.get(URL).headers["ETag"]}
        always = {"Cache-Control", "Last-Modified"}  # by the Fetch standard
        for path, status in ((URL, 304), (USER, 404), (f"{URL}?x=1", 400), ("/nowhere", 404)):
            answer = client.get(path, headers=headers)
            assert answer.status_code == status
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
            exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
            assert RESPONSE_HEADERS.keys() - always <= set(exposed)
            assert answer.headers["Vary"] == "Origin"

    @pytest.mark.parametrize(
        "origin", [None, "https://evil.example", "http://app.example.com", f"{ORIGIN}.evil", "null"]
    )
    def test_tells_others_nothing(
        self, client: FlaskClient, serving: Serve, origin: str | None
    ) -> None:
        headers = {"Origin": origin} if origin else {}
        answer = serving(cors_origins=ORIGIN).get(URL, headers=headers)
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert answer.headers["Vary"] == "Origin"
        by_default = client.get(URL, headers=headers)
        assert "Vary" not in by_default.headers
        assert not [name for name, _ in by_default.headers if name.startswith("Access-Control")]
        of_any = serving(cors_origins="*").get(URL, headers={"Origin": "https://any.example"})
        assert of_any.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in of_any.headers

    def test_preflight_says_that_every_documented_header_may_be_sent(self, serving: Serve) -> None:
        client = serving(cors_origins=ORIGIN)
        headers = {
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "content-type,if-match",
        }
        answer = client.options(USER, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "PUT" in answer.headers["Access-Control-Allow-Methods"].split(", ")
        allowed = answer.headers["Access-Control-Allow-Headers"].split(", ")
        assert {"Content-Type", "If-Match", *REQUEST_HEADERS} <= set(allowed)
        assert answer.headers["Access-Control-Max-Age"] == "86400"


def test_contact_is_served_with_an_end_where_it_is_set(client: FlaskClient, serving: Serve) -> None:
    path = "/.well-known/security.txt"
    assert client.get(path).status_code == 404
    answer = serving(security_contact="mailto:security@example.com").get(path)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    contact, expires = answer.text.splitlines()
    assert contact == "Contact: mailto:security@example.com"
    left = datetime.fromisoformat(expires.removeprefix("Expires: ")) - datetime.now(UTC)
    assert timedelta(days=170) < left < timedelta(days=365)
