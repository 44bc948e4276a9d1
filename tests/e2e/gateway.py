"""The gateway and the balancer of deploy/gateway under this machine's own nginx, without Docker.

Replaced are addresses, ports and folders, and what a nginx older than 1.25 writes differently.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.e2e.service import free_port
from tests.programs import program
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "deploy" / "gateway"


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway: its address, and the file that its log goes to."""

    url: str
    port: int
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")


class Replicas:
    """The list that a name server would give the balancer, in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.ports: list[int] = []

    def set(self, *ports: int) -> None:
        self.ports = list(ports)
        new = self.file.with_suffix(".new")
        new.write_text("".join(f"127.0.0.1:{port}\n" for port in ports))
        new.rename(self.file)


@contextmanager
def gateway(folder: Path, service_port: int, *, balanced: bool = False) -> Iterator[Gateway]:
    """Start the gateway before a port: the service's, or with ``balanced`` the balancer's."""
    folder.mkdir()
    tls_port, plain_port = free_port(), free_port()
    changes = {
        "listen 8443 ssl;": f"listen 127.0.0.1:{tls_port} ssl;",
        "listen 8080;": f"listen 127.0.0.1:{plain_port};",
        "server user-service:5000;": f"server 127.0.0.1:{service_port};",
        "server balancer:8081;": f"server 127.0.0.1:{service_port};",
    }
    _adapt(folder, changes)
    if balanced:
        shutil.copy(folder / "upstream-balancer.conf", folder / "upstream.conf")
    certificate = ["sh", str(SOURCE / "certificate.sh"), str(folder), str(os.getuid())]
    subprocess.run(certificate, check=True, capture_output=True)
    command = [program("nginx"), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
    with _running(command, folder) as log:
        started = Gateway(f"https://127.0.0.1:{tls_port}", tls_port, log)
        eventually(lambda: _is_live(started.url))
        yield started


@contextmanager
def balancer(folder: Path, replicas: Replicas) -> Iterator[int]:
    """Start the balancer of ``replicas``, which must have one that is ready; return its port."""
    folder.mkdir()
    port = free_port()
    _adapt(folder, {"listen 8081;": f"listen 127.0.0.1:{port};"})
    environment = {
        "PATH": f"{Path(program('nginx')).parent}:{os.environ['PATH']}",
        "REPLICAS": f"cat {replicas.file}",
        "REPLICAS_FILE": str(folder / "replicas.conf"),
    }
    command = ["sh", str(folder / "balancer.sh"), str(folder / "balancer.conf")]
    with _running(command, folder, environment):
        eventually(lambda: _is_live(f"http://127.0.0.1:{port}"))
        yield port


def _adapt(folder: Path, changes: dict[str, str]) -> None:
    for file in SOURCE.iterdir():
        text = file.read_text(encoding="utf-8")
        for old, new in changes.items():
            text = text.replace(old, new)
        if file.suffix == ".conf":
            text = _for_this_machine(text, folder)
        (folder / file.name).write_text(text)


def _for_this_machine(text: str, folder: Path) -> str:
    text = re.sub(r"(?<=[ ])/tmp/", f"{folder}/", text)
    text = text.replace("/etc/nginx/tls/", f"{folder}/")
    if os.geteuid() == 0 and "\nevents {" in text:
        text = "user root;\n" + text  # or its workers could not enter the tests' folder
    # `http2 on` is from 1.25.1 on.
    return re.sub(r" ssl;\n\s*http2 on;", " ssl http2;", text)


@contextmanager
def _running(
    command: list[str], folder: Path, environment: dict[str, str] | None = None
) -> Iterator[Path]:
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, stdout=output, stderr=output
        )
    try:
        yield log
    finally:
        process.terminate()
        process.wait(20)


def _is_live(url: str) -> bool:
    try:
        return httpx.get(f"{url}/.gateway/live", verify=False).status_code == 204
    except httpx.TransportError:
        return False
