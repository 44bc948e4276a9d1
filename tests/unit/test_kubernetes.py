"""The manifests of deploy/kubernetes, as they are applied."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dev.kustomize import FOREIGN, Resource, containers, render
from serve import GRACEFUL_SECONDS
from user_service import __version__
from user_service.settings import Settings
from user_service.web.api import health

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ROOT / "deploy" / "kubernetes" / "overlays"
NAMES = ["small", "production"]


@pytest.fixture(params=NAMES)
def overlay(request: pytest.FixtureRequest) -> list[Resource]:
    return render(OVERLAYS / str(request.param))


@pytest.fixture
def production() -> list[Resource]:
    return render(OVERLAYS / "production")


def one(resources: list[Resource], kind: str, name: str = "user-service") -> Any:
    (found,) = (
        each for each in resources if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found


def pod_of(resource: Any) -> Any:
    return resource["spec"]["template"]["spec"]


def pods(resources: list[Resource]) -> list[Any]:
    return [pod_of(each) for each in resources if "template" in each.get("spec", {})]


def test_manifests_are_valid(overlay: list[Resource]) -> None:
    version = kubernetes_validate.latest_version()
    for resource in overlay:
        if not resource["apiVersion"].startswith(FOREIGN):
            kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_kubectl_makes_the_same_of_them(name: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    command = [kubectl, "kustomize", str(OVERLAYS / name)]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # The hash of a generated name, which kustomize alone can tell.
    made = re.sub(r"\b(user-service)-[0-9a-z]{10}\b", r"\1", made)
    assert by_name(yaml.safe_load_all(made)) == by_name(render(OVERLAYS / name))


def test_urls_of_the_secret_are_what_the_settings_take() -> None:
    text = (OVERLAYS / "production" / "kustomization.yaml").read_text(encoding="utf-8")
    urls = dict(
        re.findall(r"^# +(database-url|database-replica-url|redis-url) +(\S+)$", text, re.MULTILINE)
    )
    assert len(urls) == 3
    urls["redis-url of a Cluster"] = re.findall(r"redis\+cluster://\S+[^.\s]", text)[0]
    for name, url in urls.items():
        field = name.split(" ")[0].replace("-", "_")
        read = getattr(Settings.model_validate({field: url}), field)
        assert read.get_secret_value() == url


def by_name(resources: Any) -> dict[tuple[str, str], Resource]:
    return {(each["kind"], each["metadata"]["name"]): each for each in resources}


def test_there_is_time_for_preStop_and_the_drain(overlay: list[Resource]) -> None:  # noqa: N802
    settings = one(overlay, "ConfigMap")["data"]
    drain_delay = float(settings.get("DRAIN_DELAY", Settings.model_fields["drain_delay"].default))
    pod = pod_of(one(overlay, "Deployment"))
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before + drain_delay + GRACEFUL_SECONDS < pod["terminationGracePeriodSeconds"]


def test_probes_ask_for_life_and_readiness(overlay: list[Resource]) -> None:
    (container,) = pod_of(one(overlay, "Deployment"))["containers"]
    paths = {
        name: container[name]["httpGet"]["path"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {
        "startupProbe": "/health/live",
        "livenessProbe": "/health/live",
        "readinessProbe": "/health/ready",
    }
    assert health.blueprint.url_prefix == "/health"
    # The pool may be waited for, and then the database: both have an end of their own.
    assert container["readinessProbe"]["timeoutSeconds"] >= 3


def test_pods_have_no_root_no_capability_and_no_writable_root(overlay: list[Resource]) -> None:
    assert len(pods(overlay)) >= 2
    for pod in pods(overlay):
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


def test_user_is_the_one_of_the_image(overlay: list[Resource]) -> None:
    dockerfile = (ROOT / "services/user-service/Dockerfile").read_text(encoding="utf-8")
    for kind, name in (("Deployment", "user-service"), ("Job", "user-service-migrate")):
        security = pod_of(one(overlay, kind, name))["securityContext"]
        assert f"USER {security['runAsUser']}:{security['runAsGroup']}\n" in dockerfile


def test_images_have_a_version_that_does_not_move(overlay: list[Resource]) -> None:
    images = {container["image"] for container in containers(overlay)}
    for image in images:
        tag = image.rpartition("/")[2].partition(":")[2]
        assert tag not in ("", "latest"), image
    assert any(image.endswith(f"user-service:{__version__}") for image in images)


def test_settings_are_ones_that_the_service_knows(overlay: list[Resource]) -> None:
    for name, value in one(overlay, "ConfigMap")["data"].items():
        setting = name.removesuffix("_FILE")
        assert setting.lower() in Settings.model_fields, name
        assert "password" not in value or name.endswith("_FILE")
    assert one(overlay, "ConfigMap")["data"]["MIGRATE_ON_START"] == "false"


def test_secrets_are_named_and_never_in_the_manifests(overlay: list[Resource]) -> None:
    assert [each for each in overlay if each["kind"] == "Secret"] == []
    for kind, name in (("Deployment", "user-service"), ("Job", "user-service-migrate")):
        volumes = {each["name"]: each for each in pod_of(one(overlay, kind, name))["volumes"]}
        assert volumes["secrets"]["secret"]["secretName"] == "user-service"
        assert volumes["tmp"]["emptyDir"]["medium"] == "Memory"


def test_selectors_find_the_pods_that_they_mean(production: list[Resource]) -> None:
    template = one(production, "Deployment")["spec"]["template"]
    labels = template["metadata"]["labels"]
    selectors = [
        one(production, "Service")["spec"]["selector"],
        one(production, "Deployment")["spec"]["selector"]["matchLabels"],
        one(production, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(production, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(
            spread["labelSelector"]["matchLabels"]
            for spread in template["spec"]["topologySpreadConstraints"]
        ),
    ]
    assert len(selectors) == 6
    for selector in selectors:
        assert selector.items() <= labels.items()
        migrates = one(production, "Job", "user-service-migrate")["spec"]["template"]["metadata"]
        assert not selector.items() <= migrates["labels"].items()


def test_network_is_closed_but_for_what_is_listed(production: list[Resource]) -> None:
    closed = one(production, "NetworkPolicy", "default-deny")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (ingress,) = one(production, "NetworkPolicy")["spec"]["ingress"]
    assert len(ingress["from"]) == 2
    assert ingress["ports"] == [{"protocol": "TCP", "port": "http"}]


def test_autoscaler_alone_says_how_many(production: list[Resource]) -> None:
    deployment, autoscaler = (
        one(production, kind) for kind in ("Deployment", "HorizontalPodAutoscaler")
    )
    assert "replicas" not in deployment["spec"]
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert autoscaler["spec"]["minReplicas"] >= 2


def test_all_replicas_together_fit_into_the_database(production: list[Resource]) -> None:
    settings = one(production, "ConfigMap")["data"]
    worker = int(settings["DB_POOL_SIZE"])
    surge = one(production, "Deployment")["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    pods = one(production, "HorizontalPodAutoscaler")["spec"]["maxReplicas"] + surge
    parameters = one(production, "Cluster", "users-db")["spec"]["postgresql"]["parameters"]
    # 20 for the operator, the standbys, the migrations and a person who looks.
    assert pods * int(settings["WEB_CONCURRENCY"]) * worker + 20 <= int(
        parameters["max_connections"]
    )
