-- Reports names from before that are refused by now; they stay as they are. These are addresses whose
-- canonical form has other punctuation, and usernames whose canonical form is too long or has nothing
-- to see: only spaces, combining marks and blanks. `flask users check` lists them.

DO $$
DECLARE
    refused bigint;
BEGIN
    WITH names AS (
        SELECT username_canonical, form[1] AS local_part, form[2] AS domain,
               canonical[1] AS canonical_local_part, canonical[2] AS canonical_domain
        FROM users,
             regexp_match(email, '^(.*)@(.*)$') AS form,
             regexp_match(email_canonical, '^(.*)@(.*)$') AS canonical
    )
    SELECT count(*) INTO refused
    FROM names
    WHERE regexp_replace(local_part, '[^!-/:-@[-`{-~]', '', 'g')
            <> regexp_replace(canonical_local_part, '[^!-/:-@[-`{-~]', '', 'g')
        OR regexp_replace(domain, '[^.]', '', 'g')
            <> regexp_replace(canonical_domain, '[^.]', '', 'g')
        OR char_length(username_canonical) > 50
        OR username_canonical ~ '^[\s\u2800\ufffc\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff'
                                '\u20d0-\u20ff\u3099\u309a\ufe20-\ufe2f]+$';
    IF refused > 0 THEN
        RAISE WARNING '% users have names that would be refused by now: flask users check lists them',
            refused;
    END IF;
END $$;
