"""Debian's PostgreSQL and Redis with TLS, which those from wheels are built without."""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from trustme import LeafCert

from dev.data_dir import DataDir
from dev.ports import free_port
from dev.servers import PostgresServer
from tests.faults.harness.standby import run
from tests.programs import program
from tests.redis_topologies import CLUSTER, PASSWORD, SERVICE, DebianRedis

CERTIFICATE, KEY = "certificate.pem", "key.pem"


def write(directory: DataDir, certificate: LeafCert) -> None:
    directory.write(KEY, certificate.private_key_pem.bytes().decode())
    directory.write(CERTIFICATE, certificate.cert_chain_pems[0].bytes().decode())


class TlsPostgres(PostgresServer):
    """A server of any version, which starts with ``certificate``."""

    title = "PostgreSQL with TLS"
    locale = ("--encoding=UTF8", "--locale=C")

    def __init__(self, data_dir: Path, certificate: LeafCert) -> None:
        files = {"ssl_cert_file": CERTIFICATE, "ssl_key_file": KEY}
        options = {name: str(data_dir.resolve() / file) for name, file in files.items()}
        super().__init__(data_dir, options={"ssl": "on", **options}, durable=False)
        self._path("postgres")  # or the test is skipped before anything is started
        self._certificate = certificate

    def present(self, certificate: LeafCert) -> None:
        """Show ``certificate`` to new connections, soon."""
        write(self._dir, certificate)
        if self.running:
            run(self, "SELECT pg_reload_conf()")

    def disconnect(self) -> None:
        """End the connections of the service."""
        run(self, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> user")

    def _prepare(self) -> None:
        super()._prepare()
        self.present(self._certificate)

    def _path(self, name: str) -> str:
        return program(name)


class TlsRedis(DebianRedis):
    """A server that starts with ``certificate``; without TLS on its other port."""

    title = "Redis with TLS"

    def __init__(
        self, data_dir: Path, certificate: LeafCert, options: Mapping[str, str] | None = None
    ) -> None:
        self.tls_port = free_port()
        files = {"tls-cert-file": CERTIFICATE, "tls-key-file": KEY}
        self._files = {name: str(data_dir.resolve() / file) for name, file in files.items()}
        tls = {"tls-port": str(self.tls_port), "tls-auth-clients": "no", **self._files}
        super().__init__(data_dir, {**tls, **(options or {})})
        self._certificate = certificate

    @property
    def tls_url(self) -> str:
        """Database 0 on the port with TLS, by the name in the certificates."""
        return f"rediss://:{PASSWORD}@localhost:{self.tls_port}/0"

    def present(self, certificate: LeafCert) -> None:
        """Show ``certificate`` to new connections."""
        write(self._dir, certificate)
        if self.running:
            with self.client() as client:
                client.execute_command("CONFIG SET", *chain(*self._files.items()))

    def disconnect(self) -> None:
        """End the connections of the service."""
        with self.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)

    def _prepare(self) -> None:
        super()._prepare()
        self.present(self._certificate)


class TlsSentinel(TlsRedis):
    """A sentinel that asks ``master`` over TLS, and trusts the authorities in ``trusted``."""

    mode = ("--sentinel",)

    def __init__(
        self, data_dir: Path, certificate: LeafCert, trusted: Path, master: TlsRedis
    ) -> None:
        watched = {
            f"sentinel monitor {SERVICE} 127.0.0.1 {master.tls_port}": "1",
            f"sentinel auth-pass {SERVICE}": PASSWORD,
            "tls-replication": "yes",
            "tls-ca-cert-file": str(trusted),
        }
        super().__init__(data_dir, certificate, watched)

    @property
    def tls_url(self) -> str:
        """The master that it names."""
        address = f"localhost:{self.tls_port}/{SERVICE}/0?sentinel_password={PASSWORD}"
        return f"rediss+sentinel://:{PASSWORD}@{address}"


class TlsCluster(TlsRedis):
    """A Cluster of one node, which serves all keys."""

    def __init__(self, data_dir: Path, certificate: LeafCert, trusted: Path) -> None:
        tls = {"tls-cluster": "yes", "tls-ca-cert-file": str(trusted)}
        options = {**CLUSTER, "cluster-port": str(free_port()), **tls}
        super().__init__(data_dir, certificate, options)

    @property
    def tls_url(self) -> str:
        """The Cluster, through its node."""
        return f"rediss+cluster://:{PASSWORD}@localhost:{self.tls_port}?"

    def start(self) -> None:
        super().start()
        with self.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
