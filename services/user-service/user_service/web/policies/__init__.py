"""Rules that apply to many routes."""
