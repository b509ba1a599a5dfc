"""PROXY headers of version 2, as a proxy makes them."""

from __future__ import annotations

import socket
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

LOCAL, PROXY = 0x20, 0x21
UNSPECIFIED, TCP4, UDP4, TCP6, UNIX = 0x00, 0x11, 0x12, 0x21, 0x31

SSL_TYPE = 0x20


def v2(command: int, family: int, content: bytes = b"") -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(content)) + content


def inet(
    source: tuple[str, int], destination: tuple[str, int], family: int = TCP4
) -> bytes:
    """The addresses of a header."""
    kind = socket.AF_INET6 if family == TCP6 else socket.AF_INET
    hosts = [socket.inet_pton(kind, host) for host, _ in (source, destination)]
    return b"".join(hosts) + struct.pack("!HH", source[1], destination[1])


def unix(source: bytes, destination: bytes) -> bytes:
    return struct.pack("!108s108s", source, destination)


def record(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def ssl(flags: int, verification: int = 0, **texts: bytes) -> bytes:
    kinds = {"version": 0x21, "name": 0x22, "cipher": 0x23, "signature": 0x24}
    inner = b"".join(record(kinds[name], text) for name, text in texts.items())
    return record(SSL_TYPE, struct.pack("!BI", flags, verification) + inner)


CLIENT, SERVER = ("203.0.113.7", 4321), ("198.51.100.1", 443)
CLIENT6, SERVER6 = ("2001:db8::7", 4321), ("2001:db8::1", 443)

V1 = b"PROXY TCP4 203.0.113.7 198.51.100.1 4321 443\r\n"
V1_IPV6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 4321 443\r\n"
V2 = v2(PROXY, TCP4, inet(CLIENT, SERVER))
V2_IPV6 = v2(PROXY, TCP6, inet(CLIENT6, SERVER6, TCP6))
V2_LOCAL = v2(LOCAL, UNSPECIFIED)
