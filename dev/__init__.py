"""PostgreSQL and Valkey without Docker, for `make run` and for the tests."""
