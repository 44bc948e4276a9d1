"""Verifies API keys against those of the database, which each process reads every few seconds."""

import hmac
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from user_service.domain.api_key import ApiKey, prefix_and_digest
from user_service.errors import Unauthenticated
from user_service.resilience.background import in_background
from user_service.security.principal import Principal
from user_service.security.refreshed_value import RefreshedValue

# Seconds after which a revocation has reached every process, while the database answers.
REVOCATION_SECONDS = 5.0
# Seconds for which the last keys stand without the database: as long as cached pages by default.
KEEP_SECONDS = 300.0

# Returns the valid keys by prefix. The argument has the prefixes whose use today is not stored yet.
ReadKeys = Callable[[frozenset[str]], Mapping[str, ApiKey]]


class ApiKeys:
    """Turns API keys into principals. Unknown keys cost no statement, however many are tried."""

    def __init__(self, read: ReadKeys) -> None:
        self._read = read
        self._used: set[str] = set()
        self.keys = RefreshedValue(
            "API keys",
            self._read_all,
            refresh_after=REVOCATION_SECONDS / 2,
            wait_after=REVOCATION_SECONDS,
            keep=KEEP_SECONDS,
        )

    def principal(self, key: str) -> Principal:
        """Return the principal; raise Unauthenticated, or Unavailable if no keys can be read."""
        parts, keys = prefix_and_digest(key), self.keys.get()
        known = None if parts is None else keys.get(parts[0])
        # Compared in constant time, so that the time tells nothing of the digest.
        if parts is None or known is None or not hmac.compare_digest(known.digest, parts[1]):
            raise Unauthenticated("the API key is not valid")
        now = datetime.now(UTC)
        if known.expires_at is not None and known.expires_at <= now:
            raise Unauthenticated("the API key has expired")
        if known.last_used_on != now.date():
            if not self._used:
                in_background(self._store_uses)
            self._used.add(known.prefix)
        return Principal(f"key:{known.name}", known.scopes)

    def _store_uses(self) -> None:
        # The next request, which would read the keys too, may come on another day, or never.
        time.sleep(REVOCATION_SECONDS / 2)
        self.keys.refresh()

    def _read_all(self) -> Mapping[str, ApiKey]:
        used = frozenset(self._used)
        keys = self._read(used)
        self._used -= used
        return keys
