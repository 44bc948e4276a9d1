"""The request bodies and query strings that clients may send: one model for each."""

import hashlib
from collections.abc import Callable
from datetime import datetime
from enum import Enum, auto
from functools import cached_property
from typing import Any, ClassVar, TypeVar, cast
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field, JsonValue, create_model, model_validator

from user_service.domain import names
from user_service.domain.positions import Filters, NamePrefix, Order, SortColumn
from user_service.domain.times import Time
from user_service.domain.user import (
    MEMBER_DEFAULTS,
    MEMBER_TYPES,
    READ_ONLY_MEMBERS,
    USER_MEMBERS,
    WRITABLE_MEMBERS,
)
from user_service.errors import InvalidInput
from user_service.web.requests import values
from user_service.web.requests.values import MAX_PER_PAGE

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

# Characters. A longer name of a page is replaced by its hash, which keeps keys in Redis short.
LONGEST_PAGE_NAME = 200


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Unchanged(Enum):
    """The value of a member that a change leaves out. None is a value of its own: null."""

    UNCHANGED = auto()


UNCHANGED: Any = _Unchanged.UNCHANGED

# The fields of models by name, as pydantic.create_model takes them: type and default, ... for none.
_OF_NEW_USERS: dict[str, Any] = {
    name: (MEMBER_TYPES[name], MEMBER_DEFAULTS.get(name, ...)) for name in WRITABLE_MEMBERS
}
_OF_CHANGES: dict[str, Any] = {name: (kind, UNCHANGED) for name, kind in MEMBER_TYPES.items()}


def _with_fields(fields: dict[str, Any]) -> Callable[[type[M]], type[M]]:
    """Give a model ``fields``, which type checkers do not see."""

    def extended(model: type[M]) -> type[M]:
        return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields)

    return extended


@_with_fields(_OF_NEW_USERS)
class UserWrite(_Schema):
    """A new user."""


@_with_fields(_OF_NEW_USERS | {name: _OF_CHANGES[name] for name in READ_ONLY_MEMBERS})
class UserReplacement(_Schema):
    """A whole user, as it is to be. Optional members that are absent are reset."""


@_with_fields(_OF_CHANGES)
class UserPatch(UserReplacement):
    """A JSON merge patch (RFC 7396) of a user. Absent members stay as they are."""


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
    username: names.Username | None = _parameter(None, "only the user with this name", "ada")
    email: names.Email | None = _parameter(
        None, "only the user with this address", "ada@example.com"
    )
    q: values.Prefix | None = _parameter(
        None, "only users whose username or address begins like this, in canonical form", "ada"
    )
    created_since: Time | None = _parameter(
        None, "only users created at this time or later", "2026-11-01T00:00:00Z"
    )
    created_before: Time | None = _parameter(
        None, "only users created before this time", "2026-12-01T00:00:00Z"
    )
    updated_since: Time | None = _parameter(
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


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value.isoformat() if isinstance(value, datetime) else str(value)
