"""Opening a connection: the addresses, their order, the time for each, and the session."""

import gc
import math
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from user_service.database.connection import (
    CONNECT_TIMEOUT,
    connect,
    has_become_read_only,
    must_be_writable,
    session_parameters,
)
from user_service.errors import ConnectionLost, DeadlineExceeded, Unavailable
from user_service.resilience import deadline


class Network:
    """Stands in for the resolver and for ``psycopg2.connect``; ``failures`` are by address.

    The addresses of the hosts a, b and c end in 1, 2 and 3.
    """

    def __init__(self) -> None:
        self.names = {"a": ["10.0.0.1"], "b": ["10.0.0.2"], "c": ["10.0.0.3"]}
        self.names |= {"none": [], "two": ["10.1.0.1", "10.1.0.2"]}
        self.failures: dict[str, Exception] = {}
        self.looked_up: list[tuple[str, float]] = []
        self.attempts: list[tuple[str | None, str | None]] = []  # address and port
        self.times_left: list[float] = []
        self.reported = {"server_encoding": "UTF8"}
        self.answer = "UTF8"  # to a statement

    def addresses(self, name: str, timeout: float) -> list[str]:
        self.looked_up.append((name, timeout))
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.names[name]

    def connect(self, dsn: str, **_options: object) -> SimpleNamespace:
        parameters = parse_dsn(dsn)
        self.attempts.append((parameters.get("hostaddr"), parameters.get("port")))
        self.times_left.append(deadline.remaining())
        if failure := self.failures.get(parameters.get("hostaddr", "")):
            raise failure
        cursor = MagicMock()
        cursor.__enter__.return_value.fetchone.return_value = (self.answer,)
        return SimpleNamespace(
            autocommit=False,
            parameters=parameters,
            info=SimpleNamespace(parameter_status=self.reported.get),
            cursor=lambda: cursor,
            close=lambda: None,
        )


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()
    monkeypatch.setattr("psycopg2.connect", network.connect)
    monkeypatch.setattr("user_service.resilience.resolver.addresses", network.addresses)
    return network


REFUSED = psycopg2.OperationalError("connection refused")
SILENT = DeadlineExceeded("the database did not answer")
UNREADABLE = UnicodeDecodeError("utf-8", b"FATAL: Passwort f\xfcr", 17, 18, "invalid start byte")


def test_address_is_added_and_the_name_stays_for_tls_to_check(network: Network) -> None:
    dsn = "host=a port=5433 dbname=d user=u password='p w' sslmode=verify-full"
    opened: Any = connect(dsn)
    assert opened.autocommit is True
    assert opened.parameters == session_parameters(dsn) | {"hostaddr": "10.0.0.1"}


def test_encoding_is_asked_for_where_a_pooler_does_not_tell(network: Network) -> None:
    network.reported.clear()
    connect("host=a")
    network.answer = "LATIN1"
    with pytest.raises(Unavailable, match="encoding of the database must be UTF8, and is LATIN1"):
        connect("host=a")


@pytest.mark.parametrize("dsn", ["dbname=d", "dbname=d host=/run/postgresql"])
def test_socket_is_not_looked_up(network: Network, dsn: str) -> None:
    opened: Any = connect(dsn)
    assert opened.parameters == session_parameters(dsn)
    assert network.looked_up == []


@pytest.mark.parametrize(
    ("dsn", "failing", "asked"),
    [
        ("host=a,b,c port=1,2,3", "10.0.0.1", [("10.0.0.1", "1"), ("10.0.0.2", "2")]),
        ("host=a,b port=7", "10.0.0.1", [("10.0.0.1", "7"), ("10.0.0.2", "7")]),
        ("host=a,b", "10.0.0.1", [("10.0.0.1", None), ("10.0.0.2", None)]),
        ("host=unknown,none,b,c", "", [("10.0.0.2", None)]),
        ("host=two,b", "10.1.0.1", [("10.1.0.1", None), ("10.1.0.2", None)]),
        ("host=/run/postgresql,b", "", [(None, None), ("10.0.0.2", None)]),
    ],
)
@pytest.mark.parametrize("failure", [REFUSED, SILENT, UNREADABLE], ids=repr)
def test_hosts_and_their_addresses_are_asked_in_order_until_one_serves(
    network: Network,
    dsn: str,
    failing: str,
    asked: list[tuple[str | None, str | None]],
    failure: Exception,
) -> None:
    network.failures = {failing: failure}
    connect(dsn)
    assert network.attempts == asked
    assert "c" not in dict(network.looked_up)


@pytest.mark.parametrize(
    ("dsn", "servers"),
    [
        ("host=two", ["10.1.0.1", "10.1.0.2"]),
        ("host=two target_session_attrs=read-write", ["10.1.0.1"]),
        ("host=a,two", ["10.0.0.1"]),
    ],
)
def test_servers_that_may_answer_for_one_another(
    network: Network, dsn: str, servers: list[str]
) -> None:
    network.answer = "0000000A"  # the timeline
    assert [each["hostaddr"] for each in connect(dsn).servers] == servers


class TestNoneServes:
    def test_is_a_lost_connection_with_its_cause_and_no_password(self, network: Network) -> None:
        network.failures = {f"10.0.0.{n}": psycopg2.OperationalError(f"no {n}") for n in (1, 2, 3)}
        with pytest.raises(ConnectionLost, match="cannot connect to the database: no 3") as raised:
            connect("postgresql://u:hunter2@a,b,c/d")
        assert raised.value.__cause__ is network.failures["10.0.0.3"]
        assert len(network.attempts) == 3
        assert "hunter2" not in str(raised.value)

    @pytest.mark.parametrize(
        ("host", "message"),
        [
            ("x", "Name or service not known"),
            ("none", "no address"),
            ("a", "did not answer"),
            ("b", "database: FATAL: Passwort f\ufffdr"),  # in another encoding
        ],
    )
    def test_is_one_whatever_the_cause(self, network: Network, host: str, message: str) -> None:
        network.failures = {"10.0.0.1": SILENT, "10.0.0.2": UNREADABLE}
        with pytest.raises(ConnectionLost, match=message):
            connect(f"host={host}")

    def test_leaves_no_half_open_connection_behind(self) -> None:
        files = Path("/proc/self/fd")
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            gc.disable()
            try:
                before = len(list(files.iterdir()))
                with pytest.raises(ConnectionLost), deadline.within(0.05):
                    connect(f"host=127.0.0.1 port={port} dbname=none")
                assert len(list(files.iterdir())) == before
            finally:
                gc.enable()

    def test_fault_of_the_program_is_raised_as_it_is(self, network: Network) -> None:
        network.failures = {"10.0.0.1": psycopg2.ProgrammingError("invalid connection option")}
        with pytest.raises(psycopg2.ProgrammingError, match="invalid connection option"):
            connect("host=a,b")


@pytest.mark.parametrize(
    ("dsn", "left", "seconds"),
    [
        ("host=a,b", math.inf, CONNECT_TIMEOUT),
        ("host=a,b connect_timeout=77", math.inf, 77),
        ("host=a,b connect_timeout=99999999999999999999", math.inf, math.inf),
        ("host=a,b", 0.5, 0.5),
    ],
)
def test_each_host_has_its_time_to_be_looked_up_and_to_answer(
    network: Network, dsn: str, left: float, seconds: float
) -> None:
    network.failures = {"10.0.0.1": SILENT}
    with deadline.within(left):
        connect(dsn)
    assert network.times_left == [pytest.approx(seconds, abs=0.4)] * 2
    assert [time for _, time in network.looked_up] == [pytest.approx(seconds, abs=0.4)] * 2
    assert deadline.remaining() == math.inf


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [("any", False), ("standby", False), ("read-write", True), ("primary", True)],
)
def test_server_that_takes_writes_is_asked_for_by_the_dsn(attributes: str, expected: bool) -> None:
    dsn = "postgresql://u@a:1,b:2/users"
    assert must_be_writable(f"{dsn}?target_session_attrs={attributes}") is expected
    assert must_be_writable(dsn) is False


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

    def test_leave_what_the_dsn_says_except_for_the_encoding(self) -> None:
        url = "postgresql://u@h/db?application_name=mine&keepalives_idle=60&client_encoding=LATIN1"
        dsn = session_parameters(url, 3)
        assert (dsn["user"], dsn["host"], dsn["dbname"]) == ("u", "h", "db")
        assert (dsn["application_name"], dsn["keepalives_idle"]) == ("mine", "60")
        assert dsn["client_encoding"] == "UTF8"
        assert (dsn["keepalives"], dsn["tcp_user_timeout"]) == ("1", "10000")
        assert session_parameters("host=h", 3)["application_name"] == "user-service"

    @pytest.mark.parametrize(
        ("seconds", "setting"), [(3, "3000"), (0.0001, "1"), (0.0016, "2"), (600, "600000")]
    )
    def test_statement_timeout_is_never_0_which_would_mean_none(
        self, seconds: float, setting: str
    ) -> None:
        options = session_parameters("host=h", seconds)["options"]
        assert options == self.OURS.replace("3000", setting)

    def test_options_of_the_dsn_come_after_ours_and_so_win(self) -> None:
        url = "postgresql://h/d?options=-c%20work_mem%3D8MB%20-c%20statement_timeout%3D7s"
        options = session_parameters(url, 3)["options"]
        assert options == self.OURS + " -c work_mem=8MB -c statement_timeout=7s"
