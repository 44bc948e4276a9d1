"""The OpenAPI document, derived from the routes."""
