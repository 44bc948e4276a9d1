"""The mistake: whatever the replica has is good enough, however far behind it is."""

from psycopg2.extensions import cursor

from app import create_app
from user_service.database import replica

__all__ = ["app"]

app = create_app()


def require_nothing(lsn: int, cursor: cursor) -> None:
    pass


replica._require = require_nothing
