"""The subset of ``kubectl kustomize`` that deploy/kubernetes uses, for machines without kubectl.

An unknown field is an error. A test compares the result with that of kubectl, if it is installed.

    python -m dev.kustomize deploy/kubernetes/overlays/small
"""

import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]

KNOWN = {
    "apiVersion",
    "kind",
    "namespace",
    "resources",
    "configMapGenerator",
    "images",
    "replicas",
    "patches",
}
# Resources without a schema for validation.
FOREIGN = ("postgresql.cnpg.io/",)


class UnknownField(Exception):
    """The kustomization uses a field that this module does not implement."""


def render(folder: Path) -> list[Resource]:
    """Return the resources of a kustomization; generated names have no hash."""
    kustomization = load(folder / "kustomization.yaml")[0]
    if unknown := set(kustomization) - KNOWN:
        raise UnknownField(f"{folder}: {', '.join(sorted(unknown))}")
    resources = [each for name in kustomization["resources"] for each in _resources(folder / name)]
    for generator in kustomization.get("configMapGenerator", []):
        _generate_config_map(resources, generator)
    for patch in kustomization.get("patches", []):
        _patch(resources, patch["target"], load(folder / patch["path"])[0])
    for replicas in kustomization.get("replicas", []):
        for resource in _targets(resources, {"kind": "Deployment", "name": replicas["name"]}):
            resource["spec"]["replicas"] = replicas["count"]
    for image in kustomization.get("images", []):
        _name_images(resources, **image)
    _set_namespace(resources, kustomization["namespace"])
    return resources


def load(file: Path) -> list[Any]:
    """Return the documents in a YAML file."""
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


def _resources(path: Path) -> list[Resource]:
    return render(path) if path.is_dir() else load(path)


def _generate_config_map(resources: list[Resource], generator: Resource) -> None:
    data = dict(literal.split("=", 1) for literal in generator["literals"])
    if generator.get("behavior") == "merge":
        (config_map,) = _targets(resources, {"kind": "ConfigMap", "name": generator["name"]})
        config_map["data"].update(data)
        return
    metadata = {"name": generator["name"]}
    resources.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def _targets(resources: list[Resource], target: dict[str, str]) -> list[Resource]:
    found = [
        each
        for each in resources
        if (each["kind"], each["metadata"]["name"]) == (target["kind"], target["name"])
    ]
    if not found:
        raise UnknownField(f"there is no {target['kind']} {target['name']}")
    return found


def apply(resource: Resource, op: str, path: str, value: object = None) -> None:
    """Apply one operation of a JSON patch (RFC 6902): add or remove."""
    *way, last = path.removeprefix("/").split("/")
    place: Any = resource
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if op == "remove":
        del place[last]
    elif op == "add" and last == "-":
        place.append(deepcopy(value))
    elif op == "add":
        place[last] = deepcopy(value)
    else:
        raise UnknownField(f"the operation {op}")


def _patch(resources: list[Resource], target: dict[str, str], patch: list[Any]) -> None:
    for resource in _targets(resources, target):
        for operation in patch:
            apply(resource, **operation)


def _set_namespace(resources: list[Resource], namespace: str) -> None:
    for resource in resources:
        if resource["kind"] != "Namespace":
            resource["metadata"]["namespace"] = namespace


def _name_images(resources: list[Resource], name: str, newName: str, newTag: str) -> None:  # noqa: N803
    for container in containers(resources):
        if container["image"].rpartition(":")[0] == name:
            container["image"] = f"{newName}:{newTag}"


def containers(resources: list[Resource]) -> Iterator[Resource]:
    """Yield every container of every pod that the resources describe."""
    for resource in resources:
        template = resource.get("spec", {}).get("template", {})
        yield from template.get("spec", {}).get("containers", [])


def main() -> None:
    """Print the resources of each overlay, without those of other APIs."""
    for folder in sys.argv[1:]:
        rendered = render(Path(folder))
        known = [each for each in rendered if not each["apiVersion"].startswith(FOREIGN)]
        print(yaml.safe_dump_all(known, explicit_start=True))


if __name__ == "__main__":
    main()
