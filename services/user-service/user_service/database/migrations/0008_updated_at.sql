-- A user's updated_at increases with its version, whoever changes it. A trigger dates the change:
-- it runs once the row is locked, while the values of the statement may be older than its wait.

CREATE OR REPLACE FUNCTION move_user_version_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    NEW.updated_at := greatest(
        clock_timestamp(), NEW.updated_at, OLD.updated_at + interval '1 microsecond'
    );
    RETURN NEW;
END $$;
