"""What systemd hears: a datagram socket that takes its place."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import unittest
from pathlib import Path

from .serving import PATIENCE, Process

URL = r"http://127\.0\.0\.1:\d+"


class ServiceTests(unittest.TestCase):
    def setUp(self) -> None:
        directory = self.enterContext(tempfile.TemporaryDirectory())
        self.path = str(Path(directory) / "notify")
        self.systemd = self.listen(self.path)

    def listen(self, address: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        sock.settimeout(PATIENCE)
        sock.bind(address)
        return sock

    def start(self, application: str = "hello", **environment: str) -> Process:
        variables = {"NOTIFY_SOCKET": self.path, **environment}
        settings = {"LIFESPAN": "off", "TIMEOUTS": {"GRACEFUL": PATIENCE}}
        name = f"tests.asgi_apps:{application}"
        process = Process(name, settings, environment=variables)
        return self.enterContext(process)

    def hear(self) -> dict[str, str]:
        lines = self.systemd.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def test_a_whole_life(self) -> None:
        process = self.start()
        ready = self.hear()
        self.assertEqual(ready.pop("READY"), "1")
        self.assertRegex(ready.pop("STATUS"), f"^Listening on {URL}$")
        self.assertEqual(ready, {})
        # It is true by then.
        with process.connect() as client:
            self.assertEqual(client.get().status, 200)
        process.signal(signal.SIGHUP)
        reloading = self.hear()
        self.assertEqual(reloading["RELOADING"], "1")
        self.assertGreater(int(reloading["MONOTONIC_USEC"]), 0)
        self.assertEqual(self.hear()["READY"], "1")
        process.terminate()
        self.assertEqual(self.hear()["STOPPING"], "1")
        self.assertEqual(process.wait(), 0)

    def test_an_abstract_socket(self) -> None:
        name = f"django-daphne-{os.getpid()}"
        self.systemd = self.listen("\0" + name)
        self.start(NOTIFY_SOCKET="@" + name)
        self.assertEqual(self.hear()["READY"], "1")

    def test_the_watchdog(self) -> None:
        self.start(WATCHDOG_USEC="200000")
        self.assertEqual(self.hear()["READY"], "1")
        for _ in range(3):
            self.assertEqual(self.hear(), {"WATCHDOG": "1"})

    def test_the_watchdog_of_another_process(self) -> None:
        process = self.start(WATCHDOG_USEC="1000", WATCHDOG_PID="1")
        self.assertEqual(self.hear()["READY"], "1")
        process.terminate()
        self.assertEqual(self.hear()["STOPPING"], "1")

    def test_nobody_listens(self) -> None:
        process = self.start(NOTIFY_SOCKET=self.path + "-not")
        process.expect("systemd cannot be told")
        with process.connect() as client:
            self.assertEqual(client.get().status, 200)
        process.terminate()
        self.assertEqual(process.wait(), 0)
        self.assertNotIn("Traceback", process.output)

    def test_nobody_asked(self) -> None:
        process = self.start(NOTIFY_SOCKET="", WATCHDOG_USEC="nonsense")
        with process.connect() as client:
            self.assertEqual(client.get().status, 200)
        process.terminate()
        self.assertEqual(process.wait(), 0)
        self.assertNotIn("systemd", process.output)
