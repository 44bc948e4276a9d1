"""The environment: files for secrets, and one line for invalid values."""

import os
import re
from ipaddress import ip_network
from pathlib import Path

import pytest
from psycopg2.extensions import parse_dsn

from user_service.cache.redis_url import parse_redis_url
from user_service.settings import Launch, Settings, settings_or_exit

SECRET = "hunter2"
# The variables that have a secret, each with an example.
SECRETS = {
    "DATABASE_URL": f"postgresql://users:{SECRET}@db/users",
    "DATABASE_OWNER_URL": f"postgresql://owner:{SECRET}@db/users",
    "DATABASE_REPLICA_URL": f"postgresql://users:{SECRET}@standby/users",
    "DB_PASSWORD": f" {SECRET} ö",
    "REDIS_URL": f"redis://:{SECRET}@cache/0",
    "CURSOR_KEY": f" {SECRET} ö",
}


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


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    return tmp_path / "secret"


ORIGINS = "https://a.example, http://[::1]:81"
NETWORKS = "10.0.0.0/8, 192.0.2.1,2001:db8::/32"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("DB_POOL_SIZE", "7", 7),
        ("SERVER_TIMING", "on", True),
        ("SERVER_TIMING", "false", False),
        ("LOG_LEVEL", "Info", "INFO"),
        ("AUTH_ALGORITHMS", "ES256, RS256", ("ES256", "RS256")),
        ("AUTH_PUBLIC", "none", ("none",)),
        ("CORS_ORIGINS", "*", {"*"}),
        ("CORS_ORIGINS", ORIGINS, set(ORIGINS.split(", "))),
        ("TRUSTED_PROXIES", NETWORKS, tuple(map(ip_network, NETWORKS.replace(" ", "").split(",")))),
    ],
)
def test_variable_is_the_name_of_the_field_in_capitals(name: str, text: str, value: object) -> None:
    settings = read(**{name: text})
    assert getattr(settings, name.lower()) == value
    assert Settings.model_validate(settings.model_dump()) == settings


@pytest.mark.parametrize("name", Settings.model_fields)
def test_empty_variable_means_unset(name: str) -> None:
    assert getattr(read(**{name.upper(): ""}), name) == Settings.model_fields[name].default


# Values that are refused, with a part of the message, by variable.
MALFORMED: dict[str, dict[str, list[str]]] = {
    "PORT": {"TCP port to listen on": ["http", "50\n00"]},
    "CORS_ORIGINS": {
        "such as `https://app.example.com": ["app.example.com"],
        "scheme and host, and a port": [
            *("https://app.example.com/", "https://a.example,", "https://*.example.com"),
            *("https://a.example:443", "http://[::1]:80", "http://a.example:65536"),
        ],
    },
    "RATE_LIMIT": {
        "such as `600/minute`": [
            *("600", "0/minute", "600/fortnight", "1/minute;5/hour", "600/minute\n", "١/day"),
        ],
    },
    "RATE_LIMIT_WRITES": {"POST, PUT, PATCH and DELETE": ["many"]},
    "RATE_LIMIT_SUBJECT_HEADER": {"`X-Authenticated-Subject`": ["X Subject", "X-Subject\n"]},
    "TRUSTED_PROXIES": {
        "such as `10.0.0.0/8": ["gateway"],
        "without host bits": ["10.0.0.1/8"],
        "addresses, or networks": ["10.0.0.1,"],
        "not mapped to IPv6": ["::ffff:10.0.0.0/104", "10.0.0.1,::ffff:10.0.0.2"],
    },
    "AUTH_ISSUER": {
        "Issuer of the JSON Web Tokens": [
            *("issuer.example", "http://issuer.example", "https:// a", "https://a:b@c"),
        ],
    },
    "AUTH_JWKS_URL": {"key set": ["http://issuer.example/keys"]},
    "AUTH_ALGORITHMS": {"a key without `alg`": ["none", "HS256", "EdDSA", "RS256,", ","]},
    "AUTH_SCOPE_CLAIM": {"scopes of a token": ["a b", "scope,"]},
    "AUTH_PUBLIC": {"`docs`, `openapi`": ["users", "docs;metrics"]},
    "SECURITY_CONTACT": {
        "mailto:security@example.com": ["security@example.com", "mailto:a@example.com\nExpires: x"],
    },
    "GIT_COMMIT": {"built from": ["a b"]},
}
NO_URLS = {
    "DATABASE_URL": [
        *("redis://:{}@host:6379/0", "mysql://users:{}@host/users", "host=db password={}"),
        *("postgresql+psycopg2://users:{}@host/users", "postgresql://users:%zz{}@host/users"),
        *("postgresql://users:{}%@host/users", "postgresql://users:p@{}@host/users"),
        *("postgresql://users:[{}@host/users", "postgresql://users:1/{}@host/users"),
        *("postgresql://users:1#{}@host/users", "postgresql://?host=db&password=p@{}"),
        "postgresql://db:5432?user=users&password=p@{}",
    ],
    "DATABASE_REPLICA_URL": ["host=db user=users password={}"],
    "REDIS_URL": [
        *("postgresql://users:{}@host/users", "redis://:p@{}@host:6379/0"),
        *("redis://:p\uff20{}@host:6379/0", "redis://:{}@host/abc", "redis://:{}@host/1/2"),
        *("redis://:{}]@host:6379/0", "redis+cluster://:[{}@host:6379", "unix://run?password={}"),
        *("redis+sentinel://:{}@host:26379,other:26379", "redis+sentinel://:{}@host:26379/"),
        *("redis+sentinel://:{}@host:26379/users/first", "redis+sentinel://:{}@host:26379,/users"),
        *("redis+sentinel://:{}@host:65536/users", "redis+cluster://:{}@host:6379,other:0"),
        *("redis+cluster://:{}@host:6379/1", "redis+cluster://:{}@"),
        *("redis+proxy://:{}@host:6379", "sentinel://:{}@host:26379/users"),
    ],
}
NOT_EVEN_A_URL = [
    *("{}", "http://users:{}@host/", "//users:{}@host/", ":{}@host"),
    *("users:{}@host:5432/users", "{}://users@host/"),
]
URLS = {
    "DATABASE_URL": [
        *("postgres://users:p%40@db/users", "postgresql://users:p w!@db/users?sslmode=require"),
        "postgresql://users:x@a:5432,b:5433/users?sslmode=verify-full",
        "postgresql://users:x@[::1]:5432,[fe80::1%25eth0]:5433,db/users",
        "postgresql://users:x@/users?host=::1,db&port=5432,5433",
        *("postgresql:///users?hostaddr=::1&user=ada", "postgresql://db/users?user=ada@example"),
        "postgresql://users:x@%2Frun%2Fpostgresql/users",
    ],
    "REDIS_URL": [
        *("rediss://users:p%40@cache:6380/2", "redis://[::1]:6379", "redis+sentinel://h/users"),
        *("rediss://:p@h:6380/1?ssl_ca_certs=/ca.pem", "unix:///run/redis.sock?db=1"),
        "redis+sentinel://u:p%2F@h,i:26380,[::1]:65535/my-master/15?a=q",
        *("rediss+sentinel://h:1/users", "redis+cluster://h"),
        "rediss+cluster://:p@h:6379,i:6380,[fe80::1]/0",
    ],
}


class TestMalformed:
    @pytest.mark.parametrize("name", MALFORMED)
    def test_invalid_value_is_reported_in_a_line_with_name_and_description(self, name: str) -> None:
        for takes, values in MALFORMED[name].items():
            for value in values:
                message = complaint(**{name: value})
                assert message.startswith(f"{name}: ")
                assert takes in message

    @pytest.mark.parametrize("name", ["DB_HOST", "DB_NAME", "DB_USER", "DB_PASSWORD", "CURSOR_KEY"])
    def test_text_that_is_not_utf_8(self, name: str) -> None:
        assert complaint(**{name: "a\udcff"}).startswith(f"{name}: ")

    def test_half_of_a_configuration_of_authentication(self) -> None:
        issuer, needed = "https://issuer.example", "is needed with"
        assert complaint(AUTH_ISSUER=issuer) == f"AUTH_AUDIENCE: {needed} AUTH_ISSUER"
        for name in ("AUTH_AUDIENCE", "AUTH_JWKS_URL", "AUTH_JWKS_FILE"):
            assert complaint(**{name: issuer}) == f"AUTH_ISSUER: {needed} {name}"
        assert read(AUTH_ISSUER=issuer, AUTH_AUDIENCE="users").authenticates

    def test_contradiction_in_the_configuration_of_authentication(self) -> None:
        assert complaint(AUTH_PUBLIC="none,docs") == "AUTH_PUBLIC: `none` stands alone"
        issuer = {"AUTH_ISSUER": "https://issuer.example", "AUTH_AUDIENCE": "users"}
        message = complaint(**issuer, AUTH_JWKS_URL="https://a.example", AUTH_JWKS_FILE="keys.json")
        assert message == "AUTH_JWKS_URL: has no effect beside AUTH_JWKS_FILE"

    def test_all_invalid_values_are_reported_at_once_without_the_secret_of_another(self) -> None:
        secrets = dict.fromkeys(SECRETS, f"redis://:{SECRET}@host")
        message = complaint(PORT="x", CACHE_TTL="y", LOG_LEVEL="z", **secrets)
        assert all(f"{name}: " in message for name in ("PORT", "CACHE_TTL", "LOG_LEVEL"))
        assert SECRET not in message

    @pytest.mark.parametrize("name", NO_URLS)
    def test_invalid_url_is_refused_and_not_repeated(self, secret_file: Path, name: str) -> None:
        secret_file.write_text(f"http://{SECRET}")
        urls = [url.format(SECRET) for url in NO_URLS[name] + NOT_EVEN_A_URL]
        for given in ({f"{name}_FILE": str(secret_file)}, *({name: url} for url in urls)):
            message = complaint(**given)
            assert message.startswith(f"{name}: must be a URL like ")
            assert message.endswith(f" ({Settings.model_fields[name.lower()].description})")
            assert SECRET not in message

    @pytest.mark.parametrize("url", URLS["DATABASE_URL"] + URLS["REDIS_URL"])
    def test_valid_url_is_kept_unchanged(self, url: str) -> None:
        if url in URLS["DATABASE_URL"]:
            assert read(DATABASE_URL=url, DB_HOST="other").database_dsn == url
        else:
            assert read(REDIS_URL=url, REDIS_HOST="other").redis_dsn == url


def test_example_of_the_page_is_what_is_said() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text("utf-8")
    (line,) = re.findall(r"^user-service: (PORT: .+) \(…\)$", page, re.MULTILINE)
    assert complaint(PORT="http").startswith(f"{line} (")


@pytest.mark.parametrize(
    "host",
    [":s3cret@redis", "redis:6379", "10.0.0.1:6379", "cafe:6379", "redis/1", "redis#1", "a@b", " "],
)
def test_host_of_redis_is_a_name_or_an_address_alone(host: str) -> None:
    message = complaint(REDIS_HOST=host)
    assert message.startswith("REDIS_HOST: ")
    assert "s3cret" not in message
    for valid in ("redis", "my_redis.example.com", "10.0.0.1", "::1", "fe80::1%eth0", "fe80::1%12"):
        assert parse_redis_url(read(REDIS_HOST=valid).redis_dsn).options["host"] == valid


class TestSecrets:
    @pytest.mark.parametrize("name", SECRETS)
    @pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
    def test_secret_may_be_in_a_file_with_or_without_a_final_line_break(
        self, secret_file: Path, name: str, ending: str
    ) -> None:
        secret_file.write_bytes(SECRETS[name].encode() + ending.encode())
        settings = read(**{f"{name}_FILE": str(secret_file)})
        assert getattr(settings, name.lower()).get_secret_value() == SECRETS[name]
        secret_file.write_bytes(ending.encode())  # an empty file means unset
        assert getattr(read(**{f"{name}_FILE": str(secret_file)}), name.lower()) is None

    def test_variable_wins_over_the_file(self, secret_file: Path) -> None:
        """``tests/e2e/test_authentication.py`` has the warning that says so."""
        secret_file.write_text("from-the-file")
        file = str(secret_file)
        assert "from-the-file" in read(DB_PASSWORD="", DB_PASSWORD_FILE=file).database_dsn
        assert "given" in read(DB_PASSWORD="given", DB_PASSWORD_FILE=file).database_dsn

    def test_only_secrets_are_read_from_files_that_have_a_name(self) -> None:
        settings = read(DB_HOST_FILE="/nowhere", DB_PASSWORD_FILE="")
        assert settings == Settings()

    def test_unreadable_file_is_reported_in_a_line_without_content(self, secret_file: Path) -> None:
        secret_file.write_bytes(SECRET.encode() + b"\xff")
        for file, reason in (
            (secret_file.with_name("missing"), "No such file or directory"),
            (secret_file.parent, "Is a directory"),
            (secret_file, "not UTF-8 text"),
        ):
            message = complaint(DB_PASSWORD_FILE=str(file))
            assert message == f"DB_PASSWORD_FILE must name a readable file: {reason}"

    def test_representation_shows_no_secret(self) -> None:
        settings = read(**SECRETS)
        assert SECRET not in f"{settings!r} {settings}"


PROTOCOL, ENDPOINT = "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_ENDPOINT"
EXPORTER, DISABLED = "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED"


@pytest.mark.parametrize(
    "variables",
    [
        {PROTOCOL: "grpc"},
        {EXPORTER: "none", PROTOCOL: "grpc", ENDPOINT: "collector:4317"},
        {DISABLED: "true", EXPORTER: "zipkin", PROTOCOL: "grpc", ENDPOINT: "collector:4317"},
        {DISABLED: "perhaps"},
    ],
)
def test_environment_of_a_whole_cluster_prevents_no_start_without_traces(
    variables: dict[str, str],
) -> None:
    """``tests/e2e/test_tracing.py`` has the variables that turn tracing on."""
    assert read(**variables).traces_exporter is None


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
        parsed = parse_dsn(read(**{f"DB_{part.upper()}": value}).database_dsn)
        assert parsed[{"name": "dbname"}.get(part, part)] == value
        assert (parsed["host"], parsed["port"]) == ("localhost", "5432")

    @pytest.mark.parametrize("host", ["db.internal", "10.0.0.1", "::1", "fe80::1%eth0", "/run/pg"])
    def test_host_may_be_a_name_an_address_or_a_socket_folder(self, host: str) -> None:
        parsed = parse_dsn(read(DB_HOST=host).database_dsn)
        assert (parsed["host"], parsed["port"]) == (host, "5432")


def test_server_is_not_told_of_a_file_without_effect(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CURSOR_KEY", "key")
    monkeypatch.setenv("CURSOR_KEY_FILE", "unused")
    assert Launch().environment(tmp_path)["CURSOR_KEY_FILE"] == ""
