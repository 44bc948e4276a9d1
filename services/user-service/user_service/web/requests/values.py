"""The values that clients may send: the rule of each beside its JSON schema.

The OpenAPI document is made of these schemas, so it shows the rules that hold.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, WithJsonSchema
from typing_extensions import TypeAliasType
from werkzeug.exceptions import NotFound
from werkzeug.routing import BaseConverter

from user_service.domain import names
from user_service.domain.positions import Count
from user_service.domain.user import USER_MEMBERS

MAX_IDS = 100
MAX_PER_PAGE = 100
BIGINT_MAX = 2**63 - 1
_BIGINT = {"type": "integer", "format": "int64", "minimum": 1, "maximum": BIGINT_MAX}


def _text(**rules: object) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **rules})


# The lengths count after trimming, which only a pattern can express. No pattern can tell visible
# characters, or the form of an address: `format` stands for these rules.
_USERNAME = rf"^\s*\S.{{{names.USERNAME_MIN_LENGTH - 2},{names.USERNAME_MAX_LENGTH - 2}}}\S\s*$"
_EMAIL = rf"^\s*\S{{3,{names.EMAIL_MAX_LENGTH}}}\s*$"
Username = Annotated[
    str, AfterValidator(names.valid_username), _text(format="username", pattern=_USERNAME)
]
Email = Annotated[str, AfterValidator(names.valid_email), _text(format="idn-email", pattern=_EMAIL)]
Prefix = Annotated[
    str,
    AfterValidator(names.valid_prefix),
    _text(format="visible-text", minLength=1, maxLength=names.EMAIL_MAX_LENGTH),
]
# Enumerations with a name of their own in the document.
_Sort = Literal[
    "id", "-id", "username", "-username", "created_at", "-created_at", "updated_at", "-updated_at"
]
# The names of the orders in generated clients, where an identifier cannot begin with "-".
_SORT_NAMES: list[JsonValue] = [name.replace("-", "descending_") for name in get_args(_Sort)]
Sort = TypeAliasType(
    "Sort", Annotated[_Sort, Field(json_schema_extra={"x-enum-varnames": _SORT_NAMES})]
)
Precision = TypeAliasType("Precision", Count)
UserMember = TypeAliasType("UserMember", Annotated[str, _text(enum=list(USER_MEMBERS))])


# These three read parameters of a query string, which are always text.
def _whole_number(text: str) -> int:
    # int() also accepts "1_000", " 1" and the digits of other scripts.
    if not re.fullmatch(r"-?[0-9]{1,1000}", text):
        raise ValueError("must be a whole number")
    return int(text)


def _ids(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-9]{1,19}(,[0-9]{1,19})*", text):
        raise ValueError("must be ids, separated by commas")
    ids = [int(part) for part in text.split(",")]
    if len(ids) > MAX_IDS:
        raise ValueError(f"must be at most {MAX_IDS} ids")
    if max(ids) > BIGINT_MAX:
        raise ValueError("must be ids, separated by commas")
    return tuple(sorted(set(ids)))


def _members(text: str) -> tuple[str, ...]:
    asked = set(text.split(","))
    if not asked <= set(USER_MEMBERS):
        raise ValueError(f"must be some of {', '.join(USER_MEMBERS)}, separated by commas")
    return tuple(name for name in USER_MEMBERS if name in asked)


# RFC 3339, section 5.6, and offsets without a colon. An offset of "+01:00" that was not
# percent-encoded has a space for the "+".
_DATE_TIME = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
    r"([Zz]|[-+ ]([01][0-9]|2[0-3]):?[0-5][0-9])"
)
_BELOW_MICROSECONDS = re.compile(r"\.[0-9]{6}[0-9]*[1-9]")
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def _time(text: object) -> datetime:
    rule = "must be a time with its offset from UTC, like 2026-11-22T19:41:06Z"
    if not isinstance(text, str) or not re.fullmatch(_DATE_TIME, text):
        raise ValueError(rule)
    try:
        time = datetime.fromisoformat(text.upper().replace(" ", "+"))
    except ValueError:
        raise ValueError(rule) from None
    try:
        # Python cuts the digits below a microsecond off. The next microsecond is the same limit,
        # because no user was created or changed between the two.
        if _BELOW_MICROSECONDS.search(text):
            time += timedelta(microseconds=1)
        return time.astimezone(UTC)
    except OverflowError:  # within a day of the first or last time that Python knows
        return _EARLIEST if time.year == 1 else _LATEST


Time = Annotated[datetime, BeforeValidator(_time), _text(format="date-time")]
PositiveWholeNumber = Annotated[
    int,
    BeforeValidator(_whole_number),
    Field(ge=1),
    WithJsonSchema({"type": "integer", "minimum": 1}),
]
PerPage = Annotated[PositiveWholeNumber, AfterValidator(lambda n: min(n, MAX_PER_PAGE))]
Page = Annotated[PositiveWholeNumber, Field(le=BIGINT_MAX), WithJsonSchema(_BIGINT)]
Cursor = Annotated[str, _text(format="cursor", pattern="^[A-Za-z0-9_-]{24,6000}$")]
Ids = Annotated[
    tuple[int, ...],
    BeforeValidator(_ids),
    WithJsonSchema(
        {"type": "array", "items": {**_BIGINT, "minimum": 0}, "minItems": 1, "maxItems": MAX_IDS}
    ),
]
Members = Annotated[tuple[UserMember, ...], Field(min_length=1), BeforeValidator(_members)]


class UserIdConverter(BaseConverter):
    """A user's id: a whole number that fits into a bigint column. Any other path is a 404."""

    regex = "[0-9]{1,19}"
    # For the OpenAPI document.
    parameter: ClassVar = {
        "in": "path",
        "required": True,
        "description": "id of the user",
        "schema": {**_BIGINT, "examples": [1]},
        "example": 1,  # tools for OpenAPI 3.0 find this one
    }

    def to_python(self, value: str) -> int:
        """Return the id, or raise NotFound.

        A converter that does not match would lead to a 405 for most methods.
        """
        number = int(value)
        if number > BIGINT_MAX:
            raise NotFound
        return number
