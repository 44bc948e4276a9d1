"""What holds for every route: HEAD, OPTIONS, Allow, and calls from the scripts of other origins."""

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pytest_mock import MockerFixture

from tests.responses import Serve, json_of, problem_of
from user_service.web.openapi.operations import REQUEST_HEADERS, RESPONSE_HEADERS
from user_service.web.services import Services, services_of

URL = "/api/v1/users"
ADA = {"username": "ada", "email": "ada@example.com"}
ORIGIN = "https://app.example.com"


@pytest.fixture
def ada(client: FlaskClient) -> None:
    """User 1."""
    assert client.post(URL, json=ADA).status_code == 201


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
    assert {URL, f"{URL}/1", "/health", "/health/live", "/health/ready"} <= set(paths)
    for path in paths:
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.data) == (got.status_code, b""), path
        for name in ("Content-Type", "ETag", "Link", "Last-Modified", "Cache-Control"):
            assert head.headers.get(name) == got.headers.get(name), path
        if path != "/metrics":  # where asking is itself counted
            assert head.headers["Content-Length"] == got.headers["Content-Length"]


def test_head_of_what_is_not_there_has_the_headers_of_the_problem(client: FlaskClient) -> None:
    head = client.head(f"{URL}/1")
    assert (head.status_code, head.data) == (404, b"")
    assert head.mimetype == "application/problem+json"


@pytest.mark.usefixtures("ada")
def test_options_and_405_say_what_is_allowed(app: Flask, client: FlaskClient) -> None:
    for path, methods in routes(app).items():
        options = client.options(path)
        assert (options.status_code, options.data) == (200, b""), path
        assert set(options.headers["Allow"].split(", ")) == methods
        refused = client.open(path, method="TRACE")
        problem_of(refused, 405)
        assert set(refused.headers["Allow"].split(", ")) == methods
    assert json_of(client.get(f"{URL}/1"))["username"] == "ada"


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize("path", [f"{URL}/1", URL])
@pytest.mark.parametrize(
    "host",
    ["example.com:99999", "ü.example", "", "[::1", "evil.example@x", "a b", "x?y", ".", "a" * 64],
)
def test_response_does_not_depend_on_the_host_header(
    client: FlaskClient, path: str, host: str
) -> None:
    headers = {"If-None-Match": '"other"'}  # a conditional request takes no fast path
    answer = client.get(path, headers=headers, environ_overrides={"HTTP_HOST": host})
    usual = client.get(path, headers=headers)
    assert (answer.status_code, answer.data) == (200, usual.data)


@pytest.mark.usefixtures("ada")
def test_cookies_are_neither_read_nor_sent(client: FlaskClient) -> None:
    for cookie in ("session=x", "session=eyJhIjoxfQ.x.y", 'a="'):
        for path in (URL, f"{URL}/1", f"{URL}?page=0", "/docs"):
            answer = client.get(path, headers={"Cookie": cookie, "If-None-Match": '"other"'})
            assert "Set-Cookie" not in answer.headers
            assert "Vary" not in answer.headers


class TestValidatorsOfAPage:
    def test_say_that_the_client_has_it(self, client: FlaskClient) -> None:
        client.post(URL, json=ADA)
        page = client.get(URL)
        assert page.headers["Cache-Control"] == "private, no-cache"
        for tags in (
            page.headers["ETag"],
            f"W/{page.headers['ETag']}",
            f'"x", {page.headers["ETag"]}',
        ):
            again = client.get(URL, headers={"If-None-Match": tags})
            assert (again.status_code, again.data) == (304, b"")
            for name in ("ETag", "Cache-Control", "Link"):
                assert again.headers[name] == page.headers[name]
            assert "Content-Type" not in again.headers

    def test_change_with_the_page(self, client: FlaskClient) -> None:
        client.post(URL, json=ADA)
        before = client.get(URL).headers["ETag"]
        assert client.get(f"{URL}?per_page=1").headers["ETag"] != before
        client.patch(f"{URL}/1", json={"username": "grace"})
        after = client.get(URL, headers={"If-None-Match": before})
        assert json_of(after)["users"][0]["username"] == "grace"
        assert after.headers["ETag"] != before

    def test_of_the_same_page_are_the_same_from_every_replica(
        self, client: FlaskClient, serving: Serve
    ) -> None:
        for n in range(3):
            client.post(URL, json={"username": f"user{n}", "email": f"{n}@example.com"})
        first = client.get(f"{URL}?per_page=1")
        services_of(client.application).pages.invalidate()
        second = serving().get(f"{URL}?per_page=1")
        assert second.headers["X-Cache"] == "MISS"
        assert second.headers["ETag"] == first.headers["ETag"]

    @pytest.mark.parametrize("query", ["", "?q=a&sort=-username", "?id=1,2", "?cursor={}"])
    def test_of_a_cached_page_cost_no_sql(
        self, client: FlaskClient, services: Services, mocker: MockerFixture, query: str
    ) -> None:
        for name in ("ada", "ava"):
            client.post(URL, json={"username": name, "email": f"{name}@example.com"})
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
    def test_is_off_by_default(self, client: FlaskClient) -> None:
        answer = client.get(URL, headers={"Origin": ORIGIN})
        assert not [name for name in dict(answer.headers) if name.startswith("Access-Control")]
        assert "Vary" not in answer.headers

    def test_lets_scripts_of_a_listed_origin_read(self, serving: Serve) -> None:
        client = serving(cors_origins=f"https://other.example, {ORIGIN}")
        for path, status in ((URL, 200), (f"{URL}/1", 404), (f"{URL}?x=1", 400), ("/nowhere", 404)):
            answer = client.get(path, headers={"Origin": ORIGIN})
            assert answer.status_code == status
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert {"ETag", "Link", "Location", "X-Cache", "X-Request-ID", "Retry-After"} <= set(
                answer.headers["Access-Control-Expose-Headers"].split(", ")
            )
            assert answer.headers["Vary"] == "Origin"

    @pytest.mark.parametrize(
        "origin", [None, "https://evil.example", "http://app.example.com", f"{ORIGIN}.evil", "null"]
    )
    def test_tells_others_nothing(self, serving: Serve, origin: str | None) -> None:
        client = serving(cors_origins=ORIGIN)
        answer = client.get(URL, headers={"Origin": origin} if origin else {})
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert answer.headers["Vary"] == "Origin"

    def test_of_any_origin(self, serving: Serve) -> None:
        answer = serving(cors_origins="*").get(URL, headers={"Origin": "https://any.example"})
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers

    def test_preflight_says_what_may_be_sent(self, serving: Serve) -> None:
        client = serving(cors_origins=ORIGIN)
        headers = {
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "content-type,if-match",
        }
        answer = client.options(f"{URL}/1", headers=headers)
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "PUT" in answer.headers["Access-Control-Allow-Methods"].split(", ")
        assert {"Content-Type", "If-Match"} <= set(
            answer.headers["Access-Control-Allow-Headers"].split(", ")
        )
        assert answer.headers["Access-Control-Max-Age"] == "86400"

    def test_lets_scripts_read_and_send_every_header_that_is_documented(
        self, serving: Serve
    ) -> None:
        client = serving(cors_origins=ORIGIN)
        always = {"Cache-Control", "Last-Modified"}  # by the Fetch standard
        read = client.get(URL, headers={"Origin": ORIGIN})
        exposed = read.headers["Access-Control-Expose-Headers"].split(", ")
        assert RESPONSE_HEADERS.keys() - always <= set(exposed)
        asking = {"Origin": ORIGIN, "Access-Control-Request-Method": "PATCH"}
        preflight = client.options(f"{URL}/1", headers=asking)
        allowed = preflight.headers["Access-Control-Allow-Headers"].split(", ")
        assert REQUEST_HEADERS.keys() <= set(allowed)

    def test_is_on_304_too(self, serving: Serve) -> None:
        client = serving(cors_origins=ORIGIN)
        etag = client.get(URL).headers["ETag"]
        again = client.get(URL, headers={"Origin": ORIGIN, "If-None-Match": etag})
        assert again.status_code == 304
        assert again.headers["Access-Control-Allow-Origin"] == ORIGIN
