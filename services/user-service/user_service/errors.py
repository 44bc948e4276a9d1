"""What the layers raise to each other. No Flask, no driver: adapters raise these ``from`` theirs.

``web/problems.py`` is the one place that turns them into responses.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from user_service.domain.user import User


class InvalidInput(Exception):
    """The client sent something that breaks a rule; ``errors`` names each field and its rule."""

    def __init__(self, errors: dict[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in errors.items()))
        self.errors = errors


class MalformedBody(Exception):
    """The request body is not one JSON object in UTF-8; the message says what is wrong with it."""


class UserNotFound(Exception):
    """No user has this id."""


class UserExists(Exception):
    """Another user has this username or email, compared in canonical form."""

    def __init__(self, field: str) -> None:
        super().__init__(f"{field} already exists")
        self.field = field


class IdempotencyKeyInFlight(Exception):
    """A request with the same idempotency key is being worked on at this moment."""


class IdempotencyKeyReused(Exception):
    """The idempotency key was used before, for another route or another body."""


class PreconditionFailed(Exception):
    """The user is not in the state that the client's condition names; ``current`` is as it is."""

    def __init__(self, current: "User") -> None:
        super().__init__(f"version {current.version} is current")
        self.current = current


class PreconditionRequired(Exception):
    """The service is set to change a user only for those who send If-Match."""


class RateLimited(Exception):
    """The client has used up ``policy``; its next request passes in ``retry_after`` seconds."""

    def __init__(self, policy: str, retry_after: int) -> None:
        super().__init__(f"{policy} is used up for {retry_after} s")
        self.policy = policy
        self.retry_after = retry_after


class Unavailable(Exception):
    """The service cannot answer now; trying again later may work.

    Nothing was changed, unless it is OutcomeUnknown.
    """


class TransientFailure(Unavailable):
    """Trying again at once may work, and nothing was committed."""


class ConnectionLost(TransientFailure):
    """A server cannot be reached, or was lost in the middle of a request."""


class CircuitOpen(Unavailable):
    """The circuit breaker refuses the call; it will let one through in ``retry_after`` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotPrepared(Unavailable):
    """The database is there, but what has to be done before its first use was refused."""


class LockTimeout(Unavailable):
    """What another transaction has locked did not come free in time."""


class PoolTimeout(Unavailable):
    """No connection came free within the checkout time-out."""


class DeadlineExceeded(Unavailable):
    """The request's time was used up before its work was done."""


class ReplicaUnusable(Exception):
    """The replica is away or behind; the primary is to be read instead."""


class OutcomeUnknown(Unavailable):
    """The connection broke during COMMIT, or whoever wrote for us was told to end.

    The write may have happened, or not.
    """
