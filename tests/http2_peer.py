"""An HTTP/2 client made of frames, which may be as wrong as a test wants them.

:class:`Peer` keeps a client's HPACK tables and reads strictly what the server sends. It
knows no sockets: it makes bytes, and is fed bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from hpack import Decoder, Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9
PRIORITY_UPDATE = 0x10

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 5, 6, 7, 8
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 9, 0xB

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 4, 5, 6
ENABLE_CONNECT_PROTOCOL, NO_RFC7540_PRIORITIES = 8, 9

Fields = list[tuple[bytes, bytes]]


def frame(kind: int, flags: int = 0, id: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + id.to_bytes(4) + payload


def settings(**values: int) -> bytes:
    """``settings(INITIAL_WINDOW_SIZE=0)``"""
    payload = b"".join(
        struct.pack(">HL", globals()[name], value) for name, value in values.items()
    )
    return frame(SETTINGS, 0, 0, payload)


def data(id: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return frame(DATA, flags, id, payload)


def window_update(id: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, id, size.to_bytes(4))


def reset(id: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, id, code.to_bytes(4))


def ping(payload: bytes = b"01234567", flags: int = 0) -> bytes:
    return frame(PING, flags, 0, payload)


def goaway(code: int = NO_ERROR) -> bytes:
    return frame(GOAWAY, 0, 0, bytes(4) + code.to_bytes(4))


def priority_update(id: int, value: bytes) -> bytes:
    return frame(PRIORITY_UPDATE, 0, 0, id.to_bytes(4) + value)


def request(
    method: bytes = b"GET", path: bytes = b"/", *fields: tuple[bytes, bytes]
) -> Fields:
    return [
        (b":method", method),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"example.org"),
        *fields,
    ]


@dataclass
class Received:
    """One frame of the server's."""

    kind: int
    flags: int
    id: int
    payload: bytes
    #: Of a whole header block, with the frame that began it.
    fields: Fields = field(default_factory=list)

    @property
    def ends(self) -> bool:
        return self.kind in (DATA, HEADERS) and bool(self.flags & END_STREAM)

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        begin = {RST_STREAM: 0, GOAWAY: 4}[self.kind]
        return int.from_bytes(self.payload[begin : begin + 4])

    @property
    def number(self) -> int:
        """A window's increment, or the last stream of GOAWAY."""
        assert self.kind in (WINDOW_UPDATE, GOAWAY)
        return int.from_bytes(self.payload[:4]) & 0x7FFFFFFF

    def get(self, name: bytes) -> bytes | None:
        values = [value for key, value in self.fields if key == name]
        assert len(values) < 2, f"{name!r} is repeated"
        return values[0] if values else None


@dataclass
class Response:
    """What has come of one response."""

    informational: list[Fields] = field(default_factory=list)
    headers: Fields = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields = field(default_factory=list)
    complete: bool = False
    #: The code of the reset, if it was.
    reset: int | None = None

    @property
    def status(self) -> int:
        return int(dict(self.headers)[b":status"])

    def get(self, name: bytes) -> bytes | None:
        return dict(self.headers).get(name)


class Peer:
    """The client's side of one connection."""

    def __init__(self, max_frame: int = 16384) -> None:
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.max_frame = max_frame
        self.frames: list[Received] = []
        self.responses: dict[int, Response] = {}
        self._held = b""
        self._block: Received | None = None
        self._next = 1

    def open(
        self,
        fields: Fields | None = None,
        flags: int = END_STREAM,
        *,
        id: int | None = None,
    ) -> bytes:
        """HEADERS of a new stream, whose id is then ``self.last``."""
        if id is None:
            id, self._next = self._next, self._next + 2
        else:
            self._next = max(self._next, id + 2)
        self.last = id
        return self.headers(id, request() if fields is None else fields, flags)

    def headers(self, id: int, fields: Fields, flags: int = 0) -> bytes:
        return frame(HEADERS, flags | END_HEADERS, id, self.encode(fields))

    def encode(self, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
        block: bytes = self.encoder.encode(list(fields))
        return block

    # -- What the server says ----------------------------------------------------------

    def feed(self, received: bytes) -> list[Received]:
        """Read what came; return its frames."""
        self._held += received
        new: list[Received] = []
        while len(self._held) >= 9:
            size = int.from_bytes(self._held[:3])
            assert size <= self.max_frame, f"a frame of {size} bytes"
            if len(self._held) < 9 + size:
                break
            kind, flags = self._held[3], self._held[4]
            id = int.from_bytes(self._held[5:9])
            payload, self._held = self._held[9 : 9 + size], self._held[9 + size :]
            new.append(Received(kind, flags, id, payload))
            self._take(new[-1])
        self.frames += new
        return new

    def _take(self, frame: Received) -> None:
        if self._block is not None:
            assert frame.kind == CONTINUATION and frame.id == self._block.id
            self._block.payload += frame.payload
            if frame.flags & END_HEADERS:
                block, self._block = self._block, None
                self._end_block(block)
            return
        assert frame.kind != CONTINUATION
        if frame.kind == HEADERS:
            assert frame.id % 2 and not frame.flags & (PADDED | WITH_PRIORITY)
            if frame.flags & END_HEADERS:
                self._end_block(frame)
            else:
                self._block = frame
        elif frame.kind == DATA:
            response = self.responses[frame.id]
            assert response.headers, "DATA before HEADERS"
            assert not response.complete and response.reset is None, frame
            response.body += frame.payload
            response.complete = frame.ends
        elif frame.kind == RST_STREAM:
            response = self.responses.setdefault(frame.id, Response())
            assert response.reset is None, "reset twice"
            response.reset = frame.code

    def _end_block(self, frame: Received) -> None:
        frame.fields = [
            (bytes(name), bytes(value))
            for name, value in self.decoder.decode(frame.payload, raw=True)
        ]
        for name, value in frame.fields:
            assert name == name.lower() and value == value.strip(b" \t"), frame
            assert name not in (b"connection", b"keep-alive", b"transfer-encoding")
        response = self.responses.setdefault(frame.id, Response())
        assert not response.complete and response.reset is None, frame
        status = frame.get(b":status")
        if status is None:
            assert response.headers and frame.ends, "trailers out of place"
            response.trailers = frame.fields
        elif status.startswith(b"1"):
            assert not response.headers and not frame.ends
            response.informational.append(frame.fields)
        else:
            assert not response.headers, "two heads"
            response.headers = frame.fields
        response.complete = frame.ends

    def goaways(self) -> list[Received]:
        return [frame for frame in self.frames if frame.kind == GOAWAY]

    def of(self, kind: int) -> list[Received]:
        return [frame for frame in self.frames if frame.kind == kind]
