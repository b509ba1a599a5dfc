"""Whose word is taken: addresses, networks, and whoever may open a Unix socket.

``PROXY["TRUSTED"]`` and ``--trusted-proxy`` say it in texts, which mean the same to the
checks and to the server. Host names are none of them: what a name means is for others
to change.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable

#: In the place of an address: every client of a Unix socket, to which the file's
#: permissions have let it.
UNIX = "unix"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Addresses whose answer is remembered. Proxies are few; behind them are many clients.
MAX_REMEMBERED = 4096


def parse_trusted(text: str) -> Network | None:
    """The network that ``text`` names, a single address included; None for "unix".

    :raises ValueError: with one sentence for the user.
    """
    if text == UNIX:
        return None
    if text == "*":
        raise ValueError("'*': write '0.0.0.0/0' and '::/0' to believe everybody.")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither an address, nor a network like '10.0.0.0/8', nor "
            f"'unix'."
        ) from None
    if isinstance(network, ipaddress.IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            # Clients of a socket for both are known by their IPv4 addresses.
            raise ValueError(f"{text!r}: write it as IPv4, like '{mapped}'.")
    address, slash, _ = text.partition("/")
    if slash and parse_address(address) != network.network_address:
        raise ValueError(f"{text!r} is an address in the network '{network}': say one.")
    return network


def parse_address(text: str) -> IPAddress | None:
    """An address as trust is decided by it; None where ``text`` is none.

    IPv4 that comes by way of IPv6 (``::ffff:192.0.2.1``) is IPv4.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address


class Trust:
    """Some of the world's addresses.

    ``unix`` is whether clients of Unix sockets are among them; :meth:`covers` answers
    for all others.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        texts = tuple(texts)
        networks = [parse_trusted(text) for text in texts]
        self.unix = UNIX in texts
        self.networks: list[Network] = [
            *ipaddress.collapse_addresses(
                net for net in networks if isinstance(net, ipaddress.IPv4Network)
            ),
            *ipaddress.collapse_addresses(
                net for net in networks if isinstance(net, ipaddress.IPv6Network)
            ),
        ]
        #: Whether ``text`` is an address that is trusted. The name of a link in an IPv6
        #: address (``fe80::1%eth0``) does not matter.
        self.covers = functools.lru_cache(MAX_REMEMBERED)(self._covers)

    @property
    def everyone(self) -> bool:
        """Whether no IPv4 address, or no IPv6 address, is outside."""
        return any(network.prefixlen == 0 for network in self.networks)

    def _covers(self, text: str) -> bool:
        address = parse_address(text.partition("%")[0])
        return address is not None and any(
            address in network for network in self.networks
        )
