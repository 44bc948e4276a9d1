"""Deadlines, retries, breakers and waits, so that one fault stays one. No driver, no Flask."""
