"""Logs and request ids: what the service tells about itself."""
