"""Hundreds of malformed requests: each is refused with a problem, and none of them writes.

``CORPUS`` is made of tables, one for each part of a request that a client can get wrong.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import product
from typing import Any

import orjson
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.integration.queries import rows
from tests.integration.users import URL, USER
from tests.responses import fields_of, json_of, problem_of
from user_service.database.database import Database
from user_service.web.services import Services

JSON = "application/json"
WRITES = [("POST", URL), ("PUT", USER), ("PATCH", USER)]
EVE = {"username": "eve", "email": "eve@example.com"}
# What a stranger must not read in an answer.
INTERNAL = re.compile(rb"evil|psycopg|Traceback|SELECT|INSERT|username_key|\.py\b|site-packages")


@dataclass(frozen=True)
class Attempt:
    """A request, how it is to be answered, and which fields the answer is to name."""

    group: str
    status: int
    method: str = "POST"
    path: str = URL
    data: bytes = orjson.dumps(EVE)
    content_type: str | None = JSON
    environ: dict[str, Any] = field(default_factory=dict)
    chunked: bool = False
    fields: frozenset[str] = frozenset()

    def send(self, client: FlaskClient) -> TestResponse:
        path, _, query = self.path.partition("?")
        environ = dict(self.environ)
        if self.chunked:  # what gunicorn gives to the application
            environ |= {"CONTENT_LENGTH": None, "HTTP_TRANSFER_ENCODING": "chunked"}
            environ |= {"wsgi.input": BytesIO(self.data), "wsgi.input_terminated": True}
        return client.open(
            path,
            method=self.method,
            query_string=query,
            data=self.data,
            content_type=self.content_type,
            environ_overrides=environ,
        )


def nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    return b'{"username": ' + opening * depth + b"1" + closing * depth + b"}"


NO_JSON_OBJECT = [
    *(b"", b" ", b"null", b"true", b"0", b"1e30", b'"{}"', b"[]"),
    *(b'[{"username": "eve", "email": "eve@example.com"}]', b"{", b"}", b"{}{}"),
    *(b"{'username': 'eve'}", b'{username: "eve"}', b'{"username": "eve",}'),
    *(b'{"username"= "eve"}', b'{"username": eve}', b'{"username": "eve"'),
    *(b'{"username": "eve\n"}', b'{"username": "eve\x00"}', b'{"username": "\\x65ve"}'),
    *(b'{"username": "\\u12"}', b'{"username": "\\ud800"}', b'{"username": "\\udfff\\ud800"}'),
    *(b'{"\\ud800": "eve"}', b'{"username": NaN}', b'{"username": Infinity}'),
    *(b'{"username": -Infinity}', b'{"username": 1e999}', b'{"username": 01}'),
    *(b'{"username": ' + b"9" * 5000 + b"}", b'{"username": "eve"} // comment'),
    *(b'/**/{"username": "eve"}', b"\xef\xbb\xbf" + orjson.dumps(EVE)),
    *(orjson.dumps(EVE).decode().encode("utf-16"), orjson.dumps(EVE).decode().encode("utf-16-le")),
    *(orjson.dumps(EVE).decode().encode("utf-32"), b"\xff" + orjson.dumps(EVE)),
    *(b'{"username": "\xff\xfe\xfd"}', b'{"username": "\xc0\xaf\xc0\xaf"}'),
    *(b'{"username": "\xed\xa0\x80ve"}', b'{"username": "\xf5\x80\x80\x80ve"}'),
    b'{"username": "eve", "username": "eve", "email": "eve@example.com"}',
    b'{"username": "eve", "\\u0075sername": "mal", "email": "eve@example.com"}',
    b'{"username": "eve", "email": "eve@example.com", "x": {"a": 1, "a": 2}}',
    *(nested(10_000, b"[", b"]"), nested(10_000, b'{"a":', b"}"), b"[" * 60_000, b'{"":' * 15_000),
    *(b"username=eve&email=eve%40example.com", b"<user><username>eve</username></user>"),
    *(b"\x1f\x8b\x08\x00\x00\x00\x00\x00", bytes(range(256))),
]

NO_STRING = [
    *(b"null", b"true", b"false", b"0", b"-1", b"1.5", b"1e30", b"1" + b"0" * 30),
    *(b"[]", b'["eve"]', b"{}", b'{"username": "eve"}', nested(500, b"[", b"]")),
]

NO_USERNAME = [
    *("", " ", "e", "ev", "   ev   ", "e" * 51, "e" * 60_000, "\u3000" * 10, "e\u0301v", "ßß"),
    *("e\x00ve", "\x00\x00\x00", "e\x1b[31mve", "e\nve", "e\tve", "e\x7fve", "e\u0085ve"),
    *("e\u202eve", "e\u2066ve", "e\u200bve", "e\u200dve", "e\ufeffve", "e\u00adve", "e\u2028ve"),
    *("\u3164\u3164\u3164", "e\u115fve", "e\uffa0ve", "e\u034fve", "e\ufe0fve", "e\U000e0100ve"),
    *("e\ue000ve", "e\U0010ffffve", "e\ufffeve", "e\u0378ve", "e\U000e0041ve"),
]

NO_EMAIL = [
    *("", " ", "@", "eve", "eve@", "@example.com", "eve@@example.com", "eve@example"),
    *("eve@example.com.", ".eve@example.com", "eve.@example.com", "e..ve@example.com"),
    *("e ve@example.com", "eve@exam ple.com", "eve@-example.com", "eve@exam_ple.com"),
    *("eve@localhost", "eve@127.0.0.1", "eve@[127.0.0.1]", "eve@[::1]", "eve@example.test"),
    *("Eve <eve@example.com>", '"e ve"@example.com', "eve@example.com, mal@example.com"),
    *("eve@example.com\x00", "e\x00ve@example.com", "eve@example.com\nBcc: mal@example.com"),
    *("\u202eeve@example.com", "eve@exa\u200bmple.com", "eve@xn--a.com", "eve@a\u05d0.com"),
    *("\u0301ve@example.com", "eve@" + "d" * 64 + ".com", "eve@" + "d." * 130 + "com"),
    *("e" * 244 + "@example.com", "e" * 60_000 + "@example.com", "mailto:eve", "eve%00"),
]

NO_ID = [
    *("", "0", "-1", "-0", "+1", "1.0", "1.5", "1e0", "0x1", "1_0", "abc", "null", "NaN", "true"),
    *(str(2**31), str(2**32), str(2**63 - 1), str(2**63), str(2**64), str(10**30), "9" * 5000),
    *("٣", "１", "²", "½", "%00", "1%00", "1%0d%0a", "%0a1", "1%20", "%201", "1%2f2", "..%2f1"),
    *("1e3", "1;drop", "1'--", "1%27%20OR%201=1", "%ff", "1/", "1/1", ".", "..", "*", "[1]", "{1}"),
]

NO_PAGE = [
    *("", "0", "-1", "-0", "00", "+1", "1.0", "1.5", "1e3", "0x1", "1_0", "abc", "null", "NaN"),
    *("true", "%201", "1%20", "%00", "1%00", "1%0a", "٣", "１", "²", "%ff", "1;2", "1,2", "[1]"),
    *("x", "9" * 5000, "-" + "9" * 30, "1%27--", "%2B1", "1&page=2&per_page=2"),
]

NO_TIME = [
    *("", "now", "0", "1763840466", "2026-11-22", "2026-11-22T10:00", "2026-11-22T10:00:00"),
    *("2026-11-22 10:00:00Z", "2026-W47-7T10:00:00Z"),
    *("20261122T100000Z", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-11-22T24:00:01Z"),
    *("2026-11-22T10:00:60Z", "0000-01-01T00:00:00Z", "0001-00-01T00:00:00Z"),
    *("9999-12-31T23:59:60Z", "10000-01-01T00:00:00Z", "2026-11-22T10:00:00%2B24:00"),
    *("2026-11-22T10:00:00.Z", "infinity", "2026-11-22T10:00:00Z%00", "2026-11-22T10:00:00Z\n"),
    *("٢٠٢٦-11-22T10:00:00Z", "-infinity", "2026-11-22T10:00:00.0000000001Z"),
    *("2026-11-22T10:00:00%20Z", "epoch", "'--", "9" * 5000),
]

NO_LIST = {
    "sort": ["", "ID", "+id", "--id", "email", "id,username", "id desc", "1", "%00", "id;drop"],
    "count": ["", "Exact", "true", "0", "1", "planned", "none,exact", "%00"],
    "fields": [
        *("", ",", "id,", "password", "id,id_", "*", "ID", "version", "users.id", "%00", "id;"),
    ],
    "id": [
        *("", ",", "1,", ",1", "1,,2", "-1", "1.5", "1 2", "abc", "٣", "1%00", "%2B1", "0x1"),
        *("1e3", str(2**63), "1," + "9" * 20, ",".join(map(str, range(1, 102)))),
    ],
    "username": ["", "ab", "a" * 51, "e%00ve", "%E2%80%AEeve", "%20%20"],
    "email": ["", "@", "eve", "eve@", "eve@localhost", "eve%00@example.com", "%25"],
    "q": ["", "%00", "a%00", "%E2%80%8B", "%0a", "a" * 256],
    "created_since": NO_TIME,
    "created_before": NO_TIME,
    "updated_since": NO_TIME,
    "cursor": [
        *("", "a", "A" * 24, "A" * 7000, "%00", "é", "....", "=" * 24, "WyI+IiwxLDFd", "null"),
        *("e30", "0", "1", "A" * 25, "-_" * 30, "+/" * 20, "%22%22"),
        *("AAAAAAAAAAAAAAAAAAAAAFsiPiIsMSwxXQ", "A" * 40 + "AABbIj4iLDEsMV0"),
    ],
}

NO_REQUEST_ID = [
    *("", " ", "a b", "a\r\nSet-Cookie: x=1", "a\n2026 - forged - ERROR", "\x1b[2J\x1b[31m"),
    *("a" * 65, "a" * 8192, "\x00", "a\x00", "naïve", "١٢٣", "%0d%0a", "{}", "a;b", "a,b", "../a"),
]

NO_KEY = [
    *("", " ", '"', '""', '"""', '"k', 'k"', 'a"b', "a b", "a\tb", "k\r\nSet-Cookie: x=1"),
    *("k" * 256, '"' + "k" * 256 + '"', "k" * 8192, "\x00", "k\x7f", "\x1b[31m", "back\\slash"),
    *("na\u00efve", "\u0442", "\xff", '?1; "k"', "a,b", '"a", "b"'),
]

NO_JSON_TYPE = [
    *(None, "", " ", "text/plain", "text/html", "text/json", "application/xml", "*/*", "json"),
    *("application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary="),
    *("application/json, text/html", "application/json-patch+json", "application/jsonx"),
    *("application/merge-patch+json", "application/vnd.api+json", "application/ json", "ÿ"),
    *("application", ";charset=utf-8", "application/json\x00", "a" * 8192),
]

NO_METHOD = ["TRACE", "CONNECT", "PROPFIND", "FOO", "gET ", "", "G\x00ET", "ÿ", "A" * 8192]

NO_PATH = [
    *("/api", "/api/v1", "/api/v2/users", "/api/v1/users.json", "/api/v1/Users", "/%00"),
    *("/%ff%fe", "/" + "a" * 8192, "/..%2f..%2fetc%2fpasswd", "/api/v1/users/"),
    *("/healthz", "/health/", "/favicon.ico", "/<script>", "/%3Cscript%3E"),
    *("/static", "/static/", "/static/app.js", "/static/../app.py"),
]
# Given past werkzeug's client, which takes what follows "//" for the name of a host.
NO_SINGLE_SLASH = [
    *("/api//v1/users", "/api/v1//users", "/api/v1/users//", "/api/v1/users//1", "/health//live"),
    *("//evil.example", "//evil.example/api/v1/users", "//evil.example/..", "///evil.example"),
]


def with_bodies() -> Iterator[Attempt]:
    for (method, path), data in product(WRITES, NO_JSON_OBJECT):
        yield Attempt("JSON", 400, method, path, data)


def with_values() -> Iterator[Attempt]:
    for (method, path), name, value in product((WRITES[0], WRITES[2]), EVE, NO_STRING):
        members = {key: orjson.dumps(text) for key, text in EVE.items()} | {name: value}
        body = b", ".join(b'"%b": %b' % (key.encode(), each) for key, each in members.items())
        yield Attempt("value", 400, method, path, b"{%b}" % body, fields=frozenset({name}))
    for name, wrong in (("username", None), ("id", 7), ("email", 1)):
        partial = orjson.dumps({name: wrong})
        yield Attempt("value", 400, "PATCH", USER, partial, fields=frozenset({name}))
    for name in ("id", "created_at", "role", "Username", "", "\u0000", "__class__", "x" * 64):
        body = orjson.dumps({**EVE, name: 1})
        yield Attempt("value", 400, data=body, fields=frozenset({name}))
    for name, text in EVE.items():
        missing = frozenset(EVE) - {name}
        yield Attempt("value", 400, data=orjson.dumps({name: text}), fields=missing)
        yield Attempt("value", 400, "PUT", USER, orjson.dumps({name: text}), fields=missing)


def with_texts() -> Iterator[Attempt]:
    for name, texts in (("username", NO_USERNAME), ("email", NO_EMAIL)):
        for text in texts:
            body = orjson.dumps({**EVE, name: text})
            yield Attempt("text", 400, data=body, fields=frozenset({name}))


def with_paths() -> Iterator[Attempt]:
    for method, user_id in product(("GET", "PUT", "PATCH", "DELETE"), NO_ID):
        yield Attempt("id", 404, method, f"{URL}/{user_id}")
    for method, path in product(("GET", "POST"), NO_PATH):
        yield Attempt("path", 404, method, path)
    for method, path in product(("GET", "POST", "DELETE"), NO_SINGLE_SLASH):
        yield Attempt("path", 404, method, "/", environ={"PATH_INFO": path})


def with_queries() -> Iterator[Attempt]:
    for name, value in product(("page", "per_page"), NO_PAGE):
        fields = frozenset({name} if value != "%ff" else ())  # the whole query is no UTF-8
        yield Attempt("page", 400, "GET", f"{URL}?{name}={value}", fields=fields)
    for name, values in NO_LIST.items():
        for value in values:
            yield Attempt("list", 400, "GET", f"{URL}?{name}={value}", fields=frozenset({name}))
            # Whether a cursor is one of this list can only be told when all else is in order.
            both = frozenset({name, "per_page"} - {"cursor"})
            yield Attempt("list", 400, "GET", f"{URL}?{name}={value}&per_page=0", fields=both)
        repeated = f"{URL}?{name}=a&{name}=a"
        yield Attempt("list", 400, "GET", repeated, fields=frozenset({name}))
        elsewhere = f"{USER}?{name}=id"
        yield Attempt("list", 400, "GET", elsewhere, fields=frozenset({name}))
    for query in ("limit=1", "page=1&page=1", "=", "=1", "%00=1", "PAGE=1", "page[]=1", "x" * 8192):
        yield Attempt("page", 400, "GET", f"{URL}?{query}")
    for page in (2**63, 10**30, f"{2**63}&per_page=100"):
        yield Attempt("page", 400, "GET", f"{URL}?page={page}", fields=frozenset({"page"}))
    for address, name in ((f"{URL}?size=10", "size"), (f"{USER}?verbose=1", "verbose")):
        yield Attempt("page", 400, "GET", address, fields=frozenset({name}))
    for method, path in (*WRITES, ("DELETE", USER), ("GET", USER)):
        yield Attempt("page", 400, method, f"{path}?page=1", fields=frozenset({"page"}))


def with_headers_and_methods() -> Iterator[Attempt]:
    for (method, path), content_type in product(WRITES[:2], NO_JSON_TYPE):
        yield Attempt("content type", 415, method, path, content_type=content_type)
    for method, path in product(NO_METHOD, (URL, USER, "/health")):
        yield Attempt("method", 405, method, path)
    for method, path in (("PUT", URL), ("PATCH", URL), ("DELETE", URL), ("POST", USER)):
        yield Attempt("method", 405, method, path)
    for key in NO_KEY:
        environ = {"HTTP_IDEMPOTENCY_KEY": key}
        yield Attempt("key", 400, environ=environ, fields=frozenset({"Idempotency-Key"}))


def with_sizes() -> Iterator[Attempt]:
    big, small = b" " * 65_537, orjson.dumps(EVE)
    for method, path in WRITES:
        yield Attempt("size", 413, method, path, data=big)
        yield Attempt("size", 413, method, path, data=big + small)
        yield Attempt("size", 413, method, path, data=big, chunked=True)
        yield Attempt("size", 413, method, path, data=small + big, chunked=True)
        yield Attempt("size", 413, method, path, data=big * 20, chunked=True)
    for length in ("65537", str(10**12), str(2**63)):
        yield Attempt("size", 413, environ={"CONTENT_LENGTH": length})
    for length in ("0", "", "5", "abc", "-1", "1.5", "+5", "٣"):
        yield Attempt("size", 400, environ={"CONTENT_LENGTH": length})
    for data in (b"", small[:-1], small + b"x", b"{}" + b" " * 60_000):
        yield Attempt("size", 400, data=data, chunked=True)


CORPUS = [
    *(*with_bodies(), *with_values(), *with_texts(), *with_paths(), *with_queries()),
    *(*with_headers_and_methods(), *with_sizes()),
]
GROUPS = sorted({attempt.group for attempt in CORPUS})


@pytest.mark.parametrize("path", ["//api/v1/users", "//health"])
def test_double_slash_leads_nowhere_else(client: FlaskClient, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = client.open(method=method, environ_overrides={"PATH_INFO": path})
        assert answer.status_code not in range(300, 400)
        assert "Location" not in answer.headers


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(65_535, 201), (65_536, 201), (65_537, 413)])
def test_body_up_to_the_limit(client: FlaskClient, size: int, status: int, chunked: bool) -> None:
    body = orjson.dumps(EVE)
    attempt = Attempt("size", status, data=body + b" " * (size - len(body)), chunked=chunked)
    answer = attempt.send(client)
    assert answer.status_code == status
    if status == 413:  # whatever the version of Python calls it
        assert problem_of(answer, 413)["title"] == "Content Too Large"


# Unusual, and by the stated rules fine.
USERNAMES = [
    *("ada", "a" * 50, "Ada Lovelace", "ａｄａ１", "ada\u0301x", "ad\u00e1y", "ıııı", "İdil"),
    *("straße", "\u212aelvin", "\u0430da", "\u0391da", "李小龍", "😀😀😀", "ﷺßﷺ", "a\u00a0b"),
    *("⅓⅔½", "'; --", '<script>"&', "%s%n%00", "{{7*7}}", "null", "../../etc", "\\u0000", "true"),
    "ada\u0327\u0301z",
]
EMAILS = [
    *("a@b.co", "a" * 64 + "@example.com", "ａｂ@example.com", "e\u0301@example.com"),
    *("ß@example.com", "\u0430da@example.com", "ıx@example.com", "ada@bücher.example"),
    *("ada@xn--strae-oqa.example", "ada@例え.example", "ada@ｅxample.org", "o'brien@example.com"),
    *("a+b@example.com", "!#$%&*/=?^_`{|}~-@example.com", "ﬁ" * 32 + "@a.co", "ada@EXAMPLE.net"),
]
SAME = [  # as somebody who was there before
    ("username", "ada", "ADA"),
    ("username", "ada", "ａｄａ"),
    ("email", "ada@example.com", "ADA@EXAMPLE.com"),
    ("username", "straße", "STRASSE"),
    ("username", "straße", "straẞe"),
    ("username", "kelvin", "\u212aelvin"),
    ("username", "renée", "rene\u0301e"),
    ("username", "ada lovelace", "ＡＤＡ\u3000ＬＯＶＥＬＡＣＥ"),
    ("username", "office", "oﬃce"),
    ("email", "eve@bücher.example", "EVE@XN--BCHER-KVA.example"),
    ("email", "é@example.com", "E\u0301@example.com"),
    ("email", "ss@example.com", "ß@example.com"),
]
DIFFERENT = [  # from somebody who was there before
    ("username", "adam", "\u0430dam"),
    ("username", "idil", "ıdıl"),
    ("username", "idil", "İdil"),
    ("email", "adam@example.com", "\u0430dam@example.com"),
    ("email", "eve@strasse.example", "eve@straße.example"),
]


def create(client: FlaskClient, **members: str) -> TestResponse:
    return client.post(URL, json={**EVE, **members})


def users_in(database: Database) -> list[tuple[object, ...]]:
    with database.read() as cursor:
        return rows(cursor, "SELECT * FROM users ORDER BY id")


def complaint_about(attempt: Attempt, answer: TestResponse) -> str | None:
    """Return what is wrong with the answer to ``attempt``."""
    try:
        problem_of(answer, attempt.status)
        if attempt.fields:
            assert fields_of(answer) == attempt.fields
        assert not INTERNAL.search(answer.data)
        assert "Location" not in answer.headers
    except (AssertionError, KeyError):
        sent = f"{attempt.method[:20]} {attempt.path[:60]} {attempt.data[:60]!r} {attempt.environ}"
        return f"{sent} -> {answer.status} {answer.mimetype} {answer.data[:200]!r}"
    return None


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.usefixtures("ada")
def test_each_is_refused_with_a_problem_and_writes_nothing(
    client: FlaskClient, services: Services, group: str
) -> None:
    before = users_in(services.database)
    attempts = [attempt for attempt in CORPUS if attempt.group == group]
    complaints = [complaint_about(attempt, attempt.send(client)) for attempt in attempts]
    assert list(filter(None, complaints)) == []
    assert users_in(services.database) == before
    assert services.database.pool.lent == 0


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize("offered", NO_REQUEST_ID, ids=ascii)
def test_odd_request_id_is_replaced(client: FlaskClient, log: io.StringIO, offered: str) -> None:
    before = len(log.getvalue())
    # Around werkzeug's client, which like a server refuses line breaks in headers.
    environ = {"HTTP_X_REQUEST_ID": offered}
    answer = client.get(USER, environ_overrides=environ)
    assert answer.status_code == 200
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])
    (line,) = log.getvalue()[before:].split("\n")[:-1]
    assert answer.headers["X-Request-ID"] in line
    assert "\x1b" not in line


@pytest.mark.parametrize(("name", "texts"), [("username", USERNAMES), ("email", EMAILS)])
def test_unusual_text_is_kept_as_sent(client: FlaskClient, name: str, texts: list[str]) -> None:
    for number, text in enumerate(texts):
        others = {"username": f"user{number}", "email": f"user{number}@example.com"}
        created = create(client, **{**others, name: text})
        assert created.status_code == 201, (text, created.data)
        assert json_of(client.get(created.headers["Location"]))[name] == text
    listed = json_of(client.get(f"{URL}?per_page=100"))["users"]
    assert [user[name] for user in listed] == texts


@pytest.mark.parametrize(
    ("names", "status"), [*((each, 409) for each in SAME), *((each, 201) for each in DIFFERENT)]
)
def test_text_of_the_same_canonical_form_is_a_conflict_and_what_only_looks_the_same_is_not(
    client: FlaskClient, services: Services, names: tuple[str, str, str], status: int
) -> None:
    name, first, second = names
    create(client, **{"username": "first", "email": "first@example.com", name: first})
    before = users_in(services.database)
    answer = create(client, **{"username": "second", "email": "second@example.com", name: second})
    assert answer.status_code == status
    if status == 409:
        assert problem_of(answer, 409)["detail"] == "Username or email already exists"
        assert fields_of(answer) == {name}
        assert users_in(services.database) == before
