"""Servers and clients as processes: started on their core, always ended.

A server leads a session of its own. Whatever it forks stays in that session, is counted
with it, and is killed with it. Output goes to a file, whose tail tells why a server did
not start.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import environment
import machine
from certificate import Certificate
from problems import DidNotStart, ServerFailed
from servers import Launch, Server

#: From the command to a port that takes connections. The slowest peer needs 2 s.
START_SECONDS = 20

#: From SIGTERM to SIGKILL. Nothing is measured any more.
STOP_SECONDS = 2

#: Lines of a server's output that a failure quotes.
TAIL_LINES = 12

#: Listening ports are taken below Linux's ephemeral range, so that no client's own
#: port can take one between our look and the server's bind.
PORTS = range(20000, 32000)


class RunningServer:
    """A server that takes connections; see :func:`run_server`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self._process = process
        self._log = log
        self.port = port
        self.http_url = f"http://127.0.0.1:{port}/"
        self.https_url = f"https://127.0.0.1:{port}/"
        self.websocket_url = f"ws://127.0.0.1:{port}/"

    def cpu_clocks(self) -> dict[int, float]:
        self.check_alive()
        return machine.cpu_clocks(self._process.pid)

    def memory(self) -> machine.Memory:
        self.check_alive()
        return machine.memory(self._process.pid)

    def check_alive(self) -> None:
        code = self._process.poll()
        if code is not None:
            raise ServerFailed(f"exited with {code}")

    def tail(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-TAIL_LINES:]) or "(no output)"


@contextlib.contextmanager
def run_server(
    server: Server, app: str, core: int, tls: Certificate | None = None
) -> Iterator[RunningServer]:
    """A fresh server, listening; gone with all its processes when the block ends.

    :raises DidNotStart: with the tail of its output.
    """
    port = _free_port()
    launch = Launch(app, port, tls)
    command = ["taskset", "--cpu-list", str(core), *server.command(launch)]
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        log = Path(directory) / "output"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=environment.variables(),
                start_new_session=True,
            )
        try:
            running = RunningServer(process, port, log)
            _wait_until_listening(running)
            yield running
        finally:
            _end_session(process)


def _free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _wait_until_listening(running: RunningServer) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            running.check_alive()
        except ServerFailed as error:
            raise DidNotStart(f"{error}\n{running.tail()}") from error
        try:
            socket.create_connection(("127.0.0.1", running.port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise DidNotStart(f"took no connection in {START_SECONDS} s\n{running.tail()}")


def _end_session(process: subprocess.Popen[bytes]) -> None:
    session = process.pid
    process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        process.poll()
        if not machine.session_members(session):
            break
        time.sleep(0.02)
    for pid in machine.session_members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


class Client:
    """One of ``benchmarks/clients``, on the client's core, spoken to by lines.

    Every answer is one line; the client is killed when it takes longer than it may.
    """

    def __init__(self, core: int, script: str, *arguments: object) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        path = environment.HERE / "clients" / script
        self._process = subprocess.Popen(
            [
                *("taskset", "--cpu-list", str(core), str(environment.PYTHON)),
                *(str(path), *map(str, arguments)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment.variables(),
            text=True,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failure() from error

    def hear(self, seconds: float) -> str:
        assert self._process.stdout is not None
        watchdog = threading.Timer(seconds, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise self._failure()
        return line.strip()

    def hear_figures(self, seconds: float) -> dict[str, Any]:
        figures: dict[str, Any] = json.loads(self.hear(seconds))
        return figures

    def _failure(self) -> ServerFailed:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else "it took too long"
        return ServerFailed(f"the client gave up: {reason}")
