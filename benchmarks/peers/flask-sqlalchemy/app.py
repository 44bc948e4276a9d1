"""The user service on Flask-SQLAlchemy and Flask-Smorest, composed."""

import os

import orjson
import users
from flask import Flask, Response
from flask.json.provider import JSONProvider
from models import db
from observed import observe
from pages import Pages
from problems import ProblemApi
from redis import Redis


class OrjsonProvider(JSONProvider):
    """JSON by orjson."""

    def dumps(self, obj: object, **_: object) -> str:
        """Return ``obj`` as JSON."""
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **_: object) -> object:
        """Return what the JSON in ``s`` says."""
        return orjson.loads(s)

    def response(self, *args: object, **kwargs: object) -> Response:
        """Return a response of the JSON bytes as they are."""
        document = self._prepare_response_obj(args, kwargs)
        return self._app.response_class(orjson.dumps(document), mimetype="application/json")


def create_app() -> Flask:
    """Return the application."""
    app = Flask(__name__, static_folder=None)
    app.json = OrjsonProvider(app)
    url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1)
    app.config.update(
        API_TITLE="Users",
        API_VERSION="v1",
        OPENAPI_VERSION="3.1.0",
        SQLALCHEMY_DATABASE_URI=url,
        # Each write is one statement: autocommit saves BEGIN and COMMIT, a round trip each.
        SQLALCHEMY_ENGINE_OPTIONS={
            "pool_size": 10,
            "max_overflow": 0,
            "isolation_level": "AUTOCOMMIT",
        },
    )
    app.extensions["pages"] = Pages(Redis.from_url(os.environ["REDIS_URL"]))
    db.init_app(app)
    observe(app)
    ProblemApi(app).register_blueprint(users.blueprint)
    app.add_url_rule("/health/live", "live", lambda: {"status": "alive"})
    return app


app = create_app()
