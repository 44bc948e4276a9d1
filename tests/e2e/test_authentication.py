"""Every route with each kind of credential, on both servers and through the gateway.

tests/unit/test_tokens.py and tests/integration/test_authentication.py have all invalid ones.
"""

from pathlib import Path

import httpx
import pytest

from tests.e2e.gateway import gateway
from tests.e2e.service import FLASK, SERVERS, Start, run
from tests.faults.harness.standby import rows
from tests.issuer import ALL_SCOPES, Issuer, ec_key
from tests.servers import Servers
from user_service.database.stored_keys import add_key, revoke_key
from user_service.domain.api_key import new_key

ISSUER = Issuer(ec_key("ec"))
USERS, USER = "/api/v1/users", "/api/v1/users/{user_id}"
PUBLIC = ("/", "/docs", "/openapi.json", "/health/live", "/health/ready")
CHANGES = {"PUT": "users:write", "PATCH": "users:write", "DELETE": "users:delete"}
# The scope of each method of a route, or None for all callers. That of GET is also for HEAD.
SCOPES: dict[str, dict[str, str | None]] = {
    USERS: {"GET": "users:read", "POST": "users:write", "OPTIONS": None},
    USER: {"GET": "users:read", **CHANGES, "OPTIONS": None},
    "/health": {"GET": "service:read"},
    "/metrics": {"GET": "service:read"},
    **{path: {"GET": None} for path in PUBLIC},
}


@pytest.fixture
def environment(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    return environment | ISSUER.settings(tmp_path / "keys.json") | {"AUTH_API_KEYS": "true"}


def key(servers: Servers, name: str, scopes: str) -> str:
    text, stored = new_key(name, frozenset(scopes.split()), None)
    add_key(servers.owner_url, stored)
    return text


def refusal(http: httpx.Client, method: str, path: str, credential: str | None) -> int | None:
    """Return 401 or 403 if the answer is about the credential, and None otherwise."""
    headers = {} if credential is None else {"Authorization": credential}
    answer = http.request(method, path.replace("{user_id}", "9"), headers=headers)
    challenges = answer.headers.get_list("WWW-Authenticate")
    if answer.status_code not in (401, 403):
        assert answer.status_code < 500
        assert challenges == []
        return None
    assert [each.split("=")[0] for each in challenges] == ["Bearer realm"]
    assert method == "HEAD" or answer.json()["status"] == answer.status_code
    return answer.status_code


def expected(scope: str | None, granted: str | None) -> int | None:
    """Return the refusal of a credential with the scopes ``granted``, or of an invalid one."""
    if scope is None:
        return None
    if granted is None:
        return 401
    return None if scope in granted.split() else 403


def check(url: str, credentials: dict[str | None, str | None]) -> None:
    """Ask for every route of the gateway or of the service at ``url`` with every credential."""
    with httpx.Client(base_url=url, verify=False) as http:
        paths = http.get("/openapi.json").json()["paths"]
        assert all(method.upper() in SCOPES[path] for path in paths for method in paths[path])
        for path, scopes in SCOPES.items():
            if path == "/metrics" and url.startswith("https:"):
                continue  # which the gateway has not
            for method, scope in {"HEAD": scopes["GET"], **scopes}.items():
                for credential, granted in credentials.items():
                    refused = refusal(http, method, path, credential)
                    assert refused == expected(scope, granted), (method, path, credential)


@pytest.mark.parametrize("server", SERVERS)
def test_every_route_with_every_credential(start: Start, servers: Servers, tmp_path: Path) -> None:
    rows(servers.owner_url, "TRUNCATE api_keys, api_key_uses")
    revoked = key(servers, "revoked", "users:read")
    revoke_key(servers.owner_url, "revoked")
    invalid = (revoked, ISSUER.token(exp=1), ISSUER.token(key=ec_key("ec")))
    credentials: dict[str | None, str | None] = {
        **dict.fromkeys((None, "Basic YWRhOnNlY3JldA==", "Bearer")),
        **dict.fromkeys(f"Bearer {each}" for each in invalid),
        **{f"Bearer {ISSUER.token(scope)}": scope for scope in ALL_SCOPES.split()},
        f"Bearer {ISSUER.token('other:scope')}": "other:scope",
        f"Bearer {ISSUER.token()}": ALL_SCOPES,
        f"Bearer {key(servers, 'reader', 'users:read')}": "users:read",
        f"bearer  {key(servers, 'every', ALL_SCOPES)}": ALL_SCOPES,
    }
    with (
        start() as service,  # which reads the keys when it begins
        gateway(tmp_path / "gateway", service.port) as started,
    ):
        check(service.url, credentials)
        check(started.url, credentials)
    assert "principal=key:every" in service.log


def test_command_prints_the_key_alone_and_logs_elsewhere(
    environment: dict[str, str], servers: Servers, tmp_path: Path
) -> None:
    rows(servers.owner_url, "TRUNCATE api_keys, api_key_uses")
    owner = {"DATABASE_OWNER_URL": servers.owner_url}
    ignored = {"CURSOR_KEY": "key", "CURSOR_KEY_FILE": str(tmp_path)}
    command = [*FLASK, "keys", "create", "reader", "--scopes", "users:read", "--expires", "1d"]
    ended = run(command, {**environment, **owner, **ignored})
    assert (ended.returncode, len(ended.stdout.split())) == (0, 1), ended.stdout
    assert ended.stdout.startswith("usk_")
    assert ended.stderr.endswith("CURSOR_KEY_FILE is ignored, because CURSOR_KEY is set too\n")
