"""How connections with TLS end: in order, in time, and with everything sent."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import time
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from django_daphne.binds import quote
from django_daphne.server import connection, process, server

from .asgi_apps import Receive, Scope, Send, respond
from .listening import LOOPS, Authority
from .serving import PATIENCE, Reader, Serving, serving

LARGE = 16 * 1024 * 1024


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, bytes(LARGE) if scope["path"] == "/large" else b"hello")


class EndTests(unittest.TestCase):
    authority: Authority

    @classmethod
    def setUpClass(cls) -> None:
        cls.authority = Authority(
            Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        )

    def on_each_loop(self, **settings: Any) -> Iterator[Serving]:
        bind = f"ssl:0:interface=127.0.0.1:privateKey={quote(str(self.authority.both))}"
        settings = {"LIFESPAN": "off", "BIND": [bind], **settings}
        for name, factory in LOOPS.items():
            with (
                self.subTest(name),
                mock.patch.object(process, "new_event_loop", factory),
                serving(answers, settings) as running,
            ):
                yield running

    def connect(self, running: Serving) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", running.port), PATIENCE)
        context = self.authority.client()
        context.set_alpn_protocols(["http/1.1"])
        client = context.wrap_socket(plain, server_hostname="localhost")
        self.addCleanup(client.close)
        return client

    def ask(self, client: ssl.SSLSocket, path: str, *fields: str) -> None:
        lines = [f"GET {path} HTTP/1.1", "Host: a", *fields, "", ""]
        client.sendall("\r\n".join(lines).encode())

    def test_a_client_that_does_not_answer_the_end(self) -> None:
        with mock.patch.object(connection, "CLOSE_NOTIFY", 0.1):
            for running in self.on_each_loop():
                client = self.connect(running)
                self.ask(client, "/", "Connection: close")
                self.assertEqual(Reader(client.recv).read().body, b"hello")
                self.assertEqual(client.recv(1), b"")
                with socket.socket(fileno=client.detach()) as plain:
                    plain.settimeout(PATIENCE / 2)
                    self.assertEqual(plain.recv(1), b"")

    def test_a_client_that_reads_slowly_gets_everything(self) -> None:
        with mock.patch.object(connection, "CLOSE_NOTIFY", 0.1):
            for running in self.on_each_loop():
                client = self.connect(running)
                self.ask(client, "/large", "Connection: close")
                reader = Reader(client.recv)
                head = reader.read_head()
                self.assertEqual(head.get("Connection"), "close")
                for _ in range(3):
                    # Longer than the client may take to end, once it has everything.
                    time.sleep(0.5)
                    reader.read_exactly(64 * 1024)
                rest = reader.read_exactly(LARGE - 3 * 64 * 1024)
                self.assertEqual(len(rest), LARGE - 3 * 64 * 1024)
                self.assertTrue(reader.ended())

    def test_one_that_was_refused_is_told_of_the_end(self) -> None:
        """At once where it has nothing more to say, or else when it has had its time.

        It cannot see that we have said all, as it could without TLS.
        """
        for patience in ({"LINGER": 1000.0}, {"LINGER": 0.1, "QUIET": 1000.0}):
            with mock.patch.multiple(connection, **patience):
                for running in self.on_each_loop():
                    client = self.connect(running)
                    client.sendall(b"nonsense\r\n\r\n")
                    reader = Reader(client.recv)
                    self.assertEqual(reader.read().status, 400)
                    self.assertTrue(reader.ended())

    def test_one_that_was_refused_is_heard_out(self) -> None:
        """What it sends on does not cost it the answer."""
        for running in self.on_each_loop():
            client = self.connect(running)
            client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")
            for _ in range(64):
                client.sendall(bytes(64 * 1024))
            reader = Reader(client.recv)
            self.assertEqual(reader.read().status, 400)
            self.assertTrue(reader.ended())

    def test_one_that_sleeps_does_not_hold_up_a_stop(self) -> None:
        timeouts = {"GRACEFUL": 1000, "APPLICATION_CLOSE": 1}
        with mock.patch.object(server, "CLOSE_NOTIFY", 0.1):
            for running in self.on_each_loop(TIMEOUTS=timeouts):
                client = self.connect(running)
                self.ask(client, "/")
                self.assertEqual(Reader(client.recv).read().body, b"hello")
                with contextlib.closing(client):
                    running.stop()
                    running.join()
