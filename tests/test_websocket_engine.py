"""The frame engine of WebSockets, fed with bytes."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import random
import subprocess
import sys
import textwrap
import tracemalloc
import unittest
from collections.abc import Iterator
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from django_daphne.config import WebSocketSettings
from django_daphne.errors import IllegalMessage
from django_daphne.protocol import websocket
from django_daphne.protocol.websocket import (
    CLOSE_TIMEOUT,
    FRAMES_PER_TURN,
    INTEGER_LIMIT,
    JOIN_LIMIT,
    MAX_REASON,
    WebSocketEngine,
    check_close,
    unmask,
)
from django_daphne.protocol.websocket_deflate import (
    COMPRESS_FROM,
    PerMessageDeflate,
    agree,
)
from django_daphne.protocol.websocket_handshake import Handshake, Offer

from .websocket_frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    FakeWire,
    Recorder,
    Sent,
    close_frame,
    frame,
    masked,
)

MIB = 1024 * 1024


def deflates(
    *parameters: tuple[bytes, bytes | None], **limits: Any
) -> tuple[PerMessageDeflate, PerMessageDeflate]:
    """The server's compression and the client's, after such an offer."""
    offer = Offer(b"permessage-deflate", parameters)
    agreement = agree(Handshake((), (offer,), None))
    assert agreement is not None
    limits = {"max_message_size": MIB, "max_ratio": 100} | limits
    # Compressing with our own side's parameters suits the client as well: its window
    # is never larger than what it was told.
    client = PerMessageDeflate(agreement, None, None)
    return PerMessageDeflate(agreement, **limits), client


class Conversation:
    """An engine between a fake wire and a recorder."""

    engine_class = WebSocketEngine

    def __init__(
        self, deflate: PerMessageDeflate | None = None, **options: Any
    ) -> None:
        self.wire = FakeWire()
        self.receiver = Recorder()
        self.engine = self.engine_class(
            self.wire, self.receiver, WebSocketSettings(**options), deflate
        )
        self.engine.start()

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.engine.receive_data(piece)

    @property
    def outcome(self) -> tuple[Any, ...]:
        """All that the peer and the application can tell."""
        receiver = self.receiver
        return receiver.messages, self.wire.written, receiver.ends, self.wire.ended


class OnlyAutobahn(WebSocketEngine):
    """An engine without its short way."""

    __slots__ = ()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._quiet = False

    def _read_ordinary(self, data: bytes) -> bytes:
        self._quiet = False
        return data

    def receive_data(self, data: bytes, /) -> None:
        self._quiet = False
        super().receive_data(data)


class LongWay(Conversation):
    engine_class = OnlyAutobahn


# -- What clients say ------------------------------------------------------------------

texts = st.text(max_size=200).map(str.encode)
payloads = st.one_of(texts, st.binary(max_size=300), st.just(b"x" * 70_000))


@st.composite
def whole_messages(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        return frame(TEXT, draw(texts))
    return frame(BINARY, draw(payloads))


@st.composite
def fragmented_messages(draw: st.DrawFn) -> bytes:
    """A message in pieces that may cut characters, with control frames in between."""
    text = draw(st.booleans())
    payload = draw(texts if text else payloads)
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    edges = [0, *cuts, len(payload)]
    frames = []
    for number, (begin, end) in enumerate(itertools.pairwise(edges)):
        opcode = CONTINUATION if number else TEXT if text else BINARY
        last = number == len(edges) - 2
        frames.append(frame(opcode, payload[begin:end], fin=last))
        if not last and draw(st.booleans()):
            frames.append(frame(draw(st.sampled_from([PING, PONG])), b"between"))
    return b"".join(frames)


control_frames = st.builds(
    frame, st.sampled_from([PING, PONG]), st.binary(max_size=125)
)
close_frames = st.one_of(
    st.just(close_frame()),
    st.builds(
        close_frame,
        st.sampled_from([1000, 1001, 3000, 4999]),
        st.just("später".encode()),
    ),
)
faults = st.one_of(
    st.builds(frame, st.sampled_from([TEXT, BINARY, PING]), mask=st.none()),
    st.builds(frame, st.integers(0, 15), st.binary(max_size=9), rsv=st.integers(0, 7)),
    st.builds(frame, st.integers(0, 15), st.binary(max_size=9), fin=st.booleans()),
    st.builds(frame, st.just(TEXT), st.binary(max_size=40)),
    st.builds(close_frame, st.integers(0, 6000), st.binary(max_size=9)),
    st.builds(frame, st.just(BINARY), length_bytes=st.sampled_from([2, 8])),
    st.builds(frame, st.just(PING), st.just(b"x" * 126)),
    st.just(frame(BINARY, bytes(MIB + 1))),
    st.binary(min_size=1, max_size=20),
)
conversations = st.lists(
    st.one_of(
        whole_messages(),
        whole_messages(),
        fragmented_messages(),
        control_frames,
        close_frames,
        faults,
    ),
    max_size=8,
).map(b"".join)


def split(data: bytes, cuts: list[float]) -> list[bytes]:
    edges = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


splits = st.lists(st.floats(0, 1), max_size=6)


class TwoWaysTests(unittest.TestCase):
    """Nobody can tell which way a frame took, or how its bytes came."""

    @settings(deadline=None, max_examples=300)
    @given(conversations, splits)
    def test_any_conversation(self, data: bytes, cuts: list[float]) -> None:
        reference = LongWay()
        reference.feed(data)
        for pieces in ([data], split(data, cuts)):
            conversation = Conversation()
            conversation.feed(*pieces)
            self.assertEqual(conversation.outcome, reference.outcome)

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.one_of(whole_messages(), control_frames), max_size=6), st.data())
    def test_byte_by_byte(self, frames: list[bytes], data: st.DataObject) -> None:
        sent = b"".join(item for item in frames if len(item) < 1000)
        sent += data.draw(st.one_of(close_frames, faults)) if frames else b""
        sent = sent[:5000]
        reference = LongWay()
        reference.feed(sent)
        conversation = Conversation()
        conversation.feed(*(sent[at : at + 1] for at in range(len(sent))))
        self.assertEqual(conversation.outcome, reference.outcome)

    @settings(deadline=None, max_examples=100)
    @given(st.data(), splits)
    def test_compressed(self, data: st.DataObject, cuts: list[float]) -> None:
        server, client = deflates()
        twin, _ = deflates()
        sent = []
        for _ in range(data.draw(st.integers(1, 5))):
            text = data.draw(st.booleans())
            payload = data.draw(texts if text else payloads)
            if data.draw(st.integers(0, 9)) == 0:
                payload = b"\xff" + payload
            opcode = TEXT if text else BINARY
            if data.draw(st.booleans()):
                sent.append(frame(opcode, payload))
                continue
            payload = client.compress(payload)
            if data.draw(st.integers(0, 9)) == 0:
                payload = payload[:-1] + b"\xff"
            if data.draw(st.booleans()):
                sent.append(frame(opcode, payload, rsv=4))
            else:
                half = len(payload) // 2
                sent.append(frame(opcode, payload[:half], rsv=4, fin=False))
                sent.append(frame(CONTINUATION, payload[half:]))
        reference = LongWay(twin)
        reference.feed(b"".join(sent))
        conversation = Conversation(server)
        conversation.feed(*split(b"".join(sent), cuts))
        self.assertEqual(conversation.outcome, reference.outcome)

    def test_the_long_way_is_long(self) -> None:
        with mock.patch.object(
            websocket._Frames, "take", autospec=True, side_effect=websocket._Frames.take
        ) as take:
            Conversation().feed(frame(TEXT, b"short"), frame(BINARY, bytes(70_000)))
            self.assertEqual(take.call_count, 0)
            LongWay().feed(frame(TEXT, b"long"), frame(BINARY, bytes(70_000)))
            self.assertEqual(take.call_count, 2)

    @settings(deadline=None, max_examples=150)
    @given(conversations)
    def test_autobahn_itself_agrees(self, data: bytes) -> None:
        """Messages, and the code we close with, are what a stock Autobahn has."""
        stock = Stock()
        stock.feed(data)
        conversation = Conversation()
        conversation.feed(data)
        self.assertEqual(conversation.receiver.messages, stock.messages)
        closes = [
            sent.close_code for sent in conversation.wire.frames if sent.opcode == 8
        ]
        self.assertEqual(closes, stock.close_codes)


class Stock(websocket.WebSocketServerProtocol):
    """Autobahn's protocol as it is, cut loose from its frameworks."""

    factory = websocket._Factory()
    log = websocket._Log()
    CONFIG_ATTRS = ()
    trackTimings = logOctets = logFrames = False
    openHandshakeTimeout = closeHandshakeTimeout = autoPingInterval = 0
    utf8validateIncoming = requireMaskedClientFrames = applyMask = True
    maxFramePayloadSize = 0
    maxMessagePayloadSize = MIB
    maskServerFrames = failByDrop = False
    echoCloseCodeReason = autoPingRestartOnAnyTraffic = True

    def __init__(self) -> None:
        self.messages: list[str | bytes] = []
        self.close_codes: list[int] = []
        websocket.WebSocketProtocol._connectionMade(self)
        self.state = self.STATE_OPEN
        self.websocket_version = 13
        self.inside_message = False
        self.current_frame = None

    def feed(self, data: bytes) -> None:
        self._dataReceived(data)

    def sendFrame(self, opcode: int, payload: bytes = b"", **options: Any) -> None:
        if opcode == CLOSE:
            self.close_codes.append(int.from_bytes(payload[:2], "big"))

    def dropConnection(self, abort: bool = False) -> None:
        self.state = self.STATE_CLOSED

    def _onMessageBegin(self, isBinary: bool) -> None:
        self.onMessageBegin(isBinary)

    def _onMessageFrameBegin(self, length: int) -> None:
        self.onMessageFrameBegin(length)

    def _onMessageFrameData(self, payload: bytes) -> None:
        self.onMessageFrameData(payload)

    def _onMessageFrameEnd(self) -> None:
        self.onMessageFrameEnd()

    def _onMessageFrame(self, payload: Any) -> None:
        self.onMessageFrame(payload)

    def _onMessageEnd(self) -> None:
        if not self.failedByMe:
            payload = b"".join(self.message_data)
            self.messages.append(
                payload if self.message_is_binary else payload.decode()
            )

    def _onPing(self, payload: bytes) -> None: ...
    def _onPong(self, payload: bytes) -> None: ...


# -- Messages --------------------------------------------------------------------------


class ReadingTests(unittest.TestCase):
    def test_every_size_of_length(self) -> None:
        for size in (0, 1, 125, 126, INTEGER_LIMIT, INTEGER_LIMIT + 1, 65535, 65536):
            with self.subTest(size=size):
                conversation = Conversation()
                payload = random.randbytes(size)
                conversation.feed(frame(BINARY, payload), frame(TEXT, b"a" * size))
                self.assertEqual(conversation.receiver.messages, [payload, "a" * size])
                self.assertEqual(conversation.receiver.sizes, [size, size])

    def test_several_frames_in_one_read(self) -> None:
        conversation = Conversation()
        conversation.feed(
            frame(TEXT, b"one") + frame(BINARY, b"two") + frame(TEXT, "drei €".encode())
        )
        self.assertEqual(conversation.receiver.messages, ["one", b"two", "drei €"])

    def test_a_message_over_many_reads(self) -> None:
        conversation = Conversation()
        payload = random.randbytes(300_000)
        data = frame(BINARY, payload)
        conversation.feed(
            *(data[at : at + 65_536] for at in range(0, len(data), 65_536))
        )
        conversation.feed(frame(TEXT, b"next"))
        self.assertEqual(conversation.receiver.messages, [payload, "next"])

    def test_autobahn_is_forgotten_between_messages(self) -> None:
        conversation = Conversation()
        conversation.feed(frame(TEXT, b"a", fin=False))
        self.assertIsNotNone(conversation.engine._frames)
        conversation.feed(frame(CONTINUATION, b"b"))
        self.assertIsNone(conversation.engine._frames)
        self.assertTrue(conversation.engine._quiet)
        self.assertEqual(conversation.receiver.messages, ["ab"])

    def test_empty_fragments_cost_nothing(self) -> None:
        conversation = Conversation()
        conversation.feed(frame(BINARY, b"a", fin=False))
        fragments = frame(CONTINUATION, fin=False, mask=b"abcd") * 1000
        conversation.feed(fragments)
        self.settle(conversation)
        tracemalloc.start()
        try:
            for _ in range(5):
                conversation.feed(fragments)
                self.settle(conversation)
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(grown, 5000)

    def settle(self, conversation: Conversation) -> None:
        while conversation.receiver.turns:
            conversation.receiver.take_turn()

    def test_bad_utf8_is_noticed_before_the_message_ends(self) -> None:
        for beginning in (b"\xf4\x90", b"\xed\xa0", b"\xc0", b"a\xff"):
            with self.subTest(beginning=beginning):
                conversation = Conversation()
                conversation.feed(
                    frame(TEXT, beginning + b"more" * 9)[: 6 + len(beginning)]
                )
                self.assertEqual(conversation.receiver.ends[0][0], 1007)

    def test_unmasking_is_what_the_rfc_says(self) -> None:
        for nvx in {True, websocket.USES_NVX, False}:
            if nvx and not websocket.USES_NVX:
                continue
            with mock.patch.object(websocket, "USES_NVX", nvx):
                for size in (0, 1, 2, 3, 4, 5, 1199, 1200, 1201, 1202, 1203, 5000):
                    payload, key = random.randbytes(size), random.randbytes(4)
                    self.assertEqual(unmask(key, payload), masked(key, payload))

    @settings(deadline=None)
    @given(st.binary(max_size=12), splits)
    def test_the_validator_agrees_with_autobahns(
        self, data: bytes, cuts: list[float]
    ) -> None:
        from autobahn.websocket.utf8validator import Utf8Validator

        ours, theirs = websocket._Validator(), Utf8Validator()
        theirs.reset()
        for piece in split(data, cuts):
            verdict = ours.validate(piece)
            expected = theirs.validate(piece)
            self.assertEqual(verdict[0], expected[0])
            if not verdict[0]:
                return
            self.assertEqual(verdict[1], expected[1])


class FaultTests(unittest.TestCase):
    """Every breach gets its close code, and nothing after it is read."""

    CASES = {
        "unmasked": (frame(TEXT, b"x", mask=None), 1002),
        "unmasked ping": (frame(PING, mask=None), 1002),
        "RSV1 without compression": (frame(TEXT, b"x", rsv=4), 1002),
        "RSV2": (frame(TEXT, b"x", rsv=2), 1002),
        "RSV3": (frame(BINARY, b"x", rsv=1), 1002),
        "reserved data opcode": (frame(0x3), 1002),
        "reserved control opcode": (frame(0xB), 1002),
        "fragmented ping": (frame(PING, fin=False), 1002),
        "long ping": (frame(PING, b"x" * 126), 1002),
        "long close": (frame(CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
        "continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
        "a message inside a message": (
            frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"),
            1002,
        ),
        "16-bit length below 126": (frame(BINARY, b"x" * 125, length_bytes=2), 1002),
        "64-bit length below 65536": (frame(BINARY, b"x" * 9, length_bytes=8), 1002),
        "length with its first bit set": (
            b"\x82\xff" + b"\xff" * 8 + b"mask" + b"x",
            1002,
        ),
        "half a close code": (frame(CLOSE, b"\x03"), 1002),
        "close code 999": (close_frame(999), 1002),
        "close code 1004": (close_frame(1004), 1002),
        "close code 1005": (close_frame(1005), 1002),
        "close code 1006": (close_frame(1006), 1002),
        "close code 1015": (close_frame(1015), 1002),
        "close code 2999": (close_frame(2999), 1002),
        "close code 5000": (close_frame(5000), 1002),
        "invalid UTF-8": (frame(TEXT, b"\xff"), 1007),
        "half a character": (frame(TEXT, "€".encode()[:2]), 1007),
        "a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
        "an overlong slash": (frame(TEXT, b"\xc0\xaf"), 1007),
        "a close reason that is not UTF-8": (close_frame(1000, b"\xff"), 1007),
        "a message too large": (frame(BINARY, bytes(1001)), 1009),
        "a frame too large": (frame(BINARY, bytes(501), fin=False), 1009),
        "fragments too large together": (
            frame(BINARY, bytes(500), fin=False)
            + frame(CONTINUATION, bytes(500), fin=False)
            + frame(CONTINUATION, bytes(1)),
            1009,
        ),
    }

    def test_each(self) -> None:
        for name, (data, code) in self.CASES.items():
            for way in (Conversation, LongWay):
                with self.subTest(name, way=way.__name__):
                    conversation = way(max_message_size=1000, max_frame_size=500)
                    conversation.feed(
                        data + frame(TEXT, b"after"), frame(PING, b"late")
                    )
                    self.check(conversation, code)
                    self.assertEqual(conversation.receiver.messages, [])

    def check(self, conversation: Conversation, code: int) -> None:
        [close] = conversation.wire.frames
        self.assertEqual((close.opcode, close.close_code), (CLOSE, code))
        self.assertTrue(close.payload[2:].decode(), "the close frame gives no reason")
        self.assertEqual(conversation.wire.ended, "linger")
        self.assertEqual([end[0] for end in conversation.receiver.ends], [code])
        self.assertEqual([fault[0] for fault in conversation.receiver.faults], [code])
        self.assertIsNone(conversation.wire.seconds)

    def test_a_header_is_enough(self) -> None:
        """What will be too large is refused before it has come."""
        for header in (b"\x82\xfe\xff\xff", b"\x82\xff" + (1 << 40).to_bytes(8)):
            conversation = Conversation(max_message_size=1000)
            conversation.feed(header + b"mask")
            self.check(conversation, 1009)

    def test_the_first_bytes_of_a_header_are_enough(self) -> None:
        conversation = Conversation()
        conversation.feed(b"\x83\x80")
        self.check(conversation, 1002)

    def test_limits_below_the_shortest_length(self) -> None:
        for opcode in (TEXT, BINARY):
            conversation = Conversation(max_message_size=10)
            conversation.feed(frame(opcode, b"x" * 10), frame(opcode, b"x" * 11))
            self.assertEqual(len(conversation.receiver.messages), 1)
            self.check(conversation, 1009)

    def test_what_fits_exactly_is_taken(self) -> None:
        conversation = Conversation(max_message_size=1000, max_frame_size=500)
        conversation.feed(
            frame(BINARY, bytes(500), fin=False) + frame(CONTINUATION, bytes(500))
        )
        conversation.feed(frame(BINARY, bytes(500)))
        self.assertEqual(conversation.receiver.messages, [bytes(1000), bytes(500)])

    def test_no_limits(self) -> None:
        conversation = Conversation(max_message_size=None, max_frame_size=None)
        conversation.feed(frame(BINARY, bytes(3 * MIB), mask=b"\0\0\0\1")[: 2 * MIB])
        self.assertEqual(conversation.receiver.faults, [])

    def test_a_breach_after_our_close_ends_it_without_another_frame(self) -> None:
        conversation = Conversation()
        conversation.engine.close(1000)
        conversation.feed(frame(0x3))
        self.assertEqual(len(conversation.wire.frames), 1)
        self.assertEqual(conversation.wire.ended, "linger")


class ControlTests(unittest.TestCase):
    def test_pings_are_answered(self) -> None:
        conversation = Conversation()
        conversation.feed(
            frame(PING, b"a") + frame(TEXT, b"x") + frame(PING, b"b" * 125)
        )
        self.assertEqual(
            conversation.wire.frames, [Sent(PONG, b"a"), Sent(PONG, b"b" * 125)]
        )

    def test_between_fragments(self) -> None:
        conversation = Conversation()
        conversation.feed(
            frame(TEXT, b"a", fin=False),
            frame(PING, b"now"),
            frame(PONG, b"unasked"),
            frame(CONTINUATION, b"b"),
        )
        self.assertEqual(conversation.wire.frames, [Sent(PONG, b"now")])
        self.assertEqual(conversation.receiver.messages, ["ab"])

    def test_one_who_does_not_read_is_owed_the_latest_pong_only(self) -> None:
        conversation = Conversation()
        conversation.wire.writable = False
        for number in range(10):
            conversation.feed(frame(PING, b"%d" % number))
        self.assertEqual(conversation.wire.frames, [])
        conversation.wire.writable = True
        conversation.engine.writable_again()
        self.assertEqual(conversation.wire.frames, [Sent(PONG, b"9")])
        conversation.engine.writable_again()
        self.assertEqual(len(conversation.wire.frames), 1)
        self.assertEqual(conversation.receiver.writable, 2)

    def test_no_pong_after_our_close(self) -> None:
        conversation = Conversation()
        conversation.wire.writable = False
        conversation.feed(frame(PING, b"owed"))
        conversation.engine.close(1000)
        conversation.engine.writable_again()
        conversation.feed(frame(PING, b"late"))
        self.assertEqual([sent.opcode for sent in conversation.wire.frames], [CLOSE])

    def test_the_peer_closes(self) -> None:
        conversation = Conversation()
        conversation.feed(close_frame(4001, "später".encode()) + frame(TEXT, b"late"))
        [close] = conversation.wire.frames
        self.assertEqual(close, Sent(CLOSE, b"\x0f\xa1" + "später".encode()))
        self.assertEqual(conversation.receiver.ends, [(4001, "später")])
        self.assertEqual(conversation.receiver.messages, [])
        self.assertEqual(conversation.receiver.faults, [])
        self.assertEqual(conversation.wire.ended, "close")

    def test_the_peer_closes_without_a_code(self) -> None:
        conversation = Conversation()
        conversation.feed(close_frame())
        self.assertEqual(conversation.wire.frames, [Sent(CLOSE, b"")])
        self.assertEqual(conversation.receiver.ends, [(1005, "")])

    def test_we_close(self) -> None:
        conversation = Conversation()
        conversation.engine.close(3333, "enough")
        conversation.engine.close(1000, "again")
        conversation.engine.send_text("late")
        conversation.engine.send_bytes(b"late" * 1000)
        self.assertEqual(conversation.wire.frames, [Sent(CLOSE, b"\x0d\x05enough")])
        self.assertEqual(conversation.receiver.ends, [])
        self.assertEqual(conversation.wire.seconds, CLOSE_TIMEOUT)
        conversation.feed(frame(TEXT, b"on its way"), frame(PING, b"so is this"))
        conversation.feed(close_frame(3333, b"well then"))
        self.assertEqual(conversation.receiver.ends, [(3333, "well then")])
        self.assertEqual(conversation.receiver.messages, [])
        self.assertEqual(len(conversation.wire.frames), 1)
        self.assertEqual(conversation.wire.ended, "close")

    def test_we_close_inside_the_peers_message(self) -> None:
        conversation = Conversation()
        conversation.feed(frame(TEXT, b"a", fin=False))
        conversation.engine.close(1000)
        conversation.feed(frame(CONTINUATION, b"b") + close_frame(1000))
        self.assertEqual(conversation.receiver.messages, [])
        self.assertEqual(conversation.receiver.ends, [(1000, "")])

    def test_the_connection_ends_without_a_close(self) -> None:
        for end in ("receive_eof", "connection_lost"):
            with self.subTest(end):
                conversation = Conversation()
                conversation.feed(frame(TEXT, b"half")[:5])
                getattr(conversation.engine, end)()
                conversation.engine.connection_lost()
                [(code, reason)] = conversation.receiver.ends
                self.assertEqual(code, 1006)
                self.assertTrue(reason)
                self.assertEqual(conversation.receiver.messages, [])

    def test_draining_closes_with_1012(self) -> None:
        conversation = Conversation()
        conversation.engine.drain()
        [close] = conversation.wire.frames
        self.assertEqual(close.close_code, 1012)

    def test_close_codes_of_applications(self) -> None:
        for code in (1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 4999):
            check_close(code, "ü" * (MAX_REASON // 2))
        for code in (
            -1,
            0,
            999,
            1004,
            1005,
            1006,
            1015,
            2000,
            2999,
            5000,
            "1000",
            None,
        ):
            with (
                self.subTest(code=code),
                self.assertRaisesRegex(IllegalMessage, "code"),
            ):
                check_close(code, "")
        with self.assertRaisesRegex(IllegalMessage, "124 bytes"):
            check_close(1000, "ü" * 62)
        with self.assertRaisesRegex(IllegalMessage, "string"):
            check_close(1000, b"bytes")


class PressureTests(unittest.TestCase):
    def test_a_full_receiver_stops_parsing(self) -> None:
        conversation = Conversation()
        conversation.receiver.room = False
        numbers = [b"%d" % number for number in range(5)]
        conversation.feed(b"".join(frame(TEXT, number) for number in numbers))
        self.assertEqual(conversation.receiver.messages, ["0"])
        self.assertFalse(conversation.wire.reading)
        conversation.feed(frame(PING, b"waits") + frame(TEXT, b"last"))
        self.assertEqual(conversation.receiver.messages, ["0"])
        self.assertEqual(conversation.wire.frames, [])
        conversation.engine.resume()
        self.assertEqual(conversation.receiver.messages, ["0", "1"])
        self.assertFalse(conversation.wire.reading)
        conversation.receiver.room = True
        conversation.engine.resume()
        self.assertEqual(
            conversation.receiver.messages, ["0", "1", "2", "3", "4", "last"]
        )
        self.assertEqual(conversation.wire.frames, [Sent(PONG, b"waits")])
        self.assertTrue(conversation.wire.reading)

    def test_a_full_receiver_on_the_long_way(self) -> None:
        conversation = Conversation()
        conversation.receiver.room = False
        conversation.feed(
            frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b") + frame(TEXT, b"c")
        )
        self.assertEqual(conversation.receiver.messages, ["ab"])
        self.assertFalse(conversation.wire.reading)
        conversation.feed(frame(TEXT, b"d"))
        self.assertEqual(conversation.receiver.messages, ["ab"])
        conversation.receiver.room = True
        conversation.engine.resume()
        self.assertEqual(conversation.receiver.messages, ["ab", "c", "d"])
        self.assertTrue(conversation.wire.reading)
        self.assertTrue(conversation.engine._quiet)

    def test_resuming_what_does_not_wait_changes_nothing(self) -> None:
        conversation = Conversation()
        conversation.feed(frame(TEXT, b"a", fin=False))
        conversation.engine.resume()
        conversation.feed(frame(CONTINUATION, b"b"))
        self.assertEqual(conversation.receiver.messages, ["ab"])

    def test_a_full_receiver_does_not_keep_our_close_unanswered(self) -> None:
        conversation = Conversation()
        conversation.receiver.room = False
        conversation.feed(frame(TEXT, b"a") + frame(TEXT, b"b") + close_frame(1001))
        conversation.engine.close(1000)
        self.assertEqual(conversation.receiver.ends, [(1001, "")])
        self.assertEqual(conversation.receiver.messages, ["a"])

    def test_a_flood_of_control_frames_is_read_in_turns(self) -> None:
        conversation = Conversation()
        conversation.feed(b"".join(frame(PING, b"%d" % n) for n in range(1000)))
        self.assertEqual(len(conversation.wire.frames), FRAMES_PER_TURN)
        conversation.feed(frame(TEXT, b"behind them"))
        turns = 0
        while conversation.receiver.turns:
            conversation.receiver.take_turn()
            turns += 1
        self.assertEqual(
            [sent.payload for sent in conversation.wire.frames],
            [b"%d" % n for n in range(1000)],
        )
        self.assertEqual(conversation.receiver.messages, ["behind them"])
        self.assertEqual(turns, 1000 // FRAMES_PER_TURN)

    def test_a_flood_that_is_faster_than_its_turns_is_not_hoarded(self) -> None:
        conversation = Conversation()
        flood = frame(PING) * (FRAMES_PER_TURN + 1)
        conversation.feed(flood)
        self.assertTrue(conversation.wire.reading)
        conversation.feed(flood)
        self.assertFalse(conversation.wire.reading)
        while conversation.receiver.turns:
            conversation.receiver.take_turn()
        self.assertTrue(conversation.wire.reading)
        self.assertEqual(len(conversation.wire.frames), 2 * (FRAMES_PER_TURN + 1))

    def test_a_close_does_not_overtake_an_answer(self) -> None:
        conversation = Conversation()
        conversation.receiver.behind = True
        conversation.feed(frame(TEXT, b"question") + close_frame(1000))
        self.assertEqual(conversation.wire.frames, [])
        conversation.engine.send_text("answer")
        conversation.receiver.take_turn()
        self.assertEqual(
            conversation.wire.frames, [Sent(TEXT, b"answer"), Sent(CLOSE, b"\x03\xe8")]
        )
        self.assertEqual(conversation.receiver.ends, [(1000, "")])

    def test_the_close_waits_one_turn_only(self) -> None:
        conversation = Conversation()
        conversation.receiver.behind = True
        conversation.feed(frame(TEXT, b"question"), close_frame(1000))
        conversation.receiver.take_turn()
        self.assertEqual(conversation.receiver.ends, [(1000, "")])

    def test_nobody_waits_for_an_application_that_is_not_behind(self) -> None:
        conversation = Conversation()
        conversation.feed(frame(TEXT, b"question") + close_frame(1000))
        self.assertEqual(conversation.receiver.ends, [(1000, "")])

    def test_what_had_arrived_before_the_loss_still_counts(self) -> None:
        for end in ("connection_lost", "receive_eof"):
            with self.subTest(end):
                conversation = Conversation()
                conversation.receiver.room = False
                conversation.feed(
                    b"".join(frame(TEXT, b"%d" % n) for n in range(3))
                    + close_frame(1001)
                )
                getattr(conversation.engine, end)()
                for _ in range(3):
                    conversation.engine.resume()
                self.assertEqual(conversation.receiver.messages, ["0", "1", "2"])
                self.assertEqual(conversation.receiver.ends, [(1001, "")])

    def test_an_eof_that_waited_ends_the_conversation(self) -> None:
        conversation = Conversation()
        conversation.receiver.room = False
        conversation.feed(frame(TEXT, b"last"))
        conversation.engine.receive_eof()
        self.assertEqual(conversation.receiver.ends, [])
        conversation.engine.resume()
        self.assertEqual([code for code, _ in conversation.receiver.ends], [1006])
        self.assertEqual(conversation.wire.ended, "close")

    def test_a_turn_that_comes_too_late_is_harmless(self) -> None:
        conversation = Conversation()
        conversation.receiver.behind = True
        conversation.feed(frame(TEXT, b"question") + close_frame(1000))
        conversation.engine.connection_lost()
        conversation.receiver.take_turn()
        self.assertEqual(conversation.receiver.ends, [(1000, "")])


class SendingTests(unittest.TestCase):
    def test_every_size_of_length(self) -> None:
        for size in (0, 1, 125, 126, 65535, 65536):
            with self.subTest(size=size):
                conversation = Conversation()
                payload = random.randbytes(size)
                conversation.engine.send_bytes(payload)
                conversation.engine.send_text("a" * size)
                self.assertEqual(
                    conversation.wire.frames,
                    [Sent(BINARY, payload), Sent(TEXT, b"a" * size)],
                )

    def test_one_write_for_a_message(self) -> None:
        conversation = Conversation()
        for size in (0, 125, 126, JOIN_LIMIT):
            conversation.engine.send_bytes(bytes(size))
        self.assertEqual(len(conversation.wire.writes), 4)

    def test_a_lone_surrogate_sends_nothing(self) -> None:
        conversation = Conversation()
        with self.assertRaises(UnicodeEncodeError):
            conversation.engine.send_text("\ud800")
        self.assertEqual(conversation.wire.writes, [])

    def test_compression(self) -> None:
        server, client = deflates()
        conversation = Conversation(server)
        messages = [b"{'user': 'me'}" * 40, b"", b"short", "€".encode() * COMPRESS_FROM]
        for message in messages:
            conversation.engine.send_text(message.decode())
            conversation.engine.send_bytes(message)
        sent = conversation.wire.frames
        self.assertEqual([one.rsv for one in sent], [4, 4, 0, 0, 0, 0, 4, 4])
        for one, message in zip(sent, [m for m in messages for _ in "tb"], strict=True):
            payload = one.payload
            if one.rsv:
                payload = client.inflate(payload)
                client.end_message()
            self.assertEqual(payload, message)


class CompressedTests(unittest.TestCase):
    """Bombs and damage, on both ways."""

    def outcomes(self, payload: bytes, opcode: int = BINARY, **limits: Any) -> set[Any]:
        found = set()
        for way in (Conversation, LongWay):
            for fragments in (1, 2):
                server, _ = deflates(**limits)
                conversation = way(
                    server, max_message_size=limits.get("max_message_size", MIB)
                )
                half = len(payload) // 2
                if fragments == 1:
                    conversation.feed(frame(opcode, payload, rsv=4))
                else:
                    conversation.feed(
                        frame(opcode, payload[:half], rsv=4, fin=False),
                        frame(CONTINUATION, payload[half:]),
                    )
                ends = tuple(conversation.receiver.ends)
                sizes = tuple(conversation.receiver.sizes)
                found.add((ends, sizes, conversation.wire.written))
        return found

    def compressed(self, payload: bytes) -> bytes:
        return deflates()[1].compress(payload)

    def one_outcome(self, payload: bytes, **options: Any) -> tuple[Any, ...]:
        found = self.outcomes(payload, **options)
        self.assertEqual(len(found), 1, found)
        return found.pop()

    def test_a_message_of_exactly_the_limit(self) -> None:
        ends, sizes, _ = self.one_outcome(self.compressed(bytes(MIB)))
        self.assertEqual((ends, sizes), ((), (MIB,)))

    def test_one_byte_more(self) -> None:
        ends, sizes, _ = self.one_outcome(self.compressed(bytes(MIB + 1)))
        self.assertEqual((ends, sizes), (((1009, "message too big"),), ()))

    def test_the_ratio(self) -> None:
        bomb = self.compressed(bytes(2 * MIB))
        ends, _, _ = self.one_outcome(bomb, max_message_size=None)
        self.assertEqual(ends, ((1009, "message too big"),))
        _, sizes, _ = self.one_outcome(bomb, max_message_size=None, max_ratio=None)
        self.assertEqual(sizes, (2 * MIB,))
        plain = random.Random(1).randbytes(MIB) * 2
        _, sizes, _ = self.one_outcome(self.compressed(plain), max_message_size=None)
        self.assertEqual(sizes, (2 * MIB,))

    def test_a_bomb_is_not_inflated(self) -> None:
        bomb = self.compressed(bytes(200 * MIB))
        for way in (Conversation, LongWay):
            with self.subTest(way=way.__name__):
                conversation = way(deflates()[0])
                data = frame(BINARY, bomb, rsv=4)
                tracemalloc.start()
                try:
                    conversation.feed(data)
                    _, peak = tracemalloc.get_traced_memory()
                finally:
                    tracemalloc.stop()
                self.assertEqual(
                    conversation.receiver.ends, [(1009, "message too big")]
                )
                self.assertLess(peak, 5 * MIB)

    def test_damage(self) -> None:
        for payload in (b"\xff\xff", b"\x00\x05\x00\xfa\xffHel", b"\x07"):
            with self.subTest(payload=payload):
                ends, sizes, _ = self.one_outcome(payload)
                self.assertEqual((ends, sizes), (((1007, "invalid payload"),), ()))

    def test_data_that_ends_inside_the_head_of_a_block(self) -> None:
        """The end of the message is read as the rest of that head: no output tells."""
        for payload in (b"", b"\x00\x05\x00\xfa\xffHello"):
            with self.subTest(payload=payload):
                ends, sizes, _ = self.one_outcome(payload)
                self.assertEqual((ends, sizes), (((1007, "invalid payload"),), ()))

    def test_bad_utf8(self) -> None:
        ends, _, _ = self.one_outcome(self.compressed(b"\xff" * 9), opcode=TEXT)
        self.assertEqual(ends, ((1007, "invalid payload"),))

    def test_a_compressed_control_frame(self) -> None:
        conversation = Conversation(deflates()[0])
        conversation.feed(frame(PING, rsv=4))
        self.assertEqual(conversation.receiver.ends[0][0], 1002)

    def test_a_compressed_continuation(self) -> None:
        conversation = Conversation(deflates()[0])
        conversation.feed(
            frame(TEXT, self.compressed(b"x"), rsv=4, fin=False),
            frame(CONTINUATION, rsv=4),
        )
        self.assertEqual(conversation.receiver.ends[0][0], 1002)

    def test_plain_frames_after_the_agreement(self) -> None:
        conversation = Conversation(deflates()[0])
        conversation.feed(frame(TEXT, b"plain"), frame(BINARY, bytes(5000)))
        self.assertEqual(conversation.receiver.messages, ["plain", bytes(5000)])
        self.assertTrue(conversation.engine._quiet)


# -- Time ------------------------------------------------------------------------------


class TimeTests(unittest.TestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        patcher = mock.patch.object(websocket, "monotonic", lambda: self.now)
        patcher.start()
        self.addCleanup(patcher.stop)

    def pass_time(self, conversation: Conversation, seconds: float) -> None:
        """Let the wire's timer run for ``seconds``."""
        end = self.now + seconds
        while True:
            wire = conversation.wire
            if wire.seconds is None or self.now + wire.seconds > end:
                if wire.seconds is not None:
                    wire.seconds -= end - self.now
                self.now = end
                return
            self.now += wire.seconds
            wire.seconds = None
            wire.expired()

    def opcodes(self, conversation: Conversation) -> list[int]:
        return [sent.opcode for sent in conversation.wire.frames]

    def test_pings(self) -> None:
        conversation = Conversation(ping_interval=20, ping_timeout=None)
        self.pass_time(conversation, 19)
        self.assertEqual(self.opcodes(conversation), [])
        self.pass_time(conversation, 45)
        self.assertEqual(self.opcodes(conversation), [PING, PING, PING])
        self.assertEqual(conversation.receiver.ends, [])

    def test_no_pong(self) -> None:
        conversation = Conversation(ping_interval=20, ping_timeout=10)
        self.pass_time(conversation, 29)
        self.assertEqual(conversation.receiver.ends, [])
        self.pass_time(conversation, 1)
        self.assertEqual(conversation.receiver.ends, [(1006, "ping timeout")])
        self.assertEqual(self.opcodes(conversation), [PING, CLOSE])
        self.assertEqual(conversation.wire.frames[-1].close_code, 1011)
        [(code, reason)] = conversation.receiver.faults
        self.assertEqual(code, 1011)
        self.assertIn("WEBSOCKET['PING_TIMEOUT']", reason)
        self.assertEqual(conversation.wire.ended, "close")
        self.assertIsNone(conversation.wire.seconds)

    def test_whatever_comes_is_a_sign_of_life(self) -> None:
        for data in (frame(PONG), frame(TEXT, b"x"), frame(BINARY, bytes(9999))[:500]):
            conversation = Conversation(ping_interval=20, ping_timeout=20)
            for _ in range(4):
                self.pass_time(conversation, 15)
                conversation.feed(data)
            self.assertEqual(conversation.receiver.ends, [])
            self.pass_time(conversation, 45)
            self.assertEqual(conversation.receiver.ends, [(1006, "ping timeout")])

    def test_what_came_before_the_ping_is_none(self) -> None:
        conversation = Conversation(ping_interval=20, ping_timeout=10)
        self.pass_time(conversation, 19)
        conversation.feed(frame(TEXT, b"x"))
        self.pass_time(conversation, 11)
        self.assertEqual(conversation.receiver.ends, [(1006, "ping timeout")])

    def test_a_timeout_longer_than_the_interval(self) -> None:
        conversation = Conversation(ping_interval=5, ping_timeout=12)
        self.pass_time(conversation, 16.5)
        self.assertEqual(conversation.receiver.ends, [])
        self.pass_time(conversation, 1)
        self.assertEqual(conversation.receiver.ends, [(1006, "ping timeout")])

    def test_silence_while_we_do_not_read_proves_nothing(self) -> None:
        conversation = Conversation(ping_interval=20, ping_timeout=10)
        self.pass_time(conversation, 25)
        conversation.receiver.room = False
        conversation.feed(frame(TEXT, b"x"))
        self.pass_time(conversation, 500)
        self.assertEqual(conversation.receiver.ends, [])
        conversation.receiver.room = True
        conversation.engine.resume()
        self.pass_time(conversation, 31)
        self.assertEqual(conversation.receiver.ends, [(1006, "ping timeout")])

    def test_pings_do_not_pile_up_before_one_who_does_not_read(self) -> None:
        conversation = Conversation(ping_interval=20, ping_timeout=10)
        conversation.wire.writable = False
        self.pass_time(conversation, 500)
        self.assertEqual(self.opcodes(conversation), [])
        self.assertEqual(conversation.receiver.ends, [])

    def test_a_peer_that_stops_reading_after_the_ping(self) -> None:
        conversation = Conversation(ping_interval=20, ping_timeout=10)
        self.pass_time(conversation, 20)
        conversation.wire.writable = False
        self.pass_time(conversation, 500)
        self.assertEqual(conversation.receiver.ends, [])
        conversation.wire.writable = True
        self.pass_time(conversation, 31)
        self.assertEqual(conversation.receiver.ends, [(1006, "ping timeout")])

    def test_nothing_is_due(self) -> None:
        conversation = Conversation(ping_interval=None)
        self.assertIsNone(conversation.wire.seconds)

    def test_maximum_lifetime(self) -> None:
        conversation = Conversation(max_lifetime=50, ping_interval=None)
        self.pass_time(conversation, 49)
        self.assertEqual(self.opcodes(conversation), [])
        self.pass_time(conversation, 1)
        [close] = conversation.wire.frames
        self.assertEqual(close.close_code, 1001)
        conversation.feed(close_frame(1001))
        self.assertEqual(conversation.receiver.ends, [(1001, "")])

    def test_an_unanswered_close(self) -> None:
        conversation = Conversation()
        conversation.engine.close(1000)
        conversation.feed(frame(TEXT, b"not an answer"))
        self.pass_time(conversation, CLOSE_TIMEOUT - 0.1)
        self.assertEqual(conversation.receiver.ends, [])
        self.pass_time(conversation, 0.1)
        self.assertEqual([code for code, _ in conversation.receiver.ends], [1006])
        self.assertEqual(conversation.wire.ended, "abort")
        self.assertEqual(self.opcodes(conversation), [CLOSE])

    def test_no_ping_after_the_close(self) -> None:
        conversation = Conversation(ping_interval=1)
        conversation.engine.close(1000)
        self.pass_time(conversation, CLOSE_TIMEOUT)
        self.assertEqual(self.opcodes(conversation), [CLOSE])


# -- Autobahn --------------------------------------------------------------------------

#: What a stock Autobahn server has in its instance when its handshake is done, under
#: the framework of its own that :mod:`django_daphne` never chooses.
STOCK = """
import asyncio, json
from autobahn.asyncio.websocket import WebSocketServerFactory, WebSocketServerProtocol

class Transport(asyncio.Transport):
    def write(self, data):
        pass

REQUEST = (
    b"GET / HTTP/1.1\\r\\nHost: a\\r\\n"
    b"Upgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n"
    b"Sec-WebSocket-Version: 13\\r\\n\\r\\n"
)

async def main():
    factory = WebSocketServerFactory("ws://a", loop=asyncio.get_running_loop())
    factory.protocol = WebSocketServerProtocol
    protocol = factory()
    protocol.connection_made(Transport())
    protocol._dataReceived(REQUEST)
    while protocol.state != protocol.STATE_OPEN:
        await asyncio.sleep(0)
    print(json.dumps({name: repr(value) for name, value in vars(protocol).items()}))

asyncio.run(main())
"""

#: Of those, what the frame engine never looks at: the handshake and its leftovers,
#: clients, timers and queues that we replace.
UNUSED = {
    "_listeners", "_parent", "_results", "_transport_details", "_valid_events",
    "_wskey", "allowNullOrigin", "allowedOrigins", "allowedOriginsPatterns",
    "autoFragmentSize", "autoPingPendingCall", "autoPingPendingSent",
    "autoPingPendingSeq", "autoPingSize", "autoPingTimeout", "consumer_",
    "droppedByMe", "flashSocketPolicy", "http_headers", "http_request_data",
    "http_request_host", "http_request_params", "http_request_path",
    "http_request_uri", "http_response_data", "http_status_line", "is_closed",
    "is_open", "maxConnections", "openHandshakeTimeout", "openHandshakeTimeoutCall",
    "peer", "perMessageCompressionAccept", "receive_queue", "send_state",
    "serveFlashSocketPolicy", "tcpNoDelay", "trackTimings", "transport",
    "triggered", "trustXForwardedFor", "versions", "waiter",
    "wasCloseHandshakeTimeout", "wasNotCleanReason", "wasOpenHandshakeTimeout",
    "wasServerConnectionDropTimeout", "wasServingFlashSocketPolicyFile",
    "webStatus", "websocket_extensions", "websocket_extensions_in_use",
    "websocket_origin", "websocket_protocol_in_use", "websocket_protocols",
}  # fmt: skip

#: What is ours on purpose.
OURS = {
    "applyMask": False,
    "closeHandshakeTimeout": 0,
    "echoCloseCodeReason": True,
    "factory": websocket._Frames.factory,
    "maxMessagePayloadSize": MIB,
    "send_queue": (),
}


class AutobahnTests(unittest.TestCase):
    """These fail when Autobahn changes what :class:`_Frames` relies on."""

    def frames(self) -> Any:
        return websocket._Frames(Conversation().engine)

    def test_our_defaults_are_its_own(self) -> None:
        output = subprocess.run(
            [sys.executable, "-c", STOCK], capture_output=True, text=True, check=True
        ).stdout
        stock: dict[str, str] = json.loads(output)
        self.assertEqual(stock.keys() & UNUSED, UNUSED & stock.keys())
        frames = self.frames()
        for name, expected in stock.items():
            if name in UNUSED:
                continue
            with self.subTest(name):
                self.assertTrue(hasattr(frames, name), f"Autobahn has {name} now")
                value = getattr(frames, name)
                if name in OURS:
                    self.assertEqual(value, OURS[name])
                elif name not in ("trafficStats", "utf8validator"):
                    self.assertEqual(repr(value), expected)

    #: Everything that runs between ``take`` and our own methods.
    ENGINE = (
        "_dataReceived", "consumeData", "processData", "onFrameBegin", "onFrameData",
        "onFrameEnd", "processControlFrame", "onCloseFrame", "onMessageFrameBegin",
        "_protocol_violation", "_invalid_payload", "_max_message_size_exceeded",
        "sendCloseFrame", "sendFrame",
    )  # fmt: skip

    #: Ways of a client, of compression's text messages in the log, of the time before
    #: the connection is open: named in :data:`ENGINE` and never reached.
    UNREACHED = {
        "_cancelAutoPingTimeoutCall", "_onPong", "processHandshake",
        "processProxyConnect", "onServerConnectionDropTimeout", "sendData",
        "serverConnectionDropTimeout", "serverConnectionDropTimeoutCall",
        "maskClientFrames", "acceptMaskedServerFrames", "autoPingPendingCall",
        "autoPingPendingSent", "onAutoPong", "_sendAutoPing", "frame_data",
        "onCloseHandshakeTimeout", "peer",
    }  # fmt: skip

    def test_it_calls_nothing_that_we_do_not_have(self) -> None:
        loaded: set[str] = set()
        stored: set[str] = set()
        for name in self.ENGINE:
            method = getattr(websocket._Frames, name)
            tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
            for node in self.attributes_of_self(tree):
                (stored if isinstance(node.ctx, ast.Store) else loaded).add(node.attr)
        frames = self.frames()
        frames._onMessageBegin(True)
        missing = {
            name
            for name in loaded - stored - self.UNREACHED
            if not hasattr(frames, name)
        }
        self.assertEqual(missing, set())
        hooks = {name for name in loaded if name.startswith("_on")}
        self.assertEqual(
            {name for name in hooks if name not in vars(websocket._Frames)}, set()
        )

    def attributes_of_self(self, tree: ast.AST) -> Iterator[ast.Attribute]:
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
            ):
                yield node

    def run_python(self, code: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    def test_no_framework_is_chosen(self) -> None:
        for framework in ("asyncio", "twisted"):
            with self.subTest(framework):
                self.assertEqual(
                    self.run_python(
                        f"""
                        import sys
                        import django_daphne.protocol.websocket
                        loaded = [name for name in ("twisted.internet.reactor",
                            "autobahn.asyncio", "autobahn.twisted")
                            if name in sys.modules]
                        import autobahn.{framework}.websocket
                        import txaio
                        print(loaded, txaio.using_asyncio, txaio.using_twisted)
                        """
                    ),
                    f"[] {framework == 'asyncio'} {framework == 'twisted'}",
                )


class MemoryTests(unittest.TestCase):
    def test_an_idle_connection(self) -> None:
        engines = []
        wire, receiver = FakeWire(), Recorder()
        options = WebSocketSettings()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(1000):
                engine = WebSocketEngine(wire, receiver, options)
                engine.start()
                engine.receive_data(frame(PONG))
                engines.append(engine)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess((after - before) / len(engines), 500)
