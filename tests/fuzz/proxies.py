"""What stands before a request by way of proxies: PROXY headers, forwarded headers."""

from __future__ import annotations

import ipaddress

from django_daphne.errors import ProtocolError
from django_daphne.protocol.forwarded import Said, read_forwarded, read_x_forwarded
from django_daphne.protocol.proxy_protocol import (
    HeaderReader,
    ProxyHeader,
    begins_header,
)
from django_daphne.trust import Trust

from . import cuttings

#: A proxy in front, and one behind it.
TRUST = Trust(["10.0.0.0/8", "fd00::/8"])

#: Version 2 says its length in two bytes, behind sixteen.
LARGEST = 16 + 0xFFFF

X_FORWARDED = ("for", "proto", "host", "port")


def header(data: bytes) -> None:
    """A PROXY header, and whatever follows it."""
    whole = _read([data])
    for parts in cuttings(data):
        other = _read(parts)
        assert other == whole, (parts, other, whole)
    if isinstance(whole, tuple):
        read, _ = whole
        assert begins_header(data)
        for address in (read.client, read.server):
            assert address is None or isinstance(address[0], str)


def _read(parts: list[bytes]) -> tuple[ProxyHeader, int] | str:
    """The header and its size; or how it ended instead."""
    reader = HeaderReader()
    size = 0
    for part in parts:
        try:
            taken = reader.take(part)
        except ProtocolError as error:
            assert error.status == 400
            return "refused"
        assert 0 <= taken <= len(part)
        size += taken
        assert size <= LARGEST
        if reader.header is not None:
            return reader.header, size
        assert taken == len(part)
    return "incomplete"


def forwarded(data: bytes) -> None:
    """Lines of fields; what the proxy saw is put behind whatever they say."""
    lines = [line for line in data.split(b"\n") if b"\r" not in line]
    fields = []
    for line in lines:
        name, _, value = line.partition(b":")
        if name in (
            b"forwarded",
            *(b"x-forwarded-%s" % n.encode() for n in X_FORWARDED),
        ):
            fields.append((name, value.strip(b" \t")))
    for read in (read_x_forwarded, read_forwarded):
        _check(read(fields, TRUST))
    # Whatever a client wrote, the address that the proxy saw comes last and wins.
    _check_truth(read_x_forwarded([*fields, (b"x-forwarded-for", b"192.0.2.7")], TRUST))
    _check_truth(
        read_forwarded([*fields, (b"forwarded", b"for=192.0.2.7;proto=http")], TRUST)
    )


def _check_truth(said: Said) -> None:
    _check(said)
    assert said.client == ("192.0.2.7", 0), said


def _check(said: Said) -> None:
    """What is told can stand in a scope."""
    if said.client is not None:
        host, port = said.client
        ipaddress.ip_address(host.partition("%")[0])
        assert port is not None and 0 <= port <= 0xFFFF
    assert said.scheme in (None, "http", "https")
    if said.host is not None:
        # A comma is a character of names (RFC 3986 section 3.2.2), if an odd one.
        assert said.host and not set(said.host) & set(b' \t\r\n"/@'), said.host
    assert said.port is None or 0 < said.port <= 0xFFFF
