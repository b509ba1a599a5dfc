"""The opening handshake of a WebSocket, read from a request's parsed head (RFC 6455).

Nothing is parsed twice: the HTTP engine has read the head, and this module asks whether
it opens a WebSocket and what the client offers. The answer's fields come from
:meth:`Handshake.answer`; who writes them, and behind which status, depends on the
version of HTTP.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

from ..errors import ProtocolError
from .headers import TOKEN, Headers

#: RFC 6455 section 4.4: a client that speaks another version learns which one we speak.
VERSION = b"13"

#: RFC 9110 section 15.5.22 wants Upgrade in a 426, and section 7.8 both of the pair.
_OUR_VERSION = (
    (b"Sec-WebSocket-Version", VERSION),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
)

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_VALUE = rb'(?:%b|"(?:[^"\\]|\\.)*")' % TOKEN.pattern
_PARAMETER = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*%b)?" % (TOKEN.pattern, _VALUE)
#: One member of the list: a name, its parameters, and the comma or the end.
_EXTENSION = re.compile(
    rb"[ \t,]*(?:(%b)((?:%b)*)[ \t]*(?:,|$)|$)" % (TOKEN.pattern, _PARAMETER)
)
_ONE_PARAMETER = re.compile(
    rb"[ \t]*;[ \t]*(%b)(?:[ \t]*=[ \t]*(%b))?" % (TOKEN.pattern, _VALUE)
)


class Head(Protocol):
    """What a handshake needs of a request's head."""

    method: str
    http_version: str
    headers: Headers
    length: int | None


@dataclass(frozen=True, slots=True)
class Offer:
    """One extension that the client offers, with its parameters in order.

    A parameter without a value has None.
    """

    name: bytes
    parameters: tuple[tuple[bytes, bytes | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Handshake:
    """A client's wish for a WebSocket.

    ``subprotocols`` and ``offers`` are in the client's order of preference. ``key`` is
    what the answer proves to have read; HTTP/2 has none (RFC 8441 section 5).
    """

    subprotocols: tuple[str, ...]
    offers: tuple[Offer, ...]
    key: bytes | None

    def answer(self, subprotocol: str | None, extension: bytes | None) -> Headers:
        """The fields that accept the handshake, without ``Upgrade`` and its like."""
        headers = []
        if self.key is not None:
            # RFC 6455 section 4.2.2, item 5.4.
            digest = hashlib.sha1(self.key + _GUID, usedforsecurity=False).digest()
            accept = binascii.b2a_base64(digest, newline=False)
            headers.append((b"Sec-WebSocket-Accept", accept))
        if subprotocol is not None:
            headers.append((b"Sec-WebSocket-Protocol", subprotocol.encode("ascii")))
        if extension is not None:
            headers.append((b"Sec-WebSocket-Extensions", extension))
        return headers


def read_handshake(head: Head) -> Handshake:
    """Read the handshake of a request that asks to become a WebSocket: an HTTP/1.1
    ``Upgrade`` to ``websocket``, or an extended CONNECT of HTTP/2 (RFC 8441).

    :raises ProtocolError: with the answer's status (400, 405, 426) and fields, where
        RFC 6455 section 4.2.1 is not met.
    """
    if head.http_version == "2":
        return _read_connect(head)
    if head.method != "GET":
        raise ProtocolError(
            "a WebSocket handshake is a GET", 405, ((b"Allow", b"GET"),)
        )
    if head.http_version == "1.0":
        raise ProtocolError("a WebSocket handshake needs HTTP/1.1")
    if head.length != 0:
        # A body here would be read as frames by us and as a body by a proxy.
        raise ProtocolError("a WebSocket handshake has no body")
    fields = _Fields(head.headers)
    if fields.versions != [VERSION]:
        raise ProtocolError(fields.wrong_version(), 426, _OUR_VERSION)
    if len(fields.keys) != 1 or not _is_key(fields.keys[0]):
        raise ProtocolError("Sec-WebSocket-Key is not 16 bytes in base64")
    return fields.handshake(fields.keys[0])


def _read_connect(head: Head) -> Handshake:
    """RFC 8441 section 5: no key, and nothing to upgrade that a 426 could speak of."""
    if head.length:
        # RFC 9113 section 8.1.1 would have us count what are bytes of a tunnel.
        raise ProtocolError("a WebSocket handshake has no body")
    fields = _Fields(head.headers)
    if fields.versions != [VERSION]:
        raise ProtocolError(fields.wrong_version(), 400, _OUR_VERSION[:1])
    return fields.handshake(None)


class _Fields:
    """A head's fields that belong to the handshake."""

    def __init__(self, headers: Headers) -> None:
        self.keys: list[bytes] = []
        self.versions: list[bytes] = []
        self.subprotocols: list[bytes] = []
        self.extensions: list[bytes] = []
        for name, value in headers:
            if name == b"sec-websocket-key":
                self.keys.append(value)
            elif name == b"sec-websocket-version":
                self.versions.append(value)
            elif name == b"sec-websocket-protocol":
                self.subprotocols.append(value)
            elif name == b"sec-websocket-extensions":
                self.extensions.append(value)

    def wrong_version(self) -> str:
        return f"unsupported WebSocket version {b', '.join(self.versions)[:40]!r}"

    def handshake(self, key: bytes | None) -> Handshake:
        return Handshake(
            _read_subprotocols(self.subprotocols),
            _read_extensions(self.extensions),
            key,
        )


def _is_key(value: bytes) -> bool:
    try:
        return len(binascii.a2b_base64(value, strict_mode=True)) == 16
    except binascii.Error:
        return False


def _read_subprotocols(lines: list[bytes]) -> tuple[str, ...]:
    names = []
    for line in lines:
        for member in line.split(b","):
            name = member.strip(b" \t")
            # RFC 9110 section 5.6.1: empty members of a list are ignored.
            if not name:
                continue
            if not TOKEN.fullmatch(name):
                raise ProtocolError(f"invalid subprotocol {name[:40]!r}")
            names.append(name.decode("ascii"))
    return tuple(dict.fromkeys(names))


def _read_extensions(lines: list[bytes]) -> tuple[Offer, ...]:
    """RFC 6455 section 9.1; what does not follow its grammar fails the handshake."""
    offers = []
    for line in lines:
        position = 0
        while position < len(line):
            match = _EXTENSION.match(line, position)
            if match is None:
                raise ProtocolError(f"malformed Sec-WebSocket-Extensions {line[:80]!r}")
            position = match.end()
            if match[1] is not None:
                parameters = tuple(
                    (name.lower(), _unquote(value) if value else None)
                    for name, value in _ONE_PARAMETER.findall(match[2])
                )
                offers.append(Offer(match[1].lower(), parameters))
    return tuple(offers)


def _unquote(value: bytes) -> bytes:
    if value[:1] != b'"':
        return value
    return re.sub(rb"\\(.)", rb"\1", value[1:-1])
