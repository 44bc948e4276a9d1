"""The gateway and the balancer of deploy/gateway under this machine's own nginx, without Docker.

Replaced are addresses, ports and folders, and what a nginx older than 1.25 writes differently.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from dev.ports import free_port
from tests.programs import program
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "deploy" / "gateway"


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway: its addresses, and the file that its log goes to."""

    url: str
    port: int
    plain_url: str
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")


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
    addresses: Addresses,
    *,
    balanced: bool = False,
    open_files: int = 1024,
    **environment: str,
) -> Iterator[Gateway]:
    """Start the gateway before the service, or with ``balanced`` before the balancer.

    ``open_files`` is its soft limit.
    """
    folder.mkdir()
    tls_port, plain_port = free_port(), free_port()
    _adapt(folder, {8443: tls_port, 8080: plain_port})
    if balanced:
        shutil.copy(folder / "upstream-balancer.conf", folder / "upstream.conf")
    certificate = ["sh", str(SOURCE / "certificate.sh"), str(folder), str(os.getuid())]
    subprocess.run(certificate, check=True, capture_output=True)
    url = f"https://127.0.0.1:{tls_port}"
    arguments = ["nginx.conf", "name", "80"]
    environment["SERVERS"] = addresses.command
    with _running(folder, arguments, url, environment, open_files) as log:
        yield Gateway(url, tls_port, f"http://127.0.0.1:{plain_port}", log)


@contextmanager
def balancer(folder: Path, replicas: Addresses) -> Iterator[int]:
    """Start the balancer of ``replicas``, which must have one that is ready; return its port."""
    folder.mkdir()
    port = free_port()
    _adapt(folder, {8081: port})
    arguments = ["balancer.conf", "name", "80", "/health/ready"]
    with _running(folder, arguments, f"http://127.0.0.1:{port}", {"SERVERS": replicas.command}):
        yield port


def _adapt(folder: Path, ports: dict[int, int]) -> None:
    for file in SOURCE.iterdir():
        text = file.read_text(encoding="utf-8")
        for old, new in ports.items():
            text = text.replace(f"listen {old}", f"listen 127.0.0.1:{new}")
            text = text.replace(f"listen [::]:{old}", f"listen [::1]:{new}")
        if file.suffix == ".conf":
            text = re.sub(r"(?<=[ ])/tmp/", f"{folder}/", text)
            text = text.replace("/etc/nginx/tls/", f"{folder}/")
            if os.geteuid() == 0 and "\nevents {" in text:
                text = "user root;\n" + text  # or its workers could not enter the tests' folder
            # `http2 on` is from 1.25.1 on.
            text = text.replace(" ssl;", " ssl http2;").replace("http2 on;", "")
        (folder / file.name).write_text(text)


@contextmanager
def _running(
    folder: Path,
    arguments: list[str],
    url: str,
    environment: dict[str, str],
    open_files: int = 1024,
) -> Iterator[Path]:
    """Run nginx.sh until the end of the block, which begins when nginx answers."""
    log = folder / "log"
    script, arguments[0] = str(folder / "nginx.sh"), str(folder / arguments[0])
    path = f"{Path(program('nginx')).parent}:{os.environ['PATH']}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", f'ulimit -Sn {open_files}; exec sh "$0" "$@"', script, *arguments],
            env={"PATH": path, "FOLDER": str(folder), **environment},
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
