"""Throw-away Django projects, started by tests as a user would start them.

A test copies one into a temporary directory, edits it as it likes, and talks to
``manage.py`` through the command line, its output, signals and sockets.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

#: How long a test waits for what must come, on a busy machine.
PATIENCE = 60.0

#: Twice the time that a reloader takes to look at every file.
REACTION = 2.0


class Project:
    """A private copy of ``tests/projects/pages``, removed when ``test`` ends."""

    def __init__(self, test: unittest.TestCase, settings: str = "") -> None:
        self._test = test
        # Resolved, for the reloader reports resolved paths.
        self.path = Path(tempfile.mkdtemp(prefix="pages-")).resolve()
        test.addCleanup(shutil.rmtree, self.path, ignore_errors=True)
        shutil.copytree(
            HERE / "pages",
            self.path,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        if settings:
            self.write("pages/settings_of_test.py", settings)

    def write(self, name: str, text: str) -> None:
        """Save a file as an editor does: a later modification time, a new inode."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + "~")
        draft.write_text(text)
        before = path.stat().st_mtime if path.exists() else 0
        stamp = max(time.time(), before + 1)
        os.utime(draft, (stamp, stamp))
        draft.replace(path)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.path / name).read_text()
        self._test.assertIn(old, text)
        self.write(name, text.replace(old, new))

    def save_until_noticed(self, name: str, text: str, running: Running) -> None:
        """Save a file until the reloader of ``running`` has seen it change."""
        changed = rf"{re.escape(str(self.path / name))} changed, reloading\.\n"
        self.save_until(
            name, text, lambda: running.prints(changed, within=REACTION) is not None
        )

    def save_until(self, name: str, text: str, noticed: Callable[[], bool]) -> None:
        """Save a file, again and again, until ``noticed`` says yes.

        A reloader takes the files as it first sees them, and does not say when it has.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.write(name, text)
            if noticed():
                return
        self._test.fail(f"{name} was saved, and nobody noticed")

    def manage(
        self, *arguments: str, terminal: bool = False, **environment: str
    ) -> Running:
        """Start ``manage.py``; it is killed when the test ends, if it still runs.

        On a ``terminal`` the command sees a TTY and colours its output.
        """
        variables = {
            **{k: v for k, v in os.environ.items() if not k.startswith("DJANGO_")},
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        command = [sys.executable, "manage.py", *arguments]
        running = Running(self._test, command, self.path, variables, terminal)
        self._test.addCleanup(running.kill)
        return running

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Run ``manage.py`` to its end: exit code and output."""
        running = self.manage(*arguments, **environment)
        return running.wait(), running.output


class Running:
    """A command under way, the leader of its own process group."""

    def __init__(
        self,
        test: unittest.TestCase,
        command: list[str],
        directory: Path,
        environment: dict[str, str],
        terminal: bool,
    ) -> None:
        self._test = test
        self._arrived = threading.Condition()
        self._output = ""
        self._read = 0
        self._ended = False
        ours, theirs = pty.openpty() if terminal else os.pipe()
        self._process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._collect, args=(ours,), daemon=True)
        self._reader.start()

    def _collect(self, descriptor: int) -> None:
        with open(descriptor, "rb", buffering=0) as stream:
            while True:
                try:
                    data = stream.read(65536)
                except OSError as error:
                    # How Linux ends a pseudo-terminal that nobody holds any more.
                    if error.errno != errno.EIO:
                        raise
                    data = b""
                with self._arrived:
                    self._output += data.decode(errors="replace").replace("\r\n", "\n")
                    self._ended = not data
                    self._arrived.notify_all()
                if not data:
                    return

    @property
    def output(self) -> str:
        with self._arrived:
            return self._output

    @property
    def pid(self) -> int:
        return self._process.pid

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for ``pattern`` in what was printed since the last match."""
        match = self.prints(pattern, within=PATIENCE)
        if match is None:
            self._test.fail(f"no {pattern!r} in:\n{self.output}")
        return match

    def prints(self, pattern: str, *, within: float) -> re.Match[str] | None:
        """Like :meth:`expect`, for what may not come."""
        expression = re.compile(pattern)
        match = None

        def found() -> bool:
            nonlocal match
            match = expression.search(self._output, self._read)
            return match is not None or self._ended

        with self._arrived:
            self._arrived.wait_for(found, within)
            if match is not None:
                self._read = match.end()
        return match

    def expect_port(self) -> int:
        """Wait for the announcement of a server; the port it serves on."""
        announced = self.expect(r"Starting .*development server .*:(\d+)/\n")
        self.expect(r"Quit the server with CONTROL-C\.")
        return int(announced[1])

    def interrupt(self) -> None:
        """Ctrl-C: the terminal tells every process of the group."""
        os.killpg(self.pid, signal.SIGINT)

    def terminate(self) -> None:
        """SIGTERM to the command alone, as a process manager sends it."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._test.fail(f"still running; it printed:\n{self.output}")
        self._reader.join(PATIENCE)
        return code

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(PATIENCE)

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
