"""The manifests of deploy/kubernetes, as kubectl renders them. ``make lint`` validates them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve import GRACEFUL_SECONDS
from user_service import __version__
from user_service.settings import Settings
from user_service.web.api import health

Resource = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
KUBECTL = Path(sys.executable).with_name("kubectl")
OVERLAYS = ROOT / "deploy" / "kubernetes" / "overlays"
OURS = [("Deployment", "user-service"), ("Job", "user-service-migrate")]


def render(folder: Path) -> list[Resource]:
    """Return the resources of a kustomization, without the hashes at the ends of their names."""
    command = [str(KUBECTL), "kustomize", str(folder)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return list(yaml.safe_load_all(re.sub(r"\b(user-service)-[0-9a-z]{10}\b", r"\1", rendered)))


PRODUCTION = render(OVERLAYS / "production")


@pytest.fixture(params=["small", "production"])
def folder(request: pytest.FixtureRequest) -> Path:
    return OVERLAYS / str(request.param)


@pytest.fixture
def overlay(folder: Path) -> list[Resource]:
    return render(folder)


def by_name(resources: Any) -> dict[tuple[str, str], Any]:
    return {(each["kind"], each["metadata"]["name"]): each for each in resources}


def one(resources: list[Resource], kind: str, name: str = "user-service") -> Any:
    return by_name(resources)[kind, name]


def pod_of(resource: Any) -> Any:
    return resource["spec"]["template"]["spec"]


def our_pods(resources: list[Resource]) -> list[Any]:
    return [pod_of(one(resources, *each)) for each in OURS]


def test_urls_of_the_secret_are_what_the_settings_take() -> None:
    text = (OVERLAYS / "production" / "kustomization.yaml").read_text(encoding="utf-8")
    urls = re.findall(
        r"^# +(database-url|database-replica-url|redis-url) +(\S+)$", text, re.MULTILINE
    )
    assert len(dict(urls)) == 3
    for name, url in [*urls, ("redis-url", re.findall(r"redis\+cluster://\S+[^.\s]", text)[0])]:
        field = name.replace("-", "_")
        read = getattr(Settings.model_validate({field: url}), field)
        assert read.get_secret_value() == url


def test_there_is_time_for_preStop_and_the_drain(overlay: list[Resource]) -> None:  # noqa: N802
    settings = one(overlay, "ConfigMap")["data"]
    drain_delay = float(settings.get("DRAIN_DELAY", Settings.model_fields["drain_delay"].default))
    pod = pod_of(one(overlay, "Deployment"))
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before + drain_delay + GRACEFUL_SECONDS < pod["terminationGracePeriodSeconds"]


def test_probes_ask_for_life_and_readiness(overlay: list[Resource]) -> None:
    (container,) = pod_of(one(overlay, "Deployment"))["containers"]
    asked = (("startup", "live"), ("liveness", "live"), ("readiness", "ready"))
    for probe, path in asked:
        assert container[f"{probe}Probe"]["httpGet"]["path"] == f"/health/{path}"
    assert health.blueprint.url_prefix == "/health"
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


def test_settings_are_ones_that_the_service_knows(overlay: list[Resource]) -> None:
    settings = one(overlay, "ConfigMap")["data"]
    for name, value in settings.items():
        assert name.removesuffix("_FILE").lower() in Settings.model_fields, name
        assert "password" not in value or name.endswith("_FILE")
    assert settings["MIGRATE_ON_START"] == "false"


def test_secrets_are_named_and_never_in_the_manifests(overlay: list[Resource]) -> None:
    assert [each for each in overlay if each["kind"] == "Secret"] == []
    for pod in our_pods(overlay):
        volumes = {each["name"]: each for each in pod["volumes"]}
        assert volumes["secrets"]["secret"]["secretName"] == "user-service"
        assert volumes["tmp"]["emptyDir"]["medium"] == "Memory"


def test_selectors_find_the_pods_that_they_mean() -> None:
    deployment, job = one(PRODUCTION, "Deployment"), one(PRODUCTION, "Job", "user-service-migrate")
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


def test_autoscaler_alone_scales_and_all_fit_into_the_database() -> None:
    settings, deployment = one(PRODUCTION, "ConfigMap")["data"], one(PRODUCTION, "Deployment")
    autoscaler = one(PRODUCTION, "HorizontalPodAutoscaler")["spec"]
    assert "replicas" not in deployment["spec"]
    assert autoscaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert autoscaler["minReplicas"] >= 2
    most = autoscaler["maxReplicas"] + deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    connections = most * int(settings["WEB_CONCURRENCY"]) * int(settings["DB_POOL_SIZE"])
    parameters = one(PRODUCTION, "Cluster", "users-db")["spec"]["postgresql"]["parameters"]
    # 20 for the operator, the standbys, the migrations and a person who looks.
    assert connections + 20 <= int(parameters["max_connections"])
