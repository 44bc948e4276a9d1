"""The SQL of idempotency keys. All of it runs in the transaction of the write that it guards."""

from psycopg2.extensions import cursor
from psycopg2.extras import Json

from user_service.domain.idempotency import KeyedRequest, StoredResponse
from user_service.errors import IdempotencyKeyInFlight, IdempotencyKeyReused

# How many expired keys each keyed write removes: more than one, so that they do not pile up.
REMOVED_PER_WRITE = 10


def begin(cursor: cursor, request: KeyedRequest) -> StoredResponse | None:
    """Return the response that is to be replayed, or None: then the write is to be done.

    Until the transaction ends, a request with the same key raises IdempotencyKeyInFlight. One
    with another route or body raises IdempotencyKeyReused, for as long as the key is kept.
    """
    cursor.execute(
        "SELECT pg_try_advisory_xact_lock(hashtextextended(%(key)s, 0))",
        {"key": f"{request.principal} {request.key}"},
    )
    if cursor.fetchone() != (True,):
        raise IdempotencyKeyInFlight
    # A statement of its own: its snapshot must be younger than the lock.
    return find(cursor, request)


def find(cursor: cursor, request: KeyedRequest) -> StoredResponse | None:
    """Return the response stored for ``request``, or None; raise IdempotencyKeyReused."""
    cursor.execute(
        """
        SELECT route, fingerprint, status, headers, body
        FROM idempotency_keys
        WHERE principal = %(principal)s AND key = %(key)s
            AND created_at > now() - interval '24 hours'
        """,
        request._asdict(),
    )
    row = cursor.fetchone()
    if row is None:
        return None
    route, fingerprint, status, headers, body = row
    if (route, bytes(fingerprint)) != (request.route, request.fingerprint):
        raise IdempotencyKeyReused
    return StoredResponse(status, headers, bytes(body), replayed=True)


def remember(cursor: cursor, request: KeyedRequest, response: StoredResponse) -> None:
    """Store the response, and remove some expired ones."""
    cursor.execute(
        """
        INSERT INTO idempotency_keys (principal, key, route, fingerprint, status, headers, body)
        VALUES (
            %(principal)s, %(key)s, %(route)s, %(fingerprint)s, %(status)s, %(headers)s, %(body)s
        )
        ON CONFLICT (principal, key) DO UPDATE SET
            (route, fingerprint, status, headers, body, created_at)
            = (excluded.route, excluded.fingerprint, excluded.status, excluded.headers,
               excluded.body, now())
        """,
        {**request._asdict(), **response._asdict(), "headers": Json(response.headers)},
    )
    # Last: writes that held keys of others while they wait for their own would deadlock.
    cursor.execute(
        """
        DELETE FROM idempotency_keys WHERE (principal, key) IN (
            SELECT principal, key FROM idempotency_keys
            WHERE created_at <= now() - interval '24 hours'
            ORDER BY created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
        )
        """,
        {"limit": REMOVED_PER_WRITE},
    )
