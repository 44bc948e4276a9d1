"""The user service, composed: read from top to bottom, this is its whole shape.

``gunicorn -c gunicorn.conf.py app:app`` serves it; ``python app.py`` serves it for development.
"""

from collections.abc import Callable
from functools import partial

from flask import Flask

from user_service.cache.connection import redis_client
from user_service.cache.pages import PageCache
from user_service.cache.store import PageStore
from user_service.database.migrate import migrate
from user_service.database.pool import Database
from user_service.database.probe import DatabaseProbe
from user_service.database.users import UserRepository
from user_service.observability import logs
from user_service.resilience.retry import RetryPolicy
from user_service.settings import Settings, settings_or_exit
from user_service.web import cli, health, users
from user_service.web.conditions import REQUIRE_IF_MATCH
from user_service.web.converters import UserIdConverter
from user_service.web.cors import register_cors
from user_service.web.cursors import Cursors
from user_service.web.hooks import register_hooks
from user_service.web.problems import register_problems
from user_service.web.services import Services, attach, services_of
from user_service.web.validation import MAX_BODY_BYTES


def create_app(settings: Settings) -> Flask:
    """Return the application. It owns one PostgreSQL and one Redis pool; neither connects yet."""
    app = Flask("user_service", static_folder=None)
    # One more: a body without Content-Length is cut here, and then seen to be too long.
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES + 1
    app.config[REQUIRE_IF_MATCH] = settings.require_if_match
    app.debug = settings.flask_env == "development" and __name__ == "__main__"
    attach(app, create_services(settings))
    if settings.traces_exporter is not None:
        services_of(app).stop_tracing = start_tracing(app, settings.traces_exporter)

    app.url_map.converters["user_id"] = UserIdConverter
    # No redirects from "//": their Location would be made of whatever Host the client names.
    app.url_map.merge_slashes = False
    app.register_blueprint(users.blueprint)
    app.register_blueprint(health.blueprint)

    register_hooks(
        app,
        request_timeout=settings.request_timeout,
        retry_policy=RetryPolicy(settings.retry_attempts, settings.retry_delay),
    )
    register_problems(app)
    register_cors(app, settings.allowed_origins)
    app.cli.add_command(cli.users)
    app.cli.command("migrate", help="Apply pending migrations.")(
        lambda: print("\n".join(migrate(settings.database_dsn)) or "nothing to migrate")  # noqa: T201
    )
    return app


def start_tracing(app: Flask, exporter: str) -> Callable[[], None]:
    """Trace ``app`` and return what ends that. Without it, nothing of OpenTelemetry is loaded."""
    from user_service.observability import tracing  # noqa: PLC0415

    logs.identify_spans_by(tracing.current_ids)
    return tracing.start(app, exporter)


def create_services(settings: Settings) -> Services:
    """Return what the routes work with, made for ``settings``."""
    database = Database(
        settings.database_dsn,
        size=settings.db_pool_size,
        checkout_timeout=settings.db_pool_timeout,
        statement_timeout=settings.db_statement_timeout,
        transaction_pooling=settings.db_transaction_pooling,
        prepare=partial(migrate, settings.database_dsn) if settings.migrate_on_start else None,
    )
    repository = UserRepository(database)
    redis = redis_client(settings.redis_dsn, timeout=settings.redis_timeout)
    return Services(
        database=database,
        probe=DatabaseProbe(database.dsn, on_loss=database.discard_idle),
        users=repository,
        pages=PageCache(
            PageStore(redis, ttl=settings.cache_ttl, stale_ttl=settings.cache_stale_ttl)
        ),
        cursors=Cursors(lambda: settings.cursor_key_bytes or repository.cursor_key()),
    )


settings = settings_or_exit()
logs.configure(settings.log_level, settings.log_format)
app = create_app(settings)

if __name__ == "__main__":
    app.run(port=settings.port, threaded=True)
