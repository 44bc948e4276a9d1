-- The version of a user, which its ETag contains. A trigger moves it on, not the service's own
-- statements: a change made by hand, or by a release from before this column, counts too.

ALTER TABLE users ADD COLUMN version bigint NOT NULL DEFAULT 1;

CREATE FUNCTION move_user_version_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    RETURN NEW;
END $$;

CREATE TRIGGER move_version_on BEFORE UPDATE ON users
    FOR EACH ROW EXECUTE FUNCTION move_user_version_on();
