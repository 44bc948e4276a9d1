"""What clients may send: one model for each body and each query string.

The OpenAPI document is made of these models, so beside each rule of ours stands its JSON schema.
"""

import hashlib
import re
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Literal, cast
from urllib.parse import urlencode

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from user_service.database.listing import Count, Filters, Order, SortColumn
from user_service.errors import InvalidInput
from user_service.users import (
    EMAIL_MAX_LENGTH,
    USER_MEMBERS,
    USERNAME_MAX_LENGTH,
    USERNAME_MIN_LENGTH,
    canonical_email,
    canonical_prefix,
    canonical_username,
    valid_email,
    valid_prefix,
    valid_username,
)

MAX_PER_PAGE = 100
MAX_IDS = 100
LONGEST_NAME = 200
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
        return time.astimezone(UTC)
    except OverflowError:  # within a day of the calendar's ends, and no user is
        return _EARLIEST if time.year == 1 else _LATEST


_DATE_TIME = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
    r"([Zz]|[-+ ]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_RFC_3339 = re.compile(_DATE_TIME)
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


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class UserWrite(_Schema):
    """A whole user, for POST and PUT."""

    username: Username = Field(
        description=f"{USERNAME_MIN_LENGTH} to {USERNAME_MAX_LENGTH} visible characters after"
        " trimming; unique by canonical form, so without regard to case",
        examples=["ada"],
    )
    email: Email = Field(
        description=f"at most {EMAIL_MAX_LENGTH} characters; unique by canonical form",
        examples=["ada@example.com"],
    )


class UserPatch(_Schema):
    """A JSON merge patch (RFC 7396) of a user: what is left out stays; no member can be null."""

    # None stands for absent; a null sent is refused.
    username: Username = Field(default=None, description="the new username")  # type: ignore[assignment]
    email: Email = Field(
        default=None,  # type: ignore[assignment]
        description="the new address",
        examples=["countess@example.com"],
    )


class ListQuery(_Schema):
    """Which users to list, and how. More than MAX_PER_PAGE on a page are served as MAX_PER_PAGE."""

    page: Page = Field(default=1, description="number of the page; not together with `cursor`")
    per_page: Annotated[PositiveWholeNumber, AfterValidator(lambda n: min(n, MAX_PER_PAGE))] = (
        Field(
            default=50,
            description=f"users on a page; more than {MAX_PER_PAGE} is served as {MAX_PER_PAGE}",
        )
    )
    cursor: Cursor | None = Field(
        default=None,
        description="`next_cursor` or `prev_cursor` of a page with the same `sort` and filters;"
        " not together with `page`",
    )
    count: Count | None = Field(
        default=None,
        description="how `total` is made; `exact` by page number and `none` by cursor, unless said",
    )
    sort: Sort = Field(default="id", description="order, with a `-` descending; ties by id")
    fields: Members = Field(default=USER_MEMBERS, description="the members of each user")
    id: Ids | None = Field(default=None, description="only those of these that there are")
    username: Username | None = Field(default=None, description="only who is called so")
    email: Email | None = Field(default=None, description="only who has this address")
    q: Prefix | None = Field(
        default=None, description="only whose username or address begins so, in canonical form"
    )
    created_since: Time | None = Field(
        default=None, description="only who was created then or later"
    )
    created_before: Time | None = Field(default=None, description="only who was created earlier")
    updated_since: Time | None = Field(
        default=None, description="only who was changed then or later"
    )

    @model_validator(mode="after")
    def _where_must_be_said_once(self) -> "ListQuery":
        if self.cursor is not None and "page" in self.model_fields_set:
            raise InvalidInput(
                {"page": "must not be given with cursor", "cursor": "must not be given with page"}
            )
        return self

    @property
    def order(self) -> Order:
        """The order that ``sort`` names."""
        return Order(cast("SortColumn", self.sort.removeprefix("-")), self.sort.startswith("-"))

    @property
    def filters(self) -> Filters:
        """What the list is filtered by."""
        return Filters(
            ids=None if self.id is None else list(self.id),
            username=None if self.username is None else canonical_username(self.username),
            email=None if self.email is None else canonical_email(self.email),
            prefix=None if self.q is None else canonical_prefix(self.q),
            created_since=self.created_since,
            created_before=self.created_before,
            updated_since=self.updated_since,
        )

    @cached_property
    def parameters(self) -> dict[str, str]:
        """What was asked for, in one spelling: all that a page depends on."""
        asked = {name: getattr(self, name) for name in sorted(self.model_fields_set)}
        defaults = type(self).model_fields
        said = {name: _text(asked[name]) for name in asked if asked[name] != defaults[name].default}
        where = {} if self.cursor is not None else {"page": str(self.page)}
        return {**where, "per_page": str(self.per_page), **said}

    @cached_property
    def page_name(self) -> str:
        """The name of the page. Long ones, of many ids or long prefixes, are hashed."""
        name = urlencode(self.parameters)
        if len(name) <= LONGEST_NAME:
            return name
        return hashlib.blake2b(name.encode(), digest_size=20).hexdigest()

    @cached_property
    def list_name(self) -> str:
        """The name of the list and its order: what is the same on all its pages."""
        of_all = {name: text for name, text in self.parameters.items() if name not in PER_PAGE}
        return urlencode(of_all)


# What may change from one page of a list to the next.
PER_PAGE = {"page", "per_page", "cursor", "count", "fields"}


def _text(value: object) -> str:
    match value:
        case tuple():
            return ",".join(map(str, value))
        case datetime():
            return value.isoformat()
        case _:
            return str(value)
