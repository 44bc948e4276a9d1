"""The key of a client: its address, or what a trusted proxy states, never its own claim."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import Headers

from user_service.web.policies.client_address import Clients, address_of

PROXIES = tuple(map(ip_network, ("10.0.0.0/8", "192.0.2.7/32", "fd00::/8")))
BEHIND_PROXIES = Clients(PROXIES, "X-Authenticated-Subject")


def key(peer: str | None, forwarded: str | None = None, clients: Clients = BEHIND_PROXIES) -> str:
    headers = Headers() if forwarded is None else Headers({"X-Forwarded-For": forwarded})
    return clients.key(peer, headers)


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_key_is_the_address_or_the_network_of_one_customer(peer: str | None, expected: str) -> None:
    assert key(peer) == expected


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        (None, "10.1.1.1"),
        ("", "10.1.1.1"),
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 203.0.113.9", "203.0.113.9"),  # the left one is the client's own claim
        ("198.51.100.1, 203.0.113.9, 10.2.2.2,192.0.2.7", "203.0.113.9"),
        ("10.3.3.3, 10.2.2.2", "10.3.3.3"),  # from within
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::5]:4711", "2001:db8::/64"),
        ("[2001:db8::5]", "2001:db8::/64"),
        ("2001:db8::5", "2001:db8::/64"),
        ("203.0.113.9, rubbish", "10.1.1.1"),
        ("rubbish, 203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, unknown, 10.2.2.2", "10.2.2.2"),
        ("203.0.113.9,,", "10.1.1.1"),
    ],
)
def test_trusted_proxy_states_the_address(forwarded: str | None, expected: str) -> None:
    assert key("10.1.1.1", forwarded) == expected


@pytest.mark.parametrize("clients", [Clients(), BEHIND_PROXIES])
def test_headers_from_other_peers_are_ignored(clients: Clients) -> None:
    headers = Headers({"X-Forwarded-For": "198.51.100.1", "X-Authenticated-Subject": "ada"})
    assert clients.key("203.0.113.9", headers) == "203.0.113.9"


def test_subject_replaces_the_address() -> None:
    def of(subject: str, forwarded: str) -> str:
        headers = Headers({"X-Forwarded-For": forwarded, "X-Authenticated-Subject": subject})
        return BEHIND_PROXIES.key("10.1.1.1", headers)

    assert of("ada", "203.0.113.9") == of("ada", "198.51.100.1")
    assert of("ada", "203.0.113.9") != of("grace", "203.0.113.9")
    assert of("", "203.0.113.9") == "203.0.113.9"
    assert "ada@example.com" not in of("ada@example.com", "203.0.113.9")
    assert len(of("a" * 8000, "203.0.113.9")) < 50


ADDRESSES = st.ip_addresses().map(str)
FROM_OUTSIDE = ADDRESSES.filter(
    lambda text: not any(address_of(text) in network for network in PROXIES)
)
# WSGI passes on Latin-1 without line breaks.
LINES = st.text(st.characters(min_codepoint=32, max_codepoint=255))
ENTRIES = st.one_of(ADDRESSES, LINES, st.sampled_from(["", "unknown", "10.0.0.1", "["]))
HOPS = st.sampled_from(["10.2.2.2", "fd00::9", "192.0.2.7:80", "[fd00::1]:9"])


@given(peer=FROM_OUTSIDE, forwarded=st.lists(ENTRIES).map(",".join))
def test_headers_of_a_client_never_change_its_key(peer: str, forwarded: str) -> None:
    for each in (Clients(), BEHIND_PROXIES):
        assert key(peer, forwarded, each) == key(peer)


@given(client=FROM_OUTSIDE, claimed=st.lists(ENTRIES), hops=st.lists(HOPS))
def test_headers_of_a_client_behind_proxies_never_change_its_key(
    client: str, claimed: list[str], hops: list[str]
) -> None:
    assert key("10.1.1.1", ",".join([*claimed, client, *hops])) == key(client)


@given(peer=st.one_of(ENTRIES, st.none()), forwarded=LINES)
def test_every_request_has_a_key(peer: str | None, forwarded: str) -> None:
    found = key(peer, forwarded)
    assert found == "unknown" or ip_address(found.removesuffix("/64"))
