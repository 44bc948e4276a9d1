"""The manifests of deploy/kubernetes, as kubectl renders them. ``make lint`` validates them."""

import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve import GRACEFUL_SECONDS
from tests.programs import ROOT, commands_of, shell
from user_service import __version__
from user_service.settings import Settings

Resource = dict[str, Any]

KUBECTL = Path(sys.executable).with_name("kubectl")
OVERLAYS = ROOT / "deploy" / "kubernetes" / "overlays"
MIGRATION = f"user-service-migrate-{__version__}"
OURS = [("Deployment", "user-service"), ("Job", MIGRATION)]


def kustomize(folder: Path) -> str:
    """Return what ``kubectl apply -k`` would apply."""
    return shell(str(KUBECTL), "kustomize", str(folder))


def render(folder: Path) -> list[Resource]:
    """Return the resources of a kustomization, without the hashes at the ends of their names."""
    rendered = re.sub(r"\b(user-service)-[0-9a-z]{10}\b", r"\1", kustomize(folder))
    return list(yaml.safe_load_all(rendered))


PRODUCTION = render(OVERLAYS / "production")


@pytest.fixture(params=["small", "production"])
def overlay(request: pytest.FixtureRequest) -> list[Resource]:
    return render(OVERLAYS / str(request.param))


def by_name(resources: Any) -> dict[tuple[str, str], Any]:
    return {(each["kind"], each["metadata"]["name"]): each for each in resources}


def one(resources: list[Resource], kind: str, name: str = "user-service") -> Any:
    return by_name(resources)[kind, name]


def settings_of(resources: list[Resource], name: str = "user-service") -> Any:
    return one(resources, "ConfigMap", name)["data"]


def pod_of(resource: Any) -> Any:
    return resource["spec"]["template"]["spec"]


def our_pods(resources: list[Resource]) -> list[Any]:
    return [pod_of(one(resources, *each)) for each in OURS]


def test_commands_of_the_page_make_the_secrets_that_are_mounted(tmp_path: Path) -> None:
    (commands,) = commands_of("kubernetes.md")
    applied = tmp_path / "applied"
    made = commands.replace("kubectl apply --filename -", f"(cat && echo ---) >>{applied}")
    given = {"REDIS_URL": "redis://redis/0", "ACCESS_KEY_ID": "id", "ACCESS_SECRET_KEY": "key"}
    path = f"{KUBECTL.parent}:{os.environ['PATH']}"
    subprocess.run(["bash", "-euc", made], env={"PATH": path} | given, check=True)
    secrets = by_name(filter(None, yaml.safe_load_all(applied.read_text(encoding="utf-8"))))
    assert {each["metadata"]["namespace"] for each in secrets.values()} == {"user-service"}
    data = {
        name: {key: b64decode(value).decode() for key, value in each["data"].items()}
        for (_, name), each in secrets.items()
    }
    assert data["users-db-owner"].keys() == {"username", "password"}
    store = one(PRODUCTION, "ObjectStore", "users-db-backup")["spec"]["configuration"]
    keys_of_store = {each["key"] for each in store["s3Credentials"].values()}
    assert keys_of_store == data["users-db-backup"].keys()
    settings = settings_of(PRODUCTION) | settings_of(PRODUCTION, "user-service-migrate")
    files = {
        name.removesuffix("_FILE").lower(): value.removeprefix("/run/secrets/").split("/")
        for name, value in settings.items()
        if name.endswith("_FILE")
    }
    mounted = {*map(tuple, files.values())}
    assert mounted == {
        (secret, key) for secret in ("user-service", "user-service-migrate") for key in data[secret]
    }
    read = Settings.model_validate({name: data[of][key] for name, (of, key) in files.items()})
    for login, url in (("owner", read.owner_dsn), ("service", read.database_dsn)):
        assert "//{username}:{password}@".format(**data[f"users-db-{login}"]) in str(url)


def test_there_is_time_for_preStop_and_the_drain(overlay: list[Resource]) -> None:  # noqa: N802
    settings = settings_of(overlay)
    drain_delay = float(settings.get("DRAIN_DELAY", Settings.model_fields["drain_delay"].default))
    pod = pod_of(one(overlay, "Deployment"))
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before + drain_delay + GRACEFUL_SECONDS < pod["terminationGracePeriodSeconds"]


def test_rollout_waits_as_long_as_the_migration_may_take(overlay: list[Resource]) -> None:
    deployment, job = one(overlay, "Deployment")["spec"], one(overlay, "Job", MIGRATION)["spec"]
    assert deployment["progressDeadlineSeconds"] > job["activeDeadlineSeconds"]


def test_probes_ask_for_life_and_readiness(overlay: list[Resource]) -> None:
    (container,) = pod_of(one(overlay, "Deployment"))["containers"]
    asked = (("startup", "live"), ("liveness", "live"), ("readiness", "ready"))
    for probe, path in asked:
        assert container[f"{probe}Probe"]["httpGet"]["path"] == f"/health/{path}"
    # The pool may be waited for, and then the database: both have an end of their own.
    assert container["readinessProbe"]["timeoutSeconds"] >= 3


def test_pods_have_no_root_no_capability_and_no_writable_root(overlay: list[Resource]) -> None:
    dockerfile = (ROOT / "services/user-service/Dockerfile").read_text(encoding="utf-8")
    for pod in our_pods(overlay):
        user, group = pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]
        assert f"USER {user}:{group}\n" in dockerfile
    for pod in [pod_of(each) for each in overlay if "template" in each.get("spec", {})]:
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            assert "cpu" in container["resources"]["requests"]


def test_images_have_a_version_that_does_not_move(overlay: list[Resource]) -> None:
    pods = [pod_of(each) for each in overlay if "template" in each.get("spec", {})]
    images = {container["image"] for pod in pods for container in pod["containers"]}
    for image in images:
        assert image.rpartition("/")[2].partition(":")[2] not in ("", "latest"), image
    assert any(image.endswith(f"user-service:{__version__}") for image in images)


def test_edge_is_a_way_in_that_is_as_closed_as_the_rest(tmp_path: Path) -> None:
    gateway = "- ../../components/gateway"
    after = list(changed(tmp_path / "copy", gateway, gateway.replace("gateway", "edge")).values())
    test_pods_have_no_root_no_capability_and_no_writable_root(after)
    test_images_have_a_version_that_does_not_move(after)
    settings = [each["data"] for each in after if each["kind"] == "ConfigMap"]
    assert [each for each in settings if each.get("GATEWAY_PAGES") == "true"]
    edge, api = (
        one(after, "Deployment", name)["spec"]["template"]["metadata"]["labels"]
        for name in ("user-service-edge", "user-service")
    )
    monitored = one(after, "PodMonitor", "user-service-edge")["spec"]
    assert monitored["selector"]["matchLabels"].items() <= edge.items()
    (container,) = pod_of(one(after, "Deployment", "user-service-edge"))["containers"]
    # Without the service, it is there to say so.
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/metrics", "port": "metrics"}
    grace = pod_of(one(after, "Deployment", "user-service-edge"))["terminationGracePeriodSeconds"]
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] < grace
    ports = {port["name"] for port in container["ports"]}
    assert {each["port"] for each in monitored["podMetricsEndpoints"]} <= ports
    to_database = one(after, "NetworkPolicy", "user-service-to-database")["spec"]["podSelector"]
    (of_database,) = one(after, "NetworkPolicy", "users-db")["spec"]["ingress"][0]["from"]
    for selector in (to_database, of_database["podSelector"]):
        (expression,) = selector["matchExpressions"]
        assert edge[expression["key"]] not in expression["values"]
        assert api[expression["key"]] in expression["values"]
    between = one(after, "NetworkPolicy", "user-service-from-edge")["spec"]
    assert between["podSelector"]["matchLabels"].items() <= api.items()
    assert between["ingress"][0]["from"] == [{"podSelector": {"matchLabels": edge}}]
    validate = [str(KUBECTL.with_name("kubernetes-validate")), "--strict", "--quiet", "--no-warn"]
    rendered = yaml.safe_dump_all(each for each in after if "edge" in each["metadata"]["name"])
    subprocess.run([*validate, "/dev/stdin"], input=rendered, text=True, check=True)


def test_settings_are_ones_that_the_service_knows(overlay: list[Resource]) -> None:
    settings, of_the_job = settings_of(overlay), settings_of(overlay, "user-service-migrate")
    for name, value in [*settings.items(), *of_the_job.items()]:
        assert name.removesuffix("_FILE").lower() in Settings.model_fields, name
        assert "password" not in value or name.endswith("_FILE")
    assert settings["MIGRATE_ON_START"] == "false"


def test_production_authenticates_and_reaches_the_issuer() -> None:
    given = {name.lower(): value for name, value in settings_of(PRODUCTION).items()}
    of_auth = {name: value for name, value in given.items() if name.startswith("auth_")}
    settings = Settings.model_validate(of_auth)
    assert settings.authenticates
    assert settings.auth_audience
    assert "metrics" in settings.auth_public
    egress = one(PRODUCTION, "NetworkPolicy")["spec"]["egress"]
    assert {"ports": [{"protocol": "TCP", "port": 443}]} in egress


def changed(folder: Path, old: str, new: str) -> dict[tuple[str, str], Any]:
    """Render a copy of the production overlay in ``folder`` with another text."""
    overlay = shutil.copytree(OVERLAYS.parent, folder) / "overlays" / "production"
    file = overlay / "kustomization.yaml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    return by_name(yaml.safe_load_all(kustomize(overlay)))


def test_changed_setting_replaces_the_pods_and_leaves_the_job(tmp_path: Path) -> None:
    before = by_name(yaml.safe_load_all(kustomize(OVERLAYS / "production")))
    after = changed(tmp_path / "copy", "DB_POOL_SIZE=5", "DB_POOL_SIZE=4")
    assert after["Job", MIGRATION] == before["Job", MIGRATION]
    assert after["Deployment", "user-service"] != before["Deployment", "user-service"]


def test_each_version_has_a_migration_job_of_its_own(tmp_path: Path) -> None:
    after = changed(tmp_path / "copy", f"newTag: {__version__}", "newTag: 9.0.0")
    assert ("Job", "user-service-migrate-9.0.0") in after
    assert ("Job", MIGRATION) not in after


def test_secrets_are_named_and_never_in_the_manifests(overlay: list[Resource]) -> None:
    assert [each for each in overlay if each["kind"] == "Secret"] == []
    for pod in our_pods(overlay):
        volumes = {each["name"]: each for each in pod["volumes"]}
        assert volumes["secrets"]["secret"]["secretName"] == "user-service"
        assert volumes["tmp"]["emptyDir"]["medium"] == "Memory"


def test_migrations_alone_have_the_password_of_the_owner() -> None:
    service, job = our_pods(PRODUCTION)
    assert "user-service-migrate" in str(job["volumes"])
    assert "user-service-migrate" not in str(service)
    assert "DATABASE_OWNER_URL_FILE" not in settings_of(PRODUCTION)


def test_selectors_find_the_pods_that_they_mean() -> None:
    deployment, job = one(PRODUCTION, "Deployment"), one(PRODUCTION, "Job", MIGRATION)
    labels, others = (each["spec"]["template"]["metadata"]["labels"] for each in (deployment, job))
    spreads = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert len(spreads) == 2
    for selector in (
        one(PRODUCTION, "Service")["spec"]["selector"],
        deployment["spec"]["selector"]["matchLabels"],
        one(PRODUCTION, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(PRODUCTION, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in spreads),
    ):
        assert selector.items() <= labels.items()
        assert not selector.items() <= others.items()


def test_network_is_closed_but_for_what_is_listed() -> None:
    closed = one(PRODUCTION, "NetworkPolicy", "default-deny")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (ingress,) = one(PRODUCTION, "NetworkPolicy")["spec"]["ingress"]
    assert len(ingress["from"]) == 2
    assert ingress["ports"] == [{"protocol": "TCP", "port": "http"}]
    # The instances of the database reach each other, in both directions.
    between = {"podSelector": {"matchLabels": {"cnpg.io/cluster": "users-db"}}}
    database = one(PRODUCTION, "NetworkPolicy", "users-db")["spec"]
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        rules = [rule for rule in database[direction] if between in rule.get(peers, ())]
        assert {port["port"] for rule in rules for port in rule["ports"]} == {5432, 8000}


def test_monitors_backups_and_routes_name_what_there_is() -> None:
    labels = one(PRODUCTION, "Service")["metadata"]["labels"]
    monitor = one(PRODUCTION, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    ports = {port["name"]: port["port"] for port in one(PRODUCTION, "Service")["spec"]["ports"]}
    assert {each["port"] for each in monitor["endpoints"]} <= ports.keys()
    database = one(PRODUCTION, "Cluster", "users-db")["spec"]
    selector = one(PRODUCTION, "PodMonitor", "users-db")["spec"]["selector"]
    assert selector == {"matchLabels": {"cnpg.io/cluster": "users-db"}}
    backup = one(PRODUCTION, "ScheduledBackup", "users-db")["spec"]
    assert backup["cluster"]["name"] == "users-db"
    (plugin,) = database["plugins"]
    assert plugin["name"] == backup["pluginConfiguration"]["name"]
    assert one(PRODUCTION, "ObjectStore", plugin["parameters"]["barmanObjectName"])
    for rule in one(PRODUCTION, "HTTPRoute")["spec"]["rules"]:
        for backend in rule["backendRefs"]:
            assert (backend["name"], backend["port"]) == ("user-service", ports["http"])
    # The network of all pods would let each of them choose the address that is counted.
    assert "TRUSTED_PROXIES" not in settings_of(PRODUCTION)


def test_rules_are_those_of_prometheus() -> None:
    files = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
    groups = [
        group for file in files for group in yaml.safe_load(file.read_text("utf-8"))["groups"]
    ]
    assert one(PRODUCTION, "PrometheusRule")["spec"]["groups"] == groups, "run `make rules`"


@pytest.mark.parametrize("through", ["", "pooler"])
def test_autoscaler_alone_scales_and_all_fit_into_the_database(
    tmp_path: Path, through: str
) -> None:
    settings, deployment = settings_of(PRODUCTION), one(PRODUCTION, "Deployment")
    autoscaler = one(PRODUCTION, "HorizontalPodAutoscaler")["spec"]
    assert "replicas" not in deployment["spec"]
    assert autoscaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert autoscaler["minReplicas"] >= 2
    most = autoscaler["maxReplicas"] + deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    connections = most * int(settings["WEB_CONCURRENCY"]) * int(settings["DB_POOL_SIZE"])
    database = one(PRODUCTION, "Cluster", "users-db")["spec"]
    if through:
        component = "- ../../components/pooler"
        resources = changed(tmp_path / "copy", f"# {component}", component)
        pooler = resources["Pooler", "users-db-pooler"]
        size = int(pooler["spec"]["pgbouncer"]["parameters"]["default_pool_size"])
        connections = pooler["spec"]["instances"] * size
    # 10 for migrations, 20 for the operator, the standbys and a person who looks.
    limit = database["managed"]["roles"][0]["connectionLimit"]
    assert connections + 10 <= limit
    assert limit + 20 <= int(database["postgresql"]["parameters"]["max_connections"])
