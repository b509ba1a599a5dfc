"""The PROXY protocol, versions 1 and 2: a proxy says for whom it connects.

A header stands before everything else on a connection, before TLS even, so whoever
reads it must not read beyond it: :class:`HeaderReader` is shown bytes and says how many
of them are the header's. It is strict, because the specification is: a connection whose
header cannot be read is closed, never guessed at.

The specification is HAProxy's ``proxy-protocol.txt``; section numbers are its.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import ProtocolError
from ..trust import parse_address
from .wire import Wire

V1_SIGNATURE = b"PROXY "
V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

#: Section 2.1: the longest line of version 1, with its end.
MAX_V1 = 107

#: Section 2.2: the signature, version and command, family, and length of the rest.
_FIXED = struct.Struct("!12sBBH")

_V1 = re.compile(
    rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+)"
    rb" (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n"
)
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")

_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED = 0x00
_INET4, _INET6, _UNIX = 1, 2, 3
#: Streams, and datagrams: a proxy may speak HTTP/3 to its clients.
_TRANSPORTS = (1, 2)

_ADDRESSES = {
    _INET4: struct.Struct("!4s4sHH"),
    _INET6: struct.Struct("!16s16sHH"),
    _UNIX: struct.Struct("!108s108s"),
}

#: Section 2.2.7: PP2_TYPE_SSL, its first bit, its other two together, and what it may
#: hold.
_TYPE_SSL = 0x20
_OVER_TLS, _CERTIFICATE_SHOWN = 0x01, 0x06
_VERSION, _COMMON_NAME, _CIPHER = 0x21, 0x22, 0x23
_VERIFIED = 0

MISSING = "no PROXY header from a proxy that must send one"
#: What is said of a header that nobody asked for.
UNEXPECTED = "a PROXY header from somebody who is not to send one"

Address = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a proxy says of a connection.

    ``local`` connections are the proxy's own, such as its health checks, and say
    nothing else. ``client`` is None where the proxy does not know, and where the client
    has come by a Unix socket, as in every scope. ``server`` is what the client has
    connected to; None where that is not known. ``tls`` is what is known of the TLS that
    the client speaks with the proxy (version 2 alone says it), or None:
    ``tls_version`` and ``cipher``, by OpenSSL's names; ``client_cert_name``, the common
    name; ``client_cert_verified``, whether there was a certificate and it was found
    good.
    """

    version: int
    local: bool = False
    client: Address | None = None
    server: Address | None = None
    tls: dict[str, Any] | None = None

    def extension(self) -> dict[str, Any]:
        """What applications are told besides: ``proxy_protocol`` in their scope."""
        return {"version": self.version, "tls": self.tls}


def begins_header(data: bytes) -> bool:
    """Whether ``data``, the first of a connection, is meant for a PROXY header."""
    return data.startswith((V1_SIGNATURE, V2_SIGNATURE))


class HeaderReader:
    """Reads one header; ``header`` is it, and None until it is complete."""

    __slots__ = ("_held", "header")

    def __init__(self) -> None:
        self._held = bytearray()
        self.header: ProxyHeader | None = None

    @property
    def begun(self) -> bool:
        return bool(self._held)

    def take(self, data: bytes) -> int:
        """Look at what comes next; how many bytes of it are the header's.

        All of them, as long as the header is incomplete.

        :raises ProtocolError: when this is no header, or none that is acceptable.
        """
        held = self._held
        had = len(held)
        held += data
        if not V2_SIGNATURE.startswith(held[: len(V2_SIGNATURE)]):
            end = self._end_of_v1()
        else:
            end = self._end_of_v2()
        if not end:
            return len(data)
        read = _read_v1 if held[0] == V1_SIGNATURE[0] else _read_v2
        self.header = read(bytes(held[:end]))
        return end - had

    def _end_of_v1(self) -> int:
        held = self._held
        if not V1_SIGNATURE.startswith(held[: len(V1_SIGNATURE)]):
            raise ProtocolError(MISSING)
        end = held.find(b"\r\n", 0, MAX_V1)
        if end < 0 and len(held) >= MAX_V1:
            raise ProtocolError("a PROXY header of version 1 that is too long")
        return end + 2 if end >= 0 else 0

    def _end_of_v2(self) -> int:
        held = self._held
        if len(held) < _FIXED.size:
            return 0
        _, _, _, length = _FIXED.unpack_from(held)
        end = _FIXED.size + length
        return end if len(held) >= end else 0


# -- Version 1 -------------------------------------------------------------------------


def _read_v1(line: bytes) -> ProxyHeader:
    if _V1_UNKNOWN.fullmatch(line):
        return ProxyHeader(1)
    match = _V1.fullmatch(line)
    if match is None:
        raise _malformed(1, line)
    family, source, destination, source_port, destination_port = match.groups()
    return ProxyHeader(
        1,
        client=_v1_address(line, family, source, source_port),
        server=_v1_address(line, family, destination, destination_port),
    )


def _v1_address(line: bytes, family: bytes, host: bytes, port: bytes) -> Address:
    kind = ipaddress.IPv4Address if family == b"TCP4" else ipaddress.IPv6Address
    try:
        kind(host.decode("ascii"))
    except ValueError:
        raise _malformed(1, line) from None
    if int(port) > 0xFFFF:
        raise _malformed(1, line)
    return str(parse_address(host.decode("ascii"))), int(port)


# -- Version 2 -------------------------------------------------------------------------


def _read_v2(data: bytes) -> ProxyHeader:
    _, command, family, _ = _FIXED.unpack_from(data)
    if command == _LOCAL:
        # Section 2.2: whatever else it has is to be passed over.
        return ProxyHeader(2, local=True)
    if command != _PROXY:
        raise _malformed(2, data)
    rest = data[_FIXED.size :]
    if family == _UNSPECIFIED:
        return ProxyHeader(2)
    addresses = _ADDRESSES.get(family >> 4)
    if addresses is None or family & 0xF not in _TRANSPORTS:
        raise _malformed(2, data)
    if len(rest) < addresses.size:
        raise _malformed(2, data)
    fields = addresses.unpack_from(rest)
    client: Address | None = None
    server: Address | None
    if family >> 4 == _UNIX:
        path = fields[1].partition(b"\0")[0]
        server = (path.decode("utf-8", "replace"), None) if path else None
    else:
        client = (_address(fields[0]), fields[2])
        server = (_address(fields[1]), fields[3])
    tls = None
    for kind, value in _records(rest[addresses.size :], data):
        if kind == _TYPE_SSL:
            tls = _read_tls(value, data)
    return ProxyHeader(2, client=client, server=server, tls=tls)


def _address(packed: bytes) -> str:
    return str(parse_address(str(ipaddress.ip_address(packed))))


def _records(data: bytes, header: bytes) -> Iterator[tuple[int, bytes]]:
    """The types and values of section 2.2's TLV vectors."""
    position = 0
    while position < len(data):
        value = position + 3
        end = value + int.from_bytes(data[position + 1 : value], "big")
        if value > len(data) or end > len(data):
            raise _malformed(2, header)
        yield data[position], data[value:end]
        position = end


def _read_tls(value: bytes, header: bytes) -> dict[str, Any] | None:
    if len(value) < 5:
        raise _malformed(2, header)
    flags, verification = value[0], int.from_bytes(value[1:5], "big")
    inner = dict(_records(value[5:], header))
    if not flags & _OVER_TLS:
        return None
    shown = bool(flags & _CERTIFICATE_SHOWN)
    return {
        "tls_version": _text(inner.get(_VERSION)),
        "cipher": _text(inner.get(_CIPHER)),
        "client_cert_name": _text(inner.get(_COMMON_NAME)),
        "client_cert_verified": shown and verification == _VERIFIED,
    }


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _malformed(version: int, data: bytes) -> ProtocolError:
    return ProtocolError(
        f"a malformed PROXY header of version {version}: {data[:MAX_V1]!r}"
    )


# -- On a connection without TLS -------------------------------------------------------


class ProxyHeaderEngine:
    """Reads a header before anything else; an :class:`~.wire.Engine`.

    ``done`` is given the header and what has come behind it. A connection without one
    is closed, and ``report`` hears why.
    """

    __slots__ = ("_done", "_reader", "_report", "_timeout", "_wire")

    def __init__(
        self,
        wire: Wire,
        timeout: float | None,
        done: Callable[[ProxyHeader, bytes], None],
        report: Callable[[str, int | None, bytes], None],
    ) -> None:
        self._wire = wire
        self._timeout = timeout
        self._done = done
        self._report = report
        self._reader = HeaderReader()

    def start_reading(self) -> None:
        self._wire.arm(self._timeout, self._expired)

    def receive_data(self, data: bytes, /) -> None:
        try:
            taken = self._reader.take(data)
        except ProtocolError as error:
            self.refuse(str(error), data)
            return
        if self._reader.header is not None:
            self._wire.arm(None, self._expired)
            self._done(self._reader.header, data[taken:])

    def receive_eof(self) -> None:
        if self._reader.begun:
            self._report("the connection was closed inside a PROXY header", None, b"")
        self._wire.close()

    def refuse(self, reason: str, data: bytes = b"") -> None:
        self._report(reason, None, data[:MAX_V1])
        self._wire.close()

    def connection_lost(self) -> None: ...
    def writable_again(self) -> None: ...

    def drain(self) -> None:
        """Whoever comes next on the connection is told."""

    def _expired(self) -> None:
        self.refuse("no PROXY header within TIMEOUTS['HEADERS']")
