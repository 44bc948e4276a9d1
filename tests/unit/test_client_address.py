"""The key of a client: its address, or what a trusted proxy states, never its own claim."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import Headers

from user_service.web.policies.client_address import Clients, address_of

PROXIES = tuple(map(ip_network, ("10.0.0.0/8", "192.0.2.7/32", "fd00::/8")))
BEHIND_PROXIES = Clients(PROXIES, "X-Authenticated-Subject")


def key(
    peer: str | None,
    forwarded: str | None = None,
    subject: str | None = None,
    clients: Clients = BEHIND_PROXIES,
) -> str:
    sent = {"X-Forwarded-For": forwarded, "X-Authenticated-Subject": subject}
    given = {name: text for name, text in sent.items() if text is not None}
    return clients.key(peer, Headers(given))


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        ("::ffff:203.0.113.9", None, "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", None, "2001:db8:1:2::/64"),  # the network of one customer
        ("fe80::1%eth0", None, "fe80::/64"),
        ("", None, "unknown"),
        (None, None, "unknown"),
        ("10.1.1.1", None, "10.1.1.1"),
        ("10.1.1.1", "", "10.1.1.1"),
        ("10.1.1.1", "203.0.113.9", "203.0.113.9"),
        ("10.1.1.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"),  # the left one is a claim
        ("10.1.1.1", "198.51.100.1, 203.0.113.9, 10.2.2.2,192.0.2.7", "203.0.113.9"),
        ("10.1.1.1", "10.3.3.3, 10.2.2.2", "10.3.3.3"),  # from within
        ("10.1.1.1", "203.0.113.9:4711", "203.0.113.9"),
        ("10.1.1.1", "[2001:db8::5]:4711", "2001:db8::/64"),
        ("10.1.1.1", "[2001:db8::5]", "2001:db8::/64"),
        ("10.1.1.1", "2001:db8::5", "2001:db8::/64"),
        ("10.1.1.1", "203.0.113.9, rubbish", "10.1.1.1"),
        ("10.1.1.1", "rubbish, 203.0.113.9", "203.0.113.9"),
        ("10.1.1.1", "203.0.113.9, unknown, 10.2.2.2", "10.2.2.2"),
        ("10.1.1.1", "203.0.113.9,,", "10.1.1.1"),
    ],
)
def test_key_is_the_address_of_the_peer_or_the_one_that_trusted_proxies_state(
    peer: str | None, forwarded: str | None, expected: str
) -> None:
    assert key(peer, forwarded) == expected


def test_subject_replaces_the_address() -> None:
    ada = key("10.1.1.1", "203.0.113.9", "ada@example.com")
    assert ada == key("10.1.1.1", "198.51.100.1", "ada@example.com")
    assert ada != key("10.1.1.1", "203.0.113.9", "grace@example.com")
    assert key("10.1.1.1", "203.0.113.9", "") == "203.0.113.9"
    assert "ada@example.com" not in ada
    assert len(key("10.1.1.1", "203.0.113.9", "a" * 8000)) < 50


ADDRESSES = st.ip_addresses().map(str)
FROM_OUTSIDE = ADDRESSES.filter(
    lambda text: not any(address_of(text) in network for network in PROXIES)
)
# WSGI passes on Latin-1 without line breaks.
LINES = st.text(st.characters(min_codepoint=32, max_codepoint=255))
ENTRIES = st.one_of(ADDRESSES, LINES, st.sampled_from(["", "unknown", "10.0.0.1", "["]))
HOPS = st.sampled_from(["10.2.2.2", "fd00::9", "192.0.2.7:80", "[fd00::1]:9"])


@given(peer=FROM_OUTSIDE, forwarded=st.lists(ENTRIES).map(",".join), subject=LINES)
def test_headers_of_a_client_never_change_its_key(peer: str, forwarded: str, subject: str) -> None:
    for each in (Clients(), BEHIND_PROXIES):
        assert key(peer, forwarded, subject, each) == key(peer)


@given(client=FROM_OUTSIDE, claimed=st.lists(ENTRIES), hops=st.lists(HOPS))
def test_headers_of_a_client_behind_proxies_never_change_its_key(
    client: str, claimed: list[str], hops: list[str]
) -> None:
    assert key("10.1.1.1", ",".join([*claimed, client, *hops])) == key(client)


@given(peer=st.one_of(ENTRIES, st.none()), forwarded=LINES)
def test_every_request_has_a_key(peer: str | None, forwarded: str) -> None:
    found = key(peer, forwarded)
    assert found == "unknown" or ip_address(found.removesuffix("/64"))
