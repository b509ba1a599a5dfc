"""One clock for all connections of a process.

Nothing exact is needed of a connection's timeouts, and nothing may be paid for them by
each request. So time advances in ticks of a quarter of a second; a connection that arms
its timer notes the tick at which it is due and is filed under it. Re-arming for later
costs a store: the connection stays filed where it is and is filed anew when that tick
finds it not yet due.

The tick also makes the ``Date`` line, which all responses share.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import Protocol

from ..application.context import server_log
from ..protocol.wire import TICK

#: How far a late tick catches up. A loop that was blocked for longer has heard nobody:
#: what came in that time waits unread behind this very tick, and no peer was slow.
CATCH_UP = 2

#: Seconds between two ticks that are worth a line in the log. A machine that is merely
#: busy does not hold a process up for so long.
STANDSTILL = 5.0


class Timed(Protocol):
    """What the clock keeps of a connection."""

    #: The tick under which it is filed, or 0.
    filed: int

    def tick(self, now: int) -> None:
        """A tick under which it was filed has come."""


class Clock:
    """Ticks from :meth:`start` to :meth:`stop`."""

    __slots__ = (
        "_due",
        "_handle",
        "_loop",
        "_second",
        "_zero",
        "date_line",
        "now",
        "seconds",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._zero = self.seconds = loop.time()
        self._due: dict[int, set[Timed]] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._second = 0
        #: Ticks since the start; never 0, which means "not armed".
        self.now = 1
        self.date_line = b""
        self._make_date_line()

    def start(self) -> None:
        if self._handle is None:
            self.seconds = self._loop.time()
            self._tick()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def after(self, seconds: float) -> int:
        """The tick that comes no earlier than ``seconds`` from now."""
        return self.now + int(seconds / TICK) + 2

    def file(self, entry: Timed, tick: int) -> None:
        """Call ``entry.tick`` at ``tick``, unless it is filed for an earlier one."""
        if entry.filed:
            if entry.filed <= tick:
                return
            self.forget(entry)
        entry.filed = tick
        self._due.setdefault(tick, set()).add(entry)

    def forget(self, entry: Timed) -> None:
        """Keep no hold of ``entry``: thousands that closed early would pile up."""
        filed, entry.filed = entry.filed, 0
        bucket = self._due.get(filed)
        if bucket is not None:
            bucket.discard(entry)

    def _tick(self) -> None:
        self._handle = self._loop.call_later(TICK, self._tick)
        last = self.now
        seconds = self._loop.time()
        still = seconds - self.seconds
        self.seconds = seconds
        if still > STANDSTILL:
            server_log.warning(
                "The event loop stood still for %.1f s, and every client with it: "
                "something blocks it, such as synchronous work in a coroutine",
                still,
            )
        now = max(last, 1 + int((seconds - self._zero) / TICK))
        if now > last + CATCH_UP:
            self._zero += (now - last - CATCH_UP) * TICK
            now = last + CATCH_UP
        self.now = now
        self._make_date_line()
        due = self._due
        if due:
            for tick in range(last, now + 1):
                for entry in due.pop(tick, ()):
                    if entry.filed == tick:
                        entry.filed = 0
                        try:
                            entry.tick(now)
                        except Exception:
                            # One connection's fault must not stop all others' time.
                            server_log.exception("A timeout failed")

    def _make_date_line(self) -> None:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self.date_line = b"Date: " + formatdate(second, usegmt=True).encode()
