"""The service with one route more for each of its layers: that layer, and then a constant."""

import os
from pathlib import Path

import orjson
from flask import Response

from app import app
from user_service.users import User
from user_service.web.representation import members_of
from user_service.web.services import services

BODY = Path(os.environ["CONSTANT_BODY"]).read_bytes()
PAGE_SIZE = 10
USERS: list[User] = []


def constant() -> Response:
    return Response(BODY, mimetype="application/json")


@app.get("/layers/hooks")
def hooks() -> Response:
    return constant()


@app.get("/layers/redis")
def redis() -> Response:
    services().pages.get_or_produce("layers", lambda: BODY)
    return constant()


@app.get("/layers/sql-user")
def sql_user() -> Response:
    services().users.get(1)
    return constant()


@app.get("/layers/sql-page")
def sql_page() -> Response:
    services().users.page(0, PAGE_SIZE)
    return constant()


@app.get("/layers/json-page")
def json_page() -> Response:
    if not USERS:
        USERS.extend(services().users.page(0, PAGE_SIZE).users)
    orjson.dumps({"users": [members_of(user) for user in USERS]})
    return constant()
