"""The user: the one declaration of its members.

The columns in SQL, the models of requests and responses, the OpenAPI document, the fingerprints of
idempotency keys and the names of cached pages follow from it.
"""

import inspect
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple, get_type_hints

from pydantic import Field

from user_service.domain import names
from user_service.domain.times import Time

BIGINT_MAX = 2**63 - 1  # of PostgreSQL's type, which ids have
_SET_BY_THE_SERVICE = "set by the service; `PUT` and `PATCH` accept only the current value"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class User(NamedTuple):
    """One row of ``users``: its columns have the names of the members.

    Each annotation has the rule for what clients send, and the description for the OpenAPI
    document. ``version``, which clients do not see, counts the changes of a user from 1.
    """

    id: Annotated[int, Field(ge=1, le=BIGINT_MAX, description=_SET_BY_THE_SERVICE)]
    username: Annotated[
        names.Username,
        Field(
            description=f"{names.USERNAME_MIN_LENGTH} to {names.USERNAME_MAX_LENGTH} visible"
            " characters after trimming; unique by canonical form, so `Ada` and `ada` are the same",
            examples=["ada"],
        ),
    ]
    email: Annotated[
        names.Email,
        Field(
            description=f"at most {names.EMAIL_MAX_LENGTH} characters; unique by canonical form",
            examples=["ada@example.com"],
        ),
    ]
    created_at: Annotated[Time, Field(description=_SET_BY_THE_SERVICE)]
    updated_at: Annotated[Time, Field(description=_SET_BY_THE_SERVICE)]
    version: int = 1

    @property
    def revision(self) -> str:
        """A text that belongs to this state alone.

        A database that was restored from a dump counts its versions again, up from the dump's. The
        time tells the states of both histories apart.
        """
        microseconds = (self.updated_at - _EPOCH) // timedelta(microseconds=1)
        return f"{self.id}-{self.version}-{microseconds:x}"


# The members that clients see, in their order, with their annotations.
MEMBER_TYPES: dict[str, Any] = get_type_hints(User, include_extras=True)
del MEMBER_TYPES["version"]
USER_MEMBERS = tuple(MEMBER_TYPES)

# The members that the database sets, and those that clients do.
READ_ONLY_MEMBERS = ("id", "created_at", "updated_at")
WRITABLE_MEMBERS = tuple(name for name in USER_MEMBERS if name not in READ_ONLY_MEMBERS)
# The defaults by name. Clients may leave out the members that have one.
MEMBER_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(User).parameters.items()
    if parameter.default is not parameter.empty
}
