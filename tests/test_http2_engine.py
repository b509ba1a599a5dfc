"""HTTP/2 without sockets: what is a request, what is none, and what is answered."""

from __future__ import annotations

import dataclasses
import itertools
import unittest
from collections.abc import Callable
from typing import Any
from unittest import mock

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_daphne.config import Limits, Timeouts
from django_daphne.errors import IllegalMessage, ProtocolError
from django_daphne.protocol import http2_patience
from django_daphne.protocol.http2 import (
    CHOKE,
    CONNECTION_WINDOW,
    FRAMES_PER_TURN,
    GOAWAY_PAUSE,
    MAX_RESETS,
    STREAM_WINDOW,
    HTTP2Engine,
)
from django_daphne.protocol.http2_exchange import (
    DISCARD_LIMIT,
    SEND_HIGH_WATER,
    TUNNEL_CLOSE_TIMEOUT,
    Exchange,
    Tunnel,
)
from django_daphne.protocol.http2_head import Head

from . import http2_peer as h2
from .http2_peer import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    INTERNAL_ERROR,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_UPDATE,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Fields,
    Peer,
    Received,
    Response,
    frame,
    request,
    settings,
)
from .test_http1_engine import FakeStream as HTTP1FakeStream
from .test_http1_engine import FakeWire as HTTP1FakeWire

#: Larger than every default of ours.
LARGE = 1 << 24


class FakeWire(HTTP1FakeWire):
    """One whose turns a test lets pass."""

    def __init__(self) -> None:
        super().__init__()
        self.coming: list[Callable[[], None]] = []
        self.writes = 0

    def write(self, data: bytes) -> None:
        super().write(data)
        self.writes += 1

    def soon(self, callback: Callable[[], None]) -> None:
        self.coming.append(callback)

    def turn(self) -> None:
        """One turn of the loop."""
        coming, self.coming = self.coming, []
        for callback in coming:
            callback()

    def turns(self) -> None:
        for _ in range(10_000):
            if not self.coming:
                return
            self.turn()
            self.flush()
        raise AssertionError("the turns do not end")


class FakeStream(HTTP1FakeStream):
    """Keeps what an exchange tells; the test answers through the exchange."""

    engine: Exchange  # type: ignore[assignment]
    head: Head  # type: ignore[assignment]

    def __init__(self, exchange: Exchange, head: Head) -> None:
        super().__init__(exchange, head)  # type: ignore[arg-type]
        self.woken = 0
        self.drained = False

    def writable_again(self) -> None:
        self.woken += 1

    def drain(self) -> None:
        self.drained = True


class Conversation:
    """An engine, its wire, a peer, and the requests that were begun."""

    def __init__(
        self,
        limits: dict[str, Any] | None = None,
        timeouts: dict[str, Any] | None = None,
        server_line: bytes | None = None,
        greeting: bytes | None = PREFACE + settings(),
    ) -> None:
        self.wire = FakeWire()
        self.peer = Peer()
        self.streams: list[FakeStream] = []
        self.reports: list[tuple[str, int | None, bytes]] = []
        self.refusal: ProtocolError | None = None
        self.engine = HTTP2Engine(
            self.wire,
            self._begin,
            lambda *report: self.reports.append(report),
            dataclasses.replace(Limits(), **(limits or {})),
            dataclasses.replace(Timeouts(), **(timeouts or {})),
            server_line,
        )
        self.wire.engine = self.engine
        self.engine.start_reading()
        self._heard = 0
        if greeting is not None:
            self.feed(greeting)

    def _begin(self, exchange: Exchange, head: Head) -> Any:
        if self.refusal is not None:
            raise self.refusal
        stream = FakeStream(exchange, head)
        self.streams.append(stream)
        return stream

    def feed(self, *parts: bytes) -> list[Received]:
        """Give the engine bytes; return the frames that follow."""
        for part in parts:
            self.wire.deliver(part)
        return self.hear()

    def hear(self) -> list[Received]:
        """Let the loop turn until nothing is left; return what was sent."""
        self.wire.turns()
        written = bytes(self.wire.written[self._heard :])
        self._heard += len(written)
        return self.peer.feed(written)

    def ask(self, fields: Fields | None = None, flags: int = END_STREAM) -> FakeStream:
        """Open a stream that is begun."""
        count = len(self.streams)
        self.feed(self.peer.open(fields, flags))
        assert len(self.streams) == count + 1, (self.reports, self.peer.frames[-3:])
        return self.streams[-1]

    def response(self, stream: FakeStream | None = None) -> Response:
        self.hear()
        id = self.peer.last if stream is None else stream.engine.id
        return self.peer.responses[id]

    def open_windows(self) -> None:
        """Take everything, whatever it is."""
        self.feed(settings(INITIAL_WINDOW_SIZE=LARGE), h2.window_update(0, LARGE))

    @property
    def stream(self) -> FakeStream:
        """The one request there was."""
        (stream,) = self.streams
        return stream

    @property
    def goaway(self) -> Received:
        self.hear()
        (frame,) = self.peer.goaways()
        return frame


class EngineTestCase(unittest.TestCase):
    def fails(
        self, conversation: Conversation, code: int, *parts: bytes, reason: str = ""
    ) -> None:
        """``parts`` end the connection with an error of this ``code``."""
        conversation.feed(*parts)
        self.assertEqual([frame.code for frame in conversation.peer.goaways()], [code])
        self.assertIsNotNone(conversation.wire.ended)
        self.assertEqual(len(conversation.reports), 1, conversation.reports)
        self.assertIn(reason, conversation.reports[0][0])
        self.assertIsNone(conversation.reports[0][1])

    def resets(
        self, conversation: Conversation, code: int, *parts: bytes, reason: str = ""
    ) -> None:
        """``parts`` end the last stream with this ``code``; the connection lives."""
        conversation.feed(*parts)
        response = conversation.peer.responses[conversation.peer.last]
        self.assertEqual(response.reset, code)
        self.assertIsNone(conversation.wire.ended)
        self.lives(conversation)
        if reason:
            self.assertIn(reason, conversation.reports[-1][0])

    def lives(self, conversation: Conversation) -> None:
        """Another request is served, and its block understood."""
        stream = conversation.ask(request(b"GET", b"/alive", (b"x", b"y")))
        self.assertEqual(stream.head.path, "/alive")
        self.assertEqual(stream.head.headers[-1], (b"x", b"y"))
        stream.answer(200, [], b"yes")
        self.assertEqual(conversation.response(stream).body, b"yes")


# -- The connection --------------------------------------------------------------------


class Preface(EngineTestCase):
    """RFC 9113 section 3.4."""

    def test_we_say_first_what_we_take(self) -> None:
        conversation = Conversation(greeting=None)
        first, second = conversation.hear()
        self.assertEqual((first.kind, first.flags, first.id), (SETTINGS, 0, 0))
        said = {
            int.from_bytes(first.payload[at : at + 2]): int.from_bytes(
                first.payload[at + 2 : at + 6]
            )
            for at in range(0, len(first.payload), 6)
        }
        self.assertEqual(
            said,
            {
                h2.MAX_CONCURRENT_STREAMS: 100,
                h2.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                h2.MAX_HEADER_LIST_SIZE: 65536,
                h2.ENABLE_CONNECT_PROTOCOL: 1,
                h2.NO_RFC7540_PRIORITIES: 1,
            },
        )
        self.assertEqual((second.kind, second.id), (WINDOW_UPDATE, 0))
        self.assertEqual(second.number, CONNECTION_WINDOW - 65535)
        self.assertEqual(conversation.wire.writes, 1)

    def test_limits_are_what_is_said(self) -> None:
        conversation = Conversation(
            {"streams": 7, "header_bytes": 1 << 40}, greeting=None
        )
        (said, _) = conversation.hear()
        self.assertEqual(said.payload[:6], b"\0\3\0\0\0\7")
        self.assertIn(b"\0\6\xff\xff\xff\xff", said.payload)

    def test_it_may_come_in_pieces(self) -> None:
        conversation = Conversation(greeting=None)
        whole = PREFACE + settings() + conversation.peer.open()
        for at in range(len(whole)):
            conversation.feed(whole[at : at + 1])
        self.assertEqual(conversation.stream.head.path, "/")

    def test_anything_else_is_refused(self) -> None:
        for greeting in (
            b"GET / HTTP/1.1\r\n\r\n",
            PREFACE[:-1] + b"\r",
            b"\x16\x03\x01",
        ):
            with self.subTest(greeting):
                self.fails(Conversation(greeting=None), PROTOCOL_ERROR, greeting)

    def test_settings_must_follow(self) -> None:
        for first in (h2.ping(), frame(SETTINGS, ACK), h2.window_update(0, 1)):
            with self.subTest(first):
                conversation = Conversation(greeting=PREFACE)
                self.fails(conversation, PROTOCOL_ERROR, first, reason="SETTINGS")

    def test_settings_are_acknowledged(self) -> None:
        conversation = Conversation(greeting=None)
        conversation.hear()
        (ack,) = conversation.feed(PREFACE, settings(INITIAL_WINDOW_SIZE=1))
        self.assertEqual((ack.kind, ack.flags, ack.payload), (SETTINGS, ACK, b""))


class FrameFormats(EngineTestCase):
    """RFC 9113 sections 4 and 6: one case for each MUST that ends a connection."""

    def test_connection_errors(self) -> None:
        # A stream is open, its request incomplete: id 1.
        one = {
            "DATA on stream 0": (PROTOCOL_ERROR, h2.data(0, b"x")),
            "DATA on an idle stream": (PROTOCOL_ERROR, h2.data(3, b"x")),
            "DATA on our kind of stream": (PROTOCOL_ERROR, h2.data(2, b"x")),
            "DATA that is all padding and more": (
                PROTOCOL_ERROR, frame(DATA, PADDED, 1, b"\x03ab"),
            ),
            "DATA without its padding's length": (
                FRAME_SIZE_ERROR, frame(DATA, PADDED, 1, b""),
            ),
            "DATA too large": (FRAME_SIZE_ERROR, h2.data(1, bytes(16385))),
            "HEADERS on stream 0": (PROTOCOL_ERROR, frame(HEADERS, END_HEADERS, 0)),
            "HEADERS on our kind of stream": (
                PROTOCOL_ERROR, frame(HEADERS, END_HEADERS, 2, b"\x82"),
            ),
            "HEADERS with too much padding": (
                PROTOCOL_ERROR, frame(HEADERS, END_HEADERS | PADDED, 3, b"\x05\x82"),
            ),
            "padding that eats the priority": (
                PROTOCOL_ERROR,
                frame(
                    HEADERS, END_HEADERS | PADDED | WITH_PRIORITY, 3,
                    b"\x04" + bytes(8),
                ),
            ),
            "PRIORITY on stream 0": (PROTOCOL_ERROR, frame(PRIORITY, 0, 0, bytes(5))),
            "PRIORITY of a wrong size": (
                FRAME_SIZE_ERROR, frame(PRIORITY, 0, 3, bytes(4)),
            ),
            "PRIORITY on itself": (
                PROTOCOL_ERROR, frame(PRIORITY, 0, 3, b"\x80\0\0\3\0"),
            ),
            "RST_STREAM on stream 0": (PROTOCOL_ERROR, h2.reset(0)),
            "RST_STREAM on an idle stream": (PROTOCOL_ERROR, h2.reset(3)),
            "RST_STREAM of a wrong size": (
                FRAME_SIZE_ERROR, frame(RST_STREAM, 0, 1, bytes(3)),
            ),
            "SETTINGS on a stream": (PROTOCOL_ERROR, frame(SETTINGS, 0, 1)),
            "SETTINGS of a wrong size": (
                FRAME_SIZE_ERROR, frame(SETTINGS, 0, 0, bytes(5)),
            ),
            "an acknowledgement with settings": (
                FRAME_SIZE_ERROR, frame(SETTINGS, ACK, 0, bytes(6)),
            ),
            "ENABLE_PUSH 2": (PROTOCOL_ERROR, settings(ENABLE_PUSH=2)),
            "INITIAL_WINDOW_SIZE too large": (
                FLOW_CONTROL_ERROR, settings(INITIAL_WINDOW_SIZE=2**31),
            ),
            "MAX_FRAME_SIZE too small": (
                PROTOCOL_ERROR, settings(MAX_FRAME_SIZE=16383),
            ),
            "MAX_FRAME_SIZE too large": (
                PROTOCOL_ERROR, settings(MAX_FRAME_SIZE=2**24),
            ),
            "PUSH_PROMISE": (PROTOCOL_ERROR, frame(PUSH_PROMISE, 4, 1, bytes(5))),
            "PING on a stream": (PROTOCOL_ERROR, frame(PING, 0, 1, bytes(8))),
            "PING of a wrong size": (FRAME_SIZE_ERROR, h2.ping(bytes(7))),
            "GOAWAY on a stream": (PROTOCOL_ERROR, frame(GOAWAY, 0, 1, bytes(8))),
            "GOAWAY of a wrong size": (FRAME_SIZE_ERROR, frame(GOAWAY, 0, 0, bytes(7))),
            "WINDOW_UPDATE of a wrong size": (
                FRAME_SIZE_ERROR, frame(WINDOW_UPDATE, 0, 0, bytes(3)),
            ),
            "WINDOW_UPDATE on an idle stream": (PROTOCOL_ERROR, h2.window_update(3, 1)),
            "WINDOW_UPDATE by nothing": (PROTOCOL_ERROR, h2.window_update(0, 0)),
            "the connection's window beyond its limit": (
                FLOW_CONTROL_ERROR, h2.window_update(0, 2**31 - 1),
            ),
            "CONTINUATION of nothing": (PROTOCOL_ERROR, frame(CONTINUATION, 4, 1)),
            "PRIORITY_UPDATE on a stream": (
                PROTOCOL_ERROR, frame(PRIORITY_UPDATE, 0, 1, b"\0\0\0\1u=1"),
            ),
            "PRIORITY_UPDATE of a wrong size": (
                FRAME_SIZE_ERROR, frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0"),
            ),
            "PRIORITY_UPDATE of stream 0": (PROTOCOL_ERROR, h2.priority_update(0, b"")),
            "PRIORITY_UPDATE of a push": (PROTOCOL_ERROR, h2.priority_update(2, b"")),
        }  # fmt: skip
        for what, (code, part) in one.items():
            with self.subTest(what):
                conversation = Conversation()
                stream = conversation.ask(request(b"POST"), 0)
                self.fails(conversation, code, part)
                self.assertEqual(conversation.goaway.number, 1)
                self.assertEqual(len(stream.resets), 1)

    def test_what_came_before_an_error_counts(self) -> None:
        conversation = Conversation()
        parts = [conversation.peer.open() for _ in range(3)]
        conversation.feed(b"".join(parts) + h2.ping() + h2.data(0, b"x"))
        self.assertEqual(len(conversation.streams), 3)
        self.assertEqual(conversation.goaway.number, 5)
        self.assertEqual(len(conversation.peer.of(PING)), 1)

    def test_what_comes_after_an_error_does_not(self) -> None:
        conversation = Conversation()
        conversation.feed(h2.ping(b"short") + conversation.peer.open())
        conversation.feed(conversation.peer.open())
        self.assertEqual(conversation.streams, [])

    def test_unknown_frames_and_flags_are_ignored(self) -> None:
        conversation = Conversation()
        conversation.feed(
            frame(0x42, 0xFF, 77, b"whatever"),
            frame(0xFF, 0, 0),
            frame(PING, 0xFE, 0, bytes(8)),
            frame(SETTINGS, 0xFE, 0),
        )
        self.lives(conversation)

    def test_unknown_settings_are_ignored_and_not_kept(self) -> None:
        conversation = Conversation()
        for first in range(10, 20_000, 2000):
            payload = b"".join(
                number.to_bytes(2) + b"\xff\xff\xff\xff"
                for number in range(first, first + 2000)
            )
            conversation.feed(frame(SETTINGS, 0, 0, payload))
        self.lives(conversation)
        self.assertLess(len(conversation.engine._h2.remote_settings), 10)

    def test_the_reserved_bit_of_an_id_is_ignored(self) -> None:
        conversation = Conversation()
        block = conversation.peer.encode(request())
        conversation.feed(frame(HEADERS, END_HEADERS | END_STREAM, 0x80000001, block))
        self.assertEqual(conversation.stream.engine.id, 1)

    def test_pings_are_answered(self) -> None:
        conversation = Conversation()
        (answer,) = conversation.feed(h2.ping(b"abcdefgh"))
        self.assertEqual(
            (answer.kind, answer.flags, answer.payload), (PING, ACK, b"abcdefgh")
        )
        self.assertEqual(conversation.feed(h2.ping(b"abcdefgh", ACK)), [])

    def test_padding_is_taken_off(self) -> None:
        conversation = Conversation()
        block = conversation.peer.encode(request(b"POST"))
        conversation.feed(
            frame(
                HEADERS,
                END_HEADERS | PADDED | WITH_PRIORITY,
                1,
                b"\x07" + b"\0\0\0\0\x10" + block + bytes(7),
            ),
            frame(DATA, PADDED, 1, b"\x05hello" + bytes(5)),
            frame(DATA, PADDED, 1, b"\x00 you"),
            frame(DATA, PADDED | END_STREAM, 1, b"\x02" + bytes(2)),
        )
        self.assertEqual(conversation.stream.body, b"hello you")
        self.assertTrue(conversation.stream.ended)


class HeaderBlocks(EngineTestCase):
    """RFC 9113 sections 4.3 and 6.10."""

    def in_pieces(self, fields: Fields, size: int, *, id: int = 1) -> list[bytes]:
        peer = self.conversation.peer
        peer.last = id
        block = peer.encode(fields)
        pieces = [block[at : at + size] for at in range(0, len(block), size)]
        frames = [frame(HEADERS, END_STREAM, id, pieces[0])]
        frames += [frame(CONTINUATION, 0, id, piece) for piece in pieces[1:]]
        return [*frames, frame(CONTINUATION, END_HEADERS, id)]

    def setUp(self) -> None:
        self.conversation = Conversation()

    def test_continued(self) -> None:
        self.conversation.feed(*self.in_pieces(request(), 3))
        self.assertEqual(self.conversation.stream.head.path, "/")
        self.assertTrue(self.conversation.stream.ended)

    def test_nothing_may_come_between(self) -> None:
        parts = {
            "another frame": h2.ping(),
            "DATA of the same stream": h2.data(1, b"x"),
            "an unknown frame": frame(0x42),
            "HEADERS": frame(HEADERS, END_HEADERS, 3, b"\x82"),
            "CONTINUATION of another stream": frame(CONTINUATION, END_HEADERS, 3),
        }
        for what, part in parts.items():
            with self.subTest(what):
                self.conversation = Conversation()
                first, *_ = self.in_pieces(request(), 3)
                self.fails(self.conversation, PROTOCOL_ERROR, first, part)

    def test_a_block_that_does_not_decode(self) -> None:
        for what, block in {
            "index 0": b"\x80",
            "an index beyond the table": b"\xbf",
            "a string that is cut off": b"\x00\x05ab",
            "a number too large": b"\xff\xff\xff\xff\xff\xff\xff",
            "a table larger than allowed": b"\x3f\xff\xff\x03",
            "a table that changes for ever": b"\x20" * 3 + b"\x82",
            "the same in larger numbers": b"\x3f\x01" * 3 + b"\x82",
            "Huffman code that ends wrong": b"\x00\x81\x00\x00",
        }.items():
            with self.subTest(what):
                self.fails(
                    Conversation(),
                    COMPRESSION_ERROR,
                    frame(HEADERS, END_HEADERS | END_STREAM, 1, block),
                )

    def test_the_tables_survive_every_refusal(self) -> None:
        """A block is decoded whatever becomes of its stream."""
        conversation = Conversation({"streams": 1})
        busy = conversation.ask()
        peer = conversation.peer
        conversation.feed(peer.open(request(b"GET", b"/one", (b"one", b"refused"))))
        self.assertEqual(peer.responses[peer.last].reset, REFUSED_STREAM)
        busy.answer()
        conversation.feed(peer.open(request(b"GET", b"/ /", (b"two", b"malformed"))))
        self.assertEqual(peer.responses[peer.last].reset, PROTOCOL_ERROR)
        stream = conversation.ask(
            request(b"GET", b"/one", (b"one", b"refused"), (b"two", b"malformed"))
        )
        self.assertEqual(
            stream.head.headers[1:], [(b"one", b"refused"), (b"two", b"malformed")]
        )

    def test_blocks_that_come_again_mean_the_same(self) -> None:
        """Until a table changes: then an index means something else."""
        conversation = self.conversation
        fields = request(b"GET", b"/again", (b"a", b"1"), (b"b", b"2"))
        conversation.ask(fields)
        for _ in range(3):
            stream = conversation.ask(fields)
            self.assertEqual(stream.head.headers[1:], [(b"a", b"1"), (b"b", b"2")])
            # An application may change the list that it is given.
            stream.head.headers.clear()
        block = conversation.peer.encode(fields)
        self.assertGreater(min(block), 0x80)
        conversation.ask(request(b"GET", b"/else", (b"c", b"3")))
        id = conversation.peer._next
        conversation.feed(frame(HEADERS, END_HEADERS | END_STREAM, id, block))
        # The newest entry is now c: 3, and what was a: 1 has moved.
        self.assertNotIn((b"a", b"1"), conversation.streams[-1].head.headers)


# -- Requests --------------------------------------------------------------------------


class Heads(EngineTestCase):
    """RFC 9113 section 8."""

    def test_a_request(self) -> None:
        stream = Conversation().ask(
            [
                (b":method", b"GET"),
                (b":authority", b"example.org:81"),
                (b":path", b"/a%C3%A9?b=c&d"),
                (b":scheme", b"https"),
                (b"x", b"1"),
                (b"y", b""),
                (b"x", b"2"),
            ]
        )
        head = stream.head
        self.assertEqual((head.method, head.http_version), ("GET", "2"))
        self.assertEqual((head.path, head.raw_path), ("/aé", b"/a%C3%A9"))
        self.assertEqual(head.query, b"b=c&d")
        self.assertEqual(
            head.headers,
            [(b"host", b"example.org:81"), (b"x", b"1"), (b"y", b""), (b"x", b"2")],
        )
        self.assertTrue(stream.ended)

    def test_any_method(self) -> None:
        for method in (b"PURGE", b"QUERY", b"M-SEARCH", b"get"):
            head = Conversation().ask(request(method)).head
            self.assertEqual(head.method, method.decode().upper())
        head = Conversation().ask(request(b"OPTIONS", b"*")).head
        self.assertEqual(head.raw_path, b"*")

    def test_malformed_requests_are_reset(self) -> None:
        good = request()
        without = {
            name: [field for field in good if field[0] != name]
            for name in (b":method", b":scheme", b":path")
        }
        cases: dict[str, Fields] = {
            "no method": without[b":method"],
            "no scheme": without[b":scheme"],
            "no path": without[b":path"],
            "an empty path": request(b"GET", b""),
            "a path that is none": request(b"GET", b"nowhere"),
            "an absolute path": request(b"GET", b"http://example.org/"),
            "a star for a GET": request(b"GET", b"*"),
            "a space in the path": request(b"GET", b"/a b"),
            "a fragment": request(b"GET", b"/a#b"),
            "a control character in the path": request(b"GET", b"/\x01"),
            "a bad method": request(b"GE T"),
            "an empty method": request(b""),
            "a repeated pseudo-field": [*good[:1], *good],
            "a pseudo-field after others": [good[0], (b"x", b"y"), *good[1:]],
            "an unknown pseudo-field": [(b":colour", b"red"), *good],
            "one of a response": [(b":status", b"200"), *good],
            ":protocol without CONNECT": [*good, (b":protocol", b"websocket")],
            "CONNECT with a path": [
                (b":method", b"CONNECT"), (b":path", b"/"),
                (b":authority", b"example.org:1"),
            ],
            "CONNECT without an authority": [(b":method", b"CONNECT")],
            "an extended CONNECT without a path": [
                (b":method", b"CONNECT"), (b":protocol", b"websocket"),
                (b":authority", b"example.org"), (b":scheme", b"http"),
            ],
            "a bad scheme": [good[0], (b":scheme", b"ht tp"), *good[2:]],
            "an upper-case name": request(b"GET", b"/", (b"X-A", b"1")),
            "an empty name": request(b"GET", b"/", (b"", b"1")),
            "a space in a name": request(b"GET", b"/", (b"a b", b"1")),
            "a colon in a name": request(b"GET", b"/", (b"a:b", b"1")),
            "a NUL in a name": request(b"GET", b"/", (b"a\0", b"1")),
            "a non-ASCII name": request(b"GET", b"/", (b"\xe9", b"1")),
            "a line feed in a value": request(b"GET", b"/", (b"a", b"1\nb: 2")),
            "a carriage return in a value": request(b"GET", b"/", (b"a", b"1\r")),
            "a NUL in a value": request(b"GET", b"/", (b"a", b"\0")),
            "a leading space": request(b"GET", b"/", (b"a", b" 1")),
            "a trailing tab": request(b"GET", b"/", (b"a", b"1\t"), (b"b", b"2")),
            "only a space": request(b"GET", b"/", (b"a", b" ")),
            "a space in pseudo": [*good[:3], (b":authority", b"a ")],
            "connection": request(b"GET", b"/", (b"connection", b"close")),
            "keep-alive": request(b"GET", b"/", (b"keep-alive", b"1")),
            "proxy-connection": request(b"GET", b"/", (b"proxy-connection", b"x")),
            "transfer-encoding": request(
                b"GET", b"/", (b"transfer-encoding", b"chunked")
            ),
            "upgrade": request(b"GET", b"/", (b"upgrade", b"h2c")),
            "te: gzip": request(b"GET", b"/", (b"te", b"trailers, gzip")),
            "a length that is none": request(b"POST", b"/", (b"content-length", b"+1")),
            "two lengths": request(
                b"POST", b"/", (b"content-length", b"1"), (b"content-length", b"1")
            ),
            "a length and no body": request(b"POST", b"/", (b"content-length", b"5")),
        }  # fmt: skip
        for what, fields in cases.items():
            with self.subTest(what):
                conversation = Conversation()
                self.resets(
                    conversation, PROTOCOL_ERROR, conversation.peer.open(fields)
                )
                self.assertEqual(len(conversation.streams), 1)
                self.assertIn("PROTOCOL_ERROR", conversation.reports[0][0])

    def test_unacceptable_requests_are_answered(self) -> None:
        good = request()
        cases: dict[str, tuple[int, Fields]] = {
            "no host": (400, good[:3]),
            "two hosts": (400, [*good[:3], (b"host", b"a"), (b"host", b"a")]),
            "a host that is none": (400, [*good[:3], (b":authority", b"a/b")]),
            "userinfo": (400, [*good[:3], (b":authority", b"me@example.org")]),
            "a host of its own": (400, [*good, (b"host", b"evil.example")]),
            "a long path": (414, request(b"GET", b"/" + bytes(b"a" * 8192))),
            "many fields": (
                431, request(b"GET", b"/", *((b"x", b"%d" % n) for n in range(100))),
            ),
            "large fields": (431, request(b"GET", b"/", (b"x", b"a" * 66_000))),
            "CONNECT": (501, [(b":method", b"CONNECT"), (b":authority", b"a:1")]),
            "CONNECT for another protocol": (
                501, [(b":method", b"CONNECT"), (b":protocol", b"ip"), *good[1:]],
            ),
        }  # fmt: skip
        for what, (status, fields) in cases.items():
            with self.subTest(what):
                conversation = Conversation()
                block = conversation.peer.encode(fields)
                first, rest = block[:16000], block[16000:]
                conversation.feed(
                    frame(HEADERS, END_STREAM | (0 if rest else END_HEADERS), 1, first)
                )
                while rest:
                    piece, rest = rest[:16000], rest[16000:]
                    flags = 0 if rest else END_HEADERS
                    conversation.feed(frame(CONTINUATION, flags, 1, piece))
                response = conversation.peer.responses[1]
                self.assertEqual(response.status, status)
                self.assertTrue(response.body.startswith(b"%d " % status))
                self.assertTrue(response.complete)
                self.assertIsNone(response.reset)
                self.assertEqual(conversation.reports[0][1], status)
                conversation.peer._next = 3
                self.lives(conversation)

    def test_a_refused_request_with_a_body_is_reset_after_the_answer(self) -> None:
        conversation = Conversation()
        conversation.feed(conversation.peer.open(request(b"POST")[:3], 0))
        response = conversation.peer.responses[1]
        self.assertEqual((response.status, response.complete), (400, True))
        self.assertEqual(response.reset, NO_ERROR)
        self.assertEqual(
            conversation.feed(h2.data(1, b"late", END_STREAM)),
            [*conversation.peer.frames[-1:]],
        )
        self.lives(conversation)

    def test_a_head_is_refused_without_a_body(self) -> None:
        conversation = Conversation()
        conversation.refusal = ProtocolError("no", 503, ((b"Retry-After", b"5"),))
        conversation.feed(conversation.peer.open(request(b"HEAD")))
        response = conversation.peer.responses[1]
        self.assertEqual((response.status, response.body), (503, b""))
        self.assertEqual(response.get(b"retry-after"), b"5")
        self.assertTrue(response.complete)

    def test_host_and_authority(self) -> None:
        base = request()[:3]
        for fields, host in (
            ([*base, (b"host", b"a.example")], b"a.example"),
            (
                [*base, (b":authority", b"A.example"), (b"host", b"a.example")],
                b"A.example",
            ),
            ([*base, (b":authority", b"[::1]:80")], b"[::1]:80"),
        ):
            head = Conversation().ask(fields).head
            self.assertEqual(
                [value for name, value in head.headers if name == b"host"], [host]
            )

    def test_cookies_are_one_field(self) -> None:
        head = Conversation().ask(
            request(
                b"GET", b"/", (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"),
                (b"cookie", b"c=3"),
            )
        ).head  # fmt: skip
        self.assertEqual(
            head.headers[1:], [(b"cookie", b"a=1; b=2; c=3"), (b"x", b"y")]
        )

    def test_many_cookies_are_still_one_field(self) -> None:
        crumbs = [(b"cookie", b"c%d=1" % number) for number in range(150)]
        self.assertEqual(
            len(Conversation().ask(request(b"GET", b"/", *crumbs)).head.headers), 2
        )

    def test_names_with_an_underscore_are_dropped(self) -> None:
        head = (
            Conversation()
            .ask(request(b"GET", b"/", (b"x_forwarded_for", b"1"), (b"x-a", b"2")))
            .head
        )
        self.assertEqual(head.headers[1:], [(b"x-a", b"2")])

    def test_te_trailers(self) -> None:
        self.assertFalse(Conversation().ask().head.trailers_accepted)
        head = Conversation().ask(request(b"GET", b"/", (b"te", b"trailers"))).head
        self.assertTrue(head.trailers_accepted)

    @given(
        st.lists(
            st.tuples(
                st.one_of(
                    st.sampled_from(
                        [b":method", b":path", b":scheme", b":authority", b"cookie",
                         b"host", b"te", b"content-length", b"priority", b":protocol"]
                    ),
                    st.binary(max_size=6),
                ),
                st.one_of(
                    st.sampled_from([b"GET", b"/", b"http", b"a", b"5", b"CONNECT"]),
                    st.binary(max_size=6),
                ),
            ),
            max_size=10,
        )
    )  # fmt: skip
    def test_whatever_the_fields_the_connection_lives(self, fields: Fields) -> None:
        conversation = Conversation()
        conversation.feed(conversation.peer.open(fields))
        for stream in conversation.streams:
            stream.answer()
        conversation.hear()
        self.lives(conversation)


class Bodies(EngineTestCase):
    def test_a_body(self) -> None:
        conversation = Conversation()
        stream = conversation.ask(request(b"POST", b"/", (b"content-length", b"5")), 0)
        self.assertEqual(stream.head.length, 5)
        conversation.feed(h2.data(1, b"hel"), h2.data(1, b"lo", END_STREAM))
        self.assertEqual((stream.body, stream.ended), (b"hello", True))

    def test_an_empty_last_frame(self) -> None:
        conversation = Conversation()
        stream = conversation.ask(request(b"POST"), 0)
        conversation.feed(h2.data(1, b"hello"))
        self.assertFalse(stream.ended)
        conversation.feed(h2.data(1, b"", END_STREAM))
        self.assertEqual((stream.body, stream.ended), (b"hello", True))

    def test_more_or_less_than_announced(self) -> None:
        for parts in (
            [h2.data(1, b"123456")],
            [h2.data(1, b"123"), h2.data(1, b"456", END_STREAM)],
            [h2.data(1, b"1234", END_STREAM)],
            [h2.data(1, b"1234"), h2.data(1, b"", END_STREAM)],
            [h2.data(1, b"1234"), "trailers"],
        ):
            conversation = Conversation()
            stream = conversation.ask(
                request(b"POST", b"/", (b"content-length", b"5")), 0
            )
            made = [
                conversation.peer.headers(1, [(b"a", b"b")], END_STREAM)
                if part == "trailers"
                else part
                for part in parts
            ]
            self.resets(conversation, PROTOCOL_ERROR, *made, reason="Content-Length")
            self.assertFalse(stream.ended)
            self.assertEqual(len(stream.resets), 1)

    def test_data_after_the_end(self) -> None:
        conversation = Conversation()
        stream = conversation.ask()
        self.resets(conversation, STREAM_CLOSED, h2.data(1, b"x"))
        self.assertEqual(len(stream.resets), 1)

    def test_headers_after_the_end(self) -> None:
        conversation = Conversation()
        stream = conversation.ask()
        late = conversation.peer.headers(1, [(b"a", b"b")], END_STREAM)
        self.resets(conversation, STREAM_CLOSED, late)
        self.assertEqual(len(stream.resets), 1)

    def test_frames_on_streams_that_are_over(self) -> None:
        """RFC 9113 section 5.1, "closed"."""
        for late, code in (
            (h2.data(1, b"x"), STREAM_CLOSED),
            (h2.data(1, b"x", END_STREAM), STREAM_CLOSED),
        ):
            conversation = Conversation()
            conversation.ask().answer()
            conversation.hear()
            self.fails(conversation, code, late)
        for late in (
            h2.reset(1),
            h2.window_update(1, 5),
            frame(PRIORITY, 0, 1, bytes(5)),
        ):
            conversation = Conversation()
            conversation.ask().answer()
            conversation.hear()
            self.assertEqual(conversation.feed(late), [])
            self.lives(conversation)

    def test_headers_on_streams_that_are_over(self) -> None:
        conversation = Conversation()
        conversation.ask().answer()
        conversation.hear()
        self.fails(
            conversation,
            STREAM_CLOSED,
            conversation.peer.headers(1, request(), END_STREAM),
        )

    def test_ids_only_grow(self) -> None:
        conversation = Conversation()
        conversation.feed(conversation.peer.open(id=5))
        self.fails(
            conversation,
            PROTOCOL_ERROR,
            conversation.peer.headers(3, request(), END_STREAM),
        )

    def test_what_still_comes_of_a_stream_that_we_reset_is_ignored(self) -> None:
        conversation = Conversation()
        stream = conversation.ask(request(b"POST"), 0)
        stream.engine.abort()
        conversation.hear()
        late = conversation.peer.headers(1, [(b"late", b"trailer")], END_STREAM)
        conversation.feed(h2.data(1, bytes(100)), late)
        self.lives(conversation)

    def test_resets_are_not_remembered_for_ever(self) -> None:
        conversation = Conversation()
        for _ in range(MAX_RESETS + 50):
            conversation.ask().engine.abort()
        self.assertEqual(len(conversation.engine._resets), MAX_RESETS)

    def test_the_limit_of_a_body(self) -> None:
        for length in ((b"content-length", b"11"), (b"x", b"y")):
            conversation = Conversation({"body_bytes": 10})
            conversation.feed(conversation.peer.open(request(b"POST", b"/", length), 0))
            if conversation.streams:
                conversation.feed(h2.data(1, b"12345"), h2.data(1, b"678901"))
                self.assertEqual(conversation.stream.resets[0][1], 413)
            response = conversation.peer.responses[1]
            self.assertEqual((response.status, response.complete), (413, True))
            self.assertEqual(response.reset, NO_ERROR)
            self.lives(conversation)

    def test_a_body_that_ends_beyond_its_limit(self) -> None:
        conversation = Conversation({"body_bytes": 10})
        stream = conversation.ask(request(b"POST"), 0)
        conversation.feed(h2.data(1, bytes(11), END_STREAM))
        response = conversation.response(stream)
        self.assertEqual((response.status, response.complete), (413, True))
        # There is nothing left to be reset.
        self.assertIsNone(response.reset)
        self.assertEqual(stream.resets[0][1], 413)
        self.lives(conversation)

    def test_a_request_that_ends_before_its_refusal_is_taken(self) -> None:
        length = (b"content-length", b"20")
        for fields, pieces in (
            (request(b"POST", b"/", length), ()),
            (request(b"POST"), (h2.data(1, bytes(11)),)),
        ):
            for with_trailers in (False, True):
                conversation = Conversation(
                    {"body_bytes": 10},
                    greeting=PREFACE + settings(INITIAL_WINDOW_SIZE=0),
                )
                end = h2.data(1, bytes(9), END_STREAM)
                opening = conversation.peer.open(fields, 0)
                if with_trailers:
                    end = conversation.peer.headers(1, [(b"a", b"b")], END_STREAM)
                conversation.feed(opening, *pieces, end)
                response = conversation.peer.responses[1]
                self.assertEqual((response.status, response.complete), (413, False))
                conversation.open_windows()
                self.assertTrue(response.complete)
                self.assertIsNone(response.reset)
                self.assertEqual(conversation.engine.exchanges, {})
                self.lives(conversation)

    def test_trailers_end_a_request(self) -> None:
        conversation = Conversation()
        stream = conversation.ask(request(b"POST"), 0)
        trailers = conversation.peer.headers(1, [(b"digest", b"x")], END_STREAM)
        conversation.feed(h2.data(1, b"hello"), trailers)
        self.assertEqual((stream.body, stream.ended), (b"hello", True))
        stream.answer()
        self.assertTrue(conversation.response(stream).complete)

    def test_bad_trailers(self) -> None:
        for what, fields, flags in (
            ("which do not end the stream", [(b"a", b"b")], 0),
            ("with a pseudo-field", [(b":path", b"/")], END_STREAM),
            ("with upper case", [(b"A", b"b")], END_STREAM),
            ("of a connection", [(b"connection", b"close")], END_STREAM),
            ("about framing", [(b"content-length", b"1")], END_STREAM),
            ("with a line feed", [(b"a", b"b\n")], END_STREAM),
        ):
            with self.subTest(what):
                conversation = Conversation()
                stream = conversation.ask(request(b"POST"), 0)
                part = conversation.peer.headers(1, fields, flags)
                self.resets(conversation, PROTOCOL_ERROR, part)
                self.assertEqual(len(stream.resets), 1)

    def test_too_many_trailers(self) -> None:
        conversation = Conversation({"header_count": 10})
        stream = conversation.ask(request(b"POST"), 0)
        fields = [(b"t%d" % number, b"1") for number in range(11)]
        conversation.feed(conversation.peer.headers(1, fields, END_STREAM))
        self.assertEqual(conversation.response(stream).status, 431)
        self.assertEqual(stream.resets[0][1], 431)

    def test_expect(self) -> None:
        conversation = Conversation()
        expect = request(b"POST", b"/", (b"expect", b"100-continue"))
        stream = conversation.ask(expect, 0)
        self.assertEqual(conversation.hear(), [])
        stream.engine.invite_body()
        stream.engine.invite_body()
        response = conversation.response(stream)
        self.assertEqual(response.informational, [[(b":status", b"100")]])
        conversation.feed(h2.data(1, b"hello", END_STREAM))
        stream.engine.invite_body()
        stream.answer()
        self.assertEqual(len(conversation.response(stream).informational), 1)
        self.assertTrue(response.complete)

    def test_expect_is_forgotten_when_the_body_comes(self) -> None:
        conversation = Conversation()
        expect = request(b"POST", b"/", (b"expect", b"100-continue"))
        stream = conversation.ask(expect, 0)
        conversation.feed(h2.data(1, b"hello"))
        stream.engine.invite_body()
        self.assertEqual(conversation.hear(), [])

    def test_a_client_that_waits_is_answered_and_reset(self) -> None:
        conversation = Conversation()
        expect = request(b"POST", b"/", (b"expect", b"100-continue"))
        conversation.ask(expect, 0).answer(403)
        response = conversation.response()
        self.assertEqual((response.status, response.complete), (403, True))
        self.assertEqual(response.reset, NO_ERROR)


class UnwantedBodies(EngineTestCase):
    """RFC 9113 section 8.1: a complete response before a complete request."""

    def test_a_small_rest_is_read(self) -> None:
        conversation = Conversation()
        conversation.ask(request(b"POST", b"/", (b"content-length", b"9")), 0).answer()
        response = conversation.response()
        self.assertTrue(response.complete)
        conversation.feed(h2.data(1, b"123456789", END_STREAM))
        self.assertIsNone(response.reset)
        self.assertEqual(conversation.engine.exchanges, {})
        self.lives(conversation)

    def test_a_small_rest_with_trailers(self) -> None:
        conversation = Conversation()
        conversation.ask(request(b"POST"), 0).answer()
        conversation.feed(conversation.peer.headers(1, [(b"a", b"b")], END_STREAM))
        self.assertEqual(conversation.engine.exchanges, {})
        self.lives(conversation)

    def test_a_large_one_is_not(self) -> None:
        conversation = Conversation()
        length = b"%d" % (DISCARD_LIMIT + 1)
        conversation.ask(
            request(b"POST", b"/", (b"content-length", length)), 0
        ).answer()
        self.assertEqual(conversation.response().reset, NO_ERROR)

    def test_one_that_turns_out_large_is_not(self) -> None:
        conversation = Conversation()
        conversation.ask(request(b"POST"), 0).answer()
        conversation.hear()
        for _ in range(DISCARD_LIMIT // 16000 + 1):
            conversation.feed(h2.data(1, bytes(16000)))
        self.assertEqual(conversation.response().reset, NO_ERROR)
        self.lives(conversation)

    def test_one_that_never_ends_is_not_waited_for(self) -> None:
        conversation = Conversation(timeouts={"body": 3})
        conversation.ask(request(b"POST"), 0).answer()
        conversation.hear()
        conversation.wire.wait(3)
        self.assertEqual(conversation.response().reset, NO_ERROR)

    def test_the_window_that_the_application_left_shut_is_opened(self) -> None:
        conversation = Conversation()
        stream = conversation.ask(request(b"POST"), 0)
        conversation.feed(*(h2.data(1, bytes(16000)) for _ in range(5)))
        self.assertEqual(stream.untaken, 80_000)
        stream.answer()
        conversation.hear()
        self.assertEqual(
            [f.number for f in conversation.peer.of(WINDOW_UPDATE) if f.id], [80_000]
        )


class Windows(EngineTestCase):
    """RFC 9113 sections 5.2 and 6.9: what we take."""

    def windows(self, conversation: Conversation, id: int) -> int:
        return sum(f.number for f in conversation.peer.of(WINDOW_UPDATE) if f.id == id)

    def test_a_streams_window_opens_as_its_application_takes(self) -> None:
        conversation = Conversation()
        stream = conversation.ask(request(b"POST"), 0)
        for _ in range(8):
            conversation.feed(h2.data(1, bytes(16384)))
        self.assertEqual(self.windows(conversation, 1), 0)
        stream.take()
        conversation.hear()
        self.assertEqual(self.windows(conversation, 1), 8 * 16384)
        conversation.feed(*(h2.data(1, bytes(16384)) for _ in range(8)))
        self.assertEqual(len(stream.body), 2 * STREAM_WINDOW)

    def test_beyond_the_window(self) -> None:
        conversation = Conversation()
        conversation.ask(request(b"POST"), 0)
        parts = [h2.data(1, bytes(16384))] * 8
        self.fails(conversation, FLOW_CONTROL_ERROR, *parts, h2.data(1, b"x"))

    def test_the_connections_window_opens_by_what_arrives(self) -> None:
        """One upload that nobody reads must not hold up the others."""
        conversation = Conversation()
        streams = [conversation.ask(request(b"POST"), 0) for _ in range(20)]
        for stream in streams:
            part = h2.data(stream.engine.id, bytes(16384))
            conversation.feed(*[part] * 8)
        sent = 20 * STREAM_WINDOW
        self.assertEqual([s.untaken for s in streams], [STREAM_WINDOW] * 20)
        self.assertGreater(
            self.windows(conversation, 0) + 65535 - sent, CONNECTION_WINDOW // 2
        )
        self.lives(conversation)

    def test_small_pieces_are_given_back_together(self) -> None:
        conversation = Conversation()
        stream = conversation.ask(request(b"POST"), 0)
        for _ in range(100):
            conversation.feed(h2.data(1, bytes(1000)))
            stream.take()
        conversation.hear()
        updates = [f for f in conversation.peer.of(WINDOW_UPDATE) if f.id == 1]
        self.assertEqual(len(updates), 1)

    def test_padding_is_given_back(self) -> None:
        conversation = Conversation()
        stream = conversation.ask(request(b"POST"), 0)
        padded = frame(DATA, PADDED, 1, b"\xff" + b"x" + bytes(255))
        for _ in range(600):
            conversation.feed(padded)
        self.assertEqual(len(stream.body), 600)
        self.assertGreater(self.windows(conversation, 1), 0)

    def test_data_on_dead_streams_does_not_use_up_the_connection(self) -> None:
        conversation = Conversation()
        stream = conversation.ask(request(b"POST"), 0)
        stream.engine.abort()
        conversation.hear()
        for _ in range(100):
            conversation.feed(h2.data(1, bytes(16384)))
        self.assertEqual(
            self.windows(conversation, 0), CONNECTION_WINDOW - 65535 + 100 * 16384
        )
        self.lives(conversation)

    def test_nothing_is_given_back_after_the_end(self) -> None:
        conversation = Conversation()
        stream = conversation.ask(request(b"POST"), 0)
        conversation.feed(*[h2.data(1, bytes(16384))] * 5, h2.data(1, b"", END_STREAM))
        stream.take()
        conversation.hear()
        self.assertEqual(self.windows(conversation, 1), 0)


# -- Responses -------------------------------------------------------------------------


class Responses(EngineTestCase):
    def answer(
        self, method: bytes, status: int, headers: Fields, *parts: bytes
    ) -> Response:
        self.conversation = Conversation()
        stream = self.conversation.ask(request(method))
        stream.answer(status, headers, *parts)
        return self.conversation.response(stream)

    def test_a_whole_response_is_one_write(self) -> None:
        conversation = Conversation()
        stream = conversation.ask()
        before = conversation.wire.writes
        stream.answer(200, [(b"Content-Type", b"text/plain")], b"hello")
        frames = conversation.hear()
        self.assertEqual([f.kind for f in frames], [HEADERS, DATA])
        self.assertEqual(conversation.wire.writes, before + 1)
        self.assertEqual(
            frames[0].fields,
            [
                (b":status", b"200"),
                (b"content-type", b"text/plain"),
                (b"content-length", b"5"),
                (b"date", b"Fri, 20 Nov 2026 10:00:00 GMT"),
            ],
        )
        self.assertEqual(conversation.engine.exchanges, {})

    def test_many_responses_are_one_write(self) -> None:
        conversation = Conversation()
        streams = [conversation.ask() for _ in range(16)]
        before = conversation.wire.writes
        for stream in streams:
            stream.answer(200, [], b"hello")
        conversation.hear()
        self.assertEqual(conversation.wire.writes, before + 1)

    def test_the_server_field(self) -> None:
        conversation = Conversation(server_line=b"Server: us")
        conversation.ask().answer()
        self.assertEqual(conversation.response().get(b"server"), b"us")
        conversation.ask().answer(200, [(b"Server", b"them"), (b"Date", b"now")])
        headers = conversation.response().headers
        self.assertEqual([v for n, v in headers if n == b"server"], [b"them"])
        self.assertEqual([v for n, v in headers if n == b"date"], [b"now"])

    def test_names_are_lower_case_and_connections_not_spoken_of(self) -> None:
        response = self.answer(
            b"GET",
            200,
            [
                (b"X-A", b" 1\t"),
                (b"Connection", b"close"),
                (b"Keep-Alive", b"5"),
                (b"Transfer-Encoding", b"chunked"),
                (b"Upgrade", b"h2c"),
                (b"Proxy-Connection", b"x"),
            ],
            b"x",
        )
        self.assertEqual(response.get(b"x-a"), b"1")
        self.assertEqual(len(response.headers), 4)

    def test_fields_that_cannot_be_sent(self) -> None:
        for field in (
            (b"a\n", b"b"), (b"a", b"b\r\nc: d"), (b":status", b"200"), (b"", b""),
            (b"a", "b"), ("a", b"b"), (b"a",), (b"content-length", b"x"), None,
        ):  # fmt: skip
            with self.subTest(field):
                conversation = Conversation()
                stream = conversation.ask()
                with self.assertRaises(IllegalMessage):
                    stream.engine.start(200, [field], b"", False)  # type: ignore[list-item]
                self.assertEqual(conversation.hear(), [])
                stream.answer(500)
                self.assertEqual(conversation.response(stream).status, 500)

    def test_lists_of_lists(self) -> None:
        response = self.answer(b"GET", 200, [[b"a", b"b"]], b"x")  # type: ignore[list-item]
        self.assertEqual(response.get(b"a"), b"b")

    def test_a_body_in_pieces(self) -> None:
        response = self.answer(b"GET", 200, [], b"one ", b"two ", b"three")
        self.assertEqual((response.body, response.complete), (b"one two three", True))
        self.assertIsNone(response.get(b"content-length"))

    def test_the_end_alone(self) -> None:
        response = self.answer(b"GET", 200, [], b"one", b"")
        self.assertEqual((response.body, response.complete), (b"one", True))

    def test_an_empty_response_is_its_head(self) -> None:
        response = self.answer(b"GET", 200, [])
        self.assertEqual(len(self.conversation.peer.of(DATA)), 0)
        self.assertEqual(response.get(b"content-length"), b"0")
        self.assertTrue(response.complete)

    def test_head(self) -> None:
        response = self.answer(b"HEAD", 200, [(b"content-length", b"5")], b"hello")
        self.assertEqual(response.get(b"content-length"), b"5")
        self.assertEqual((response.body, response.complete), (b"", True))
        response = self.answer(b"HEAD", 200, [], b"he", b"llo")
        self.assertEqual((response.body, response.complete), (b"", True))
        response = self.answer(b"HEAD", 200, [])
        self.assertIsNone(response.get(b"content-length"))

    def test_statuses_without_a_body(self) -> None:
        response = self.answer(b"GET", 204, [(b"content-length", b"0")], b"ignored")
        self.assertIsNone(response.get(b"content-length"))
        self.assertEqual((response.body, response.complete), (b"", True))
        response = self.answer(b"GET", 304, [(b"content-length", b"9")])
        self.assertEqual(response.get(b"content-length"), b"9")
        self.assertTrue(response.complete)

    def test_more_than_announced(self) -> None:
        conversation = Conversation()
        stream = conversation.ask()
        with self.assertRaises(IllegalMessage):
            stream.engine.start(200, [(b"content-length", b"1")], b"ab", False)
        self.assertEqual(conversation.hear(), [])
        stream.engine.start(200, [(b"content-length", b"3")], b"ab", True)
        with self.assertRaises(IllegalMessage):
            stream.engine.body(b"cd", False)
        stream.engine.body(b"c", False)
        self.assertEqual(conversation.response().body, b"abc")

    def test_less_than_announced(self) -> None:
        for parts in ([b"ab"], [b"a", b"b"], [b"a", b""], []):
            response = self.answer(b"GET", 200, [(b"content-length", b"5")], *parts)
            self.assertEqual(response.body, b"".join(parts))
            self.assertEqual(response.reset, INTERNAL_ERROR)
            self.assertEqual(self.conversation.reports[0][1], 500)
            self.lives(self.conversation)

    def test_an_abort_is_one_streams(self) -> None:
        conversation = Conversation()
        first, second = conversation.ask(), conversation.ask()
        first.engine.start(200, [], b"some", True)
        first.engine.abort()
        second.answer(200, [], b"whole")
        self.assertEqual(conversation.response(first).reset, INTERNAL_ERROR)
        self.assertEqual(conversation.response(second).body, b"whole")

    def test_trailers(self) -> None:
        conversation = Conversation()
        stream = conversation.ask(request(b"GET", b"/", (b"te", b"trailers")))
        stream.engine.start(200, [], b"body", False, True)
        self.assertFalse(conversation.response().complete)
        stream.engine.trailers([(b"Digest", b"x")])
        response = conversation.response()
        self.assertEqual(response.trailers, [(b"digest", b"x")])
        self.assertTrue(response.complete)
        self.assertEqual(conversation.engine.exchanges, {})

    def test_trailers_behind_a_body_that_waits(self) -> None:
        conversation = Conversation()
        stream = conversation.ask()
        stream.engine.start(200, [], bytes(70_000), True, True)
        stream.engine.body(b"end", False, True)
        stream.engine.trailers([(b"a", b"b")])
        self.assertFalse(conversation.response().complete)
        conversation.open_windows()
        response = conversation.response()
        self.assertEqual(response.body, bytes(70_000) + b"end")
        self.assertEqual(response.trailers, [(b"a", b"b")])

    def test_no_trailers_after_all(self) -> None:
        conversation = Conversation()
        stream = conversation.ask()
        stream.engine.start(200, [], b"body", False, True)
        stream.engine.trailers([])
        self.assertTrue(conversation.response().complete)

    def test_bad_trailers(self) -> None:
        conversation = Conversation()
        stream = conversation.ask()
        stream.engine.start(200, [], b"body", False, True)
        for field in ((b"a", b"\n"), (b"content-length", b"1")):
            with self.assertRaises(IllegalMessage):
                stream.engine.trailers([field])
        stream.engine.trailers([])
        self.assertTrue(conversation.response().complete)

    def test_early_hints(self) -> None:
        conversation = Conversation()
        stream = conversation.ask()
        stream.engine.informational(103, [(b"Link", b"</a.css>")])
        stream.answer(200, [], b"x")
        response = conversation.response()
        self.assertEqual(
            response.informational, [[(b":status", b"103"), (b"link", b"</a.css>")]]
        )
        self.assertEqual(response.status, 200)

    def test_what_is_sent_after_a_reset_is_dropped(self) -> None:
        conversation = Conversation()
        stream = conversation.ask()
        conversation.feed(h2.reset(1))
        self.assertEqual(stream.resets, [("the client reset the stream (CANCEL)", 0)])
        exchange = stream.engine
        exchange.start(200, [], b"x", True)
        exchange.body(b"x", False)
        exchange.trailers([])
        exchange.informational(103, [])
        exchange.invite_body()
        exchange.consumed(0)
        exchange.abort()
        self.assertEqual(conversation.hear(), [])
        self.lives(conversation)

    def test_any_status(self) -> None:
        for status in (200, 201, 299, 418, 599):
            self.assertEqual(self.answer(b"GET", status, []).status, status)

    def test_a_head_larger_than_a_frame(self) -> None:
        value = b"v" * 40_000
        response = self.answer(b"GET", 200, [(b"x", value), (b"y", b"z")], b"body")
        self.assertEqual(response.get(b"x"), value)
        self.assertEqual(response.get(b"y"), b"z")
        self.assertEqual(response.body, b"body")
        kinds = [f.kind for f in self.conversation.peer.frames]
        self.assertEqual(kinds.count(CONTINUATION), 2)


class Compression(EngineTestCase):
    """RFC 7541: what we encode, an independent decoder reads."""

    def test_fields_that_come_again_are_an_index(self) -> None:
        conversation = Conversation()
        sizes = []
        for _ in range(3):
            conversation.ask().answer(200, [(b"x-long-name", b"long value " * 9)], b"a")
            sizes.append(len(conversation.hear()[0].payload))
        self.assertGreater(sizes[0], 100)
        self.assertLess(sizes[1], 12)
        self.assertEqual(sizes[1], sizes[2])

    def test_secrets_are_never_inserted(self) -> None:
        conversation = Conversation()
        for _ in range(2):
            conversation.ask().answer(200, [(b"set-cookie", b"session=abc")])
            (headers,) = conversation.hear()
            self.assertIn(b"session=abc", headers.payload)
            # Section 6.2.3: the name's index in four bits, with the mark.
            self.assertIn(b"\x1f\x28\x0bsession", headers.payload)

    def test_a_table_that_overflows(self) -> None:
        conversation = Conversation()
        for number in range(300):
            value = b"%d" % number + b"v" * (number % 200)
            fields = [(b"x-%d" % (number % 7), value), (b"same", b"field")]
            conversation.ask().answer(200, fields)
            self.assertLessEqual(set(fields), set(conversation.response().headers))

    def test_the_clients_table_changes(self) -> None:
        conversation = Conversation()
        peer = conversation.peer
        for sizes in ((0,), (4096,), (100,), (0, 200), (50, 4096), (70000,), (0,)):
            conversation.ask().answer(200, [(b"a", b"b"), (b"c", b"d" * 50)])
            conversation.hear()
            for size in sizes:
                conversation.feed(settings(HEADER_TABLE_SIZE=size))
                peer.decoder.max_allowed_table_size = size
            peer.decoder.max_allowed_table_size = sizes[-1]
            for _ in range(2):
                conversation.ask().answer(200, [(b"a", b"b"), (b"c", b"d" * 50)])
                response = conversation.response()
                self.assertEqual(response.get(b"c"), b"d" * 50)
                self.assertLessEqual(peer.decoder.header_table_size, sizes[-1])

    def test_a_change_is_acknowledged_before_it_is_used(self) -> None:
        conversation = Conversation(greeting=PREFACE + settings(HEADER_TABLE_SIZE=0))
        stream = conversation.ask()
        conversation.wire.deliver(settings(HEADER_TABLE_SIZE=4096))
        stream.answer(200, [(b"a", b"b")])
        first, second = conversation.hear()
        self.assertEqual((first.kind, first.flags), (SETTINGS, ACK))
        # RFC 7541 section 4.2: the smallest size in between, then this one.
        self.assertTrue(second.payload.startswith(b"\x20\x3f\xe1\x1f"))

    @given(
        st.lists(
            st.lists(
                st.tuples(
                    st.sampled_from([b"a", b"date", b"set-cookie", b"etag", b"vary"]),
                    st.sampled_from([b"", b"x", b"y" * 200, b"z" * 3000]),
                ),
                max_size=6,
            ),
            max_size=20,
        )
    )
    def test_whatever_is_sent_is_read(self, responses: list[Fields]) -> None:
        conversation = Conversation()
        for fields in responses:
            conversation.ask().answer(204, fields)
            headers = conversation.response().headers
            self.assertEqual([f for f in headers if f in fields], fields)


class SendWindows(EngineTestCase):
    """RFC 9113 section 6.9: what the client takes."""

    def test_no_more_than_the_streams_window(self) -> None:
        conversation = Conversation(greeting=PREFACE + settings(INITIAL_WINDOW_SIZE=10))
        stream = conversation.ask()
        stream.answer(200, [], b"0123456789abcdef")
        self.assertEqual(conversation.response().body, b"0123456789")
        conversation.feed(h2.window_update(1, 4))
        self.assertEqual(conversation.response().body, b"0123456789abcd")
        self.assertFalse(conversation.response().complete)
        conversation.feed(h2.window_update(1, 100))
        self.assertEqual(conversation.response().body, b"0123456789abcdef")
        self.assertTrue(conversation.response().complete)

    def test_no_more_than_the_connections_window(self) -> None:
        conversation = Conversation(
            greeting=PREFACE + settings(INITIAL_WINDOW_SIZE=LARGE)
        )
        first, second = conversation.ask(), conversation.ask()
        first.answer(200, [], bytes(50_000))
        second.answer(200, [], bytes(50_000))
        conversation.hear()
        bodies = [conversation.response(s).body for s in (first, second)]
        self.assertEqual(sum(map(len, bodies)), 65535)
        conversation.feed(h2.window_update(0, LARGE))
        for stream in (first, second):
            self.assertEqual(len(conversation.response(stream).body), 50_000)
            self.assertTrue(conversation.response(stream).complete)

    def test_an_end_needs_no_window(self) -> None:
        conversation = Conversation(greeting=PREFACE + settings(INITIAL_WINDOW_SIZE=4))
        stream = conversation.ask()
        stream.answer(200, [], b"1234", b"")
        self.assertTrue(conversation.response().complete)

    def test_settings_change_the_windows_of_open_streams(self) -> None:
        conversation = Conversation(greeting=PREFACE + settings(INITIAL_WINDOW_SIZE=10))
        stream = conversation.ask()
        stream.answer(200, [], b"x" * 30)
        conversation.hear()
        # Now it is -5: section 6.9.2.
        conversation.feed(settings(INITIAL_WINDOW_SIZE=5))
        conversation.feed(h2.window_update(1, 5))
        self.assertEqual(len(conversation.response().body), 10)
        conversation.feed(h2.window_update(1, 1))
        self.assertEqual(len(conversation.response().body), 11)
        conversation.feed(settings(INITIAL_WINDOW_SIZE=100))
        self.assertTrue(conversation.response().complete)

    def test_a_streams_window_beyond_its_limit(self) -> None:
        conversation = Conversation()
        stream = conversation.ask()
        self.resets(conversation, FLOW_CONTROL_ERROR, h2.window_update(1, 2**31 - 1))
        self.assertEqual(len(stream.resets), 1)

    def test_a_streams_window_opened_by_nothing(self) -> None:
        conversation = Conversation()
        stream = conversation.ask()
        self.resets(conversation, PROTOCOL_ERROR, h2.window_update(1, 0))
        self.assertEqual(len(stream.resets), 1)

    def test_settings_that_overflow_a_window(self) -> None:
        conversation = Conversation()
        conversation.ask()
        conversation.feed(h2.window_update(1, 2**31 - 1 - 65535))
        self.fails(
            conversation, FLOW_CONTROL_ERROR, settings(INITIAL_WINDOW_SIZE=65536)
        )

    def test_frames_are_as_large_as_the_client_takes(self) -> None:
        conversation = Conversation()
        conversation.open_windows()
        stream = conversation.ask()
        stream.answer(200, [], bytes(100_000))
        self.assertEqual(len(conversation.response().body), 100_000)
        # Larger ones would make everybody else wait, whatever the client takes.
        conversation.feed(settings(MAX_FRAME_SIZE=1 << 20))
        stream = conversation.ask()
        stream.answer(200, [], bytes(100_000))
        self.assertEqual(len(conversation.response().body), 100_000)

    def test_it_is_writable_until_too_much_waits(self) -> None:
        conversation = Conversation()
        slow, other = conversation.ask(), conversation.ask()
        slow.engine.start(200, [], bytes(65535), True)
        conversation.hear()
        self.assertTrue(slow.engine.wire.writable)
        slow.engine.body(bytes(SEND_HIGH_WATER), True)
        self.assertTrue(slow.engine.wire.writable)
        slow.engine.body(b"x", True)
        self.assertFalse(slow.engine.wire.writable)
        self.assertTrue(other.engine.wire.writable)
        conversation.feed(h2.window_update(0, LARGE), h2.window_update(1, 1000))
        self.assertFalse(slow.engine.wire.writable)
        conversation.feed(h2.window_update(1, LARGE))
        self.assertTrue(slow.engine.wire.writable)
        self.assertEqual(slow.woken, 1)

    def test_a_slow_reader_does_not_hold_up_others(self) -> None:
        conversation = Conversation()
        conversation.feed(h2.window_update(0, LARGE))
        slow = conversation.ask()
        slow.answer(200, [], bytes(200_000))
        self.assertEqual(len(conversation.response(slow).body), 65535)
        for _ in range(3):
            self.lives(conversation)

    def test_a_slow_wire_holds_data_back_and_keeps_the_order(self) -> None:
        conversation = Conversation()
        conversation.open_windows()
        calm = conversation.ask(request(b"GET", b"/", (b"priority", b"u=5")))
        urgent = conversation.ask(request(b"GET", b"/", (b"priority", b"u=1")))
        conversation.wire.writable = False
        calm.answer(200, [], bytes(20_000))
        urgent.answer(200, [], bytes(20_000))
        frames = conversation.hear()
        self.assertEqual([f.kind for f in frames], [HEADERS, HEADERS])
        conversation.wire.writable = True
        conversation.engine.writable_again()
        ends = [f.id for f in conversation.hear() if f.ends]
        self.assertEqual(ends, [urgent.engine.id, calm.engine.id])


class Sharing(EngineTestCase):
    """RFC 9218."""

    def order(self, *values: bytes | None, size: int = 50_000) -> list[int]:
        """Which of as many responses each DATA frame belongs to."""
        conversation = Conversation(
            greeting=PREFACE + settings(INITIAL_WINDOW_SIZE=LARGE)
        )
        conversation.feed(h2.window_update(0, LARGE))
        streams = [
            conversation.ask(
                request(
                    b"GET", b"/", *(() if value is None else ((b"priority", value),))
                )
            )
            for value in values
        ]
        for stream in streams:
            stream.answer(200, [], bytes(size))
        return [f.id // 2 for f in conversation.hear() if f.kind == DATA]

    def test_the_urgent_come_first(self) -> None:
        order = self.order(b"u=4", b"u=0", b"u=2")
        self.assertEqual(list(dict.fromkeys(order)), [1, 2, 0])
        self.assertEqual(sorted(order, key=[1, 2, 0].index), order)

    def test_incremental_ones_share(self) -> None:
        self.assertEqual(self.order(b"u=1, i", b"u=1, i")[:6], [0, 1, 0, 1, 0, 1])

    def test_the_others_are_whole_one_after_another(self) -> None:
        self.assertEqual(self.order(b"u=1", b"u=1"), [0] * 4 + [1] * 4)

    def test_without_a_word_they_share(self) -> None:
        self.assertEqual(self.order(None, None)[:4], [0, 1, 0, 1])

    def test_several_lines_are_one_list(self) -> None:
        conversation = Conversation()
        head = conversation.ask(
            request(b"GET", b"/", (b"priority", b"u=5"), (b"priority", b"i"))
        ).head
        self.assertEqual(head.priority, (5, True))
        self.assertIn((b"priority", b"u=5"), head.headers)

    def test_priorities_change(self) -> None:
        conversation = Conversation()
        first, second = conversation.ask(), conversation.ask()
        conversation.feed(h2.priority_update(3, b"u=0"))
        conversation.wire.writable = False
        for stream in (first, second):
            stream.answer(200, [], bytes(20_000))
        conversation.hear()
        conversation.wire.writable = True
        conversation.engine.writable_again()
        self.assertEqual([f.id for f in conversation.hear() if f.ends], [3, 1])

    def test_a_priority_before_its_request(self) -> None:
        conversation = Conversation({"streams": 2})
        conversation.feed(*(h2.priority_update(id, b"u=1") for id in (1, 3, 5, 7)))
        stream = conversation.ask(request(b"GET", b"/", (b"priority", b"u=6")))
        self.assertEqual(stream.engine.priority, (1, False))
        self.assertEqual(len(conversation.engine._early_priorities), 1)

    def test_a_priority_after_its_request_is_ignored(self) -> None:
        conversation = Conversation()
        conversation.ask().answer()
        conversation.feed(h2.priority_update(1, b"u=1"))
        self.assertEqual(conversation.engine._early_priorities, {})

    def test_one_turn_does_not_last_for_ever(self) -> None:
        conversation = Conversation()
        conversation.open_windows()
        stream = conversation.ask()
        stream.answer(200, [], bytes(4_000_000))
        before = len(conversation.wire.written)
        conversation.wire.turn()
        self.assertLess(len(conversation.wire.written) - before, 400_000)
        self.assertEqual(len(conversation.response().body), 4_000_000)


class Concurrency(EngineTestCase):
    """RFC 9113 section 5.1.2."""

    def test_streams_over_the_limit_are_refused(self) -> None:
        conversation = Conversation({"streams": 2}, greeting=None)
        peer = conversation.peer
        # Before it has read our settings, too.
        conversation.feed(
            PREFACE + settings() + b"".join(peer.open() for _ in range(4))
        )
        self.assertEqual(len(conversation.streams), 2)
        self.assertEqual(
            [peer.responses[id].reset for id in (5, 7)], [REFUSED_STREAM] * 2
        )
        conversation.streams[0].answer()
        conversation.hear()
        self.lives(conversation)

    def test_what_comes_of_a_refused_stream_is_ignored(self) -> None:
        conversation = Conversation({"streams": 1})
        busy = conversation.ask()
        peer = conversation.peer
        conversation.feed(
            peer.open(request(b"POST"), 0), h2.data(3, b"body", END_STREAM)
        )
        self.assertEqual(peer.responses[3].reset, REFUSED_STREAM)
        busy.answer()
        conversation.hear()
        self.lives(conversation)

    def test_a_stream_counts_until_both_sides_are_closed(self) -> None:
        conversation = Conversation({"streams": 1})
        conversation.ask(request(b"POST"), 0).answer()
        conversation.feed(conversation.peer.open())
        self.assertEqual(conversation.response().reset, REFUSED_STREAM)
        conversation.feed(h2.data(1, b"", END_STREAM))
        self.lives(conversation)

    def test_ten_thousand_streams_leave_nothing_behind(self) -> None:
        conversation = Conversation()
        for number in range(10_000):
            conversation.ask(request(b"GET", b"/%d" % number)).answer(200, [], b"x")
            if number % 100 == 0:
                conversation.peer.frames.clear()
                conversation.peer.responses.clear()
                conversation.streams.clear()
        engine = conversation.engine
        self.assertEqual(engine.exchanges, {})
        self.assertFalse(engine.schedule)
        self.assertLess(len(engine._h2.streams), 100)
        self.assertLessEqual(len(engine._h2._closed_streams), MAX_RESETS)


# -- Ends ------------------------------------------------------------------------------


class Leaving(EngineTestCase):
    """RFC 9113 section 6.8."""

    def test_idle(self) -> None:
        conversation = Conversation()
        conversation.engine.drain()
        first, ping = conversation.hear()
        self.assertEqual((first.kind, first.code), (GOAWAY, NO_ERROR))
        self.assertEqual(first.number, 2**31 - 1)
        self.assertEqual(ping.kind, PING)
        self.assertTrue(conversation.engine.parting)
        self.assertIsNone(conversation.wire.ended)
        (second,) = conversation.feed(h2.ping(ping.payload, ACK))
        self.assertEqual((second.kind, second.number), (GOAWAY, 0))
        self.assertIsNotNone(conversation.wire.ended)
        self.assertFalse(conversation.engine.parting)

    def test_a_response_on_its_way_is_finished(self) -> None:
        conversation = Conversation()
        stream = conversation.ask()
        stream.answer(200, [], bytes(100_000))
        conversation.engine.drain()
        (_, ping) = [f for f in conversation.hear() if f.kind in (GOAWAY, PING)]
        conversation.feed(h2.ping(ping.payload, ACK))
        self.assertTrue(conversation.engine.parting)
        conversation.open_windows()
        self.assertEqual(len(conversation.response().body), 100_000)
        self.assertFalse(conversation.engine.parting)

    def test_what_nobody_wants_is_not_waited_for(self) -> None:
        conversation = Conversation()
        conversation.ask(request(b"POST"), 0).answer()
        conversation.hear()
        conversation.engine.drain()
        self.assertEqual(conversation.response().reset, NO_ERROR)

    def test_a_client_that_does_not_answer(self) -> None:
        conversation = Conversation()
        conversation.engine.drain()
        conversation.hear()
        conversation.wire.wait(GOAWAY_PAUSE)
        conversation.hear()
        self.assertEqual(
            [f.number for f in conversation.peer.goaways()], [2**31 - 1, 0]
        )
        self.assertIsNotNone(conversation.wire.ended)

    def test_requests_that_were_under_way_are_served(self) -> None:
        conversation = Conversation()
        before = conversation.ask()
        conversation.engine.drain()
        conversation.engine.drain()
        self.assertTrue(before.drained)
        (_, ping) = conversation.hear()
        crossing = conversation.ask()
        conversation.feed(h2.ping(ping.payload, ACK))
        self.assertEqual(conversation.peer.goaways()[-1].number, crossing.engine.id)
        before.answer(200, [], b"one")
        crossing.answer(200, [], b"two")
        self.assertEqual(conversation.response(before).body, b"one")
        self.assertEqual(conversation.response(crossing).body, b"two")
        self.assertIsNotNone(conversation.wire.ended)

    def test_later_ones_are_not(self) -> None:
        conversation = Conversation()
        before = conversation.ask()
        conversation.engine.drain()
        (_, ping) = conversation.hear()
        conversation.feed(h2.ping(ping.payload, ACK))
        late = conversation.peer.open(request(b"POST"), 0)
        self.assertEqual(
            conversation.feed(late, h2.data(3, b"x")), conversation.peer.frames[-1:]
        )
        self.assertEqual(conversation.peer.frames[-1].kind, WINDOW_UPDATE)
        self.assertEqual(len(conversation.streams), 1)
        before.answer()
        self.assertTrue(conversation.response(before).complete)

    def test_both_leave_and_nobody_wants_what_is_left(self) -> None:
        conversation = Conversation()
        conversation.ask(request(b"POST"), 0).answer()
        conversation.feed(h2.goaway())
        self.assertIsNone(conversation.wire.ended)
        conversation.engine.drain()
        conversation.hear()
        self.assertEqual(conversation.wire.ended, "linger")
        self.assertEqual(conversation.response().reset, NO_ERROR)
        # One is enough, and no timer is armed instead of the one that lingers.
        self.assertEqual(conversation.goaway.number, 1)

    def test_a_client_that_leaves_still_gets_its_responses(self) -> None:
        conversation = Conversation()
        conversation.open_windows()
        stream = conversation.ask()
        conversation.feed(h2.goaway())
        self.assertIsNone(conversation.wire.ended)
        stream.answer(200, [], bytes(100_000))
        self.assertEqual(len(conversation.response().body), 100_000)
        self.assertIsNotNone(conversation.wire.ended)

    def test_a_client_that_leaves_when_idle(self) -> None:
        conversation = Conversation()
        conversation.ask().answer()
        conversation.hear()
        conversation.feed(h2.goaway())
        self.assertIsNotNone(conversation.wire.ended)
        # Section 6.8: it says where the connection ended.
        goaway = conversation.goaway
        self.assertEqual((goaway.code, goaway.number), (NO_ERROR, 1))

    def test_the_connection_is_lost(self) -> None:
        conversation = Conversation()
        streams = [conversation.ask() for _ in range(3)]
        streams[0].engine.start(200, [], b"x", True)
        conversation.engine.connection_lost()
        for stream in streams:
            self.assertEqual(stream.resets, [("the connection was lost", 0)])
        streams[0].engine.body(b"x", False)

    def test_the_client_closes(self) -> None:
        conversation = Conversation()
        stream = conversation.ask()
        conversation.engine.receive_eof()
        self.assertEqual(len(stream.resets), 1)
        self.assertEqual(conversation.wire.ended, "close")


class Timers(EngineTestCase):
    def conversation(self, **timeouts: float | None) -> Conversation:
        return Conversation(timeouts=timeouts)

    def test_a_client_that_says_nothing(self) -> None:
        conversation = Conversation(timeouts={"headers": 5}, greeting=None)
        conversation.wire.wait(4)
        self.assertIsNone(conversation.wire.ended)
        conversation.wire.wait(1)
        self.assertIsNotNone(conversation.wire.ended)

    def test_a_preface_that_does_not_end(self) -> None:
        conversation = Conversation(timeouts={"headers": 5}, greeting=PREFACE[:9])
        for _ in range(5):
            conversation.wire.wait(1)
        self.assertIsNotNone(conversation.wire.ended)

    def test_a_block_that_does_not_end(self) -> None:
        conversation = self.conversation(headers=5)
        conversation.feed(frame(HEADERS, END_STREAM, 1, b"\x82"))
        for _ in range(4):
            conversation.wire.wait(1)
            conversation.feed(frame(CONTINUATION, 0, 1, b"\x84"))
        self.assertIsNone(conversation.wire.ended)
        conversation.wire.wait(1)
        self.assertIsNotNone(conversation.wire.ended)
        self.assertIn("longer than TIMEOUTS['HEADERS']", conversation.reports[0][0])

    def test_a_frame_that_does_not_end(self) -> None:
        conversation = self.conversation(headers=5)
        conversation.feed(h2.ping()[:12])
        conversation.wire.wait(5)
        self.assertIsNotNone(conversation.wire.ended)

    def test_a_busy_connection_is_not_slow(self) -> None:
        conversation = self.conversation(headers=5)
        frames = b"".join(h2.ping() for _ in range(40))
        for at in range(0, len(frames), 19):
            conversation.feed(frames[at : at + 19])
            conversation.wire.wait(1)
        self.assertIsNone(conversation.wire.ended)

    def test_idle(self) -> None:
        conversation = self.conversation(keep_alive=20)
        conversation.wire.wait(15)
        conversation.ask().answer()
        conversation.hear()
        conversation.feed(h2.ping())
        conversation.wire.wait(19)
        self.assertIsNone(conversation.wire.ended)
        conversation.wire.wait(1)
        self.assertEqual(conversation.goaway.code, NO_ERROR)
        self.assertEqual(conversation.goaway.number, 1)
        self.assertIsNotNone(conversation.wire.ended)

    def test_a_request_in_progress_is_not_idle(self) -> None:
        conversation = self.conversation(keep_alive=20)
        stream = conversation.ask()
        conversation.wire.wait(100)
        stream.answer()
        self.assertTrue(conversation.response().complete)
        self.assertIsNone(conversation.wire.ended)

    def test_without_timeouts_nothing_is_armed(self) -> None:
        conversation = self.conversation(
            headers=None, keep_alive=None, body=None, write=None
        )
        stream = conversation.ask(request(b"POST"), 0)
        stream.answer(200, [], bytes(100_000))
        conversation.feed(h2.ping()[:5])
        self.assertIsNone(conversation.wire.armed)

    def test_a_body_without_progress(self) -> None:
        conversation = self.conversation(body=5)
        slow = conversation.ask(request(b"POST"), 0)
        other = conversation.ask()
        for _ in range(3):
            conversation.wire.wait(4)
            conversation.feed(h2.data(1, b"x"))
        conversation.wire.wait(5)
        response = conversation.response(slow)
        self.assertEqual((response.status, response.reset), (408, NO_ERROR))
        self.assertEqual(slow.resets[0][1], 408)
        other.answer()
        self.assertTrue(conversation.response(other).complete)

    def test_a_body_without_progress_after_the_response_began(self) -> None:
        conversation = self.conversation(body=5)
        slow = conversation.ask(request(b"POST"), 0)
        slow.engine.start(200, [], b"x", True)
        conversation.wire.wait(5)
        self.assertEqual(conversation.response().reset, CANCEL)
        self.assertEqual(slow.resets[0][1], 0)

    def test_a_large_frame_on_its_way_is_progress(self) -> None:
        conversation = self.conversation(body=5, keep_alive=None)
        stream = conversation.ask(request(b"POST"), 0)
        whole = h2.data(1, bytes(16_000))
        for at in range(0, 16_000, 1000):
            conversation.feed(whole[at : at + 1000])
            conversation.wire.wait(4)
        self.assertEqual(stream.resets, [])
        conversation.wire.wait(5)
        self.assertEqual(stream.resets[0][1], 408)

    def test_an_application_that_does_not_read_is_not_the_clients_fault(self) -> None:
        conversation = self.conversation(body=5)
        stream = conversation.ask(request(b"POST"), 0)
        conversation.feed(*[h2.data(1, bytes(16384))] * 8)
        conversation.wire.wait(60)
        self.assertEqual(stream.resets, [])
        stream.take()
        conversation.hear()
        conversation.wire.wait(5)
        self.assertEqual(stream.resets[0][1], 408)

    def test_a_polite_client_is_not_slow(self) -> None:
        conversation = self.conversation(body=5)
        stream = conversation.ask(
            request(b"POST", b"/", (b"expect", b"100-continue")), 0
        )
        conversation.wire.wait(60)
        self.assertEqual(stream.resets, [])
        stream.engine.invite_body()
        conversation.wire.wait(5)
        self.assertEqual(stream.resets[0][1], 408)

    def test_a_client_that_opens_no_window(self) -> None:
        conversation = self.conversation(write=5)
        slow, other = conversation.ask(), conversation.ask()
        conversation.feed(h2.window_update(0, LARGE))
        slow.engine.start(200, [], bytes(70_000), True)
        conversation.wire.wait(4)
        conversation.feed(h2.window_update(1, 1))
        conversation.wire.wait(4)
        self.assertEqual(slow.resets, [])
        conversation.wire.wait(1)
        self.assertEqual(conversation.response(slow).reset, CANCEL)
        self.assertEqual(len(slow.resets), 1)
        self.assertIn("took nothing", conversation.reports[0][0])
        other.answer()
        self.assertTrue(conversation.response(other).complete)

    def test_a_client_that_shuts_a_window_again(self) -> None:
        """By its settings, also by less than nothing (section 6.9.2)."""
        shut = h2.settings(INITIAL_WINDOW_SIZE=0)
        for when in ("before anything waits", "while the connection's is in the way"):
            with self.subTest(when):
                conversation = self.conversation(write=5)
                conversation.feed(h2.settings(INITIAL_WINDOW_SIZE=2 * LARGE))
                stream = conversation.ask()
                if when.startswith("before"):
                    conversation.feed(h2.window_update(0, LARGE))
                    stream.engine.start(200, [], bytes(10_000), True)
                    conversation.feed(shut)
                    conversation.wire.wait(60)
                    stream.engine.body(bytes(10_000), True)
                else:
                    stream.engine.start(200, [], bytes(100_000), True)
                    conversation.hear()
                    conversation.feed(shut)
                conversation.wire.wait(4)
                self.assertEqual(stream.resets, [])
                conversation.wire.wait(1)
                self.assertEqual(conversation.response(stream).reset, CANCEL)
                self.assertIn("took nothing", conversation.reports[0][0])
                self.assertEqual(conversation.wire.ended, None)

    def test_a_client_that_shuts_and_opens_a_window_without_end(self) -> None:
        conversation = self.conversation(write=5)
        conversation.feed(h2.settings(INITIAL_WINDOW_SIZE=2 * LARGE))
        stream = conversation.ask()
        stream.engine.start(200, [], bytes(100_000), True)
        conversation.hear()
        for _ in range(10):
            conversation.feed(h2.settings(INITIAL_WINDOW_SIZE=0))
            conversation.wire.wait(3)
            conversation.feed(h2.settings(INITIAL_WINDOW_SIZE=2 * LARGE))
            conversation.wire.wait(3)
        self.assertEqual(len(stream.resets), 1)
        self.assertIn("MINIMUM_RATE", conversation.reports[0][0])

    def test_a_wire_that_stands_still_is_the_wires_business(self) -> None:
        conversation = self.conversation(write=5)
        stream = conversation.ask()
        stream.engine.start(200, [], bytes(70_000), True)
        conversation.hear()
        conversation.wire.writable = False
        conversation.wire.wait(60)
        self.assertEqual(stream.resets, [])

    def test_nothing_to_send_is_not_slow(self) -> None:
        conversation = self.conversation(write=5)
        stream = conversation.ask()
        stream.engine.start(200, [], b"x", True)
        conversation.wire.wait(60)
        self.assertEqual(stream.resets, [])

    def test_a_response_that_takes_too_long(self) -> None:
        conversation = self.conversation(request=5)
        late, begun = conversation.ask(), conversation.ask()
        begun.engine.start(200, [], b"x", True)
        conversation.wire.wait(5)
        self.assertEqual(conversation.response(late).status, 503)
        self.assertEqual(late.resets[0][1], 503)
        self.assertEqual(conversation.response(begun).reset, CANCEL)
        self.lives(conversation)

    def test_an_application_that_does_not_read_takes_too_long(self) -> None:
        expect = request(b"POST", b"/", (b"expect", b"100-continue"))
        for fields, size in ((expect, 0), (request(b"POST"), 100_000)):
            for reads in (False, True):
                conversation = self.conversation(request=5, body=8)
                stream = conversation.ask(fields, 0)
                for _ in range(size // 10_000):
                    conversation.feed(h2.data(1, bytes(10_000)))
                if reads:
                    conversation.wire.wait(4)
                    stream.engine.invite_body()
                    stream.take()
                conversation.wire.wait(5)
                self.assertEqual([r[1] for r in stream.resets], [] if reads else [503])
                conversation.wire.wait(4)
                self.assertEqual(stream.resets[0][1], 408 if reads else 503)
                self.lives(conversation)

    def test_crumbs_of_a_body_that_is_not_read_put_nothing_off(self) -> None:
        conversation = self.conversation(request=5)
        stream = conversation.ask(request(b"POST"), 0)
        for _ in range(8):
            conversation.feed(h2.data(1, bytes(10_000)))
        for _ in range(3):
            self.assertEqual(stream.resets, [])
            conversation.wire.wait(2)
            conversation.feed(h2.data(1, b"x"))
        self.assertEqual(stream.resets[0][1], 503)


# -- Hostile peers ---------------------------------------------------------------------


class Floods(EngineTestCase):
    """Each is legal once; none may be endless, nor fill our memory."""

    def flood(self, part: Callable[[Conversation], bytes], limit: int) -> Conversation:
        """Repeat ``part`` until the connection ends; it must within ``limit``."""
        conversation = Conversation()
        for _ in range(limit):
            conversation.feed(part(conversation))
            if conversation.wire.ended:
                break
            conversation.streams.clear()
        self.assertEqual(conversation.goaway.code, ENHANCE_YOUR_CALM)
        self.assertIn("ENHANCE_YOUR_CALM", conversation.reports[-1][0])
        return conversation

    def test_streams_reset_at_once(self) -> None:
        def part(conversation: Conversation) -> bytes:
            return conversation.peer.open() + h2.reset(conversation.peer.last)

        conversation = self.flood(part, 500)
        self.assertLess(conversation.peer.last, 1000)
        self.assertEqual(conversation.engine.exchanges, {})

    def test_settings_that_fill_their_frames(self) -> None:
        """CVE-2020-11080."""
        full = frame(SETTINGS, 0, 0, b"\0\x03\0\0\0\x64" * 2730)
        self.flood(lambda conversation: full, 50)

    def test_streams_reset_by_being_malformed(self) -> None:
        """The client makes us do the resetting ("MadeYouReset")."""
        short = request(b"POST", b"/", (b"content-length", b"1"))
        for provoke in (
            lambda c: c.peer.open() + h2.window_update(c.peer.last, 0),
            lambda c: c.peer.open() + h2.window_update(c.peer.last, 2**31 - 1),
            lambda c: c.peer.open() + h2.data(c.peer.last, b"x"),
            lambda c: c.peer.open() + c.peer.headers(c.peer.last, [], END_STREAM),
            lambda c: c.peer.open() + frame(PRIORITY, 0, c.peer.last, bytes(4)),
            lambda c: c.peer.open(short, 0) + h2.data(c.peer.last, b"xx"),
            lambda c: c.peer.open(short, 0) + h2.data(c.peer.last, b"", END_STREAM),
        ):
            self.flood(provoke, 500)
        # No application hears of these.
        self.flood(lambda c: c.peer.open(request(b"GET", b"")), 2000)

    def test_frames(self) -> None:
        cases: dict[str, bytes] = {
            "pings": h2.ping(),
            "acknowledged pings": h2.ping(flags=ACK),
            "settings": settings(INITIAL_WINDOW_SIZE=1),
            "acknowledged settings": frame(SETTINGS, ACK),
            "priorities": frame(PRIORITY, 0, 99, bytes(5)),
            "priority updates": h2.priority_update(99, b"u=1"),
            "windows": h2.window_update(0, 1),
            "unknown frames": frame(0x42, 0, 0, b"x"),
        }
        for what, part in cases.items():
            with self.subTest(what):
                conversation = self.flood(lambda c, part=part: part, 3000)
                self.assertLess(len(conversation.wire.written), 80_000)

    def test_frames_on_streams(self) -> None:
        for what, part in {
            "empty data": h2.data(1, b""),
            "padding": frame(DATA, PADDED, 1, b"\x05" + bytes(5)),
            "windows": h2.window_update(1, 1),
        }.items():
            with self.subTest(what):
                conversation = Conversation()
                conversation.ask(request(b"POST"), 0)
                conversation.feed(*[part] * 3000)
                self.assertEqual(conversation.goaway.code, ENHANCE_YOUR_CALM)

    def test_tiny_windows(self) -> None:
        """A response is asked for byte by byte."""
        for id, size in ((1, 0), (0, LARGE)):
            conversation = Conversation(
                greeting=PREFACE + settings(INITIAL_WINDOW_SIZE=size)
            )
            conversation.ask().answer(200, [], bytes(100_000))
            sent = 0
            while not conversation.wire.ended:
                sent += 1
                conversation.feed(h2.window_update(id, 1))
            self.assertEqual(conversation.goaway.code, ENHANCE_YOUR_CALM)
            self.assertLess(sent, 3000)

    def test_small_events_to_a_client_that_opens_its_window_for_each(self) -> None:
        conversation = Conversation()
        stream = conversation.ask()
        stream.engine.start(200, [], b"", True)
        for _ in range(5000):
            stream.engine.body(b"event", True)
            conversation.hear()
            conversation.feed(h2.window_update(1, 5), h2.window_update(0, 5))
        self.assertIsNone(conversation.wire.ended)

    def test_frames_on_dead_streams(self) -> None:
        for part in (h2.reset(1), h2.window_update(1, 1), h2.data(1, b"")):
            conversation = Conversation()
            conversation.ask().engine.abort()
            conversation.hear()
            conversation.feed(*[part] * 3000)
            self.assertEqual(conversation.goaway.code, ENHANCE_YOUR_CALM)

    def test_requests_that_cannot_be_served(self) -> None:
        self.flood(lambda c: c.peer.open(request()[:3]), 1000)

    def test_streams_that_are_refused(self) -> None:
        conversation = Conversation({"streams": 1})
        conversation.ask()
        for _ in range(3000):
            conversation.feed(conversation.peer.open())
            if conversation.wire.ended:
                break
        self.assertEqual(conversation.goaway.code, ENHANCE_YOUR_CALM)

    def test_continuations(self) -> None:
        conversation = Conversation()
        conversation.feed(frame(HEADERS, END_STREAM, 1, b"\x82"))
        for _ in range(3000):
            conversation.feed(frame(CONTINUATION, 0, 1))
            if conversation.wire.ended:
                break
        self.assertEqual(conversation.goaway.code, ENHANCE_YOUR_CALM)

    def test_a_block_without_end(self) -> None:
        conversation = Conversation()
        conversation.feed(frame(HEADERS, END_STREAM, 1, b"\x82"))
        sent = 0
        while not conversation.wire.ended:
            conversation.feed(frame(CONTINUATION, 0, 1, bytes(16384)))
            sent += 16384
        self.assertLessEqual(sent, 64 * 1024 + 3 * 16384)
        self.assertEqual(conversation.goaway.code, ENHANCE_YOUR_CALM)

    def test_a_bomb(self) -> None:
        """A field of 4 KB in the table, and as many indices as a frame holds."""
        conversation = Conversation()
        large = (b"a", b"b" * 4000)
        conversation.ask(request(b"GET", b"/", large)).answer()
        block = conversation.peer.encode(request()) + b"\xbe" * 16_000
        self.fails(
            conversation,
            ENHANCE_YOUR_CALM,
            frame(HEADERS, END_HEADERS | END_STREAM, 3, block),
        )

    def test_patience_comes_back_with_time(self) -> None:
        conversation = Conversation(timeouts={"keep_alive": None})
        for _ in range(20):
            conversation.feed(*[h2.ping()] * (http2_patience.RECOVERY * 10))
            conversation.wire.wait(10)
        self.assertIsNone(conversation.wire.ended)

    def test_streams_that_lived(self) -> None:
        """Event streams and long polls behind a proxy end like this, all of them."""
        conversation = Conversation(timeouts={"keep_alive": None})
        for _ in range(50):
            streams = [conversation.ask() for _ in range(100)]
            conversation.wire.wait(1.5)
            conversation.feed(*(h2.reset(stream.engine.id) for stream in streams))
        self.assertIsNone(conversation.wire.ended)

    def test_patience_comes_back_with_work(self) -> None:
        conversation = Conversation()
        for _ in range(1000):
            conversation.ask().answer(200, [], b"x")
            conversation.ask().answer(200, [], b"x")
            conversation.feed(
                conversation.peer.open(), h2.reset(conversation.peer.last)
            )
        self.assertIsNone(conversation.wire.ended)

    def test_many_frames_in_one_read_give_others_a_turn(self) -> None:
        conversation = Conversation()
        stream = conversation.ask(request(b"POST"), 0)
        conversation.wire.deliver(h2.data(1, b"x") * 3 * FRAMES_PER_TURN)
        self.assertEqual(len(stream.body), FRAMES_PER_TURN)
        self.assertTrue(conversation.wire.paused)
        conversation.wire.deliver(h2.data(1, b"last", END_STREAM))
        conversation.wire.turn()
        self.assertEqual(len(stream.body), 2 * FRAMES_PER_TURN)
        conversation.wire.turns()
        self.assertFalse(conversation.wire.paused)
        self.assertEqual(len(stream.body), 3 * FRAMES_PER_TURN + 4)
        self.assertTrue(stream.ended)

    def test_many_fields_in_one_read_give_others_a_turn(self) -> None:
        """A header block may cost a thousand times what another frame does."""
        conversation = Conversation()
        crumbs = request(b"GET", b"/", *[(b"cookie", b"a=b")] * 1500)
        asked = [conversation.peer.open(crumbs) for _ in range(30)]
        conversation.wire.deliver(b"".join(asked))
        begun = len(conversation.streams)
        self.assertTrue(1 <= begun <= 12, begun)
        self.assertTrue(conversation.wire.paused)
        conversation.wire.turns()
        self.assertEqual(len(conversation.streams), 30)

    def test_a_client_that_reads_nothing(self) -> None:
        """What it makes us write is bounded: we stop listening."""
        conversation = Conversation()
        conversation.wire.writable = False
        for number in range(5000):
            conversation.wire.deliver(conversation.peer.open())
            conversation.wire.turns()
            for stream in conversation.streams:
                stream.answer(204, [(b"x", b"%d" % number + b"y" * 300)])
            conversation.streams.clear()
            conversation.wire.turns()
            if conversation.wire.paused:
                break
        self.assertTrue(conversation.wire.paused)
        self.assertLess(len(conversation.wire.written), CHOKE + 4096)
        conversation.wire.writable = True
        conversation.engine.writable_again()
        self.assertFalse(conversation.wire.paused)

    def test_a_turn_at_the_end_of_a_choked_client(self) -> None:
        conversation = Conversation()
        conversation.ask(request(b"POST"), 0)
        conversation.wire.deliver(h2.data(1, b"x") * (FRAMES_PER_TURN + 1))
        conversation.engine.connection_lost()
        conversation.wire.turns()

    @hypothesis_settings(max_examples=200, deadline=None)
    @given(st.lists(st.one_of(
        st.binary(max_size=40),
        st.builds(
            frame,
            st.integers(0, 11),
            st.integers(0, 255),
            st.sampled_from([0, 1, 1, 1, 3, 3, 2, 5]),
            st.one_of(
                st.binary(max_size=20),
                st.sampled_from([b"\x82\x84\x86\x41\x01a", b"\0\0\0\1", bytes(8)]),
            ),
        ),
    ), max_size=30))  # fmt: skip
    def test_whatever_comes_nothing_is_raised(self, parts: list[bytes]) -> None:
        conversation = Conversation()
        for part in parts:
            conversation.feed(part)
            for stream in conversation.streams:
                if stream.untaken:
                    stream.take()
                if not stream.answered and not stream.resets:
                    stream.answer(200, [], b"x", b"y")
        conversation.hear()
        conversation.engine.connection_lost()
        self.assertEqual(conversation.engine.exchanges, {})

    @hypothesis_settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_how_bytes_are_cut_makes_no_difference(self, data: Any) -> None:
        def whole(peer: Peer) -> bytes:
            return (
                PREFACE
                + settings(INITIAL_WINDOW_SIZE=1000)
                + peer.open(request(b"POST", b"/a"), 0)
                + h2.data(1, b"one")
                + peer.open(request(b"GET", b"/b", (b"x", b"y" * 300)))
                + h2.ping()
                + h2.data(1, b"two", END_STREAM)
                + h2.window_update(0, 5)
                + h2.reset(3)
            )

        together, apart = Conversation(greeting=None), Conversation(greeting=None)
        together.feed(whole(together.peer))
        rest = whole(apart.peer)
        while rest:
            size = data.draw(st.integers(1, len(rest)))
            apart.feed(rest[:size])
            rest = rest[size:]
        for one, other in itertools.zip_longest(together.streams, apart.streams):
            self.assertEqual(one.head.headers, other.head.headers)
            self.assertEqual((one.body, one.ended), (other.body, other.ended))
            self.assertEqual(one.resets, other.resets)


# -- WebSocket -------------------------------------------------------------------------


def connect(*fields: tuple[bytes, bytes]) -> Fields:
    """RFC 8441 section 5.1."""
    return [
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b":scheme", b"https"),
        (b":path", b"/chat"),
        (b":authority", b"example.org"),
        (b"sec-websocket-version", b"13"),
        *fields,
    ]


class FakeWebSocket:
    """Stands where the WebSocket's engine does."""

    def __init__(self, wire: Tunnel) -> None:
        self.wire = wire
        self.received = b""
        self.told: list[str] = []

    def receive_data(self, data: bytes) -> None:
        self.received += data

    def receive_eof(self) -> None:
        self.told.append("eof")

    def connection_lost(self) -> None:
        self.told.append("lost")

    def writable_again(self) -> None:
        self.told.append("writable")

    def drain(self) -> None:
        self.told.append("drain")


class Tunnels(EngineTestCase):
    def setUp(self) -> None:
        self.conversation = Conversation()
        self.stream = self.conversation.ask(connect(), 0)

    def accept(self) -> FakeWebSocket:
        made: list[FakeWebSocket] = []

        def make(wire: Tunnel) -> Any:
            made.append(FakeWebSocket(wire))
            return made[0]

        self.stream.engine.accept([(b"Sec-WebSocket-Protocol", b"chat")], make)
        self.conversation.hear()
        return made[0]

    def test_the_head(self) -> None:
        head = self.stream.head
        self.assertEqual((head.upgrade, head.path), (b"websocket", "/chat"))
        self.assertEqual(head.http_version, "2")
        self.assertFalse(self.stream.ended)

    def test_accepting(self) -> None:
        self.accept()
        response = self.conversation.response()
        self.assertEqual(response.status, 200)
        self.assertEqual(response.get(b"sec-websocket-protocol"), b"chat")
        self.assertFalse(response.complete)

    def test_bytes_go_both_ways(self) -> None:
        socket = self.accept()
        self.conversation.feed(h2.data(1, b"hello"))
        self.assertEqual(socket.received, b"hello")
        socket.wire.write(b"answer")
        self.assertEqual(self.conversation.response().body, b"answer")

    def test_bytes_before_the_answer_are_kept(self) -> None:
        self.conversation.feed(h2.data(1, b"early "), h2.data(1, b"bird"))
        self.assertEqual(self.stream.body, b"")
        self.assertEqual(self.accept().received, b"early bird")

    def test_an_end_before_the_answer_is_told(self) -> None:
        self.conversation.feed(h2.data(1, b"early"), h2.data(1, b"", END_STREAM))
        socket = self.accept()
        self.assertEqual((socket.received, socket.told), (b"early", ["eof"]))

    def test_the_client_ends(self) -> None:
        socket = self.accept()
        self.conversation.feed(h2.data(1, b"bye", END_STREAM))
        self.assertEqual((socket.received, socket.told), (b"bye", ["eof"]))
        socket.wire.close()
        self.assertTrue(self.conversation.response().complete)
        self.assertEqual(self.conversation.engine.exchanges, {})

    def test_the_client_ends_with_what_makes_us_end(self) -> None:
        socket = self.accept()
        with mock.patch.object(
            FakeWebSocket, "receive_data", lambda self, data: self.wire.close()
        ):
            self.conversation.feed(h2.data(1, b"bye", END_STREAM))
        self.assertEqual(socket.told, [])
        response = self.conversation.response()
        self.assertEqual((response.complete, response.reset), (True, None))
        self.assertEqual(self.conversation.engine.exchanges, {})
        self.lives(self.conversation)

    def test_we_end(self) -> None:
        for close in ("close", "linger"):
            self.setUp()
            socket = self.accept()
            socket.wire.write(b"bye")
            getattr(socket.wire, close)()
            response = self.conversation.response()
            self.assertEqual((response.body, response.complete), (b"bye", True))
            self.conversation.feed(h2.data(1, b"bye too", END_STREAM))
            self.assertEqual((socket.received, socket.told), (b"", []))
            self.assertEqual(self.conversation.engine.exchanges, {})
            self.lives(self.conversation)

    def test_we_end_and_the_client_does_not(self) -> None:
        socket = self.accept()
        socket.wire.close()
        self.conversation.hear()
        self.conversation.wire.wait(TUNNEL_CLOSE_TIMEOUT)
        self.assertEqual(self.conversation.response().reset, NO_ERROR)

    def test_we_end_behind_what_waits(self) -> None:
        socket = self.accept()
        socket.wire.write(bytes(70_000))
        socket.wire.close()
        self.assertFalse(self.conversation.response().complete)
        self.conversation.open_windows()
        response = self.conversation.response()
        self.assertEqual((len(response.body), response.complete), (70_000, True))

    def test_we_break_off(self) -> None:
        socket = self.accept()
        socket.wire.abort()
        self.assertEqual(self.conversation.response().reset, CANCEL)
        self.lives(self.conversation)

    def test_the_client_breaks_off(self) -> None:
        socket = self.accept()
        self.conversation.feed(h2.reset(1))
        self.assertEqual(socket.told, ["lost"])
        socket.wire.write(b"x")
        socket.wire.arm(1, lambda: None)
        socket.wire.close()
        socket.wire.abort()
        self.assertEqual(self.conversation.hear(), [])

    def test_the_connection_is_lost(self) -> None:
        socket = self.accept()
        self.conversation.engine.connection_lost()
        self.assertEqual(socket.told, ["lost"])

    def test_it_is_writable_until_too_much_waits(self) -> None:
        socket = self.accept()
        socket.wire.write(bytes(65535))
        self.conversation.hear()
        self.assertTrue(socket.wire.writable)
        socket.wire.write(bytes(SEND_HIGH_WATER + 1))
        self.assertFalse(socket.wire.writable)
        self.conversation.open_windows()
        self.assertEqual(socket.told, ["writable"])
        self.assertTrue(socket.wire.writable)

    def test_the_window_stays_shut_while_reading_is_paused(self) -> None:
        socket = self.accept()
        part = h2.data(1, bytes(16384))
        self.conversation.feed(*[part] * 8)
        before = self.opened()
        self.assertGreater(before, 0)
        socket.wire.pause_reading()
        self.conversation.feed(*[part] * 4)
        self.assertEqual(self.opened(), before)
        socket.wire.resume_reading()
        self.conversation.feed(*[part] * 8)
        self.assertGreater(self.opened(), before)
        self.assertEqual(len(socket.received), 20 * 16384)

    def test_padding_is_given_back(self) -> None:
        padding = frame(h2.DATA, h2.PADDED, 1, b"\xff" + bytes(255))
        for when in ("before the answer", "after it"):
            with self.subTest(when):
                self.setUp()
                if when == "before the answer":
                    self.conversation.feed(*[padding] * 512)
                socket = self.accept()
                if when == "after it":
                    self.conversation.feed(*[padding] * 512)
                self.assertEqual(self.opened(), 512 * 256)
                self.conversation.feed(h2.data(1, b"x"))
                self.assertEqual(socket.received, b"x")

    def opened(self) -> int:
        updates = self.conversation.peer.of(WINDOW_UPDATE)
        return sum(f.number for f in updates if f.id)

    def test_its_timer(self) -> None:
        socket = self.accept()
        expired: list[str] = []
        socket.wire.arm(5, lambda: expired.append("first"))
        socket.wire.arm(50, lambda: expired.append("second"))
        self.conversation.wire.wait(49)
        self.assertEqual(expired, [])
        self.conversation.wire.wait(1)
        self.assertEqual(expired, ["second"])
        socket.wire.arm(5, lambda: expired.append("third"))
        socket.wire.arm(None, lambda: None)
        self.conversation.wire.wait(60)
        self.assertEqual(expired, ["second"])
        self.assertIs(socket.wire.clock, self.conversation.wire.clock)

    def test_a_body_timeout_is_not_for_tunnels(self) -> None:
        socket = self.accept()
        self.conversation.feed(h2.data(1, b"x"))
        self.conversation.wire.wait(1000)
        self.assertEqual(socket.told, [])

    def test_a_turn_of_the_loop(self) -> None:
        socket = self.accept()
        called: list[int] = []
        socket.wire.soon(lambda: called.append(1))
        self.assertEqual(called, [])
        self.conversation.wire.turns()
        self.assertEqual(called, [1])

    def test_draining(self) -> None:
        socket = self.accept()
        self.assertEqual(self.conversation.engine.tunnels, 1)
        self.conversation.engine.drain()
        self.assertEqual(socket.told, ["drain"])

    def test_a_change_of_engine(self) -> None:
        socket = self.accept()
        other = FakeWebSocket(socket.wire)
        socket.wire.switch(other)
        self.conversation.feed(h2.data(1, b"x"))
        self.assertEqual((socket.received, other.received), (b"", b"x"))

    def test_denying(self) -> None:
        self.stream.answer(403, [], b"no")
        response = self.conversation.response()
        self.assertEqual((response.status, response.body), (403, b"no"))
        self.assertEqual((response.complete, response.reset), (True, NO_ERROR))
        self.lives(self.conversation)

    def test_headers_inside_a_tunnel(self) -> None:
        """RFC 9113 section 8.5: DATA, and what moves windows and streams."""
        socket = self.accept()
        part = self.conversation.peer.headers(1, [(b"a", b"b")], END_STREAM)
        self.resets(self.conversation, PROTOCOL_ERROR, part)
        self.assertEqual(socket.told, ["lost"])


# -- An oracle -------------------------------------------------------------------------


class OracleTests(unittest.TestCase):
    """h2's own client, with all its validation, finds nothing to object to."""

    @hypothesis_settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["GET", "HEAD", "POST"]),
                st.integers(0, 40_000),
                st.lists(st.integers(0, 70_000), min_size=1, max_size=3),
                st.sampled_from([200, 204, 304, 404]),
                st.booleans(),
            ),
            min_size=1,
            max_size=8,
        ),
        st.integers(1000, 100_000),
        st.integers(0, 4096),
    )
    def test_conversations(
        self,
        requests: list[tuple[str, int, list[int], int, bool]],
        window: int,
        table: int,
    ) -> None:
        oracle = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        oracle.initiate_connection()
        oracle.update_settings(
            {
                SettingCodes.INITIAL_WINDOW_SIZE: window,
                SettingCodes.HEADER_TABLE_SIZE: table,
                SettingCodes.ENABLE_PUSH: 0,
            }
        )
        conversation = Conversation(greeting=None)
        wire = conversation.wire
        bodies: dict[int, int] = {}
        uploads: dict[int, int] = {}
        ended: set[int] = set()
        heard = 0
        for method, upload, _, _, trailers in requests:
            id = oracle.get_next_available_stream_id()
            fields = [
                (":method", method),
                (":scheme", "https"),
                (":path", f"/{id}"),
                (":authority", "example.org"),
                *([("te", "trailers")] if trailers else []),
            ]
            uploads[id] = upload if method == "POST" else 0
            oracle.send_headers(id, fields, end_stream=not uploads[id])
            bodies[id] = 0
        for _ in range(2000):
            wire.deliver(oracle.data_to_send())
            wire.turns()
            for stream in conversation.streams:
                if stream.untaken:
                    stream.take()
                if stream.ended and not stream.answered:
                    _, _, sizes, status, trailers = requests[stream.engine.id // 2]
                    stream.answered = True
                    promised = trailers and stream.head.trailers_accepted
                    for number, size in enumerate(sizes):
                        more = number + 1 < len(sizes)
                        if number:
                            stream.engine.body(bytes(size), more, promised)
                        else:
                            fields = [(b"X-Id", b"%d" % stream.engine.id)]
                            stream.engine.start(
                                status, fields, bytes(size), more, promised
                            )
                    if promised:
                        stream.engine.trailers([(b"digest", b"x" * 50)])
            wire.turns()
            written = bytes(wire.written[heard:])
            heard += len(written)
            for event in oracle.receive_data(written):
                if isinstance(event, DataReceived):
                    bodies[event.stream_id] += len(event.data)
                    oracle.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
                elif isinstance(event, StreamEnded):
                    ended.add(event.stream_id)
                assert not isinstance(event, StreamReset | ConnectionTerminated), event
            for id, left in uploads.items():
                room = min(
                    left,
                    oracle.local_flow_control_window(id) if left else 0,
                    oracle.max_outbound_frame_size,
                )
                if room:
                    uploads[id] -= room
                    oracle.send_data(id, bytes(room), end_stream=not uploads[id])
            if len(ended) == len(requests):
                break
        self.assertEqual(ended, set(bodies))
        for id, size in bodies.items():
            method, _, sizes, status, _ = requests[id // 2]
            pretended = method == "HEAD" or status in (204, 304)
            self.assertEqual(size, 0 if pretended else sum(sizes))
        self.assertEqual(conversation.engine.exchanges, {})
