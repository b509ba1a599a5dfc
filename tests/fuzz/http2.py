"""HTTP/2: frames of every kind behind a good beginning, and header blocks.

An input of frames is a program for a client: each step begins with a byte that chooses
what is sent, so that what a fuzzer changes stays a sequence of frames, and nearly every
one of them reaches beyond the length in its header.

====  ==================================  ==============================================
byte  what follows it                     what is done
====  ==================================  ==============================================
0-    flags, stream, size, payload        a frame of that kind
0x20  -                                   a good request without a body
0x21  -                                   a good request whose body is to come
0x22  size, payload                       DATA on the last stream
0x23  size, payload                       the end of the last stream's body
0x24  size, lines ``name:value``          a request with these fields
0x25  size, lines                         trailers of the last stream
0x26  -                                   a WebSocket (RFC 8441)
0x27  size, payload                       those bytes, whatever they are
0x28  -                                   applications take bodies
0x29  -                                   applications answer
0x2a  seconds                             time passes
0x2b  size, payload                       a header block on a new stream
====  ==================================  ==============================================
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django_daphne.config import WebSocketSettings
from django_daphne.protocol.http2 import MAX_FRAME, STREAM_WINDOW
from django_daphne.protocol.http2_exchange import Exchange
from django_daphne.protocol.http2_head import Head
from django_daphne.protocol.websocket import WebSocketEngine
from django_daphne.protocol.websocket_handshake import read_handshake

from .. import http2_peer as h2
from .. import test_http2_engine as given
from ..websocket_frames import Recorder
from . import cuttings

LIMITS = {"request_line": 300, "header_bytes": 2000, "header_count": 12, "streams": 5}

TAKE, ANSWER, WAIT = "take", "answer", "wait"

_KINDS = 0x20

Step = bytes | tuple[str, int]


class Conversation(given.Conversation):
    """One whose WebSockets are accepted, and that is suspicious after the end."""

    def __init__(self) -> None:
        super().__init__(LIMITS)
        self.sockets: list[Recorder] = []
        self._due: list[Exchange] = []

    def _begin(self, exchange: Exchange, head: Head) -> Any:
        assert self.wire.ended is None, "a request was begun after the end"
        if head.upgrade is not None:
            read_handshake(head)
            self._due.append(exchange)
        return super()._begin(exchange, head)

    def run(
        self, steps: list[Step], *, cut: int | None = None, turns: bool = False
    ) -> Conversation:
        """``cut``: in which of several ways the bytes of each step arrive.

        ``turns``: the loop turns in between, and sends what it can: the order of what
        is sent and what is received is another then.
        """
        for step in steps:
            if isinstance(step, tuple):
                self.act(*step)
            else:
                parts = [step] if cut is None else _cut(step, cut)
                for part in parts:
                    if self.wire.ended is None:
                        self.wire.deliver(part)
                    if turns:
                        self.hear()
                    self.check(len(part))
                self.hear()
        self.outcome = [outline(stream) for stream in self.streams]
        self.messages = [(s.messages, s.ends) for s in self.sockets]
        self.resets = {
            id: response.reset for id, response in self.peer.responses.items()
        }
        self.goaways = [frame.code for frame in self.peer.goaways()]
        self.engine.connection_lost()
        self.wire.turns()
        assert not self.engine.exchanges and not self.engine.schedule
        return self

    def check(self, fed: int) -> None:
        """What holds at any time."""
        engine = self.engine
        if self.wire.ended is None:
            assert len(engine._pending) <= MAX_FRAME + 9 + fed
        assert len(engine.exchanges) <= LIMITS["streams"]
        assert len(engine._early_priorities) <= LIMITS["streams"]
        for stream in self.streams:
            assert stream.untaken <= STREAM_WINDOW

    def act(self, what: str, number: int) -> None:
        if what == WAIT:
            self.wire.wait(number)
        for stream in self.streams:
            if what == TAKE and stream.untaken and not stream.resets:
                stream.take()
            elif what == ANSWER and not stream.answered and not stream.resets:
                exchange = stream.engine
                if exchange in self._due:
                    stream.answered = True
                    self.accept(exchange)
                else:
                    stream.answer(200, [(b"x", b"y")], b"some", b"body")
        self.hear()

    def accept(self, exchange: Exchange) -> None:
        receiver = Recorder()
        self.sockets.append(receiver)

        def make_engine(wire: Any) -> WebSocketEngine:
            settings = WebSocketSettings(max_message_size=1000, ping_interval=None)
            return WebSocketEngine(wire, receiver, settings)

        exchange.accept([], make_engine)


def outline(stream: given.FakeStream) -> tuple[Any, ...]:
    head = stream.head
    return (
        head.method, head.path, head.query, head.headers, head.length, head.upgrade,
        stream.body, stream.ended, len(stream.resets),
    )  # fmt: skip


def _cut(step: bytes, cut: int) -> list[bytes]:
    ways = list(cuttings(step))
    return ways[min(cut, len(ways) - 1)]


def frames(data: bytes) -> None:
    """Frames, good and bad, in any order."""
    # Whoever makes the blocks keeps tables: the program is translated once.
    steps = _join(list(_translate(data)))
    whole = Conversation().run(steps)
    for cut in range(3):
        other = Conversation().run(steps, cut=cut)
        assert other.outcome == whole.outcome, (steps, other.outcome, whole.outcome)
        assert other.messages == whole.messages, steps
        assert other.resets == whole.resets, (steps, other.resets, whole.resets)
        assert other.goaways == whole.goaways, steps
        assert other.wire.ended == whole.wire.ended, steps
        Conversation().run(steps, cut=cut, turns=True)


def _join(steps: list[Step]) -> list[Step]:
    joined: list[Step] = []
    for step in steps:
        if joined and isinstance(step, bytes) and isinstance(joined[-1], bytes):
            joined[-1] += step
        else:
            joined.append(step)
    return joined


def _translate(data: bytes) -> Iterator[Step]:
    peer = h2.Peer()
    peer.last = 1
    reader = _Bytes(data)
    while reader.left:
        step = reader.byte()
        if step < _KINDS:
            flags, id = reader.byte(), reader.byte()
            yield h2.frame(step, flags, id & 15, reader.piece())
        elif step == 0x20:
            yield peer.open()
        elif step == 0x21:
            yield peer.open(h2.request(b"POST"), 0)
        elif step == 0x22:
            yield h2.data(peer.last, reader.piece())
        elif step == 0x23:
            yield h2.data(peer.last, reader.piece(), h2.END_STREAM)
        elif step == 0x24:
            yield peer.open(reader.fields(), reader.left & 1)
        elif step == 0x25:
            yield peer.headers(peer.last, reader.fields(), h2.END_STREAM)
        elif step == 0x26:
            yield peer.open(given.connect(), 0)
        elif step == 0x27:
            yield reader.piece()
        elif step == 0x28:
            yield TAKE, 0
        elif step == 0x29:
            yield ANSWER, 0
        elif step == 0x2A:
            yield WAIT, reader.byte()
        elif step == 0x2B:
            peer.open()
            yield h2.frame(
                h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, peer.last, reader.piece()
            )


class _Bytes:
    """What is left of an input."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def byte(self) -> int:
        if not self.left:
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def piece(self) -> bytes:
        size = self.byte()
        begin, self._at = self._at, min(self._at + size, len(self._data))
        return self._data[begin : self._at]

    def fields(self) -> h2.Fields:
        fields = []
        for line in self.piece().split(b"\n"):
            begin = line.startswith(b":")
            name, _, value = line[begin:].partition(b":")
            fields.append((line[:begin] + name, value))
        return fields


def block(data: bytes) -> None:
    """Header blocks, the first byte of each being its size; then a good one."""
    conversation = Conversation()
    reader = _Bytes(data)
    id = 1
    while reader.left and conversation.wire.ended is None:
        flags = h2.END_HEADERS | h2.END_STREAM
        conversation.feed(h2.frame(h2.HEADERS, flags, id, reader.piece()))
        for stream in conversation.streams:
            if not stream.answered:
                stream.answer()
        id += 2
    for stream in conversation.streams:
        _check_head(stream.head)
    if conversation.wire.ended is None:
        # The tables of both sides are still the same.
        count = len(conversation.streams)
        literal = b"\x82\x86\x84\x01\x01a"
        conversation.feed(h2.frame(h2.HEADERS, 5, id, literal))
        assert len(conversation.streams) == count + 1
        assert conversation.streams[-1].head.headers == [(b"host", b"a")]
    else:
        assert conversation.peer.goaways()


def _check_head(head: Head) -> None:
    """Nothing that could be read as something else in an HTTP/1.1 message."""
    assert head.method.isascii() and head.raw_path[:1] in (b"/", b"*")
    assert not set(head.raw_path + head.query) & set(b"\0\r\n\t #")
    assert [name for name, _ in head.headers].count(b"host") == 1
    for name, value in head.headers:
        assert name == name.lower() and not set(name) & set(b"\0\r\n\t :_"), name
        assert not set(value) & set(b"\0\r\n") and value == value.strip(b" \t"), value
