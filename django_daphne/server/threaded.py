"""A server beside other work: its loop in one thread, told to stop from another.

``runserver`` and the live server of tests both have a main thread with something else
to do. No signal is handled here; the process belongs to them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence

from ..application.context import Application, LogAccess
from ..config import Config
from . import main_task
from .process import OnListening, new_event_loop, serve


class ThreadedServer:
    """Serves ``application`` on ``sockets``, which are bound already, once."""

    def __init__(
        self,
        config: Config,
        application: Application,
        sockets: Sequence[socket.socket],
        *,
        on_listening: OnListening | None = None,
        log_access: LogAccess | None = None,
    ) -> None:
        self._config = config
        self._application = application
        self._sockets = sockets
        self._on_listening = on_listening
        self._log_access = log_access
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._stopped = False

    def run(self) -> None:
        """Serve in the calling thread until :meth:`stop`, then drain.

        :raises BindError: when a socket cannot be listened on.
        :raises LifespanFailed: when the application refuses to start.
        """
        main_task.run(self._serve(), new_event_loop)

    def stop(self) -> None:
        """Begin to drain, and return; before :meth:`run`, make it return at once."""
        with self._lock:
            self._stopped = True
            if self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)

    async def _serve(self) -> None:
        stop = asyncio.Event()
        with self._lock:
            self._loop, self._stop = asyncio.get_running_loop(), stop
            if self._stopped:
                stop.set()
        try:
            await serve(
                self._config,
                self._application,
                stop,
                sockets=self._sockets,
                on_listening=self._on_listening,
                log_access=self._log_access,
            )
        finally:
            # Past this point the loop may close under whoever calls stop().
            with self._lock:
                self._loop = self._stop = None
