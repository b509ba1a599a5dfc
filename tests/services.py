"""What the tests need beside Python, and what happens where it is missing.

``@require("nginx")`` on a test or a class of tests skips it where nginx is not
installed, so that a newcomer's first run is green. With
``DJANGO_DAPHNE_TEST_SERVICES=required``, as in CI, it fails instead: a test that is
silently skipped everywhere tests nothing. ``python2.7`` alone is never demanded, since
distributions no longer have it.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

Decorated = TypeVar("Decorated", type, Callable[..., Any])

#: The names under which distributions install each service.
PROGRAMS = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "curl": ("curl",),
    "h2load": ("h2load",),
    "haproxy": ("haproxy",),
    "nghttp": ("nghttp",),
    "nginx": ("nginx",),
    "openssl": ("openssl",),
    "pebble": ("pebble",),
    "pebble-challtestsrv": ("pebble-challtestsrv",),
    "python2.7": ("python2.7",),
    "redis": ("redis-server",),
    "wrk": ("wrk",),
}

OPTIONAL = frozenset({"python2.7"})

#: Servers are installed where an ordinary user's PATH does not lead.
SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def required(service: str) -> bool:
    """Whether a missing ``service`` is a failure."""
    demanded = os.environ.get("DJANGO_DAPHNE_TEST_SERVICES") == "required"
    return demanded and service not in OPTIONAL


@functools.cache
def find(service: str) -> str | None:
    """The path of the program, or None where it is missing."""
    for program in PROGRAMS[service]:
        for directory in _directories():
            path = shutil.which(program, path=directory)
            if path is not None and _runs(path):
                return path
    return None


def _directories() -> Iterator[str]:
    yield from os.get_exec_path()
    yield from SYSTEM_DIRECTORIES
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob("versions/2.7*/bin")))


def _runs(path: str) -> bool:
    # pyenv leaves a script of every version's name on PATH, which fails unless that
    # version is chosen.
    if "shims" not in Path(path).parts:
        return True
    return subprocess.run([path, "--version"], capture_output=True).returncode == 0


def require(*services: str) -> Callable[[Decorated], Decorated]:
    """Decorate a test, or a class of tests, that needs every one of ``services``."""
    missing = [service for service in services if find(service) is None]
    if not missing:
        return lambda test: test
    reason = f"needs {', '.join(missing)}"
    if not any(required(service) for service in missing):
        return unittest.skip(reason)
    return _fail(f"{reason}, and DJANGO_DAPHNE_TEST_SERVICES demands it")


def _fail(reason: str) -> Callable[[Decorated], Decorated]:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(reason)

    def decorate(test: Decorated) -> Decorated:
        if isinstance(test, type):
            test.setUpClass = classmethod(refuse)  # type: ignore[attr-defined]
            return test
        return functools.wraps(test)(refuse)  # type: ignore[return-value]

    return decorate
