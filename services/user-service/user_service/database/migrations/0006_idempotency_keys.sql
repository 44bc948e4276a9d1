-- The responses to keyed writes, kept so that a repeated request gets the same response.
-- The index finds expired keys.

CREATE TABLE idempotency_keys (
    key text COLLATE "C" PRIMARY KEY,
    route text NOT NULL,
    fingerprint bytea NOT NULL,
    status smallint NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);
