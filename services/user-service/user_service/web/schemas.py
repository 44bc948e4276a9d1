"""What clients may send: one model for each body and each query string."""

import hashlib
import re
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Literal, cast
from urllib.parse import urlencode

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator

from user_service.database.listing import Count, Filters, Order, SortColumn
from user_service.errors import InvalidInput
from user_service.users import (
    USER_MEMBERS,
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
BIGINT_MAX = 2**63 - 1

Username = Annotated[str, AfterValidator(valid_username)]
Email = Annotated[str, AfterValidator(valid_email)]
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


def _ids(text: object) -> object:
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,19}(,[0-9]{1,19})*", text):
        raise ValueError("must be ids, separated by commas")
    ids = sorted({int(part) for part in text.split(",")})
    if len(ids) > MAX_IDS:
        raise ValueError(f"must be at most {MAX_IDS} ids")
    if ids[-1] > BIGINT_MAX:
        raise ValueError("must be ids, separated by commas")
    return tuple(ids)


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
        return datetime.fromisoformat(text.upper().replace(" ", "+")).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(_NO_TIME) from None


_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[-+ ][0-9]{2}:[0-9]{2})"
)
_NO_TIME = "must be a time with its offset from UTC, like 2026-11-22T19:41:06Z"

Time = Annotated[datetime, BeforeValidator(_time)]
PositiveWholeNumber = Annotated[int, BeforeValidator(_positive_whole_number)]


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class UserWrite(_Schema):
    """A whole user, for POST and PUT."""

    username: Username
    email: Email


class UserPatch(_Schema):
    """A JSON merge patch (RFC 7396) of a user. Both members are required, so none can be null."""

    username: Username = None  # type: ignore[assignment]  # absent; a null sent is refused
    email: Email = None  # type: ignore[assignment]


class ListQuery(_Schema):
    """Which users to list, and how. More than MAX_PER_PAGE on a page are served as MAX_PER_PAGE."""

    page: PositiveWholeNumber = 1
    per_page: Annotated[PositiveWholeNumber, AfterValidator(lambda n: min(n, MAX_PER_PAGE))] = 50
    cursor: str | None = None
    count: Count | None = None
    sort: Sort = "id"
    fields: Annotated[tuple[str, ...], BeforeValidator(_members)] = USER_MEMBERS
    id: Annotated[tuple[int, ...] | None, BeforeValidator(_ids)] = None
    username: Username | None = None
    email: Email | None = None
    q: Annotated[str, AfterValidator(valid_prefix)] | None = None
    created_since: Time | None = None
    created_before: Time | None = None
    updated_since: Time | None = None

    @model_validator(mode="after")
    def _where_must_be_said_once(self) -> "ListQuery":
        if self.cursor is not None and "page" in self.model_fields_set:
            raise InvalidInput(
                {"page": "must not be given with cursor", "cursor": "must not be given with page"}
            )
        if self.page * self.per_page > BIGINT_MAX:
            raise InvalidInput({"page": "is too large"})
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
