"""What clients may send: one model for each body and each query string."""

import hashlib
from datetime import datetime
from functools import cached_property
from typing import Annotated, cast
from urllib.parse import quote_plus

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from user_service.domain.names import (
    EMAIL_MAX_LENGTH,
    USERNAME_MAX_LENGTH,
    USERNAME_MIN_LENGTH,
    canonical_email,
    canonical_prefix,
    canonical_username,
)
from user_service.domain.positions import Count, Filters, Order, SortColumn
from user_service.domain.user import USER_MEMBERS
from user_service.errors import InvalidInput
from user_service.web.requests.fields import (
    SORT_NAMES,
    Cursor,
    Email,
    Ids,
    Members,
    Page,
    PositiveWholeNumber,
    Prefix,
    Sort,
    Time,
    Username,
)

MAX_PER_PAGE = 100
LONGEST_NAME = 200


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


def _without_default(schema: dict[str, JsonValue]) -> None:
    # Generated clients send defaults, and this one would be sent together with a cursor.
    del schema["default"]


class ListQuery(_Schema):
    """Which users to list, and how. More than MAX_PER_PAGE on a page are served as MAX_PER_PAGE."""

    page: Page = Field(
        default=1,
        description="number of the page, the first unless given; not together with `cursor`",
        examples=["3"],
        json_schema_extra=_without_default,
    )
    per_page: Annotated[PositiveWholeNumber, AfterValidator(lambda n: min(n, MAX_PER_PAGE))] = (
        Field(
            default=50,
            description=f"users on a page; more than {MAX_PER_PAGE} is served as {MAX_PER_PAGE}",
            examples=["100"],
        )
    )
    cursor: Cursor | None = Field(
        default=None,
        description="`next_cursor` or `prev_cursor` of a page with the same `sort` and filters;"
        " not together with `page`",
        examples=["YdHFuP7sxBdatjd1ikxvFFsiPiIsMSwxXQ"],
    )
    count: Count | None = Field(
        default=None,
        description="how `total` is made; `exact` by page number and `none` by cursor, unless said",
        examples=["estimated"],
    )
    sort: Sort = Field(
        default="id",
        description="order, with a `-` descending; ties by id",
        examples=["-updated_at"],
        json_schema_extra={"x-enum-varnames": cast("list[JsonValue]", SORT_NAMES)},
    )
    fields: Members = Field(
        default=USER_MEMBERS, description="the members of each user", examples=["id,username"]
    )
    id: Ids | None = Field(
        default=None, description="only those of these that there are", examples=["1,2,3"]
    )
    username: Username | None = Field(
        default=None, description="only who is called so", examples=["ada"]
    )
    email: Email | None = Field(
        default=None, description="only who has this address", examples=["ada@example.com"]
    )
    q: Prefix | None = Field(
        default=None,
        description="only whose username or address begins so, in canonical form",
        examples=["ada"],
    )
    created_since: Time | None = Field(
        default=None,
        description="only who was created then or later",
        examples=["2026-11-01T00:00:00Z"],
    )
    created_before: Time | None = Field(
        default=None,
        description="only who was created earlier",
        examples=["2026-12-01T00:00:00Z"],
    )
    updated_since: Time | None = Field(
        default=None,
        description="only who was changed then or later",
        examples=["2026-11-22T19:41:06Z"],
    )

    @model_validator(mode="after")
    def _where_must_be_said_once(self) -> "ListQuery":
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
        name = encoded(self.parameters)
        if len(name) <= LONGEST_NAME:
            return name
        return hashlib.blake2b(name.encode(), digest_size=20).hexdigest()

    @cached_property
    def list_name(self) -> str:
        """The name of the list and its order: what is the same on all its pages."""
        of_all = {name: text for name, text in self.parameters.items() if name not in PER_PAGE}
        return encoded(of_all)

    @cached_property
    def elsewhere(self) -> str:
        """What is the same in the query string of every other page of the list."""
        return encoded({n: text for n, text in self.parameters.items() if n not in PLACE})


# What says where in the list a page lies.
PLACE = {"page", "cursor"}
# What may change from one page of a list to the next.
PER_PAGE = {"page", "per_page", "cursor", "count", "fields"}


def encoded(parameters: dict[str, str]) -> str:
    """Return ``parameters``, whose names need no encoding, as a query string."""
    return "&".join(
        f"{name}={text if text.isascii() and text.isalnum() else quote_plus(text)}"
        for name, text in parameters.items()
    )


def _text(value: object) -> str:
    match value:
        case tuple():
            return ",".join(map(str, value))
        case datetime():
            return value.isoformat()
        case _:
            return str(value)
