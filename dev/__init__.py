"""What developers and tests run on: PostgreSQL and Valkey without Docker, and `make run`."""
