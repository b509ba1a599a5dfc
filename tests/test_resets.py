"""Clients that crash, at every moment of a connection: nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import struct
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from django.test import tag

from django_daphne.server import process

from . import http2_peer as h2
from .asgi_apps import everything
from .certificates import LOCAL, Files, authority
from .http2_client import HTTP2Client
from .serving import PATIENCE, Client, Process, serving
from .websocket_frames import TEXT, frame

MIB = 1024 * 1024

#: What memory may grow by: the allocator's pieces, not a thing for each connection.
TOLERANCE = 6 * MIB

HEAD = b"GET /wait HTTP/1.1\r\nHost: a\r\n"
UPLOAD = b"POST /upload HTTP/1.1\r\nHost: a\r\n"
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)
GREETING = h2.PREFACE + h2.settings()

_RESET = struct.pack("ii", 1, 0)


def vanish(sock: socket.socket) -> None:
    """Close with a reset, as a client that crashes does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


class Crasher:
    """Connects, goes so far, and is gone."""

    def __init__(self, plain: int, secure: int, trust: ssl.SSLContext) -> None:
        self.plain = plain
        self.secure = secure
        self.trust = trust

    def say(self, *parts: bytes, until: bytes | None = None) -> None:
        """Send, perhaps wait for ``until``, and crash."""
        with Client("127.0.0.1", self.plain) as client:
            for part in parts:
                client.send(part)
            if until is not None:
                client.read_until(until)
            vanish(client.socket)

    def before_the_head(self) -> None:
        self.say()

    def inside_the_request_line(self) -> None:
        self.say(HEAD[:7])

    def inside_the_head(self) -> None:
        self.say(HEAD)

    def behind_the_head(self) -> None:
        self.say(HEAD + b"\r\n")

    def inside_the_body(self) -> None:
        self.say(UPLOAD + b"Content-Length: 100000\r\n\r\n" + bytes(9000))

    def inside_a_chunk(self) -> None:
        self.say(UPLOAD + b"Transfer-Encoding: chunked\r\n\r\nffff\r\nabc")

    def before_continuing(self) -> None:
        begin = UPLOAD + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        self.say(begin, until=b"100 Continue\r\n\r\n")

    def inside_the_response(self) -> None:
        self.say(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n", until=b"data: 3 ")

    def with_the_response_unread(self) -> None:
        self.say(b"GET /download?1000000 HTTP/1.1\r\nHost: a\r\n\r\n")

    def idle(self) -> None:
        self.say(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", until=b"hello")

    def with_requests_sent_ahead(self) -> None:
        self.say(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 20)

    def while_it_is_refused(self) -> None:
        self.say(b"nonsense\r\n\r\n" + bytes(5000))

    def inside_the_handshake(self) -> None:
        self.say(HANDSHAKE)

    def behind_the_handshake(self) -> None:
        self.say(HANDSHAKE + b"\r\n")

    def inside_a_frame(self) -> None:
        self.say(HANDSHAKE + b"\r\n", frame(TEXT, bytes(500))[:99], until=b"\r\n\r\n")

    def with_messages_unread(self) -> None:
        self.say(HANDSHAKE + b"\r\n", frame(TEXT, b"x" * 3000) * 30)

    def inside_the_preface(self) -> None:
        self.say(h2.PREFACE[:20])

    def inside_an_http2_frame(self) -> None:
        self.say(GREETING + h2.Peer().open()[:-3])

    def inside_a_header_block(self) -> None:
        self.say(GREETING + h2.frame(h2.HEADERS, 0, 1, b"\x82"))

    def with_streams_open(self) -> None:
        peer = h2.Peer()
        streams = [
            peer.open(h2.request(b"GET", b"/wait")),
            peer.open(h2.request(b"POST", b"/upload"), 0) + h2.data(3, b"abc"),
            peer.open(h2.request(b"GET", b"/download?100000")),
            peer.open(h2.request(b"GET", b"/stream")),
        ]
        self.say(GREETING + b"".join(streams))

    def inside_an_http2_response(self) -> None:
        with HTTP2Client(self.plain) as client:
            id = client.ask(h2.request(b"GET", b"/stream"))
            client.read_until(
                lambda: id in client.responses and client.responses[id].body
            )
            vanish(client.socket)

    def before_the_tls_handshake(self) -> None:
        with socket.create_connection(("127.0.0.1", self.secure), PATIENCE) as sock:
            vanish(sock)

    def inside_the_tls_handshake(self) -> None:
        self.shake_hands(lambda hello: hello[: len(hello) // 2])

    def behind_the_client_hello(self) -> None:
        self.shake_hands(lambda hello: hello, wait=True)

    def shake_hands(self, cut: Callable[[bytes], bytes], wait: bool = False) -> None:
        outgoing = ssl.MemoryBIO()
        tls = self.trust.wrap_bio(ssl.MemoryBIO(), outgoing)
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        with socket.create_connection(("127.0.0.1", self.secure), PATIENCE) as sock:
            sock.sendall(cut(outgoing.read()))
            if wait:
                sock.recv(100)
            vanish(sock)

    def over_tls(self) -> None:
        with Client("127.0.0.1", self.secure, tls=self.trust) as client:
            client.send(HEAD)
            vanish(client.socket)


#: Each of them, and how many of a hundred; what takes long comes less often.
STAGES: dict[Callable[[Crasher], None], int] = {
    Crasher.before_the_head: 12,
    Crasher.inside_the_request_line: 4,
    Crasher.inside_the_head: 8,
    Crasher.behind_the_head: 12,
    Crasher.inside_the_body: 8,
    Crasher.inside_a_chunk: 4,
    Crasher.before_continuing: 2,
    Crasher.inside_the_response: 4,
    Crasher.with_the_response_unread: 4,
    Crasher.idle: 8,
    Crasher.with_requests_sent_ahead: 2,
    Crasher.while_it_is_refused: 2,
    Crasher.inside_the_handshake: 3,
    Crasher.behind_the_handshake: 4,
    Crasher.inside_a_frame: 4,
    Crasher.with_messages_unread: 2,
    Crasher.inside_the_preface: 2,
    Crasher.inside_an_http2_frame: 2,
    Crasher.inside_a_header_block: 2,
    Crasher.with_streams_open: 2,
    Crasher.inside_an_http2_response: 1,
    Crasher.before_the_tls_handshake: 3,
    Crasher.inside_the_tls_handshake: 2,
    Crasher.behind_the_client_hello: 1,
    Crasher.over_tls: 2,
}


#: More than anything that could be had.
_ANY = {"files": 1 << 30, "tasks": 1 << 30}


def state_of(port: int) -> dict[str, int]:
    """What a server of ``asgi_apps.everything`` holds, this connection included."""
    with Client("127.0.0.1", port) as client:
        state: dict[str, int] = json.loads(client.get("/state").body)
        return state


def wait_for_state(port: int, before: dict[str, int] = _ANY) -> dict[str, int]:
    """The state once files and tasks are what they were ``before``."""
    end = time.monotonic() + PATIENCE
    while True:
        state = state_of(port)
        if all(state[key] <= before[key] for key in _ANY):
            return state
        assert time.monotonic() < end, f"{state} after {before}"
        time.sleep(0.05)


class ResetTestCase(unittest.TestCase):
    tls: ClassVar[dict[str, str]]
    trust: ClassVar[ssl.SSLContext]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        files = Files(Path(cls.enterClassContext(tempfile.TemporaryDirectory())))
        root = authority()
        cls.tls = files.tls("server", root.issue("localhost", LOCAL))
        cls.trust = ssl.create_default_context(cadata=root.pem)

    def settings(self) -> dict[str, Any]:
        return {
            # The first has TLS, the second has not.
            "BIND": ["127.0.0.1:0", "tcp:0:interface=127.0.0.1"],
            "TLS": self.tls,
            "LIFESPAN": "off",
            "LOGGING": {"ACCESS": False},
        }

    def crash(self, crasher: Crasher, count: int) -> None:
        """``count`` connections at least, some of each stage early and late."""
        for _ in range(-(-count // 100)):
            for stage, number in STAGES.items():
                for _ in range(number):
                    # The server may have been faster to close.
                    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                        stage(crasher)


class Resets(ResetTestCase):
    def check(self, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        with (
            self.assertNoLogs("asyncio", logging.WARNING),
            self.assertNoLogs("django_daphne", logging.WARNING),
            serving(everything, self.settings(), loop_factory=loop_factory) as server,
        ):
            secure, plain = (int(url.rpartition(":")[2]) for url in server.urls)
            crasher = Crasher(plain, secure, self.trust)
            # What is made once for each process or thread is made now.
            for stage in STAGES:
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    stage(crasher)
            before = wait_for_state(plain)
            self.crash(crasher, 600)
            wait_for_state(plain, before)
            with Client("127.0.0.1", plain) as client:
                self.assertEqual(client.get().body, b"hello")
            with Client("127.0.0.1", secure, tls=self.trust) as client:
                self.assertEqual(client.get().body, b"hello")

    def test_uvloop(self) -> None:
        self.check(process.new_event_loop)

    def test_asyncio(self) -> None:
        self.check(asyncio.new_event_loop)


@tag("slow")
class TwentyThousandResets(ResetTestCase):
    COUNT = 20_000

    def test_nothing_is_left(self) -> None:
        server = self.enterContext(
            Process("tests.asgi_apps:everything", self.settings())
        )
        server.expect(r"(Listening on \S+\s+){2}")
        urls = [line.split()[-1] for line in server.output.splitlines()[:2]]
        secure, plain = (int(url.rpartition(":")[2]) for url in urls)
        crasher = Crasher(plain, secure, self.trust)
        # Caches, pools and the allocator take what they will, which goes on for some
        # thousand connections; then nothing is to be added.
        self.crash(crasher, self.COUNT // 2)
        before = wait_for_state(plain)
        self.crash(crasher, self.COUNT // 2)
        after = wait_for_state(plain, before)
        self.assertLess(after["memory"], before["memory"] + TOLERANCE)
        self.assertEqual(server.output.count("\n"), 2, server.output)
        server.terminate()
        self.assertEqual(server.wait(), 0)
