"""The declaration of a route for the OpenAPI document: ``@documented``, once on every view.

Parameters, bodies and problems follow from the view's annotations and from the errors it raises.
The declaration adds the rest: the answers, their headers, and the operations they lead to.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from user_service.cache.page_cache import CacheStatus

V = TypeVar("V", bound=Callable[..., Any])
# An object of the document.
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """One way in which an operation succeeds, or fails without a problem.

    ``headers`` are always sent, ``may_have`` sometimes; the names are those of RESPONSE_HEADERS.
    """

    status: int
    description: str
    body: type | Object | None = None
    example: Mapping[str, Any] | None = None
    headers: tuple[str, ...] = ()
    may_have: tuple[str, ...] = ()
    links: Mapping[str, Object] = field(default_factory=dict)


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

    The names of request headers are those of REQUEST_HEADERS.
    """
    return _marked("declaration", Declaration(answers, raises, reads))


def undocumented(reason: str) -> Callable[[V], V]:
    """Leave the view out of the document: it is not for clients of the API."""
    return _marked("undocumented", reason)


def _marked(name: str, value: object) -> Callable[[V], V]:
    """Set the attribute ``name`` of the view, which is not wrapped."""

    def mark(view: V) -> V:
        vars(view)[name] = value
        return view

    return mark


def link(operation: str, parameters: Mapping[str, str], description: str) -> Object:
    """Return a link from an answer to an operation, with parameters taken from the answer."""
    return {"operationId": operation, "parameters": parameters, "description": description}


def header(description: str, example: str | int, **schema: object) -> Object:
    """Return a header object, whose example is in its schema.

    Swagger UI would send an example beside the schema, and a condition would not be met.
    """
    schema = {"type": "string", **schema, "examples": [example]}
    return {"description": description, "schema": schema}


REQUEST_ID = "0d39070a45f14bf5bbc1f73cc8092f6e"
_ETAG = '"1-1-660e2a8805ac0"'
_DATE = "Sun, 22 Nov 2026 19:41:06 GMT"

RESPONSE_HEADERS: Mapping[str, Object] = {
    "X-Request-ID": header(
        "Id of the request: the one that was sent, if it has this form, or a new one",
        REQUEST_ID,
        pattern="^[A-Za-z0-9_-]{1,64}$",
    ),
    "ETag": header("The version of the user or page", _ETAG, pattern='^(W/)?"[0-9a-f-]+"$'),
    "Last-Modified": header("When the user was changed", _DATE),
    "Cache-Control": header("How long the response may be kept", "private, no-cache"),
    "Location": header(
        "Path of the new user",
        "/api/v1/users/1",
        format="uri-reference",
        pattern="^/api/v1/users/[0-9]+$",
    ),
    "Link": header(
        "The same list elsewhere (RFC 8288): first, prev, next, last; left out if too long",
        '</api/v1/users?page=2&per_page=50>; rel="next"',
    ),
    "X-Cache": header(
        "Result of the page cache", "HIT", enum=[status.value for status in CacheStatus]
    ),
    "Idempotent-Replay": header(
        "The answer is the stored one of the first request with this key", "true", const="true"
    ),
    "Retry-After": header(
        "Seconds after which to try again", 1, type="integer", format="int64", minimum=1
    ),
    "WWW-Authenticate": header(
        "The credential that is needed (RFC 6750)", 'Bearer realm="user-service"'
    ),
    "Server-Timing": header("Milliseconds of each stage, if SERVER_TIMING is on", "total;dur=1.2"),
    "Deprecation": header(
        "Start of the deprecation (RFC 9745), in seconds since 1970",
        "@1688169599",
        pattern="^@[0-9]+$",
    ),
    "Sunset": header("When the route may be removed (RFC 8594)", "Sun, 30 Jun 2024 23:59:59 GMT"),
    "RateLimit": header("Rest of the quota, if there is one", '"default";r=599;t=60'),
    "RateLimit-Policy": header("The quota, if there is one", '"default";q=600;w=60'),
}

REQUEST_HEADERS: Mapping[str, Object] = {
    "X-Request-ID": header(
        "Id of the request, for its log lines; of another form than `^[A-Za-z0-9_-]{1,64}$`, it is"
        " replaced",
        "order-17_retry-2",
    ),
    "Idempotency-Key": header(
        "Name of this write, unique to it, so that sending it again does it once; with or without"
        " quotation marks. Kept 24 hours",
        '"8e03978e-40d5-43e8-bc93-6894a57f9324"',
        pattern=r'^([!#-+\--\[\]-~]{1,255}|"([ !#-+\--\[\]-~]|\\["\\]){1,255}")$',
    ),
    "If-Match": header("Write only if the user still has this ETag; otherwise 412", _ETAG),
    "If-None-Match": header(
        "Do nothing if it still has this ETag: reads answer 304, writes 412", _ETAG
    ),
    "If-Modified-Since": header("Answer 304 if it has not changed since", _DATE),
    "If-Unmodified-Since": header(
        "Write only if the user has not changed since; otherwise 412", _DATE
    ),
}
