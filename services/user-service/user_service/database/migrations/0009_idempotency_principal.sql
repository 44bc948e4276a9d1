-- An idempotency key belongs to the principal that chose it. Rows from before have none, like all
-- requests while authentication is off.

ALTER TABLE idempotency_keys
    ADD COLUMN principal text COLLATE "C" NOT NULL DEFAULT '',
    DROP CONSTRAINT idempotency_keys_pkey,
    ADD PRIMARY KEY (principal, key);
