"""The environment: files for secrets, and one line for invalid values."""

import os
from ipaddress import ip_network
from pathlib import Path

import pytest
from psycopg2.extensions import parse_dsn

from user_service.settings import Settings, settings_or_exit

SECRETS = ["DATABASE_URL", "DATABASE_REPLICA_URL", "DB_PASSWORD", "REDIS_URL", "CURSOR_KEY"]
SECRET = "hunter2"
NO_URL = [
    *(SECRET, f"http://users:{SECRET}@host/", f"//users:{SECRET}@host/", f":{SECRET}@host"),
    *(f"users:{SECRET}@host:5432/users", f"{SECRET}://users@host/"),
]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset all variables that the service reads."""
    ours = {name.upper() for name in Settings.model_fields}
    for name in list(os.environ):
        if name.upper().removesuffix("_FILE") in ours:
            monkeypatch.delenv(name)


def complaint(**variables: str) -> str:
    """Return the one line that refuses ``variables``."""
    with pytest.raises(SystemExit) as raised:
        read(**variables)
    program, _, message = str(raised.value).partition(": ")
    assert program == "user-service"
    assert len(message.splitlines()) == 1
    return message


def read(**variables: str) -> Settings:
    """Return the settings of an environment with ``variables``."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in variables.items():
            environment.setenv(name, value)
        return settings_or_exit()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("DB_POOL_SIZE", "7", 7),
        ("SERVER_TIMING", "on", True),
        ("SERVER_TIMING", "false", False),
        ("LOG_LEVEL", "Info", "INFO"),
        ("CORS_ORIGINS", "*", {"*"}),
        (
            "CORS_ORIGINS",
            "https://a.example, http://[::1]:80",
            {"https://a.example", "http://[::1]:80"},
        ),
        (
            "TRUSTED_PROXIES",
            "10.0.0.0/8, 192.0.2.1,2001:db8::/32",
            tuple(map(ip_network, ("10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"))),
        ),
    ],
)
def test_variable_has_the_name_of_the_field_in_capitals(
    name: str, text: str, value: object
) -> None:
    settings = read(**{name: text})
    assert getattr(settings, name.lower()) == value
    assert Settings.model_validate(settings.model_dump()) == settings


@pytest.mark.parametrize("name", Settings.model_fields)
def test_empty_variable_means_unset(name: str) -> None:
    assert getattr(read(**{name.upper(): ""}), name) == Settings.model_fields[name].default


class TestMalformed:
    @pytest.mark.parametrize(
        ("name", "value", "takes"),
        [
            ("PORT", "http", "TCP port to listen on"),
            ("PORT", "0", "greater than or equal to 1"),
            ("PORT", "65536", "less than or equal to 65535"),
            ("PORT", "50\n00", "TCP port to listen on"),
            ("WEB_CONCURRENCY", "-1", "worker processes"),
            ("FLASK_ENV", "staging", "'production' or 'development'"),
            ("LOG_LEVEL", "LOUD", "`DEBUG`, `INFO`, `WARNING` or `ERROR`"),
            ("LOG_FORMAT", "xml", "`text` or `json`"),
            ("SERVER", "uvicorn", "`gunicorn` or `granian`"),
            ("DB_POOL_TIMEOUT", "0", "greater than 0"),
            ("DB_POOL_TIMEOUT", "nan", "Seconds"),
            ("DB_STATEMENT_TIMEOUT", "3s", "Seconds after which PostgreSQL cancels a statement"),
            ("MIGRATE_ON_START", "maybe", "boolean"),
            ("CACHE_TTL", "0.5", "Seconds"),
            ("CACHE_STALE_TTL", "-1", "0 for never"),
            ("CORS_ORIGINS", "app.example.com", "such as `https://app.example.com"),
            ("CORS_ORIGINS", "https://app.example.com/", "scheme, host and port"),
            ("CORS_ORIGINS", "https://a.example,", "scheme, host and port"),
            ("CORS_ORIGINS", "https://*.example.com", "scheme, host and port"),
            ("RATE_LIMIT", "600", "such as `600/minute`"),
            ("RATE_LIMIT", "0/minute", "such as `600/minute`"),
            ("RATE_LIMIT", "600/fortnight", "such as `600/minute`"),
            ("RATE_LIMIT", "1/minute;5/hour", "such as `600/minute`"),
            ("RATE_LIMIT", "600/minute\n", "such as `600/minute`"),
            ("RATE_LIMIT", "١/day", "such as `600/minute`"),
            ("RATE_LIMIT_WRITES", "many", "POST, PUT, PATCH and DELETE"),
            ("RATE_LIMIT_SUBJECT_HEADER", "X Subject", "such as `X-Authenticated-Subject`"),
            ("RATE_LIMIT_SUBJECT_HEADER", "X-Subject\n", "such as `X-Authenticated-Subject`"),
            ("TRUSTED_PROXIES", "gateway", "such as `10.0.0.0/8"),
            ("TRUSTED_PROXIES", "10.0.0.1/8", "without host bits"),
            ("TRUSTED_PROXIES", "10.0.0.1,", "addresses, or networks"),
            ("SECURITY_CONTACT", "security@example.com", "mailto:security@example.com"),
            ("SECURITY_CONTACT", "mailto:a@example.com\nExpires: x", "mailto:security@example.com"),
            ("REQUEST_TIMEOUT", "0", "Seconds"),
            ("RETRY_ATTEMPTS", "11", "retries"),
            ("GIT_COMMIT", "a b", "built from"),
        ],
    )
    def test_invalid_value_is_reported_in_one_line_with_its_name_and_description(
        self, name: str, value: str, takes: str
    ) -> None:
        message = complaint(**{name: value})
        assert message.startswith(f"{name}: ")
        assert takes in message

    def test_all_invalid_values_are_reported_at_once(self) -> None:
        message = complaint(PORT="x", CACHE_TTL="y", LOG_LEVEL="z")
        assert all(f"{name}: " in message for name in ("PORT", "CACHE_TTL", "LOG_LEVEL"))

    def test_report_contains_no_secret_of_other_variables(self) -> None:
        assert SECRET not in complaint(
            PORT="x", **dict.fromkeys(SECRETS, f"redis://:{SECRET}@host")
        )

    @pytest.mark.parametrize(
        ("name", "url"),
        [
            *(("DATABASE_URL", url) for url in NO_URL),
            *(("REDIS_URL", url) for url in NO_URL),
            ("DATABASE_URL", f"redis://:{SECRET}@host:6379/0"),
            ("DATABASE_URL", f"mysql://users:{SECRET}@host/users"),
            ("DATABASE_URL", f"postgresql+psycopg2://users:{SECRET}@host/users"),
            ("DATABASE_URL", f"postgresql://users:%zz{SECRET}@host/users"),
            ("DATABASE_URL", f"postgresql://users:{SECRET}%@host/users"),
            ("DATABASE_URL", f"postgresql://users:p@{SECRET}@host/users"),
            ("DATABASE_URL", f"postgresql://users:[{SECRET}@host/users"),
            ("DATABASE_URL", f"postgresql://users:1/{SECRET}@host/users"),
            ("DATABASE_URL", f"postgresql://users:1#{SECRET}@host/users"),
            ("DATABASE_URL", f"host=db user=users password={SECRET}"),
            ("DATABASE_REPLICA_URL", f"host=db user=users password={SECRET}"),
            ("REDIS_URL", f"postgresql://users:{SECRET}@host/users"),
            ("REDIS_URL", f"redis://:p@{SECRET}@host:6379/0"),
            ("REDIS_URL", f"redis://:{SECRET}]@host:6379/0"),
            ("REDIS_URL", f"redis+cluster://:[{SECRET}@host:6379"),
            ("REDIS_URL", f"unix://run?password={SECRET}"),
            ("REDIS_URL", f"redis+sentinel://:{SECRET}@host:26379,other:26379"),
            ("REDIS_URL", f"redis+sentinel://:{SECRET}@host:26379/"),
            ("REDIS_URL", f"redis+sentinel://:{SECRET}@host:26379/users/first"),
            ("REDIS_URL", f"redis+sentinel://:{SECRET}@host:26379,/users"),
            ("REDIS_URL", f"redis+sentinel://:{SECRET}@host:65536/users"),
            ("REDIS_URL", f"redis+cluster://:{SECRET}@host:6379,other:0"),
            ("REDIS_URL", f"redis+cluster://:{SECRET}@host:6379/1"),
            ("REDIS_URL", f"redis+cluster://:{SECRET}@"),
            ("REDIS_URL", f"redis+proxy://:{SECRET}@host:6379"),
            ("REDIS_URL", f"sentinel://:{SECRET}@host:26379/users"),
        ],
    )
    def test_invalid_url_is_refused_without_repeating_it(self, name: str, url: str) -> None:
        message = complaint(**{name: url})
        assert message.startswith(f"{name}: must be a URL like ")
        assert message.endswith(f" ({Settings.model_fields[name.lower()].description})")
        assert SECRET not in message

    @pytest.mark.parametrize("name", ["DATABASE_URL", "DATABASE_REPLICA_URL", "REDIS_URL"])
    def test_invalid_url_in_a_file_is_not_repeated_either(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "secret").write_text(f"http://{SECRET}")
        message = complaint(**{f"{name}_FILE": str(tmp_path / "secret")})
        assert message.startswith(f"{name}: must be a URL like ")
        assert SECRET not in message

    @pytest.mark.parametrize(
        ("name", "url"),
        [
            ("DATABASE_URL", "postgres://users:p%40@db/users"),
            ("DATABASE_URL", "postgresql://users:x@a:5432,b:5433/users?sslmode=verify-full"),
            ("DATABASE_URL", "postgresql://users:x@[::1]:5432,[fe80::1%25eth0]:5433,db/users"),
            ("DATABASE_URL", "postgresql://users:x@/users?host=::1,db&port=5432,5433"),
            ("DATABASE_URL", "postgresql:///users?hostaddr=::1&user=ada"),
            ("DATABASE_URL", "postgresql://users:x@%2Frun%2Fpostgresql/users"),
            ("DATABASE_URL", "postgresql://db/users?user=ada@example"),
            ("DATABASE_URL", "postgresql://users:p w!@db/users?sslmode=require"),
            ("REDIS_URL", "rediss://users:p%40@cache:6380/2"),
            ("REDIS_URL", "redis://[::1]:6379"),
            ("REDIS_URL", "rediss://:p@h:6380/1?ssl_ca_certs=/ca.pem"),
            ("REDIS_URL", "unix:///run/redis.sock?db=1"),
            ("REDIS_URL", "redis+sentinel://h/users"),
            ("REDIS_URL", "redis+sentinel://u:p%2F@h,i:26380,[::1]:65535/my-master/15?a=q"),
            ("REDIS_URL", "rediss+sentinel://h:1/users"),
            ("REDIS_URL", "redis+cluster://h"),
            ("REDIS_URL", "rediss+cluster://:p@h:6379,i:6380,[fe80::1]/0"),
        ],
    )
    def test_valid_url_is_kept_unchanged(self, name: str, url: str) -> None:
        settings = read(**{name: url, "DB_HOST": "other", "REDIS_HOST": "other"})
        assert url == (settings.database_dsn if name == "DATABASE_URL" else settings.redis_dsn)


class TestSecrets:
    @pytest.mark.parametrize("name", SECRETS)
    @pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
    def test_secret_may_be_in_a_file_with_or_without_a_final_line_break(
        self, tmp_path: Path, name: str, ending: str
    ) -> None:
        secret = {
            "DATABASE_URL": f"postgresql://users:{SECRET}@db/users",
            "DATABASE_REPLICA_URL": f"postgresql://users:{SECRET}@standby/users",
            "REDIS_URL": f"redis://:{SECRET}@cache/0",
        }.get(name, f" {SECRET} ö")
        (tmp_path / "secret").write_bytes(secret.encode() + ending.encode())
        settings = read(**{f"{name}_FILE": str(tmp_path / "secret")})
        assert getattr(settings, name.lower()).get_secret_value() == secret

    def test_variable_wins_over_the_file_and_a_warning_says_so(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "secret").write_text("from-the-file")
        file = str(tmp_path / "secret")
        assert "from-the-file" in read(DB_PASSWORD="", DB_PASSWORD_FILE=file).database_dsn
        assert "given" in read(DB_PASSWORD="given", DB_PASSWORD_FILE=file).database_dsn
        assert caplog.messages == ["DB_PASSWORD_FILE is ignored, because DB_PASSWORD is set too"]

    @pytest.mark.parametrize("name", SECRETS)
    @pytest.mark.parametrize("content", ["", "\n", "\r\n"])
    def test_empty_file_means_unset(self, tmp_path: Path, name: str, content: str) -> None:
        (tmp_path / "secret").write_bytes(content.encode())
        settings = read(**{f"{name}_FILE": str(tmp_path / "secret")})
        assert getattr(settings, name.lower()) is None

    def test_only_secrets_are_read_from_files_that_have_a_name(self) -> None:
        settings = read(DB_HOST_FILE="/nowhere", DB_PASSWORD_FILE="")
        assert settings == Settings()

    def test_unreadable_file_is_reported_in_one_line_without_its_content(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "binary").write_bytes(SECRET.encode() + b"\xff")
        for file, reason in (
            (tmp_path / "missing", "No such file or directory"),
            (tmp_path, "Is a directory"),
            (tmp_path / "binary", "not UTF-8 text"),
        ):
            message = complaint(DB_PASSWORD_FILE=str(file))
            assert message == f"DB_PASSWORD_FILE must name a readable file: {reason}"

    def test_representation_shows_no_secret(self) -> None:
        urls = dict.fromkeys(SECRETS, f"postgresql://user:{SECRET}@host")
        settings = read(**urls | {"REDIS_URL": f"redis://:{SECRET}@host"})
        assert SECRET not in repr(settings)
        assert SECRET not in str(settings)


class TestTracing:
    """An ``OTEL_*`` environment for a whole cluster prevents no start that needs no traces."""

    @pytest.mark.parametrize(
        "variables",
        [
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            {
                "OTEL_SDK_DISABLED": "true",
                "OTEL_TRACES_EXPORTER": "zipkin",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317",
            },
            {"OTEL_SDK_DISABLED": "perhaps"},
        ],
    )
    def test_is_off(self, variables: dict[str, str]) -> None:
        assert read(**variables).traces_exporter is None

    @pytest.mark.parametrize(
        ("variables", "exporter"),
        [
            ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, "otlp"),
            ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, "otlp"),
            ({"OTEL_TRACES_EXPORTER": "console", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "console"),
        ],
    )
    def test_is_on(self, variables: dict[str, str], exporter: str) -> None:
        assert read(**variables).traces_exporter == exporter

    def test_exporter_and_protocol_of_traces_that_are_wanted_must_be_known(self) -> None:
        assert complaint(OTEL_TRACES_EXPORTER="zipkin") == (
            "OTEL_TRACES_EXPORTER: must be `otlp`, `console` or `none`"
        )
        assert complaint(OTEL_TRACES_EXPORTER="otlp", OTEL_EXPORTER_OTLP_PROTOCOL="grpc") == (
            "OTEL_EXPORTER_OTLP_PROTOCOL: must be `http/protobuf`"
        )


class TestParts:
    def test_urls_are_composed_of_the_parts(self) -> None:
        assert settings_or_exit().database_dsn == "postgresql://users@localhost:5432/users"
        parts = {f"DB_{name}": name.lower() for name in ("HOST", "NAME", "USER", "PASSWORD")}
        settings = read(**parts, DB_PORT="5433", REDIS_HOST="cache", REDIS_PORT="6380")
        assert settings.database_dsn == "postgresql://user:password@host:5433/name"
        assert settings.redis_dsn == "redis://cache:6380/0"
        assert read(REDIS_HOST="::1").redis_dsn == "redis://[::1]:6379/0"

    @pytest.mark.parametrize("part", ["user", "password", "name"])
    @pytest.mark.parametrize(
        "value", ["p@ss:w/rd", "100% #?&=+", "schlüssel ключ", "'\"\\ ", "%40", "[::1]"]
    )
    def test_part_may_contain_any_character(self, part: str, value: str) -> None:
        dsn = read(**{f"DB_{part.upper()}": value}).database_dsn
        parsed = parse_dsn(dsn)
        assert parsed[{"name": "dbname"}.get(part, part)] == value
        assert (parsed["host"], parsed["port"]) == ("localhost", "5432")

    @pytest.mark.parametrize("host", ["db.internal", "10.0.0.1", "::1", "fe80::1%eth0", "/run/pg"])
    def test_host_may_be_a_name_an_address_or_a_socket_folder(self, host: str) -> None:
        parsed = parse_dsn(read(DB_HOST=host).database_dsn)
        assert (parsed["host"], parsed["port"]) == (host, "5432")
