"""From binds to listeners.

Opening comes in two steps, so that a server says what it cannot have before it starts
the application, and takes no connection before the application has started:
:func:`open_listeners` claims every address, all or none; :meth:`Listener.start` begins
to listen. Between the two the kernel refuses connections.

Everything but a Twisted endpoint is a plain socket served by the event loop's own
transports. Twisted is imported when a bind needs it and not before.
"""

from __future__ import annotations

import abc
import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..binds import Bind, BindKind
from ..config import Config
from ..trust import Trust
from .certificates import Certificates, CertificateStore
from .inherited import InheritedSockets
from .refusals import explain, refusal
from .tcp_sockets import IPV4_ANY, IPV6_ANY, open_tcp_sockets
from .unix_sockets import SocketFile, open_unix_socket

Address = tuple[Any, ...] | str
#: Called without an argument, or with the PROXY header of the connection.
MakeProtocol = Callable[..., asyncio.Protocol]


class Listener(abc.ABC):
    """One bound place.

    ``bind`` is what asked for it; ``url`` is what to tell the user
    (``http://127.0.0.1:8000``, ``unix:/run/app.sock``), with the real port;
    ``address`` is the socket's name as the system has it.
    """

    bind: Bind
    url: str
    address: Address

    @abc.abstractmethod
    async def start(
        self,
        make_protocol: MakeProtocol,
        *,
        handshake_timeout: float | None = None,
        first_data_timeout: float | None = None,
        announcing: Trust | None = None,
        handshakes: int | None = None,
    ) -> None:
        """Listen, and give each accepted connection a new protocol.

        ``handshake_timeout`` bounds a TLS handshake and the silence before it,
        ``first_data_timeout`` the silence of a connection that is not announced before
        its first byte (Twisted's endpoints only); in seconds, None waits for ever.
        ``announcing`` are those who must send a PROXY header first. Where it comes
        before a TLS handshake it is read here, and given to the protocol.
        ``handshakes`` is how many TLS handshakes may be under way at once before new
        connections are left in the backlog (not with Twisted's TLS).

        :raises BindError: when another took the address since it was bound. The
            listener is closed then.
        """

    @abc.abstractmethod
    def stop_accepting(self) -> None:
        """Close what listens; accepted connections live on. Idempotent.

        Also the way to close a listener that was never started.
        """

    async def finish(self) -> None:
        """To be awaited when the last connection has ended, after the drain."""
        return None


async def open_listeners(
    binds: Iterable[Bind],
    *,
    backlog: int,
    certificates: Certificates | None = None,
    on_reactor_stop: Callable[[], None] | None = None,
) -> list[Listener]:
    """Claim every bind; nothing stays open when one cannot be had.

    A bind may give several listeners (``systemd:``). ``backlog`` applies where the bind
    has none of its own. ``certificates`` are what binds with TLS show; without them,
    those that ``ssl:`` endpoints bring along are all. ``on_reactor_stop`` is called
    when a Twisted plugin asks its reactor to stop; the server is to stop gracefully.

    :raises BindError: one line that names the bind, or the certificate.
    """
    binds = list(binds)
    if certificates is None:
        certificates = Certificates(Config())
    listeners: list[Listener] = []
    inherited = InheritedSockets()
    try:
        for bind in _twisted_last(binds):
            if bind.kind is BindKind.ENDPOINT:
                from .twisted_endpoints import open_endpoint

                listeners.append(
                    await open_endpoint(bind, certificates.protocols, on_reactor_stop)
                )
            else:
                listeners += await _open_sockets(bind, backlog, inherited, certificates)
        _refuse_overlap(listeners)
    except BaseException:
        inherited.give_back()
        for listener in listeners:
            listener.stop_accepting()
        for listener in listeners:
            await listener.finish()
        raise
    inherited.forget_environment()
    return sorted(listeners, key=lambda listener: binds.index(listener.bind))


def _twisted_last(binds: Sequence[Bind]) -> list[Bind]:
    # Attaching a reactor cannot be undone, so everything else is tried first.
    return sorted(binds, key=lambda bind: bind.kind is BindKind.ENDPOINT)


async def _open_sockets(
    bind: Bind, backlog: int, inherited: InheritedSockets, certificates: Certificates
) -> list[Listener]:
    backlog = bind.backlog or backlog
    # A certificate that cannot be used is found before anything is opened.
    store = certificates.for_bind(bind)
    if bind.kind is BindKind.UNIX:
        sock, file = open_unix_socket(bind)
        return [SocketListener(bind, [sock], backlog=backlog, file=file)]
    if bind.kind is BindKind.TCP:
        return [listener_on(bind, await open_tcp_sockets(bind), backlog, store)]
    return [listener_on(bind, [sock], backlog, store) for sock in inherited.take(bind)]


def listener_on(
    bind: Bind,
    sockets: Sequence[socket.socket],
    backlog: int,
    store: CertificateStore | None,
) -> SocketListener:
    """A listener on ``sockets``, which are bound; with TLS where there is a store."""
    if store is None:
        return SocketListener(bind, sockets, backlog=backlog)
    from .tls_listener import TLSListener

    return TLSListener(bind, sockets, backlog=backlog, store=store)


# -- Sockets served by the loop --------------------------------------------------------


class SocketListener(Listener):
    """The sockets of one bind: one for each address that its host has."""

    scheme = "http"

    def __init__(
        self,
        bind: Bind,
        sockets: Sequence[socket.socket],
        *,
        backlog: int,
        file: SocketFile | None = None,
    ) -> None:
        self.bind = bind
        self.sockets = tuple(sockets)
        for sock in sockets:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                # Accepted connections inherit it. asyncio sets it too, but only where
                # the listening socket was made with the number of TCP.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = sockets[0].getsockname()
        self.url = _url(bind, sockets[0], self.scheme)
        self._backlog = backlog
        self._file = file
        self._servers: list[asyncio.AbstractServer] = []
        self.announcing: Trust | None = None

    async def start(
        self,
        make_protocol: MakeProtocol,
        *,
        handshake_timeout: float | None = None,
        first_data_timeout: float | None = None,
        announcing: Trust | None = None,
        handshakes: int | None = None,
    ) -> None:
        self.announcing = announcing
        if self._file is not None and not self._file.is_ours():
            self.stop_accepting()
            raise refusal(self.bind, "another process has taken the socket's file.")
        try:
            for sock in self.sockets:
                # uvloop would keep a refusal to itself.
                sock.listen(self._backlog)
        except OSError as error:
            self.stop_accepting()
            raise explain(self.bind, error) from None
        await self.serve(make_protocol, handshake_timeout, handshakes)

    async def serve(
        self,
        make_protocol: MakeProtocol,
        handshake_timeout: float | None,
        handshakes: int | None,
    ) -> None:
        """Accept on the sockets, which listen by now."""
        await self.accept_by_loop(make_protocol)

    async def accept_by_loop(self, make_protocol: MakeProtocol, **options: Any) -> None:
        loop = asyncio.get_running_loop()
        # asyncio tries to accept as many in one turn, and logs a traceback for each
        # attempt that fails: thousands a second when descriptors run out.
        at_once = 1 if isinstance(loop, asyncio.BaseEventLoop) else self._backlog
        for sock in self.sockets:
            self._servers.append(
                # Both loops take Unix sockets here too, and remove no file then.
                await loop.create_server(
                    make_protocol, sock=sock, backlog=at_once, **options
                )
            )
            sock.listen(self._backlog)

    def stop_accepting(self) -> None:
        if self._file is not None:
            self._file.remove()
            self._file = None
        for server in self._servers:
            server.close()
        self._servers = []
        for sock in self.sockets:
            sock.close()


def _url(bind: Bind, sock: socket.socket, scheme: str) -> str:
    name = sock.getsockname()
    if not isinstance(name, tuple):
        # An abstract socket of systemd's begins with NUL, which everyone writes as @.
        return "unix:" + os.fsdecode(bind.path or name).replace("\0", "@")
    # A host name stays as it was written; only the port may have been unknown.
    host = name[0] if bind.host is None else bind.host
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{name[1]}"


def _refuse_overlap(listeners: Sequence[Listener]) -> None:
    """Two of our own binds on one port.

    The kernel lets both be bound and refuses the second only when it listens, which is
    after the application has started and would blame a stranger.
    """
    claimed: list[tuple[int, str, int, Bind]] = []
    for listener in listeners:
        # Passed sockets listen already, and may share a port on purpose.
        if not isinstance(listener, SocketListener) or (
            listener.bind.kind is not BindKind.TCP
        ):
            continue
        for sock in listener.sockets:
            for family, host, port in _claims(sock):
                for other_family, other_host, other_port, other in claimed:
                    if other is listener.bind or (
                        (family, port) != (other_family, other_port)
                    ):
                        continue
                    wild = {IPV4_ANY, IPV6_ANY} & {host, other_host}
                    if host == other_host or wild:
                        raise refusal(
                            listener.bind, f"{other.text!r} already has this port."
                        )
                claimed.append((family, host, port, listener.bind))


def _claims(sock: socket.socket) -> list[tuple[int, str, int]]:
    if sock.family == socket.AF_INET:
        host, port = sock.getsockname()
        return [(socket.AF_INET, host, port)]
    host, port, *_ = sock.getsockname()
    claims = [(int(socket.AF_INET6), host, port)]
    if host == IPV6_ANY and not sock.getsockopt(
        socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
    ):
        claims.append((int(socket.AF_INET), IPV4_ANY, port))
    return claims
