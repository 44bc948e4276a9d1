"""What clients may send: one model for each body and each query string."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from user_service.users import valid_email, valid_username

MAX_PER_PAGE = 100
BIGINT_MAX = 2**63 - 1

Username = Annotated[str, AfterValidator(valid_username)]
Email = Annotated[str, AfterValidator(valid_email)]


def _positive_whole_number(text: object) -> int:
    # Python would also take "1_000", " 1" and digits of other scripts.
    if not isinstance(text, str) or not re.fullmatch(r"-?[0-9]{1,1000}", text):
        raise ValueError("must be a whole number")
    number = int(text)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


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


class PageQuery(_Schema):
    """Which page of the list. More than MAX_PER_PAGE rows are served as MAX_PER_PAGE."""

    page: PositiveWholeNumber = 1
    per_page: Annotated[PositiveWholeNumber, AfterValidator(lambda n: min(n, MAX_PER_PAGE))] = 50

    @model_validator(mode="after")
    def _offset_must_fit(self) -> "PageQuery":
        if self.page * self.per_page > BIGINT_MAX:
            raise PydanticCustomError("page_too_large", "is too large", {"field": "page"})
        return self
