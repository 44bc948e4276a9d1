-- Lists are sorted and filtered by indexed columns; usernames and addresses have indexes already.
-- Ties are broken by id, so that every user has one place in a list. While these indexes are built
-- on a large table, writes wait and reads go on.

CREATE INDEX users_created_at_key ON users (created_at, id);
CREATE INDEX users_updated_at_key ON users (updated_at, id);
