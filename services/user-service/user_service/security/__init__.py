"""Credentials: JSON Web Tokens of an issuer, and API keys. Flask and SQL are unknown here."""
