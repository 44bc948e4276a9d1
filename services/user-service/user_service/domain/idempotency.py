"""Idempotency keys: a client names a write, and a repeated request with the name has no effect.

After the IETF draft "The Idempotency-Key HTTP Header Field" (draft-ietf-httpapi-idempotency-key).
"""

import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple


class KeyedRequest(NamedTuple):
    """A write with an idempotency key, which stands for one route and one body of a principal."""

    key: str
    route: str
    fingerprint: bytes
    principal: str = ""


class StoredResponse(NamedTuple):
    """The response to a keyed request; ``replayed`` tells whether an earlier request made it."""

    status: int
    headers: dict[str, str]
    body: bytes
    replayed: bool = False


def fingerprint(members: Mapping[str, object]) -> bytes:
    """Return a digest that is equal only for bodies with the same ``members``."""
    return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).digest()
