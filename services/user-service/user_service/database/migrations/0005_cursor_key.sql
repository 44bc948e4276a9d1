-- The key that signs cursors where CURSOR_KEY is not set. It is made once, here, so that all
-- replicas share it without a setting. 244 bits of it are random.

CREATE TABLE cursor_key (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    key bytea NOT NULL DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
);
INSERT INTO cursor_key DEFAULT VALUES;
