"""Names to addresses. The resolver is a mock: what it does to a name cannot be provoked."""

import math
import socket
import threading
from collections.abc import Iterator

import pytest
from pytest_mock import MockerFixture, MockType

from user_service.resilience import resolver

LONG = 30.0  # seconds: nobody who does as they should waits for so long


@pytest.fixture
def getaddrinfo(mocker: MockerFixture) -> MockType:
    return mocker.patch("socket.getaddrinfo", autospec=True)


def infos(*addresses: str) -> list[tuple[object, ...]]:
    """Return what ``getaddrinfo`` returns for ``addresses``."""
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
@pytest.mark.parametrize("timeout", [0, math.inf])
def test_address_is_not_looked_up(
    getaddrinfo: MockType, host: str, address: str, timeout: float
) -> None:
    assert resolver.addresses(host, timeout) == [address]
    getaddrinfo.assert_not_called()


def test_name_has_its_addresses_in_their_order_and_once_each(getaddrinfo: MockType) -> None:
    getaddrinfo.return_value = infos("10.0.0.2", "10.0.0.1", "10.0.0.2", "::1")
    assert resolver.addresses("db", LONG) == ["10.0.0.2", "10.0.0.1", "::1"]
    getaddrinfo.assert_called_once_with("db", None, type=socket.SOCK_STREAM)


def test_name_that_nobody_knows_is_an_os_error(getaddrinfo: MockType) -> None:
    getaddrinfo.side_effect = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with pytest.raises(OSError, match="Name or service not known"):
        resolver.addresses("nowhere.invalid", LONG)


class TestResolverThatHangs:
    @pytest.fixture(autouse=True)
    def answers(self, getaddrinfo: MockType) -> Iterator[threading.Event]:
        """Set when the name ``hangs`` is answered, after the test at the latest."""
        answers = threading.Event()

        def look_up(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
            assert host != "hangs" or answers.wait(LONG)
            return infos("10.0.0.1")

        getaddrinfo.side_effect = look_up
        yield answers
        answers.set()

    def test_is_waited_for_only_so_long(self) -> None:
        with pytest.raises(OSError, match=r"the name 'hangs' was not resolved within 0\.01 s"):
            resolver.addresses("hangs", 0.01)

    def test_is_not_waited_for_when_no_time_is_left(self) -> None:
        with pytest.raises(OSError, match="not resolved"):
            resolver.addresses("hangs", 0)

    def test_does_not_hold_up_the_other_names(self) -> None:
        for _ in range(3):
            with pytest.raises(OSError, match="not resolved"):
                resolver.addresses("hangs", 0.001)
        assert resolver.addresses("db", LONG / 3) == ["10.0.0.1"]

    def test_is_not_asked_on_behalf_of_who_has_given_up(
        self, getaddrinfo: MockType, answers: threading.Event
    ) -> None:
        for _ in range(20):
            with pytest.raises(OSError, match="not resolved"):
                resolver.addresses("hangs", 0.001)
        answers.set()
        assert resolver.addresses("db", LONG) == ["10.0.0.1"]
        assert getaddrinfo.call_count <= 4 + 1
