"""`docker compose up`: the service behind its gateway, with its real neighbours, in containers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dev.ports import free_port
from tests.e2e.compose import Project, assert_is_confined, started_project
from tests.integration.users import ADA, URL
from tests.programs import ROOT, commands_of, run, shell
from tests.servers import docker_answers
from tests.waiting import eventually
from user_service.settings import Settings

# The first build, and the wait for the project of another module.
pytestmark = pytest.mark.timeout(600)

SERVICES = ("gateway", "user-service", "postgres", "redis")


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    with started_project() as started:
        yield started


@pytest.fixture
def https(project: Project) -> Iterator[httpx.Client]:
    """A client on the gateway, whose certificate nobody has signed; there are no users."""
    with httpx.Client(base_url="https://localhost", verify=False, timeout=20) as client:
        project.execute("postgres", "psql", "--quiet", "--command", "TRUNCATE users")
        project.execute("redis", "redis-cli", "flushall")
        yield client


@pytest.fixture
def changing(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The project for a test that changes it; afterwards it is brought up as it was."""
    yield project
    monkeypatch.undo()
    project.up()


def assert_is_problem(response: httpx.Response, status: int) -> None:
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["X-Request-ID"]


@pytest.mark.usefixtures("https")
def test_session_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ((command, page),) = re.findall(r"^\$ curl (-k .+)\n(.+)\n", readme, re.MULTILINE)
    assert shell("bash", "-c", f"curl -sS {command}") == page


@pytest.mark.usefixtures("project")
def test_owners_docker_logs_tell_of_the_pool() -> None:
    # grep reads standard output alone: what the service logs elsewhere it would not find.
    found = shell("bash", "-c", "docker logs user-service 2>/dev/null | grep pool")
    assert "connection pool opened, for at most 10 connections" in found


@pytest.mark.usefixtures("project")
def test_plain_http_is_sent_to_https_which_speaks_http_2() -> None:
    output = ("-o", "/dev/null", "-w", "%{url_effective} %{http_version}")
    said = shell("curl", "-skL", "--http2", *output, "http://localhost/api/v1/users?page=2")
    assert said == "https://localhost/api/v1/users?page=2 2"


def test_rate_limit_counts_the_clients_of_the_gateway_whatever_they_claim(
    changing: Project, https: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATE_LIMIT", "10/hour")
    changing.up()
    answers = [https.get(URL, headers={"X-Forwarded-For": f"198.51.100.{n}"}) for n in range(50)]
    refused = [each for each in answers if each.status_code == 429]
    # Not to the number: on a busy machine Redis may miss its 50 ms, and a process counts alone.
    assert len(refused) >= 20
    assert_is_problem(refused[0], 429)
    # Counted by the address that the gateway saw, and not by the gateway's own.
    gateway = changing.address_of("gateway", "front")
    (key,) = changing.execute("redis", "redis-cli", "keys", "users:limit:*").stdout.split()
    assert gateway not in key


def test_every_setting_reaches_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not docker_answers():
        pytest.skip("no Docker engine answers")
    for name in ("docker-compose.yml", "deploy/settings-of-shell.env"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    names = [name.upper() for name in Settings.model_fields]
    (tmp_path / "settings.env").write_text("".join(f"{name}=of the file\n" for name in names))
    for name in names:
        monkeypatch.setenv(name, "of the shell")
    monkeypatch.setenv("HTTP_PORT", "9080")
    monkeypatch.setenv("HTTPS_PORT", "127.0.0.1:9443")
    config = ("docker", "compose", "--project-directory", str(tmp_path), "config", "--format=json")
    services = json.loads(shell(*config))["services"]

    http, https = services["gateway"]["ports"]
    assert http["published"] == "9080"
    assert (https["host_ip"], https["published"]) == ("127.0.0.1", "9443")
    passed = services["user-service"]["environment"]
    assert {name: passed[name] for name in services["settings"]["environment"]} == passed
    of_the_shell = (ROOT / "deploy" / "settings-of-shell.env").read_text(encoding="utf-8").split()
    fixed = {"PORT", "MIGRATE_ON_START", "REDIS_HOST", "TRUSTED_PROXIES"}
    fixed.add("RATE_LIMIT_SUBJECT_HEADER")
    for name in names:
        if name not in fixed:
            assert passed[name] == f"of the {'shell' if name in of_the_shell else 'file'}", name


def test_tracked_env_is_about_compose_only() -> None:
    lines = (ROOT / ".env").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["COMPOSE_BAKE=false"]


def test_authentication_by_a_key_that_a_command_makes(
    changing: Project, https: httpx.Client
) -> None:
    secured = Project(changing.name, (*changing.files, "docker-compose.auth.yml"))
    secured.up()
    command = ("flask", "--app", "app", "keys", "create", "reader", "--scopes", "users:read")
    made = secured.compose("run", "--rm", "migrate", *command, "--expires", "1d")
    key = {"Authorization": f"Bearer {made.split()[-1]}"}
    assert_is_problem(https.get(URL), 401)
    assert https.get(URL, headers=key).status_code == 200
    assert_is_problem(https.post(URL, json=ADA, headers=key), 403)
    changing.up()
    assert https.get(URL).status_code == 200


def test_wrong_setting_ends_the_start_with_its_reason(
    changing: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATE_LIMIT", "10")
    with pytest.raises(AssertionError, match=r'service "settings" didn.t complete'):
        changing.up()
    assert "user-service: RATE_LIMIT: " in changing.compose("logs", "settings")
    assert "user-service" not in changing.health()


def test_own_certificate_is_served(project: Project, tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    name = ("-subj", "/CN=users.example", "-addext", "subjectAltName=DNS:users.example")
    files = ("-keyout", str(tmp_path / "key.pem"), "-out", str(certificate))
    shell("openssl", "req", "-x509", "-nodes", *name, *files)  # files of this user only
    (commands,) = commands_of("containers.md")
    project.bash(commands, tmp_path)

    def is_served() -> bool:
        resolved = ("--resolve", "users.example:443:127.0.0.1", "https://users.example/health/live")
        return run("curl", "-fs", "--cacert", str(certificate), *resolved).returncode == 0

    eventually(is_served)
    project.compose("up", "--wait", "--force-recreate", "certificate", "gateway")
    assert is_served()


def test_dump_restores_the_users(project: Project, https: httpx.Client, tmp_path: Path) -> None:
    *_, dump, restore = commands_of("backup-and-restore.md")
    created = https.post(URL, json=ADA)
    page = https.get(URL).json()
    project.bash(dump, tmp_path)
    assert https.delete(created.headers["Location"]).status_code == 204
    assert https.get(URL).json()["users"] == []
    project.bash(restore, tmp_path)
    assert https.get(created.headers["Location"]).headers["ETag"] == created.headers["ETag"]
    assert https.get(URL).json() == page


@pytest.mark.parametrize("service", SERVICES)
def test_container_is_confined(project: Project, service: str) -> None:
    assert_is_confined(project, service)
    assert project.health()[service] == "healthy"


def test_image_holds_what_runs_and_nothing_else(project: Project) -> None:
    programs = project.execute("user-service", "which", "python", "gcc", "cc", "make", "pytest")
    assert [Path(line).name for line in programs.stdout.splitlines()] == ["python"]
    files = set(project.execute("user-service", "ls", "/app").stdout.split())
    assert files & {"app.py", "tests", "requirements.txt"} == {"app.py"}
    assert project.execute("user-service", "python", "-c", "import pip").returncode != 0


def test_image_says_version_and_commit_of_the_service(
    project: Project, https: httpx.Client
) -> None:
    image = f"{project.name}-user-service"
    labels = json.loads(shell("docker", "inspect", image, "--format", "{{json .Config.Labels}}"))
    health = https.get("/health").json()
    assert labels["org.opencontainers.image.version"] == health["version"]
    assert labels["org.opencontainers.image.revision"] == health["commit"]


def test_prometheus_of_the_profile_finds_the_replica_up(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("PROMETHEUS_PORT", str(port))
    profile = ("--profile", "observability")
    api = f"http://127.0.0.1:{port}/api/v1"

    def targets() -> dict[str, str]:
        active = httpx.get(f"{api}/targets").json()["data"]["activeTargets"]
        return {each["labels"]["job"]: each["health"] for each in active}

    try:
        project.compose(*profile, "up", "--wait", "--wait-timeout", "60", "prometheus")
        eventually(lambda: targets() == {"user-service": "up", "prometheus": "up"}, timeout=60)
        rules = httpx.get(f"{api}/rules").json()["data"]["groups"]
        assert {rule["health"] for group in rules for rule in group["rules"]} <= {"ok", "unknown"}
        published = project.compose(*profile, "port", "prometheus", "9090")
        assert published.strip() == f"127.0.0.1:{port}"
        assert_is_confined(project, "prometheus")
    finally:
        project.compose(*profile, "rm", "--stop", "--force", "--volumes", "prometheus")


def test_service_has_no_superuser_no_table_of_its_own_and_no_way_out(project: Project) -> None:
    def roles(source: str) -> str:
        psql = ("psql", "--tuples-only", "--no-align", "users", "--command")
        return project.execute("postgres", *psql, f"SELECT DISTINCT {source}").stdout.strip()

    assert roles("rolname FROM pg_roles WHERE rolsuper OR rolcreaterole") == "postgres"
    assert roles("tableowner FROM pg_tables WHERE schemaname = 'public'") == "users"
    assert roles("usename FROM pg_stat_activity WHERE client_addr IS NOT NULL") == "users_service"
    files = project.execute("user-service", "find", "/run", "-type", "f").stdout.split()
    assert [file for file in files if "database" in file] == ["/run/database/url"]
    networks = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"
    for name in shell("docker", "inspect", "user-service", "--format", networks).split():
        inspected = shell("docker", "network", "inspect", name, "--format", "{{.Internal}}")
        assert inspected.strip() == "true", name


@pytest.mark.parametrize(("stopped", "status"), [("redis", 201), ("postgres", 503)])
def test_stopped_neighbour_is_answered_for_by_the_service(
    changing: Project, https: httpx.Client, stopped: str, status: int
) -> None:
    changing.compose("stop", stopped)
    assert https.post(URL, json=ADA).status_code == status
    assert https.get("/health/live").status_code == 200
    changing.up()
    eventually(lambda: https.get(URL).headers.get("X-Cache") == "HIT")


def test_gateway_answers_for_a_stopped_service_and_follows_it_to_a_new_address(
    changing: Project, https: httpx.Client
) -> None:
    address = changing.address_of("user-service", "front")
    shell("docker", "stop", "user-service")
    code = shell("docker", "inspect", "user-service", "--format", "{{.State.ExitCode}}")
    assert code.strip() == "0"
    answer = https.get(URL)
    assert_is_problem(answer, 503)
    assert answer.headers["Retry-After"] == "5"
    network, image = f"{changing.name}_front", f"{changing.name}-user-service"
    squatter = shell("docker", "run", "--rm", "-d", "--network", network, image, "sleep", "99")
    try:
        eventually(lambda: changing.health()["gateway"] == "unhealthy", timeout=60)
        shell("docker", "start", "user-service")
        eventually(lambda: https.get(URL).status_code == 200, timeout=30)
        assert changing.address_of("user-service", "front") != address
        eventually(lambda: set(changing.health().values()) == {"healthy"}, timeout=30)
    finally:
        shell("docker", "kill", squatter.strip())


def test_users_survive_down_and_up(project: Project, https: httpx.Client) -> None:
    created = https.post(URL, json=ADA).json()
    project.compose("down")
    assert run("docker", "container", "inspect", "user-service").returncode != 0
    project.up()
    assert https.get(URL).json()["users"] == [created]


def test_migrations_run_by_themselves_as_a_job_runs_them(project: Project) -> None:
    ended = project.execute("user-service", "flask", "--app", "app", "migrate")
    assert (ended.returncode, ended.stdout) == (0, "nothing to migrate\n"), ended.stderr
