"""HTTP, and the commands of operators. Flask is imported here and in ``app.py`` only."""
