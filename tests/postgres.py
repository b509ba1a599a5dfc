"""A PostgreSQL server for the tests that want one, in a temporary directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import services
from .serving import PATIENCE

#: PostgreSQL refuses to run as root. Debian's package makes this user.
USER = "postgres"


@contextlib.contextmanager
def postgres() -> Iterator[dict[str, Any]]:
    """While inside there is a server; what ``DATABASES`` wants to know of it."""
    program = services.find("postgres")
    assert program is not None
    user = USER if os.geteuid() == 0 else None
    name = user or os.environ.get("USER", USER)
    # Short: a Unix socket's path may have some hundred characters.
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        if user:
            shutil.chown(directory, user)
        data = directory / "data"
        subprocess.run(
            [
                *(str(Path(program).resolve().with_name("initdb")), "--auth=trust"),
                *("--no-sync", f"--username={name}", f"--pgdata={data}"),
            ],
            user=user,
            cwd=directory,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        log = (directory / "log").open("wb")
        server = subprocess.Popen(
            [
                *(program, "-D", str(data), "-k", str(directory), "-h", ""),
                *("-c", "fsync=off", "-c", "max_connections=200"),
            ],
            user=user,
            cwd=directory,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_ready(directory, server)
            yield {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": "postgres",
                "USER": name,
                "HOST": str(directory),
            }
        finally:
            server.terminate()
            try:
                server.wait(PATIENCE)
            finally:
                server.kill()
                log.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _wait_until_ready(directory: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    pid_file = directory / "data" / "postmaster.pid"
    while time.monotonic() < deadline and server.poll() is None:
        # Its last line says how far the server is.
        if pid_file.exists() and "ready" in pid_file.read_text():
            return
        time.sleep(0.05)
    raise AssertionError((directory / "log").read_text())
