"""Name resolution within a time. The system's resolver is a mock: its faults cannot be provoked."""

import math
import socket
import threading

import pytest
from pytest_mock import MockerFixture, MockType

from tests.waiting import LONG
from user_service.resilience import resolver


@pytest.fixture
def getaddrinfo(mocker: MockerFixture) -> MockType:
    return mocker.patch("socket.getaddrinfo", autospec=True)


def infos(*addresses: str) -> list[tuple[object, ...]]:
    """Return the result of ``getaddrinfo`` for ``addresses``."""
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "2001:DB8::0:1", "fe80::1%eth0"])
@pytest.mark.parametrize("timeout", [0, math.inf])
def test_address_is_not_looked_up(getaddrinfo: MockType, address: str, timeout: float) -> None:
    canonical = address.replace("DB8::0:1", "db8::1")
    assert resolver.addresses(address, timeout) == [canonical]
    getaddrinfo.assert_not_called()


def test_addresses_of_a_name_keep_their_order_without_duplicates(getaddrinfo: MockType) -> None:
    getaddrinfo.return_value = infos("10.0.0.2", "10.0.0.1", "10.0.0.2", "::1")
    assert resolver.addresses("db", LONG) == ["10.0.0.2", "10.0.0.1", "::1"]
    getaddrinfo.assert_called_once_with("db", None, type=socket.SOCK_STREAM)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "not known"),
        (UnicodeError("label too long"), "'nowhere' is not a name"),
    ],
)
def test_name_without_an_address_is_an_os_error(
    getaddrinfo: MockType, failure: Exception, message: str
) -> None:
    getaddrinfo.side_effect = failure
    with pytest.raises(OSError, match=message):
        resolver.addresses("nowhere", LONG)


def test_stuck_lookup_is_waited_for_within_the_time_and_delays_no_other_name(
    getaddrinfo: MockType,
) -> None:
    answers = threading.Event()

    def look_up(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        assert host != "hangs" or answers.wait(LONG)
        return infos("10.0.0.1")

    getaddrinfo.side_effect = look_up
    for timeout in [0, 0.01, *[0.001] * 20]:
        with pytest.raises(OSError, match=rf"'hangs' was not resolved within {timeout:.2f} s"):
            resolver.addresses("hangs", timeout)
    assert resolver.addresses("db", LONG) == ["10.0.0.1"]
    assert getaddrinfo.call_count == 2  # "hangs" was asked for once
    answers.set()
    assert resolver.addresses("hangs", LONG) == ["10.0.0.1"]
