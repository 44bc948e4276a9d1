"""Authentication and permissions of the application: problems, limits, keys and idempotency."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from psycopg2.extensions import cursor
from pytest_mock import MockerFixture

from app import create_app
from tests.integration.queries import rows, value
from tests.integration.users import ADA, GRACE, URL, USER
from tests.issuer import AUDIENCE, Issuer, ec_key
from tests.responses import Serve, problem_of
from tests.servers import Servers
from tests.waiting import eventually
from user_service.domain.api_key import new_key
from user_service.errors import Unavailable
from user_service.security import api_keys
from user_service.settings import Settings
from user_service.web.openapi.document import document
from user_service.web.policies.access import UndeclaredAccess
from user_service.web.services import services_of

ISSUER = Issuer(ec_key("ec"))
NO_TOKENS = {"auth_issuer": None, "auth_audience": None, "auth_jwks_file": None}
Secured = Callable[..., FlaskClient]


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


def token(scope: str, **claims: Any) -> dict[str, str]:
    return bearer(ISSUER.token(scope, **claims))


@pytest.fixture
def secured(serving: Serve, servers: Servers, tmp_path: Path, admin: cursor) -> Secured:
    """Return a function that makes a client of a service with authentication."""
    admin.execute("TRUNCATE api_keys, api_key_uses")
    keys = tmp_path / "keys.json"
    keys.write_bytes(ISSUER.document())

    def serve(**changed: object) -> FlaskClient:
        given = {"auth_issuer": ISSUER.url, "auth_audience": AUDIENCE, "auth_jwks_file": keys}
        owner = {"database_owner_url": servers.owner_url}  # who may change keys
        return serving(**{**given, **owner, "auth_api_keys": True, **changed})

    return serve


def run(client: FlaskClient, *arguments: str, exit_code: int = 0) -> str:
    result = client.application.test_cli_runner().invoke(args=["keys", *arguments])
    assert result.exit_code == exit_code, result.output
    return result.output.strip()


def create_key(
    client: FlaskClient,
    name: str = "reader",
    scopes: str = "users:read",
    expires: str = "never",
    exit_code: int = 0,
) -> str:
    arguments = ("create", name, "--scopes", scopes, "--expires", expires)
    return run(client, *arguments, exit_code=exit_code)


@pytest.mark.parametrize("authenticates", [True, False])
def test_every_view_has_a_rule_and_one_without_is_refused(
    mocker: MockerFixture, authenticates: bool
) -> None:
    def forget(app: Flask, _contact: object) -> None:
        app.add_url_rule("/forgotten", "forgotten", Response)

    mocker.patch("app.register_security_txt", forget)
    with pytest.raises(UndeclaredAccess, match="forgotten"):
        create_app(Settings(auth_api_keys=authenticates))


def test_refusals_are_problems_with_challenges_and_cors(secured: Secured) -> None:
    client = secured(cors_origins="https://a.example")
    origin = {"Origin": "https://a.example"}
    challenges = {
        'Bearer realm="user-service"': {},
        'Bearer realm="user-service", error="invalid_token",'
        ' error_description="the token has expired"': token("users:read", exp=1),
    }
    for challenge, credential in challenges.items():
        refused = client.get(USER, headers=origin | credential)
        assert problem_of(refused, 401)["type"] == "urn:user-service:problem:unauthenticated"
        assert refused.headers["WWW-Authenticate"] == challenge
        assert refused.headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert "WWW-Authenticate" in refused.headers["Access-Control-Expose-Headers"]
    refused = client.get(USER, headers=origin | token("users:write"))
    problem = problem_of(refused, 403)
    assert problem["type"] == "urn:user-service:problem:insufficient-scope"
    assert "users:read" in problem["detail"]
    challenge = refused.headers["WWW-Authenticate"]
    assert challenge.endswith('error="insufficient_scope", scope="users:read"')
    asked = {"Access-Control-Request-Method": "POST"}
    preflight = client.options(URL, headers=origin | asked)
    assert preflight.status_code == 200
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]


def test_permission_comes_before_existence_validation_and_body(
    secured: Secured, mocker: MockerFixture
) -> None:
    client = secured()
    for name in ("read", "write", "transaction"):
        database = services_of(client.application).database
        mocker.patch.object(database, name, side_effect=AssertionError("SQL"))
    for headers, status in (({}, 401), (token("service:read"), 403)):
        for method, path in (
            *(("GET", path) for path in (USER, f"{URL}/9", f"{URL}?page=x", f"{URL}?q=%00")),
            *((method, USER) for method in ("PUT", "PATCH", "DELETE")),
            ("POST", URL),
        ):
            answer = client.open(path, method=method, headers=headers, data=b"{")
            problem_of(answer, status)
    assert client.get("/nowhere").status_code == 404
    assert client.post(USER).status_code == 405


def test_scope_to_delete_shows_no_user(secured: Secured) -> None:
    client = secured()
    client.post(URL, json=ADA, headers=token("users:write"))
    other = {"If-Match": '"x"'}
    refused = client.delete(USER, headers=other | token("users:delete"))
    assert "user" not in problem_of(refused, 412)
    for scopes in ("users:write", "users:delete users:read"):
        method = "DELETE" if "delete" in scopes else "PATCH"
        refused = client.open(USER, method=method, json={}, headers=other | token(scopes))
        assert "user" in problem_of(refused, 412)


@pytest.mark.parametrize(
    ("public", "statuses"),
    [
        ("docs,openapi", (200, 200, 401, 401)),
        ("metrics,health", (401, 401, 200, 200)),
        ("none", (401, 401, 401, 401)),
    ],
)
def test_parts_are_public_as_configured(
    secured: Secured, public: str, statuses: tuple[int, ...]
) -> None:
    client = secured(auth_public=public)
    paths = ("/docs", "/openapi.json", "/metrics", "/health")
    assert tuple(client.get(path).status_code for path in paths) == statuses
    operator = token("service:read")
    assert {client.get(path, headers=operator).status_code for path in paths} == {200}
    assert {client.get(f"/health/{it}").status_code for it in ("live", "ready")} == {200}


def test_fast_path_stays_open_and_keeps_the_principal_of_each_request(
    secured: Secured, mocker: MockerFixture
) -> None:
    client = secured(gateway_pages=True)
    mocker.patch.object(client.application, "full_dispatch_request", side_effect=AssertionError)
    reader = token("users:read")
    page = client.get(URL, headers=reader)
    assert page.status_code == 200
    assert "X-Page-Place" not in page.headers  # the gateway would serve it to all
    assert client.get(URL).status_code == 401
    assert client.get(f"{URL}/9", headers=reader).status_code == 404
    assert client.get(f"{URL}/9", headers=token("users:write")).status_code == 403


def test_document_names_the_credentials_that_are_enforced(
    secured: Secured, client: FlaskClient
) -> None:
    both, keys = document(secured().application), secured(**NO_TOKENS)
    assert set(both["components"]["securitySchemes"]) == {"token", "api_key"}
    paths = both["paths"]
    for path, method, scope in (
        (URL, "get", "users:read"),
        (URL, "post", "users:write"),
        (f"{URL}/{{user_id}}", "delete", "users:delete"),
        ("/health", "get", "service:read"),
    ):
        assert paths[path][method]["security"] == [{"token": [scope]}, {"api_key": [scope]}]
        assert {"401", "403"} <= paths[path][method]["responses"].keys()
    assert "security" not in paths["/health/live"]["get"]
    assert set(document(keys.application)["components"]["securitySchemes"]) == {"api_key"}
    off = document(client.application)
    assert "securitySchemes" not in off["components"]
    assert "unauthenticated" not in off["components"]["examples"]


def test_access_log_names_the_principal_and_not_the_credential(
    secured: Secured, log: io.StringIO
) -> None:
    client = secured()
    key = create_key(client, "nightly-export")
    credentials = (token("users:read"), bearer(key), token("users:read", exp=1))
    for headers in (*credentials, None):
        client.get(URL, headers=headers)
    lines = [line for line in log.getvalue().splitlines() if "user_service.access" in line]
    names = [line.partition(" principal=")[2].split()[0] for line in lines]
    assert names[1:] == ["key:nightly-export", "-", "-"]
    assert names[0].startswith("sub:")
    for headers in credentials:
        assert headers["Authorization"].split()[1] not in log.getvalue()
    assert "ada@example.com" not in log.getvalue()


def test_rate_limit_counts_each_principal_and_refused_requests_by_address(secured: Secured) -> None:
    client = secured(rate_limit="2/minute")
    ada, grace = (token("users:read", sub=name) for name in ("ada", "grace"))
    assert [client.get(URL, headers=ada).status_code for _ in range(3)] == [200, 200, 429]
    assert [client.get(URL, headers=grace).status_code for _ in range(3)] == [200, 200, 429]
    assert [client.get(URL).status_code for _ in range(3)] == [401, 401, 429]


def test_idempotency_keys_of_principals_are_separate(secured: Secured, serving: Serve) -> None:
    client = secured()
    key = {"Idempotency-Key": "once"}
    ada, grace = (token("users:write", sub=name) | key for name in ("ada", "grace"))
    first = client.post(URL, json=ADA, headers=ada)
    assert first.status_code == 201
    assert client.post(URL, json=ADA, headers=ada).data == first.data
    assert client.post(URL, json=GRACE, headers=grace).status_code == 201
    problem_of(client.post(URL, json=GRACE, headers=ada), 422)
    problem_of(serving().post(URL, json=ADA, headers=key), 409)  # its key is another one


class TestApiKeys:
    @pytest.fixture
    def client(self, secured: Secured, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
        monkeypatch.setattr(api_keys, "REVOCATION_SECONDS", 0.1)
        return secured()

    def status(self, client: FlaskClient, key: str) -> int:
        return client.get(URL, headers=bearer(key)).status_code

    def test_works_until_it_is_revoked(self, client: FlaskClient, admin: cursor) -> None:
        key = create_key(client)
        assert self.status(client, key) == 200
        problem_of(client.post(URL, json=ADA, headers=bearer(key)), 403)
        assert "exists" in create_key(client, exit_code=1)
        assert run(client, "revoke", "reader") == "reader is revoked"
        eventually(lambda: self.status(client, key) == 401)
        assert "no valid key" in run(client, "revoke", "reader", exit_code=1)
        again = create_key(client)
        eventually(lambda: self.status(client, again) == 200)
        stored = value(admin, "SELECT string_agg(api_keys::text, '') FROM api_keys")
        assert [each for each in (key, again) if each.split("_", 2)[2] in stored] == []

    def test_expires_at_its_time(self, client: FlaskClient, admin: cursor) -> None:
        key = create_key(client, "brief", expires="1d")
        assert self.status(client, key) == 200
        admin.execute("UPDATE api_keys SET expires_at = now() + interval '1 second'")
        eventually(lambda: self.status(client, key) == 401)

    @pytest.mark.parametrize(
        "change",
        [
            lambda key: key[:-1],
            lambda key: f"{key}x",
            lambda key: key[:-1] + ("A" if key[-1] != "A" else "B"),
            lambda key: key[:4] + "0" * 12 + key[16:],
            lambda key: key.upper(),
            lambda _: "usk_",
            lambda _: "usk_é_é",
        ],
    )
    def test_other_secret_prefix_or_form_is_refused(
        self, client: FlaskClient, change: Callable[[str], str]
    ) -> None:
        key = create_key(client)
        assert self.status(client, key) == 200
        assert self.status(client, change(key)) == 401

    def test_day_of_last_use_is_stored_once(self, client: FlaskClient, admin: cursor) -> None:
        key = create_key(client)
        assert "never used" in run(client, "list")
        assert self.status(client, key) == 200
        used_today = "SELECT xmin FROM api_key_uses WHERE last_used_on = current_date"
        eventually(lambda: rows(admin, used_today) != [])
        stored = rows(admin, used_today)
        for _ in range(3):
            time.sleep(0.2)
            assert self.status(client, key) == 200
        assert rows(admin, used_today) == stored
        assert "last used" in run(client, "list")

    def test_last_use_is_stored_without_another_request(
        self, client: FlaskClient, admin: cursor
    ) -> None:
        key = create_key(client)
        assert self.status(client, key) == 200
        run(client, "revoke", "reader")
        eventually(lambda: rows(admin, "SELECT 1 FROM api_key_uses") != [])

    def test_last_keys_stand_while_the_database_is_away(
        self, client: FlaskClient, mocker: MockerFixture
    ) -> None:
        key = create_key(client)
        assert self.status(client, key) == 200
        database = services_of(client.application).database
        mocker.patch.object(database, "read", side_effect=Unavailable("away"))
        time.sleep(0.2)
        for _ in range(3):
            assert self.status(client, key) == 200  # a cached page

    def test_keys_that_cannot_be_read_are_a_503(self, secured: Secured) -> None:
        client = secured(database_url="postgresql://users@127.0.0.1:1/users", retry_attempts=0)
        key, _ = new_key("reader", frozenset({"users:read"}), None)
        problem_of(client.get(URL, headers=bearer(key)), 503)
        assert client.get("/health/live", headers=bearer(key)).status_code == 200

    def test_refusal_by_the_database_is_one_line(
        self, secured: Secured, dsn: str, admin: cursor
    ) -> None:
        as_service = secured(database_owner_url=None)
        unmigrated = secured(database_owner_url=None, database_url=dsn)
        refused = "Error: the database refuses: "
        denied = f"{refused}permission denied for table api_keys"
        assert create_key(as_service, exit_code=1) == denied
        assert run(as_service, "revoke", "reader", exit_code=1) == denied
        missing = f'{refused}relation "api_keys" does not exist'
        assert run(unmigrated, "list", exit_code=1) == missing
        admin.execute("BEGIN; LOCK TABLE api_keys")
        assert run(as_service, "list", exit_code=1).endswith("due to statement timeout")
        admin.execute("ROLLBACK")

    def test_listed_keys_have_no_secret(
        self, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGTZ", "America/New_York")
        monkeypatch.setenv("PGOPTIONS", "-c default_transaction_read_only=on")
        key = create_key(client, "reader", "users:read,users:write", "2999-12-31")
        create_key(client, "former", expires="90d")
        run(client, "revoke", "former")
        listed = run(client, "list").splitlines()
        prefix = key.split("_")[1]
        assert listed[0] == (
            f"reader  {prefix}  users:read,users:write  valid until 2999-12-31  never used"
        )
        assert "revoked" in listed[1]
        assert key.split("_", 2)[2] not in str(listed)

    @pytest.mark.parametrize(
        "invalid",
        [
            *({"name": "Reader"}, {"name": "ada@example.com"}),
            *({"scopes": "users:all"}, {"scopes": ""}),
            *({"expires": "soon"}, {"expires": "2020-01-01"}),
            {"expires": "9999-12-31T23:00-12:00"},
        ],
        ids=str,
    )
    def test_invalid_argument_is_refused(
        self, client: FlaskClient, invalid: dict[str, str]
    ) -> None:
        create_key(client, **invalid, exit_code=2)


def test_credentials_that_are_not_enabled_are_refused(secured: Secured) -> None:
    key, _ = new_key("reader", frozenset({"users:read"}), None)
    only_tokens = secured(auth_api_keys=False)
    only_keys = secured(**NO_TOKENS)
    for client, headers in ((only_tokens, bearer(key)), (only_keys, token("users:read"))):
        assert "not enabled" in problem_of(client.get(URL, headers=headers), 401)["detail"]
