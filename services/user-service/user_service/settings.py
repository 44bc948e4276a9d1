"""The environment, read once into ``Settings``. Nothing else in the service reads it."""

import os
import re
import sys
from importlib.util import find_spec
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PostgresDsn,
    RedisDsn,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR"],
    BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value),
]


def _origins(text: str) -> str:
    for origin in text.split(","):
        if origin.strip() != "*" and not _ORIGIN.fullmatch(origin.strip()):
            raise ValueError("must be origins: scheme, host and port, without a path")
    return text


# As browsers send it (RFC 6454, section 6.1): in small letters, without a default port or a path.
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")
CorsOrigins = Annotated[str, AfterValidator(_origins)]


def _limit(text: str) -> str:
    if not _LIMIT.fullmatch(text):
        raise ValueError("must be a number, a slash and second, minute, hour or day")
    return text


# Up to ten thousand million: Redis counts in Lua's numbers, which are exact far beyond that.
_LIMIT = re.compile(r"[1-9][0-9]{0,9}/(second|minute|hour|day)", re.ASCII)
RateLimit = Annotated[str, AfterValidator(_limit)]


def _networks(text: str) -> str:
    for network in text.split(","):
        try:
            ip_network(network.strip())
        except ValueError:
            raise ValueError("must be addresses, or networks without host bits") from None
    return text


Networks = Annotated[str, AfterValidator(_networks)]


# The schemes are those of `limits`; RedisDsn knows one server only.
_REDIS_HOST = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"
_REDIS_PORT = r"(?:[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])"
_REDIS_HOSTS = rf"{_REDIS_HOST}(?::{_REDIS_PORT})?(?:,{_REDIS_HOST}(?::{_REDIS_PORT})?)*"
# SQLAlchemy's forms are not libpq's, whose complaint about a stray "%" quotes the password.
_TakenByLibpq = Annotated[str, Field(pattern=r"^postgres(ql)?://([^%]|%[0-9A-Fa-f]{2})*$")]
_REDIS_FORMS = re.compile(
    rf"rediss?\+sentinel://(?:[^@/?#\s]*@)?{_REDIS_HOSTS}/[^/?#\s]+(?:/\d{{1,3}})?(?:\?[^#\s]*)?"
    rf"|rediss?\+cluster://(?:[^@/?#\s]*@)?{_REDIS_HOSTS}(?:/0?)?(?:\?[^#\s]*)?"
    r"|unix://(?:[^@/?#\s]*@)?/[^?#\s]+(?:\?[^#\s]*)?"
)


class InvalidSettings(Exception):
    """The environment cannot be used; the message is one line that names each variable."""


class Settings(BaseSettings):
    """Every setting of the service: the field's name in capitals is the environment variable.

    Times are in seconds. A field's description says what the variable takes; the README's
    configuration table is made of these fields, and a test holds the two together.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    port: int = Field(default=5000, ge=1, le=65535, description="TCP port to serve on")
    server: Literal["gunicorn", "granian"] = Field(
        default="gunicorn", description="`gunicorn` or `granian`: which server runs the service"
    )
    web_concurrency: int = Field(default=2, ge=1, le=256, description="worker processes")
    flask_env: Literal["production", "development"] = Field(
        default="production",
        description="`development` turns debug on, and only under `python app.py`",
    )
    log_level: LogLevel = Field(default="INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`")
    log_format: Literal["text", "json"] = Field(default="text", description="`text` or `json`")

    database_url: SecretStr | None = Field(
        default=None,
        description="PostgreSQL URL; takes precedence over the five `DB_*` parts below",
    )
    db_host: str = Field(default="localhost", description="host name, address or socket folder")
    db_port: int = Field(default=5432, ge=1, le=65535, description="port")
    db_name: str = Field(default="users", description="database")
    db_user: str = Field(default="users", description="role")
    db_password: SecretStr | None = Field(default=None, description="password of the role")
    db_pool_size: int = Field(
        default=10, ge=1, le=1000, description="connections per worker process"
    )
    db_pool_timeout: float = Field(
        default=2.0, gt=0, le=60, description="seconds a request waits for a connection, then 503"
    )
    db_statement_timeout: float = Field(
        default=3.0, gt=0, le=600, description="seconds after which PostgreSQL cancels a statement"
    )
    db_transaction_pooling: bool = Field(
        default=False,
        description="`true` behind PgBouncer in transaction mode: settings go with transactions",
    )
    database_replica_url: SecretStr | None = Field(
        default=None, description="PostgreSQL URL of a replica that lists and gets are read from"
    )
    migrate_on_start: bool = Field(
        default=True,
        description="apply pending migrations before the first connection is used;"
        " if not, answer 503 until somebody has",
    )

    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis URL, also of Sentinel or a Cluster (see below); takes precedence over"
        " the two parts below",
    )
    redis_host: str = Field(default="localhost", description="host name or address")
    redis_port: int = Field(default=6379, ge=1, le=65535, description="port")
    redis_timeout: float = Field(
        default=0.05,
        gt=0,
        le=5,
        description="seconds for connecting to Redis, and for each command",
    )
    cache_ttl: int = Field(
        default=60, ge=1, le=86400, description="seconds for which a page is served from the cache"
    )

    cache_stale_ttl: int = Field(
        default=300,
        ge=0,
        le=604800,
        description="seconds a page may still be served when it cannot be read anew; 0 for never",
    )

    cursor_key: SecretStr | None = Field(
        default=None,
        description="any text, to sign cursors with; unset, a random key in the database does",
    )
    require_if_match: bool = Field(
        default=False,
        description="refuse PUT, PATCH and DELETE without `If-Match` (428)",
    )
    cors_origins: CorsOrigins | None = Field(
        default=None,
        description="origins whose scripts may call, like `https://app.example.com`,"
        " separated by commas; or `*`",
    )
    rate_limit: RateLimit | None = Field(
        default=None,
        description="requests that a client may make, like `600/minute`; unset, there is no limit",
    )
    rate_limit_writes: RateLimit | None = Field(
        default=None,
        description="the same for POST, PUT, PATCH and DELETE, which are then counted separately",
    )
    rate_limit_subject_header: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$",
        description="header in which a trusted proxy that authenticates clients names them,"
        " like `X-Authenticated-Subject`",
    )
    trusted_proxies: Networks | None = Field(
        default=None,
        description="addresses and networks whose `X-Forwarded-For` is believed,"
        " like `10.0.0.0/8`, separated by commas",
    )
    security_contact: str | None = Field(
        default=None,
        pattern=r"^(https://|mailto:|tel:)[!-~]+$",
        description="URI for reports of vulnerabilities, like `mailto:security@example.com`;"
        " served in `/.well-known/security.txt`",
    )
    request_timeout: float = Field(
        default=5.0, gt=0, le=600, description="seconds within which a request is answered"
    )
    drain_delay: float = Field(
        default=1.0,
        ge=0,
        le=60,
        description="seconds between readiness saying no and the end of listening, at a stop",
    )
    retry_attempts: int = Field(
        default=2, ge=0, le=10, description="times a transient failure is tried again"
    )
    retry_delay: float = Field(
        default=0.5,
        ge=0,
        le=60,
        description="seconds; before retry n a random time up to this x 2^(n-1)",
    )

    server_timing: bool = Field(
        default=False, description="tell in `Server-Timing` where the time of each response went"
    )
    prometheus_multiproc_dir: Path | None = Field(
        default=None,
        description="folder that the worker processes share for their metrics;"
        " unset, the server makes one in memory",
    )
    git_commit: str = Field(
        default="unknown",
        pattern=r"^[\w.-]{1,64}$",
        description="what `/health` and `build_info` say it was built from; the image has it",
    )

    otel_traces_exporter: Literal["otlp", "console", "none"] | None = Field(
        default=None, description="`otlp`, `console` or `none`: where traces go, if anywhere"
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        default=None, description="URL of a collector of traces; switches tracing on by itself"
    )
    otel_exporter_otlp_traces_endpoint: str | None = Field(
        default=None, description="the same, with the path for traces in it"
    )
    otel_exporter_otlp_protocol: Literal["http/protobuf"] = Field(
        default="http/protobuf", description="`http/protobuf`, the one that is installed"
    )
    otel_sdk_disabled: bool = Field(
        default=False, description="no tracing, whatever the others say"
    )

    @field_validator("database_url", "database_replica_url")
    @classmethod
    def _is_postgres_url(cls, url: SecretStr | None) -> SecretStr | None:
        example = "postgresql://user:password@host:5432/database"
        return _checked_url(url, example, PostgresDsn, _TakenByLibpq)

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and _REDIS_FORMS.fullmatch(url.get_secret_value()):
            return url
        return _checked_url(
            url,
            "redis://:password@host:6379/0, redis+sentinel://host:26379,host:26379/service/0"
            " or redis+cluster://host:6379,host:6379",
            RedisDsn,
        )

    @classmethod
    def from_environment(cls) -> Self:
        """Read the environment; raise InvalidSettings with one line if it cannot be used."""
        try:
            settings = cls()
        except ValidationError as error:
            raise InvalidSettings(_one_line(cls, error)) from None
        if settings.traces_exporter is not None and not _can_trace():
            raise InvalidSettings(
                "OTEL_* asks for traces, for which packages are missing: install"
                " requirements-tracing.txt, or build the image with --build-arg TRACING=on"
            )
        return settings

    @property
    def traces_exporter(self) -> Literal["otlp", "console"] | None:
        """Where traces go; None for no tracing."""
        endpoint = self.otel_exporter_otlp_traces_endpoint or self.otel_exporter_otlp_endpoint
        exporter = self.otel_traces_exporter or ("otlp" if endpoint else "none")
        return None if self.otel_sdk_disabled or exporter == "none" else exporter

    @property
    def database_dsn(self) -> str:
        """The PostgreSQL connection URL. It holds the password: never log it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        password = self.db_password.get_secret_value() if self.db_password else ""
        user = quote(self.db_user, safe="") + (f":{quote(password, safe='')}" if password else "")
        host = quote(self.db_host, safe="")
        return f"postgresql://{user}@{host}:{self.db_port}/{quote(self.db_name, safe='')}"

    @property
    def cursor_key_bytes(self) -> bytes | None:
        """The key for cursors, if one was given."""
        return None if self.cursor_key is None else self.cursor_key.get_secret_value().encode()

    @property
    def allowed_origins(self) -> frozenset[str]:
        """The origins of CORS_ORIGINS."""
        return (
            frozenset(map(str.strip, self.cors_origins.split(",")))
            if self.cors_origins
            else frozenset()
        )

    @property
    def proxy_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks of TRUSTED_PROXIES."""
        networks = self.trusted_proxies.split(",") if self.trusted_proxies else ()
        return tuple(ip_network(network.strip()) for network in networks)

    @property
    def redis_dsn(self) -> str:
        """The Redis connection URL. It may hold a password: never log it."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        return f"redis://{host}:{self.redis_port}/0"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- the signature is given
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, then variables, then the files that ``NAME_FILE`` variables name."""
        return init_settings, env_settings, _SecretFiles(settings_cls)


class _SecretFiles(PydanticBaseSettingsSource):
    """For each secret ``NAME``: the content of the file that the variable ``NAME_FILE`` names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        path = os.environ.get(f"{field_name.upper()}_FILE")
        if not path or SecretStr not in getattr(field.annotation, "__args__", ()):
            return None, field_name, False
        try:
            secret = Path(path).read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise InvalidSettings(
                f"{field_name.upper()}_FILE must name a readable file: {reason}"
            ) from None
        return secret or None, field_name, False  # an empty file is like an empty variable

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        values = {name: self.get_field_value(field, name)[0] for name, field in fields.items()}
        return {name: value for name, value in values.items() if value is not None}


def _can_trace() -> bool:
    wanted = ("sdk", "exporter.otlp.proto.http", *(f"instrumentation.{it}" for it in _TRACED))
    try:
        return all(find_spec(f"opentelemetry.{name}") for name in wanted)
    except ModuleNotFoundError:  # of a parent
        return False


_TRACED = ("flask", "psycopg2", "redis")


def _checked_url(url: SecretStr | None, example: str, *kinds: Any) -> SecretStr | None:  # noqa: ANN401
    if url is not None:
        try:
            for kind in kinds:
                TypeAdapter(kind).validate_python(url.get_secret_value())
        except ValidationError:
            # Nothing of what was given: it may hold a password.
            raise ValueError(f"must be a URL like {example}") from None
    return url


def settings_or_exit() -> Settings:
    """Return the environment's settings, or end the process with one line that says what to do."""
    try:
        return Settings.from_environment()
    except InvalidSettings as error:
        sys.exit(f"user-service: {error}")


class Launch(BaseSettings):
    """What ``serve.py`` tells the server that it starts; nothing, if another program starts it.

    ``launcher_pid`` is the process of ``serve.py``. The server drains as soon as ``drain_file``
    exists.
    """

    model_config = SettingsConfigDict(frozen=True, env_prefix="USER_SERVICE_")

    launcher_pid: int | None = None
    drain_file: Path | None = None

    def is_draining(self) -> bool:
        """Tell whether the server is about to stop."""
        return self.drain_file is not None and self.drain_file.exists()

    def environment(self, metrics: Path) -> dict[str, str]:
        """Return the environment of the server, whose processes share ``metrics``."""
        told = {f"USER_SERVICE_{name.upper()}": str(value) for name, value in self if value}
        return {**os.environ, **told, "PROMETHEUS_MULTIPROC_DIR": str(metrics)}


def _one_line(settings: type[Settings], error: ValidationError) -> str:
    complaints = []
    for fault in error.errors(include_input=False, include_url=False):
        name = str(fault["loc"][0])
        description = settings.model_fields[name].description
        complaints.append(
            f"{name.upper()}: {fault['msg'].removeprefix('Value error, ')} ({description})"
        )
    return "; ".join(complaints)
