"""The principal: the authenticated caller of the current request.

The middleware establishes it before anything else. Views, rate limits and the log read it here.
"""

from contextvars import ContextVar
from typing import NamedTuple

from user_service.errors import InsufficientScope, Unauthenticated, Unavailable


class Principal(NamedTuple):
    """An authenticated caller and its scopes.

    ``name`` identifies it in logs, limits and idempotency keys. It is no personal data: the name
    of an API key, or a digest of a token's issuer and subject.
    """

    name: str
    scopes: frozenset[str]


# An error is the reason for which there is no principal. Routes that need one raise it.
Caller = Principal | Unauthenticated | Unavailable

_current: ContextVar[Caller | None] = ContextVar("principal", default=None)


def begin(caller: Caller) -> None:
    """Make ``caller`` that of the request that begins."""
    _current.set(caller)


def clear() -> None:
    """Forget the caller at the end of the request."""
    _current.set(None)


def current_name() -> str:
    """Return the name of the principal; nothing for an unauthenticated request."""
    caller = _current.get()
    return caller.name if isinstance(caller, Principal) else ""


def has_any(*scopes: str) -> bool:
    """Tell whether the caller has one of ``scopes``, or all callers are trusted."""
    caller = _current.get()
    return caller is None or (
        isinstance(caller, Principal) and not caller.scopes.isdisjoint(scopes)
    )


def require(scope: str) -> None:
    """Return if the principal has ``scope``.

    Raise Unauthenticated or Unavailable without a principal, and InsufficientScope otherwise.
    """
    caller = _current.get()
    if not isinstance(caller, Principal):
        raise caller or Unauthenticated
    if scope not in caller.scopes:
        raise InsufficientScope(scope)
