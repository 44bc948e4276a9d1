"""Deadlines and retries: what keeps one fault from becoming many. No driver, no Flask."""
