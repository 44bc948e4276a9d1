"""A user service: paginated CRUD over PostgreSQL with a page cache in Redis.

``app.py``, beside this package, composes what lies in here.
"""

__version__ = "1.1.0"
