"""The client behind a trusted proxy, put into the place of the proxy.

Whether a connection's peer is trusted is decided once, when it is made. Only what comes
on connections of trusted peers is ever looked at here, so that nobody else can say
anything, and requests of nobody else cost anything. Clients ask for more than one
thing, and what was said of a client before is remembered.
"""

from __future__ import annotations

from typing import Protocol

from ..config import Proxy
from ..protocol.forwarded import (
    FORWARDED,
    NOTHING,
    X_FORWARDED,
    Said,
    read_forwarded,
    read_x_forwarded,
)
from ..protocol.headers import Headers
from ..trust import Trust
from .context import Address, Peer

#: What is remembered: so many sets of fields, none longer than this.
MAX_KNOWN = 4096
MAX_KNOWN_BYTES = 256


class ForwardedHead(Protocol):
    headers: Headers


class Forwarding:
    """Reads what trusted peers say, in the words that the settings chose."""

    def __init__(self, proxy: Proxy, trust: Trust) -> None:
        self._trust = trust
        if proxy.headers == "forwarded":
            self._names, self._read = FORWARDED, read_forwarded
        else:
            self._names, self._read = X_FORWARDED, read_x_forwarded
        self._known: dict[tuple[tuple[bytes, bytes], ...], Said] = {}

    def see_through(self, peer: Peer, head: ForwardedHead) -> Peer:
        """The ends of the client's own connection, as far as ``peer`` tells them.

        ``peer`` is trusted. Where it names another host, that becomes the ``Host`` of
        ``head``.
        """
        names = self._names
        fields = tuple([field for field in head.headers if field[0] in names])
        if not fields:
            return peer
        said = self._known.get(fields) or self._learn(fields)
        if said is NOTHING:
            return peer
        if said.host is not None:
            head.headers = _with_host(head.headers, said.host)
        return peer.on_behalf_of(
            said.client, said.scheme, _server(peer.server, head.headers, said)
        )

    def _learn(self, fields: tuple[tuple[bytes, bytes], ...]) -> Said:
        said = self._read(fields, self._trust)
        if sum([len(value) for _, value in fields]) <= MAX_KNOWN_BYTES:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[fields] = said
        return said


def _with_host(headers: Headers, host: bytes) -> Headers:
    replaced = [(name, host if name == b"host" else value) for name, value in headers]
    # HTTP/1.0 has none.
    if not any(name == b"host" for name, _ in replaced):
        replaced.insert(0, (b"host", host))
    return replaced


def _server(known: Address | None, headers: Headers, said: Said) -> Address | None:
    """Where the client has connected to: our own name with the port that it knows."""
    if said.port is None:
        return known
    if known is not None and known[1] is not None:
        return known[0], said.port
    # The path of a Unix socket has no port; the host that was asked for has one.
    host = dict(headers).get(b"host", b"").decode("latin-1")
    name, _, port = host.rpartition(":")
    return (name if name and port.isdecimal() else host), said.port
