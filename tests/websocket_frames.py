"""Both ends of a WebSocket without a network: a client's frames, a wire, a receiver."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"",
    length_bytes: int | None = None,
) -> bytes:
    """A client's frame (RFC 6455 section 5.2).

    ``mask`` None leaves it unmasked; empty makes one up. ``length_bytes`` forces 0, 2
    or 8 bytes of extended length.
    """
    size = len(payload)
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
    marker = {0: size, 2: 126, 8: 127}[length_bytes]
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    second = (0 if mask is None else 0x80) | marker
    head = bytes((first, second)) + size.to_bytes(8, "big")[8 - length_bytes :]
    if mask is None:
        return head + payload
    key = mask or os.urandom(4)
    return head + key + masked(key, payload)


def masked(key: bytes, payload: bytes) -> bytes:
    """Byte for byte as section 5.3 says it; an involution."""
    return bytes(
        byte ^ key for byte, key in zip(payload, itertools.cycle(key), strict=False)
    )


def close_frame(code: int | None = None, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)


@dataclass(frozen=True)
class Sent:
    """A frame of the server's."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0

    @property
    def close_code(self) -> int:
        return int.from_bytes(self.payload[:2], "big")


def read_frames(data: bytes) -> list[Sent]:
    """The frames that a server sent, none of which may be masked or cut short."""
    frames = []
    while data:
        first, second = data[0], data[1]
        assert not second & 0x80, "the server masked a frame"
        begin, size = 2, second
        if second > 125:
            begin = 4 if second == 126 else 10
            size = int.from_bytes(data[2:begin], "big")
            assert size > (125 if second == 126 else 0xFFFF), "not the shortest length"
        payload = data[begin : begin + size]
        assert len(payload) == size, "the server's last frame is incomplete"
        frames.append(
            Sent(first & 0x0F, payload, bool(first & 0x80), (first & 0x70) >> 4)
        )
        data = data[begin + size :]
    return frames


class FakeWire:
    """Records what an engine asks of its wire."""

    class clock:
        date_line = b"Date: Fri, 20 Nov 2026 10:00:00 GMT"

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.writable = True
        self.reading = True
        self.ended = ""
        self.seconds: float | None = None
        self.expired: Callable[[], None] = lambda: None

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    @property
    def frames(self) -> list[Sent]:
        return read_frames(self.written)

    def write(self, data: bytes, /) -> None:
        if not self.ended:
            self.writes.append(data)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def arm(self, seconds: float | None, expired: Callable[[], None]) -> None:
        self.seconds, self.expired = seconds, expired

    def close(self) -> None:
        self.ended = self.ended or "close"

    def linger(self) -> None:
        self.ended = self.ended or "linger"

    def abort(self) -> None:
        self.ended = self.ended or "abort"


@dataclass
class Recorder:
    """A receiver that has room for everything, unless told otherwise."""

    behind: bool = False
    room: bool = True
    messages: list[str | bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    ends: list[tuple[int, str]] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)
    turns: list[Callable[[], None]] = field(default_factory=list)
    writable: int = 0

    def message(self, message: str | bytes, size: int, /) -> bool:
        assert not self.ends, "a message after the end"
        self.messages.append(message)
        self.sizes.append(size)
        return self.room

    def next_turn(self, callback: Callable[[], None], /) -> None:
        self.turns.append(callback)

    def take_turn(self) -> None:
        """Let the loop turn once."""
        turns, self.turns = self.turns, []
        for callback in turns:
            callback()

    def failed(self, code: int, reason: str, /) -> None:
        self.faults.append((code, reason))

    def closed(self, code: int, reason: str, /) -> None:
        self.ends.append((code, reason))

    def writable_again(self) -> None:
        self.writable += 1
