"""Twisted's endpoints behind the face of an asyncio listener.

Twisted's reactor becomes a guest of the running loop: it is attached to the loop that
serves everything else, neither starts nor stops it, and takes no signals. A plugin that
calls ``reactor.stop()`` asks the server to stop; the reactor's own shutdown events fire
when the server has drained (:meth:`TwistedListener.finish`).

Each connection is an :class:`Adapter`: Twisted's protocol on one side, a transport with
asyncio's face on the other. Twisted announces a connection before a PROXY header
(``haproxy:``) or a TLS handshake has been read, so ours is announced with its first
byte of data: only then are the names of both ends true.

Back-pressure outwards: the adapter is Twisted's streaming producer, paused when more
than 64 KiB wait and resumed when none do; those marks are Twisted's and fixed. Inwards:
pausing is passed on, and what Twisted still delivers (TLS empties its buffer) is held.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet import address, error, interfaces
from twisted.internet.abstract import FileDescriptor
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.main import installReactor
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]

from ..binds import Bind
from ..errors import BindError
from .endpoints import Address, Listener, MakeProtocol
from .refusals import explain, refusal

#: How much Twisted buffers of what we write before it pauses us.
HIGH_WATER = FileDescriptor.bufferSize

#: How long plugins may take over their shutdown events, in seconds. The drain is over
#: by then, and nobody waits for anything but the exit.
SHUTDOWN_TIMEOUT = 5.0

protocol_log = logging.getLogger("django_daphne.protocol")
server_log = logging.getLogger("django_daphne.server")


# -- The reactor -----------------------------------------------------------------------


class GuestReactor(AsyncioSelectorReactor):
    """A reactor on a loop that belongs to somebody else."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.loop = loop
        self.on_stop: Callable[[], None] | None = None
        self._shut_down: asyncio.Future[None] | None = None

    def stop(self) -> None:
        """A plugin wants the process to end; whether and when is the server's word."""
        if self.on_stop is not None:
            self.on_stop()

    def crash(self) -> None:
        # Runs among the shutdown events. AsyncioSelectorReactor would stop the loop.
        ReactorBase.crash(self)

    async def shut_down(self) -> None:
        """Fire the shutdown events, once, and wait until they are through."""
        if self._shut_down is None:
            self._shut_down = self.loop.create_future()
            self.addSystemEventTrigger("after", "shutdown", self._finish)
            super().stop()  # type: ignore[no-untyped-call]
        try:
            await asyncio.wait_for(asyncio.shield(self._shut_down), SHUTDOWN_TIMEOUT)
        except TimeoutError:
            server_log.warning(
                "Twisted's shutdown events did not end within %g s.", SHUTDOWN_TIMEOUT
            )

    def _finish(self) -> None:
        assert self._shut_down is not None
        if not self._shut_down.done():
            self._shut_down.set_result(None)

    @property
    def serving(self) -> bool:
        return self._shut_down is None and not self.loop.is_closed()


def attach_reactor(bind: Bind) -> GuestReactor:
    """The reactor of the running loop, attached at the first call.

    :raises BindError: when the process already has a reactor that is not this loop's.
        Twisted allows one in the life of a process.
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
            f"process; import twisted.internet.reactor only after the server has "
            f"started.",
        )
    try:
        reactor = GuestReactor(loop)
    except TypeError:
        raise refusal(
            bind, f"Twisted's reactor cannot run on {type(loop).__name__}."
        ) from None
    installReactor(reactor)  # type: ignore[no-untyped-call]
    reactor.startRunning(installSignalHandlers=False)
    return reactor


def passed_descriptors() -> list[tuple[int, str]]:
    """What Twisted took of systemd's variables when its endpoints were imported."""
    from twisted.internet.endpoints import _SystemdParser

    taken = _SystemdParser._sddaemon
    return list(zip(taken._descriptors, taken._names, strict=True))


# -- Listening -------------------------------------------------------------------------


class TwistedListener(Listener):
    """A Twisted endpoint. It accepts from the first moment, and holds until started."""

    def __init__(self, bind: Bind, reactor: GuestReactor, endpoint: Any) -> None:
        self.bind = bind
        self.url = bind.text
        self.address: Address = bind.text
        self._reactor = reactor
        self._endpoint = endpoint
        self._factory = AdapterFactory(reactor.loop)
        self._port: Any = None
        self._closed: list[Deferred[Any]] = []

    async def listen(self) -> None:
        listening: Deferred[Any] = maybeDeferred(self._endpoint.listen, self._factory)
        try:
            self._port = await listening.asFuture(self._reactor.loop)
        except error.CannotListenError as problem:
            if isinstance(problem.socketError, OSError):
                raise explain(self.bind, problem.socketError) from None
            raise refusal(self.bind, str(problem)) from None
        except OSError as problem:
            raise explain(self.bind, problem) from None
        except Exception as problem:
            raise _refused(self.bind, problem) from None
        self.address, self.url = _describe(self.bind, self._port)

    async def start(
        self,
        make_protocol: MakeProtocol,
        *,
        handshake_timeout: float | None = None,
        first_data_timeout: float | None = None,
    ) -> None:
        self._factory.start(make_protocol, first_data_timeout)

    def stop_accepting(self) -> None:
        if self._port is not None:
            self._closed.append(maybeDeferred(self._port.stopListening))
            self._port = None
        self._factory.close_silent()

    async def finish(self) -> None:
        for closed in self._closed:
            try:
                await closed.asFuture(self._reactor.loop)
            except Exception:
                server_log.warning(
                    "%s: the endpoint did not close.", self.url, exc_info=True
                )
        self._closed = []
        await self._reactor.shut_down()


async def open_endpoint(
    bind: Bind, on_reactor_stop: Callable[[], None] | None
) -> Listener:
    """Listen on what only Twisted can listen on.

    :raises BindError: when Twisted or the endpoint refuses, or the process has another
        reactor.
    """
    reactor = attach_reactor(bind)
    reactor.on_stop = on_reactor_stop
    # Some of Twisted's modules, and many plugins, import the reactor with themselves.
    from twisted.internet.endpoints import serverFromString

    try:
        endpoint = serverFromString(  # type: ignore[no-untyped-call]
            reactor, bind.text
        )
        listener = TwistedListener(bind, reactor, endpoint)
        await listener.listen()
    except BaseException as problem:
        await reactor.shut_down()
        if isinstance(problem, BindError) or not isinstance(problem, Exception):
            raise
        raise _refused(bind, problem) from None
    return listener


def _refused(bind: Bind, problem: Exception) -> BindError:
    message = str(problem)
    if message.startswith("Unknown endpoint type"):
        return refusal(
            bind,
            f"{message[0].lower()}{message[1:]}; no installed Twisted plugin provides "
            f"it. An ordinary bind is written like '127.0.0.1:8000'.",
        )
    kind = type(problem).__name__
    return refusal(bind, f"Twisted refuses this endpoint ({kind}: {message}).")


def _describe(bind: Bind, port: Any) -> tuple[Address, str]:
    """The address and the URL of a port, as far as it tells."""
    try:
        host = port.getHost()
    except Exception:
        return bind.text, bind.text
    name = _name(host)
    if isinstance(host, address.UNIXAddress):
        return name, f"unix:{name}"
    if not isinstance(name, tuple):
        return name, bind.text
    scheme = "https" if _encrypts(port) else "http"
    shown = f"[{name[0]}]" if ":" in name[0] else name[0]
    return name, f"{scheme}://{shown}:{name[1]}"


def _encrypts(port: Any) -> bool:
    """Whether any of the factories between the port and ours is TLS's."""
    if "twisted.protocols.tls" not in sys.modules:
        return False
    from twisted.protocols.tls import TLSMemoryBIOFactory

    factory = getattr(port, "factory", None)
    while factory is not None:
        if isinstance(factory, TLSMemoryBIOFactory):
            return True
        factory = getattr(factory, "wrappedFactory", None)
    return False


def _name(end: Any) -> Address:
    """Twisted's address as a socket has it."""
    if isinstance(end, address.IPv4Address):
        return (end.host, end.port)
    if isinstance(end, address.IPv6Address):
        scope = int(end.scopeID) if str(end.scopeID).isdecimal() else 0
        return (end.host, end.port, end.flowInfo, scope)
    if isinstance(end, address.UNIXAddress):
        return os.fsdecode(end.name or b"")
    return str(end)


# -- Connections -----------------------------------------------------------------------


class AdapterFactory(Factory):
    """Makes an adapter of each connection that Twisted accepts."""

    noisy = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.make_protocol: MakeProtocol | None = None
        self.first_data_timeout: float | None = None
        #: Connections that have not sent a byte, or came before the start.
        self.silent: set[Adapter] = set()

    def start(
        self, make_protocol: MakeProtocol, first_data_timeout: float | None
    ) -> None:
        self.make_protocol = make_protocol
        self.first_data_timeout = first_data_timeout
        for adapter in list(self.silent):
            adapter.begin()

    def close_silent(self) -> None:
        for adapter in list(self.silent):
            adapter.close()

    def buildProtocol(self, addr: interfaces.IAddress | None) -> Protocol:
        return TwistedSide(Adapter(self))


@implementer(interfaces.IHalfCloseableProtocol)
class TwistedSide(Protocol):
    """What Twisted tells a connection, passed on to its adapter."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def connectionMade(self) -> None:
        self.adapter.connected(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self.adapter.received(data)

    def readConnectionLost(self) -> None:
        self.adapter.received_eof()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.adapter.lost(reason)


@implementer(interfaces.IPushProducer)
class Adapter(asyncio.Transport):
    """One connection of Twisted's, as an asyncio transport."""

    def __init__(self, factory: AdapterFactory) -> None:
        super().__init__()
        self._factory = factory
        self._loop = factory.loop
        self._twisted: Any = None
        self._descriptor: FileDescriptor | None = None
        self._protocol: asyncio.Protocol | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._held: list[bytes] = []
        self._reading = True
        self._writing_paused = False
        self._eof = False
        self._write_ended = False
        self._closing = False
        self._lost = False

    # -- From Twisted ------------------------------------------------------------------

    def connected(self, transport: Any) -> None:
        self._twisted = transport
        self._descriptor = _descriptor_under(transport)
        set_no_delay = getattr(transport, "setTcpNoDelay", None)
        if set_no_delay is not None:
            set_no_delay(True)
        self._factory.silent.add(self)
        if self._factory.make_protocol is None:
            self.pause_reading()
        else:
            self.begin()

    def begin(self) -> None:
        """Wait for the first byte, from now."""
        timeout = self._factory.first_data_timeout
        if timeout is not None:
            self._silence = self._loop.call_later(timeout, self._stayed_silent, timeout)
        self.resume_reading()

    def received(self, data: bytes) -> None:
        if self._closing:
            return
        if not self._reading:
            self._held.append(data)
            return
        if self._protocol is None and not self._announce():
            return
        self._deliver(data)

    def received_eof(self) -> None:
        """The peer will send no more, and may still read."""
        if self._eof or self._closing:
            return
        self._eof = True
        if self._protocol is None:
            self.close()
        elif not self._held:
            self._deliver_eof()

    def lost(self, reason: Failure | None) -> None:
        self._end_silence()
        self._closing = self._lost = True
        self._held.clear()
        protocol, self._protocol = self._protocol, None
        if protocol is None:
            return
        ordinary = error.ConnectionDone | error.ConnectionAborted
        if reason is None or isinstance(reason.value, ordinary):
            protocol.connection_lost(None)
        else:
            protocol.connection_lost(ConnectionResetError(str(reason.value)))

    # As a producer Twisted calls us by these names.

    def pauseProducing(self) -> None:
        if not self._writing_paused and not self._closing:
            self._writing_paused = True
            self._call("pause_writing")

    def resumeProducing(self) -> None:
        if self._writing_paused:
            self._writing_paused = False
            self._call("resume_writing")

    def stopProducing(self) -> None:
        """The connection is being lost; connectionLost follows."""

    # -- To our protocol ---------------------------------------------------------------

    def _announce(self) -> bool:
        self._end_silence()
        make_protocol = self._factory.make_protocol
        assert make_protocol is not None
        self._protocol = make_protocol()
        self._twisted.registerProducer(self, True)
        self._call("connection_made", self)
        return not self._closing

    def _deliver(self, data: bytes) -> None:
        if not self._reading:
            self._held.append(data)
        else:
            self._call("data_received", data)

    def _deliver_eof(self) -> None:
        if not self._call("eof_received"):
            self.close()

    def _deliver_held(self) -> None:
        while self._held and self._reading and not self._closing:
            self.received(self._held.pop(0))
        if self._eof and not self._held and self._reading and not self._closing:
            self._deliver_eof()

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call the protocol as the loops do: its failure costs it the connection."""
        try:
            return getattr(self._protocol, method)(*arguments)
        except Exception as failure:
            self._loop.call_exception_handler(
                {
                    "message": f"Fatal error: protocol.{method}() call failed.",
                    "exception": failure,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )
            self.abort()
            return None

    def _stayed_silent(self, timeout: float) -> None:
        protocol_log.info(
            "%s: closed, no data within %g s", self.get_extra_info("peername"), timeout
        )
        self.abort()

    def _end_silence(self) -> None:
        self._factory.silent.discard(self)
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    # -- The transport's face ----------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``peername`` and ``sockname``, true to a PROXY header; ``ssl_object``.

        No ``socket``: bytes must pass through Twisted, and the descriptor would be a
        way around it.
        """
        if name == "peername":
            return _name(self._twisted.getPeer())
        if name == "sockname":
            return _name(self._twisted.getHost())
        if name == "ssl_object" and self._encrypted:
            return TLSInformation(self._twisted)
        return default

    @property
    def _encrypted(self) -> bool:
        return bool(interfaces.ISSLTransport.providedBy(self._twisted))

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        if self._reading and not self._closing:
            self._reading = False
            self._twisted.pauseProducing()

    def resume_reading(self) -> None:
        if self._reading or self._closing:
            return
        self._reading = True
        if self._held or self._eof:
            self._loop.call_soon(self._deliver_held)
        if not self._eof:
            # After the end of input Twisted would read it again.
            self._twisted.resumeProducing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing and not self._write_ended:
            self._twisted.write(bytes(data))

    def writelines(
        self, list_of_data: Iterable[bytes | bytearray | memoryview]
    ) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return not self._encrypted and hasattr(self._twisted, "loseWriteConnection")

    def write_eof(self) -> None:
        if not self.can_write_eof():
            raise NotImplementedError("this connection cannot be closed by halves")
        if not self._closing and not self._write_ended:
            self._write_ended = True
            self._stop_being_producer()
            self._twisted.loseWriteConnection()

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._held.clear()
        self._stop_being_producer()
        self._twisted.loseConnection()

    def abort(self) -> None:
        if self._lost:
            return
        self._closing = True
        self._held.clear()
        self._stop_being_producer()
        # Some transports of plugins know only the gentle way.
        abort = getattr(self._twisted, "abortConnection", None)
        (abort or self._twisted.loseConnection)()

    def _stop_being_producer(self) -> None:
        # Twisted waits for a paused producer's last word before it closes.
        if self._protocol is not None:
            self._twisted.unregisterProducer()

    def get_write_buffer_size(self) -> int:
        """Bytes that Twisted holds for the kernel (encrypted, on TLS)."""
        held = self._descriptor
        if held is None or self._lost:
            return 0
        return len(held.dataBuffer) - held.offset + held._tempDataLen

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return (0, HIGH_WATER)

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        """Checked and ignored: Twisted's marks are fixed."""
        if high is not None and not high >= (low or 0) >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")


def _descriptor_under(transport: Any) -> FileDescriptor | None:
    """The object at the bottom of wrapped transports that does the writing."""
    while transport is not None:
        if isinstance(transport, FileDescriptor):
            return transport
        transport = getattr(transport, "transport", None)
    return None


class TLSInformation:
    """As much of :class:`ssl.SSLObject` as a server asks of a connection."""

    def __init__(self, transport: Any) -> None:
        while not hasattr(transport, "getPeerCertificate"):
            transport = transport.transport
        self._connection = transport.getHandle()

    def version(self) -> str | None:
        name: str = self._connection.get_protocol_version_name()
        return name

    def cipher(self) -> tuple[str, str, int] | None:
        name = self._connection.get_cipher_name()
        if name is None:
            return None
        return (
            name,
            self._connection.get_cipher_version() or "",
            self._connection.get_cipher_bits() or 0,
        )

    def selected_alpn_protocol(self) -> str | None:
        return self._connection.get_alpn_proto_negotiated().decode("ascii") or None
