"""From domain objects to HTTP responses."""
