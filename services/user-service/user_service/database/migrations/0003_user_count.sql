-- The exact number of users without counting them: the sum of these slots, kept by a trigger in the
-- transaction of each write. The slots are 64 because a write holds its slot until it is committed:
-- with one for all, every writer would wait for every other.

CREATE TABLE users_count (
    slot smallint PRIMARY KEY,
    number bigint NOT NULL
) WITH (fillfactor = 10);  -- room on each page for old row versions until they are pruned

CREATE FUNCTION count_users() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    difference bigint;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        UPDATE users_count SET number = 0 WHERE number <> 0;
        RETURN NULL;
    END IF;
    SELECT CASE TG_OP WHEN 'INSERT' THEN count(*) ELSE -count(*) END INTO difference FROM changed;
    IF difference <> 0 THEN
        UPDATE users_count SET number = number + difference WHERE slot = pg_backend_pid() % 64;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER count_inserted AFTER INSERT ON users REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_users();
CREATE TRIGGER count_deleted AFTER DELETE ON users REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_users();
CREATE TRIGGER count_truncated AFTER TRUNCATE ON users
    FOR EACH STATEMENT EXECUTE FUNCTION count_users();

-- The triggers have locked out other writers until the end of this transaction.
INSERT INTO users_count SELECT slot, 0 FROM generate_series(0, 63) AS slot;
UPDATE users_count SET number = (SELECT count(*) FROM users) WHERE slot = 0;
