"""Pure functions and types: users, names, times, positions in lists, idempotency and API keys."""
