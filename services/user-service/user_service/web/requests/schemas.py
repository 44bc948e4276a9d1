"""The request bodies and query strings that clients may send: one model for each."""

import hashlib
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast
from urllib.parse import urlencode

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    create_model,
    model_validator,
)

from user_service.domain.names import (
    EMAIL_MAX_LENGTH,
    USERNAME_MAX_LENGTH,
    USERNAME_MIN_LENGTH,
    canonical_email,
    canonical_email_prefix,
    canonical_prefix,
    canonical_username,
)
from user_service.domain.positions import Filters, NamePrefix, Order, SortColumn
from user_service.domain.user import USER_MEMBERS
from user_service.errors import InvalidInput
from user_service.web.requests.fields import (
    BIGINT_MAX,
    Cursor,
    Email,
    Ids,
    Members,
    Page,
    PositiveWholeNumber,
    Precision,
    Prefix,
    Sort,
    Time,
    Username,
)

MAX_PER_PAGE = 100
# Characters. A longer name of a page is replaced by its hash, which keeps keys in Redis short.
LONGEST_PAGE_NAME = 200
# The parameters that tell where in a list a page lies.
POSITION_PARAMETERS = frozenset({"page", "cursor"})
# The parameters that may differ between the pages of one list.
PAGE_PARAMETERS = POSITION_PARAMETERS | {"per_page", "count", "fields"}


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class UserWrite(_Schema):
    """A new user."""

    username: Username = Field(
        description=f"{USERNAME_MIN_LENGTH} to {USERNAME_MAX_LENGTH} visible characters after"
        " trimming; unique by canonical form, so `Ada` and `ada` are the same",
        examples=["ada"],
    )
    email: Email = Field(
        description=f"at most {EMAIL_MAX_LENGTH} characters; unique by canonical form",
        examples=["ada@example.com"],
    )


def _optional(model: type[BaseModel]) -> dict[str, Any]:
    """Return the fields of ``model`` with None for those that are absent."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        parts = field.asdict()
        annotation = parts["annotation"], *parts["metadata"], Field(**parts["attributes"])
        fields[name] = (Annotated[annotation], None)
    return fields


class _GivenMembers(_Schema):
    """The members that the database sets: who has read a user may send them back unchanged."""

    id: int = Field(ge=1, le=BIGINT_MAX, description="the user's own")
    created_at: Time = Field(description="the user's own")
    updated_at: Time = Field(description="the user's own; if it has changed, the answer is a 400")


if TYPE_CHECKING:
    UserReplacement = UserWrite
    UserPatch = UserWrite
else:
    UserReplacement = create_model(
        "UserReplacement",
        __base__=UserWrite,
        __doc__="A whole user, as it is to be. Optional members that are absent are reset.",
        **_optional(_GivenMembers),
    )
    UserPatch = create_model(
        "UserPatch",
        __base__=_Schema,
        __doc__="A JSON merge patch (RFC 7396) of a user. Absent members stay as they are.",
        **_optional(UserReplacement),
    )


def _without_default(schema: dict[str, JsonValue]) -> None:
    # Generated clients send defaults. They would send this one together with a cursor.
    del schema["default"]


class ListQuery(_Schema):
    """A list of users and a page of it. ``per_page`` above MAX_PER_PAGE counts as MAX_PER_PAGE."""

    # These may also be sent as repeated parameters.
    lists: ClassVar[frozenset[str]] = frozenset({"id", "fields"})

    page: Page = Field(
        default=1,
        description="number of the page, the first by default; excludes `cursor`",
        examples=[3],
        json_schema_extra=_without_default,
    )
    per_page: Annotated[PositiveWholeNumber, AfterValidator(lambda n: min(n, MAX_PER_PAGE))] = (
        Field(
            default=50,
            description=f"users on a page; a number above {MAX_PER_PAGE} counts as {MAX_PER_PAGE}",
            examples=[100],
        )
    )
    cursor: Cursor | None = Field(
        default=None,
        description="`next_cursor` or `prev_cursor` of a page with the same `sort` and filters;"
        " excludes `page`",
        examples=["YdHFuP7sxBdatjd1ikxvFFsiPiIsMSwxXQ"],
    )
    count: Precision | None = Field(
        default=None,
        description="precision of `total`; by default `exact` with `page` and `none` with `cursor`",
        examples=["estimated"],
    )
    sort: Sort = Field(
        default="id",
        description="order, with a `-` descending; equal values are ordered by id",
        examples=["-updated_at"],
    )
    fields: Members = Field(
        default=USER_MEMBERS, description="the members of each user", examples=[["id", "username"]]
    )
    id: Ids | None = Field(
        default=None,
        description="only users with these ids; unknown ids are left out",
        examples=[[1, 2, 3]],
    )
    username: Username | None = Field(
        default=None, description="only the user with this name", examples=["ada"]
    )
    email: Email | None = Field(
        default=None, description="only the user with this address", examples=["ada@example.com"]
    )
    q: Prefix | None = Field(
        default=None,
        description="only users whose username or address begins like this, in canonical form",
        examples=["ada"],
    )
    created_since: Time | None = Field(
        default=None,
        description="only users created at this time or later",
        examples=["2026-11-01T00:00:00Z"],
    )
    created_before: Time | None = Field(
        default=None,
        description="only users created before this time",
        examples=["2026-12-01T00:00:00Z"],
    )
    updated_since: Time | None = Field(
        default=None,
        description="only users changed at this time or later",
        examples=["2026-11-22T19:41:06Z"],
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
            username=None if self.username is None else canonical_username(self.username),
            email=None if self.email is None else canonical_email(self.email),
            prefix=None
            if self.q is None
            else NamePrefix(canonical_prefix(self.q), canonical_email_prefix(self.q)),
            created_since=self.created_since,
            created_before=self.created_before,
            updated_since=self.updated_since,
        )

    @cached_property
    def parameters(self) -> dict[str, str]:
        """The parameters on which a page depends, in one spelling for equal queries."""
        position = {} if self.cursor is not None else {"page": str(self.page)}
        others = self.model_dump(exclude_defaults=True)
        return {
            **position,
            "per_page": str(self.per_page),
            **{name: _text(others[name]) for name in sorted(others)},
        }

    @cached_property
    def page_name(self) -> str:
        """The name of the page in the page cache."""
        name = urlencode(self.parameters)
        if len(name) <= LONGEST_PAGE_NAME:
            return name
        return hashlib.blake2b(name.encode(), digest_size=20).hexdigest()

    @cached_property
    def list_name(self) -> str:
        """The name of the list and its order, the same on all its pages."""
        return self._parameters_without(PAGE_PARAMETERS)

    @cached_property
    def link_parameters(self) -> str:
        """The part of the query string that links to other pages of the list repeat."""
        return self._parameters_without(POSITION_PARAMETERS)

    def _parameters_without(self, names: frozenset[str]) -> str:
        return urlencode({n: text for n, text in self.parameters.items() if n not in names})


def _text(value: object) -> str:
    match value:
        case tuple():
            return ",".join(map(str, value))
        case datetime():
            return value.isoformat()
        case _:
            return str(value)
