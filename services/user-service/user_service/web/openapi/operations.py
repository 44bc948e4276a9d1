"""The declaration of a route for the OpenAPI document: ``@documented``, once on every view.

Parameters, bodies and problems follow from the view's annotations and from the errors it raises.
The declaration adds the rest: the answers, their headers, and the operations they lead to.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from werkzeug.exceptions import (
    InternalServerError,
    RequestHeaderFieldsTooLarge,
)

from user_service.cache.page_cache import CacheStatus
from user_service.errors import RateLimited
from user_service.web.policies.security_headers import HEADERS as SECURITY_HEADERS

V = TypeVar("V", bound=Callable[..., Any])
Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Header:
    """A header that clients send or get."""

    description: str
    example: str | int
    schema: Schema = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, slots=True)
class Link:
    """The operation that an answer leads to; ``parameters`` are taken from the answer."""

    operation: str
    parameters: Mapping[str, str]
    description: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One way in which an operation succeeds, or fails without a problem.

    ``headers`` are always sent, ``may_have`` sometimes; the names are those of RESPONSE_HEADERS.
    """

    status: int
    description: str
    body: type | Schema | None = None
    example: Mapping[str, Any] | None = None
    headers: tuple[str, ...] = ()
    may_have: tuple[str, ...] = ()
    links: Mapping[str, Link] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the document says of a view beyond its signature and docstring."""

    answers: tuple[Answer, ...]
    raises: tuple[type[Exception], ...]
    reads: tuple[str, ...]


def documented(
    *answers: Answer, raises: tuple[type[Exception], ...] = (), reads: tuple[str, ...] = ()
) -> Callable[[V], V]:
    """Declare the view's ``answers``, the errors that it ``raises`` and the headers it ``reads``.

    The names of request headers are those of REQUEST_HEADERS. The view itself is not wrapped.
    """

    def declare(view: V) -> V:
        vars(view)["declaration"] = Declaration(answers, raises, reads)
        return view

    return declare


def undocumented(reason: str) -> Callable[[V], V]:
    """Leave the view out of the document: it is not for clients of the API."""

    def declare(view: V) -> V:
        vars(view)["undocumented"] = reason
        return view

    return declare


# ---- Declarations that hold for many routes ------------------------------------------------------
# Headers on every response of every route, always and sometimes.
ALWAYS: tuple[str, ...] = ("X-Request-ID",)
SOMETIMES: tuple[str, ...] = ("Server-Timing",)
# Headers that the responses of a tag's routes have sometimes.
SOMETIMES_BY_TAG: Mapping[str, tuple[str, ...]] = {"users": ("RateLimit", "RateLimit-Policy")}
# Headers of a deprecated route, except on problems that arise before its view is called.
SOMETIMES_IF_DEPRECATED: tuple[str, ...] = ("Deprecation", "Sunset", "Link")
# The errors that every route raises, and every route of a tag.
RAISED_ALWAYS: tuple[type[Exception], ...] = (InternalServerError, RequestHeaderFieldsTooLarge)
RAISED_BY_TAG: Mapping[str, tuple[type[Exception], ...]] = {"users": (RateLimited,)}
# Headers that the document leaves out: those of HTTP itself, of browsers, of OPTIONS, 405 and 415.
OUTSIDE: frozenset[str] = frozenset(
    {"Accept", "Accept-Encoding", "Accept-Patch", "Allow", "Connection", "Content-Length"}
    | {"Content-Type", "Date", "Server", "Vary"}
    | {name for name, _ in SECURITY_HEADERS}
    | {f"Access-Control-{name}" for name in ("Allow-Origin", "Allow-Methods", "Allow-Headers")}
    | {f"Access-Control-{name}" for name in ("Expose-Headers", "Max-Age")}
)

_ETAG = '"1-1-660e2a8805ac0"'
_DATE = "Sun, 22 Nov 2026 19:41:06 GMT"

RESPONSE_HEADERS: Mapping[str, Header] = {
    "X-Request-ID": Header(
        "Id of the request: the one that was sent, if it has this form, or a new one",
        "0d39070a45f14bf5bbc1f73cc8092f6e",
        {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
    ),
    "ETag": Header(
        "The version of the user or page",
        _ETAG,
        {"type": "string", "pattern": '^(W/)?"[0-9a-f-]+"$'},
    ),
    "Last-Modified": Header("When the user was changed", _DATE),
    "Cache-Control": Header("How long the response may be kept", "private, no-cache"),
    "Location": Header(
        "Path of the new user",
        "/api/v1/users/1",
        {"type": "string", "format": "uri-reference", "pattern": "^/api/v1/users/[0-9]+$"},
    ),
    "Link": Header(
        "The same list elsewhere (RFC 8288): first, prev, next, last; left out if too long",
        '</api/v1/users?page=2&per_page=50>; rel="next"',
    ),
    "X-Cache": Header(
        "Result of the page cache",
        "HIT",
        {"type": "string", "enum": [status.value for status in CacheStatus]},
    ),
    "Idempotent-Replay": Header(
        "The answer is the stored one of the first request with this key",
        "true",
        {"type": "string", "const": "true"},
    ),
    "Retry-After": Header(
        "Seconds after which to try again", 1, {"type": "integer", "format": "int64", "minimum": 1}
    ),
    "Server-Timing": Header("Milliseconds of each stage, if SERVER_TIMING is on", "total;dur=1.2"),
    "Deprecation": Header(
        "Start of the deprecation (RFC 9745), in seconds since 1970",
        "@1688169599",
        {"type": "string", "pattern": "^@[0-9]+$"},
    ),
    "Sunset": Header("When the route may be removed (RFC 8594)", "Sun, 30 Jun 2024 23:59:59 GMT"),
    "RateLimit": Header("Rest of the quota, if there is one", '"default";r=599;t=60'),
    "RateLimit-Policy": Header("The quota, if there is one", '"default";q=600;w=60'),
}

REQUEST_HEADERS: Mapping[str, Header] = {
    "X-Request-ID": Header(
        "Id of the request, for its log lines; of another form than `^[A-Za-z0-9_-]{1,64}$`, it is"
        " replaced",
        "order-17_retry-2",
    ),
    "Idempotency-Key": Header(
        "Name of this write, unique to it, so that sending it again does it once; with or without"
        " quotation marks. Kept 24 hours",
        '"8e03978e-40d5-43e8-bc93-6894a57f9324"',
        {
            "type": "string",
            "pattern": r'^([!#-+\--\[\]-~]{1,255}|"([ !#-\[\]-~]|\\["\\]){1,255}")$',
        },
    ),
    "If-Match": Header("Write only if the user still has this ETag; otherwise 412", _ETAG),
    "If-None-Match": Header(
        "Do nothing if it still has this ETag: reads answer 304, writes 412", _ETAG
    ),
    "If-Modified-Since": Header("Answer 304 if it has not changed since", _DATE),
    "If-Unmodified-Since": Header(
        "Write only if the user has not changed since; otherwise 412", _DATE
    ),
}
