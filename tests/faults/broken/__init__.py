"""Builds of the service with one mistake each, which the history checker must find."""
