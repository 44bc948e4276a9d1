"""docker-compose.yml as it is, or with files that are laid over it, in a project of its own."""

import fcntl
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs import ROOT, run, shell
from tests.servers import docker_answers

# The file fixes these, so a project that is up already, or another server, stands in the way.
CONTAINER_NAME = "user-service"
PORTS = (80, 443)


@dataclass(frozen=True, slots=True)
class Project:
    """A Compose project with its own containers, networks, volumes and image."""

    name: str
    files: tuple[str, ...] = ("docker-compose.yml",)

    @property
    def _compose(self) -> tuple[str, ...]:
        files = (part for file in self.files for part in ("--file", file))
        return ("docker", "compose", "--project-name", self.name, *files)

    def compose(self, *arguments: str) -> str:
        """Run ``docker compose`` on the project and return what it says."""
        return shell(*self._compose, *arguments)

    def up(self) -> None:
        """Start what is not running and wait until everything is healthy."""
        self.compose("up", "--build", "--wait", "--wait-timeout", "120")

    def execute(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run ``command`` in the container of ``service``, whether it succeeds or not."""
        return run(*self._compose, "exec", "--no-TTY", service, *command)

    def bash(self, commands: str, folder: Path) -> None:
        """Run ``commands``, which call ``docker compose``, in ``folder`` on this project."""
        files = ":".join(str(ROOT / file) for file in self.files)
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=folder,
            env=os.environ | {"COMPOSE_PROJECT_NAME": self.name, "COMPOSE_FILE": files},
            check=True,
        )

    def address_of(self, service: str, network: str) -> str:
        """Return the address of the container of ``service`` on ``network``."""
        container = self.compose("ps", "--quiet", service).strip()
        name = f"{self.name}_{network}"
        template = f'{{{{(index .NetworkSettings.Networks "{name}").IPAddress}}}}'
        return shell("docker", "inspect", container, "--format", template).strip()

    def volumes(self) -> set[str]:
        """Return the volumes of all containers, also those without a name."""
        containers = self.compose("ps", "--all", "--quiet").split()
        if not containers:
            return set()
        names = "{{range .Mounts}}{{.Name}} {{end}}"
        return set(shell("docker", "inspect", "--format", names, *containers).split())

    def health(self) -> dict[str, str]:
        """Return the health of each running container, by service."""
        lines = self.compose("ps", "--format", "json").splitlines()
        containers = [json.loads(line) for line in lines]
        return {each["Service"]: each["Health"] for each in containers}


@contextmanager
def started_project(*overlays: str) -> Iterator[Project]:
    """Bring the project up, or skip the test; remove it afterwards with all that it made."""
    files = ("docker-compose.yml", *overlays)
    project = Project(f"user-service-test-{os.getpid()}", files)
    with _the_only_one():
        if reason := _obstacle():
            pytest.skip(reason)
        mounted: set[str] = set()
        try:
            project.up()
            yield project
        finally:
            try:
                mounted.update(project.volumes())
            finally:
                everything = ("--volumes", "--rmi", "local", "--timeout", "30")
                project.compose("--profile", "*", "down", *everything)
    of_project = ("--quiet", "--filter", f"label=com.docker.compose.project={project.name}")
    for command in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
        assert shell("docker", *command, *of_project) == ""
    # Those without a name have no label.
    assert len(mounted) >= len(("database", "tls"))
    assert not mounted & set(shell("docker", "volume", "ls", "--quiet").split())


@contextmanager
def _the_only_one() -> Iterator[None]:
    """Wait until no other process of this machine's user has a project."""
    with (Path(tempfile.gettempdir()) / f"{CONTAINER_NAME}-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def assert_is_confined(project: Project, service: str) -> None:
    """Check that the container has no root, no capability and no writable root."""
    assert project.execute(service, "id", "-u").stdout.strip() != "0"
    status = project.execute(service, "cat", "/proc/1/status").stdout
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    assert int(facts["CapBnd"], 16) == int(facts["CapEff"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    assert "Read-only file system" in project.execute(service, "touch", "/x").stderr


def _obstacle() -> str | None:
    """Return why the project cannot be started here, or None."""
    if not docker_answers():
        return "no Docker engine answers"
    if run("docker", "container", "inspect", CONTAINER_NAME).returncode == 0:
        return f"there is a container {CONTAINER_NAME!r} already"
    taken = [port for port in PORTS if _is_taken(port)]
    return f"something listens on {taken} already" if taken else None


def _is_taken(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0
