"""Opening a connection: the addresses, their order, the time for each, and the session."""

import gc
import math
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from user_service.database.connect import (
    CONNECT_TIMEOUT,
    connect,
    must_be_writable,
    with_session_defaults,
)
from user_service.database.connections import has_become_read_only
from user_service.errors import ConnectionLost, DeadlineExceeded
from user_service.resilience import deadline


class Network:
    """Stands in for the resolver and for ``psycopg2.connect``; ``failures`` are by address."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.failures: dict[str, Exception] = {}
        self.looked_up: list[str] = []
        self.attempts: list[dict[str, str]] = []
        self.times_left: list[float] = []

    def addresses(self, name: str, _timeout: float) -> list[str]:
        self.looked_up.append(name)
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.names[name]

    def connect(self, dsn: str) -> SimpleNamespace:
        parameters = parse_dsn(dsn)
        self.attempts.append(parameters)
        self.times_left.append(deadline.remaining())
        failure = self.failures.get(parameters.get("hostaddr", ""))
        if failure is not None:
            raise failure
        info = SimpleNamespace(parameter_status={"server_encoding": "UTF8"}.get)
        return SimpleNamespace(autocommit=False, parameters=parameters, info=info)

    @property
    def asked(self) -> list[tuple[str | None, str | None]]:
        """Address and port of every attempt."""
        return [(attempt.get("hostaddr"), attempt.get("port")) for attempt in self.attempts]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """Three hosts a, b and c, whose addresses end in 1, 2 and 3."""
    network = Network()
    network.names = {"a": ["10.0.0.1"], "b": ["10.0.0.2"], "c": ["10.0.0.3"]}
    monkeypatch.setattr("psycopg2.connect", network.connect)
    monkeypatch.setattr("user_service.resilience.resolver.addresses", network.addresses)
    return network


@pytest.fixture(autouse=True)
def no_deadline() -> Iterator[None]:
    yield
    deadline.clear()


REFUSED = psycopg2.OperationalError("connection refused")
SILENT = DeadlineExceeded("the database did not answer")


def test_address_is_added_and_the_name_stays_for_tls_to_check(network: Network) -> None:
    opened: Any = connect("host=a port=5433 dbname=d user=u password='p w' sslmode=verify-full")
    assert opened.autocommit is True
    assert opened.parameters == {
        "host": "a",
        "hostaddr": "10.0.0.1",
        "port": "5433",
        "dbname": "d",
        "user": "u",
        "password": "p w",
        "sslmode": "verify-full",
    }


@pytest.mark.parametrize("dsn", ["dbname=d", "dbname=d host=/run/postgresql"])
def test_socket_is_not_looked_up(network: Network, dsn: str) -> None:
    opened: Any = connect(dsn)
    assert opened.parameters == parse_dsn(dsn)
    assert network.looked_up == []


@pytest.mark.parametrize(
    ("dsn", "failures", "asked"),
    [
        ("host=a,b,c port=1,2,3", {"10.0.0.1": REFUSED}, [("10.0.0.1", "1"), ("10.0.0.2", "2")]),
        ("host=a,b,c port=1,2,3", {"10.0.0.1": SILENT}, [("10.0.0.1", "1"), ("10.0.0.2", "2")]),
        ("host=a,b port=7", {"10.0.0.1": REFUSED}, [("10.0.0.1", "7"), ("10.0.0.2", "7")]),
        ("host=a,b", {"10.0.0.1": REFUSED}, [("10.0.0.1", None), ("10.0.0.2", None)]),
        ("host=unknown,none,b", {}, [("10.0.0.2", None)]),
        ("host=two,b", {"10.1.0.1": REFUSED}, [("10.1.0.1", None), ("10.1.0.2", None)]),
        ("host=/run/postgresql,b", {"": REFUSED}, [(None, None), ("10.0.0.2", None)]),
    ],
)
def test_hosts_and_their_addresses_are_asked_in_order_until_one_serves(
    network: Network,
    dsn: str,
    failures: dict[str, Exception],
    asked: list[tuple[str | None, str | None]],
) -> None:
    network.names |= {"none": [], "two": ["10.1.0.1", "10.1.0.2"]}
    network.failures = failures
    connect(dsn)
    assert network.asked == asked


def test_host_after_the_one_that_serves_is_not_looked_up(network: Network) -> None:
    connect("host=a,b,c")
    assert network.looked_up == ["a"]


class TestNoneServes:
    def test_is_a_lost_connection_with_its_cause(self, network: Network) -> None:
        network.failures = {f"10.0.0.{n}": psycopg2.OperationalError(f"no {n}") for n in (1, 2, 3)}
        with pytest.raises(ConnectionLost, match="cannot connect to the database: no 3") as raised:
            connect("host=a,b,c")
        assert raised.value.__cause__ is network.failures["10.0.0.3"]
        assert len(network.attempts) == 3

    @pytest.mark.parametrize(
        ("break_it", "message"),
        [
            pytest.param(lambda n: n.names.clear(), "Name or service not known", id="unknown"),
            pytest.param(lambda n: n.names.update(a=[]), "no address", id="no address"),
            pytest.param(
                lambda n: n.failures.update({"10.0.0.1": SILENT}), "did not answer", id="silent"
            ),
        ],
    )
    def test_is_one_whatever_the_cause(
        self, network: Network, break_it: Callable[[Network], None], message: str
    ) -> None:
        break_it(network)
        with pytest.raises(ConnectionLost, match=message):
            connect("host=a")

    def test_leaves_no_half_open_connection_behind(self) -> None:
        def files() -> int:
            return len(list(Path("/proc/self/fd").iterdir()))

        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            gc.disable()
            try:
                before = files()
                with pytest.raises(ConnectionLost), deadline.within(0.05):
                    connect(f"host=127.0.0.1 port={port} dbname=none")
                assert files() == before
            finally:
                gc.enable()

    def test_tells_no_password(self, network: Network) -> None:
        network.failures = {"10.0.0.1": REFUSED}
        with pytest.raises(ConnectionLost) as raised:
            connect("postgresql://u:hunter2@a/d")
        assert "hunter2" not in str(raised.value)

    def test_fault_of_the_program_is_raised_as_it_is(self, network: Network) -> None:
        network.failures = {"10.0.0.1": psycopg2.ProgrammingError("invalid connection option")}
        with pytest.raises(psycopg2.ProgrammingError, match="invalid connection option"):
            connect("host=a,b")


class TestTime:
    @pytest.mark.parametrize(
        ("dsn", "left", "seconds"),
        [
            ("host=a,b", math.inf, [CONNECT_TIMEOUT, CONNECT_TIMEOUT]),
            ("host=a,b connect_timeout=77", math.inf, [77, 77]),
            ("host=a,b", 0.5, [0.5, 0.5]),
        ],
    )
    def test_of_each_host(
        self, network: Network, dsn: str, left: float, seconds: list[float]
    ) -> None:
        network.failures = {"10.0.0.1": SILENT}
        with deadline.within(left):
            connect(dsn)
        assert network.times_left == [pytest.approx(each, abs=0.4) for each in seconds]
        assert deadline.remaining() == math.inf

    def test_is_what_names_are_looked_up_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        limits: list[float] = []

        def hang(_name: str, timeout: float) -> list[str]:
            limits.append(timeout)
            raise OSError("not resolved")

        monkeypatch.setattr("user_service.resilience.resolver.addresses", hang)
        with pytest.raises(ConnectionLost, match="not resolved"):
            connect("host=a,b connect_timeout=9")
        assert limits == [pytest.approx(9, abs=0.5)] * 2


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [("", False), ("any", False), ("standby", False), ("read-write", True), ("primary", True)],
)
def test_server_that_takes_writes_is_asked_for_by_the_dsn(attributes: str, expected: bool) -> None:
    dsn = "postgresql://u@a:1,b:2/users"
    dsn += f"?target_session_attrs={attributes}" if attributes else ""
    assert must_be_writable(dsn) is expected


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ({}, False),  # PostgreSQL 13 and PgBouncer do not say
        ({"in_hot_standby": "off", "default_transaction_read_only": "off"}, False),
        ({"in_hot_standby": "on", "default_transaction_read_only": "off"}, True),
        ({"in_hot_standby": "off", "default_transaction_read_only": "on"}, True),
    ],
)
def test_server_says_when_it_takes_no_writes(reported: dict[str, str], expected: bool) -> None:
    connection: Any = SimpleNamespace(info=SimpleNamespace(parameter_status=reported.get))
    assert has_become_read_only(connection) is expected


class TestSessionDefaults:
    OURS = "-c statement_timeout=3000 -c idle_in_transaction_session_timeout=3000 -c timezone=UTC"

    def test_are_added_to_a_dsn_that_says_nothing(self) -> None:
        dsn = parse_dsn(with_session_defaults("postgresql://u@h/db", 3))
        assert dsn["options"] == self.OURS
        assert (dsn["application_name"], dsn["keepalives"]) == ("user-service", "1")
        assert (dsn["user"], dsn["host"], dsn["dbname"]) == ("u", "h", "db")

    def test_leave_what_the_dsn_says_except_for_the_encoding(self) -> None:
        url = "postgresql://u@h/db?application_name=mine&keepalives_idle=60&client_encoding=LATIN1"
        dsn = parse_dsn(with_session_defaults(url, 3))
        assert (dsn["application_name"], dsn["keepalives_idle"]) == ("mine", "60")
        assert (dsn["client_encoding"], dsn["tcp_user_timeout"]) == ("UTF8", "10000")

    @pytest.mark.parametrize(
        ("seconds", "setting"), [(0.0001, "1"), (0.0016, "2"), (600, "600000")]
    )
    def test_statement_timeout_is_never_0_which_would_mean_none(
        self, seconds: float, setting: str
    ) -> None:
        options = parse_dsn(with_session_defaults("host=h", seconds))["options"]
        assert options == self.OURS.replace("3000", setting)

    def test_options_of_the_dsn_come_after_ours_and_so_win(self) -> None:
        url = "postgresql://h/d?options=-c%20work_mem%3D8MB%20-c%20statement_timeout%3D7s"
        options = parse_dsn(with_session_defaults(url, 3))["options"]
        assert options == self.OURS + " -c work_mem=8MB -c statement_timeout=7s"

    def test_of_a_session_are_left_out_where_it_is_shared(self) -> None:
        dsn = parse_dsn(with_session_defaults("host=h", None))
        assert (dsn["options"], dsn["keepalives"]) == ("", "1")

    @pytest.mark.parametrize("password", ["it's", "back\\slash", "two words", "ü"])
    def test_keep_a_password_of_any_characters(self, password: str) -> None:
        dsn: Any = psycopg2.extensions.make_dsn("host=h", password=password)
        assert parse_dsn(with_session_defaults(dsn, 3))["password"] == password
