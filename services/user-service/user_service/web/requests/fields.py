"""The values that clients may send: for each its rule, and beside it the rule's JSON schema.

The OpenAPI document is made of these, so that it says what is really accepted.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from user_service.domain.names import (
    EMAIL_MAX_LENGTH,
    USERNAME_MAX_LENGTH,
    USERNAME_MIN_LENGTH,
    valid_email,
    valid_prefix,
    valid_username,
)
from user_service.domain.user import USER_MEMBERS

MAX_IDS = 100
CURSOR_FORM = "[A-Za-z0-9_-]{24,6000}"
BIGINT_MAX = 2**63 - 1

# The lengths are those after trimming, which only a pattern can say. Which characters are visible
# and what an address looks like, no pattern can: `format` stands for that.
Username = Annotated[
    str,
    AfterValidator(valid_username),
    WithJsonSchema(
        {
            "type": "string",
            "format": "username",
            "pattern": rf"^\s*\S.{{{USERNAME_MIN_LENGTH - 2},{USERNAME_MAX_LENGTH - 2}}}\S\s*$",
        }
    ),
]
Email = Annotated[
    str,
    AfterValidator(valid_email),
    WithJsonSchema(
        {
            "type": "string",
            "format": "idn-email",
            "pattern": rf"^\s*\S{{3,{EMAIL_MAX_LENGTH}}}\s*$",
        }
    ),
]
Prefix = Annotated[
    str,
    AfterValidator(valid_prefix),
    WithJsonSchema(
        {
            "type": "string",
            "format": "visible-text",
            "minLength": 1,
            "maxLength": EMAIL_MAX_LENGTH,
        }
    ),
]
Sort = Literal[
    "id", "-id", "username", "-username", "created_at", "-created_at", "updated_at", "-updated_at"
]
# What generated clients call them: a "-" makes no name.
SORT_NAMES = [name.replace("-", "descending_") for name in get_args(Sort)]


def _positive_whole_number(text: object) -> int:
    # Python would also take "1_000", " 1" and digits of other scripts.
    if not isinstance(text, str) or not re.fullmatch(r"-?[0-9]{1,1000}", text):
        raise ValueError("must be a whole number")
    number = int(text)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


def _page(number: int) -> int:
    if number > BIGINT_MAX:
        raise ValueError("is too large")
    return number


def _ids(text: object) -> object:
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,19}(,[0-9]{1,19})*", text):
        raise ValueError("must be ids, separated by commas")
    ids = [int(part) for part in text.split(",")]
    if len(ids) > MAX_IDS:
        raise ValueError(f"must be at most {MAX_IDS} ids")
    if max(ids) > BIGINT_MAX:
        raise ValueError("must be ids, separated by commas")
    return tuple(sorted(set(ids)))


def _members(text: object) -> object:
    asked = text.split(",") if isinstance(text, str) else []
    if not asked or not set(asked) <= set(USER_MEMBERS):
        raise ValueError(f"must be some of {', '.join(USER_MEMBERS)}, separated by commas")
    return tuple(name for name in USER_MEMBERS if name in asked)


def _time(text: object) -> object:
    # RFC 3339, section 5.6. A "+" that was not escaped arrives as a space: what a client has read
    # from a user and put into an address as it is.
    if not isinstance(text, str) or not _RFC_3339.fullmatch(text):
        raise ValueError(_NO_TIME)
    try:
        time = datetime.fromisoformat(text.upper().replace(" ", "+"))
    except ValueError:
        raise ValueError(_NO_TIME) from None
    try:
        if _BELOW_MICROSECONDS.search(text):  # cut off by Python: the next one comes after it
            time += timedelta(microseconds=1)
        return time.astimezone(UTC)
    except OverflowError:  # within a day of the calendar's ends, and no user is
        return _EARLIEST if time.year == 1 else _LATEST


_DATE_TIME = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
    r"([Zz]|[-+ ]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_RFC_3339 = re.compile(_DATE_TIME)
_BELOW_MICROSECONDS = re.compile(r"\.[0-9]{6}[0-9]*[1-9]")
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_NO_TIME = "must be a time with its offset from UTC, like 2026-11-22T19:41:06Z"

Time = Annotated[
    datetime,
    BeforeValidator(_time),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": f"^{_DATE_TIME}$"}),
]
PositiveWholeNumber = Annotated[
    int,
    BeforeValidator(_positive_whole_number),
    WithJsonSchema({"type": "integer", "minimum": 1}),
]
Page = Annotated[
    PositiveWholeNumber,
    AfterValidator(_page),
    WithJsonSchema({"type": "integer", "format": "int64", "minimum": 1, "maximum": BIGINT_MAX}),
]
Cursor = Annotated[
    str, WithJsonSchema({"type": "string", "format": "cursor", "pattern": f"^{CURSOR_FORM}$"})
]
Ids = Annotated[
    tuple[int, ...],
    BeforeValidator(_ids),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"type": "integer", "format": "int64", "minimum": 0, "maximum": BIGINT_MAX},
            "minItems": 1,
            "maxItems": MAX_IDS,
        }
    ),
]
Members = Annotated[
    tuple[str, ...],
    BeforeValidator(_members),
    WithJsonSchema(
        {"type": "array", "items": {"type": "string", "enum": list(USER_MEMBERS)}, "minItems": 1}
    ),
]
