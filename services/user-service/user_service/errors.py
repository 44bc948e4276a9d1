"""The exceptions of the service, without Flask or drivers.

Adapters raise them ``from`` the exceptions of drivers. ``web/problems.py`` alone turns them into
problems.
"""

from user_service.domain.user import User


class InvalidInput(Exception):
    """The request breaks a rule; ``errors`` maps each invalid field to its rule."""

    def __init__(self, errors: dict[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in errors.items()))
        self.errors = errors


class MalformedBody(Exception):
    """The request body is not one JSON object in UTF-8; the message names the fault."""


class UnsupportedBody(Exception):
    """The body's media type or coding is not supported; ``headers`` name those that are."""

    def __init__(self, detail: str, headers: dict[str, str]) -> None:
        super().__init__(detail)
        self.headers = headers


class UserNotFound(Exception):
    """No user has this id."""


class NothingChanged(Exception):
    """The user has the values of the change already; ``current`` is its state."""

    def __init__(self, current: User) -> None:
        super().__init__("the user has these values already")
        self.current = current


class UserExists(Exception):
    """Another user has this username or email, compared in canonical form."""

    def __init__(self, field: str) -> None:
        super().__init__(f"{field} already exists")
        self.field = field


class IdempotencyKeyInFlight(Exception):
    """Another request with the same idempotency key is in progress."""


class IdempotencyKeyReused(Exception):
    """The idempotency key was used before with another route or body."""


class PreconditionFailed(Exception):
    """The user does not meet the condition of the request; ``current`` is its present state."""

    def __init__(self, current: User) -> None:
        super().__init__(f"{current.revision} is current")
        self.current = current


class PreconditionRequired(Exception):
    """The service is configured to refuse changes without If-Match."""


class Unauthenticated(Exception):
    """The request has no valid credential. The message is the fault of the one that it has."""


class InsufficientScope(Exception):
    """The principal lacks ``scope``."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"the scope {scope} is needed")
        self.scope = scope


class RateLimited(Exception):
    """The client has exceeded ``policy``; its next request passes in ``retry_after`` seconds."""

    def __init__(self, policy: str, retry_after: int) -> None:
        super().__init__(f"{policy} is used up for {retry_after} s")
        self.policy = policy
        self.retry_after = retry_after


class Unavailable(Exception):
    """The service cannot answer now; a later attempt may succeed.

    Nothing was changed, except possibly with OutcomeUnknown.
    """


class TransientFailure(Unavailable):
    """A retry may succeed, and nothing was committed."""


class ConnectionLost(TransientFailure):
    """No connection can be made, or the server or the network has ended one."""


class CircuitOpen(Unavailable):
    """The circuit breaker refuses the call; it admits the next one in ``retry_after`` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotPrepared(Unavailable):
    """The database answers, but refused its preparation, such as a migration."""


class PoolTimeout(Unavailable):
    """No connection came free within the checkout time-out."""


class DeadlineExceeded(Unavailable):
    """The time of the request ended before its work did."""


class ReplicaUnusable(Unavailable):
    """The replica lags, or does not follow the primary, which must be read instead."""


class OutcomeUnknown(Unavailable):
    """The connection or the deadline ended during a write: it may have happened, or not."""
