-- Reports how many stored names are refused now; they stay as they are. It looks for addresses whose
-- canonical form has other punctuation or spaces, and for usernames whose canonical form is too long,
-- begins or ends with a space, or has only spaces, common combining marks and blanks.

DO $$
DECLARE
    refused bigint;
BEGIN
    WITH names AS (
        SELECT username_canonical, form[1] AS local_part, form[2] AS domain,
               canonical[1] AS canonical_local_part, canonical[2] AS canonical_domain
        FROM users,
             regexp_match(email COLLATE "C", '^(.*)@(.*)$') AS form,
             regexp_match(email_canonical COLLATE "C", '^(.*)@(.*)$') AS canonical
        -- A name in ASCII breaks no new rule: its canonical form is its lower case.
        WHERE octet_length(email) > char_length(email)
            OR octet_length(username) > char_length(username)
    )
    SELECT count(*) INTO refused
    FROM names
    WHERE regexp_replace(local_part, '[^ -/:-@[-`{-~]', '', 'g')
            <> regexp_replace(canonical_local_part, '[^ -/:-@[-`{-~]', '', 'g')
        OR regexp_replace(domain, '[^.]', '', 'g')
            <> regexp_replace(canonical_domain, '[^.]', '', 'g')
        OR char_length(username_canonical) > 50
        OR username_canonical ~ '^ | $'
        OR username_canonical ~ '^[\s\u2800\ufffc\U0001d159\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff'
                                '\u20d0-\u20ff\u3099\u309a\ufe20-\ufe2f]+$';
    IF refused > 0 THEN
        RAISE WARNING 'at least % users have names that are refused now: flask users check lists them',
            refused;
    END IF;
END $$;
