"""A judge of HTTP/2: every demand that its RFCs make of a server, clause by clause.

Each case sends what it sends on a connection of its own, over a socket, and says what
the clause allows to follow. Where it leaves a choice, each choice is allowed; what is
demanded is always seen to its end:

- a *connection error* is a GOAWAY with the code, and then the end of the connection;
- a *stream error* is a RST_STREAM with the code, and then another request is served;
- what is *taken* is followed by an answered PING and another request that is served.

Sections are those of RFC 9113 where nothing else is said. The engine's own tests know
how it works; these know nothing of it.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import unittest
from collections.abc import Callable, Iterator
from typing import Any

from django.test import tag
from hpack.hpack import encode_integer

from django_daphne.protocol.http2 import STREAM_WINDOW

from . import http2_peer as h2
from .asgi_apps import Receive, Scope, Send, read_body, respond, until_disconnect
from .http2_client import HTTP2Client, WebSocketOverHTTP2
from .http2_peer import (
    ACK,
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
    frame,
    request,
    settings,
)
from .serving import PATIENCE, Process, Serving, serving
from .test_asgi import Happening
from .websocket_frames import BINARY
from .websocket_frames import frame as websocket_frame

MIB = 1024 * 1024
LARGEST_WINDOW = 2**31 - 1
FRAME = 16384

#: The limits that the server under judgement is given.
STREAMS = 20
HEADER_BYTES = 8192


class Application:
    """Does what the path says, and counts."""

    def __init__(self) -> None:
        self.begun = 0
        self.released = Happening()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        if scope["type"] == "websocket":
            await self.echo(receive, send)
            return
        path = scope["path"]
        if path == "/hold":
            await until_disconnect(receive)
        elif path == "/deaf":
            await self.released.reached()
        elif path == "/early":
            await respond(send, b"early")
        elif path.startswith("/bytes/"):
            await respond(send, bytes(int(path.removeprefix("/bytes/"))))
        else:
            try:
                data = await read_body(receive)
            except EOFError:
                return
            seen = {
                "method": scope["method"],
                "path": path,
                "headers": [
                    [n.decode(), v.decode("latin-1")] for n, v in scope["headers"]
                ],
                "size": len(data),
            }
            await respond(send, json.dumps(seen).encode())

    async def echo(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            await send({**message, "type": "websocket.send"})


# -- Verdicts --------------------------------------------------------------------------

Verdict = tuple[str, int | None]
TAKEN: list[Verdict] = [("taken", None)]


def dies(*codes: int) -> list[Verdict]:
    """A connection error (section 5.4.1)."""
    return [("connection error", code) for code in codes]


def resets(*codes: int) -> list[Verdict]:
    """A stream error (section 5.4.2), of the stream that was opened last."""
    return [("stream error", code) for code in codes]


def answers(*statuses: int) -> list[Verdict]:
    """A complete response with this status, on the stream that was opened last."""
    return [("answer", status) for status in statuses]


class Judge(HTTP2Client):
    """A client that knows what it is owed."""

    _rounds = 0

    # -- What a case sends -------------------------------------------------------------

    def hold(self) -> bytes:
        """A request that is complete, and whose response does not come."""
        return self.open(request(b"GET", b"/hold"))

    def upload(self, *fields: tuple[bytes, bytes], path: bytes = b"/") -> bytes:
        """A request whose body is still to come."""
        return self.open(request(b"POST", path, *fields), 0)

    def done(self) -> bytes:
        """Send a request and wait for its whole response: its stream is closed."""
        assert self.get().status == 200
        return b""

    def after(self, *parts: bytes) -> bytes:
        """Send ``parts`` and wait until they are dealt with."""
        self.send(b"".join(parts))
        assert self.round_trip() and self.round_trip()
        return b""

    def block(self, block: bytes, flags: int = END_HEADERS | END_STREAM) -> bytes:
        """A request of a header block as it is."""
        self.last, self._next = self._next, self._next + 2
        return frame(HEADERS, flags, self.last, block)

    def raw(self, *fields: tuple[bytes, bytes]) -> bytes:
        """A block of literals that no table knows of."""
        return b"".join(b"\0" + text(name) + text(value) for name, value in fields)

    # -- What follows ------------------------------------------------------------------

    def round_trip(self) -> bool:
        """PING, and wait for its answer; False when the connection ends instead."""
        self._rounds += 1
        mark = b"mark%04d" % self._rounds
        with contextlib.suppress(OSError):
            self.send(h2.ping(mark))
        try:
            self.read_until(
                lambda: any(f.payload == mark and f.flags & ACK for f in self.of(PING))
            )
        except (EOFError, ConnectionResetError):
            return False
        return True

    def verdict(self, id: int) -> Verdict:
        """What became of the connection, or of stream ``id``."""
        # Frames of one turn may leave in any order; what a turn did is sent before
        # what the next one does.
        alive = self.round_trip() and self.round_trip()
        goaways = self.of(GOAWAY)
        if not alive:
            assert goaways, "the connection ended without GOAWAY"
            return "connection error", goaways[0].code
        assert not goaways, "GOAWAY, and the connection goes on"
        response = self.responses.get(id)
        if response is not None and response.reset is not None:
            return "stream error", response.reset
        return "taken", None

    def lives(self) -> None:
        """Another request is served, and what it asked for was understood."""
        response = self.get(b"/alive", (b"x-alive", b"yes"))
        assert response.status == 200, response
        seen = json.loads(response.body)
        assert seen["path"] == "/alive" and ["x-alive", "yes"] in seen["headers"], seen


def text(value: bytes) -> bytes:
    """A string of HPACK, not Huffman-coded."""
    return bytes(encode_integer(len(value), 7)) + value


def settings_of(*pairs: tuple[int, int]) -> bytes:
    """A SETTINGS frame whose settings may be unknown, and repeated."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HL", *pair) for pair in pairs))


Case = tuple[str, Callable[[Judge], bytes], list[Verdict]]

GOOD = request()


def without(name: bytes) -> Fields:
    return [field for field in GOOD if field[0] != name]


def asking(*fields: tuple[bytes, bytes]) -> Callable[[Judge], bytes]:
    """A request with these fields, as a case."""
    return lambda c: c.open(list(fields))


class StrictTestCase(unittest.TestCase):
    """One server, and a connection for each case."""

    settings: dict[str, Any] = {
        "LIMITS": {"STREAMS": STREAMS, "HEADER_BYTES": HEADER_BYTES}
    }
    application: Application
    server: Serving

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.application = Application()
        cls.server = cls.enterClassContext(
            serving(cls.application, {"LIFESPAN": "off", **cls.settings})
        )

    def connect(self, **options: Any) -> Judge:
        judge = Judge(self.server.port, **options)
        self.addCleanup(judge.close)
        return judge

    def judge(self, *cases: Case) -> None:
        for what, make, expected in cases:
            with self.subTest(what), Judge(self.server.port) as client:
                client.last = 0
                client.send(make(client))
                self.check(client, expected)

    def check(self, client: Judge, expected: list[Verdict]) -> None:
        id = client.last
        if any(kind == "answer" for kind, _ in expected):
            response = client.answer(id)
            verdict: Verdict = "stream error", response.reset
            if response.complete:
                verdict = "answer", response.status
            self.assertEqual(client.verdict(0), TAKEN[0])
        else:
            verdict = client.verdict(id)
        self.assertIn(verdict, expected)
        if verdict[0] != "connection error":
            client.lives()


# -- RFC 9113 --------------------------------------------------------------------------


class Section3(StrictTestCase):
    """Starting HTTP/2."""

    def test_the_servers_preface_is_settings(self) -> None:
        client = self.connect()
        client.done()
        first = client.frames[0]
        self.assertEqual((first.kind, first.flags, first.id), (SETTINGS, 0, 0))
        self.assertEqual(len(first.payload) % 6, 0)
        pairs = dict(struct.iter_unpack(">HL", first.payload))
        # Section 6.5.2: a server says 0 here or nothing.
        self.assertEqual(pairs.get(h2.ENABLE_PUSH, 0), 0)
        self.assertLessEqual(pairs.get(h2.INITIAL_WINDOW_SIZE, 0), LARGEST_WINDOW)
        self.assertEqual(pairs[h2.MAX_CONCURRENT_STREAMS], STREAMS)

    def test_settings_come_first(self) -> None:
        for what, first in {
            "PING": h2.ping(),
            "HEADERS": frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x82"),
            "WINDOW_UPDATE": h2.window_update(0, 1),
            "an unknown frame": frame(0x42, 0, 0, b"x"),
            "an acknowledgement": frame(SETTINGS, ACK),
            "GOAWAY": h2.goaway(),
        }.items():
            with self.subTest(what):
                client = self.connect(greeting=PREFACE + first)
                self.check_dead(client, PROTOCOL_ERROR)

    def check_dead(self, client: Judge, code: int) -> None:
        client.last = 0
        self.assertEqual(client.verdict(0), ("connection error", code))

    def test_another_preface(self) -> None:
        for greeting in (
            b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n" + settings(),
            b"PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings(),
            b"INVALID CONNECTION PREFACE\r\n\r\n",
        ):
            with self.subTest(greeting):
                client = self.connect(greeting=greeting)
                # HTTP/1.1 is spoken here, too, and answers for what is not HTTP/2.
                answer = b""
                with contextlib.suppress(ConnectionResetError):
                    while data := client.socket.recv(65536):
                        answer += data
                self.assertIn(b"HTTP/1.1 ", answer)

    def test_a_client_need_not_wait(self) -> None:
        client = self.connect(greeting=b"")
        client.send(PREFACE + settings() + client.open())
        self.assertEqual(client.answer(client.last).status, 200)


class Section4(StrictTestCase):
    """Frames."""

    def test_frame_format(self) -> None:
        """Section 4.1."""
        self.judge(
            ("an unknown type", lambda c: frame(0x16, 0, 0, bytes(8)), TAKEN),
            ("on a stream", lambda c: c.hold() + frame(0xFE, 0xFF, 1, b"x"), TAKEN),
            ("on an idle stream", lambda c: frame(0x16, 0, 99, b"x"), TAKEN),
            ("an empty one", lambda c: frame(0x16), TAKEN),
            (
                "undefined flags of PING",
                lambda c: frame(PING, 0xFE, 0, bytes(8)),
                TAKEN,
            ),
            (
                "undefined flags of DATA",
                lambda c: c.upload() + frame(DATA, 0xF7, 1, b"x"),
                answers(200),
            ),
            (
                "undefined flags of HEADERS",
                lambda c: c.block(c.encode(GOOD), 0xFF & ~PADDED & ~WITH_PRIORITY),
                answers(200),
            ),
            (
                "undefined flags of RST_STREAM",
                lambda c: c.hold() + frame(RST_STREAM, 0xFF, 1, bytes(4)),
                TAKEN,
            ),
            ("undefined flags of SETTINGS", lambda c: frame(SETTINGS, 0xFE), TAKEN),
            (
                "undefined flags of WINDOW_UPDATE",
                lambda c: frame(WINDOW_UPDATE, 0xFF, 0, b"\0\0\0\1"),
                TAKEN,
            ),
            (
                "undefined flags of PRIORITY",
                lambda c: frame(PRIORITY, 0xFF, 1, bytes(5)),
                TAKEN,
            ),
            (
                "undefined flags of CONTINUATION",
                lambda c: (
                    c.block(b"", END_STREAM)
                    + frame(CONTINUATION, 0xFF, 1, c.encode(GOOD))
                ),
                answers(200),
            ),
            (
                "the reserved bit on PING",
                lambda c: frame(PING, 0, 1 << 31, bytes(8)),
                TAKEN,
            ),
            (
                "the reserved bit on SETTINGS",
                lambda c: frame(SETTINGS, 0, 1 << 31),
                TAKEN,
            ),
            (
                "the reserved bit on HEADERS and DATA",
                lambda c: (
                    c.block(b"", 0)[:0]
                    + frame(HEADERS, END_HEADERS, 1 | 1 << 31, c.encode(GOOD))
                    + frame(DATA, END_STREAM, 1 | 1 << 31, b"x")
                ),
                answers(200),
            ),
            (
                "the reserved bit on WINDOW_UPDATE",
                lambda c: c.hold() + frame(WINDOW_UPDATE, 0, 1 | 1 << 31, b"\0\0\0\1"),
                TAKEN,
            ),
            (
                "the reserved bit on RST_STREAM",
                lambda c: c.hold() + frame(RST_STREAM, 0, 1 | 1 << 31, bytes(4)),
                TAKEN,
            ),
        )

    def test_frame_size(self) -> None:
        """Section 4.2."""
        self.judge(
            (
                "DATA as large as it may be",
                lambda c: c.upload() + h2.data(1, bytes(FRAME), END_STREAM),
                answers(200),
            ),
            (
                "DATA larger than that",
                lambda c: c.upload() + h2.data(1, bytes(FRAME + 1), END_STREAM),
                dies(FRAME_SIZE_ERROR) + resets(FRAME_SIZE_ERROR),
            ),
            (
                "HEADERS too large",
                lambda c: c.block(c.encode(GOOD) + bytes(FRAME + 1)),
                dies(FRAME_SIZE_ERROR),
            ),
            (
                "CONTINUATION too large",
                lambda c: (
                    c.block(c.encode(GOOD), END_STREAM)
                    + frame(CONTINUATION, END_HEADERS, 1, bytes(FRAME + 1))
                ),
                dies(FRAME_SIZE_ERROR),
            ),
            (
                "SETTINGS too large",
                lambda c: frame(SETTINGS, 0, 0, bytes(6 * 2731)),
                dies(FRAME_SIZE_ERROR),
            ),
            (
                "PING too large",
                lambda c: frame(PING, 0, 0, bytes(FRAME + 1)),
                dies(FRAME_SIZE_ERROR),
            ),
            (
                "GOAWAY too large",
                lambda c: frame(GOAWAY, 0, 0, bytes(FRAME + 1)),
                dies(FRAME_SIZE_ERROR),
            ),
            (
                "GOAWAY too small",
                lambda c: frame(GOAWAY, 0, 0, bytes(7)),
                dies(FRAME_SIZE_ERROR),
            ),
            (
                "padded DATA without a length of the padding",
                lambda c: c.upload() + frame(DATA, PADDED, 1),
                dies(FRAME_SIZE_ERROR) + resets(FRAME_SIZE_ERROR),
            ),
            (
                "padded HEADERS without a length of the padding",
                lambda c: frame(HEADERS, END_HEADERS | PADDED, 1),
                dies(FRAME_SIZE_ERROR),
            ),
            (
                "HEADERS without the whole of their priority",
                lambda c: frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, bytes(4)),
                dies(FRAME_SIZE_ERROR),
            ),
            (
                "padded HEADERS without the whole of their priority",
                lambda c: frame(
                    HEADERS, END_HEADERS | WITH_PRIORITY | PADDED, 1, bytes(5)
                ),
                dies(FRAME_SIZE_ERROR),
            ),
        )

    def test_field_blocks(self) -> None:
        """Section 4.3, and section 6.10."""
        begun: Callable[[Judge], bytes] = lambda c: c.block(  # noqa: E731
            c.encode(GOOD), END_STREAM
        )
        self.judge(
            ("a bad block", lambda c: c.block(b"\xff" * 5), dies(COMPRESSION_ERROR)),
            (
                "PRIORITY inside a block",
                lambda c: begun(c) + frame(PRIORITY, 0, 1, bytes(5)),
                dies(PROTOCOL_ERROR),
            ),
            (
                "HEADERS of another stream inside a block",
                lambda c: begun(c) + c.open(),
                dies(PROTOCOL_ERROR),
            ),
            (
                "HEADERS of the same stream inside a block",
                lambda c: begun(c) + frame(HEADERS, END_HEADERS, 1),
                dies(PROTOCOL_ERROR),
            ),
            (
                "DATA inside a block",
                lambda c: begun(c) + h2.data(1, b"x"),
                dies(PROTOCOL_ERROR),
            ),
            (
                "PING inside a block",
                lambda c: begun(c) + h2.ping(),
                dies(PROTOCOL_ERROR),
            ),
            (
                "SETTINGS inside a block",
                lambda c: begun(c) + settings(),
                dies(PROTOCOL_ERROR),
            ),
            (
                "WINDOW_UPDATE inside a block",
                lambda c: begun(c) + h2.window_update(0, 1),
                dies(PROTOCOL_ERROR),
            ),
            (
                "an unknown frame inside a block (section 5.5)",
                lambda c: begun(c) + frame(0x16, 0, 0, b"x"),
                dies(PROTOCOL_ERROR),
            ),
            (
                "CONTINUATION of another stream",
                lambda c: begun(c) + frame(CONTINUATION, END_HEADERS, 3),
                dies(PROTOCOL_ERROR),
            ),
            (
                "CONTINUATION on stream 0",
                lambda c: begun(c) + frame(CONTINUATION, END_HEADERS, 0),
                dies(PROTOCOL_ERROR),
            ),
            (
                "CONTINUATION of a block that has ended",
                lambda c: c.hold() + frame(CONTINUATION, END_HEADERS, 1),
                dies(PROTOCOL_ERROR, STREAM_CLOSED) + resets(STREAM_CLOSED),
            ),
            (
                "CONTINUATION twice, the block over",
                lambda c: begun(c) + frame(CONTINUATION, END_HEADERS, 1) * 2,
                dies(PROTOCOL_ERROR, STREAM_CLOSED) + resets(STREAM_CLOSED),
            ),
            (
                "CONTINUATION behind DATA",
                lambda c: (
                    c.upload()
                    + h2.data(1, b"x")
                    + frame(CONTINUATION, END_HEADERS, 1, b"\x82")
                ),
                dies(PROTOCOL_ERROR),
            ),
            (
                "CONTINUATION on an idle stream",
                lambda c: frame(CONTINUATION, END_HEADERS, 1, b"\x82"),
                dies(PROTOCOL_ERROR),
            ),
            (
                "a block in many pieces",
                lambda c: (
                    c.block(b"", END_STREAM)
                    + b"".join(
                        frame(CONTINUATION, 0, 1, bytes((byte,)))
                        for byte in c.encode(GOOD)
                    )
                    + frame(CONTINUATION, END_HEADERS, 1)
                ),
                answers(200),
            ),
        )


class Section5(StrictTestCase):
    """Streams."""

    def test_idle(self) -> None:
        """Section 5.1."""
        self.judge(
            ("DATA", lambda c: h2.data(1, b"x"), dies(PROTOCOL_ERROR)),
            ("RST_STREAM", lambda c: h2.reset(1), dies(PROTOCOL_ERROR)),
            ("WINDOW_UPDATE", lambda c: h2.window_update(1, 9), dies(PROTOCOL_ERROR)),
            ("of nothing", lambda c: h2.window_update(1, 0), dies(PROTOCOL_ERROR)),
            ("PRIORITY", lambda c: frame(PRIORITY, 0, 1, bytes(5)), TAKEN),
            (
                "DATA above what is open",
                lambda c: c.hold() + h2.data(3, b"x"),
                dies(PROTOCOL_ERROR),
            ),
            (
                "DATA on a stream of the server's",
                lambda c: c.hold() + h2.data(2, b"x"),
                dies(PROTOCOL_ERROR),
            ),
            (
                "RST_STREAM on a stream of the server's",
                lambda c: c.hold() + h2.reset(2),
                dies(PROTOCOL_ERROR),
            ),
            (
                "WINDOW_UPDATE on a stream of the server's",
                lambda c: c.hold() + h2.window_update(2, 1),
                dies(PROTOCOL_ERROR),
            ),
        )

    def test_half_closed_remote(self) -> None:
        self.judge(
            ("DATA", lambda c: c.hold() + h2.data(1, b"x"), resets(STREAM_CLOSED)),
            ("empty DATA", lambda c: c.hold() + h2.data(1), resets(STREAM_CLOSED)),
            (
                "DATA that ends once more",
                lambda c: c.hold() + h2.data(1, b"", END_STREAM),
                resets(STREAM_CLOSED),
            ),
            (
                "HEADERS",
                lambda c: c.hold() + c.headers(1, request(), END_STREAM),
                resets(STREAM_CLOSED),
            ),
            (
                "trailers after a body that has ended",
                lambda c: (
                    c.upload(path=b"/hold")
                    + h2.data(1, b"x", END_STREAM)
                    + c.headers(1, [(b"a", b"b")], END_STREAM)
                ),
                resets(STREAM_CLOSED),
            ),
            ("WINDOW_UPDATE", lambda c: c.hold() + h2.window_update(1, 1), TAKEN),
            ("PRIORITY", lambda c: c.hold() + frame(PRIORITY, 0, 1, bytes(5)), TAKEN),
            ("RST_STREAM", lambda c: c.hold() + h2.reset(1), TAKEN),
        )

    def test_half_closed_local(self) -> None:
        """The response is complete; the request goes on, and is not in anyone's way."""

        def early(c: Judge) -> bytes:
            c.send(c.upload(path=b"/early"))
            assert c.answer(1).status == 200
            return b""

        self.judge(
            ("DATA", lambda c: early(c) + h2.data(1, b"x"), TAKEN + resets(NO_ERROR)),
            (
                "its end",
                lambda c: early(c) + h2.data(1, b"x", END_STREAM),
                TAKEN + resets(NO_ERROR),
            ),
            (
                "trailers",
                lambda c: early(c) + c.headers(1, [(b"a", b"b")], END_STREAM),
                TAKEN + resets(NO_ERROR),
            ),
            ("WINDOW_UPDATE", lambda c: early(c) + h2.window_update(1, 1), TAKEN),
            ("RST_STREAM", lambda c: early(c) + h2.reset(1, NO_ERROR), TAKEN),
        )

    def test_closed_by_its_ends(self) -> None:
        self.judge(
            ("DATA", lambda c: c.done() + h2.data(1, b"x"), dies(STREAM_CLOSED)),
            (
                "HEADERS",
                lambda c: c.done() + c.headers(1, GOOD, END_STREAM),
                dies(STREAM_CLOSED),
            ),
            (
                "CONTINUATION",
                lambda c: c.done() + frame(CONTINUATION, END_HEADERS, 1),
                dies(STREAM_CLOSED, PROTOCOL_ERROR),
            ),
            # These may have been under way.
            ("WINDOW_UPDATE", lambda c: c.done() + h2.window_update(1, 1), TAKEN),
            ("RST_STREAM", lambda c: c.done() + h2.reset(1), TAKEN),
            ("PRIORITY", lambda c: c.done() + frame(PRIORITY, 0, 1, bytes(5)), TAKEN),
        )

    def test_closed_by_the_clients_reset(self) -> None:
        closed = dies(STREAM_CLOSED) + resets(STREAM_CLOSED)

        def reset(c: Judge) -> bytes:
            return c.after(c.upload(path=b"/hold"), h2.reset(1))

        self.judge(
            ("DATA", lambda c: reset(c) + h2.data(1, b"x"), closed),
            ("HEADERS", lambda c: reset(c) + c.headers(1, GOOD, END_STREAM), closed),
            (
                "CONTINUATION",
                lambda c: reset(c) + frame(CONTINUATION, END_HEADERS, 1),
                closed + dies(PROTOCOL_ERROR),
            ),
            ("WINDOW_UPDATE", lambda c: reset(c) + h2.window_update(1, 1), TAKEN),
            ("RST_STREAM", lambda c: reset(c) + h2.reset(1), TAKEN),
            ("PRIORITY", lambda c: reset(c) + frame(PRIORITY, 0, 1, bytes(5)), TAKEN),
        )

    def test_closed_by_our_reset(self) -> None:
        """Whatever was under way is to be ignored."""

        def reset(c: Judge) -> bytes:
            c.after(c.upload((b"content-length", b"1")) + h2.data(1, b"too much"))
            assert c.responses[1].reset == PROTOCOL_ERROR
            return b""

        ignored = resets(PROTOCOL_ERROR)
        self.judge(
            ("DATA", lambda c: reset(c) + h2.data(1, b"x"), ignored),
            ("its end", lambda c: reset(c) + h2.data(1, b"", END_STREAM), ignored),
            (
                "trailers",
                lambda c: reset(c) + c.headers(1, [(b"x-new", b"y")], END_STREAM),
                ignored,
            ),
            ("WINDOW_UPDATE", lambda c: reset(c) + h2.window_update(1, 1), ignored),
            ("RST_STREAM", lambda c: reset(c) + h2.reset(1), ignored),
            ("PRIORITY", lambda c: reset(c) + frame(PRIORITY, 0, 1, bytes(5)), ignored),
        )

    def test_closed_by_our_reset_takes_no_window(self) -> None:
        """Section 6.9: ignored DATA counts, and is given back."""
        client = self.connect()
        client.after(client.upload((b"content-length", b"1")) + h2.data(1, b"too much"))
        for _ in range(3 * MIB // FRAME):
            client.send(h2.data(1, bytes(FRAME)))
        client.send(client.upload() + h2.data(client.last, bytes(FRAME), END_STREAM))
        self.assertEqual(json.loads(client.answer(client.last).body)["size"], FRAME)
        given = sum(f.number for f in client.of(WINDOW_UPDATE) if not f.id)
        self.assertGreaterEqual(given, 2 * MIB)

    def test_identifiers(self) -> None:
        """Section 5.1.1."""
        self.judge(
            ("even", lambda c: c.open(id=2), dies(PROTOCOL_ERROR)),
            ("0", lambda c: c.headers(0, GOOD, END_STREAM), dies(PROTOCOL_ERROR)),
            (
                "smaller than another that is open",
                lambda c: c.open(request(b"GET", b"/hold"), id=5) + c.open(id=3),
                dies(PROTOCOL_ERROR),
            ),
            (
                "smaller than another that is closed",
                lambda c: c.done() + c.after(c.open(id=7)) + c.open(id=5),
                dies(PROTOCOL_ERROR),
            ),
            (
                "with a gap",
                lambda c: c.open(id=1001),
                answers(200),
            ),
            (
                "nearly the last",
                lambda c: c.open(id=2**31 - 3),
                answers(200),
            ),
        )
        with Judge(self.server.port) as client:
            # The last there is: nothing can follow it.
            client.send(client.open(id=2**31 - 1))
            self.assertEqual(client.answer(client.last).status, 200)
            self.assertEqual(client.verdict(0), TAKEN[0])

    def test_concurrency(self) -> None:
        """Section 5.1.2."""
        with Judge(self.server.port) as client:
            for _ in range(STREAMS):
                client.send(client.upload())
            held = range(1, 2 * STREAMS, 2)
            client.send(client.open())
            refused = client.last
            self.assertEqual(client.answer(refused).reset, REFUSED_STREAM)
            # Those that were in time are not concerned, and a reset makes room.
            client.send(h2.reset(held[0]))
            client.lives()
            for id in held[1:]:
                client.send(h2.data(id, b"x", END_STREAM))
                self.assertEqual(client.answer(id).status, 200)

    def test_half_closed_streams_count(self) -> None:
        with Judge(self.server.port) as client:
            for _ in range(STREAMS):
                client.send(client.hold())
            client.send(client.open())
            self.assertEqual(client.answer(client.last).reset, REFUSED_STREAM)

    def test_a_refused_streams_fields_are_decoded(self) -> None:
        with Judge(self.server.port) as client:
            for _ in range(STREAMS):
                client.send(client.upload())
            client.send(client.open(request(b"GET", b"/", (b"x-new", b"1"))))
            self.assertEqual(client.answer(client.last).reset, REFUSED_STREAM)
            client.send(h2.reset(1))
            response = client.get(b"/", (b"x-new", b"1"))
            self.assertIn(["x-new", "1"], json.loads(response.body)["headers"])

    def test_errors(self) -> None:
        """Section 5.4."""
        client = self.connect()
        client.send(client.hold() + h2.ping(b"short"))
        self.assertEqual(client.verdict(1), ("connection error", FRAME_SIZE_ERROR))
        (goaway,) = client.of(GOAWAY)
        self.assertEqual((goaway.id, goaway.number), (0, 1))

    def test_a_reset_is_not_answered_with_one(self) -> None:
        client = self.connect()
        client.after(client.hold(), h2.reset(1), h2.reset(1))
        self.assertEqual(client.of(RST_STREAM), [])


class Section6(StrictTestCase):
    """Frame definitions."""

    def test_data(self) -> None:
        """Section 6.1."""
        self.judge(
            ("on stream 0", lambda c: h2.data(0, b"x"), dies(PROTOCOL_ERROR)),
            (
                "padded",
                lambda c: (
                    c.upload() + frame(DATA, PADDED | END_STREAM, 1, b"\x03abc\0\0\0")
                ),
                answers(200),
            ),
            (
                "padded by nothing",
                lambda c: c.upload() + frame(DATA, PADDED | END_STREAM, 1, b"\0abc"),
                answers(200),
            ),
            (
                "nothing but padding",
                lambda c: c.upload() + frame(DATA, PADDED | END_STREAM, 1, b"\2\0\0"),
                answers(200),
            ),
            (
                "padding as long as the payload",
                lambda c: c.upload() + frame(DATA, PADDED, 1, b"\3abc"[:3]),
                dies(PROTOCOL_ERROR),
            ),
            (
                "padding longer than the payload",
                lambda c: c.upload() + frame(DATA, PADDED, 1, b"\xffabc"),
                dies(PROTOCOL_ERROR),
            ),
            (
                "empty",
                lambda c: c.upload() + h2.data(1) * 3 + h2.data(1, b"", END_STREAM),
                answers(200),
            ),
        )

    def test_padding_is_no_content(self) -> None:
        client = self.connect()
        client.send(
            client.upload((b"content-length", b"5"))
            + frame(DATA, PADDED, 1, b"\x09abc" + bytes(9))
            + frame(DATA, PADDED | END_STREAM, 1, b"\x01de\0")
        )
        self.assertEqual(json.loads(client.answer(1).body)["size"], 5)

    def test_headers(self) -> None:
        """Section 6.2."""
        self.judge(
            (
                "on stream 0",
                lambda c: frame(HEADERS, END_HEADERS, 0, b"\x82"),
                dies(PROTOCOL_ERROR),
            ),
            (
                "padded",
                lambda c: c.block(
                    b"\x04" + c.encode(GOOD) + bytes(4),
                    END_HEADERS | END_STREAM | PADDED,
                ),
                answers(200),
            ),
            (
                "padded, with a priority",
                lambda c: c.block(
                    b"\x04" + b"\x80\0\0\x07\xff" + c.encode(GOOD) + bytes(4),
                    END_HEADERS | END_STREAM | PADDED | WITH_PRIORITY,
                ),
                answers(200),
            ),
            (
                "padded, and continued",
                lambda c: (
                    c.block(b"\x04" + b"\x82" + bytes(4), END_STREAM | PADDED)
                    + frame(CONTINUATION, END_HEADERS, 1, c.encode(GOOD[1:]))
                ),
                answers(200),
            ),
            (
                "padding as long as the payload",
                lambda c: c.block(b"\x04\x82\x84\x86", END_HEADERS | PADDED),
                dies(PROTOCOL_ERROR),
            ),
            (
                "padding that reaches into the priority",
                lambda c: c.block(
                    b"\x02" + bytes(5) + b"\0", END_HEADERS | PADDED | WITH_PRIORITY
                ),
                dies(PROTOCOL_ERROR),
            ),
        )

    def test_priority(self) -> None:
        """Section 6.3; RFC 7540 section 5.3.1 for what depends on itself."""
        self.judge(
            (
                "on stream 0",
                lambda c: frame(PRIORITY, 0, 0, bytes(5)),
                dies(PROTOCOL_ERROR),
            ),
            (
                "too short",
                lambda c: c.hold() + frame(PRIORITY, 0, 1, bytes(4)),
                resets(FRAME_SIZE_ERROR),
            ),
            (
                "too long",
                lambda c: c.hold() + frame(PRIORITY, 0, 1, bytes(6)),
                resets(FRAME_SIZE_ERROR),
            ),
            (
                "too short, on an idle stream",
                lambda c: frame(PRIORITY, 0, 1, bytes(4)),
                dies(FRAME_SIZE_ERROR) + resets(FRAME_SIZE_ERROR),
            ),
            (
                "on itself",
                lambda c: c.hold() + frame(PRIORITY, 0, 1, b"\0\0\0\1\0"),
                resets(PROTOCOL_ERROR),
            ),
            (
                "HEADERS on themselves",
                lambda c: c.block(
                    b"\0\0\0\1\0" + c.encode(GOOD),
                    END_HEADERS | END_STREAM | WITH_PRIORITY,
                ),
                resets(PROTOCOL_ERROR),
            ),
            ("of an even stream", lambda c: frame(PRIORITY, 0, 2, bytes(5)), TAKEN),
            (
                "of a stream that is skipped",
                lambda c: c.open(id=5) + frame(PRIORITY, 0, 3, bytes(5)),
                TAKEN,
            ),
        )

    def test_rst_stream(self) -> None:
        """Section 6.4, and section 7 for codes that nobody knows."""
        self.judge(
            ("on stream 0", lambda c: h2.reset(0), dies(PROTOCOL_ERROR)),
            ("on an idle stream", lambda c: h2.reset(1), dies(PROTOCOL_ERROR)),
            (
                "too short",
                lambda c: c.hold() + frame(RST_STREAM, 0, 1, bytes(3)),
                dies(FRAME_SIZE_ERROR),
            ),
            (
                "too long",
                lambda c: c.hold() + frame(RST_STREAM, 0, 1, bytes(5)),
                dies(FRAME_SIZE_ERROR),
            ),
            ("an unknown code", lambda c: c.hold() + h2.reset(1, 0xFFFFFF), TAKEN),
        )

    def test_settings(self) -> None:
        """Section 6.5."""
        self.judge(
            ("nothing", lambda c: settings(), TAKEN),
            ("on a stream", lambda c: frame(SETTINGS, 0, 1), dies(PROTOCOL_ERROR)),
            (
                "an acknowledgement on a stream",
                lambda c: frame(SETTINGS, ACK, 1),
                dies(PROTOCOL_ERROR),
            ),
            (
                "an acknowledgement that says something",
                lambda c: frame(SETTINGS, ACK, 0, bytes(6)),
                dies(FRAME_SIZE_ERROR),
            ),
            (
                "an acknowledgement with a byte",
                lambda c: frame(SETTINGS, ACK, 0, b"\0"),
                dies(FRAME_SIZE_ERROR),
            ),
            (
                "not a multiple of 6",
                lambda c: frame(SETTINGS, 0, 0, bytes(7)),
                dies(FRAME_SIZE_ERROR),
            ),
            ("one acknowledgement more", lambda c: frame(SETTINGS, ACK), TAKEN),
            ("unknown", lambda c: settings_of((0x4242, 1), (0, 2**32 - 1)), TAKEN),
            ("ENABLE_PUSH 0", lambda c: settings(ENABLE_PUSH=0), TAKEN),
            ("ENABLE_PUSH 1", lambda c: settings(ENABLE_PUSH=1), TAKEN),
            ("ENABLE_PUSH 2", lambda c: settings(ENABLE_PUSH=2), dies(PROTOCOL_ERROR)),
            (
                "INITIAL_WINDOW_SIZE at its limit",
                lambda c: settings(INITIAL_WINDOW_SIZE=LARGEST_WINDOW),
                TAKEN,
            ),
            (
                "INITIAL_WINDOW_SIZE beyond it",
                lambda c: settings(INITIAL_WINDOW_SIZE=LARGEST_WINDOW + 1),
                dies(FLOW_CONTROL_ERROR),
            ),
            (
                "INITIAL_WINDOW_SIZE of all bits",
                lambda c: settings(INITIAL_WINDOW_SIZE=2**32 - 1),
                dies(FLOW_CONTROL_ERROR),
            ),
            (
                "MAX_FRAME_SIZE below",
                lambda c: settings(MAX_FRAME_SIZE=FRAME - 1),
                dies(PROTOCOL_ERROR),
            ),
            (
                "MAX_FRAME_SIZE at its least",
                lambda c: settings(MAX_FRAME_SIZE=FRAME),
                TAKEN,
            ),
            (
                "MAX_FRAME_SIZE at its most",
                lambda c: settings(MAX_FRAME_SIZE=2**24 - 1),
                TAKEN,
            ),
            (
                "MAX_FRAME_SIZE above",
                lambda c: settings(MAX_FRAME_SIZE=2**24),
                dies(PROTOCOL_ERROR),
            ),
            ("no streams", lambda c: settings(MAX_CONCURRENT_STREAMS=0), TAKEN),
            ("small lists", lambda c: settings(MAX_HEADER_LIST_SIZE=0), TAKEN),
            # Settings are taken in the order in which they come.
            (
                "a bad value, then a good one",
                lambda c: settings_of((h2.ENABLE_PUSH, 2), (h2.ENABLE_PUSH, 0)),
                dies(PROTOCOL_ERROR),
            ),
            (
                "a bad window, then a good one",
                lambda c: settings_of(
                    (h2.INITIAL_WINDOW_SIZE, 2**31), (h2.INITIAL_WINDOW_SIZE, 65535)
                ),
                dies(FLOW_CONTROL_ERROR),
            ),
            (
                "a bad frame size, then a good one",
                lambda c: settings_of(
                    (h2.MAX_FRAME_SIZE, 1), (h2.MAX_FRAME_SIZE, FRAME)
                ),
                dies(PROTOCOL_ERROR),
            ),
        )

    def test_each_settings_frame_is_acknowledged(self) -> None:
        """Section 6.5.3."""
        client = self.connect()
        client.after(settings(), settings_of((0x99, 1)), settings(ENABLE_PUSH=0))
        acks = [f for f in client.of(SETTINGS) if f.flags & ACK]
        self.assertEqual(len(acks), 4)
        self.assertEqual({f.payload for f in acks}, {b""})

    def test_header_table_sizes(self) -> None:
        """Section 6.5.2; the responses are decoded with the size that was said."""
        client = self.connect()
        for size in (0, 4096, 100, 2**32 - 1, 0, 0, 65536):
            client.after(settings(HEADER_TABLE_SIZE=size))
            client.decoder.max_allowed_table_size = min(size, 65536)
            client.lives()

    def test_push_promise(self) -> None:
        """Sections 6.6 and 8.4."""
        promise = b"\0\0\0\2\x82\x84\x86"
        self.judge(
            (
                "on an open stream",
                lambda c: c.upload() + frame(PUSH_PROMISE, END_HEADERS, 1, promise),
                dies(PROTOCOL_ERROR),
            ),
            (
                "on stream 0",
                lambda c: frame(PUSH_PROMISE, END_HEADERS, 0, promise),
                dies(PROTOCOL_ERROR),
            ),
            (
                "after it was allowed",
                lambda c: (
                    settings(ENABLE_PUSH=1)
                    + c.hold()
                    + frame(PUSH_PROMISE, END_HEADERS, 1, promise)
                ),
                dies(PROTOCOL_ERROR),
            ),
        )

    def test_ping(self) -> None:
        """Section 6.7."""
        self.judge(
            (
                "on a stream",
                lambda c: frame(PING, 0, 1, bytes(8)),
                dies(PROTOCOL_ERROR),
            ),
            (
                "an answer on a stream",
                lambda c: frame(PING, ACK, 1, bytes(8)),
                dies(PROTOCOL_ERROR),
            ),
            ("too short", lambda c: h2.ping(bytes(6)), dies(FRAME_SIZE_ERROR)),
            ("too long", lambda c: h2.ping(bytes(9)), dies(FRAME_SIZE_ERROR)),
            ("empty", lambda c: h2.ping(b""), dies(FRAME_SIZE_ERROR)),
            ("an answer to nothing", lambda c: h2.ping(flags=ACK), TAKEN),
        )

    def test_pings_are_answered_and_answers_are_not(self) -> None:
        client = self.connect()
        client.after(h2.ping(b"unwanted", ACK), h2.ping(b"question"))
        payloads = [(f.payload, f.flags) for f in client.of(PING)]
        self.assertIn((b"question", ACK), payloads)
        self.assertNotIn(b"unwanted", [payload for payload, _ in payloads])

    def test_goaway(self) -> None:
        """Section 6.8."""
        self.judge(
            (
                "on a stream",
                lambda c: frame(GOAWAY, 0, 1, bytes(8)),
                dies(PROTOCOL_ERROR),
            ),
        )
        for what, parting in {
            "plain": h2.goaway(),
            "with a code nobody knows": h2.goaway(0xFFFFFFFF),
            "with a word about it": frame(GOAWAY, 0, 0, bytes(8) + b"so long"),
        }.items():
            # What was asked for is still wanted.
            with self.subTest(what), Judge(self.server.port) as client:
                client.send(client.upload() + parting)
                client.send(h2.data(1, b"x", END_STREAM))
                self.assertEqual(client.answer(1).status, 200)

    def test_window_update(self) -> None:
        """Section 6.9."""
        self.judge(
            ("of nothing", lambda c: h2.window_update(0, 0), dies(PROTOCOL_ERROR)),
            (
                "of nothing, on a stream",
                lambda c: c.hold() + h2.window_update(1, 0),
                resets(PROTOCOL_ERROR),
            ),
            (
                "of nothing but the reserved bit",
                lambda c: c.hold() + h2.window_update(1, 1 << 31),
                resets(PROTOCOL_ERROR),
            ),
            (
                "the reserved bit is ignored",
                lambda c: (
                    c.hold()
                    + h2.window_update(0, 1 | 1 << 31)
                    + h2.window_update(1, 1 | 1 << 31)
                ),
                TAKEN,
            ),
            (
                "too short",
                lambda c: frame(WINDOW_UPDATE, 0, 0, bytes(3)),
                dies(FRAME_SIZE_ERROR),
            ),
            (
                "too long, on a stream",
                lambda c: c.hold() + frame(WINDOW_UPDATE, 0, 1, bytes(5)),
                dies(FRAME_SIZE_ERROR),
            ),
            (
                "too long, on a closed stream",
                lambda c: c.done() + frame(WINDOW_UPDATE, 0, 1, bytes(5)),
                dies(FRAME_SIZE_ERROR),
            ),
            (
                "beyond the limit",
                lambda c: h2.window_update(0, LARGEST_WINDOW),
                dies(FLOW_CONTROL_ERROR),
            ),
            (
                "beyond the limit, in two steps",
                lambda c: h2.window_update(0, 2**30) + h2.window_update(0, 2**30),
                dies(FLOW_CONTROL_ERROR),
            ),
            (
                "beyond the limit, on a stream",
                lambda c: c.hold() + h2.window_update(1, LARGEST_WINDOW),
                resets(FLOW_CONTROL_ERROR),
            ),
        )

    def test_up_to_the_limit(self) -> None:
        client = self.connect(windows=False)
        rest = LARGEST_WINDOW - 65535
        client.send(
            client.hold() + h2.window_update(0, rest) + h2.window_update(1, rest)
        )
        self.assertEqual(client.verdict(1), TAKEN[0])
        client.send(h2.window_update(1, 1))
        self.assertEqual(client.verdict(1), ("stream error", FLOW_CONTROL_ERROR))
        client.send(h2.window_update(0, 1))
        self.assertEqual(client.verdict(1), ("connection error", FLOW_CONTROL_ERROR))

    def test_initial_window_size_beyond_the_limit_of_a_stream(self) -> None:
        """Section 6.9.2."""
        client = self.connect(windows=False)
        rest = LARGEST_WINDOW - 65535
        client.send(client.hold() + h2.window_update(1, rest))
        client.send(settings(INITIAL_WINDOW_SIZE=65536))
        self.assertEqual(client.verdict(1), ("connection error", FLOW_CONTROL_ERROR))


class Windows(StrictTestCase):
    """Section 6.9: what the server sends, and what it takes."""

    @classmethod
    def tearDownClass(cls) -> None:
        cls.application.released.tell()
        super().tearDownClass()

    def sent(self, client: Judge, id: int = 1) -> int:
        """What has come of a body once the server has done all that it may."""
        assert client.round_trip() and client.round_trip()
        response = client.responses.get(id)
        return len(response.body) if response else 0

    def ask(self, size: int, **values: int) -> Judge:
        client = self.connect(greeting=PREFACE + settings(**values))
        client.send(client.open(request(b"GET", b"/bytes/%d" % size)))
        client.head(1)
        return client

    def test_a_window_of_one(self) -> None:
        client = self.ask(5, INITIAL_WINDOW_SIZE=1)
        client.read_until(lambda: self.sent(client) == 1)
        for _ in range(4):
            client.send(h2.window_update(1, 1))
        response = client.answer(1)
        self.assertEqual(response.body, bytes(5))
        self.assertEqual(len(client.of(DATA)[0].payload), 1)

    def test_no_window(self) -> None:
        client = self.ask(5, INITIAL_WINDOW_SIZE=0)
        self.assertEqual(self.sent(client), 0)
        client.send(settings(INITIAL_WINDOW_SIZE=3))
        client.read_until(lambda: self.sent(client) == 3)
        client.send(h2.window_update(1, 2))
        self.assertEqual(client.answer(1).body, bytes(5))

    def test_an_empty_body_needs_none(self) -> None:
        client = self.ask(0, INITIAL_WINDOW_SIZE=0)
        self.assertTrue(client.answer(1).complete)

    def test_a_negative_window(self) -> None:
        client = self.ask(100, INITIAL_WINDOW_SIZE=30)
        client.read_until(lambda: self.sent(client) == 30)
        client.send(settings(INITIAL_WINDOW_SIZE=10))
        client.send(h2.window_update(1, 20))
        self.assertEqual(self.sent(client), 30)
        client.send(h2.window_update(1, 1))
        client.read_until(lambda: self.sent(client) == 31)
        client.send(settings(INITIAL_WINDOW_SIZE=79))
        self.assertEqual(client.answer(1).body, bytes(100))

    def test_the_last_of_several_values_counts(self) -> None:
        client = self.connect(
            greeting=PREFACE
            + settings_of((h2.INITIAL_WINDOW_SIZE, 100), (h2.INITIAL_WINDOW_SIZE, 1))
        )
        client.send(client.open(request(b"GET", b"/bytes/5")))
        client.read_until(lambda: self.sent(client) == 1)
        self.assertEqual(self.sent(client), 1)

    def test_settings_do_not_change_the_connections_window(self) -> None:
        client = self.ask(100_000, INITIAL_WINDOW_SIZE=LARGEST_WINDOW)
        client.read_until(lambda: self.sent(client) == 65535)
        self.assertEqual(self.sent(client), 65535)
        client.send(h2.window_update(0, 100_000))
        self.assertEqual(client.answer(1).body, bytes(100_000))

    def test_larger_frames_need_not_be_sent(self) -> None:
        client = self.ask(60_000, MAX_FRAME_SIZE=2**24 - 1)
        self.assertEqual(client.answer(1).body, bytes(60_000))

    def test_more_than_a_streams_window(self) -> None:
        """Section 6.9.1: an error of the stream or of the connection."""
        client = self.connect()
        client.send(client.upload(path=b"/deaf"))
        # Nothing is opened behind what nobody reads.
        for _ in range(STREAM_WINDOW // FRAME):
            client.send(h2.data(1, bytes(FRAME)))
        self.assertEqual(client.verdict(1), TAKEN[0])
        client.send(h2.data(1, bytes(1)))
        self.assertIn(
            client.verdict(1), resets(FLOW_CONTROL_ERROR) + dies(FLOW_CONTROL_ERROR)
        )

    def test_padding_counts(self) -> None:
        client = self.connect()
        client.send(client.upload(path=b"/deaf"))
        padded = frame(DATA, PADDED, 1, b"\xff" + bytes(255))
        client.send(padded * (STREAM_WINDOW // 256))
        self.assertEqual(client.verdict(1), TAKEN[0])
        # Nobody need take it, so it may be given back already.
        given = sum(f.number for f in client.of(WINDOW_UPDATE) if f.id == 1)
        client.send(padded * (given // 256))
        self.assertEqual(client.verdict(1), TAKEN[0])


class Section7(StrictTestCase):
    def test_unknown_codes(self) -> None:
        self.judge(
            ("RST_STREAM", lambda c: c.hold() + h2.reset(1, 0xABCDEF), TAKEN),
            ("GOAWAY", lambda c: c.hold() + h2.goaway(0xABCDEF), TAKEN),
        )


MALFORMED = resets(PROTOCOL_ERROR)


class Section8(StrictTestCase):
    """HTTP in HTTP/2."""

    def test_framing(self) -> None:
        """Section 8.1."""
        trailers = [(b"x-checksum", b"1")]
        self.judge(
            (
                "trailers",
                lambda c: (
                    c.upload() + h2.data(1, b"x") + c.headers(1, trailers, END_STREAM)
                ),
                answers(200),
            ),
            (
                "trailers without a body",
                lambda c: c.upload() + c.headers(1, trailers, END_STREAM),
                answers(200),
            ),
            (
                "empty trailers",
                lambda c: c.upload() + c.headers(1, [], END_STREAM),
                answers(200),
            ),
            (
                "a second HEADERS that does not end the stream",
                lambda c: c.upload() + c.headers(1, trailers),
                MALFORMED,
            ),
            (
                "trailers with a pseudo-field",
                lambda c: c.upload() + c.headers(1, [(b":method", b"GET")], END_STREAM),
                MALFORMED,
            ),
            (
                "trailers with upper case",
                lambda c: c.upload() + c.headers(1, [(b"X-A", b"b")], END_STREAM),
                MALFORMED,
            ),
            (
                "trailers of a connection",
                lambda c: (
                    c.upload()
                    + c.headers(1, [(b"transfer-encoding", b"chunked")], END_STREAM)
                ),
                MALFORMED,
            ),
            (
                "the same HEADERS again",
                lambda c: c.upload() + c.headers(1, request(b"POST"), END_STREAM),
                MALFORMED,
            ),
        )

    def test_content_length(self) -> None:
        """Section 8.1.1."""

        def post(length: bytes, *bodies: bytes) -> Callable[[Judge], bytes]:
            def make(c: Judge) -> bytes:
                out = c.open(
                    request(b"POST", b"/", (b"content-length", length)),
                    0 if bodies else END_STREAM,
                )
                for body in bodies[:-1]:
                    out += h2.data(c.last, body)
                return out + (
                    h2.data(c.last, bodies[-1], END_STREAM) if bodies else b""
                )

            return make

        self.judge(
            ("exact", post(b"4", b"test"), answers(200)),
            ("exact, in pieces", post(b"8", b"test", b"", b"test"), answers(200)),
            ("0 and no body", post(b"0"), answers(200)),
            ("0 and an empty body", post(b"0", b""), answers(200)),
            ("too little", post(b"5", b"test"), MALFORMED),
            ("too little, in pieces", post(b"9", b"test", b"test"), MALFORMED),
            ("too much", post(b"3", b"test"), MALFORMED),
            ("too much, in pieces", post(b"7", b"test", b"test"), MALFORMED),
            ("none at all", post(b"1"), MALFORMED),
            ("none but an empty frame", post(b"1", b""), MALFORMED),
            ("something for 0", post(b"0", b"x"), MALFORMED),
            ("negative", post(b"-1", b"x"), MALFORMED),
            ("signed", post(b"+1", b"x"), MALFORMED),
            ("no number", post(b"one", b"x"), MALFORMED),
            ("hexadecimal", post(b"0x1", b"x"), MALFORMED),
            ("empty", post(b"", b"x"), MALFORMED),
            ("a list", post(b"1, 1", b"x"), MALFORMED + answers(200)),
            ("endless", post(b"9" * 100, b"x"), MALFORMED),
            (
                "two that differ",
                asking(*GOOD, (b"content-length", b"0"), (b"content-length", b"1")),
                MALFORMED,
            ),
            (
                "too little before trailers",
                lambda c: (
                    c.upload((b"content-length", b"5"))
                    + h2.data(1, b"test")
                    + c.headers(1, [(b"a", b"b")], END_STREAM)
                ),
                MALFORMED,
            ),
            (
                "for a GET",
                asking(*GOOD, (b"content-length", b"0")),
                answers(200),
            ),
        )

    def test_field_names(self) -> None:
        """Section 8.2.1."""
        bad = [
            b"X-Upper",
            b"x-uppeR",
            b"",
            b"a b",
            b" a",
            b"a ",
            b"a\x01",
            b"a\x7f",
            b"a\xe9",
            b"a:b",
            b"a\n",
            b"a\r",
            b"a\0",
            b'a"',
            b"a(b",
            b"a,b",
            b"a/b",
            b"a;b",
            b"a=b",
            b"a{b",
            b"a@b",
        ]
        self.judge(
            *((repr(name), asking(*GOOD, (name, b"1")), MALFORMED) for name in bad),
            (
                "all there is",
                asking(*GOOD, (b"!#$%&'*+-.^`|~09az", b"1")),
                answers(200),
            ),
        )

    def test_field_values(self) -> None:
        bad = [
            b"a\0b",
            b"a\nb",
            b"a\rb",
            b"\n",
            b"a\r\nx: y",
            b" a",
            b"a ",
            b"\ta",
            b"a\t",
        ]
        good = [b"", b"a b", b"a\tb", b"\x80\xff", b'"', b"a, b"]
        self.judge(
            *((repr(value), asking(*GOOD, (b"x", value)), MALFORMED) for value in bad),
            *(
                (repr(value), asking(*GOOD, (b"x", value)), answers(200))
                for value in good
            ),
        )

    def test_connection_specific_fields(self) -> None:
        """Section 8.2.2."""
        bad = [
            (b"connection", b"keep-alive"),
            (b"connection", b"close"),
            (b"connection", b""),
            (b"keep-alive", b"timeout=5"),
            (b"proxy-connection", b"keep-alive"),
            (b"transfer-encoding", b"chunked"),
            (b"transfer-encoding", b"identity"),
            (b"upgrade", b"h2c"),
            (b"te", b"gzip"),
            (b"te", b"trailers, deflate"),
            (b"te", b"trailers;q=0.5"),
        ]
        self.judge(
            *((str(field), asking(*GOOD, field), MALFORMED) for field in bad),
            ("te: trailers", asking(*GOOD, (b"te", b"trailers")), answers(200)),
            ("te: Trailers", asking(*GOOD, (b"te", b"Trailers")), answers(200)),
        )

    def test_cookies(self) -> None:
        """Section 8.2.3."""
        client = self.connect()
        response = client.get(
            b"/",
            (b"cookie", b"a=1"),
            (b"x", b"y"),
            (b"cookie", b"b=2"),
            (b"cookie", b"c=3"),
        )
        headers = json.loads(response.body)["headers"]
        self.assertEqual(
            [value for name, value in headers if name == "cookie"], ["a=1; b=2; c=3"]
        )

    def test_pseudo_fields(self) -> None:
        """Section 8.3."""
        method, scheme, path, authority = GOOD
        cases: list[tuple[str, Fields]] = [
            ("unknown", [*GOOD, (b":unknown", b"1")]),
            ("unknown, first", [(b":unknown", b"1"), *GOOD]),
            ("of a response", [*GOOD, (b":status", b"200")]),
            ("no name", [*GOOD, (b":", b"1")]),
            ("upper case", [(b":METHOD", b"GET"), scheme, path, authority]),
            ("after a field", [method, scheme, authority, (b"x", b"y"), path]),
            ("after a cookie", [method, scheme, authority, (b"cookie", b"y"), path]),
            (
                "after a dropped field",
                [method, scheme, authority, (b"x_y", b"1"), path],
            ),
            ("twice: method", [*GOOD, method]),
            ("twice: scheme", [*GOOD, scheme]),
            ("twice: path", [*GOOD, path]),
            ("twice: authority", [*GOOD, authority]),
            ("no method", [scheme, path, authority]),
            ("no scheme", [method, path, authority]),
            ("no path", [method, scheme, authority]),
            ("nothing", []),
            ("only a method", [method]),
            ("an empty method", [(b":method", b""), scheme, path, authority]),
            ("a bad method", [(b":method", b"G T"), scheme, path, authority]),
            ("an empty scheme", [method, (b":scheme", b""), path, authority]),
            ("a bad scheme", [method, (b":scheme", b"1"), path, authority]),
            ("a bad value", [method, scheme, (b":path", b"/\n"), authority]),
        ]
        self.judge(
            *((what, asking(*fields), MALFORMED) for what, fields in cases),
            ("another order", asking(authority, path, scheme, method), answers(200)),
            (
                "another scheme",
                asking(method, (b":scheme", b"https"), path, authority),
                answers(200),
            ),
        )

    def test_paths(self) -> None:
        """Section 8.3.1."""
        method, scheme, _, authority = GOOD
        bad = [
            b"",
            b"nowhere",
            b"*",
            b"http://example.org/",
            b"/a b",
            b"/a\x7f",
            b"/#a",
            b"?a",
        ]
        good = [
            b"/",
            b"/?",
            b"/?a=/b?c",
            b"//",
            b"/%00",
            b"/;a=b",
            b"/a%20b",
            b"/\xc3\xa9",
        ]
        options = (b":method", b"OPTIONS")
        self.judge(
            *(
                (
                    repr(path),
                    asking(method, scheme, (b":path", path), authority),
                    MALFORMED,
                )
                for path in bad
            ),
            *(
                (
                    repr(path),
                    asking(method, scheme, (b":path", path), authority),
                    answers(200),
                )
                for path in good
            ),
            (
                "OPTIONS *",
                asking(options, scheme, (b":path", b"*"), authority),
                answers(200),
            ),
            (
                "OPTIONS of nothing",
                asking(options, scheme, (b":path", b""), authority),
                MALFORMED,
            ),
            (
                "OPTIONS /",
                asking(options, scheme, (b":path", b"/"), authority),
                answers(200),
            ),
        )

    def test_authorities(self) -> None:
        refused = MALFORMED + answers(400)
        bad = [
            b"",
            b":80",
            b"user@example.org",
            b"u:p@example.org",
            b"a/b",
            b"a b",
            b"a,b c",
        ]
        good = [b"example.org", b"example.org:8080", b"[::1]:80", b"127.0.0.1"]
        self.judge(
            *(
                (repr(value), asking(*GOOD[:3], (b":authority", value)), refused)
                for value in bad
            ),
            *(
                (repr(value), asking(*GOOD[:3], (b":authority", value)), answers(200))
                for value in good
            ),
            ("neither it nor Host", asking(*GOOD[:3]), refused),
            ("only Host", asking(*GOOD[:3], (b"host", b"example.org")), answers(200)),
            ("a Host that is empty", asking(*GOOD[:3], (b"host", b"")), refused),
            ("the same Host", asking(*GOOD, (b"host", b"example.org")), answers(200)),
            ("another Host", asking(*GOOD, (b"host", b"example.com")), refused),
            ("an empty Host beside it", asking(*GOOD, (b"host", b"")), refused),
            (
                "two Hosts",
                asking(*GOOD, (b"host", b"example.org"), (b"host", b"example.org")),
                refused,
            ),
        )

    def test_connect(self) -> None:
        """Section 8.5."""
        connect, (_, scheme, path, authority) = (b":method", b"CONNECT"), GOOD
        self.judge(
            ("as it should be", asking(connect, (b":authority", b"a:1")), answers(501)),
            ("with a scheme", asking(connect, scheme, authority), MALFORMED),
            ("with a path", asking(connect, path, authority), MALFORMED),
            ("with both", asking(connect, scheme, path, authority), MALFORMED),
            ("without an authority", asking(connect), MALFORMED),
        )

    def test_methods_of_responses_without_content(self) -> None:
        """RFC 9110 sections 9.3.2 and 6.4.1."""
        client = self.connect()
        client.send(client.open(request(b"HEAD", b"/bytes/100")))
        response = client.answer(1)
        self.assertEqual((response.status, response.body), (200, b""))
        self.assertEqual(response.get(b"content-length"), b"100")
        self.assertEqual(client.of(DATA), [])

    def test_expect(self) -> None:
        """RFC 9110 section 10.1.1."""
        client = self.connect()
        client.send(client.upload((b"expect", b"100-continue")))
        client.read_until(lambda: 1 in client.responses)
        self.assertEqual(client.responses[1].informational, [[(b":status", b"100")]])
        client.send(h2.data(1, b"x", END_STREAM))
        self.assertEqual(client.answer(1).status, 200)

    def test_header_list_size(self) -> None:
        """Section 10.5.1: 431, or a reset."""
        client = self.connect()
        many = [(b"x-%d" % n, b"y" * 900) for n in range(10)]
        client.send(client.open(request(b"GET", b"/", *many)))
        self.assertEqual(client.answer(1).status, 431)
        client.lives()

    def test_a_response_before_the_end_of_the_request(self) -> None:
        """Section 8.1: RST_STREAM with NO_ERROR, and only after the response."""
        client = self.connect()
        client.send(client.upload(path=b"/early"))
        response = client.answer(1)
        self.assertEqual((response.body, response.complete), (b"early", True))
        with contextlib.suppress(OSError):
            for _ in range(MIB // FRAME):
                client.send(h2.data(1, bytes(1024)))
        self.assertIn(client.verdict(1), [*TAKEN, *resets(NO_ERROR)])
        client.lives()


# -- The others ------------------------------------------------------------------------


class HeaderCompression(StrictTestCase):
    """RFC 7541: what cannot be decoded ends the connection."""

    def test_decoding_errors(self) -> None:
        good: Callable[[Judge], bytes] = lambda c: c.encode(GOOD)  # noqa: E731
        dead = dies(COMPRESSION_ERROR)
        literal = b"\0\1a"
        self.judge(
            ("index 0 (2.3.3)", lambda c: c.block(good(c) + b"\x80"), dead),
            ("an index of nothing", lambda c: c.block(good(c) + b"\xff\x7f"), dead),
            ("a name of nothing", lambda c: c.block(good(c) + b"\x7f\x7f\1a"), dead),
            ("one past the table", lambda c: c.block(good(c) + b"\xff\x80\x01"), dead),
            (
                "an endless number (5.1)",
                lambda c: c.block(good(c) + b"\xff" + b"\x80" * 20 + b"\x01"),
                dead,
            ),
            ("a number without end", lambda c: c.block(good(c) + b"\xff\xff"), dead),
            ("a name that ends early", lambda c: c.block(good(c) + b"\0\x05ab"), dead),
            (
                "a value that ends early",
                lambda c: c.block(good(c) + literal + b"\x05ab"),
                dead,
            ),
            ("no value", lambda c: c.block(good(c) + literal), dead),
            ("nothing but a beginning", lambda c: c.block(good(c) + b"\0"), dead),
            (
                "padding of more than 7 bits (5.2)",
                # "a" and padding, and a byte of padding more.
                lambda c: c.block(good(c) + literal + b"\x82\x1f\xff"),
                dead,
            ),
            (
                "padding of zeros (5.2)",
                lambda c: c.block(good(c) + literal + b"\x81\x18"),
                dead,
            ),
            (
                "the end of a string inside it (5.2)",
                lambda c: c.block(good(c) + literal + b"\x84\xff\xff\xff\xff"),
                dead,
            ),
            (
                "a larger table than was allowed (6.3)",
                lambda c: c.block(b"\x3f\xe2\x1f" + good(c)),
                dead,
            ),
            (
                "a change of the table at the end (4.2)",
                lambda c: c.block(good(c) + b"\x20"),
                dead,
            ),
            (
                "a change of the table among the fields",
                lambda c: c.block(good(c)[:1] + b"\x20" + good(c)[1:]),
                dead,
            ),
            (
                "in trailers",
                lambda c: (
                    c.upload()
                    + frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\x7f")
                ),
                dead,
            ),
            (
                "on a stream that was reset",
                lambda c: (
                    c.after(
                        c.upload((b"content-length", b"1")) + h2.data(1, b"too much")
                    )
                    + frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\x7f")
                ),
                dead,
            ),
        )

    def test_what_is_allowed(self) -> None:
        plain = [(name, value) for name, value in GOOD]
        self.judge(
            ("literals", lambda c: c.block(c.raw(*plain)), answers(200)),
            (
                "never to be indexed",
                lambda c: c.block(c.encode(GOOD) + b"\x10\1a\1b"),
                answers(200),
            ),
            (
                "a change of the table at the beginning",
                lambda c: c.block(b"\x20" + c.raw(*plain)),
                answers(200),
            ),
            (
                "two of them",
                lambda c: c.block(b"\x20\x3f\xe1\x1f" + c.raw(*plain)),
                answers(200),
            ),
            (
                "Huffman",
                lambda c: c.block(c.encode(GOOD) + b"\0\1a\x81\x1f"),
                answers(200),
            ),
            (
                "an entry larger than the table, which empties it",
                lambda c: c.block(c.raw(*plain) + b"\x40\1a\x7f\xb0\x1f" + b"b" * 4143),
                answers(200),
            ),
        )


class ExtendedConnect(StrictTestCase):
    """RFC 8441."""

    WEBSOCKET: Fields = [
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", b"example.org"),
        (b"sec-websocket-version", b"13"),
    ]

    def without(self, name: bytes) -> Callable[[Judge], bytes]:
        fields = [field for field in self.WEBSOCKET if field[0] != name]
        return lambda c: c.open(fields, 0)

    def test_forms(self) -> None:
        get = [(b":method", b"GET"), *self.WEBSOCKET[1:]]
        unknown = [self.WEBSOCKET[0], (b":protocol", b"what"), *self.WEBSOCKET[2:]]
        self.judge(
            ("without a scheme", self.without(b":scheme"), MALFORMED),
            ("without a path", self.without(b":path"), MALFORMED),
            (
                ":protocol twice",
                lambda c: c.open([self.WEBSOCKET[1], *self.WEBSOCKET], 0),
                MALFORMED,
            ),
            (":protocol without CONNECT", asking(*get), MALFORMED),
            (
                "an empty :protocol",
                lambda c: c.open(
                    [self.WEBSOCKET[0], (b":protocol", b""), *self.WEBSOCKET[2:]], 0
                ),
                MALFORMED,
            ),
            (
                "a path that is none",
                lambda c: c.open(
                    [*self.WEBSOCKET[:3], (b":path", b"a"), *self.WEBSOCKET[4:]], 0
                ),
                MALFORMED,
            ),
            (
                "connection: upgrade",
                lambda c: c.open([*self.WEBSOCKET, (b"connection", b"upgrade")], 0),
                MALFORMED,
            ),
            (
                "upgrade: websocket",
                lambda c: c.open([*self.WEBSOCKET, (b"upgrade", b"websocket")], 0),
                MALFORMED,
            ),
        )
        with Judge(self.server.port) as client:
            client.send(client.open(unknown, 0))
            self.assertEqual(client.answer(1).status, 501)
            client.lives()
        for fields in (self.WEBSOCKET[:4], self.WEBSOCKET[:5]):
            # Neither an authority nor a version of WebSocket; no version.
            with Judge(self.server.port) as client:
                client.send(client.open(fields, 0))
                self.assertIn(client.answer(1).status, (400, 426))
                client.lives()

    def test_it_works(self) -> None:
        client = self.connect()
        socket = WebSocketOverHTTP2(client)
        self.assertEqual(socket.response.status, 200)
        socket.frame(BINARY, b"hello")
        self.assertEqual(socket.read_frame().payload, b"hello")
        client.lives()

    def test_frames_of_a_tunnel(self) -> None:
        def opened(c: Judge) -> bytes:
            assert WebSocketOverHTTP2(c).response.status == 200
            return b""

        self.judge(
            (
                "HEADERS inside it",
                lambda c: opened(c) + c.headers(1, [(b"a", b"b")], END_STREAM),
                MALFORMED,
            ),
            (
                "a reset",
                lambda c: opened(c) + h2.reset(1),
                TAKEN,
            ),
            (
                "frames that are none",
                lambda c: opened(c) + h2.data(1, b"\xff" * 20),
                TAKEN,
            ),
        )

    def test_the_setting_of_a_client_means_nothing(self) -> None:
        self.judge(
            ("1", lambda c: settings(ENABLE_CONNECT_PROTOCOL=1), TAKEN),
            ("0", lambda c: settings(ENABLE_CONNECT_PROTOCOL=0), TAKEN),
        )


class Priorities(StrictTestCase):
    """RFC 9218."""

    def test_priority_update(self) -> None:
        """Section 7.1."""
        self.judge(
            (
                "of a request",
                lambda c: c.hold() + h2.priority_update(1, b"u=1, i"),
                TAKEN,
            ),
            ("before a request", lambda c: h2.priority_update(5, b"u=1"), TAKEN),
            (
                "after a request",
                lambda c: c.done() + h2.priority_update(1, b"u=1"),
                TAKEN,
            ),
            ("nonsense", lambda c: h2.priority_update(1, b"\xff\0=;,,u=9"), TAKEN),
            ("empty", lambda c: h2.priority_update(1, b""), TAKEN),
            (
                "on a stream",
                lambda c: c.hold() + frame(PRIORITY_UPDATE, 0, 1, b"\0\0\0\1u=1"),
                dies(PROTOCOL_ERROR),
            ),
            (
                "of stream 0",
                lambda c: h2.priority_update(0, b"u=1"),
                dies(PROTOCOL_ERROR),
            ),
            (
                "of a push",
                lambda c: h2.priority_update(2, b"u=1"),
                dies(PROTOCOL_ERROR),
            ),
            (
                "too short",
                lambda c: frame(PRIORITY_UPDATE, 0, 0, b"\0\0\1"),
                dies(FRAME_SIZE_ERROR),
            ),
            (
                "of as many as there may be",
                lambda c: (
                    c.after(c.hold())
                    + b"".join(
                        h2.priority_update(id, b"u=1")
                        for id in range(3, 2 * STREAMS, 2)
                    )
                ),
                TAKEN,
            ),
            (
                "of more",
                lambda c: (
                    c.after(c.hold())
                    + b"".join(
                        h2.priority_update(id, b"u=1")
                        for id in range(3, 2 * STREAMS + 2, 2)
                    )
                ),
                dies(PROTOCOL_ERROR),
            ),
        )

    def test_those_that_were_skipped_do_not_count(self) -> None:
        client = self.connect()
        client.done()
        for round in range(5):
            first = 1001 * (2 * round + 1)
            for number in range(STREAMS):
                client.send(h2.priority_update(first + 2 * number, b"u=1"))
            client.send(client.open(id=first + 4 * STREAMS))
            self.assertEqual(client.answer(client.last).status, 200)
        client.lives()

    def test_the_setting(self) -> None:
        """Section 2.1."""
        self.judge(
            ("0", lambda c: settings(NO_RFC7540_PRIORITIES=0), TAKEN),
            ("2", lambda c: settings(NO_RFC7540_PRIORITIES=2), dies(PROTOCOL_ERROR)),
        )

    def test_fields(self) -> None:
        for value in (
            b"u=0",
            b"u=7, i",
            b"i=?0",
            b"u=8",
            b"nonsense=;;",
            b"",
            b"u=-1",
            b'u="1"',
        ):
            with self.subTest(value):
                response = self.connect().get(b"/", (b"priority", value))
                self.assertEqual(response.status, 200)


# -- Hostile clients -------------------------------------------------------------------


class Hostile(StrictTestCase):
    """Each frame is legal, or an error of one stream; endless repetition is neither.

    What must follow is GOAWAY with ENHANCE_YOUR_CALM, a line in the log, and that few
    applications were begun for it.
    """

    #: Parts sent before a test gives up: many times what a client may.
    LIMIT = 20_000

    #: Applications that may have been begun for a client that resets what it asks for.
    BEGUN = 600

    def flood(
        self,
        parts: Callable[[Judge], Iterator[bytes]],
        *,
        begun: int = BEGUN,
        **options: Any,
    ) -> Judge:
        client = self.connect(**options)
        before = self.application.begun
        with self.assertLogs("django_daphne.protocol", "INFO") as logged:
            self.send_until_cut(client, parts(client))
            client.read_to_end()
        self.assertEqual([f.code for f in client.of(GOAWAY)], [ENHANCE_YOUR_CALM])
        line = logged.output[-1]
        self.assertIn("ENHANCE_YOUR_CALM", line)
        self.assertIn("127.0.0.1:", line)
        self.assertLess(self.application.begun - before, begun)
        with Judge(self.server.port) as another:
            another.lives()
        return client

    def send_until_cut(self, client: Judge, parts: Iterator[bytes]) -> None:
        """Send until GOAWAY has come; read what comes meanwhile."""
        for _, part in zip(range(self.LIMIT), parts, strict=False):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.send(part)
            while select.select([client.socket], [], [], 0)[0]:
                client.read_some()
                if client.of(GOAWAY):
                    return
        raise AssertionError("nobody minded")

    def floods(self, *cases: tuple[str, Callable[[Judge], bytes]], begun: int) -> None:
        """Each case is repeated for ever, ten times in each write."""
        for what, make in cases:

            def parts(
                client: Judge, make: Callable[[Judge], bytes] = make
            ) -> Iterator[bytes]:
                while True:
                    yield b"".join(make(client) for _ in range(10))

            with self.subTest(what):
                self.flood(parts, begun=begun)

    def test_rapid_reset(self) -> None:
        """CVE-2023-44487."""
        self.floods(
            ("requests", lambda c: c.hold() + h2.reset(c.last)),
            ("uploads", lambda c: c.upload() + h2.reset(c.last)),
            ("without an error", lambda c: c.hold() + h2.reset(c.last, NO_ERROR)),
            (
                "uploads under way",
                lambda c: c.upload() + h2.data(c.last, b"x" * 99) + h2.reset(c.last),
            ),
            (
                "WebSockets",
                lambda c: c.open(ExtendedConnect.WEBSOCKET, 0) + h2.reset(c.last),
            ),
            begun=self.BEGUN,
        )

    def test_resets_that_the_server_is_made_to_send(self) -> None:
        """CVE-2025-8671."""
        long, short = (b"content-length", b"9"), (b"content-length", b"1")
        self.floods(
            ("windows by nothing", lambda c: c.hold() + h2.window_update(c.last, 0)),
            (
                "windows beyond their limit",
                lambda c: c.hold() + h2.window_update(c.last, LARGEST_WINDOW),
            ),
            ("DATA after the end", lambda c: c.hold() + h2.data(c.last, b"x")),
            ("empty DATA after the end", lambda c: c.hold() + h2.data(c.last)),
            ("HEADERS after the end", lambda c: c.hold() + c.headers(c.last, [])),
            (
                "PRIORITY of a wrong size",
                lambda c: c.hold() + frame(PRIORITY, 0, c.last, bytes(4)),
            ),
            (
                "PRIORITY on itself",
                lambda c: (
                    c.hold() + frame(PRIORITY, 0, c.last, c.last.to_bytes(4) + b"\0")
                ),
            ),
            ("too much DATA", lambda c: c.upload(short) + h2.data(c.last, b"xx")),
            (
                "too little DATA",
                lambda c: c.upload(long) + h2.data(c.last, b"x", END_STREAM),
            ),
            (
                "trailers instead of DATA",
                lambda c: c.upload(long) + c.headers(c.last, [], END_STREAM),
            ),
            (
                "trailers that do not end",
                lambda c: c.upload() + c.headers(c.last, [(b"a", b"b")]),
            ),
            (
                "malformed trailers",
                lambda c: c.upload() + c.headers(c.last, [(b"A", b"b")], END_STREAM),
            ),
            (
                "too many trailers",
                lambda c: (
                    c.upload() + c.headers(c.last, [(b"x", b"y")] * 101, END_STREAM)
                ),
            ),
            begun=self.BEGUN,
        )

    def test_requests_that_are_none(self) -> None:
        large = request(b"GET", b"/" + b"a" * HEADER_BYTES)
        self.floods(
            ("empty HEADERS", lambda c: c.open([])),
            ("malformed", lambda c: c.open(request(b"GET", b""))),
            (
                "HEADERS on themselves",
                lambda c: c.block(
                    c._next.to_bytes(4) + b"\0" + c.encode(GOOD),
                    END_HEADERS | END_STREAM | WITH_PRIORITY,
                ),
            ),
            ("for no host", lambda c: c.open(GOOD[:3])),
            ("too large", lambda c: c.block(c.raw(*large))),
            (
                "CONNECT",
                lambda c: c.open([(b":method", b"CONNECT"), (b":authority", b"a:1")]),
            ),
            begun=STREAMS,
        )

    def test_frames_that_serve_nobody(self) -> None:
        table_sizes = settings_of(
            (h2.HEADER_TABLE_SIZE, 0), (h2.HEADER_TABLE_SIZE, 4096)
        )
        self.floods(
            ("PING", lambda c: h2.ping()),
            ("answers to PING", lambda c: h2.ping(flags=ACK)),
            ("SETTINGS", lambda c: settings()),
            ("acknowledgements", lambda c: frame(SETTINGS, ACK)),
            ("tables", lambda c: table_sizes),
            (
                "windows",
                lambda c: (
                    settings(INITIAL_WINDOW_SIZE=0) + settings(INITIAL_WINDOW_SIZE=9)
                ),
            ),
            ("large SETTINGS", lambda c: settings_of(*[(0x99, 1)] * 500)),
            ("PRIORITY", lambda c: frame(PRIORITY, 0, 77, bytes(5))),
            ("PRIORITY_UPDATE", lambda c: h2.priority_update(77, b"u=1")),
            ("WINDOW_UPDATE", lambda c: h2.window_update(0, 1)),
            ("unknown frames", lambda c: frame(0x77, 0, 0, b"x")),
            begun=STREAMS,
        )

    def test_frames_on_streams(self) -> None:
        def then(begin: Callable[[Judge], bytes], *parts: bytes) -> Any:
            def make(client: Judge) -> Iterator[bytes]:
                yield begin(client)
                while True:
                    yield b"".join(parts) * 10

            return make

        def reset(c: Judge) -> bytes:
            return c.after(c.upload((b"content-length", b"1")) + h2.data(1, b"xx"))

        upload, hold, done = Judge.upload, Judge.hold, Judge.done
        for what, parts in {
            "empty DATA": then(upload, h2.data(1)),
            "padding": then(upload, frame(DATA, PADDED, 1, b"\xff" + bytes(255))),
            "padding of nothing": then(upload, frame(DATA, PADDED, 1, b"\0")),
            "WINDOW_UPDATE": then(hold, h2.window_update(1, 1)),
            "PRIORITY": then(hold, frame(PRIORITY, 0, 1, bytes(5))),
            "PRIORITY_UPDATE": then(
                hold, h2.priority_update(1, b"u=1"), h2.priority_update(1, b"u=2")
            ),
            "GOAWAY": then(hold, h2.goaway()),
            "RST_STREAM where all is over": then(done, h2.reset(1)),
            "WINDOW_UPDATE where all is over": then(done, h2.window_update(1, 1)),
            "empty DATA where all is over": then(reset, h2.data(1)),
            "tiny DATA where all is over": then(reset, h2.data(1, b"x")),
            "HEADERS where all is over": then(
                reset, frame(HEADERS, END_HEADERS | END_STREAM, 1)
            ),
            "HEADERS that the client had reset": then(
                lambda c: c.after(c.hold(), h2.reset(1)),
                frame(HEADERS, END_HEADERS | END_STREAM, 1),
            ),
            "CONTINUATION": then(
                lambda c: c.after() + c.block(b"", END_STREAM),
                frame(CONTINUATION, 0, 1, b"\x82"),
            ),
            "empty CONTINUATION": then(
                lambda c: c.after() + c.block(b"", END_STREAM),
                frame(CONTINUATION, 0, 1),
            ),
            "large CONTINUATION": then(
                lambda c: c.after() + c.block(b"", END_STREAM),
                frame(CONTINUATION, 0, 1, b"\0\1a\1b" * 3000),
            ),
        }.items():
            with self.subTest(what):
                self.flood(parts, begun=STREAMS)

    def test_streams_beyond_the_limit(self) -> None:
        def parts(client: Judge) -> Iterator[bytes]:
            for _ in range(STREAMS):
                yield client.hold()
            while True:
                yield client.hold()

        self.flood(parts, begun=2 * STREAMS)

    def test_a_response_byte_by_byte(self) -> None:
        """Many streams, and windows that open by a byte."""

        def parts(client: Judge) -> Iterator[bytes]:
            for _ in range(STREAMS):
                yield client.open(request(b"GET", b"/bytes/100000"))
            while True:
                for id in range(1, 2 * STREAMS, 2):
                    yield h2.window_update(id, 1)

        greeting = PREFACE + settings(INITIAL_WINDOW_SIZE=0)
        self.flood(parts, begun=2 * STREAMS, greeting=greeting)

    def test_a_connection_byte_by_byte(self) -> None:
        def parts(client: Judge) -> Iterator[bytes]:
            yield client.open(request(b"GET", b"/bytes/100000"))
            while True:
                yield h2.window_update(0, 1)

        greeting = PREFACE + settings(INITIAL_WINDOW_SIZE=LARGEST_WINDOW)
        self.flood(parts, begun=2 * STREAMS, greeting=greeting)

    def test_a_bomb(self) -> None:
        """A field of 4 KB, once; then as many indices of it as a frame holds."""

        def parts(client: Judge) -> Iterator[bytes]:
            yield client.after(client.open(request(b"GET", b"/", (b"a", b"b" * 4000))))
            while True:
                yield client.block(client.encode(GOOD) + b"\xbe" * 16_000)

        self.flood(parts, begun=2 * STREAMS)

    def test_many_small_bombs(self) -> None:
        """Each is answered 431, and what it inflates to is not begun."""

        def parts(client: Judge) -> Iterator[bytes]:
            yield client.after(client.open(request(b"GET", b"/", (b"a", b"b" * 4000))))
            while True:
                yield client.block(client.encode(GOOD) + b"\xbe" * 3)

        self.flood(parts, begun=2 * STREAMS)


class Patient(StrictTestCase):
    """What takes time and not frames is ended by time, or does no harm."""

    settings = {
        "LIMITS": {"STREAMS": STREAMS},
        "TIMEOUTS": {"BODY": 0.5, "WRITE": 0.5},
    }

    def test_uploads_that_do_not_go_on(self) -> None:
        client = self.connect()
        for _ in range(STREAMS):
            client.send(client.upload())
        for id in range(1, 2 * STREAMS, 2):
            self.assertEqual(client.answer(id).status, 408)
        client.lives()

    def test_windows_that_do_not_open(self) -> None:
        client = self.connect(greeting=PREFACE + settings(INITIAL_WINDOW_SIZE=0))
        for _ in range(STREAMS):
            client.send(client.open(request(b"GET", b"/bytes/100000")))
        for id in range(1, 2 * STREAMS, 2):
            self.assertEqual(client.answer(id).reset, h2.CANCEL)
        client.send(settings(INITIAL_WINDOW_SIZE=65535))
        client.lives()

    def test_settings_that_are_never_acknowledged(self) -> None:
        peer = h2.Peer()
        with socket.create_connection(
            ("127.0.0.1", self.server.port), PATIENCE
        ) as plain:
            plain.sendall(PREFACE + settings())
            for _ in range(50):
                plain.sendall(peer.open())
                while peer.last not in peer.responses or not (
                    peer.responses[peer.last].complete
                ):
                    piece = plain.recv(65536)
                    self.assertTrue(piece)
                    peer.feed(piece)
        self.assertEqual(peer.goaways(), [])


class Innocent(StrictTestCase):
    """Heavy use, which is what the server is for."""

    settings: dict[str, Any] = {}

    def setUp(self) -> None:
        self.client = self.connect()

    def tearDown(self) -> None:
        # Whatever there was, nobody minded.
        self.client.lives()
        self.assertEqual(self.client.goaways(), [])
        super().tearDown()

    def test_a_hundred_streams_at_once(self) -> None:
        client = self.client
        for _ in range(20):
            ids = []
            out = b""
            for _ in range(100):
                out += client.open(request(b"GET", b"/bytes/10"))
                ids.append(client.last)
                out += h2.priority_update(client.last, b"u=2")
            client.send(out)
            for id in ids:
                self.assertEqual(client.answer(id).body, bytes(10))
                client.send(h2.window_update(0, 10) if id % 4 == 1 else b"")

    def test_a_page_that_is_left_with_all_its_images(self) -> None:
        client = self.client
        for _ in range(3):
            client.get(b"/page")
            ids = []
            for _ in range(100):
                client.send(client.hold())
                ids.append(client.last)
            client.send(b"".join(h2.reset(id) for id in ids))

    def test_images_of_which_half_are_seen(self) -> None:
        client = self.client
        for _ in range(500):
            client.send(client.hold() + h2.reset(client.last))
            client.get(b"/bytes/1000")

    def test_an_upload_byte_by_byte(self) -> None:
        client = self.client
        client.send(client.upload())
        id = client.last
        for _ in range(20):
            client.send(h2.data(id, b"x") * 1000)
        client.send(h2.data(id, b"", END_STREAM))
        self.assertEqual(json.loads(client.answer(id).body)["size"], 20_000)

    def test_an_upload_byte_by_byte_with_padding(self) -> None:
        client = self.client
        client.send(client.upload())
        id = client.last
        for _ in range(50):
            client.send(frame(DATA, PADDED, id, b"\x03x" + bytes(3)) * 100)
            assert client.round_trip()
        client.send(h2.data(id, b"", END_STREAM))
        self.assertEqual(json.loads(client.answer(id).body)["size"], 5000)

    def test_a_download_with_windows_of_a_kilobyte(self) -> None:
        size = 4 * MIB
        client = self.client = self.connect(windows=False)
        client.send(client.open(request(b"GET", b"/bytes/%d" % size)))
        given = 0
        while not (1 in client.responses and client.responses[1].complete):
            client.read_some()
            out = b""
            while 1 in client.responses and given + 1024 <= len(
                client.responses[1].body
            ):
                given += 1024
                out += h2.window_update(1, 1024) + h2.window_update(0, 1024)
            client.send(out)
        self.assertEqual(len(client.responses[1].body), size)

    def test_small_messages_of_a_websocket(self) -> None:
        client = self.client = self.connect(windows=False)
        tunnel = WebSocketOverHTTP2(client)
        self.assertEqual(tunnel.response.status, 200)
        for _ in range(50):
            message = websocket_frame(BINARY, b"tiny")
            client.send(h2.data(tunnel.id, message) * 100)
            for _ in range(100):
                self.assertEqual(tunnel.read_frame().payload, b"tiny")
                client.send(h2.window_update(tunnel.id, 6) + h2.window_update(0, 6))

    def test_a_ping_with_every_answer(self) -> None:
        """As programs do that measure how far away the server is."""
        for _ in range(3000):
            self.client.send(h2.ping(b"distance"))
            self.client.get(b"/bytes/10")


@tag("slow")
class Memory(unittest.TestCase):
    """What a client can make a server keep."""

    def test_a_body_in_pieces_that_nobody_takes(self) -> None:
        settings = {"LOGGING": {"ACCESS": False}}
        with Process("tests.asgi_apps:many_ways", settings) as process:
            with Judge(process.port) as client:
                self.send_pieces(client, 10_000)
            before = process.resident()
            with Judge(process.port) as client:
                for _ in range(4):
                    self.send_pieces(client, STREAM_WINDOW // 2)
                # With an object for each piece it would be 12 MiB.
                self.assertLess(process.resident(), before + 5 * MIB)

    def send_pieces(self, client: Judge, count: int) -> None:
        client.send(client.upload(path=b"/deaf"))
        for begin in range(0, count, 2048):
            client.send(h2.data(client.last, b"ab") * min(2048, count - begin))
        assert client.round_trip()
