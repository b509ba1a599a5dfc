"""Twisted's connections behind the face of an asyncio transport.

Twisted's protocol on one side, our :class:`asyncio.Protocol` on the other, an
:class:`Adapter` between. Twisted announces a connection before a PROXY header
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
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet import address, error, interfaces
from twisted.internet.abstract import FileDescriptor
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]

from .endpoints import Address, MakeProtocol
from .tls import leaf_of

#: How much Twisted buffers of what we write before it pauses us.
HIGH_WATER = FileDescriptor.bufferSize

#: Twisted leaves a TLS connection open until the peer has answered our closing alert.
#: Seconds that a peer gets for it; the event loops give as many.
TLS_SHUTDOWN_TIMEOUT = 30.0

logger = logging.getLogger("django_daphne.protocol")


@implementer(interfaces.IProtocolNegotiationFactory)
class AdapterFactory(Factory):
    """Makes an adapter of each connection that Twisted accepts."""

    noisy = False

    def __init__(
        self, loop: asyncio.AbstractEventLoop, protocols: Sequence[str]
    ) -> None:
        self.loop = loop
        self._protocols = [protocol.encode("ascii") for protocol in protocols]
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

    def acceptableProtocols(self) -> list[bytes]:
        return self._protocols

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
        self._tls: Any = None
        self._protocol: asyncio.Protocol | None = None
        self._ends: dict[str, Address] = {}
        self._silence: asyncio.TimerHandle | None = None
        self._shutdown: asyncio.TimerHandle | None = None
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
        self._descriptor = _find_under(transport, _is_descriptor)
        self._tls = _find_under(transport, interfaces.ISSLTransport.providedBy)
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
        if self._shutdown is not None:
            self._shutdown.cancel()
        self._closing = self._lost = True
        self._held.clear()
        if self._protocol is None:
            return
        ordinary = error.ConnectionDone | error.ConnectionAborted
        if reason is None or isinstance(reason.value, ordinary):
            self._call("connection_lost", None)
        else:
            self._call("connection_lost", ConnectionResetError(str(reason.value)))
        self._protocol = None

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
        # Twisted no longer knows its own end once the connection is lost.
        self._ends = {
            "peername": socket_name(self._twisted.getPeer()),
            "sockname": socket_name(self._twisted.getHost()),
        }
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
        logger.info(
            "%s: closed, no data within %g s",
            socket_name(self._twisted.getPeer()),
            timeout,
        )
        self.close()

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
        if name == "ssl_object" and self._tls is not None:
            return TLSInformation(self._tls.getHandle())
        return self._ends.get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)

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
        return self._tls is None and hasattr(self._twisted, "loseWriteConnection")

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
        if self._tls is not None:
            self._await_shutdown()

    def _await_shutdown(self) -> None:
        self._shutdown = self._loop.call_later(TLS_SHUTDOWN_TIMEOUT, self._end_shutdown)

    def _end_shutdown(self) -> None:
        # Whoever still has something to read is held to account by the protocol.
        if self.get_write_buffer_size():
            self._await_shutdown()
        else:
            self.abort()

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


def _find_under(transport: Any, wanted: Callable[[Any], bool]) -> Any:
    """The first of a transport and those it wraps that is what is ``wanted``."""
    while transport is not None and not wanted(transport):
        transport = getattr(transport, "transport", None)
    return transport


def _is_descriptor(transport: Any) -> bool:
    return isinstance(transport, FileDescriptor)


class TLSInformation:
    """As much of :class:`ssl.SSLObject` as a server asks of a connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        shown = connection.get_certificate(as_cryptography=True)
        self.context = SimpleNamespace(leaf=None if shown is None else leaf_of(shown))

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

    def getpeercert(self, binary_form: bool = False) -> None:
        """Nothing: whether an endpoint verifies its clients only the endpoint knows."""


def socket_name(end: Any) -> Address:
    """Twisted's address as a socket has it."""
    if isinstance(end, address.IPv4Address):
        return (end.host, end.port)
    if isinstance(end, address.IPv6Address):
        scope = int(end.scopeID) if str(end.scopeID).isdecimal() else 0
        return (end.host, end.port, end.flowInfo, scope)
    if isinstance(end, address.UNIXAddress):
        return os.fsdecode(end.name or b"")
    return str(end)
