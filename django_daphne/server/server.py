"""A server: listeners, connections, one application; no signals, no processes.

Its life is a line: :meth:`Server.bind` opens the sockets, :meth:`Server.start` starts
the application's lifespan and accepts, :meth:`Server.drain` stops in the stages below,
and nothing can be started again.

The stages of draining: wait ``DRAIN_DELAY`` (the time a balancer needs to look
elsewhere); stop accepting; idle connections close, busy ones answer what they have
begun with ``Connection: close``; WebSockets are closed with 1012 in batches; event
streams hear ``http.disconnect`` at once. Everything else goes on — a long poll cannot
be told from a slow request — and hears of the disconnect only in the last
``APPLICATION_CLOSE`` seconds of ``GRACEFUL``. What is left then is cancelled, and the
application's lifespan is shut down.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence

from ..application.acme_challenge import ChallengeAnswers
from ..application.context import Application, Context, LogAccess, Peer, server_log
from ..application.forwarding import Forwarding
from ..application.http import HTTPStream
from ..application.lifespan import Lifespan
from ..application.redirect import Redirect
from ..application.websocket import WebSocketStream
from ..binds import Bind, BindKind
from ..config import Config, Proxy
from ..errors import BindError
from ..protocol.proxy_protocol import ProxyHeader
from ..protocol.websocket_handshake import read_handshake
from ..protocol.wire import Stream
from ..trust import Trust
from .ceilings import CONCURRENCY, Ceiling, Crowd, Descriptors
from .certificates import Certificates
from .clock import Clock
from .connection import Carrier, Connection, Head, RedirectConnection
from .endpoints import Listener, listener_on, open_listeners

#: WebSockets closed in one turn while draining: thousands that reconnect at the same
#: instant would overrun whoever takes over.
CLOSE_BATCH = 100

#: Seconds between batches.
CLOSE_INTERVAL = 0.05

#: Seconds between looks at whether the last stream has ended.
STREAM_POLL = 0.02

#: What cancelled tasks and closing transports get before we leave them behind, and what
#: they get when the stop is not to wait.
LAST_MOMENTS = 1.0
LAST_MOMENTS_IN_A_HURRY = 0.25

#: What is kept of ``GRACEFUL`` for all that comes after cancelling; of a short one, a
#: fifth of ``APPLICATION_CLOSE``.
RESERVE = 2.0

#: Requests named in a line of the log; of more, their number is enough.
MAX_NAMED = 20

#: What TLS clients that have taken everything get to answer the end of their
#: connections. One that keeps its connection for later does not look at it, and an idle
#: client is not what a stop should wait for.
CLOSE_NOTIFY = 0.5


class Server:
    """Serves ``application`` as ``config`` says, on the running loop.

    ``sockets`` are bound already and are listened on instead of ``config.bind``, with
    TLS if ``config`` has it.
    ``stop_requested`` is called when something inside, a Twisted plugin, wants the
    server to stop.
    """

    def __init__(
        self,
        config: Config,
        application: Application,
        *,
        log_access: LogAccess | None = None,
        sockets: Sequence[socket.socket] | None = None,
        stop_requested: Callable[[], None] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.config = config
        self.clock = Clock(loop)
        self.certificates = Certificates(config)
        self.context = Context(config, self._proving(application), loop, log_access)
        self.proxy = config.proxy or Proxy()
        #: None: nobody is trusted, and no connection needs to be looked at.
        self.trust = Trust(self.proxy.trusted) if self.proxy.trusted else None
        self.forwarding = Forwarding(self.proxy, self.trust or Trust(()))
        self.connections: set[Connection] = set()
        limits = config.limits
        self.descriptors = Descriptors(self.clock)
        self.crowd = (
            None
            if limits.connections is None
            else Crowd(limits.connections, self.clock)
        )
        self.rush = (
            None
            if limits.concurrency is None
            else Ceiling(CONCURRENCY, limits.concurrency, self.clock)
        )
        self.listeners: list[Listener] = []
        self.server_line = (
            None
            if config.server_header is None
            else b"Server: " + config.server_header.encode("ascii")
        )
        self._sockets = sockets
        self._stop_requested = stop_requested
        self._lifespan = Lifespan(application, config.lifespan)
        self._hurry = asyncio.Event()
        self._told_started = False

    async def bind(self) -> None:
        """Open every socket, or none.

        :raises BindError: with one line for the user.
        """
        config, certificates = self.config, self.certificates
        backlog = config.limits.backlog
        if self._sockets is not None:
            for sock in self._sockets:
                bind = Bind(f"fd:{sock.fileno()}", BindKind.FD, takes_tls=True)
                store = certificates.for_bind(bind)
                self.listeners.append(listener_on(bind, [sock], backlog, store))
            return
        self.listeners = await open_listeners(
            [*config.bind, *config.redirect_bind],
            backlog=backlog,
            certificates=certificates,
            on_reactor_stop=self._stop_requested,
        )
        if config.redirect_bind:
            port = self._secure_port()
            if port is None:
                await self._close_listeners()
                raise BindError("REDIRECT_BIND: no bind has TLS and a port.")
            self._redirect_to(port)
        if config.tls is not None and not any(bind.takes_tls for bind in config.bind):
            server_log.warning(
                "TLS applies to no bind: only those like '0.0.0.0:443', 'fd:3:tls' and "
                "'systemd:tls' take it."
            )

    def _proving(self, application: Application) -> Application:
        """``application``, and before it what a certificate authority asks for."""
        answer_to = self.certificates.answer_to
        if answer_to is None:
            return application
        return ChallengeAnswers(application, answer_to)

    def _secure_port(self) -> int | None:
        """The port of the first listener with TLS; None where none has one."""
        for listener in self.listeners:
            name = listener.address
            if listener.url.startswith("https:") and isinstance(name, tuple):
                return int(name[1])
        return None

    def _redirect_to(self, port: int) -> None:
        context = self.context
        redirect = Redirect(port, self.config.hooks.allowed_host)
        self.redirect_context = Context(
            self.config, self._proving(redirect), context.loop, context.log_access
        )
        # One set: draining waits for the streams of both.
        self.redirect_context.streams = context.streams

    async def start(self) -> None:
        """Start the application, then accept connections.

        :raises LifespanFailed: when the application refuses to start.
        :raises BindError: when a socket cannot be listened on after all.
        """
        timeouts = self.config.timeouts
        try:
            await self._lifespan.startup()
            self.context.state = self._lifespan.state
            self.clock.start()
            for listener in self.listeners:
                redirects = listener.bind in self.config.redirect_bind
                await listener.start(
                    self._accept_to_redirect if redirects else self._accept,
                    handshake_timeout=timeouts.handshake,
                    first_data_timeout=timeouts.headers,
                    announcing=self.trust if self.proxy.protocol else None,
                    handshakes=self.config.limits.connections,
                )
        except BaseException:
            await self._close_listeners()
            self.clock.stop()
            await self._end_lifespan(self.context.loop.time())
            raise
        self.certificates.watch()

    async def tell_started(self) -> None:
        """Run the hook for a server that accepts; :meth:`drain` runs its opposite."""
        self._told_started = True
        if self.config.hooks.on_started is not None:
            await self.config.hooks.on_started()

    def hurry(self) -> None:
        """Make a drain that is under way skip to its end."""
        self._hurry.set()

    async def drain(self) -> None:
        """Stop, in stages, within ``TIMEOUTS.GRACEFUL`` seconds."""
        loop, timeouts = self.context.loop, self.config.timeouts
        began = loop.time()
        if self.config.hooks.on_stopping is not None and self._told_started:
            await self.config.hooks.on_stopping()
        if timeouts.drain_delay and not self._hurry.is_set():
            await self._pause(timeouts.drain_delay)
        self.context.draining = True
        # No authority could reach us any more.
        self.certificates.stop()
        self._stop_accepting()
        closing = loop.create_task(self._drain_connections())
        end = farewell = cancel = None
        if timeouts.graceful is not None:
            end = began + timeouts.graceful
            close = timeouts.application_close or 0
            farewell = end - close
            cancel = end - min(RESERVE, min(close, end - loop.time()) / 5)
        await self._wait_for_streams(closing, farewell)
        if self.context.streams:
            streams = tuple(self.context.streams)
            server_log.info("Told that the client has gone: %s", _names(streams))
            for stream in streams:
                stream.say_goodbye()
            await self._wait_for_streams(closing, cancel)
        closing.cancel()
        await self._end_streams()
        await self._end_lifespan(end)
        await self._end_connections(end)
        await self._close_listeners()
        self.clock.stop()

    # -- Connections -------------------------------------------------------------------

    def _accept(self, header: ProxyHeader | None = None) -> Connection:
        return Connection(self, header)

    def _accept_to_redirect(self, header: ProxyHeader | None = None) -> Connection:
        return RedirectConnection(self, header)

    def begin_websocket(self, peer: Peer, engine: Carrier, head: Head) -> Stream:
        """Begin a WebSocket from the head of its handshake.

        :raises ProtocolError: when the handshake is not acceptable.
        """
        handshake = read_handshake(head)
        return WebSocketStream(self.context, engine, peer, head, handshake)

    # -- Stages ------------------------------------------------------------------------

    def _stop_accepting(self) -> None:
        for listener in self.listeners:
            listener.stop_accepting()

    async def _close_listeners(self) -> None:
        self._stop_accepting()
        for listener in self.listeners:
            await listener.finish()

    async def _drain_connections(self) -> None:
        talking = []
        for connection in tuple(self.connections):
            if connection.talks:
                talking.append(connection)
            else:
                # Its next answer is to say that it is the last.
                connection.drain()
        for number, connection in enumerate(talking, 1):
            connection.drain()
            if number % CLOSE_BATCH == 0:
                await asyncio.sleep(CLOSE_INTERVAL)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), seconds)

    def _parting(self) -> bool:
        return any(connection.parting for connection in self.connections)

    async def _wait_for_streams(
        self, closing: asyncio.Task[None], until: float | None
    ) -> None:
        """Return when no stream is left, at ``until``, or in a hurry.

        ``closing`` is what tells the connections, which may bring forth more streams:
        a client of HTTP/2 is told in two steps.
        """
        loop = self.context.loop
        while not self._hurry.is_set() and (
            self.context.streams or not closing.done() or self._parting()
        ):
            left = STREAM_POLL
            if until is not None:
                left = min(left, until - loop.time())
                if left <= 0:
                    return
            await self._pause(left)

    async def _end_streams(self) -> None:
        streams = tuple(self.context.streams)
        if not streams:
            return
        server_log.warning("Given up, unfinished: %s", _names(streams))
        for stream in streams:
            stream.cancel()
        loop = self.context.loop
        end = loop.time() + self._last_moments
        while self.context.streams and loop.time() < end:
            await asyncio.sleep(0.01)
        left = tuple(self.context.streams)
        if left:
            server_log.warning("Cancelled in vain, and left behind: %s", _names(left))

    async def _end_lifespan(self, end: float | None) -> None:
        left = None
        if end is not None:
            left = max(LAST_MOMENTS_IN_A_HURRY, end - self.context.loop.time())
        if self._hurry.is_set():
            left = LAST_MOMENTS_IN_A_HURRY
        try:
            await asyncio.wait_for(self._lifespan.shutdown(), left)
        except TimeoutError:
            server_log.error("Lifespan shutdown took too long")
            self._lifespan.cancel()

    async def _end_connections(self, until: float | None) -> None:
        """Let clients take what transports still hold, then drop them."""
        loop = self.context.loop
        for connection in tuple(self.connections):
            connection.close()
        began = loop.time()
        last = began + LAST_MOMENTS_IN_A_HURRY
        while self.connections and not self._hurry.is_set():
            now = loop.time()
            if until is not None and now > max(last, until):
                break
            if now > began + CLOSE_NOTIFY and not self._writing():
                break
            await asyncio.sleep(0.01)
        for connection in tuple(self.connections):
            connection.drop()

    @property
    def _last_moments(self) -> float:
        return LAST_MOMENTS_IN_A_HURRY if self._hurry.is_set() else LAST_MOMENTS

    def _writing(self) -> bool:
        return any(connection.unwritten for connection in self.connections)


def _names(streams: Sequence[HTTPStream | WebSocketStream]) -> str:
    """Who they are, for the log."""
    names = ", ".join(stream.name for stream in streams[:MAX_NAMED])
    more = len(streams) - MAX_NAMED
    return f"{names}, and {more} more" if more > 0 else names
