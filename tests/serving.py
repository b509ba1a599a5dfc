"""Real servers for tests, and a client that reads strictly what they answer.

:func:`serving` runs an application in this process, on a loop and thread of its own:
tests can share objects with it. :class:`Process` runs one in another process, for
signals, exit codes and memory; run as a module, this file is what it starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import json
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from django_daphne.config import Config, Hooks, build_config
from django_daphne.server import process

ROOT = Path(__file__).resolve().parent.parent

#: How long a test waits for what must come, on a busy machine.
PATIENCE = 30.0

#: A stop at the end of a test need not be gentle.
_TIMEOUTS = {"GRACEFUL": 3, "APPLICATION_CLOSE": 1}


def make_config(
    settings: Mapping[str, Any] | None = None, hooks: Hooks | None = None
) -> Config:
    """``settings`` in the shape of ``DJANGO_DAPHNE``, bound to a free port."""
    values: dict[str, Any] = {"BIND": ["127.0.0.1:0"], **(settings or {})}
    values["TIMEOUTS"] = {**_TIMEOUTS, **values.get("TIMEOUTS", {})}
    config = build_config(values)
    return config if hooks is None else dataclasses.replace(config, hooks=hooks)


# -- In this process -------------------------------------------------------------------


class Serving:
    """A server in a thread of this process."""

    def __init__(
        self,
        application: Any,
        config: Config,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] = process.new_event_loop,
        **options: Any,
    ) -> None:
        self._application = application
        self._config = config
        self._loop_factory = loop_factory
        self._options = options
        self._listening = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._hurry: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        #: ``http://127.0.0.1:54321``, of the first listener.
        self.url = ""
        self.urls: list[str] = []

    @property
    def host(self) -> str:
        return self.url.partition("://")[2].rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def ws_url(self) -> str:
        return "ws" + self.url.removeprefix("http")

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None
        return self._loop

    def start(self) -> None:
        self._thread.start()
        if not self._listening.wait(PATIENCE):
            raise AssertionError("the server did not start")
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Begin to drain, and return."""
        assert self._stop is not None
        self._call(self._stop.set)

    def hurry(self) -> None:
        """Make a drain under way skip to its end, and return."""
        assert self._hurry is not None
        self._call(self._hurry.set)

    def join(self) -> None:
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise AssertionError("the server did not stop")
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop without waiting for long for requests in progress."""
        if self._thread.is_alive():
            self.stop()
            self._thread.join(0.5)
            self.hurry()
        self.join()

    def connect(self, **options: Any) -> Client:
        return Client(self.host, self.port, **options)

    def _call(self, function: Callable[[], object]) -> None:
        # A loop that has closed needs to be told nothing.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                runner.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._listening.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()

        def listening(urls: list[str]) -> None:
            self.urls, self.url = urls, urls[0]
            self._listening.set()

        await process.serve(
            self._config,
            self._application,
            self._stop,
            hurry=self._hurry,
            on_listening=listening,
            **self._options,
        )


@contextlib.contextmanager
def serving(
    application: Any,
    settings: Mapping[str, Any] | None = None,
    *,
    hooks: Hooks | None = None,
    **options: Any,
) -> Iterator[Serving]:
    """Serve ``application`` while inside.

    ``settings`` are those of ``DJANGO_DAPHNE``, ``loop_factory`` makes another loop
    than the server would; other options go to
    :func:`django_daphne.server.process.serve`.
    """
    server = Serving(application, make_config(settings, hooks), **options)
    server.start()
    try:
        yield server
    finally:
        server.close()


# -- A client --------------------------------------------------------------------------


class Answer:
    """One response; ``complete`` is False where it ended before its framing says."""

    def __init__(
        self, status: int, reason: str, headers: list[tuple[str, str]]
    ) -> None:
        self.status = status
        self.reason = reason
        #: As they came, in order, names as sent.
        self.headers = headers
        self.body = b""
        self.trailers: list[tuple[str, str]] = []
        self.complete = False

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The one value of a field that must not be repeated."""
        values = self.all(name)
        if len(values) > 1:
            raise AssertionError(f"{name} is repeated: {values}")
        return values[0] if values else None

    def __repr__(self) -> str:
        return f"<{self.status} {self.headers} {self.body[:60]!r}>"


class Reader:
    """Reads responses from ``receive(size)``, and forgives nothing."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._held = bytearray()

    def read_some(self) -> bytes:
        """What is held, or else what one read gives; empty at the end."""
        return self._take(len(self._held)) or self._receive(65536)

    def read_until(self, mark: bytes) -> bytes:
        """Everything up to and with ``mark``; what was read beyond is held."""
        while mark not in self._held:
            self._hold_more(f"no {mark!r}")
        return self._take(self._held.index(mark) + len(mark))

    def read_exactly(self, size: int) -> bytes:
        while len(self._held) < size:
            self._hold_more(f"{size} bytes expected")
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken

    def _hold_more(self, complaint: str) -> None:
        data = self._receive(65536)
        if not data:
            raise EOFError(f"{complaint}: {bytes(self._held[-200:])!r}")
        self._held += data

    def read_to_end(self) -> bytes:
        """Everything until the server closes."""
        while data := self._receive(65536):
            self._held += data
        return self._take(len(self._held))

    def ended(self) -> bool:
        """Wait for the next byte or the end; whether it is the end."""
        if self._held:
            return False
        try:
            self._held += self._receive(65536)
        except ConnectionResetError:
            return True
        return not self._held

    def read_head(self) -> Answer:
        """The next response's head, be it informational."""
        head = self.read_until(b"\r\n\r\n").decode("latin-1")
        status_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 ([1-5][0-9]{2}) ([ -~]*)", status_line)
        if match is None:
            raise AssertionError(f"malformed status line {status_line!r}")
        return Answer(int(match[1]), match[2], [_field(line) for line in lines])

    def read(self, method: str = "GET") -> Answer:
        """The next final response, with its body."""
        while (answer := self.read_head()).status < 200:
            pass
        self._read_body(answer, method)
        return answer

    def _read_body(self, answer: Answer, method: str) -> None:
        coding, length = answer.get("Transfer-Encoding"), answer.get("Content-Length")
        if coding is not None and length is not None:
            raise AssertionError("Content-Length beside Transfer-Encoding")
        if method == "HEAD" or answer.status in (204, 304):
            answer.complete = True
        elif coding is not None:
            if coding != "chunked":
                raise AssertionError(f"Transfer-Encoding: {coding}")
            self._read_chunks(answer)
        elif length is not None:
            try:
                answer.body = self.read_exactly(int(length))
                answer.complete = True
            except (EOFError, ConnectionResetError):
                answer.body = self._take(len(self._held))
        else:
            try:
                answer.body = self.read_to_end()
                answer.complete = True
            except ConnectionResetError:
                pass

    def _read_chunks(self, answer: Answer) -> None:
        data = bytearray()
        try:
            while True:
                line = self.read_until(b"\r\n")
                if not re.fullmatch(rb"[0-9a-f]+\r\n", line):
                    raise AssertionError(f"malformed chunk size {line!r}")
                size = int(line, 16)
                if not size:
                    break
                data += self.read_exactly(size)
                if self.read_exactly(2) != b"\r\n":
                    raise AssertionError("a chunk does not end with CRLF")
            while line := self.read_until(b"\r\n")[:-2]:
                answer.trailers.append(_field(line.decode("latin-1")))
            answer.complete = True
        except (EOFError, ConnectionResetError):
            pass
        answer.body = bytes(data)


class Connected:
    """What has a ``socket``: used as a context manager, or closed by the test."""

    socket: socket.socket

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def vanish(self) -> None:
        """Close with a reset, as a client that crashes does."""
        self.socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)


class Client(Connected, Reader):
    """A blocking socket that speaks raw HTTP/1.1, over TLS if there is a context.

    ``source`` is the address that it connects from, where that matters.
    Used as a context manager, or closed by the test.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
        server_hostname: str = "localhost",
        source: str | None = None,
    ) -> None:
        self.socket = socket.socket(
            socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM
        )
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        try:
            if source is not None:
                self.socket.bind((source, 0))
            self.socket.connect((host, port))
            if tls is not None:
                self.socket = tls.wrap_socket(
                    self.socket, server_hostname=server_hostname
                )
        except BaseException:
            self.socket.close()
            raise
        super().__init__(self.socket.recv)

    def request(
        self, target: str = "/", method: str = "GET", *fields: str, body: bytes = b""
    ) -> None:
        """Send an HTTP/1.1 request with ``Host`` and, for a body, its length."""
        lines = [f"{method} {target} HTTP/1.1", "Host: test", *fields]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def get(self, target: str = "/", *fields: str) -> Answer:
        self.request(target, "GET", *fields)
        return self.read()


def _field(line: str) -> tuple[str, str]:
    match = re.fullmatch(
        r"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([^\x00-\x08\x0a-\x1f\x7f]*)", line
    )
    if match is None:
        raise AssertionError(f"malformed field {line!r}")
    return match[1], match[2]


# -- In another process ----------------------------------------------------------------


class Process:
    """``python -m tests.serving``, or another command, killed at the latest on exit.

    ``application`` is ``module:attribute``.
    """

    def __init__(
        self,
        application: str,
        settings: Mapping[str, Any] | None = None,
        *,
        command: list[str] | None = None,
        environment: Mapping[str, str] | None = None,
        inherited: Sequence[int] = (),
    ) -> None:
        if command is None:
            values = {"BIND": ["127.0.0.1:0"], **(settings or {})}
            command = ["-m", "tests.serving", application, json.dumps(values)]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        variables["ASGI_APPS_TALK"] = "1"
        variables.update(environment or {})
        # A file, not a pipe: nobody need read it for the server to go on.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
        self._process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=inherited,
        )
        self._url: str | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """Everything printed so far, on both streams."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for ``pattern`` in the output."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            ended = self._process.poll() is not None
            if match := re.search(pattern, self.output):
                return match
            if ended:
                break
            time.sleep(0.02)
        raise AssertionError(f"no {pattern!r} in:\n{self.output}")

    @property
    def url(self) -> str:
        if self._url is None:
            self._url = self.expect(r"Listening on (https?://\S+)")[1]
        return self._url

    @property
    def host(self) -> str:
        return self.url.partition("://")[2].rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def connect(self, **options: Any) -> Client:
        return Client(self.host, self.port, **options)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit code."""
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running; it printed:\n{self.output}") from None

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def resident(self) -> int:
        """The most memory that the process has held at once, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) * 1024

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


def main() -> int:
    name, settings = sys.argv[1:]
    module, _, attribute = name.partition(":")
    application = getattr(importlib.import_module(module), attribute)

    def announce(urls: list[str]) -> None:
        for url in urls:
            print("Listening on", url, flush=True)

    return process.run(
        build_config(json.loads(settings)), application, on_listening=announce
    )


if __name__ == "__main__":
    sys.exit(main())
