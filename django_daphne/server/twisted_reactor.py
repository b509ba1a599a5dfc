"""Twisted's reactor as a guest of the running loop.

It is attached to the loop that serves everything else, neither starts nor stops it, and
takes no signals. A plugin that calls ``reactor.stop()`` asks the server to stop; the
reactor's own shutdown events fire when the server says so
(:meth:`GuestReactor.shut_down`). Twisted allows one reactor in the life of a process.
"""

from __future__ import annotations

import asyncio
import logging
import select
import sys
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.main import installReactor

from ..binds import Bind
from .refusals import refusal

#: How long plugins may take over their shutdown events, in seconds. The drain is over
#: by then, and nobody waits for anything but the exit.
SHUTDOWN_TIMEOUT = 5.0

#: Reads that empty a dead connection: a kernel's receive buffer of 16 MiB, in Twisted's
#: pieces of 64 KiB. What is not at its end then is not a dead connection.
LAST_READS = 256

logger = logging.getLogger("django_daphne.server")


class GuestReactor(AsyncioSelectorReactor):
    """A reactor on a loop that belongs to somebody else.

    ``on_stop`` is called, every time, when a plugin stops the reactor.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(cast(asyncio.AbstractEventLoop, HostLoop(loop)))
        self.loop = loop
        self.on_stop: Callable[[], None] | None = None
        self._shut_down: asyncio.Future[None] | None = None

    @property
    def serving(self) -> bool:
        return self._shut_down is None and not self.loop.is_closed()

    def stop(self) -> None:
        if self.on_stop is not None:
            self.on_stop()

    async def shut_down(self) -> None:
        """Fire the shutdown events, once, and wait until they are through."""
        if self._shut_down is None:
            self._shut_down = self.loop.create_future()
            self.addSystemEventTrigger("after", "shutdown", self._finish)
            super().stop()  # type: ignore[no-untyped-call]
        try:
            await asyncio.wait_for(asyncio.shield(self._shut_down), SHUTDOWN_TIMEOUT)
        except TimeoutError:
            logger.warning(
                "Twisted's shutdown events did not end within %g s.", SHUTDOWN_TIMEOUT
            )
            if self.threadpool is not None:
                # The event that was not reached; its idle threads would keep us alive.
                self.threadpool.stop()

    def _finish(self) -> None:
        assert self._shut_down is not None
        if not self._shut_down.done():
            self._shut_down.set_result(None)


class HostLoop:
    """As much of the loop as its guest may touch.

    On a reset connection uvloop calls the reader once more and then forgets it (libuv
    stops a poll that reports an error). Twisted reads 64 KiB a call, so the end of a
    connection with more to read would never be seen: read on here.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.time = loop.time
        self.call_at = loop.call_at
        self.call_soon_threadsafe = loop.call_soon_threadsafe
        self.add_writer = loop.add_writer
        self.remove_writer = loop.remove_writer
        self.add_reader: Callable[..., None] = loop.add_reader
        self.remove_reader: Callable[[int], bool] = loop.remove_reader
        if not isinstance(loop, asyncio.BaseEventLoop):
            self._loop = loop
            self._readers: dict[int, object] = {}
            self._poll = select.poll()
            self.add_reader = self._add_reader
            self.remove_reader = self._remove_reader

    def stop(self) -> None:
        """The reactor's shutdown ends here; the loop has other things to do."""

    def _add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:
        self._readers[fd] = registration = object()

        def read() -> None:
            callback(*args)
            for _ in range(LAST_READS):
                if self._readers.get(fd) is not registration or not self._failed(fd):
                    return
                callback(*args)

        self._loop.add_reader(fd, read)

    def _remove_reader(self, fd: int) -> bool:
        self._readers.pop(fd, None)
        return self._loop.remove_reader(fd)

    def _failed(self, fd: int) -> bool:
        self._poll.register(fd, 0)
        try:
            return any(events & select.POLLERR for _, events in self._poll.poll(0))
        finally:
            self._poll.unregister(fd)


def attach_reactor(bind: Bind) -> GuestReactor:
    """The reactor of the running loop, attached at the first call.

    :raises BindError: when the process already has a reactor that is not this loop's,
        or the loop cannot watch descriptors (Windows' default loop).
    """
    loop = asyncio.get_running_loop()
    installed = sys.modules.get("twisted.internet.reactor")
    if isinstance(installed, GuestReactor):
        if installed.loop is loop and installed.serving:
            return installed
        raise refusal(
            bind,
            "Twisted's reactor served another event loop of this process and cannot be "
            "started again; start the server in a process of its own.",
        )
    if installed is not None:
        raise refusal(
            bind,
            f"Twisted's {type(installed).__name__} is already installed in this "
            f"process; let nothing import twisted.internet.reactor before the server "
            f"has started.",
        )
    if sys.platform == "win32" and isinstance(loop, asyncio.ProactorEventLoop):
        raise refusal(
            bind, "Twisted's reactor cannot run on Windows' ProactorEventLoop."
        )
    reactor = GuestReactor(loop)
    installReactor(reactor)  # type: ignore[no-untyped-call]
    reactor.startRunning(installSignalHandlers=False)
    return reactor
