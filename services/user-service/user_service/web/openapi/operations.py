"""What a route says about itself for the OpenAPI document: ``@documented``, once on every view.

Parameters, bodies and problems follow from the view's annotations and from what it raises; this is
for what they do not tell: which answers there are, with which headers, and what leads on from them.
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
from user_service.web.responses.bodies import Body

V = TypeVar("V", bound=Callable[..., Any])
Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Header:
    """A header that clients send or get.

    Those that are sent have no example: Swagger UI would send it, and a condition would not be met.
    """

    description: str
    example: str | int | None = None
    schema: Schema = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, slots=True)
class Link:
    """Where an answer leads: an operation, and what of the answer is given to it as what."""

    operation: str
    parameters: Mapping[str, str]
    description: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One way in which an operation succeeds, or fails without a problem.

    ``headers`` are always there, ``may_have`` at times; names are those of RESPONSE_HEADERS.
    """

    status: int
    description: str
    body: type[Body] | Schema | None = None
    headers: tuple[str, ...] = ()
    may_have: tuple[str, ...] = ()
    links: Mapping[str, Link] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Declaration:
    """All that a view says about itself beyond its signature and docstring."""

    answers: tuple[Answer, ...]
    raises: tuple[type[Exception], ...]
    reads: tuple[str, ...]


def documented(
    *answers: Answer, raises: tuple[type[Exception], ...] = (), reads: tuple[str, ...] = ()
) -> Callable[[V], V]:
    """Declare the view's ``answers``, the errors that it ``raises`` and the headers it ``reads``.

    Names are those of REQUEST_HEADERS. The view is left as it is: this costs nothing per request.
    """

    def declare(view: V) -> V:
        vars(view)["declaration"] = Declaration(answers, raises, reads)
        return view

    return declare


def undocumented(reason: str) -> Callable[[V], V]:
    """Leave the view out of the document, since it is not for the clients of the API."""

    def declare(view: V) -> V:
        vars(view)["undocumented"] = reason
        return view

    return declare


# ---- What holds for many routes: what is new for all of them goes here ---------------------------
# Headers on every response of every route, always and at times.
ALWAYS: tuple[str, ...] = ("X-Request-ID",)
AT_TIMES: tuple[str, ...] = ("Server-Timing",)
# Headers that are at times on the responses of the routes of a tag.
AT_TIMES_BY_TAG: Mapping[str, tuple[str, ...]] = {"users": ("RateLimit", "RateLimit-Policy")}
# Headers of a route that is going, but not of problems that come before its view is called.
AT_TIMES_IF_DEPRECATED: tuple[str, ...] = ("Deprecation", "Sunset", "Link")
# What every route raises, and every route of a tag.
RAISED_ALWAYS: tuple[type[Exception], ...] = (InternalServerError, RequestHeaderFieldsTooLarge)
RAISED_BY_TAG: Mapping[str, tuple[type[Exception], ...]] = {"users": (RateLimited,)}
# Those of HTTP itself, of browsers, and of OPTIONS and 405, which are no operations.
OUTSIDE: frozenset[str] = frozenset(
    {"Allow", "Connection", "Content-Length", "Content-Type", "Date", "Server", "Vary"}
    | {name for name, _ in SECURITY_HEADERS}
    | {f"Access-Control-{name}" for name in ("Allow-Origin", "Allow-Methods", "Allow-Headers")}
    | {f"Access-Control-{name}" for name in ("Expose-Headers", "Max-Age")}
)

RESPONSE_HEADERS: Mapping[str, Header] = {
    "X-Request-ID": Header(
        "Id of the request: the one that was sent, if it has this form, or a new one",
        "0d39070a45f14bf5bbc1f73cc8092f6e",
        {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
    ),
    "ETag": Header(
        "What tells this state of the user, or page, from all others",
        '"1-1"',
        {"type": "string", "pattern": '^(W/)?"[0-9a-f-]+"$'},
    ),
    "Last-Modified": Header("When the user was changed", "Sun, 22 Nov 2026 19:41:06 GMT"),
    "Cache-Control": Header("How long it may be kept", "private, no-cache"),
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
        "What the page cache did",
        "HIT",
        {"type": "string", "enum": [status.value for status in CacheStatus]},
    ),
    "Idempotent-Replay": Header(
        "The answer is the one that was given to this key before",
        "true",
        {"type": "string", "const": "true"},
    ),
    "Retry-After": Header("Seconds after which to try again", 1, {"type": "integer", "minimum": 1}),
    "Server-Timing": Header("Where the time went, in ms, if SERVER_TIMING is on", "total;dur=1.2"),
    "Deprecation": Header(
        "Since when not to build on this (RFC 9745), in seconds since 1970",
        "@1688169599",
        {"type": "string", "pattern": "^@[0-9]+$"},
    ),
    "Sunset": Header("When this may be gone (RFC 8594)", "Sun, 30 Jun 2024 23:59:59 GMT"),
    "RateLimit": Header("What is left of the quota, if there is one", '"default";r=599;t=60'),
    "RateLimit-Policy": Header("The quota, if there is one", '"default";q=600;w=60'),
}

REQUEST_HEADERS: Mapping[str, Header] = {
    "X-Request-ID": Header(
        "Id of the request, for its log lines, like `order-17_retry-2`; of another form than"
        " `^[A-Za-z0-9_-]{1,64}$`, it is replaced"
    ),
    "Idempotency-Key": Header(
        "Name of this write, unique to it, so that sending it again does it once; like"
        " `8e03978e-40d5-43e8-bc93-6894a57f9324`. Kept 24 hours",
        schema={
            "type": "string",
            "pattern": r'^([!#-\[\]-~]{1,255}|"[!#-\[\]-~]{1,255}")$',
        },
    ),
    "If-Match": Header('Write only if the user still has this ETag, like `"1-1"`; otherwise 412'),
    "If-None-Match": Header(
        'Do nothing if it still has this ETag, like `"1-1"`: reads answer 304, writes 412'
    ),
    "If-Modified-Since": Header(
        "Answer 304 if it has not changed since, like `Sun, 22 Nov 2026 19:41:06 GMT`"
    ),
    "If-Unmodified-Since": Header(
        "Write only if the user has not changed since, like `Sun, 22 Nov 2026 19:41:06 GMT`;"
        " otherwise 412"
    ),
}
