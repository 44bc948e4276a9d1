"""Identifies the client of a request by its unforgeable address.

A client may send any header. Therefore its key is the address of the connection, unless that is a
trusted proxy (TRUSTED_PROXIES), which adds the address of its own client to ``X-Forwarded-For``.
"""

import hashlib
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from werkzeug.datastructures import Headers

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# One customer has at least a /64 network (RFC 6177), so all of its addresses are one client.
_NETWORK_64 = ~0 << 64


class Clients:
    """Derives the keys of clients, given the trusted ``proxies``.

    ``subject_header`` is the header, if any, in which a proxy that authenticates clients names the
    subject.
    """

    def __init__(
        self, proxies: tuple[Network, ...] = (), subject_header: str | None = None
    ) -> None:
        self._proxies = proxies
        self._subject_header = subject_header

    def key(self, peer: str | None, headers: Headers) -> str:
        """Return the key of the subject that a proxy names, else of the address; never empty."""
        address = address_of(peer or "")
        if address is None:
            return "unknown"  # the peer is a Unix socket
        if not self._is_proxy(address):
            return _key_of_address(address)
        subject = headers.get(self._subject_header) if self._subject_header else None
        if subject:
            # A digest has a bounded length, and hides the subject where keys are shown.
            return "subject:" + hashlib.blake2b(subject.encode(), digest_size=16).hexdigest()
        return _key_of_address(self._client_of(address, headers.get("X-Forwarded-For", "")))

    def _client_of(self, proxy: Address, forwarded: str) -> Address:
        """Return the last address before the chain of trusted proxies.

        Each proxy adds its client's address on the right. The client itself may have sent all that
        stands left of the first untrusted address. An entry that is no address ends the chain.
        """
        nearest = proxy
        for entry in reversed(forwarded.split(",")):
            address = address_of(entry)
            if address is None or not self._is_proxy(nearest):
                break
            nearest = address
        return nearest

    def _is_proxy(self, address: Address) -> bool:
        return any(address in network for network in self._proxies)


def address_of(text: str) -> Address | None:
    """Return the address without the port that some proxies add, or None if it is no address."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # A dual-stack socket shows IPv4 addresses as ::ffff:192.0.2.1.
    return getattr(address, "ipv4_mapped", None) or address


def _key_of_address(address: Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return f"{IPv6Address(int(address) & _NETWORK_64)}/64"
