-- Usernames and addresses are kept as they were sent and are unique in canonical form, which the
-- service computes (domain/names.py). COLLATE "C" compares these columns byte by byte.

CREATE TABLE users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    username text NOT NULL CHECK (char_length(username) BETWEEN 3 AND 50),
    username_canonical text COLLATE "C" NOT NULL CONSTRAINT users_username_key UNIQUE,
    email text NOT NULL CHECK (char_length(email) BETWEEN 3 AND 255),
    email_canonical text COLLATE "C" NOT NULL CONSTRAINT users_email_key UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
