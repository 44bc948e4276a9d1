"""Every route with every credential, on both servers and through the gateway."""

from pathlib import Path

import httpx
import pytest

from tests.e2e.gateway import Addresses, gateway
from tests.e2e.service import FLASK, SERVERS, Start, run
from tests.faults.harness.standby import rows
from tests.issuer import ALL_SCOPES, Issuer, ec_key
from tests.servers import Servers
from user_service.database.stored_keys import add_key
from user_service.domain.api_key import new_key

ISSUER = Issuer(ec_key("ec"))
FAR = 10**10
USERS, USER = "/api/v1/users", "/api/v1/users/{user_id}"
# The scope of each route; None for all callers.
SCOPES = {
    ("GET", USERS): "users:read",
    ("HEAD", USERS): "users:read",
    ("POST", USERS): "users:write",
    ("GET", USER): "users:read",
    ("HEAD", USER): "users:read",
    ("PUT", USER): "users:write",
    ("PATCH", USER): "users:write",
    ("DELETE", USER): "users:delete",
    ("GET", "/health"): "service:read",
    ("HEAD", "/health"): "service:read",
    ("GET", "/metrics"): "service:read",
    ("GET", "/health/live"): None,
    ("HEAD", "/health/live"): None,
    ("GET", "/health/ready"): None,
    ("HEAD", "/health/ready"): None,
    ("GET", "/openapi.json"): None,
    ("HEAD", "/openapi.json"): None,
    ("GET", "/docs"): None,
    ("GET", "/"): None,
    ("OPTIONS", USERS): None,
    ("OPTIONS", USER): None,
}
# Neither documented nor the gateway's.
HIDDEN = {"/metrics"}


@pytest.fixture
def environment(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    keys = tmp_path / "keys.json"
    keys.write_bytes(ISSUER.document())
    return {**environment, **ISSUER.settings(keys), "AUTH_API_KEYS": "true"}


def key(servers: Servers, name: str, scopes: str) -> str:
    text, stored = new_key(name, frozenset(scopes.split()), None)
    add_key(servers.owner_url, stored)
    return text


def refused_credentials(revoked: str, expired: str) -> dict[str, str | None]:
    """Return values of Authorization that no route with a scope accepts."""
    tokens = {
        "expired": ISSUER.token(exp=1),
        "not yet valid": ISSUER.token(nbf=FAR),
        "wrong issuer": ISSUER.token(iss="https://other.example"),
        "wrong audience": ISSUER.token(aud="other"),
        "wrong algorithm": ISSUER.token(header={"alg": "ES256", "kid": "ec"}, key=ec_key("ec")),
        "no algorithm": "eyJhbGciOiJub25lIn0." + ISSUER.token().split(".")[1] + ".",
        "unknown key": ISSUER.token(key=ec_key("unknown")),
        "truncated signature": ISSUER.token()[:-1],
        "malformed": "x",
        "revoked API key": revoked,
        "expired API key": expired,
        "malformed API key": expired[:-1],
    }
    others = {"none": None, "other scheme": "Basic YWRhOnNlY3JldA==", "without a token": "Bearer"}
    return others | {name: f"Bearer {token}" for name, token in tokens.items()}


def status(http: httpx.Client, method: str, path: str, credential: str | None) -> int:
    headers = {} if credential is None else {"Authorization": credential}
    answer = http.request(method, path.replace("{user_id}", "9"), headers=headers)
    challenges = answer.headers.get_list("WWW-Authenticate")
    if answer.status_code in (401, 403):
        assert len(challenges) == 1
        assert challenges[0].startswith("Bearer realm=")
        assert method == "HEAD" or answer.json()["status"] == answer.status_code
    else:
        assert challenges == []
    return answer.status_code


def check(url: str, refused: dict[str, str | None], by_scope: dict[str, list[str]]) -> None:
    """Ask for every route of the gateway or of the service at ``url`` with every credential."""
    hidden = HIDDEN if url.startswith("https:") else set()
    with httpx.Client(base_url=url, verify=False) as http:
        paths = http.get("/openapi.json").json()["paths"]
        documented = {(method.upper(), path) for path in paths for method in paths[path]}
        assert documented <= SCOPES.keys()
        for (method, path), scope in SCOPES.items():
            if path in hidden:
                continue
            expected = dict.fromkeys(refused.values(), 401 if scope else None)
            for granted, credentials in by_scope.items():
                is_granted = scope is None or scope in granted.split()
                expected |= dict.fromkeys(credentials, None if is_granted else 403)
            for credential, refusal in expected.items():
                got = status(http, method, path, credential)
                assert got == refusal if refusal else got not in (401, 403, 500, 503), (
                    method,
                    path,
                    credential,
                )


@pytest.mark.parametrize("server", SERVERS)
def test_every_route_with_every_credential(start: Start, servers: Servers, tmp_path: Path) -> None:
    rows(servers.owner_url, "TRUNCATE api_keys, api_key_uses")
    revoked, expired = (key(servers, name, "users:read") for name in ("revoked", "expired"))
    change = "UPDATE api_keys SET {}_at = now() WHERE name = '{}'"
    both = change.format("revoked", "revoked"), change.format("expires", "expired")
    rows(servers.owner_url, *both)
    by_scope = {scope: [f"Bearer {ISSUER.token(scope)}"] for scope in ALL_SCOPES.split()}
    by_scope["users:read"].append(f"Bearer {key(servers, 'reader', 'users:read')}")
    every = key(servers, "every", ALL_SCOPES)
    by_scope[ALL_SCOPES] = [f"Bearer {ISSUER.token()}", f"bearer  {every}"]
    by_scope["other:scope"] = [f"Bearer {ISSUER.token('other:scope')}"]
    refused = refused_credentials(revoked, expired)
    with (
        start() as service,  # which reads the keys when it begins
        gateway(tmp_path / "gateway", Addresses(tmp_path / "addresses", service.port)) as started,
    ):
        check(service.url, refused, by_scope)
        check(started.url, refused, by_scope)
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
