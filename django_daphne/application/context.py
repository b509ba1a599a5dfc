"""What all requests of one server share.

A :class:`Context` is made once for each server, a :class:`Peer` once for each
connection, so that a request looks things up instead of working them out.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from ..config import Config

if TYPE_CHECKING:
    from .http import HTTPStream
    from .websocket import WebSocketStream

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

#: ``(kind, scope, status, bytes sent, seconds)``; kind is "http", "connect", "reject"
#: or "disconnect".
LogAccess = Callable[[str, Scope, int, int, float], None]

Address = tuple[str, int | None]

server_log = logging.getLogger("django_daphne.server")
protocol_log = logging.getLogger("django_daphne.protocol")


def client_name(client: Address | None) -> str:
    """A client, as lines of the protocol log name it."""
    if client is None:
        return "a local client"
    host, port = client
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Context:
    """The application and everything that its streams need besides.

    ``state`` is the lifespan's namespace, or None when the application does not take
    part in lifespan. ``streams`` holds every request and WebSocket whose application is
    running.
    """

    def __init__(
        self,
        config: Config,
        application: Application,
        loop: asyncio.AbstractEventLoop,
        log_access: LogAccess | None = None,
    ) -> None:
        self.config = config
        self.application = application
        self.loop = loop
        self.log_access = log_access
        self.timeouts = config.timeouts
        self.websocket = config.websocket
        self.root_path = config.root_path or ""
        self.error_page = config.hooks.error_page
        #: What every application's task begins with, in a copy of its own. A task
        #: would else begin with those of whatever made the loop read its request: the
        #: request before it, if that was answered, or took its body, just then.
        self.variables = contextvars.copy_context()
        self.state: dict[str, Any] | None = None
        self.streams: set[HTTPStream | WebSocketStream] = set()
        #: The server is stopping.
        self.draining = False


def was_cancelled(error: BaseException, task: asyncio.Task[Any] | None) -> bool:
    """Whether ``error`` ends a task that somebody cancelled, be it us or the loop.

    A CancelledError without that is the application's own doing.
    """
    return isinstance(error, asyncio.CancelledError) and bool(
        task is not None and task.cancelling()
    )


class Peer:
    """The two ends of a connection, as scopes show them."""

    __slots__ = ("client", "extensions", "scheme", "server", "tls")

    def __init__(
        self,
        client: Address | None,
        server: Address | None,
        tls: dict[str, Any] | None = None,
    ) -> None:
        self.client = client
        self.server = server
        self.scheme = "http" if tls is None else "https"
        #: The ``tls`` extension's content, or None on a connection without TLS.
        self.tls = tls
        #: What the connection adds to ``extensions``; None, for most, is nothing.
        self.extensions = None if tls is None else {"tls": tls}

    def extend(self, name: str, content: dict[str, Any]) -> None:
        self.extensions = {**(self.extensions or {}), name: content}

    def on_behalf_of(
        self, client: Address | None, scheme: str | None, server: Address | None
    ) -> Peer:
        """Another peer for whom this one speaks; what is None it did not say."""
        other = Peer(client or self.client, server or self.server, self.tls)
        other.scheme = scheme or self.scheme
        other.extensions = self.extensions
        return other
