-- Both triggers of users. The count is that of the schema of the table, whatever it is called by now:
-- a restore, and a session of another schema, have another search_path.

CREATE OR REPLACE FUNCTION count_users() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    difference bigint;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        EXECUTE format('UPDATE %I.users_count SET number = 0 WHERE number <> 0', TG_TABLE_SCHEMA);
        RETURN NULL;
    END IF;
    SELECT CASE TG_OP WHEN 'INSERT' THEN count(*) ELSE -count(*) END INTO difference FROM changed;
    IF difference <> 0 THEN
        EXECUTE format(
            'UPDATE %I.users_count SET number = number + $1 WHERE slot = pg_backend_pid() %% 64',
            TG_TABLE_SCHEMA
        ) USING difference;
    END IF;
    RETURN NULL;
END $$;

-- A user's updated_at increases with its version, whoever changes it. The trigger dates the change:
-- it runs once the row is locked, while the values of the statement may be older than its wait.
CREATE OR REPLACE FUNCTION move_user_version_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    NEW.updated_at := greatest(
        clock_timestamp(), NEW.updated_at, OLD.updated_at + interval '1 microsecond'
    );
    RETURN NEW;
END $$;
