"""WebSocket: frames, deflate streams, and the handshake with what follows it.

The first byte of an input of frames chooses what both sides have agreed on.
"""

from __future__ import annotations

import zlib
from typing import Any

from django_daphne.config import WebSocketSettings
from django_daphne.errors import ProtocolError
from django_daphne.protocol import websocket
from django_daphne.protocol.http1 import Head, HTTP1Engine
from django_daphne.protocol.websocket import WebSocketEngine
from django_daphne.protocol.websocket_deflate import (
    Agreement,
    InflatedTooLarge,
    NotDeflated,
    PerMessageDeflate,
    agree,
)
from django_daphne.protocol.websocket_handshake import Handshake, read_handshake

from .. import test_http1_engine as http1
from .. import test_websocket_engine as given
from ..websocket_frames import CLOSE, Recorder, read_frames
from . import cuttings

MAX_MESSAGE = 4000
MAX_RATIO = 20

#: RFC 6455 section 5.2.
MAX_HEADER = 14

_COMPRESSION, _NO_TAKEOVER, _SMALL_FRAMES = 1, 2, 4
#: Not agreed on, but true of the application: it takes messages one by one.
_ONE_BY_ONE = 8


class _Deflate(PerMessageDeflate):
    """Remembers whether a stream ended inside the connection's.

    How far back the next may reach depends on the pieces of its message.
    """

    over = False

    def _new_inflater(self, window: bytes) -> Any:
        if self._inflater is not None:
            _Deflate.over = True
        return super()._new_inflater(window)


def frames(data: bytes) -> None:
    """Anything that a client can send once the handshake is done."""
    agreed, data = data[0] if data else 0, data[1:]
    _Deflate.over = False
    whole = _talk(given.Conversation, agreed, [data])
    reference = _talk(given.LongWay, agreed, [data])
    assert whole == reference, (whole, reference)
    for parts in cuttings(data):
        for way in (given.Conversation, given.LongWay):
            other = _talk(way, agreed, parts)
            assert other == whole or _Deflate.over, (parts, other, whole)


def _talk(
    way: type[given.Conversation], agreed: int, parts: list[bytes]
) -> tuple[Any, ...]:
    options: dict[str, Any] = {"max_message_size": MAX_MESSAGE}
    if agreed & _SMALL_FRAMES:
        options["max_frame_size"] = 300
    deflate = _deflate(agreed) if agreed & _COMPRESSION else None
    conversation = way(deflate, **options)
    receiver, engine = conversation.receiver, conversation.engine
    receiver.room = not agreed & _ONE_BY_ONE
    for part in parts:
        conversation.feed(part)
        while receiver.turns or engine._waiting == websocket._FOR_ROOM:
            receiver.take_turn()
            engine.resume()
        held = engine._frames
        assert held is None or len(getattr(held, "payload", b"")) <= MAX_MESSAGE
        assert receiver.ends or len(engine._held) <= len(part) + MAX_HEADER
    assert all(len(message) <= MAX_MESSAGE for message in receiver.messages)
    outcome = conversation.outcome
    ended = bool(receiver.ends)
    sent = read_frames(conversation.wire.written)
    closes = [at for at, one in enumerate(sent) if one.opcode == CLOSE]
    assert not closes or closes == [len(sent) - 1], "something behind a close frame"
    assert not ended or conversation.wire.ended
    outcome = (list(outcome[0]), *outcome[1:2], list(outcome[2]), outcome[3])
    engine.connection_lost()
    assert len(receiver.ends) == 1
    return outcome


def _deflate(agreed: int) -> PerMessageDeflate:
    return _Deflate(
        Agreement(b"", 12, True, 12, not agreed & _NO_TAKEOVER), MAX_MESSAGE, MAX_RATIO
    )


def deflated(data: bytes) -> None:
    """Messages of a deflate stream, each behind two bytes that hold its length."""
    agreed, data = data[0] if data else 0, data[1:]
    messages = []
    while len(data) >= 2:
        size = int.from_bytes(data[:2])
        messages.append(data[2 : 2 + size])
        data = data[2 + size :]
    whole = _inflate(agreed, [[message] for message in messages])
    # The window behind a final block is that of the same piece alone.
    finals = any(_ends_stream(message) for message in messages)
    for parts in zip(*map(cuttings, messages), strict=False):
        other = _inflate(agreed, list(parts))
        if finals:
            same = min(len(whole), len(other))
            assert whole[: same - 1] == other[: same - 1]
        else:
            assert other == whole, (parts, other, whole)


def _inflate(agreed: int, messages: list[list[bytes]]) -> list[bytes | str]:
    deflate = _deflate(agreed)
    outcome: list[bytes | str] = []
    for parts in messages:
        inflated = b""
        try:
            for part in parts:
                inflated += deflate.inflate(part)
                assert len(inflated) <= MAX_MESSAGE
            deflate.end_message()
        except InflatedTooLarge:
            return [*outcome, "too large"]
        except NotDeflated:
            return [*outcome, "damaged"]
        outcome.append(inflated)
    return outcome


def _ends_stream(message: bytes) -> bool:
    inflater = zlib.decompressobj(-15)
    try:
        inflater.decompress(message + b"\0\0\xff\xff", 1 << 20)
    except zlib.error:
        # It may have been a stream before whatever is wrong with it.
        return True
    return inflater.eof


# -- The handshake ---------------------------------------------------------------------


class _Talk(http1.Conversation):
    """Every WebSocket that asks well is accepted, and says back what it hears."""

    def __init__(self) -> None:
        super().__init__({"header_bytes": 2000})
        self.offered: list[Handshake] = []
        self.receiver = Recorder()

    def _begin(self, engine: HTTP1Engine, head: Head) -> http1.FakeStream:
        assert self.wire.ended is None and not self.offered
        if head.upgrade == b"websocket":
            self.offered.append(read_handshake(head))
        return super()._begin(engine, head)

    def run(self, parts: list[bytes]) -> tuple[Any, ...]:
        accepted = False
        for part in parts:
            self.feed(part)
            self.flush_turns()
            if self.offered and not accepted:
                accepted = True
                self.accept(self.offered[0])
                self.wire.flush()
            self.flush_turns()
        if not accepted:
            self.settle()
        heads = [(s.head.path, s.head.headers) for s in self.streams]
        outcome = (
            self.offered, heads, list(self.receiver.messages),
            list(self.receiver.ends), len(self.reports), bool(self.wire.ended),
            self.written,
        )  # fmt: skip
        self.wire.engine.connection_lost()
        return outcome

    def flush_turns(self) -> None:
        while self.receiver.turns:
            self.receiver.take_turn()

    def accept(self, handshake: Handshake) -> None:
        agreement = agree(handshake)
        subprotocol = handshake.subprotocols[0] if handshake.subprotocols else None
        extension = None if agreement is None else agreement.answer
        deflate = None
        if agreement is not None:
            deflate = _Deflate(agreement, MAX_MESSAGE, MAX_RATIO)

        def make_engine(wire: Any) -> WebSocketEngine:
            settings = WebSocketSettings(max_message_size=MAX_MESSAGE)
            return WebSocketEngine(wire, self.receiver, settings, deflate)

        self.engine.accept(handshake.answer(subprotocol, extension), make_engine)
        self.wire.engine.start()


_REQUEST = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
)


def handshake(data: bytes) -> None:
    """The rest of a head that asks for a WebSocket, and the frames behind it."""
    message = _REQUEST + data
    _Deflate.over = False
    whole = _Talk().run([message])
    if whole[0]:
        answer = whole[-1].partition(b"\r\n\r\n")[0]
        assert answer.startswith(b"HTTP/1.1 101 ") and b"\r\n\r\n" not in answer
        assert all(0x20 <= byte < 0x7F or byte in b"\r\n" for byte in answer), answer
    elif whole[-1]:
        # Refused, if it is not another request behind a plain one.
        statuses = [line for line in whole[-1].split(b"\r\n") if line[:5] == b"HTTP/"]
        assert statuses, whole
    for parts in cuttings(message):
        other = _Talk().run(parts)
        assert other[:-1] == whole[:-1] or _Deflate.over, (parts, other, whole)
    for line in data.split(b"\r\n"):
        head = http1.Head()
        head.method = "GET"
        name, _, value = line.partition(b":")
        value = value.strip(b" \t")
        head.headers = [
            (b"sec-websocket-version", b"13"),
            (b"sec-websocket-key", b"MDEyMzQ1Njc4OWFiY2RlZg=="),
            (b"sec-websocket-extensions", value),
            (b"sec-websocket-protocol", value),
            (name.lower(), value),
        ]
        try:
            agree(read_handshake(head))
        except ProtocolError as error:
            assert error.status in (400, 405, 426)
