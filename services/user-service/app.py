"""The composition of the user service.

``python serve.py`` serves it under gunicorn or granian; ``python app.py`` is for development.
"""

import logging.config
from collections.abc import Callable
from functools import partial

import click
from flask import Flask

from user_service import __version__
from user_service.cache.page_cache import PageCache
from user_service.cache.page_store import BatchingPageStore
from user_service.cache.redis_client import redis_client
from user_service.database.database import Database
from user_service.database.identity import DatabaseIdentity
from user_service.database.migrate import migrate, require_migrated
from user_service.database.replica import SKIP_SECONDS, Replica
from user_service.database.stored_keys import valid_keys
from user_service.database.user_repository import BatchingUserRepository
from user_service.errors import Unavailable
from user_service.observability import logs
from user_service.observability.metrics import Metrics
from user_service.resilience.retry import RetryPolicy
from user_service.security import principal
from user_service.security.api_keys import ApiKeys
from user_service.security.key_set import REFRESH_SECONDS, fetch_key_set, read_key_set
from user_service.security.refreshed_value import RefreshedValue
from user_service.security.tokens import TokenVerifier
from user_service.settings import (
    Settings,
    current_settings,
    log_ignored,
    settings_or_exit,
    warn_of_open_access,
)
from user_service.web import cli
from user_service.web.api import docs, health, metrics_endpoint, users
from user_service.web.api.security_txt import register_security_txt
from user_service.web.fast_path import FastPath
from user_service.web.key_commands import key_commands
from user_service.web.middleware import RequestMiddleware, expect_failures
from user_service.web.policies.access import enforce
from user_service.web.policies.authentication import Authentication
from user_service.web.policies.client_address import Clients
from user_service.web.policies.cors import register_cors
from user_service.web.policies.deprecation import register_deprecations
from user_service.web.policies.rate_limiter import RateLimiter
from user_service.web.policies.rate_limits import register_limits
from user_service.web.policies.timing_header import register_server_timing
from user_service.web.problems import register_problems
from user_service.web.requests.values import UserIdConverter
from user_service.web.responses.cursors import Cursors
from user_service.web.services import Services, attach

log = logging.getLogger("user_service.app")


def create_app(settings: Settings | None = None) -> Flask:
    """Return the application, configured by ``settings`` or by the environment.

    It owns a PostgreSQL pool, another one if there is a replica, and a Redis pool. None connects
    yet.
    """
    current = None
    if settings is None:
        settings = _settings_of_environment()
        current = partial(current_settings, settings)
    app = Flask("user_service", static_folder=None)
    app.debug = settings.flask_env == "development" and __name__ == "__main__"
    try:
        services = create_services(settings, current)
    except (ValueError, Unavailable, OSError) as error:  # a URL, or the folder of the metrics
        raise click.ClickException(str(error)) from error
    attach(app, services)
    if settings.traces_exporter is not None:
        protocol = settings.otel_exporter_otlp_protocol
        start_tracing(app, services, settings.traces_exporter, protocol)

    # Routes are matched whatever Host a client names, also one that is no host name.
    app.config["SERVER_NAME"] = "localhost"
    app.url_map.converters["user_id"] = UserIdConverter
    # A redirect from "//" would repeat any Host that the client names.
    app.url_map.merge_slashes = False
    app.register_blueprint(users.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(metrics_endpoint.blueprint)
    app.register_blueprint(docs.blueprint)
    register_security_txt(app, settings.security_contact)

    if settings.server_timing:
        register_server_timing(app)
    register_limits(
        app,
        Clients(settings.trusted_proxies, settings.rate_limit_subject_header),
        default=settings.rate_limit,
        writes=settings.rate_limit_writes,
    )
    register_problems(app)
    register_cors(app, settings.cors_origins)
    enforce(app, frozenset(settings.auth_public) if settings.authenticates else None)
    register_deprecations(app)
    expect_failures(app, services.metrics)
    app.wsgi_app = RequestMiddleware(  # type: ignore[method-assign]  # as Flask documents it
        app.wsgi_app,
        request_timeout=settings.request_timeout,
        metrics=services.metrics,
        fast_path=FastPath(app, services, tells_place=settings.gateway_pages),
        authentication=services.authentication,
    )
    app.cli.add_command(cli.users)
    app.cli.add_command(key_commands(settings.owner_dsn or settings.database_dsn))
    app.cli.add_command(cli.migrate_command(settings.database_dsn, settings.owner_dsn))
    return app


def start_tracing(app: Flask, services: Services, exporter: str, protocol: str) -> None:
    """Trace ``app`` until ``services`` close. OpenTelemetry is imported only here.

    Without success, the application continues without traces: OTEL_* may be meant for others.
    """
    try:
        from user_service.observability import tracing  # noqa: PLC0415

        services.stop_tracing = tracing.start(app, exporter, protocol, principal.current_name)
        logs.set_span_ids(tracing.current_ids)
    except ImportError as error:
        log.warning(
            "no traces: packages are missing: install requirements-tracing.txt,"
            " or build the image with --build-arg TRACING=on (%s)",
            error,
        )
    except Exception as error:  # noqa: BLE001 -- a variable may have any value, at the import too
        log.warning("no traces: %s", error)


def create_services(settings: Settings, current: Callable[[], Settings] | None = None) -> Services:
    """Return the parts of the application.

    ``current`` returns the settings as they are now: a file may hold another password.
    """
    current = current or (lambda: settings)
    metrics = Metrics(settings.prometheus_multiproc_dir)
    metrics.set_build_info(__version__, settings.git_commit)
    new_database = partial(
        Database,
        size=settings.db_pool_size,
        checkout_timeout=settings.db_pool_timeout,
        statement_timeout=settings.db_statement_timeout,
        transaction_pooling=settings.db_transaction_pooling,
        metrics=metrics,
    )
    database = new_database(
        settings.database_dsn,
        prepare=lambda: prepare_database(current()),
        current_dsn=lambda: current().database_dsn,
    )
    identity = DatabaseIdentity(database)
    replica, replica_dsn = None, settings.replica_dsn
    if replica_dsn is not None:
        replica = Replica(
            new_database(
                replica_dsn,
                current_dsn=lambda: current().replica_dsn or replica_dsn,
                name="replica",
                open_seconds=SKIP_SECONDS,
            ),
            identity,
        )
    repository = BatchingUserRepository(database, replica)
    redis = redis_client(
        settings.redis_dsn,
        timeout=settings.redis_timeout,
        current_url=lambda: current().redis_dsn,
    )
    store = BatchingPageStore(
        redis,
        identity,
        ttl=settings.cache_ttl,
        stale_ttl=settings.cache_stale_ttl,
        prefix=settings.redis_prefix,
        metrics=metrics,
    )
    rate_limiter = None
    if settings.rate_limit or settings.rate_limit_writes:
        rate_limiter = RateLimiter(
            redis, store.breaker, prefix=settings.redis_prefix, database=identity.name
        )
    pages = PageCache(
        store, current_lsn=repository.current_lsn if replica else None, metrics=metrics
    )
    database.on_late_answer = pages.invalidate
    return Services(
        database=database,
        users=repository,
        pages=pages,
        rate_limiter=rate_limiter,
        cursors=Cursors(lambda: settings.cursor_key_bytes or repository.cursor_key()),
        metrics=metrics,
        retry_policy=RetryPolicy(
            settings.retry_attempts, settings.retry_delay, on_end=metrics.count_retry
        ),
        git_commit=settings.git_commit,
        require_if_match=settings.require_if_match,
        replica=replica,
        authentication=create_authentication(settings, database),
    )


def prepare_database(settings: Settings) -> None:
    """Apply the pending migrations, or raise Unavailable while another process is to do that."""
    if settings.migrate_on_start:
        migrate(settings.database_dsn, owner_dsn=settings.owner_dsn)
    else:
        require_migrated(settings.database_dsn)


def create_authentication(settings: Settings, database: Database) -> Authentication | None:
    """Return the authentication that ``settings`` ask for; None for none."""
    if not settings.authenticates:
        return None
    api_keys = ApiKeys(partial(valid_keys, database)) if settings.auth_api_keys else None
    return Authentication(_token_verifier(settings), api_keys)


def _token_verifier(settings: Settings) -> TokenVerifier | None:
    if settings.auth_issuer is None or settings.auth_audience is None:
        return None
    if settings.auth_jwks_file is not None:
        read = partial(read_key_set, settings.auth_jwks_file)
    else:
        read = partial(fetch_key_set, settings.auth_issuer, settings.auth_jwks_url)
    max_stale = settings.auth_jwks_max_stale
    keys = RefreshedValue(
        "the issuer's keys",
        partial(read, settings.auth_algorithms),
        refresh_after=min(REFRESH_SECONDS, max_stale / 2),
        wait_after=max_stale,
        keep=max_stale,
    )
    return TokenVerifier(
        keys,
        issuer=settings.auth_issuer,
        audience=settings.auth_audience,
        scope_claims=settings.auth_scope_claim,
        leeway=settings.auth_leeway,
    )


def _settings_of_environment() -> Settings:
    settings = settings_or_exit()
    # A command of `flask`, which click runs, prints its result to standard output.
    stream = "stdout" if click.get_current_context(silent=True) is None else "stderr"
    logging.config.dictConfig(logs.logging_config(settings.log_level, settings.log_format, stream))
    log_ignored()
    return settings


if __name__ == "__main__":
    settings = _settings_of_environment()
    warn_of_open_access(settings)
    click.echo(f"user service: http://127.0.0.1:{settings.port}  (Ctrl-C stops it)")
    create_app(settings).run(port=settings.port, threaded=True)
