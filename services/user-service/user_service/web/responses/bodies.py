"""The bodies of responses. They are built as these types, and the OpenAPI document shows them.

A member that is not required is absent where it has no value.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypeAliasType, TypedDict

from user_service.domain.user import MEMBER_TYPES
from user_service.resilience.breaker import State

Count = Annotated[int, Field(ge=0)]
# Enumerations with a name of their own in the document.
HealthStatus = TypeAliasType("HealthStatus", Literal["healthy", "degraded", "unhealthy"])
ConnectionStatus = TypeAliasType("ConnectionStatus", Literal["connected", "disconnected"])
_NAMES = {"x-enum-varnames": ["ready", "not_ready", "draining"]}
ReadinessStatus = TypeAliasType(
    "ReadinessStatus",
    Annotated[Literal["ready", "not ready", "draining"], Field(json_schema_extra=_NAMES)],
)

if TYPE_CHECKING:
    User = dict[str, object]
    ListedUser = User
else:  # a type checker cannot read members from a dictionary
    User = TypedDict("User", MEMBER_TYPES)
    User.__doc__ = "A user. Names are as they were sent, times have their offset from UTC."
    ListedUser = TypedDict("ListedUser", MEMBER_TYPES, total=False)
    ListedUser.__doc__ = "A user in a list: the members that `fields` asks for, by default all."


class Pagination(TypedDict):
    """Where in the list a page lies."""

    page: NotRequired[Annotated[int, Field(ge=1, description="absent on a page by cursor")]]
    per_page: Annotated[int, Field(ge=1)]
    total: NotRequired[Annotated[Count, Field(description="users in the list; see `count`")]]
    pages: NotRequired[Annotated[Count, Field(description="pages of this size; see `count`")]]
    next_cursor: Annotated[
        str | None, Field(description="`cursor` of the next page, null on the last")
    ]
    prev_cursor: Annotated[
        str | None, Field(description="`cursor` of the previous page, null on the first")
    ]


class UserPage(TypedDict):
    """A page of a list of users."""

    users: list[ListedUser]
    pagination: Pagination


class FieldError(TypedDict):
    """A field at fault, and the rule that it breaks."""

    field: str
    message: str


# Members with a hyphen need the functional form.
_ViolatedPolicies = TypedDict(
    "_ViolatedPolicies",
    {
        "violated-policies": NotRequired[
            Annotated[list[str], Field(description="with 429: the limits that are used up")]
        ]
    },
)


class Problem(_ViolatedPolicies):
    """An error (RFC 9457). Programs tell kinds of problems apart by `type`."""

    type: Annotated[
        str, Field(description="URI of the kind; `about:blank`: the status says everything")
    ]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    error: Annotated[str, Field(description="the same as `detail`, for clients of the earlier API")]
    request_id: str
    errors: NotRequired[Annotated[list[FieldError], Field(description="if fields are at fault")]]
    user: NotRequired[Annotated[User, Field(description="with 412: the user as it is now")]]


class Connections(TypedDict):
    """The pool of connections to the database, of the process that answered."""

    size: Count
    in_use: Count
    waiting: Annotated[Count, Field(description="requests that wait for a connection")]


class Breakers(TypedDict):
    """The circuit breakers of the process that answered."""

    database: State
    redis: State


class ReplicaState(TypedDict):
    """The replica that lists and gets are read from; numbers are of the process that answered."""

    status: ConnectionStatus
    breaker: State
    reads: Count
    fallbacks: Annotated[Count, Field(description="reads that the primary had to answer")]


class Health(TypedDict):
    """The state of the service and of its dependencies."""

    status: HealthStatus
    timestamp: datetime
    database: ConnectionStatus
    redis: ConnectionStatus
    pool: Connections
    breakers: Breakers
    replica: NotRequired[Annotated[ReplicaState, Field(description="if there is one")]]
    version: str
    commit: Annotated[str, Field(description="the commit of the build, or `unknown`")]


class Liveness(TypedDict):
    """The process serves."""

    status: Literal["alive"]


class Readiness(TypedDict):
    """Whether requests may be sent."""

    status: ReadinessStatus
