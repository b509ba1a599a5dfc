"""Requests inside requests: where we and a proxy could disagree, somebody refuses.

Each message below can be read in two ways; in one of them there is a request that
nobody asked for. It is sent through a real proxy, raw. The proxy marks each request
that it passes on (``X-Forwarded-For``), and the smuggled one comes without a mark: if
the application ever meets it, the two sides have disagreed on where a request ends. So
they have if another client is given an answer that is not to its own request.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import unittest
from typing import Any

from django.test import tag

from . import http2_peer as h2
from .asgi_apps import Receive, Scope, Send, read_body, respond
from .fronts import CLIENT, SecureFrontTestCase
from .http2_client import HTTP2Client
from .services import require
from .serving import Client, serving

#: How long the answer to a message that may never have one is waited for. Nothing is
#: wrong when it does not come.
MOMENT = 0.25

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED_EMPTY = b"0\r\n\r\n"
IN_A_CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
BEFORE_CHUNK = len(b"%x\r\n" % len(SMUGGLED))


def post(*lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    head = [b"POST /cover HTTP/" + version, b"Host: localhost", *lines, b"", b""]
    return b"\r\n".join(head) + body


def both_ways(*lines: bytes) -> list[bytes]:
    """Messages in whose ``lines`` chunks may or may not be announced.

    In the first, whoever counts sees one request and whoever reads chunks two; in the
    second it is the other way round.
    """
    counted = CHUNKED_EMPTY + SMUGGLED
    return [
        post(b"Content-Length: %d" % len(counted), *lines, body=counted),
        post(*lines, b"Content-Length: %d" % BEFORE_CHUNK, body=IN_A_CHUNK),
        post(*lines, body=CHUNKED_EMPTY + SMUGGLED),
    ]


def counted_twice(*lines: bytes) -> list[bytes]:
    return [post(*lines, body=b"hello" + SMUGGLED)]


def chunks(*pieces: bytes) -> list[bytes]:
    return [post(b"Transfer-Encoding: chunked", body=b"".join(pieces))]


SIZE = b"%x" % len(SMUGGLED)

#: Messages that are never a well-formed request by RFC 9112, or that it lets a server
#: refuse. Sent to us without a proxy, each is refused.
REFUSED: dict[str, list[bytes]] = {
    "both lengths": both_ways(b"Transfer-Encoding: chunked")[:2],
    "coding twice": both_ways(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"
    ),
    "coding and another": both_ways(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"
    ),
    "another and coding": both_ways(
        b"Transfer-Encoding: x", b"Transfer-Encoding: chunked"
    ),
    **{
        f"coding {value!r}": both_ways(b"Transfer-Encoding: " + value)
        for value in (
            b"chunked, identity", b"identity, chunked", b"chunked, chunked",
            b"gzip, chunked", b"xchunked", b"chunkedx", b"chunked;q=1", b"chunked,",
            b",chunked", b'"chunked"', b"'chunked'", b"\x0bchunked", b"chunked\x0b",
            b"chunked\x0c", b"chu nked", b"\x00chunked", b"chunked\x00",
            b"chunked\x00x", b"\xffchunked", b"\xc2\xa0chunked", b"identity", b"",
        )
    },
    **{
        f"field {line!r}": both_ways(line)
        for line in (
            b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked",
            b" Transfer-Encoding: chunked", b"\tTransfer-Encoding: chunked",
            b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding:\r\n\tchunked",
            b"Transfer-Encoding\r\n: chunked", b"Transfer-Encoding:\n chunked",
            b"X: x\nTransfer-Encoding: chunked", b"X: x\rTransfer-Encoding: chunked",
            b"X: x\r\n\rTransfer-Encoding: chunked", b"\nTransfer-Encoding: chunked",
            b"Transfer-Encoding\x00: chunked", b"\x00Transfer-Encoding: chunked",
            b"Transfer-\x00Encoding: chunked", b"\x0bTransfer-Encoding: chunked",
            b": x\r\nTransfer-Encoding: chunked", b"X\r\nTransfer-Encoding: chunked",
            b"X: x\r\n \r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding chunked", b"Transfer-Encoding;: chunked",
            b"(Transfer-Encoding): chunked", b"Transfer-Encoding: chunked\r",
            b"Transfer-Encoding: chunked\nX: x", b"Transfer-Encoding:chunked\x01",
        )
    },
    **{
        f"lengths {lines!r}": counted_twice(*lines)
        for lines in (
            (b"Content-Length: 5", b"Content-Length: %d" % (5 + len(SMUGGLED))),
            (b"Content-Length: %d" % (5 + len(SMUGGLED)), b"Content-Length: 5"),
            (b"Content-Length: 5", b"Content-Length: 5"),
            (b"Content-Length: 5, 5",), (b"Content-Length: 5, 6",),
            (b"Content-Length: +5",), (b"Content-Length: -5",),
            (b"Content-Length: 0x5",), (b"Content-Length: 5.0",),
            (b"Content-Length: 5 5",), (b"Content-Length: 5;x",),
            (b"Content-Length: 5_",), (b"Content-Length: 5e0",),
            (b"Content-Length: \xd9\xa5",), (b"Content-Length: ",),
            (b"Content-Length: five",), (b"Content-Length : 5",),
            (b"Content-Length\t: 5",), (b" Content-Length: 5",),
            (b"Content-Length:\r\n 5",), (b"Content-Length: 5\r\n 0",),
            (b"Content-Length: 5\x00",), (b"Content-Length: \x0b5",),
            (b"Content-Length: 18446744073709551621",),
            (b"X: x\nContent-Length: 5",), (b"X: x\rContent-Length: 5",),
            (b"Content-Length: 5\n",), (b"Content-Length\x00: 5",),
        )
    },
    **{
        f"chunk {name}": chunks(*pieces)
        for name, pieces in {
            "0x": (b"0x5\r\nhello\r\n0\r\n\r\n", SMUGGLED),
            "plus": (b"+5\r\nhello\r\n0\r\n\r\n", SMUGGLED),
            "minus": (b"-5\r\nhello\r\n0\r\n\r\n", SMUGGLED),
            "space before": (b" 5\r\nhello\r\n0\r\n\r\n", SMUGGLED),
            "space after": (b"5 \r\nhello\r\n0\r\n\r\n", SMUGGLED),
            "underscore": (b"0_5\r\nhello\r\n0\r\n\r\n", SMUGGLED),
            "no size": (b"\r\nhello\r\n0\r\n\r\n", SMUGGLED),
            "overflow": (b"10000000000000005\r\nhello\r\n0\r\n\r\n", SMUGGLED),
            "many zeros": (b"0" * 40 + b"5\r\nhello\r\n0\r\n\r\n", SMUGGLED),
            "not hexadecimal": (b"5g\r\nhello\r\n0\r\n\r\n", SMUGGLED),
            "nul": (b"5\x00\r\nhello\r\n0\r\n\r\n", SMUGGLED),
            "bare LF after size": (b"5\nhello\r\n0\r\n\r\n", SMUGGLED),
            "bare CR after size": (b"5\rhello\r\n0\r\n\r\n", SMUGGLED),
            "bare LF after data": (b"5\r\nhello\n0\r\n\r\n", SMUGGLED),
            "bare LF at the end": (b"0\n\n", SMUGGLED),
            "mixed ends": (b"0\r\n\n", SMUGGLED),
            "other bytes for CRLF": (b"5\r\nhelloXX0\r\n\r\n", SMUGGLED),
            "data too long": (b"5\r\nhello world\r\n0\r\n\r\n", SMUGGLED),
            "LF in an extension": (b"5;\nx=" + SIZE + b"\r\nhello\r\n0\r\n\r\n",),
            "LF ends an extension": (b"5;x\nhello\r\n0\r\n\r\n", SMUGGLED),
            "CR in an extension": (b"5;\rx\r\nhello\r\n0\r\n\r\n", SMUGGLED),
            "extension open": (b'5;x="\r\nhello\r\n0\r\n\r\n', SMUGGLED),
            "quoted CRLF": (b'5;x="\r\n"\r\nhello\r\n0\r\n\r\n', SMUGGLED),
            "extension without end": (b"5;" + b"x" * 5000 + b"\r\nhello\r\n0\r\n\r\n",),
            "trailer with LF": (b"0\r\nX: x\n\r\n", SMUGGLED),
            "trailer folded": (b"0\r\nX: x\r\n y\r\n\r\n", SMUGGLED),
            "trailer without colon": (b"0\r\nGET / HTTP/1.1\r\n\r\n", SMUGGLED),
        }.items()
    },
    "coding in HTTP/1.0": [
        post(b"Transfer-Encoding: chunked", body=IN_A_CHUNK, version=b"1.0"),
        post(
            b"Connection: keep-alive",
            b"Transfer-Encoding: chunked",
            body=CHUNKED_EMPTY + SMUGGLED,
            version=b"1.0",
        ),
    ],
    **{
        f"head {head!r}": [head + b"\r\n\r\n" + SMUGGLED]
        for head in (
            b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: other",
            b"GET / HTTP/1.1\r\nHost: local\r\n host",
            b"GET / HTTP/1.1\r\nHost : localhost",
            b"GET  / HTTP/1.1\r\nHost: localhost",
            b"GET /  HTTP/1.1\r\nHost: localhost",
            b"GET\t/ HTTP/1.1\r\nHost: localhost",
            b"GET /\tHTTP/1.1\r\nHost: localhost",
            b"GET / HTTP/1.1 \r\nHost: localhost",
            b"GET / HTTP/1.1\nHost: localhost",
            b"GET / HTTP/1.1\rHost: localhost",
            b"GET / x HTTP/1.1\r\nHost: localhost",
            b"GET / HTTP/01.1\r\nHost: localhost",
            b"GET / HTTP/1.10\r\nHost: localhost",
            b"GET / http/1.1\r\nHost: localhost",
            b"GET / HTTP/2.0\r\nHost: localhost",
            b"GET / HTTP/0.9\r\nHost: localhost",
            b"GET /\r\nHost: localhost",
            b"GET /\x00 HTTP/1.1\r\nHost: localhost",
            b"G\x00ET / HTTP/1.1\r\nHost: localhost",
            b" GET / HTTP/1.1\r\nHost: localhost",
            b"\rGET / HTTP/1.1\r\nHost: localhost",
            b"GET / HTTP/1.1\r\n\r",
        )
    },
}  # fmt: skip

#: Odd messages that mean one thing, and how many bytes of body that is.
ACCEPTED: dict[str, tuple[bytes, int]] = {
    "plain": (post(b"Content-Length: 5", body=b"hello"), 5),
    "chunked": (chunks(b"5\r\nhello\r\n0\r\n\r\n")[0], 5),
    "capitals": (
        post(b"TRANSFER-ENCODING: CHUNKED", body=b"5\r\nhello\r\n0\r\n\r\n"),
        5,
    ),
    "white space": (
        post(b"Transfer-Encoding:\t chunked ", body=b"5\r\nhello\r\n0\r\n\r\n"),
        5,
    ),
    "zeros": (chunks(b"0005\r\nhello\r\n00\r\n\r\n")[0], 5),
    "an extension": (chunks(b"5;x=1;y\r\nhello\r\n0;z\r\n\r\n")[0], 5),
    "a trailer": (chunks(b"5\r\nhello\r\n0\r\nX: x\r\n\r\n")[0], 5),
    "a request as body": (
        post(b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED),
        len(SMUGGLED),
    ),
    "a request in a chunk": (
        post(b"Transfer-Encoding: chunked", body=IN_A_CHUNK),
        len(SMUGGLED),
    ),
    "a body with GET": (
        post(b"Content-Length: 5", body=b"hello").replace(b"POST", b"GET"),
        5,
    ),
    "underscores": (
        post(b"Transfer_Encoding: chunked", b"Content-Length: 5", body=b"hello"),
        5,
    ),
    "upgrade to HTTP/2": (
        post(
            b"Connection: Upgrade, HTTP2-Settings",
            b"Upgrade: h2c",
            b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
            b"Content-Length: 5",
            body=b"hello",
        ),
        5,
    ),
    "a length that a connection option hides": (
        post(
            b"Connection: Content-Length", b"Content-Length: 5", body=b"hello"
        ),
        5,
    ),
}  # fmt: skip

#: Denied by us as handshakes of WebSockets: what follows them is not one's frames.
HANDSHAKES = [
    b"GET /cover HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\n" + fields + b"\r\n" + SMUGGLED
    for fields in (
        b"Sec-WebSocket-Version: 7\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n",
        b"",
    )
]


#: Over HTTP/2 to the proxy, which makes HTTP/1.1 of it: fields of a POST, and its body.
OVER_HTTP2: list[tuple[list[tuple[bytes, bytes]], bytes]] = [
    ([(b"content-length", b"5")], b"hello" + SMUGGLED),
    ([(b"content-length", b"0")], SMUGGLED),
    ([(b"content-length", b"999")], SMUGGLED),
    ([(b"content-length", b"5"), (b"content-length", b"6")], b"hello" + SMUGGLED),
    ([(b"content-length", b"+5")], b"hello" + SMUGGLED),
    ([(b"content-length", b"5, 5")], b"hello" + SMUGGLED),
    ([(b"transfer-encoding", b"chunked")], CHUNKED_EMPTY + SMUGGLED),
    ([(b"Transfer-Encoding", b"chunked")], CHUNKED_EMPTY + SMUGGLED),
    ([(b"transfer-encoding ", b"chunked")], CHUNKED_EMPTY + SMUGGLED),
    ([(b"transfer_encoding", b"chunked")], CHUNKED_EMPTY + SMUGGLED),
    ([(b"transfer-encoding: chunked\r\nx", b"x")], CHUNKED_EMPTY + SMUGGLED),
    ([(b"transfer-encoding:chunked\nx", b"x")], CHUNKED_EMPTY + SMUGGLED),
    ([(b"x", b"x\r\nTransfer-Encoding: chunked")], CHUNKED_EMPTY + SMUGGLED),
    ([(b"x", b"x\nTransfer-Encoding: chunked")], CHUNKED_EMPTY + SMUGGLED),
    ([(b"x", b"x\rTransfer-Encoding: chunked")], CHUNKED_EMPTY + SMUGGLED),
    ([(b"x", b"x\0Transfer-Encoding: chunked")], CHUNKED_EMPTY + SMUGGLED),
    ([(b"x", b"x\r\n\r\n" + SMUGGLED)], b""),
    ([(b"connection", b"transfer-encoding"), (b"te", b"chunked")], SMUGGLED),
    ([(b"upgrade", b"h2c"), (b"connection", b"upgrade")], SMUGGLED),
    ([(b"host", b"localhost\r\n\r\n" + SMUGGLED)], b""),
    ([(b":path", b"/ HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED)], b""),
    ([(b":path", b"/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: ")], SMUGGLED),
    ([(b":path", b"/cover x")], SMUGGLED),
    ([(b":method", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED)], b""),
    ([(b":method", b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n")], SMUGGLED),
    ([(b":authority", b"x\r\nTransfer-Encoding: chunked")], CHUNKED_EMPTY + SMUGGLED),
    ([(b":scheme", b"http://x/ HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED)], b""),
]


class Witness:
    """The application: notes every request that it meets, and answers with its path."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close"})
            return
        met = {
            "method": scope["method"],
            "path": scope["path"],
            "marks": [v for n, v in scope["headers"] if n == b"x-forwarded-for"],
        }
        with self._lock:
            self._seen.append(met)
        with contextlib.suppress(EOFError):
            met["bytes"] = len(await read_body(receive))
            told = {"path": scope["path"], "bytes": met["bytes"]}
            await respond(send, json.dumps(told).encode())

    def seen(self) -> list[dict[str, Any]]:
        """What has come since this was last asked."""
        with self._lock:
            seen, self._seen = self._seen, []
        return seen


def read_what_comes(client: Client | HTTP2Client) -> bytes:
    """Everything until the end, or until nothing comes for a moment."""
    client.socket.settimeout(MOMENT)
    answer = b""
    with contextlib.suppress(OSError):
        while data := client.socket.recv(65536):
            answer += data
    return answer


class DirectTests(unittest.TestCase):
    """Without a proxy: what is ambiguous is refused, and what is not is understood."""

    def setUp(self) -> None:
        self.witness = Witness()
        settings = {"LIFESPAN": "off", "HTTP2": False}
        self.server = self.enterContext(serving(self.witness, settings))

    def test_the_ambiguous_is_refused(self) -> None:
        for name, messages in REFUSED.items():
            for message in messages:
                with self.subTest(name, message=message):
                    with self.server.connect() as client:
                        client.send(message)
                        self.assert_refused(client)
                    for met in self.witness.seen():
                        self.assertNotEqual(met["path"], "/smuggled")
                        # What began well and went wrong in its body.
                        self.assertNotIn("bytes", met)

    def assert_refused(self, client: Client) -> None:
        """One answer, by the server itself, and the end."""
        answer = client.read()
        self.assertIn(answer.status, (400, 505))
        self.assertEqual(answer.get("Connection"), "close")
        self.assertTrue(client.ended())

    def test_the_unambiguous_is_understood(self) -> None:
        for name, (message, size) in ACCEPTED.items():
            with self.subTest(name), self.server.connect() as client:
                client.send(message + b"GET /after HTTP/1.1\r\nHost: localhost\r\n\r\n")
                for path, length in (("/cover", size), ("/after", 0)):
                    told = json.loads(client.read().body)
                    self.assertEqual(told, {"path": path, "bytes": length})
                self.assertEqual(len(self.witness.seen()), 2)

    def test_handshakes_that_are_denied(self) -> None:
        for message in HANDSHAKES:
            with self.server.connect() as client:
                client.send(message)
                self.assert_refused_or_next(client)

    def assert_refused_or_next(self, client: Client) -> None:
        self.assertIn(client.read().status, (400, 426))
        if not client.ended():
            # What follows is the next request on the connection, and nothing else.
            self.assertEqual(json.loads(client.read().body)["path"], "/smuggled")


class FrontTests:
    """Through a proxy; ``port`` is its own."""

    port: int

    def setUp(self) -> None:
        super().setUp()
        self.witness = Witness()
        self.server = self.enterContext(
            serving(
                self.witness,
                {"LIFESPAN": "off", "PROXY": {"TRUSTED": ["127.0.0.1"]}},
            )
        )

    @tag("slow")
    def test_nothing_is_smuggled(self) -> None:
        messages = {
            **REFUSED,
            **{name: [message] for name, (message, _) in ACCEPTED.items()},
            "handshakes": HANDSHAKES,
        }
        answered = 0
        for name, several in messages.items():
            for message in several:
                with self.subTest(name, message=message):
                    with self.connect(self.port) as client:
                        client.send(message)
                        answered += bool(read_what_comes(client))
                    self.ask_as_another_client()
                    self.check_what_was_seen()
        # Most of them have an answer; some are cut off.
        self.assertGreater(answered, 0)

    def test_nothing_is_smuggled_by_http2(self) -> None:
        context = self.context()
        context.set_alpn_protocols(["h2"])
        for fields, body in OVER_HTTP2:
            with self.subTest(fields):
                control = {
                    b":method": b"POST",
                    b":scheme": b"https",
                    b":path": b"/cover",
                    b":authority": b"localhost",
                }
                rest = [field for field in fields if field[0] not in control]
                control.update(field for field in fields if field[0] in control)
                with HTTP2Client(self.port, tls=context, source=CLIENT) as client:
                    stream = client.ask([*control.items(), *rest], 0)
                    with contextlib.suppress(OSError):
                        client.send(h2.data(stream, body, h2.END_STREAM))
                    read_what_comes(client)
                self.ask_as_another_client()
                self.check_what_was_seen()

    def ask_as_another_client(self) -> None:
        """Twice on a connection: proxies keep the first request from a used one."""
        with self.connect(self.port) as client:
            for _ in range(2):
                path = f"/{time.monotonic_ns()}"
                answer = client.get(path)
                self.assertEqual(answer.status, 200, self.said)
                self.assertEqual(json.loads(answer.body), {"path": path, "bytes": 0})

    def check_what_was_seen(self) -> None:
        for met in self.witness.seen():
            self.assertEqual(met["marks"], [CLIENT.encode()], met)

    def test_the_unambiguous_is_understood(self) -> None:
        for name, (message, size) in ACCEPTED.items():
            with self.subTest(name), self.connect(self.port) as client:
                client.send(message)
                answer = client.read()
                if answer.status == 200:
                    told = {"path": "/cover", "bytes": size}
                    self.assertEqual(json.loads(answer.body), told)
                else:
                    # The proxy's right.
                    self.assertIn(answer.status, (400, 403, 411, 501))


@require("nginx")
class NginxTests(FrontTests, SecureFrontTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.port = self.nginx(
            "nginx.conf",
            "listen 443",
            {
                "server unix:/run/mysite.sock": f"server 127.0.0.1:{self.server.port}",
                # One connection, so that what is left on it meets the next client.
                "keepalive 32": "keepalive 1",
                "/etc/ssl/example.org.pem": self.certificate,
                "/etc/ssl/example.org.key": self.key,
            },
        )


@require("haproxy")
class HAProxyTests(FrontTests, SecureFrontTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.port = self.haproxy(
            "haproxy-http.cfg",
            "bind :443",
            {
                "/etc/ssl/example.org.pem": self.both,
                # Any client's request goes over any connection that is free.
                "backend mysite": "backend mysite\n    http-reuse always",
                "127.0.0.1:8000": f"127.0.0.1:{self.server.port}",
            },
        )


class CheckTests(unittest.TestCase):
    """The check above fails where it should: behind a proxy that marks nothing."""

    def test_an_unmarked_request_is_noticed(self) -> None:
        test = FrontTests()
        test.assertEqual = self.assertEqual
        test.witness = Witness()
        settings = {"LIFESPAN": "off"}
        with serving(test.witness, settings) as server, server.connect() as client:
            client.get("/smuggled")
        with self.assertRaises(AssertionError):
            test.check_what_was_seen()
