"""Idempotency keys: a client names a write, so that sending it again does it once. Pure.

After the IETF draft "The Idempotency-Key HTTP Header Field" (draft-ietf-httpapi-idempotency-key).
"""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request that its client may repeat: the same key stands for the same route and body."""

    key: str
    route: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """What was answered, or is answered again; ``replayed`` tells which."""

    status: int
    headers: dict[str, str]
    body: bytes
    replayed: bool = False


def fingerprint(*fields: str) -> bytes:
    """Return what tells one body from another, of its fields in order."""
    lengths = ",".join(str(len(field)) for field in fields)
    return hashlib.sha256("\0".join((lengths, *fields)).encode()).digest()
