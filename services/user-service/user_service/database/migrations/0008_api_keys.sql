-- API keys: of a secret only its SHA-256 digest is kept. A name may be given again after its key was
-- revoked. The days of last use are a table of their own: the service may change no key.

CREATE TABLE api_keys (
    prefix text COLLATE "C" PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz
);

CREATE UNIQUE INDEX api_keys_name_key ON api_keys (name) WHERE revoked_at IS NULL;

CREATE TABLE api_key_uses (
    prefix text COLLATE "C" PRIMARY KEY REFERENCES api_keys ON DELETE CASCADE,
    last_used_on date NOT NULL
);
