"""The example project as a user has it: started by its command, in its own process.

Every server has a database of its own that outlives it, so that it can be killed and
started again on the same port with everything that was said still there.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from .listening import Authority
from .ports import free_port

ROOT = Path(__file__).resolve().parent.parent
MANAGE = ROOT / "example_project" / "manage.py"

#: Seconds that a command may take on a machine that is busy with other tests.
PATIENCE = 60


#: What the example reads from the environment, of which the machine may have its own.
SETTINGS = frozenset(
    {"ALLOWED_HOSTS", "CHAT_HEARTBEAT", "DEBUG", "REDIS_URL", "SECRET_KEY"}
)

#: What follows ``python`` to start the example in each of the ways it can be started.
COMMANDS = {
    "runserver": [str(MANAGE), "runserver", "--noreload", "127.0.0.1:{port}"],
    "runserver --noasgi": [
        str(MANAGE),
        "runserver",
        "--noasgi",
        "--noreload",
        "127.0.0.1:{port}",
    ],
    "runserver --https": [
        str(MANAGE),
        "runserver",
        "--https",
        "--noreload",
        "127.0.0.1:{port}",
    ],
    "runserver, reloading": ["manage.py", "runserver", "127.0.0.1:{port}"],
    "runasgi": [str(MANAGE), "runasgi", "127.0.0.1:{port}"],
    "runasgi, TLS": [
        str(MANAGE),
        "runasgi",
        "127.0.0.1:{port}",
        "--certificate={directory}/full.pem",
        "--private-key={directory}/key.pem",
    ],
    "django-daphne": [
        "-m",
        "django_daphne",
        "-p",
        "{port}",
        "example_project.asgi:application",
    ],
}


class ExampleServer:
    """One of ``COMMANDS``, run in the directory ``cwd``."""

    def __init__(self, command: str, cwd: Path = ROOT, **environment: str) -> None:
        self.command = command
        self.cwd = cwd
        self._directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.directory = Path(self._directory.name)
        self.environment = {
            **{k: v for k, v in os.environ.items() if k not in SETTINGS},
            "EXAMPLE_DATABASE": str(self.directory / "db.sqlite3"),
            "EXAMPLE_MEDIA": str(self.directory / "media"),
            # Where development certificates are kept.
            "XDG_CACHE_HOME": str(self.directory / "cache"),
            "DJANGO_SETTINGS_MODULE": "example_project.settings",
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        # The same for every start, and nobody else's in between.
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader: threading.Thread | None = None

    @property
    def url(self) -> str:
        secure = "TLS" in self.command or "--https" in self.command
        scheme = "https" if secure else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def manage(self, *arguments: str) -> str:
        """What a management command prints; it has to succeed."""
        answer = subprocess.run(
            [sys.executable, str(MANAGE), *arguments],
            env=self.environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if answer.returncode:
            raise AssertionError(f"{arguments}:\n{answer.stdout}{answer.stderr}")
        return answer.stdout

    def seed(self) -> None:
        """The demo's room and people."""
        (self.directory / "db.sqlite3").write_bytes(_seeded_database())

    def start(self) -> None:
        """Start, or start again on the same port; returns when it is listening."""
        self.lines.clear()
        self.process = subprocess.Popen(
            [
                sys.executable,
                *(
                    part.format(port=self.port, directory=self.directory)
                    for part in COMMANDS[self.command]
                ),
            ],
            env=self.environment,
            cwd=self.cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # The reloader has a child, and both have to go.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=[self.process])
        self._reader.start()
        self.wait_until_listening()

    def wait_until_listening(self) -> None:
        self.wait_for(rf"https?://127\.0\.0\.1:{self.port}\b")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until the server has printed this."""
        found = self.printed(pattern, PATIENCE)
        if found is None:
            raise AssertionError(f"No {pattern!r} in what was printed:\n{self.output}")
        return found

    def printed(self, pattern: str, patience: float) -> re.Match[str] | None:
        """What matches, as soon as it is printed, or None after so many seconds."""
        found: re.Match[str] | None = None

        def arrived() -> bool:
            nonlocal found
            found = re.search(pattern, self.output)
            return found is not None or self.process.poll() is not None

        with self._news:
            self._news.wait_for(arrived, patience)
        return found

    def _read(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        process.wait()
        with self._news:
            self._news.notify_all()

    def kill(self) -> None:
        """As a power cut would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self._ended()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop, and return how it did."""
        self.process.send_signal(number)
        return self._ended()

    def _ended(self) -> int:
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self.process.stdout.close()
        self.process = None
        return status

    def close(self) -> None:
        if self.process is not None:
            self.kill()
        self._directory.cleanup()


@functools.cache
def _seeded_database() -> bytes:
    project = ExampleServer("runserver")
    try:
        project.manage("seed_demo")
        return (project.directory / "db.sqlite3").read_bytes()
    finally:
        project.close()


def seeded(
    command: str, cleanup: Callable[..., object], **environment: str
) -> ExampleServer:
    """A running server with the demo's room and people, which ends with the test."""
    server = ExampleServer(command, **environment)
    cleanup(server.close)
    server.seed()
    if "TLS" in command:
        Authority(server.directory)
    server.start()
    return server
