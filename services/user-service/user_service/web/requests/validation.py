"""From a request to checked values: ``@validated`` supplies the arguments a view asks for."""

import functools
import inspect
import itertools
import json
import time
from collections.abc import Callable, Set
from typing import Any, TypeVar
from urllib.parse import parse_qs
from wsgiref.types import WSGIEnvironment

import orjson
from flask import Response, current_app, request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge, RequestTimeout
from werkzeug.wsgi import get_content_length, get_input_stream

from user_service.errors import InvalidInput, MalformedBody, UnsupportedBody
from user_service.resilience import deadline
from user_service.web.responses.reply import JSON
from user_service.web.services import services_of

View = Callable[..., Response]
M = TypeVar("M", bound=BaseModel)

MERGE_PATCH = "application/merge-patch+json"
# The media types of a body, by method.
BODY_TYPES = {"POST": (JSON,), "PUT": (JSON,), "PATCH": (MERGE_PATCH, JSON)}
# Far above any user, and low enough to hold one in memory for every request at once.
MAX_BODY_BYTES = 64 * 1024

_MESSAGES = {
    "missing": "is required",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "is too large",
    "literal_error": "must be {expected}",
    "extra_forbidden": "is not known",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
}
_LONGEST_FIELD_NAME = 64
_MOST_ERRORS = 100


class NoQuery(BaseModel, extra="forbid"):
    """The query string of a view that takes none."""


def validated(view: View) -> View:
    """Call ``view`` with the arguments that it names: services, query, body and path parameters.

    ``query`` and ``body`` are of the pydantic models in the view's annotations. Raise
    InvalidInput, MalformedBody or UnsupportedBody before the view is called. A view without
    ``query`` accepts no query parameters.
    """
    annotations = inspect.get_annotations(view, eval_str=True)
    query_model = annotations.get("query", NoQuery)
    body_model = annotations.get("body")

    @functools.wraps(view)
    def call(**arguments: object) -> Response:
        query = parse_query(query_model, request.environ.get("QUERY_STRING", ""))
        if "query" in annotations:
            arguments["query"] = query
        if body_model is not None:
            arguments["body"] = parse_body(body_model, request.environ)
        elif request.method == "DELETE":  # one whose message breaks off must not be executed
            limited_body(request.environ)
        return view(services_of(current_app), **arguments)

    return call


def parse_query(model: type[M], query_string: str) -> M:
    """Return a query string, as WSGI spells it, as ``model``; raise InvalidInput.

    ``lists`` of the model are the names whose values may also be repeated parameters.
    """
    try:
        text = query_string.encode("latin-1").decode()  # WSGI's strings hold bytes (PEP 3333)
        given = parse_qs(text, keep_blank_values=True, errors="strict")
    except UnicodeError:
        raise InvalidInput({"query string": "must be percent-encoded UTF-8"}) from None
    lists: Set[str] = getattr(model, "lists", frozenset())
    repeated = [name for name, values in given.items() if len(values) > 1 and name not in lists]
    if repeated:
        raise InvalidInput(_shortened(dict.fromkeys(repeated, "must be given once")))
    return _valid(model, {name: ",".join(values) for name, values in given.items()})


def parse_body(model: type[M], environ: WSGIEnvironment) -> M:
    """Return the body of the request as ``model``.

    Raise UnsupportedBody, RequestEntityTooLarge, MalformedBody, or InvalidInput naming the
    fields at fault.
    """
    method = environ["REQUEST_METHOD"].upper()
    media_type, _, _ = environ.get("CONTENT_TYPE", "").partition(";")
    if media_type.strip().lower() not in BODY_TYPES[method]:
        accepted = ", ".join(BODY_TYPES[method])
        name = "Accept-Patch" if method == "PATCH" else "Accept"
        raise UnsupportedBody(f"The Content-Type must be one of: {accepted}", {name: accepted})
    if environ.get("HTTP_CONTENT_ENCODING", "").strip().lower() not in ("", "identity"):
        raise UnsupportedBody("The body must not be compressed", {"Accept-Encoding": "identity"})
    return _valid(model, json_object(limited_body(environ)))


def limited_body(environ: WSGIEnvironment) -> bytes:
    """Return the body of the request. The deadline is extended by the time the client takes.

    Raise RequestEntityTooLarge over MAX_BODY_BYTES, ClientDisconnected if the body ends too soon,
    and RequestTimeout if it takes longer than the request may.
    """
    announced = get_content_length(environ) or 0
    if announced > MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    began = time.monotonic()
    try:
        # Without Content-Length the end is unknown: one byte more shows that a body is too long.
        body = get_input_stream(environ).read(MAX_BODY_BYTES + 1)
    except (OSError, ValueError):  # a broken connection, or chunks that are malformed
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
        # Unlike the standard library, orjson refuses NaN, lone surrogates and deep nesting.
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise MalformedBody("must be JSON in UTF-8") from None
    if not isinstance(document, dict):
        raise MalformedBody("must be a JSON object")
    try:
        _DISTINCT_MEMBERS.decode(body.decode())
    except RecursionError:
        raise MalformedBody("is nested too deeply") from None
    return document


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    """Refuse ``{"a": 1, "a": 2}``: parsers differ in the value they take."""
    if len(dict(pairs)) < len(pairs):
        raise MalformedBody("must not name a member twice")


_DISTINCT_MEMBERS = json.JSONDecoder(object_pairs_hook=_distinct)


def _valid(model: type[M], values: dict[str, Any]) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise InvalidInput(_shortened(dict(map(_field_and_message, faults)))) from None


def _field_and_message(fault: ErrorDetails) -> tuple[str, str]:
    location = fault["loc"] or ("request",)  # a rule of the whole model has none
    field, context = str(location[0]), fault.get("ctx", {})
    if fault["type"] == "value_error":  # a rule of this project
        return field, str(context["error"])
    rule = _MESSAGES.get(fault["type"])
    return field, fault["msg"] if rule is None else rule.format(**context)


def _shortened(errors: dict[str, str]) -> dict[str, str]:
    """Cut the names, which the client invents and the response repeats, in number and length."""
    few = itertools.islice(errors.items(), _MOST_ERRORS)
    return {field[:_LONGEST_FIELD_NAME]: message for field, message in few}
