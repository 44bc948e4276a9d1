"""HTTP: routes, validation, problems. Flask is imported here and in ``app.py`` only."""
