"""What Schemathesis is told beyond the document: formats that are ours, and one more check.

Schemathesis imports this in its own process. FUZZED_DATABASE_URL and CURSOR_KEY are those of the
service; into the file FUZZING_ANSWERS goes a line for each answer that valid data got.
"""

import itertools
import os
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import psycopg2
import schemathesis
from pydantic import ValidationError
from schemathesis.generation.meta import TestPhase

from tests.population import populate
from user_service.domain.names import valid_email, valid_prefix, valid_username
from user_service.domain.positions import Position, Side
from user_service.domain.user import READ_ONLY_MEMBERS
from user_service.errors import InvalidInput
from user_service.web.requests.schemas import ListQuery
from user_service.web.responses.cursors import Cursors

CURSORS = Cursors(os.environ["CURSOR_KEY"].encode)
NUMBERS = itertools.count()
RUN = uuid.uuid4().hex


# ---- Formats: which text is a name, or an address, is more than a pattern can say


def accepted_by(rule: Callable[[str], str], text: str) -> bool:
    try:
        rule(text)
    except ValueError:
        return False
    return True


PADDING = st.sampled_from(["", " ", "\t\n", "\u2003"])
VISIBLE = st.characters(exclude_categories=["C", "Zl", "Zp"])
LOCAL_PARTS = st.text(st.sampled_from("aBz09!#$%&'*+-/=?^_`{|}~éжø中"), min_size=1, max_size=64)
DOMAINS = st.sampled_from(
    ["example.com", "a.b.example.org", "EXAMPLE.com", "exämple.com", "例え.jp"]
)

schemathesis.openapi.format(
    "username",
    st.tuples(PADDING, st.text(VISIBLE, min_size=3, max_size=50), PADDING)
    .map("".join)
    .filter(partial(accepted_by, valid_username)),
)
schemathesis.openapi.format(
    "idn-email",
    st.builds("{}@{}".format, LOCAL_PARTS, DOMAINS).filter(partial(accepted_by, valid_email)),
)
schemathesis.openapi.format(
    "visible-text",
    st.text(VISIBLE, min_size=1, max_size=255).filter(partial(accepted_by, valid_prefix)),
)


# ---- What depends on another part of the request, or on other requests


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    if case.meta is not None and case.meta.generation.mode.is_positive:
        if "cursor" in case.query:
            give_place_in_this_list(case)
        if "Idempotency-Key" in case.headers:
            give_key_of_its_own(case)
        if case.method in ("PUT", "PATCH"):  # drawn at random, they would change
            for name in READ_ONLY_MEMBERS:
                case.body.pop(name, None)
        if "user_id" in case.path_parameters and case.meta.phase.name != TestPhase.STATEFUL:
            reach_a_user(case)
    if case.method != "GET":
        STATES[case.id] = state_of_database()


def give_place_in_this_list(case: Any) -> None:
    """Replace a cursor that is not of this list: it is signed together with sort and filters."""
    case.query.pop("page", None)
    texts = {name: text_of(value) for name, value in case.query.items()}
    try:
        query = ListQuery.model_validate(texts)
    except (ValidationError, InvalidInput):
        return
    try:
        CURSORS.decode(texts["cursor"], query.list_name, query.sort)
    except InvalidInput:
        place = Position(Side.AFTER, PLACES[query.order.by], 1)
        case.query["cursor"] = CURSORS.encode(place, query.list_name)


PLACES: dict[str, int | str] = {
    "id": 1,
    "username": "a",
    "created_at": "2026-11-22T19:41:06.123456+00:00",
    "updated_at": "2026-11-22T19:41:06.123456+00:00",
}


def text_of(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def give_key_of_its_own(case: Any) -> None:
    """Make the key unique: drawn a second time, it would stand for the first request (422)."""
    key = case.headers["Idempotency-Key"]
    unique = f"{RUN}-{next(NUMBERS)}"
    case.headers["Idempotency-Key"] = (
        f'"{unique}{key[1:]}' if key.startswith('"') and len(key) < 200 else unique
    )


def reach_a_user(case: Any) -> None:
    """Of four requests, ask three for a user that is there, two of them without conditions.

    Drawn at random, an id is nobody's and a condition is not met: all were 404 or 412. What follows
    a link has an id, and an ETag, that it was given.
    """
    number = next(NUMBERS) % 4
    if number > 0:
        case.path_parameters["user_id"] = some_user()
    if number > 1:
        for condition in ("If-Match", "If-None-Match", "If-Unmodified-Since"):
            case.headers.pop(condition, None)


# ---- One more check


STATES: dict[str, str] = {}
ANSWERS = Path(os.environ["FUZZING_ANSWERS"])
DATABASE = psycopg2.connect(os.environ["FUZZED_DATABASE_URL"])
DATABASE.autocommit = True


def some_user() -> int:
    """Return the id of the newest user; make one if there is none."""
    if selected("max(id) FROM users") is None:
        with DATABASE.cursor() as cursor:
            populate(cursor, 1)
    return int(selected("max(id) FROM users"))


def state_of_database() -> str:
    """Return what differs whenever anything in the database does."""
    tables = {"users": "id", "idempotency_keys": "key"}
    return "".join(
        str(selected(f"md5(string_agg(t::text, ',' ORDER BY {key})) FROM {table} t"))
        for table, key in tables.items()
    )


def selected(expression: str) -> Any:
    with DATABASE.cursor() as cursor:
        cursor.execute(f"SELECT {expression}")
        (value,) = cursor.fetchone() or (None,)
        return value


@schemathesis.check
def refused_requests_write_nothing(_context: Any, response: Any, case: Any) -> None:
    if case.meta is not None and case.meta.generation.mode.is_positive:
        with ANSWERS.open("a", encoding="utf-8") as answers:
            answers.write(f"{case.method} {case.path} {response.status_code}\n")
    before = STATES.pop(case.id, None)
    if before is not None and 400 <= response.status_code < 500:
        assert state_of_database() == before, "a request that was refused has written something"
