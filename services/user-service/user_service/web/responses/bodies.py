"""What clients get: one model for each body that the service answers with.

Only the OpenAPI document is made of these; no answer is, which would cost time on every request.
The integration tests hold every body that they see against the document, so these are true.
"""

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from user_service import __version__
from user_service.domain.names import EMAIL_MAX_LENGTH, USERNAME_MAX_LENGTH, USERNAME_MIN_LENGTH
from user_service.resilience.breaker import State

_ADA: dict[str, Any] = {
    "id": 1,
    "username": "ada",
    "email": "ada@example.com",
    "created_at": "2026-11-22T19:41:06.123456+00:00",
    "updated_at": "2026-11-22T19:41:06.123456+00:00",
}


class Body(BaseModel):
    """A body that an operation answers with. What may be None, and is by default, may be absent."""

    example: ClassVar[dict[str, Any]]


class User(Body):
    """A user. Names are as they were sent, times are ISO 8601 with the offset from UTC."""

    example = _ADA

    id: int = Field(ge=1, json_schema_extra={"format": "int64"})
    username: str = Field(min_length=USERNAME_MIN_LENGTH, max_length=USERNAME_MAX_LENGTH)
    email: str = Field(max_length=EMAIL_MAX_LENGTH)
    created_at: datetime
    updated_at: datetime


class ListedUser(BaseModel):
    """A user in a list: the members that `fields` asks for, all of them unless it is given."""

    id: int | None = Field(default=None, ge=1, json_schema_extra={"format": "int64"})
    username: str | None = None
    email: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class Pagination(BaseModel):
    """Where in the list a page lies."""

    page: int | None = Field(default=None, ge=1, description="absent on a page by cursor")
    per_page: int = Field(ge=1)
    total: int | None = Field(default=None, ge=0, description="users in the list; see `count`")
    pages: int | None = Field(default=None, ge=0, description="pages of this size; see `count`")
    next_cursor: str | None = Field(description="`cursor` of the next page, null on the last")
    prev_cursor: str | None = Field(description="`cursor` of the page before, null on the first")


class UserPage(Body):
    """A page of a list of users."""

    example = {
        "users": [_ADA],
        "pagination": {
            "page": 1,
            "per_page": 1,
            "total": 2,
            "pages": 2,
            "next_cursor": "YdHFuP7sxBdatjd1ikxvFFsiPiIsMSwxXQ",
            "prev_cursor": None,
        },
    }

    users: list[ListedUser]
    pagination: Pagination


class FieldError(BaseModel):
    """A field at fault, and the rule that it breaks."""

    field: str
    message: str


class Problem(BaseModel):
    """An error (RFC 9457). Programs tell kinds of problems apart by `type`."""

    type: str = Field(description="URI of the kind; `about:blank`: the status says it all")
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    error: str = Field(description="the same as `detail`, for clients of the earlier API")
    request_id: str
    errors: list[FieldError] | None = Field(default=None, description="if fields are at fault")
    violated_policies: list[str] | None = Field(
        default=None, alias="violated-policies", description="with 429: the limits that are used up"
    )
    user: User | None = Field(default=None, description="with 412: the user as it is now")


class Connections(BaseModel):
    """The pool of connections to the database, of the process that answered."""

    size: int = Field(ge=0)
    in_use: int = Field(ge=0)
    waiting: int = Field(ge=0, description="requests that wait for a connection")


class Breakers(BaseModel):
    """Whether the process that answered asks its servers, or waits until they are back."""

    database: State
    redis: State


class ReplicaState(BaseModel):
    """The replica that lists and gets are read from; numbers are of the process that answered."""

    status: Literal["connected", "disconnected"]
    breaker: State
    reads: int = Field(ge=0)
    fallbacks: int = Field(ge=0, description="reads that the primary had to answer")


class Health(Body):
    """The state of the service and of what it depends on."""

    example = {
        "status": "healthy",
        "timestamp": "2026-11-22T19:41:06.123456+00:00",
        "database": "connected",
        "redis": "connected",
        "pool": {"size": 10, "in_use": 0, "waiting": 0},
        "breakers": {"database": "closed", "redis": "closed"},
        "version": __version__,
        "commit": "fb2bbbb",
    }

    status: Literal["healthy", "degraded", "unhealthy"]
    timestamp: datetime
    database: Literal["connected", "disconnected"]
    redis: Literal["connected", "disconnected"]
    pool: Connections
    breakers: Breakers
    replica: ReplicaState | None = Field(default=None, description="if there is one")
    version: str
    commit: str = Field(description="what this was built from, or `unknown`")


class Liveness(Body):
    """The process serves."""

    example = {"status": "alive"}

    status: Literal["alive"]


class Readiness(Body):
    """Whether requests may be sent."""

    example = {"status": "ready"}

    status: Literal["ready", "not ready", "draining"]
