"""The request bodies and query strings that clients may send: one model for each."""

import hashlib
from datetime import datetime
from enum import Enum, auto
from functools import cached_property
from typing import Annotated, Any, ClassVar, TypeVar, cast
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from user_service.domain import names
from user_service.domain.positions import Filters, NamePrefix, Order, SortColumn
from user_service.domain.user import USER_MEMBERS
from user_service.errors import InvalidInput
from user_service.web.requests import values
from user_service.web.requests.values import MAX_PER_PAGE

T = TypeVar("T")

# Characters. A longer name of a page is replaced by its hash, which keeps keys in Redis short.
LONGEST_PAGE_NAME = 200


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Username = Annotated[
    values.Username,
    Field(
        description=f"{names.USERNAME_MIN_LENGTH} to {names.USERNAME_MAX_LENGTH} visible characters"
        " after trimming; unique by canonical form, so `Ada` and `ada` are the same",
        examples=["ada"],
    ),
]
Email = Annotated[
    values.Email,
    Field(
        description=f"at most {names.EMAIL_MAX_LENGTH} characters; unique by canonical form",
        examples=["ada@example.com"],
    ),
]


class _Unchanged(Enum):
    """The value of a member that a change leaves out. None is a value of its own: null."""

    UNCHANGED = auto()


UNCHANGED: Any = _Unchanged.UNCHANGED


class UserWrite(_Schema):
    """A new user."""

    username: Username
    email: Email


class UserReplacement(UserWrite):
    """A whole user, as it is to be. Optional members that are absent are reset."""

    # The database sets these. Clients may send them back unchanged.
    id: int = Field(UNCHANGED, ge=1, le=values.BIGINT_MAX, description="the user's own")
    created_at: values.Time = Field(UNCHANGED, description="the user's own")
    updated_at: values.Time = Field(
        UNCHANGED, description="the user's own; if it has changed, the answer is a 400"
    )


class UserPatch(UserReplacement):
    """A JSON merge patch (RFC 7396) of a user. Absent members stay as they are."""

    username: Username = UNCHANGED
    email: Email = UNCHANGED


def _parameter(default: T, description: str, example: object) -> T:
    """Return the field of a parameter that may be absent."""
    field: T = Field(default=default, description=description, examples=[example])
    return field


def _without_default(schema: dict[str, JsonValue]) -> None:
    # Generated clients send defaults. They would send this one together with a cursor.
    del schema["default"]


class ListQuery(_Schema):
    """A list of users and a page of it. ``per_page`` above MAX_PER_PAGE counts as MAX_PER_PAGE."""

    # These may also be sent as repeated parameters.
    lists: ClassVar[frozenset[str]] = frozenset({"id", "fields"})
    # These may differ between the pages of one list.
    page_parameters: ClassVar = frozenset({"page", "cursor", "per_page", "count", "fields"})

    page: values.Page = Field(
        default=1,
        description="number of the page, the first by default; excludes `cursor`",
        examples=[3],
        json_schema_extra=_without_default,
    )
    per_page: values.PerPage = _parameter(
        50, f"users on a page; a number above {MAX_PER_PAGE} counts as {MAX_PER_PAGE}", 100
    )
    cursor: values.Cursor | None = _parameter(
        None,
        "`next_cursor` or `prev_cursor` of a page with the same `sort` and filters;"
        " excludes `page`",
        "YdHFuP7sxBdatjd1ikxvFFsiPiIsMSwxXQ",
    )
    count: values.Precision | None = _parameter(
        None,
        "precision of `total`; by default `exact` with `page` and `none` with `cursor`",
        "estimated",
    )
    sort: values.Sort = _parameter(
        "id", "order, with a `-` descending; equal values are ordered by id", "-updated_at"
    )
    fields: values.Members = _parameter(
        USER_MEMBERS, "the members of each user", ["id", "username"]
    )
    id: values.Ids | None = _parameter(
        None, "only users with these ids; unknown ids are left out", [1, 2, 3]
    )
    username: values.Username | None = _parameter(None, "only the user with this name", "ada")
    email: values.Email | None = _parameter(
        None, "only the user with this address", "ada@example.com"
    )
    q: values.Prefix | None = _parameter(
        None, "only users whose username or address begins like this, in canonical form", "ada"
    )
    created_since: values.Time | None = _parameter(
        None, "only users created at this time or later", "2026-11-01T00:00:00Z"
    )
    created_before: values.Time | None = _parameter(
        None, "only users created before this time", "2026-12-01T00:00:00Z"
    )
    updated_since: values.Time | None = _parameter(
        None, "only users changed at this time or later", "2026-11-22T19:41:06Z"
    )

    @model_validator(mode="after")
    def _page_excludes_cursor(self) -> "ListQuery":
        if self.cursor is not None and "page" in self.model_fields_set:
            raise InvalidInput(
                {"page": "must not be given with cursor", "cursor": "must not be given with page"}
            )
        return self

    @cached_property
    def order(self) -> Order:
        """The order that ``sort`` names."""
        return Order(cast("SortColumn", self.sort.removeprefix("-")), self.sort.startswith("-"))

    @cached_property
    def filters(self) -> Filters:
        """The filters of the list, with names in canonical form."""
        return Filters(
            ids=None if self.id is None else list(self.id),
            username=None if self.username is None else names.canonical_username(self.username),
            email=None if self.email is None else names.canonical_email(self.email),
            prefix=None
            if self.q is None
            else NamePrefix(names.canonical_username(self.q), names.canonical_email_prefix(self.q)),
            created_since=self.created_since,
            created_before=self.created_before,
            updated_since=self.updated_since,
        )

    @cached_property
    def parameters(self) -> dict[str, str]:
        """The parameters except ``page`` and ``cursor``, in one order and without defaults."""
        others = self.model_dump(exclude_defaults=True, exclude={"page", "cursor"})
        per_page = {"per_page": str(self.per_page)}
        return per_page | {name: _text(others[name]) for name in sorted(others)}

    @cached_property
    def page_name(self) -> str:
        """The name of the page in the page cache. The gateway knows its beginning."""
        if self.cursor is None:
            name = urlencode({"page": self.page, **self.parameters})
        else:
            name = urlencode({**self.parameters, "cursor": self.cursor})
        if len(name) <= LONGEST_PAGE_NAME:
            return name
        return hashlib.blake2b(name.encode(), digest_size=20).hexdigest()

    @cached_property
    def list_name(self) -> str:
        """The name of the list and its order, the same on all its pages."""
        others = {n: text for n, text in self.parameters.items() if n not in self.page_parameters}
        return urlencode(others)

    @cached_property
    def link_parameters(self) -> str:
        """The part of the query string that links to other pages of the list repeat."""
        return urlencode(self.parameters)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value.isoformat() if isinstance(value, datetime) else str(value)
