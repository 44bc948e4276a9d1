"""The settings, read from the environment. No other module of the service reads it."""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    IPvAnyAddress,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

log = logging.getLogger(__name__)

Network = IPv4Network | IPv6Network

_PORT = r"(?:[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])"
# As browsers send it (RFC 6454, section 6.1): lower case, without a path or a default port.
_ORIGIN = re.compile(
    rf"\*|(?!https:.*:443$|http:.*:80$)https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:{_PORT})?"
)
_HOST = r"(?:[^@/?#\[\]:,\s]+|\[[0-9A-Fa-f:.]+(?:%25[\w.-]+)?\])"
_HOST_ALONE = r"^([\w.-]+|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(%[\w.-]+)?)$"
_SERVERS = rf"{_HOST}(?::{_PORT})?(?:,{_HOST}(?::{_PORT})?)*"
_SERVER_OR_DEFAULT = rf"{_HOST}?(?::{_PORT})?"
_LOGIN = r"(?:[^@/?#]*@)?"
# The schemes of several servers are those of `limits`.
_REDIS_URL = re.compile(
    rf"(?:rediss?://{_LOGIN}{_SERVER_OR_DEFAULT}(?:/\d{{0,4}})?"
    rf"|rediss?\+sentinel://{_LOGIN}{_SERVERS}/[^/?#\s]+(?:/\d{{1,3}})?"
    rf"|rediss?\+cluster://{_LOGIN}{_SERVERS}(?:/0?)?|unix://{_LOGIN}/[^?#\s]+)(?:\?[^#\s]*)?"
)
# What libpq accepts. PostgresDsn refuses a URL whose host is a parameter, and IPv6 addresses with a
# zone. SQLAlchemy's schemes are not libpq's, which also repeats a password with a stray "%".
_POSTGRES_URL = re.compile(
    rf"(?!.*%(?![0-9A-Fa-f]{{2}}))postgres(?:ql)?://{_LOGIN}"
    rf"{_SERVER_OR_DEFAULT}(?:,{_SERVER_OR_DEFAULT})*(?:/[^?#]*)?(?:\?[^#]*)?"
)
# One "@" before the path, behind a user and a password without special characters; or none but in
# the query of a URL with a path. libpq and redis-py would split a password at any other one, and
# repeat a part of it in their messages.
_ENCODED = re.compile(
    r"(?=[ -~]+$)[a-z+]+://(?:[^@/?#\[\]]*@[^@/?#]*(?:[/?].*)?"
    r"|[^@/?#]*(?:/[^@?#]*(?:\?.*)?|\?[^@]*)?)"
)


def _listed(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _origins(origins: frozenset[str]) -> frozenset[str]:
    if not all(map(_ORIGIN.fullmatch, origins)):
        raise ValueError("must be origins: scheme and host, and a port that is no default")
    return origins


def _networks(names: Iterable[object]) -> tuple[Network, ...]:
    try:
        networks = tuple(ip_network(str(name)) for name in names)
    except ValueError:
        raise ValueError("must be addresses, or networks without host bits") from None
    if any(getattr(each.network_address, "ipv4_mapped", None) for each in networks):
        raise ValueError("must have IPv4 networks in their own form, not mapped to IPv6")
    return networks


def _url(example: str, form: re.Pattern[str]) -> AfterValidator:
    """Return the check of a URL, whose message repeats nothing: it may contain a password."""

    def check(url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            text = url.get_secret_value()
            if not (_ENCODED.fullmatch(text) and form.fullmatch(text)):
                raise ValueError(f"must be a URL like {example}, with a percent-encoded password")
        return url

    return AfterValidator(check)


LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)]
PostgresUrl = Annotated[
    SecretStr | None, _url("postgresql://user:password@host:5432/database", _POSTGRES_URL)
]
RedisUrl = Annotated[
    SecretStr | None,
    _url(
        "redis://:password@host:6379/0, redis+sentinel://host:26379,host:26379/service/0"
        " or redis+cluster://host:6379,host:6379",
        _REDIS_URL,
    ),
]
# Lists with commas. ``enable_decoding`` would expect JSON.
Origins = Annotated[frozenset[str], BeforeValidator(_listed), AfterValidator(_origins)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_networks), BeforeValidator(_listed)]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "Ed25519"
]
Algorithms = Annotated[tuple[Algorithm, ...], BeforeValidator(_listed), Field(min_length=1)]
Claim = Annotated[str, Field(pattern=r"^[!-~]+$")]
Claims = Annotated[tuple[Claim, ...], BeforeValidator(_listed)]
PublicPart = Literal["docs", "openapi", "metrics", "health", "none"]
PublicParts = Annotated[tuple[PublicPart, ...], BeforeValidator(_listed)]
# Keys must come from the issuer itself: without TLS only on this machine. The URL holds no secret.
KeySourceUrl = Annotated[
    str, Field(pattern=r"^(https://|http://(localhost|127\.0\.0\.1|\[::1\])[:/])[!-?A-~]+$")
]
# Up to ten digits: the numbers of Lua, with which Redis counts, are exact far beyond that.
RateLimit = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,9}/(second|minute|hour|day)$")]
# A value that is no boolean means false, as in OpenTelemetry.
Lenient = Annotated[
    bool, BeforeValidator(lambda value: str(value).lower() in ("true", "1", "on", "yes"))
]


class Settings(BaseSettings):
    """All settings. The environment variable of a field is its name in capitals.

    The string below a field describes it in error messages and in docs/configuration.md.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        env_ignore_empty=True,
        enable_decoding=False,
        use_attribute_docstrings=True,
        str_max_length=100_000,  # which also makes Pydantic refuse text that is not UTF-8
    )

    host: IPvAnyAddress = Field(default=IPv4Address("0.0.0.0"))
    """Address to listen on: `127.0.0.1` for this machine only, `::` for IPv6 and IPv4"""
    port: int = Field(default=5000, ge=1, le=65535)
    """TCP port to listen on"""
    server: Literal["gunicorn", "granian"] = "gunicorn"
    """Server that runs the service: `gunicorn` or `granian`"""
    web_concurrency: int = Field(default=2, ge=1, le=256)
    """Number of worker processes"""
    flask_env: Literal["production", "development"] = "production"
    """`development` turns debug mode on, and only under `python app.py`"""
    log_level: LogLevel = "INFO"
    """Lowest level to log: `DEBUG`, `INFO`, `WARNING` or `ERROR`"""
    log_format: Literal["text", "json"] = "text"
    """Format of the log: `text` or `json`"""

    database_url: PostgresUrl = None
    """PostgreSQL URL; overrides `DB_HOST`, `DB_PORT`, `DB_NAME`, `DB_USER` and `DB_PASSWORD`"""
    database_owner_url: PostgresUrl = None
    """PostgreSQL URL of the role that owns the tables: migrations run as it"""
    db_host: str = "localhost"
    """Host name, address or socket folder of PostgreSQL"""
    db_port: int = Field(default=5432, ge=1, le=65535)
    """Port of PostgreSQL"""
    db_name: str = "users"
    """Name of the database"""
    db_user: str = "users"
    """Role to connect as"""
    db_password: SecretStr | None = None
    """Password of the role"""
    db_pool_size: int = Field(default=10, ge=1, le=1000)
    """Database connections per worker process"""
    db_pool_timeout: float = Field(default=2.0, gt=0, le=60)
    """Seconds that a request waits for a database connection before a 503"""
    db_statement_timeout: float = Field(default=3.0, gt=0, le=600)
    """Seconds after which PostgreSQL cancels a statement"""
    db_transaction_pooling: bool = False
    """`true` behind PgBouncer in transaction mode: each transaction carries its settings"""
    database_replica_url: PostgresUrl = None
    """PostgreSQL URL of a replica from which lists and single users are read"""
    migrate_on_start: bool = True
    """Apply pending migrations before the first request; `false`: answer 503 until applied"""

    redis_url: RedisUrl = None
    """Redis URL, also of Sentinel or a Cluster; overrides `REDIS_HOST` and `REDIS_PORT`"""
    redis_host: str = Field(default="localhost", pattern=_HOST_ALONE)
    """Host name or address of Redis"""
    redis_port: int = Field(default=6379, ge=1, le=65535)
    """Port of Redis"""
    redis_prefix: str = Field(default="users", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """Beginning of all keys in Redis"""
    redis_timeout: float = Field(default=0.05, gt=0, le=5)
    """Seconds to connect to Redis, and seconds for each command"""
    cache_ttl: int = Field(default=60, ge=1, le=86400)
    """Seconds for which a page is served from the cache"""
    cache_stale_ttl: int = Field(default=300, ge=0, le=604800)
    """Age in seconds up to which a page is served if it cannot be read anew; 0 for never"""

    cursor_key: SecretStr | None = None
    """Any text, with which cursors are signed; by default a random key in the database"""
    require_if_match: bool = False
    """Refuse PUT, PATCH and DELETE without `If-Match` (428)"""
    cors_origins: Origins = frozenset()
    """Origins that may call the API, such as `https://app.example.com,https://b.example`; or `*`"""
    rate_limit: RateLimit | None = None
    """Requests that a client may send, such as `600/minute`; unlimited by default"""
    rate_limit_writes: RateLimit | None = None
    """The same for POST, PUT, PATCH and DELETE, which then count separately"""
    rate_limit_subject_header: str | None = Field(
        default=None, pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$"
    )
    """Header in which a trusted proxy names the client, such as `X-Authenticated-Subject`"""
    trusted_proxies: Networks = ()
    """Addresses and networks whose `X-Forwarded-For` is trusted, such as `10.0.0.0/8,192.0.2.1`"""
    auth_issuer: KeySourceUrl | None = None
    """Issuer of the JSON Web Tokens that callers send; turns authentication on"""
    auth_audience: str | None = None
    """Audience that a token must name; needed with `AUTH_ISSUER`"""
    auth_jwks_url: KeySourceUrl | None = None
    """URL of the issuer's key set; by default the one in its `/.well-known/openid-configuration`"""
    auth_jwks_file: Path | None = None
    """File with the issuer's key set, which is then not fetched"""
    auth_jwks_max_stale: int = Field(default=3600, ge=60, le=604800)
    """Seconds for which the last key set is used while the issuer is unavailable"""
    auth_algorithms: Algorithms = ("RS256", "ES256", "Ed25519")
    """Algorithms of signatures; a key without `alg` gets the first that fits it"""
    auth_scope_claim: Claims = ("scope", "scp")
    """Claims that may hold the scopes of a token; the first that is there counts"""
    auth_leeway: int = Field(default=30, ge=0, le=300)
    """Seconds by which the clocks of the issuer and of the service may differ"""
    auth_api_keys: bool = False
    """Accept the API keys that `flask --app app keys create` makes; turns authentication on"""
    auth_public: PublicParts = ("docs", "openapi")
    """Parts open to all: `docs`, `openapi`, `metrics` and `health` (its details), or `none`"""
    security_contact: str | None = Field(default=None, pattern=r"^(https://|mailto:|tel:)[!-~]+$")
    """URI for vulnerability reports in `security.txt`, such as `mailto:security@example.com`"""
    request_timeout: float = Field(default=5.0, gt=0, le=600)
    """Seconds within which a request is answered"""
    drain_delay: float = Field(default=1.0, ge=0, le=60)
    """Seconds at a stop between the failing readiness check and the end of listening"""
    retry_attempts: int = Field(default=2, ge=0, le=10)
    """Number of retries after a transient failure"""
    retry_delay: float = Field(default=0.5, ge=0, le=60)
    """Seconds; the pause before retry n is random, at most this times 2^(n-1)"""

    gateway_pages: bool = False
    """Let the gateway serve cached pages: pages tell it their place in Redis (`X-Page-Place`)"""
    server_timing: bool = False
    """Report the stages of each response in `Server-Timing`"""
    prometheus_multiproc_dir: Path | None = None
    """Folder for the metrics of all worker processes; by default the server creates one"""
    git_commit: str = Field(default="unknown", pattern=r"^[\w.-]{1,64}$")
    """Commit that the service was built from, shown by `/health`; the image sets it"""

    otel_traces_exporter: str | None = None
    """Where traces go: `otlp`, `console` or `none`"""
    otel_exporter_otlp_endpoint: str | None = None
    """URL of a collector of traces; turns tracing on"""
    otel_exporter_otlp_traces_endpoint: str | None = None
    """The same, including the path for traces"""
    otel_exporter_otlp_protocol: str = "http/protobuf"
    """Protocol of the collector; only `http/protobuf` is installed"""
    otel_sdk_disabled: Lenient = False
    """Turn tracing off, whatever the other variables contain"""

    @property
    def authenticates(self) -> bool:
        """Whether callers must authenticate."""
        return self.auth_issuer is not None or self.auth_api_keys

    @property
    def traces_exporter(self) -> str | None:
        """Where traces go, in the unchecked words of OTEL_*; None for no tracing."""
        endpoint = self.otel_exporter_otlp_traces_endpoint or self.otel_exporter_otlp_endpoint
        exporter = self.otel_traces_exporter or ("otlp" if endpoint else "none")
        return None if self.otel_sdk_disabled or exporter == "none" else exporter

    @property
    def database_dsn(self) -> str:
        """The PostgreSQL URL. It contains the password: never log it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        password = self.db_password.get_secret_value() if self.db_password else ""
        user = quote(self.db_user, safe="") + (f":{quote(password, safe='')}" if password else "")
        host = quote(self.db_host, safe="")
        return f"postgresql://{user}@{host}:{self.db_port}/{quote(self.db_name, safe='')}"

    @property
    def owner_dsn(self) -> str | None:
        """The URL of the owner, if it is set. It contains the password: never log it."""
        url = self.database_owner_url
        return None if url is None else url.get_secret_value()

    @property
    def replica_dsn(self) -> str | None:
        """The URL of the replica, if there is one. It contains the password: never log it."""
        url = self.database_replica_url
        return None if url is None else url.get_secret_value()

    @property
    def redis_dsn(self) -> str:
        """The Redis URL. It may contain a password: never log it."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        host = self.redis_host.replace("%", "%25")
        host = f"[{host}]" if ":" in host else host
        return f"redis://{host}:{self.redis_port}/0"

    @property
    def cursor_key_bytes(self) -> bytes | None:
        """The bytes of CURSOR_KEY, if it is set."""
        return None if self.cursor_key is None else self.cursor_key.get_secret_value().encode()


_SECRETS = [
    field.upper()
    for field, info in Settings.model_fields.items()
    if SecretStr in (info.annotation, *get_args(info.annotation))
]


def load_settings() -> Settings:
    """Return the settings, or raise InvalidSettings."""
    try:
        settings = Settings(**_secrets_of_files())
    except ValidationError as error:
        raise InvalidSettings("; ".join(_complaints(error))) from None
    _check_authentication(settings)
    return settings


def settings_or_exit(load: Callable[[], Settings] = load_settings) -> Settings:
    """Return the settings, or end the process with one line that names the invalid variables."""
    try:
        return load()
    except InvalidSettings as error:
        sys.exit(f"user-service: {error}")


def warn_of_open_access(settings: Settings) -> None:
    """Log that authentication is off, if it is: once, not in each process."""
    if not settings.authenticates:
        log.warning("authentication is off: every caller may read and change users")


def log_ignored() -> None:
    """Log each variable without effect. ``serve.py`` does not pass these on to its server."""
    for name in _ignored_files():
        log.warning("%s is ignored, because %s is set too", name, name.removesuffix("_FILE"))


def current_settings(known: Settings) -> Settings:
    """Return the settings with the present content of secret files; ``known`` if it is invalid."""
    try:
        return load_settings()
    except InvalidSettings:  # as while a file is being replaced
        log.warning("a secret file is unreadable or invalid, its former content stays in use")
        return known


class InvalidSettings(Exception):
    """The environment is invalid; the message is one line that names each variable."""


def _secrets_of_files() -> dict[str, Any]:
    """Return for each secret ``NAME`` the content of the file that ``NAME_FILE`` names."""
    secrets = {}
    for name in _SECRETS:
        path = os.environ.get(f"{name}_FILE")
        if not path or os.environ.get(name):
            continue
        try:
            secrets[name.lower()] = Path(path).read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise InvalidSettings(f"{name}_FILE must name a readable file: {reason}") from None
    return {field: text for field, text in secrets.items() if text}  # empty means unset


def _check_authentication(settings: Settings) -> None:
    """Refuse half of a configuration, and settings that contradict each other."""
    if settings.auth_issuer and not settings.auth_audience:
        raise InvalidSettings("AUTH_AUDIENCE: is needed with AUTH_ISSUER")
    for name in ("auth_audience", "auth_jwks_url", "auth_jwks_file"):
        if getattr(settings, name) and not settings.auth_issuer:
            raise InvalidSettings(f"AUTH_ISSUER: is needed with {name.upper()}")
    if settings.auth_jwks_url and settings.auth_jwks_file:
        raise InvalidSettings("AUTH_JWKS_URL: has no effect beside AUTH_JWKS_FILE")
    if "none" in settings.auth_public and set(settings.auth_public) != {"none"}:
        raise InvalidSettings("AUTH_PUBLIC: `none` stands alone")


def _ignored_files() -> list[str]:
    files = [f"{name}_FILE" for name in _SECRETS if os.environ.get(name)]
    return [name for name in files if os.environ.get(name)]


def _complaints(error: ValidationError) -> Iterator[str]:
    for fault in error.errors(include_input=False, include_url=False):
        name = str(fault["loc"][0])
        message = fault["msg"].removeprefix("Value error, ")
        yield f"{name.upper()}: {message} ({Settings.model_fields[name].description})"


def share_no_metrics() -> None:
    """Keep the metrics of this process to itself; prometheus_client reads this at its import."""
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)


class Launch(BaseSettings):
    """What ``serve.py`` tells the server that it starts; nothing, if another program starts it.

    ``launcher_pid`` is the process of ``serve.py``. The server drains as soon as ``drain_file``
    exists. ``gunicorn_options`` are more arguments of gunicorn, which reads them itself.
    """

    model_config = SettingsConfigDict(frozen=True, env_prefix="USER_SERVICE_")

    launcher_pid: int | None = None
    drain_file: Path | None = None
    gunicorn_options: str = Field(default="", validation_alias="GUNICORN_CMD_ARGS")

    def is_draining(self) -> bool:
        """Tell whether the server is about to stop."""
        return self.drain_file is not None and self.drain_file.exists()

    def environment(self, metrics: Path) -> dict[str, str]:
        """Return the environment of the server, whose processes share ``metrics``.

        It runs in another folder, as this process does from then on, so the paths of secrets become
        absolute, here too. It lacks the variables that ``log_ignored`` has reported.
        """
        told = {f"USER_SERVICE_{name.upper()}": str(value) for name, value in self if value}
        files = {
            name: str(Path(value).absolute())
            for name, value in os.environ.items()
            if name.endswith("_FILE") and value
        }
        os.environ.update(files)
        unused = dict.fromkeys(_ignored_files(), "")
        metrics_of_all = {"PROMETHEUS_MULTIPROC_DIR": str(metrics)}
        return {**os.environ, **unused, **told, **metrics_of_all}
