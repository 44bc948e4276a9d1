"""API keys: their form, and the facts that the service keeps of each of them.

``usk_1f0c9a7be2d4_<secret>``: the prefix is public and finds the key; of the secret, which has 256
random bits, only the SHA-256 digest is kept.
"""

import hashlib
import re
import secrets
from datetime import date, datetime
from typing import NamedTuple

MARK = "usk_"
_FORM = re.compile(rf"{MARK}([0-9a-f]{{12}})_([A-Za-z0-9_-]{{43}})")


class ApiKey(NamedTuple):
    """A key as it is stored. ``name`` is the operator's; it appears in the log."""

    prefix: str
    name: str
    digest: bytes
    scopes: frozenset[str]
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_on: date | None = None


def new_key(name: str, scopes: frozenset[str], expires_at: datetime | None) -> tuple[str, ApiKey]:
    """Return a random key, and what is stored of it."""
    prefix, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    stored = ApiKey(prefix, name, _digest(secret), scopes, expires_at=expires_at)
    return f"{MARK}{prefix}_{secret}", stored


def prefix_and_digest(key: str) -> tuple[str, bytes] | None:
    """Return the public prefix of ``key`` and the digest of its secret; None in another form."""
    match = _FORM.fullmatch(key)
    return None if match is None else (match[1], _digest(match[2]))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
