"""What a service tells systemd about itself (``Type=notify``, sd_notify(3)).

Messages are datagrams to the socket that ``NOTIFY_SOCKET`` names; where it names none,
nobody asked. They never block and never fail the server: a service manager that has no
time for us is no reason to stop.

The watchdog is fed from the event loop, so that it starves when the loop stands still.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping

from ..application.context import server_log


class Service:
    """One process that systemd watches over; silent where it does not."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._pause = _pause_between_signs(environment)
        self._socket: socket.socket | None = None
        self._next_sign: asyncio.TimerHandle | None = None
        self._ready = ""

    def ready(self, urls: list[str]) -> None:
        """Connections are accepted; from now on the watchdog is fed."""
        self._ready = f"READY=1\nSTATUS=Listening on {', '.join(urls)}"
        self._tell(self._ready)
        if self._next_sign is None and self._address and self._pause is not None:
            self._give_sign(asyncio.get_running_loop(), self._pause)

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Around what SIGHUP does (``Type=notify-reload``)."""
        if self._address:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._tell(f"RELOADING=1\nMONOTONIC_USEC={now}")
        try:
            yield
        finally:
            if self._ready:
                self._tell(self._ready)

    def stopping(self) -> None:
        """The server drains."""
        self._ready = ""
        self._tell("STOPPING=1\nSTATUS=Finishing requests")

    def close(self) -> None:
        if self._next_sign is not None:
            self._next_sign.cancel()
        if self._socket is not None:
            self._socket.close()

    def _give_sign(self, loop: asyncio.AbstractEventLoop, pause: float) -> None:
        self._tell("WATCHDOG=1")
        self._next_sign = loop.call_later(pause, self._give_sign, loop, pause)

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto(message.encode(), self._address)
        except OSError as error:
            server_log.warning("systemd cannot be told %r: %s", message, error)


def _address(name: str) -> str:
    """A path, or an abstract name, which systemd writes with ``@``."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else ""


def _pause_between_signs(environment: Mapping[str, str]) -> float | None:
    """Seconds; half of what systemd allows, as sd_watchdog_enabled(3) advises."""
    try:
        if int(environment.get("WATCHDOG_PID", os.getpid())) != os.getpid():
            return None
        microseconds = int(environment["WATCHDOG_USEC"])
    except (KeyError, ValueError):
        return None
    return microseconds / 2e6 if microseconds > 0 else None
