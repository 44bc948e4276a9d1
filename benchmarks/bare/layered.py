"""The service with one route more for each of its layers: that layer, and then a constant."""

import itertools
import os
from pathlib import Path

from flask import Response

from app import create_app
from user_service.web.requests.schemas import ListQuery
from user_service.web.responses.pages import page_entry
from user_service.web.services import services

app = create_app()
BODY = Path(os.environ["CONSTANT_BODY"]).read_bytes()
QUERY = ListQuery.model_validate({"per_page": "10"})
NUMBERS = itertools.count()


def constant() -> Response:
    return Response(BODY, mimetype="application/json")


@app.get("/layers/middleware")
def middleware() -> Response:
    return constant()


@app.get("/layers/redis")
def redis() -> Response:
    services().pages.get_or_produce("layers", lambda _: BODY)
    return constant()


@app.get("/layers/redis-miss")
def redis_miss() -> Response:
    services().pages.get_or_produce(f"layers-{next(NUMBERS)}", lambda _: BODY)
    return constant()


@app.get("/layers/sql-user")
def sql_user() -> Response:
    services().users.get(1)
    return constant()


@app.get("/layers/sql-page")
def sql_page() -> Response:
    services().users.page(0, QUERY.per_page)
    return constant()


@app.get("/layers/page")
def page() -> Response:
    page_entry(QUERY, None)
    return constant()
