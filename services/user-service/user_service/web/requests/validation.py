"""From a request to checked values: ``@validated`` reads what a view's annotations ask for."""

import functools
import inspect
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from flask import Response, request
from pydantic import BaseModel, ValidationError
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import (
    ClientDisconnected,
    RequestEntityTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from werkzeug.wsgi import get_content_length, get_input_stream

from user_service.errors import InvalidInput, MalformedBody
from user_service.resilience import deadline
from user_service.web import at_hand

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

View = Callable[..., Response]
M = TypeVar("M", bound=BaseModel)

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
# What a body may be sent as.
BODY_TYPES = {"POST": (JSON,), "PUT": (JSON,), "PATCH": (MERGE_PATCH, JSON)}
# Far above any user, and low enough to be held in memory for every request at once.
MAX_BODY_BYTES = 64 * 1024

_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "is not known",
    "string_type": "must be a string",
    "string_unicode": "must be Unicode text",
}
_LONGEST_FIELD_NAME = 64

REMEMBERED_QUERIES = 1024  # for each route, in each process
LONGEST_REMEMBERED_QUERY = 256  # bytes


def validated(view: View) -> View:
    """Give ``view`` its ``body`` and ``query``, made from the request by their pydantic models.

    Raises InvalidInput, MalformedBody or UnsupportedMediaType before the view is called. A query
    parameter is refused when the view has no such parameter, also if it has none at all.
    """
    signature = inspect.signature(view, eval_str=True)
    models: dict[str, type[BaseModel]] = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if name in ("body", "query")
    }
    body_model = models.get("body")
    query_of_request = _remembering(models.get("query", _NoQuery))

    @functools.wraps(view)
    def call(**path: Any) -> Response:  # noqa: ANN401 -- whatever the route's converters make
        environ = at_hand.environ()
        query = query_of_request(environ.get("QUERY_STRING", ""))
        if "query" in models:
            path["query"] = query
        if body_model is not None:
            path["body"] = parse_body(body_model, environ)
        return view(**path)

    return call


def _remembering(model: type[M]) -> Callable[[str], M]:
    """Return a function that gives the query string of the request at hand as ``model``.

    Clients ask the same again and again, and a model does not change: it is remembered, unless it
    is of a long query string, which would not come again but take much room.
    """

    @functools.lru_cache(maxsize=REMEMBERED_QUERIES)
    def remembered(_query_string: str) -> M:
        return parse_query(model, request.args)  # which werkzeug makes of the same text

    def of_request(query_string: str) -> M:
        if len(query_string) > LONGEST_REMEMBERED_QUERY:
            return parse_query(model, request.args)
        return remembered(query_string)

    return of_request


class _NoQuery(BaseModel, extra="forbid"):
    pass


def parse_query(model: type[M], arguments: MultiDict[str, str]) -> M:
    """Return the query string as ``model``, or raise InvalidInput."""
    if not arguments:
        return _valid(model, {})
    repeated = {name: "must be given once" for name, values in arguments.lists() if len(values) > 1}
    if repeated:
        raise InvalidInput(_shortened(repeated))
    return _valid(model, arguments.to_dict())


def parse_body(model: type[M], environ: "WSGIEnvironment") -> M:
    """Return the body of the request as ``model``.

    Raise UnsupportedMediaType, RequestEntityTooLarge, MalformedBody, or InvalidInput naming the
    fields at fault.
    """
    media_type, _, _ = environ.get("CONTENT_TYPE", "").partition(";")
    if media_type.strip().lower() not in BODY_TYPES[environ["REQUEST_METHOD"].upper()]:
        raise UnsupportedMediaType
    return _valid(model, json_object(limited_body(environ)))


def limited_body(environ: "WSGIEnvironment") -> bytes:
    """Return the body of the request, whose deadline does not run while the client sends it.

    Raise RequestEntityTooLarge over MAX_BODY_BYTES, ClientDisconnected if it ends too soon, and
    RequestTimeout if it took all the time that the request had.
    """
    announced = get_content_length(environ) or 0
    if announced > MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    began = time.monotonic()
    # Without Content-Length its end is not known: one more, and it is seen to be too long.
    try:
        body = get_input_stream(environ).read(MAX_BODY_BYTES + 1)
    except (OSError, ValueError):  # what servers raise then, and of chunks that are none
        raise ClientDisconnected from None
    if len(body) > MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    if len(body) < announced:
        raise ClientDisconnected
    if not deadline.remaining():
        raise RequestTimeout
    deadline.postpone(time.monotonic() - began)
    return body


def json_object(body: bytes) -> dict[str, Any]:
    """Return the members of the one JSON object that ``body`` is, or raise MalformedBody."""
    if not body:
        raise MalformedBody("must not be empty")
    try:
        # Refuses what the standard library takes: NaN, lone surrogates, endless nesting.
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise MalformedBody("must be JSON in UTF-8") from None
    if not isinstance(document, dict):
        raise MalformedBody("must be a JSON object")
    _refuse_repeated_members(body)
    return document


def _refuse_repeated_members(body: bytes) -> None:
    """Refuse ``{"a": 1, "a": 2}``: which of the two is meant differs between parsers."""
    try:
        _DISTINCT_MEMBERS.decode(body.decode())
    except RecursionError:
        raise MalformedBody("is nested too deeply") from None


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    names = {name for name, _ in pairs}
    if len(names) < len(pairs):
        raise MalformedBody("must not name a member twice")


_DISTINCT_MEMBERS = json.JSONDecoder(object_pairs_hook=_distinct)


def _valid(model: type[M], values: dict[str, Any]) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise InvalidInput(_shortened(dict(map(_field_and_message, faults)))) from None


def _field_and_message(fault: Any) -> tuple[str, str]:  # noqa: ANN401 -- pydantic's ErrorDetails
    context = fault.get("ctx", {})
    field = fault["loc"][0]
    if fault["type"] == "value_error":  # one of our own rules spoke
        return field, str(context["error"])
    if fault["type"] == "literal_error":
        return field, f"must be {context['expected']}"
    return field, _MESSAGES.get(fault["type"], fault["msg"])


def _shortened(errors: dict[str, str]) -> dict[str, str]:
    """Cut field names that a client made up, which are told back to it, to a sane length."""
    return {str(field)[:_LONGEST_FIELD_NAME]: message for field, message in errors.items()}
