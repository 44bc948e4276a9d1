"""The environment: files for secrets, and one line for invalid values."""

import os
from pathlib import Path

import pytest
from psycopg2.extensions import parse_dsn

from user_service.settings import InvalidSettings, Settings, settings_or_exit

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


def complaint(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """Return the one line that refuses ``variables``."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings) as raised:
        Settings.from_environment()
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


def test_variable_has_the_name_of_the_field_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_POOL_SIZE", "7")
    assert Settings.from_environment().db_pool_size == 7


@pytest.mark.parametrize(("text", "means"), [("on", True), ("off", False), ("true", True)])
def test_switch(monkeypatch: pytest.MonkeyPatch, text: str, means: bool) -> None:
    monkeypatch.setenv("SERVER_TIMING", text)
    assert Settings.from_environment().server_timing is means


@pytest.mark.parametrize("name", Settings.model_fields)
def test_empty_variable_means_unset(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name.upper(), "")
    assert getattr(Settings.from_environment(), name) == Settings.model_fields[name].default


def test_settings_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.from_environment().port = 1  # type: ignore[misc]


def test_unknown_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PORT_TYPO", "x")
    assert Settings.from_environment().db_port == 5432


class TestMalformed:
    @pytest.mark.parametrize(
        ("name", "value", "takes"),
        [
            ("PORT", "http", "TCP port to listen on"),
            ("PORT", "0", "greater than or equal to 1"),
            ("PORT", "65536", "less than or equal to 65535"),
            ("PORT", "80.5", "TCP port to listen on"),
            ("PORT", "9" * 5000, "TCP port to listen on"),
            ("PORT", "50\n00", "TCP port to listen on"),
            ("WEB_CONCURRENCY", "-1", "worker processes"),
            ("FLASK_ENV", "staging", "'production' or 'development'"),
            ("LOG_LEVEL", "LOUD", "`DEBUG`, `INFO`, `WARNING` or `ERROR`"),
            ("LOG_FORMAT", "xml", "`text` or `json`"),
            ("SERVER", "uvicorn", "`gunicorn` or `granian`"),
            ("DB_POOL_SIZE", "0", "connections per worker process"),
            ("DB_POOL_TIMEOUT", "0", "greater than 0"),
            ("DB_POOL_TIMEOUT", "nan", "Seconds"),
            ("DB_POOL_TIMEOUT", "inf", "Seconds"),
            ("DB_STATEMENT_TIMEOUT", "3s", "Seconds after which PostgreSQL cancels a statement"),
            ("MIGRATE_ON_START", "maybe", "boolean"),
            ("REDIS_PORT", "redis", "Port of Redis"),
            ("REDIS_TIMEOUT", "-0.1", "Seconds"),
            ("CACHE_TTL", "0.5", "Seconds"),
            ("CACHE_STALE_TTL", "-1", "0 for never"),
            ("CACHE_STALE_TTL", "604801", "0 for never"),
            ("CORS_ORIGINS", "app.example.com", "such as `https://app.example.com"),
            ("CORS_ORIGINS", "https://app.example.com/", "scheme, host and port"),
            ("CORS_ORIGINS", "https://a.example,", "scheme, host and port"),
            ("CORS_ORIGINS", "null", "scheme, host and port"),
            ("CORS_ORIGINS", "https://*.example.com", "scheme, host and port"),
            ("RATE_LIMIT", "600", "such as `600/minute`"),
            ("RATE_LIMIT", "0/minute", "such as `600/minute`"),
            ("RATE_LIMIT", "-1/day", "such as `600/minute`"),
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
            ("RETRY_DELAY", "-1", "Seconds"),
            ("SERVER_TIMING", "sometimes", "boolean"),
            ("GIT_COMMIT", "a b", "built from"),
        ],
    )
    def test_invalid_value_is_reported_in_one_line_with_its_name_and_description(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str, takes: str
    ) -> None:
        message = complaint(monkeypatch, **{name: value})
        assert message.startswith(f"{name}: ")
        assert takes in message

    def test_all_invalid_values_are_reported_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        message = complaint(monkeypatch, PORT="x", CACHE_TTL="y", LOG_LEVEL="z")
        assert all(f"{name}: " in message for name in ("PORT", "CACHE_TTL", "LOG_LEVEL"))

    def test_invalid_value_ends_the_process_with_that_line(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PORT", "x")
        with pytest.raises(SystemExit) as raised:
            settings_or_exit()
        assert str(raised.value).startswith("user-service: PORT: ")
        assert "\n" not in str(raised.value)

    def test_report_contains_no_secret_of_other_variables(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert SECRET not in complaint(
            monkeypatch, PORT="x", **dict.fromkeys(SECRETS, f"redis://:{SECRET}@host")
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
    def test_invalid_url_is_refused_without_repeating_it(
        self, monkeypatch: pytest.MonkeyPatch, name: str, url: str
    ) -> None:
        message = complaint(monkeypatch, **{name: url})
        assert message.startswith(f"{name}: must be a URL like ")
        assert message.endswith(f" ({Settings.model_fields[name.lower()].description})")
        assert SECRET not in message

    @pytest.mark.parametrize(
        "url",
        [
            "redis://h",
            "rediss://:p@h:6380/1?ssl_ca_certs=/ca.pem",
            "unix:///run/redis.sock?db=1",
            "redis+sentinel://h/users",
            "redis+sentinel://u:p%2F@h,i:26380,[::1]:65535/my-master/15?sentinel_password=q",
            "rediss+sentinel://h:1/users",
            "redis+cluster://h",
            "rediss+cluster://:p@h:6379,i:6380,[fe80::1]/0",
        ],
    )
    def test_every_form_of_redis_url_is_accepted(
        self, monkeypatch: pytest.MonkeyPatch, url: str
    ) -> None:
        monkeypatch.setenv("REDIS_URL", url)
        assert Settings.from_environment().redis_dsn == url

    @pytest.mark.parametrize("name", ["DATABASE_URL", "DATABASE_REPLICA_URL", "REDIS_URL"])
    def test_invalid_url_in_a_file_is_not_repeated_either(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
    ) -> None:
        (tmp_path / "secret").write_text(f"http://{SECRET}")
        message = complaint(monkeypatch, **{f"{name}_FILE": str(tmp_path / "secret")})
        assert message.startswith(f"{name}: must be a URL like ")
        assert SECRET not in message

    @pytest.mark.parametrize(
        ("name", "url"),
        [
            ("DATABASE_URL", "postgres://users:p%40@db/users"),
            ("DATABASE_URL", "postgresql://users:x@a:5432,b:5433/users?sslmode=verify-full"),
            ("DATABASE_URL", "postgresql://users:x@[::1]:5432/users"),
            ("DATABASE_URL", "postgresql://db/users?user=ada@example"),
            ("DATABASE_URL", "postgresql://users:p w!@db/users?sslmode=require"),
            ("REDIS_URL", "rediss://users:p%40@cache:6380/2"),
            ("REDIS_URL", "redis://[::1]:6379"),
        ],
    )
    def test_valid_url_is_kept_unchanged(
        self, monkeypatch: pytest.MonkeyPatch, name: str, url: str
    ) -> None:
        monkeypatch.setenv(name, url)
        assert getattr(Settings.from_environment(), name.lower()).get_secret_value() == url

    @pytest.mark.parametrize(
        ("given", "read"), [("debug", "DEBUG"), ("Info", "INFO"), ("ERROR", "ERROR")]
    )
    def test_log_level_may_be_in_lower_case(
        self, monkeypatch: pytest.MonkeyPatch, given: str, read: str
    ) -> None:
        monkeypatch.setenv("LOG_LEVEL", given)
        assert Settings.from_environment().log_level == read


def test_proxies_become_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.from_environment().proxy_networks == ()
    monkeypatch.setenv("TRUSTED_PROXIES", "10.0.0.0/8, 192.0.2.1,2001:db8::/32")
    networks = [str(network) for network in Settings.from_environment().proxy_networks]
    assert networks == ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]


class TestSecrets:
    @pytest.mark.parametrize("name", SECRETS)
    @pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
    def test_secret_may_be_in_a_file_with_or_without_a_final_line_break(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, ending: str
    ) -> None:
        secret = {
            "DATABASE_URL": f"postgresql://users:{SECRET}@db/users",
            "DATABASE_REPLICA_URL": f"postgresql://users:{SECRET}@standby/users",
            "REDIS_URL": f"redis://:{SECRET}@cache/0",
        }.get(name, f" {SECRET} ö")
        (tmp_path / "secret").write_bytes(secret.encode() + ending.encode())
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "secret"))
        read = getattr(Settings.from_environment(), name.lower())
        assert read.get_secret_value() == secret

    def test_variable_wins_over_the_file_and_a_warning_says_so(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "secret").write_text("from the file")
        monkeypatch.setenv("DB_PASSWORD_FILE", str(tmp_path / "secret"))
        monkeypatch.setenv("DB_PASSWORD", "from the variable")
        password = Settings.from_environment().db_password
        assert password is not None
        assert password.get_secret_value() == "from the variable"
        assert caplog.messages == ["DB_PASSWORD_FILE is ignored, because DB_PASSWORD is set too"]

    def test_file_is_read_when_the_variable_is_empty(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_text(SECRET)
        monkeypatch.setenv("DB_PASSWORD_FILE", str(tmp_path / "secret"))
        monkeypatch.setenv("DB_PASSWORD", "")
        assert SECRET in Settings.from_environment().database_dsn

    @pytest.mark.parametrize("name", SECRETS)
    @pytest.mark.parametrize("content", ["", "\n", "\r\n"])
    def test_empty_file_means_unset(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, content: str
    ) -> None:
        (tmp_path / "secret").write_bytes(content.encode())
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "secret"))
        assert getattr(Settings.from_environment(), name.lower()) is None

    def test_empty_name_of_a_file_means_unset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DB_PASSWORD_FILE", "")
        assert Settings.from_environment().db_password is None

    def test_only_secrets_are_read_from_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DB_HOST_FILE", "/nowhere")
        assert Settings.from_environment().db_host == "localhost"

    @pytest.mark.parametrize("name", SECRETS)
    def test_missing_file_is_reported_in_one_line(
        self, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        message = complaint(monkeypatch, **{f"{name}_FILE": "/nowhere/secret"})
        assert message == f"{name}_FILE must name a readable file: No such file or directory"

    def test_folder_is_reported_in_one_line(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        message = complaint(monkeypatch, DB_PASSWORD_FILE=str(tmp_path))
        assert message == "DB_PASSWORD_FILE must name a readable file: Is a directory"

    def test_binary_file_is_reported_in_one_line_without_its_content(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_bytes(SECRET.encode() + b"\xff")
        message = complaint(monkeypatch, DB_PASSWORD_FILE=str(tmp_path / "secret"))
        assert message == "DB_PASSWORD_FILE must name a readable file: not UTF-8 text"

    def test_representation_shows_no_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in SECRETS:
            kind = "redis" if name == "REDIS_URL" else "postgresql"
            monkeypatch.setenv(name, f"{kind}://user:{SECRET}@host")
        settings = Settings.from_environment()
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
    def test_is_off(self, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert Settings.from_environment().traces_exporter is None

    @pytest.mark.parametrize(
        ("variables", "exporter"),
        [
            ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, "otlp"),
            ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, "otlp"),
            ({"OTEL_TRACES_EXPORTER": "console", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "console"),
        ],
    )
    def test_is_on(
        self, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], exporter: str
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert Settings.from_environment().traces_exporter == exporter

    def test_exporter_and_protocol_of_traces_that_are_wanted_must_be_known(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert complaint(monkeypatch, OTEL_TRACES_EXPORTER="zipkin") == (
            "OTEL_TRACES_EXPORTER: must be `otlp`, `console` or `none`"
        )
        assert complaint(
            monkeypatch, OTEL_TRACES_EXPORTER="otlp", OTEL_EXPORTER_OTLP_PROTOCOL="grpc"
        ) == ("OTEL_EXPORTER_OTLP_PROTOCOL: must be `http/protobuf`")


class TestDatabaseDsn:
    def test_is_the_given_url(self, monkeypatch: pytest.MonkeyPatch) -> None:
        url = "postgresql://u:p%40@db:1/n?sslmode=require"
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.setenv("DB_HOST", "elsewhere")
        assert Settings.from_environment().database_dsn == url

    def test_is_composed_of_the_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HOST", "NAME", "USER", "PASSWORD"):
            monkeypatch.setenv(f"DB_{name}", name.lower())
        monkeypatch.setenv("DB_PORT", "5433")
        dsn = Settings.from_environment().database_dsn
        assert dsn == "postgresql://user:password@host:5433/name"

    def test_contains_no_password_if_there_is_none(self) -> None:
        assert Settings.from_environment().database_dsn == (
            "postgresql://users@localhost:5432/users"
        )

    @pytest.mark.parametrize("part", ["user", "password", "name"])
    @pytest.mark.parametrize(
        "value", ["p@ss:w/rd", "100% #?&=+", "schlüssel ключ", "'\"\\ ", "%40", "[::1]"]
    )
    def test_part_may_contain_any_character(
        self, monkeypatch: pytest.MonkeyPatch, part: str, value: str
    ) -> None:
        monkeypatch.setenv(f"DB_{part.upper()}", value)
        read = parse_dsn(Settings.from_environment().database_dsn)
        assert read[{"name": "dbname"}.get(part, part)] == value
        assert (read["host"], read["port"]) == ("localhost", "5432")

    @pytest.mark.parametrize("host", ["db.internal", "10.0.0.1", "::1", "fe80::1%eth0", "/run/pg"])
    def test_host_may_be_a_name_an_address_or_a_socket_folder(
        self, monkeypatch: pytest.MonkeyPatch, host: str
    ) -> None:
        monkeypatch.setenv("DB_HOST", host)
        read = parse_dsn(Settings.from_environment().database_dsn)
        assert (read["host"], read["port"]) == (host, "5432")


class TestRedisDsn:
    def test_is_the_given_url(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_URL", "rediss://:p%40@cache:1/2")
        monkeypatch.setenv("REDIS_HOST", "elsewhere")
        assert Settings.from_environment().redis_dsn == "rediss://:p%40@cache:1/2"

    def test_is_composed_of_the_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_HOST", "cache")
        monkeypatch.setenv("REDIS_PORT", "6380")
        assert Settings.from_environment().redis_dsn == "redis://cache:6380/0"


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in Settings.model_fields.values())
