"""The functions called for one request are counted on the whole application."""

from contextlib import closing

import psycopg2
from flask import Flask
from werkzeug.test import Client

from benchmarks.calls import LIMITS, STORED, counts
from benchmarks.stand import POPULATE


def test_every_kind_of_request_is_counted(app: Flask, database_url: str) -> None:
    with closing(psycopg2.connect(database_url)) as connection, connection:
        connection.cursor().execute(POPULATE, (STORED,))
    counted = counts(Client(app))
    assert counted.keys() >= LIMITS.keys()
    assert 0 < counted["cached page"].calls < counted["uncached page"].calls
    assert all(0 < count.files <= count.calls for count in counted.values())
