"""What the tests of listening share: loops, certificates, servers in processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .certificates import authority

#: Long enough for any machine; nothing waits this long unless it fails.
DEADLINE = 30.0

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop
}
with contextlib.suppress(ImportError):
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop


class DirectoryTestCase(unittest.TestCase):
    """Tests with a directory of their own."""

    def setUp(self) -> None:
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory()))


class Authority:
    """A certificate authority, an intermediate, and files of what they sign."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        root = authority()
        middle = root.issue("middle", ca=True)
        leaf = middle.issue("localhost", ("localhost", "127.0.0.1"))
        self.root_path = self.write("root.pem", root.pem)
        self.chain = self.write("chain.pem", middle.pem)
        self.certificate = self.write("leaf.pem", leaf.pem)
        self.full = self.write("full.pem", leaf.pem + middle.pem)
        self.private_key = self.write("key.pem", leaf.key_pem())
        self.both = self.write("both.pem", leaf.key_pem() + leaf.pem + middle.pem)
        self.other_key = self.write("other.pem", root.key_pem())
        self.encrypted_key = self.write("encrypted.pem", leaf.key_pem("x"))

    def write(self, name: str, content: str) -> Path:
        path = self.directory / name
        path.write_text(content)
        return path

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.root_path))
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context


class ProcessTestCase(DirectoryTestCase):
    """Starts ``tests.echo_server`` and reads the events that it prints."""

    def setUp(self) -> None:
        super().setUp()
        plugins = self.directory / "plugins"
        shutil.copytree(Path(__file__).parent / "twisted_plugin", plugins)
        self.goodbye = self.directory / "goodbye"
        root = str(Path(__file__).resolve().parent.parent)
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([root, str(plugins)]),
            "KNOCK_GOODBYE": str(self.goodbye),
        }

    def start(self, *arguments: str, **options: Any) -> None:
        command = [sys.executable, "-m", "tests.echo_server", *arguments]
        self.run_process(command, **options)

    def run_process(self, command: list[str], **options: Any) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=options.pop("env", self.environment),
            **options,
        )
        self.output = b""
        self.addCleanup(self.end)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def event(self, *names: str) -> dict[str, Any]:
        """The next event of one of these names; those before it are passed over."""
        assert self.process.stdout is not None
        while True:
            line, newline, rest = self.output.partition(b"\n")
            if newline:
                self.output = rest
                event: dict[str, Any] = json.loads(line)
                if event["event"] in names:
                    return event
                continue
            ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE)
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not data:
                _, errors = self.process.communicate(timeout=DEADLINE)
                self.fail(f"no event {names}; the server said: {errors.decode()}")
            self.output += data

    def listening(self, *arguments: str, **options: Any) -> list[int]:
        """Start a server; return the ports of its listeners."""
        self.start(*arguments, **options)
        addresses = self.event("listening")["addresses"]
        return [a[1] if isinstance(a, list) else 0 for a in addresses]

    def connect(self, port: int, greeting: bytes = b"") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        self.addCleanup(sock.close)
        if greeting:
            sock.sendall(greeting)
        return sock

    def stop(self) -> str:
        """Stop the server gently; return what it wrote to stderr."""
        self.process.send_signal(signal.SIGTERM)
        self.event("finished")
        return self.ended(0)

    def ended(self, code: int) -> str:
        _, errors = self.process.communicate(timeout=DEADLINE)
        self.assertEqual(self.process.returncode, code, errors.decode())
        return errors.decode()

    def assertRefused(self, *arguments: str, says: str, **options: Any) -> None:
        self.start(*arguments, **options)
        self.assertEqual(self.ended(1), says + "\n")


def read_exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(min(1 << 20, count - len(data)))
        if not piece:
            raise AssertionError(f"ended after {len(data)} of {count} bytes")
        data += piece
    return bytes(data)


def read_to_end(sock: socket.socket) -> bytes:
    data = bytearray()
    while piece := sock.recv(1 << 20):
        data += piece
    return bytes(data)
