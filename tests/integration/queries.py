"""The results of statements on a cursor."""

from typing import Any

from psycopg2.extensions import cursor


def rows(cursor: cursor, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Run ``statement`` and return its rows."""
    cursor.execute(statement, parameters or None)
    return cursor.fetchall()


def value(cursor: cursor, statement: str, *parameters: object) -> Any:
    """Run ``statement`` and return the one value of its one row."""
    ((found,),) = rows(cursor, statement, *parameters)
    return found
