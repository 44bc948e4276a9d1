"""Pure functions and types: users, canonical names, positions in lists, idempotency keys."""
