-- A restore and a session of another schema have another search_path. The trigger finds the table
-- of its own schema regardless.

DO $$ BEGIN
    EXECUTE format(
        'ALTER FUNCTION count_users() SET search_path = %s',
        (SELECT pronamespace::regnamespace FROM pg_proc WHERE oid = 'count_users'::regproc)
    );
END $$;
