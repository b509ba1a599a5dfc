"""An application's lifespan: startup before the first request, shutdown after all.

ASGI Lifespan Protocol 2.0. Applications that do not speak it (Django's, a bare
``ProtocolTypeRouter``) raise as soon as they see the scope; in ``"auto"`` that is fine
and nothing more is said to them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..errors import IllegalMessage, LifespanFailed
from .context import Application, Message, server_log, was_cancelled
from .messages import no_type
from .scope import ASGI_VERSION

SPEC_VERSION = "2.0"


class Lifespan:
    """Drives one application's lifespan.

    ``mode`` is "auto", "on" or "off". :attr:`state` is the namespace whose shallow copy
    every scope gets, or None when the application takes no part.
    """

    def __init__(self, application: Application, mode: str) -> None:
        self._application = application
        self._mode = mode
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._started = asyncio.Event()
        self._stopped = asyncio.Event()
        self._startup_failure: str | None = None
        self._shutdown_failure: str | None = None
        self._received = False
        self._task: asyncio.Task[None] | None = None
        self._namespace: dict[str, Any] = {}
        self.state: dict[str, Any] | None = None

    async def startup(self) -> None:
        """Return when the application is ready.

        :raises LifespanFailed: when it says that it is not, or when it does not speak
            lifespan and ``mode`` is "on".
        """
        if self._mode == "off":
            return
        self._events.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.create_task(self._run())
        await self._started.wait()
        if self._startup_failure is not None:
            await asyncio.wait([self._task], timeout=1)
            raise LifespanFailed(self._startup_failure)

    async def shutdown(self) -> None:
        """Return when the application has cleaned up, or has ended."""
        task = self._task
        if task is None or task.done() or self.state is None:
            return
        self._events.put_nowait({"type": "lifespan.shutdown"})
        await self._stopped.wait()
        if self._shutdown_failure is not None:
            server_log.error("Lifespan shutdown failed: %s", self._shutdown_failure)

    def cancel(self) -> None:
        """Give up on an application that does not return."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": ASGI_VERSION, "spec_version": SPEC_VERSION},
            "state": self._namespace,
        }
        try:
            await self._application(scope, self._receive, self._send)
        except BaseException as error:
            if was_cancelled(error, self._task):
                raise
            self._failed(error)
        else:
            if not self._started.is_set() and self._mode == "on":
                self._startup_failure = "the application returned without starting"
        finally:
            self._started.set()
            self._stopped.set()

    def _failed(self, error: BaseException) -> None:
        if self._startup_failure is not None:
            return
        if self._started.is_set():
            server_log.error("The application's lifespan failed", exc_info=error)
        elif self._mode == "on":
            server_log.error("The application's lifespan failed", exc_info=error)
            self._startup_failure = f"{type(error).__name__}: {error}"
        elif self._received:
            # It began on the startup event, so it does speak lifespan; the
            # specification has us go on, but silence would hide a real fault.
            server_log.warning(
                "The application raised during lifespan startup; going on without "
                "lifespan (set LIFESPAN to 'on' to make this fatal)",
                exc_info=error,
            )
        else:
            server_log.debug("The application does not speak lifespan: %s", error)

    async def _receive(self) -> Message:
        self._received = True
        return await self._events.get()

    async def _send(self, message: Message) -> None:
        try:
            kind = message["type"]
        except (KeyError, TypeError):
            raise no_type(message) from None
        starting = not self._started.is_set()
        if starting and kind == "lifespan.startup.complete":
            self.state = self._namespace
            self._started.set()
        elif starting and kind == "lifespan.startup.failed":
            self._startup_failure = message.get("message") or "no message given"
            self._started.set()
        elif not starting and kind == "lifespan.shutdown.complete":
            self._stopped.set()
        elif not starting and kind == "lifespan.shutdown.failed":
            self._shutdown_failure = message.get("message") or "no message given"
            self._stopped.set()
        else:
            when = "before" if starting else "after"
            raise IllegalMessage(f"{kind!r} cannot be sent {when} startup is complete")
