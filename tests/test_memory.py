"""What a gigabyte costs, in either direction, and a flood of small things."""

from __future__ import annotations

import contextlib
import socket
import threading
import unittest

from django.test import tag

from .serving import Client, Process

MIB = 1024 * 1024
GIGABYTE = 1024 * MIB

#: What a server may hold at most, an empty one being at about 45 MB.
BOUND = 100 * MIB


@tag("slow")
class MemoryTests(unittest.TestCase):
    def start(self, name: str) -> Process:
        process = Process(f"tests.asgi_apps:{name}", {"LOGGING": {"ACCESS": False}})
        self.addCleanup(process.__exit__)
        return process

    def connect(self, process: Process) -> Client:
        client = process.connect()
        self.addCleanup(client.close)
        return client

    def test_an_upload_to_a_slow_application(self) -> None:
        process = self.start("count_slowly")
        client = self.connect(process)
        client.request("/", "POST", f"Content-Length: {GIGABYTE}")
        piece = bytes(MIB)
        for _ in range(GIGABYTE // MIB):
            client.send(piece)
        self.assertEqual(client.read().body, b"%d" % GIGABYTE)
        self.assertLess(process.resident(), BOUND)

    def test_an_upload_in_chunks_to_a_slow_application(self) -> None:
        process = self.start("count_slowly")
        client = self.connect(process)
        client.request("/", "POST", "Transfer-Encoding: chunked")
        piece = b"%x\r\n%b\r\n" % (MIB, bytes(MIB))
        for _ in range(GIGABYTE // MIB):
            client.send(piece)
        client.send(b"0\r\n\r\n")
        self.assertEqual(client.read().body, b"%d" % GIGABYTE)
        self.assertLess(process.resident(), BOUND)

    def test_a_download_that_nobody_reads(self) -> None:
        process = self.start("endless")
        client = self.connect(process)
        client.request()
        process.expect("stuck after")
        self.assertLess(process.resident(), BOUND)

    def test_many_downloads_that_nobody_reads(self) -> None:
        process = self.start("endless")
        clients = [self.connect(process) for _ in range(50)]
        for client in clients:
            client.request()
        process.expect(r"(stuck after \d+\s+){50}")
        self.assertLess(process.resident(), BOUND)

    def test_a_download_that_is_read(self) -> None:
        process = self.start("endless")
        client = self.connect(process)
        client.request()
        client.read_until(b"\r\n\r\n")
        left = GIGABYTE
        while left:
            left -= len(client.read_some())
        self.assertLess(process.resident(), BOUND)

    def test_requests_sent_ahead_whose_answers_nobody_reads(self) -> None:
        process = self.start("large")
        client = self.connect(process)

        def flood() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 100)

        flooding = threading.Thread(target=flood)
        flooding.start()
        process.expect("large answers: 2\n")
        # Others are served meanwhile.
        other = self.connect(process)
        for _ in range(50):
            self.assertEqual(len(other.get().body), MIB)
        client.socket.shutdown(socket.SHUT_RDWR)
        flooding.join()
        self.assertLess(process.resident(), BOUND)

    def test_headers_that_never_end(self) -> None:
        process = self.start("hello")
        clients = [self.connect(process) for _ in range(200)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 60_000)
        self.assertEqual(self.connect(process).get().body, b"hello")
        self.assertLess(process.resident(), BOUND)

    def test_connections_that_come_and_go(self) -> None:
        process = self.start("hello")
        self.assertEqual(self.connect(process).get().body, b"hello")
        before = process.resident()
        for _ in range(5000):
            with process.connect() as client:
                client.request("/", "GET", "Connection: close")
                client.read_to_end()
        self.assertLess(process.resident(), before + 10 * MIB)
