"""The one Django application: users."""
