"""The gateway and the balancer of deploy/gateway under this machine's own nginx, without Docker.

Replaced are addresses, ports and folders, and what a nginx older than 1.25 writes differently.
The edge, which is the gateway with Lua, runs in its image.
"""

import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from dev.ports import free_port
from tests.programs import ROOT, program
from tests.waiting import eventually

SOURCE = ROOT / "deploy" / "gateway"


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway: its addresses, and the file that its log goes to."""

    url: str
    port: int
    plain_url: str
    log_file: Path
    metrics_url: str

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Edge:
    """The image of the edge, and texts of its files with their replacements."""

    image: str
    changes: Mapping[str, str]


class Addresses:
    """The addresses that a name server would give for a name, in a file."""

    def __init__(self, file: Path, *ports: int, host: str = "127.0.0.1") -> None:
        self.command = f"cat {file}"
        self._file = file
        self._host = f"[{host}]" if ":" in host else host
        self.set(*ports)

    def set(self, *ports: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text("".join(f"{self._host}:{port}\n" for port in ports))
        new.rename(self._file)


@contextmanager
def gateway(
    folder: Path,
    addresses: Addresses | int,
    *,
    balanced: bool = False,
    open_files: int = 1024,
    edge: Edge | None = None,
    **environment: str,
) -> Iterator[Gateway]:
    """Start the gateway before the service, or with ``balanced`` before the balancer.

    A port is one of 127.0.0.1. ``open_files`` is its soft limit. With ``edge`` it serves pages
    itself.
    """
    folder.mkdir()
    if isinstance(addresses, int):
        addresses = Addresses(folder / "addresses", addresses)
    tls_port, plain_port, metrics_port = free_port(), free_port(), free_port()
    environment |= {"SERVERS": addresses.command, "FOLDER": str(folder)}
    environment["CERTIFICATES"] = str(folder)
    start = ["sh", "-c", f'ulimit -Sn {open_files}; exec sh "$0" "$@"']
    changes: dict[str, str] = {}
    if edge is not None:
        changes = {"/etc/nginx/edge/": f"{folder}/edge/", **edge.changes}
        names = (part for name in environment for part in ("--env", name))
        volume = f"--volume={folder.parent}:{folder.parent}"
        user = f"--user={os.getuid()}:{os.getgid()}"  # who can remove the files that nginx makes
        start = ["docker", "run", "--rm", user, "--network=host", volume, *names]
        start += ["--entrypoint=sh", edge.image]
    _adapt(folder, {8443: tls_port, 8080: plain_port, 9145: metrics_port}, changes)
    if balanced:
        shutil.copy(folder / "upstream-balancer.conf", folder / "upstream.conf")
    certificate = ["sh", str(SOURCE / "certificate.sh"), str(folder), str(os.getuid())]
    subprocess.run(certificate, check=True, capture_output=True)
    url = f"https://127.0.0.1:{tls_port}"
    arguments = ["nginx.conf", "name", "80"]
    with _running(folder, arguments, url, environment, start) as log:
        plain_url, metrics_url = (f"http://127.0.0.1:{port}" for port in (plain_port, metrics_port))
        yield Gateway(url, tls_port, plain_url, log, f"{metrics_url}/metrics")


def insecure() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def tls(gateway: Gateway, context: ssl.SSLContext | None = None) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection(("127.0.0.1", gateway.port), timeout=15) as plain,
        (context or insecure()).wrap_socket(plain) as secured,
    ):
        yield secured


@contextmanager
def balancer(folder: Path, replicas: Addresses) -> Iterator[int]:
    """Start the balancer of ``replicas``, which must have one that is ready; return its port."""
    folder.mkdir()
    port = free_port()
    _adapt(folder, {8081: port}, {})
    arguments = ["balancer.conf", "name", "80", "/health/ready"]
    environment = {"SERVERS": replicas.command, "FOLDER": str(folder)}
    with _running(folder, arguments, f"http://127.0.0.1:{port}", environment, ["sh"]):
        yield port


def _adapt(folder: Path, ports: dict[int, int], changes: dict[str, str]) -> None:
    (folder / "edge").mkdir()
    for file in (path for path in SOURCE.rglob("*") if path.is_file()):
        text = file.read_text(encoding="utf-8")
        for old, new in ports.items():
            text = text.replace(f"listen {old}", f"listen 127.0.0.1:{new}")
            text = text.replace(f"listen [::]:{old}", f"listen [::1]:{new}")
        if file.suffix == ".conf":
            text = re.sub(r"(?<=[ ])/tmp/", f"{folder}/", text)
            text = re.sub("/etc/nginx/(tls|gateway)/", f"{folder}/", text)
            if os.geteuid() == 0 and "\nevents {" in text:
                text = "user root;\n" + text  # or its workers could not enter the tests' folder
            # `http2 on` is from 1.25.1 on.
            text = text.replace(" ssl;", " ssl http2;").replace("http2 on;", "")
        for before, after in changes.items():
            text = text.replace(before, after)
        (folder / file.relative_to(SOURCE)).write_text(text)


@contextmanager
def _running(
    folder: Path,
    arguments: list[str],
    url: str,
    environment: dict[str, str],
    start: list[str],
) -> Iterator[Path]:
    """Run nginx.sh by ``start`` until the end of the block, which begins when nginx answers."""
    log = folder / "log"
    script, arguments[0] = str(folder / "nginx.sh"), str(folder / arguments[0])
    nginx = program("nginx") if start[0] == "sh" else ""
    path = f"{Path(nginx).parent}:{os.environ['PATH']}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*start, script, *arguments],
            env={"PATH": path, **environment},
            stdout=output,
            stderr=output,
        )
    try:
        eventually(lambda: _answers(url))
        yield log
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(url, verify=False).status_code > 0
    return False
