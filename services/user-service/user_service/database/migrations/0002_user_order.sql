-- What lists are sorted and filtered by has an index; usernames and addresses have theirs already.
-- Ties are broken by id, so that every user has one place in a list. While these are built on a
-- large table, writes wait and reads go on.

CREATE INDEX users_created_at_key ON users (created_at, id);
CREATE INDEX users_updated_at_key ON users (updated_at, id);
