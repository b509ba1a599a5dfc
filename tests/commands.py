"""Commands started as a user starts them, standard output and error kept apart."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent

#: How long a test waits for what must come, on a busy machine.
PATIENCE = 60.0

HOST = "127.0.0.1"


class Process:
    """A command under way."""

    def __init__(
        self,
        test: unittest.TestCase,
        arguments: list[str],
        directory: Path,
        environment: dict[str, str],
        inherited: Sequence[int],
    ) -> None:
        self._test = test
        self._arrived = threading.Condition()
        self._texts = {"stdout": "", "stderr": ""}
        self._popen = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=inherited,
        )
        test.addCleanup(self._end)
        self._readers = [
            threading.Thread(target=self._collect, args=(name, stream), daemon=True)
            for name, stream in (
                ("stdout", self._popen.stdout),
                ("stderr", self._popen.stderr),
            )
        ]
        for reader in self._readers:
            reader.start()

    def _collect(self, name: str, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                with self._arrived:
                    self._texts[name] += line.decode(errors="replace")
                    self._arrived.notify_all()

    def _end(self) -> None:
        self._popen.kill()
        self._popen.wait()
        for reader in self._readers:
            reader.join(PATIENCE)

    @property
    def stdout(self) -> str:
        return self._texts["stdout"]

    @property
    def stderr(self) -> str:
        return self._texts["stderr"]

    def expect(self, pattern: str, where: str = "stdout") -> re.Match[str]:
        """Wait for ``pattern`` anywhere in what was printed."""
        expression = re.compile(pattern, re.MULTILINE)

        def found() -> bool:
            return bool(expression.search(self._texts[where])) or not self._is_talking

        with self._arrived:
            self._arrived.wait_for(found, PATIENCE)
            match = expression.search(self._texts[where])
        if match is None:
            self._test.fail(
                f"no {pattern!r} on {where}:\n{self.stdout}\n----\n{self.stderr}"
            )
        return match

    @property
    def _is_talking(self) -> bool:
        return any(reader.is_alive() for reader in self._readers)

    def poll_until(self, condition: Callable[[], bool]) -> None:
        """Wait for what the process does without a word."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline or self._popen.poll() is not None:
                self._test.fail(f"never:\n{self.stdout}\n----\n{self.stderr}")
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def wait(self) -> int:
        """The exit code, once everything printed has been read."""
        try:
            code = self._popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._test.fail(f"still running:\n{self.stdout}\n----\n{self.stderr}")
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()


class CommandTestCase(unittest.TestCase):
    """Each test has a directory of its own, and starts commands in it."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="commands-")).resolve()
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(textwrap.dedent(text))

    def start(self, *arguments: str, inherited: Sequence[int] = ()) -> Process:
        """Start Python with ``arguments``; it is killed when the test ends."""
        variables = {k: v for k, v in os.environ.items() if not k.startswith("DJANGO_")}
        variables["PYTHONPATH"] = str(ROOT)
        return Process(self, list(arguments), self.directory, variables, inherited)

    def taken_port(self) -> int:
        """A port that another socket listens on."""
        listener = socket.create_server((HOST, 0))
        self.addCleanup(listener.close)
        port: int = listener.getsockname()[1]
        return port

    def get(self, port: int, path: str = "/", **headers: str) -> tuple[int, str]:
        """Status and body of a response."""
        response, body = self.fetch(port, path, **headers)
        return response.status, body

    def fetch(
        self, port: int, path: str = "/", **headers: str
    ) -> tuple[http.client.HTTPResponse, str]:
        connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("GET", path, headers=named)
            response = connection.getresponse()
            return response, response.read().decode()
        finally:
            connection.close()

    def get_unix(self, path: Path, target: str = "/") -> bytes:
        """A whole response from a server on a Unix socket."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            request = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            client.sendall(request.encode())
            answer = b""
            while data := client.recv(65536):
                answer += data
            return answer
