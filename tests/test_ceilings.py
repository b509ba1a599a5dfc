"""Connections over their limit, and requests in the application over theirs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

from django_daphne.server import ceilings

from . import http2_peer as h2
from .asgi_apps import Receive, Scope, Send, respond
from .http2_client import HTTP2Client, WebSocketOverHTTP2
from .listening import LOOPS, Authority
from .serving import PATIENCE, Client, Process, Serving, serving
from .websocket_client import WebSocketClient
from .websocket_frames import TEXT

SERVER_LOG = "django_daphne.server"
PROTOCOL_LOG = "django_daphne.protocol"


class Hall:
    """An application that answers ``/`` at once and holds everything else.

    WebSockets are accepted, and echo.
    """

    def __init__(self) -> None:
        self._inside = threading.Semaphore(0)
        self._release = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._loop = asyncio.get_running_loop()
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})
        elif scope["path"] == "/":
            await respond(send, b"hello")
        else:
            self._inside.release()
            await self._release.wait()
            await respond(send, b"at last")

    def wait_for(self, number: int) -> None:
        for _ in range(number):
            assert self._inside.acquire(timeout=PATIENCE), "nobody came in"

    def release(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._release.set)


class CeilingTestCase(unittest.TestCase):
    def serve(self, **limits: int) -> Serving:
        self.hall = Hall()
        settings = {"LIFESPAN": "off", "LIMITS": limits}
        return self.enterContext(serving(self.hall, settings))

    def connect(self, server: Serving, **options: Any) -> Client:
        return self.enterContext(server.connect(**options))

    def assertRefused(self, client: Client) -> None:
        answer = client.read()
        self.assertEqual(answer.status, 503)
        self.assertEqual(answer.get("Retry-After"), str(ceilings.RETRY_AFTER))
        self.assertTrue(answer.complete)
        self.assertTrue(client.ended())

    def let_in(self, server: Serving) -> Client:
        """A client that is served, at the latest when those before it are gone."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            client = server.connect()
            self.addCleanup(client.close)
            # Told that there is no room, or dropped without a word.
            with contextlib.suppress(EOFError, ConnectionError):
                if client.get().status == 200:
                    return client
            client.close()
        self.fail("no room was made")


class Connections(CeilingTestCase):
    def full(self, server: Serving, number: int) -> list[Client]:
        clients = [self.connect(server) for _ in range(number)]
        for client in clients:
            self.assertEqual(client.get().status, 200)
        return clients

    def test_one_too_many(self) -> None:
        server = self.serve(CONNECTIONS=3)
        inside = self.full(server, 3)
        with (
            self.assertLogs(PROTOCOL_LOG, logging.INFO) as refusals,
            self.assertLogs(SERVER_LOG, logging.WARNING) as warnings,
        ):
            for _ in range(5):
                outside = self.connect(server)
                outside.request()
                self.assertRefused(outside)
        # Whoever was inside has noticed nothing.
        for client in inside:
            self.assertEqual(client.get().body, b"hello")
        # One line for each, at a level that nobody is woken by; one warning for all.
        self.assertEqual(len(refusals.output), 5)
        for record in refusals.records:
            self.assertEqual(record.levelno, logging.INFO)
            self.assertIn("['CONNECTIONS']", record.getMessage())
            self.assertIn("127.0.0.1:", record.getMessage())
        self.assertEqual(len(warnings.output), 1)
        self.assertIn("CONNECTIONS", warnings.output[0])
        inside[0].close()
        self.assertEqual(self.let_in(server).get().body, b"hello")

    def test_one_that_asks_for_nothing(self) -> None:
        self.hall = Hall()
        settings = {
            "LIFESPAN": "off",
            "LIMITS": {"CONNECTIONS": 1},
            # Who is inside has to ask in time, on a busy machine too.
            "TIMEOUTS": {"HEADERS": 2},
        }
        server = self.enterContext(serving(self.hall, settings))
        [inside] = self.full(server, 1)
        outside = self.connect(server)
        self.assertTrue(outside.ended())
        # One that has said hello, and could be kept alive, is no better.
        outside = self.connect(server)
        outside.send(h2.PREFACE + h2.settings())
        outside.read_to_end()
        self.assertEqual(inside.get().status, 200)

    def test_a_crowd(self) -> None:
        with mock.patch.object(ceilings, "EXCESS", 2):
            server = self.serve(CONNECTIONS=1)
            [inside] = self.full(server, 1)
            kept = [self.connect(server) for _ in range(2)]
            # There is no room even for who would have to be told.
            self.assertTrue(self.connect(server).ended())
            self.assertEqual(inside.get().status, 200)
            for client in kept:
                client.request()
                self.assertRefused(client)
            inside.close()
            self.let_in(server)

    def test_a_websocket(self) -> None:
        server = self.serve(CONNECTIONS=1)
        self.full(server, 1)
        client = self.enterContext(WebSocketClient(server))
        client.ask()
        answer = client.read()
        self.assertEqual(answer.status, 503)
        self.assertEqual(answer.get("Retry-After"), str(ceilings.RETRY_AFTER))

    def test_http_2(self) -> None:
        server = self.serve(CONNECTIONS=1)
        with HTTP2Client(server.port) as inside, HTTP2Client(server.port) as outside:
            self.assertEqual(inside.get().status, 200)
            refused = outside.get()
            self.assertEqual(refused.status, 503)
            self.assertEqual(refused.get(b"retry-after"), b"%d" % ceilings.RETRY_AFTER)
            outside.read_to_end()
            self.assertTrue(outside.of(h2.GOAWAY))
            self.assertEqual(inside.get().status, 200)


class Handshakes(CeilingTestCase):
    """Connections over TLS, which cost something before they ask for anything."""

    def setUp(self) -> None:
        directory = self.enterContext(tempfile.TemporaryDirectory())
        self.authority = Authority(Path(directory))

    def serve_tls(self, limit: int) -> Serving:
        bind = f"ssl:0:interface=127.0.0.1:privateKey={quote(str(self.authority.both))}"
        settings = {
            "LIFESPAN": "off",
            "BIND": [bind],
            "LIMITS": {"CONNECTIONS": limit},
        }
        return self.enterContext(serving(Hall(), settings))

    def tls(self, protocol: str) -> ssl.SSLContext:
        context = self.authority.client()
        context.set_alpn_protocols([protocol])
        return context

    def test_one_too_many(self) -> None:
        server = self.serve_tls(1)
        inside = self.connect(server, tls=self.tls("http/1.1"))
        self.assertEqual(inside.get().status, 200)
        outside = self.connect(server, tls=self.tls("http/1.1"))
        outside.request()
        self.assertRefused(outside)
        with HTTP2Client(server.port, tls=self.tls("h2")) as client:
            self.assertEqual(client.get().status, 503)
        self.assertEqual(inside.get().status, 200)

    def test_handshakes_that_come_to_nothing(self) -> None:
        server = self.serve_tls(2)
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in "12"]
        for sock in silent:
            self.addCleanup(sock.close)
        # The next waits in the backlog, until there is room for its handshake.
        waiting = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
        self.addCleanup(waiting.close)
        silent[0].close()
        with self.tls("http/1.1").wrap_socket(
            waiting, server_hostname="localhost"
        ) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            self.assertTrue(client.recv(100).startswith(b"HTTP/1.1 200 "))


class Requests(CeilingTestCase):
    def held(self, server: Serving, number: int) -> list[Client]:
        clients = [self.connect(server) for _ in range(number)]
        for client in clients:
            client.request("/held")
        self.hall.wait_for(number)
        return clients

    def test_one_too_many(self) -> None:
        server = self.serve(CONCURRENCY=2)
        held = self.held(server, 2)
        with (
            self.assertLogs(PROTOCOL_LOG, logging.INFO) as refusals,
            self.assertLogs(SERVER_LOG, logging.WARNING) as warnings,
        ):
            for _ in range(3):
                client = self.connect(server)
                client.request()
                self.assertRefused(client)
        self.assertEqual(len(refusals.output), 3)
        self.assertIn("CONCURRENCY", refusals.output[0])
        self.assertEqual(len(warnings.output), 1)
        self.hall.release()
        for client in held:
            self.assertEqual(client.read().body, b"at last")
        self.let_in(server)

    def test_a_body_that_comes_with_it(self) -> None:
        server = self.serve(CONCURRENCY=1)
        self.held(server, 1)
        client = self.connect(server)
        client.request("/", "POST", body=bytes(300_000))
        self.assertRefused(client)

    def test_websockets(self) -> None:
        server = self.serve(CONCURRENCY=1)
        talking = self.enterContext(WebSocketClient(server))
        self.assertEqual(talking.open().status, 101)
        # It is in the application for as long as it is open.
        client = self.connect(server)
        client.request()
        self.assertRefused(client)
        other = self.enterContext(WebSocketClient(server))
        other.ask()
        answer = other.read()
        self.assertEqual(answer.status, 503)
        self.assertEqual(answer.get("Retry-After"), str(ceilings.RETRY_AFTER))
        talking.frame(TEXT, b"still here")
        self.assertEqual(talking.read_frame().payload, b"still here")

    def test_http_2(self) -> None:
        server = self.serve(CONCURRENCY=1)
        with HTTP2Client(server.port) as client:
            held = client.ask(h2.request(b"GET", b"/held"))
            self.hall.wait_for(1)
            refused = client.get()
            self.assertEqual(refused.status, 503)
            self.assertIsNotNone(refused.get(b"retry-after"))
            denied = WebSocketOverHTTP2(client)
            self.assertEqual(denied.response.status, 503)
            # The connection is none the worse for it.
            self.hall.release()
            self.assertEqual(client.answer(held).body, b"at last")
            self.assertEqual(client.get().status, 200)


class Unlimited(CeilingTestCase):
    def test_by_default(self) -> None:
        server = self.serve()
        clients = [self.connect(server) for _ in range(150)]
        for client in clients:
            client.request("/held")
        self.hall.wait_for(150)
        self.hall.release()
        for client in clients:
            self.assertEqual(client.read().body, b"at last")


@unittest.skipIf(sys.platform == "win32", "no such limit")
class DescriptorTests(unittest.TestCase):
    def start(self, loop: str, **settings: Any) -> Process:
        """A server with 60 descriptors, less than a hundred clients need."""
        values = {"BIND": ["127.0.0.1:0"], "LIFESPAN": "off", **settings}
        code = (
            "import asyncio, resource, sys\n"
            "from django_daphne.server import process\n"
            "from tests import asgi_apps, serving\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))\n"
            f"if {loop!r} == 'asyncio':\n"
            "    process.new_event_loop = asyncio.new_event_loop\n"
            f"config = serving.make_config({values!r})\n"
            "say = lambda urls: print('Listening on', *urls, flush=True)\n"
            "sys.exit(process.run(config, asgi_apps.hello, on_listening=say))\n"
        )
        return self.enterContext(Process("", command=["-c", code]))

    def test_running_out(self) -> None:
        for loop in LOOPS:
            with self.subTest(loop):
                server = self.start(loop)
                clients = [
                    socket.create_connection(("127.0.0.1", server.port), PATIENCE)
                    for _ in range(100)
                ]
                server.expect("ulimit -n")
                for sock in clients[:10]:
                    sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    self.assertTrue(sock.recv(100).startswith(b"HTTP/1.1 200 "))
                for sock in clients:
                    sock.close()
                self.assertEqual(self.served(server), b"hello")
                server.terminate()
                self.assertEqual(server.wait(), 0)
                # No line for each client, nor for each attempt.
                self.assertLess(server.output.count("\n"), 90)

    def served(self, server: Process) -> bytes:
        """What a client is answered that comes again when it was not let in."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(OSError, EOFError), server.connect() as client:
                return client.get().body
        self.fail("nobody is let in any more")
