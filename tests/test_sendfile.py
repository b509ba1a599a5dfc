"""Files that the kernel copies into the socket, and those that it cannot."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from django_daphne.server import sendfile

from .certificates import LOCAL, Files, authority
from .serving import PATIENCE, Client, Serving, serving
from .test_http import longer_than
from .test_tls import eventually

SIZE = 3 * 1024 * 1024 + 17

requires_sendfile = unittest.skipUnless(sendfile.AVAILABLE, "no os.sendfile here")


def content(size: int = SIZE) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


class Copies:
    """Counts what ``os.sendfile`` copies, and may shorten its turns."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.copied = 0
        self._most = most
        self._own = os.sendfile

    def __call__(self, out: int, file: int, offset: int, count: int) -> int:
        sent = self._own(out, file, offset, min(count, self._most))
        self.copied += sent
        return sent


@requires_sendfile
class SendfileTests(unittest.TestCase):
    def setUp(self) -> None:
        directory = self.enterContext(tempfile.TemporaryDirectory())
        self.directory = Path(directory)
        self.path = self.directory / "file"
        self.path.write_bytes(content())
        self.failed: list[BaseException] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise ValueError("no lifespan")
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.pathsend", "path": str(self.path)})
        except BaseException as error:
            self.failed.append(error)
            raise

    def count(self, most: int = 1 << 30) -> Copies:
        copies = Copies(most)
        self.enterContext(mock.patch.object(os, "sendfile", copies))
        return copies

    def check(self, **options: Any) -> None:
        copies = self.count()
        with serving(self.app, **options) as server, server.connect() as client:
            for _ in range(3):
                answer = client.get()
                self.assertEqual(answer.get("Content-Length"), str(SIZE))
                self.assertEqual(answer.body, content())
        self.assertEqual(copies.copied, 3 * SIZE)

    def test_tcp(self) -> None:
        self.check()

    def test_asyncio(self) -> None:
        self.check(loop_factory=asyncio.new_event_loop)

    def test_pipelined(self) -> None:
        """What follows a file begins where the file ends."""
        copies = self.count(most=100_001)
        with serving(self.app) as server, server.connect() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n" * 3)
            for _ in range(3):
                self.assertEqual(client.read().body, content())
        self.assertEqual(copies.copied, 3 * SIZE)

    def test_unix(self) -> None:
        copies = self.count()
        path = str(self.directory / "socket")
        with (
            serving(self.app, {"BIND": [f"unix:{path}"]}),
            socket.socket(socket.AF_UNIX) as client,
        ):
            client.settimeout(PATIENCE)
            client.connect(path)
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            received = b"".join(iter(lambda: client.recv(65536), b""))
        self.assertEqual(received.partition(b"\r\n\r\n")[2], content())
        self.assertEqual(copies.copied, SIZE)

    def test_tls_reads(self) -> None:
        copies = self.count()
        root = authority()
        tls = Files(self.directory).tls("tls", root.issue("localhost", LOCAL))
        context = ssl.create_default_context(cadata=root.pem)
        with (
            serving(self.app, {"TLS": tls}) as server,
            Client("127.0.0.1", server.port, tls=context) as client,
        ):
            self.assertEqual(client.get().body, content())
        self.assertEqual(copies.copied, 0)

    def test_a_small_file_is_read(self) -> None:
        self.path.write_bytes(b"small")
        copies = self.count()
        with serving(self.app) as server, server.connect() as client:
            self.assertEqual(client.get().body, b"small")
        self.assertEqual(copies.copied, 0)

    def test_a_file_that_shrinks(self) -> None:
        """The client sees that something is missing."""
        own = os.sendfile

        def shrink(out: int, file: int, offset: int, count: int) -> int:
            if offset:
                os.truncate(self.path, offset)
            return own(out, file, offset, min(count, 100_000))

        with (
            mock.patch.object(os, "sendfile", shrink),
            self.assertLogs("django_daphne.server", "ERROR") as logs,
            serving(self.app) as server,
            server.connect() as client,
        ):
            client.request()
            self.assertEqual(client.read_head().get("Content-Length"), str(SIZE))
            self.assertEqual(client.read_to_end(), content(100_000))
        self.assertIn("became shorter", "".join(logs.output))

    def test_what_the_kernel_cannot_copy(self) -> None:
        """It is read."""
        own = os.sendfile

        def cannot(out: int, file: int, offset: int, count: int) -> int:
            if offset >= begin:
                raise OSError(errno.EINVAL, "Invalid argument")
            return own(out, file, offset, begin - offset)

        with mock.patch.object(os, "sendfile", cannot):
            for begin in (0, 100_000):
                with self.subTest(begin=begin):
                    self.check_contents()

    def test_a_file_that_is_written_anew(self) -> None:
        """Empty for a moment, and then as long as it was."""
        own = os.sendfile

        def empty(out: int, file: int, offset: int, count: int) -> int:
            return 0 if offset else own(out, file, 0, min(count, 100_000))

        with mock.patch.object(os, "sendfile", empty):
            self.check_contents()

    def test_no_descriptor_left(self) -> None:
        full = OSError(errno.EMFILE, "Too many open files")
        with mock.patch.object(os, "dup", side_effect=full):
            self.check_contents()

    def check_contents(self) -> None:
        with serving(self.app) as server, server.connect() as client:
            for _ in range(2):
                self.assertEqual(client.get().body, content())
        self.assertEqual(self.failed, [])

    def test_a_client_that_reads_nothing(self) -> None:
        """``TIMEOUTS["WRITE"]`` counts here too."""
        self.path.write_bytes(bytes(64 << 20))
        for bind in ("127.0.0.1:0", f"unix:{self.directory}/idle"):
            with (
                self.subTest(bind),
                self.assertLogs("django_daphne.protocol", "INFO") as logs,
                serving(
                    self.app, {"BIND": [bind], "TIMEOUTS": {"WRITE": 0.2}}
                ) as server,
                self.connect(server, bind) as client,
            ):
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                eventually(lambda: bool(self.failed))
            self.assertTrue(self.failed)
            self.assertIn("of the response in", "".join(logs.output))
            self.failed.clear()

    def test_a_slow_client_gets_it_all(self) -> None:
        """One that takes a little all the time is given the time."""
        self.path.write_bytes(content(4 << 20))
        path = f"{self.directory}/slow"
        with (
            serving(self.app, {"BIND": [f"unix:{path}"], "TIMEOUTS": {"WRITE": 3}}),
            socket.socket(socket.AF_UNIX) as client,
        ):
            client.settimeout(PATIENCE)
            client.connect(path)
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            received = bytearray()
            pauses = longer_than(3)
            while data := client.recv(16 * 1024):
                received += data
                time.sleep(next(pauses))
        self.assertEqual(received.partition(b"\r\n\r\n")[2], content(4 << 20))

    def connect(self, server: Serving, bind: str) -> socket.socket:
        if bind.startswith("unix:"):
            client = socket.socket(socket.AF_UNIX)
            client.connect(bind.removeprefix("unix:"))
        else:
            client = socket.create_connection((server.host, server.port))
        client.settimeout(PATIENCE)
        return client

    def test_no_descriptor_is_kept(self) -> None:
        self.path.write_bytes(bytes(64 << 20))
        with serving(self.app) as server:
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(20):
                client = server.connect()
                client.request()
                client.read_head()
                client.vanish()
            eventually(lambda: len(self.failed) == 20)
            eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)
