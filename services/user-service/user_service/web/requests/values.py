"""The values that clients may send: the rule of each beside its JSON schema.

The OpenAPI document is made of these schemas, so it shows the rules that hold.
"""

import re
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, WithJsonSchema
from typing_extensions import TypeAliasType
from werkzeug.exceptions import NotFound
from werkzeug.routing import BaseConverter

from user_service.domain import names
from user_service.domain.positions import Count
from user_service.domain.user import BIGINT_MAX, USER_MEMBERS

MAX_IDS = 100
MAX_PER_PAGE = 100
_BIGINT = {"type": "integer", "format": "int64", "minimum": 1, "maximum": BIGINT_MAX}


def _text(**rules: object) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **rules})


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
