"""Credentials: JSON Web Tokens of an issuer, and API keys. Neither HTTP nor SQL is known here."""
