"""Idempotency keys: a client names a write, and a repeated request with the name has no effect.

After the IETF draft "The Idempotency-Key HTTP Header Field" (draft-ietf-httpapi-idempotency-key).
"""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A write with an idempotency key, which stands for one route and one body."""

    key: str
    route: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """The response to a keyed request; ``replayed`` tells whether an earlier request made it."""

    status: int
    headers: dict[str, str]
    body: bytes
    replayed: bool = False


def fingerprint(*fields: str) -> bytes:
    """Return a digest that is equal only for bodies with the same ``fields`` in the same order."""
    lengths = ",".join(str(len(field)) for field in fields)
    return hashlib.sha256("\0".join((lengths, *fields)).encode()).digest()
