"""One accepted connection: the transport on one side, an engine on the other.

The connection is the engine's :class:`~django_daphne.protocol.wire.Wire`. Its
``data_received`` *is* the engine's ``receive_data``: the transport calls the engine
without anything of ours in between, so a change of engine has to tell the transport
(:meth:`Connection.switch`).

Which engine that is, is found once: a TLS client has said it in the handshake (ALPN), a
client without TLS says it with its first bytes, which on HTTP/2 are a fixed preface
(RFC 9113 section 3.3). A connection begins with HTTP/1.1 and changes then, so that the
time a silent client has is the same for all.

Before that comes, where the settings say so, the PROXY header of a trusted peer.
Whether a peer is trusted is decided here, once: for one that is not, requests begin by
:meth:`Connection._begin`, and nothing else is ever asked.

Two timers run on the shared clock: the engine's, and one that watches whether a peer
takes what we have written, and over TLS whether it answers our goodbye.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from ..application.context import Peer, client_name, protocol_log
from ..application.http import HTTPStream
from ..protocol import http1, http2
from ..protocol.http2_exchange import Exchange
from ..protocol.http2_head import Head as HTTP2Head
from ..protocol.proxy_protocol import MISSING, ProxyHeader, ProxyHeaderEngine
from ..protocol.websocket import WebSocketEngine
from ..protocol.wire import TICK, Engine, Stream
from .ceilings import FORETOLD, Crowd
from .clock import Clock
from .peers import address, is_trusted
from .sendfile import AVAILABLE, FileCopy
from .taken import tcp_taken
from .tls_extension import tls_extension

if TYPE_CHECKING:
    from ..trust import Trust
    from .server import Server

#: How long a closing connection hears a client out, so that the client can read the
#: answer before a reset destroys it.
LINGER = 2.0

#: The same over TLS, where a client does not see that we are done before we close: how
#: long one that sends nothing more is waited for. Nothing of it is under way then.
QUIET = 0.5

#: What a transport holds of a response that the client has not taken, before ``send``
#: waits: enough to fill the path while the application makes more.
WRITE_HIGH_WATER = 64 * 1024

#: How long a closing connection waits for its last bytes to be taken, where the WRITE
#: timeout is disabled: a closed connection is nobody's to wait for.
CLOSE_TIMEOUT = 60.0

#: How long a TLS client that has taken everything may take to say goodbye in turn (RFC
#: 8446 section 6.1); what it has sent until then is thrown away. Also the time between
#: looks at whether it has.
CLOSE_NOTIFY = 30.0

#: HTTP/2 in TLS's negotiation (RFC 9113 section 3.2).
HTTP2 = "h2"

#: What begins a request, on either version of HTTP.
Carrier = http1.HTTP1Engine | Exchange
Head = http1.Head | HTTP2Head

#: SO_LINGER on, for 0 seconds: closing resets the connection.
_RESET = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """Joins a transport to the engine that speaks its protocol."""

    __slots__ = (
        "_begin_request", "_closing", "_copy", "_deadline", "_expired", "_first_bytes",
        "_header", "_paused", "_server", "_taken", "_taken_at", "_trusted",
        "_write_deadline", "clock", "data_received", "engine", "filed", "peer",
        "transport", "writable", "write",
    )  # fmt: skip

    data_received: Callable[[bytes], None]  # type: ignore[assignment]
    write: Callable[[bytes], None]
    clock: Clock
    #: What an engine calls with each head: chosen once, for the whole connection.
    _begin_request: Callable[[Carrier, Head], Stream]

    def __init__(self, server: Server, header: ProxyHeader | None = None) -> None:
        self._server = server
        #: The PROXY header, where one was read before the TLS handshake.
        self._header = header
        self._trusted = False
        self.clock = server.clock
        self.writable = True
        self.filed = 0
        self._deadline = 0
        self._expired: Callable[[], None] = _nothing
        self._write_deadline = 0
        self._taken = 0
        self._taken_at = 0.0
        self._closing = False
        self._copy: FileCopy | None = None
        self._paused = False
        #: What has come of what may become the preface of HTTP/2; None: it cannot.
        self._first_bytes: bytes | None = b""
        # Some transports take the bound method when they are made, before
        # connection_made; until then there is no engine that could be bound.
        self.data_received = self._first_data

    # -- What the transport tells us ---------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.write = self.transport.write
        if type(transport).__module__.startswith("asyncio."):
            self.write = self._write_unless_lost
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self.peer = _peer_of(self.transport)
        server = self._server
        self._begin_request = self._begin
        if server.rush is not None:
            self._begin_request = self._begin_if_free
        server.connections.add(self)
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            server.descriptors.look(sock.fileno())
        if server.crowd is not None:
            self._enter(server.crowd)
        if server.trust is None:
            self._speak()
        else:
            self._meet(server.trust)

    def _speak(self) -> None:
        """Begin with the protocol that the peer has chosen, or is about to."""
        server = self._server
        # A connection that is turned away stays so, and a limit is looked at first.
        if self._trusted and self._begin_request == self._begin:
            self._begin_request = self._begin_for_another
        tls = self.transport.get_extra_info("ssl_object")
        if not server.config.http2 or tls is not None:
            self._first_bytes = None
        if tls is not None and tls.selected_alpn_protocol() == HTTP2:
            self._speak_http2()
            return
        engine = http1.HTTP1Engine(
            self,
            self._begin_request,
            self._report,
            server.config.limits,
            server.config.timeouts,
            server.server_line,
        )
        self.engine: Engine = engine
        if self._first_bytes is None:
            self._bind_data_received(engine.receive_data)
        engine.start_reading()
        self._join_drain()

    def eof_received(self) -> bool:
        if self._closing:
            self.transport.close()
        else:
            self.engine.receive_eof()
        # We close ourselves; a transport that closed on its own would cut the answer.
        # Over TLS there is no half-closed connection, and the loops say so in the log.
        return self.transport.can_write_eof()

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self.writable = False
        if self._copy is not None:
            self._copy.stop()
        self._deadline = self._write_deadline = 0
        self.clock.forget(self)
        self.write = _discard
        self._server.connections.discard(self)
        if self._server.crowd is not None:
            self._server.crowd.excess.discard(self)
        self.engine.connection_lost()

    def pause_writing(self) -> None:
        self.writable = False
        self._watch_writing()

    def resume_writing(self) -> None:
        if self._copy is not None:
            self._start_copy()
            return
        self.writable = True
        if not self._closing:
            self._write_deadline = 0
            self.engine.writable_again()

    # -- What the engine asks of us ----------------------------------------------------

    def copy_file(self, file: int, size: int) -> Awaitable[int] | None:
        if not AVAILABLE or self.peer.tls is not None or self._closing:
            return None
        if self.transport.get_extra_info("socket") is None:
            return None
        self._copy = FileCopy(
            self._server.context.loop,
            file,
            size,
            blocked=self._await_peer,
            ended=self._copied,
        )
        result = self._copy.result
        self.writable = False
        # The transport is to tell when it holds nothing any more.
        self.transport.set_write_buffer_limits(high=0)
        if not self.transport.get_write_buffer_size():
            self._start_copy()
        return result

    def _start_copy(self) -> None:
        assert self._copy is not None
        self._copy.start(self.transport.get_extra_info("socket").fileno())

    def _await_peer(self) -> None:
        if not self._write_deadline:
            self._watch_writing()

    def _copied(self) -> None:
        copy, self._copy = self._copy, None
        if copy is not None and copy.failed:
            self.transport.abort()
        elif not self._closing:
            self._write_deadline = 0
            self.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
            self.writable = True

    def _write_unless_lost(self, data: bytes) -> None:
        """``write`` for asyncio's own transports.

        They tell of a loss a turn after they have met it, and log a warning for each
        write until then.
        """
        if not self.transport.is_closing():
            self.transport.write(data)

    def pause_reading(self) -> None:
        if not self._paused and not self._closing:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not self._closing:
            self._paused = False
            self.transport.resume_reading()

    def arm(self, seconds: float | None, expired: Callable[[], None]) -> None:
        if seconds is None or self._closing:
            self._deadline = 0
            return
        self._expired = expired
        clock = self.clock
        self._deadline = deadline = clock.after(seconds)
        if not self.filed or self.filed > deadline:
            clock.file(self, deadline)

    def close(self) -> None:
        if not self._closing:
            self._stop_listening()
            self.transport.close()

    def linger(self) -> None:
        if self._closing:
            return
        paused = self._paused
        self._stop_listening()
        if not self.transport.can_write_eof():
            self._hear_out()
        else:
            try:
                self.transport.write_eof()
            except OSError:
                # asyncio's own, when the peer has just reset the connection.
                self.transport.abort()
                return
            self._deadline = self.clock.after(LINGER)
        if paused:
            self.transport.resume_reading()
        self._expired = self.transport.close
        self.clock.file(self, self._deadline)

    def _hear_out(self) -> None:
        """Linger over TLS, where a direction cannot be closed alone."""
        clock = self.clock
        last = clock.after(LINGER)

        def hear(data: bytes) -> None:
            self._deadline = min(clock.after(QUIET), last)

        self._bind_data_received(hear)
        hear(b"")

    def abort(self) -> None:
        self._stop_listening()
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            # Transports abort with a FIN, which a client takes for an end in order.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def soon(self, callback: Callable[[], None], /) -> None:
        self._server.context.loop.call_soon(callback)

    def switch(self, engine: Engine) -> None:
        self.engine = engine
        self._deadline = 0
        self._bind_data_received(engine.receive_data)

    def _stop_listening(self) -> None:
        self._closing = True
        if self._copy is not None:
            self._copy.stop()
        self._deadline = 0
        self.write = _discard
        self._bind_data_received(_discard)
        if self.peer.tls is not None or self.transport.get_write_buffer_size():
            self._watch_writing()

    def _bind_data_received(self, receive_data: Callable[[bytes], None]) -> None:
        """Make ``receive_data`` what the transport calls.

        uvloop's transports keep the bound method; setting the protocol anew makes them
        look it up again.
        """
        self.data_received = receive_data
        self.transport.set_protocol(self)

    def _first_data(self, data: bytes) -> None:
        """What comes before the engine is known."""
        if self._first_bytes is not None:
            data = self._first_bytes + data
            if http2.PREFACE.startswith(data[: len(http2.PREFACE)]):
                self._first_bytes = data
                if len(data) < len(http2.PREFACE):
                    return
                self._speak_http2()
            else:
                self._bind_data_received(self.engine.receive_data)
            self._first_bytes = None
        self.engine.receive_data(data)

    # -- Proxies -----------------------------------------------------------------------

    def _meet(self, trust: Trust) -> None:
        """Find out whom the peer speaks for, if it is trusted."""
        sock = self.transport.get_extra_info("socket")
        self._trusted = is_trusted(trust, self.peer.client, sock)
        if self._header is not None:
            self._believe(self._header)
        elif not self._trusted or not self._server.proxy.protocol:
            self._speak()
        else:
            self._await_header()

    def _await_header(self) -> None:
        engine = ProxyHeaderEngine(
            self,
            self._server.config.timeouts.headers,
            self._take_header,
            self._report,
        )
        self.switch(engine)
        if self.peer.tls is None:
            engine.start_reading()
        else:
            # Twisted's endpoints shake hands before we hear of the connection.
            engine.refuse(MISSING)

    def _take_header(self, header: ProxyHeader, rest: bytes) -> None:
        self._bind_data_received(self._first_data)
        self._believe(header)
        if rest:
            self.data_received(rest)

    def _believe(self, header: ProxyHeader) -> None:
        """Take ``header``, which came from somebody trusted, for true, and go on.

        What follows is the client's own word: fields of its requests are believed if
        the client is trusted in its turn. On the proxy's own connections it is.
        """
        if not header.local:
            peer, client = self.peer, header.client
            self.peer = Peer(client, header.server or peer.server, peer.tls)
            self.peer.extensions = peer.extensions
            self.peer.extend("proxy_protocol", header.extension())
            if header.tls is not None:
                self.peer.scheme = "https"
            trust = self._server.trust
            self._trusted = (
                client is not None and trust is not None and trust.covers(client[0])
            )
        self._speak()

    def _speak_http2(self) -> None:
        server = self._server
        timeouts = server.config.timeouts
        if self._begin_request == self._turn_away:
            # Nothing will be served here that it could be kept alive for.
            timeouts = dataclasses.replace(timeouts, keep_alive=timeouts.headers)
        engine = http2.HTTP2Engine(
            self,
            self._begin_request,
            self._report,
            server.config.limits,
            timeouts,
            server.server_line,
        )
        self.switch(engine)
        engine.start_reading()
        self._join_drain()

    def _join_drain(self) -> None:
        """A client that shook hands while the server began to drain is told, too."""
        if self._server.context.draining:
            self.engine.drain()

    # -- What the server asks of us ----------------------------------------------------

    @property
    def unwritten(self) -> bool:
        """Whether there is something that the peer has not taken, as far as we see."""
        if self.transport.get_write_buffer_size():
            return True
        if self.peer.tls is None:
            return False
        # What TLS holds below that buffer only the kernel tells.
        known = tcp_taken(self.transport.get_extra_info("socket"))
        if known is None:
            return self.clock.seconds < self._taken_at + CLOSE_NOTIFY
        return not known[1]

    def drop(self) -> None:
        """End a closing connection, by a reset if its peer will miss something."""
        if self.transport.get_write_buffer_size():
            self.abort()
        else:
            self.transport.abort()

    @property
    def talks(self) -> bool:
        """Whether a client has a WebSocket here, and will come again for another."""
        engine = self.engine
        return isinstance(engine, WebSocketEngine) or (
            isinstance(engine, http2.HTTP2Engine) and engine.tunnels > 0
        )

    def drain(self) -> None:
        """Begin nothing new."""
        if not self._closing:
            self.engine.drain()

    @property
    def parting(self) -> bool:
        """Whether a drained connection of HTTP still has something to do."""
        engine = self.engine
        return (
            not self._closing
            and isinstance(engine, http1.HTTP1Engine | http2.HTTP2Engine)
            and engine.parting
        )

    # -- Time --------------------------------------------------------------------------

    def tick(self, now: int) -> None:
        if self._deadline:
            if self._deadline <= now:
                self._deadline = 0
                self._expired()
            else:
                self.clock.file(self, self._deadline)
        if self._write_deadline:
            if self._write_deadline <= now:
                self._check_writing()
            else:
                self.clock.file(self, self._write_deadline)

    def _watch_writing(self) -> None:
        self._taken, _ = self._look_at_peer()
        self._taken_at = self.clock.seconds
        self._look_again()

    def _look_again(self) -> None:
        seconds = self._patience
        if seconds is None:
            return
        if self._parting:
            seconds = min(seconds, CLOSE_NOTIFY)
        self._write_deadline = self.clock.after(seconds)
        self.clock.file(self, self._write_deadline)

    @property
    def _patience(self) -> float | None:
        """How long the peer may take nothing of what is written."""
        seconds = self._server.config.timeouts.write
        return CLOSE_TIMEOUT if seconds is None and self._closing else seconds

    @property
    def _parting(self) -> bool:
        """Whether the peer still owes us a goodbye when it has taken everything."""
        return self._closing and self.peer.tls is not None

    def _look_at_peer(self) -> tuple[int, bool]:
        """A number that grows with what the peer takes, and whether it has it all."""
        unwritten = self.transport.get_write_buffer_size()
        known = tcp_taken(self.transport.get_extra_info("socket"))
        if known is None:
            copied = 0 if self._copy is None else self._copy.copied
            return copied - unwritten, False
        return known[0], known[1] and not unwritten

    def _check_writing(self) -> None:
        """The peer had its time: it has taken something, or it is dropped."""
        self._write_deadline = 0
        if self._copy is None and not (
            self._parting or self.transport.get_write_buffer_size()
        ):
            return
        taken, everything = self._look_at_peer()
        if everything and self._copy is None:
            self.transport.abort()
            return
        now, patience = self.clock.seconds, self._patience
        passed = now - self._taken_at
        if patience is None or passed >= patience:
            progress = taken - self._taken
            # It may have begun to wait a tick later than the clock knew.
            rate = self._server.config.limits.minimum_rate or 0
            least = rate * (passed - TICK)
            if progress <= 0 or progress < least:
                self._give_up(progress, passed)
                return
            self._taken, self._taken_at = taken, now
        self._look_again()

    def _give_up(self, taken: int, seconds: float) -> None:
        reason = "the client took nothing of the response in TIMEOUTS['WRITE']"
        if taken > 0:
            reason = (
                f"the client took only {taken} bytes of the response in "
                f"{seconds:.0f} s, less than LIMITS['MINIMUM_RATE']"
            )
        self._report(reason, None, b"")
        self.abort()

    # -- Requests ----------------------------------------------------------------------

    def _enter(self, crowd: Crowd) -> None:
        """Be counted; one too many has its requests refused."""
        if crowd.admits(self._server.connections):
            return
        self._begin_request = self._turn_away
        if not crowd.keep(self):
            # Not before it has been made.
            self.soon(self.transport.abort)

    def _turn_away(self, engine: Carrier, head: Head) -> Stream:
        assert self._server.crowd is not None
        # HTTP/2 has this answer to give first, and can then say that it was the last.
        self.soon(self.drain)
        raise self._server.crowd.refusal()

    def _begin_if_free(self, engine: Carrier, head: Head) -> Stream:
        rush = self._server.rush
        assert rush is not None
        if len(self._server.context.streams) >= rush.limit:
            raise rush.refusal()
        return self._begin_for_whom_it_is(engine, head)

    def _begin_for_whom_it_is(self, engine: Carrier, head: Head) -> Stream:
        if self._trusted:
            return self._begin_for_another(engine, head)
        return self._begin(engine, head)

    def _begin(self, engine: Carrier, head: Head, client: Peer | None = None) -> Stream:
        peer = client or self.peer
        if head.upgrade == b"websocket":
            return self._server.begin_websocket(peer, engine, head)
        return HTTPStream(self._server.context, engine, peer, head)

    def _begin_for_another(self, engine: Carrier, head: Head) -> Stream:
        """Begin a request of whomever the peer, which is trusted, speaks for."""
        client = self._server.forwarding.see_through(self.peer, head)
        return self._begin(engine, head, client)

    def _report(self, reason: str, status: int | None, data: bytes) -> None:
        level = _LEVELS.get(status, logging.INFO)
        if reason in FORETOLD:
            level = logging.INFO
        if protocol_log.isEnabledFor(level):
            protocol_log.log(
                level,
                "%s: %s%s",
                client_name(self.peer.client),
                reason,
                f" ({status})" if status else "",
                extra={
                    "reason": reason,
                    "status": status,
                    "client": self.peer.client,
                    "data": data,
                },
            )


class RedirectConnection(Connection):
    """A connection whose every request is answered with its https URL."""

    __slots__ = ()

    def _begin(self, engine: Carrier, head: Head, client: Peer | None = None) -> Stream:
        peer = client or self.peer
        return HTTPStream(self._server.redirect_context, engine, peer, head)

    def _begin_if_free(self, engine: Carrier, head: Head) -> Stream:
        # No application is asked, so it does not matter how much it has to do.
        return self._begin_for_whom_it_is(engine, head)


#: How loud a report is, by the status answered with: 0 where nobody was there to be
#: answered, None where HTTP/2 has means of its own. What strangers send wrong is no
#: fault of ours to be woken for.
_LEVELS: dict[int | None, int] = {
    0: logging.DEBUG,
    500: logging.ERROR,
    503: logging.WARNING,
}


def _nothing() -> None:
    pass


def _discard(data: bytes) -> None:
    pass


def _peer_of(transport: asyncio.Transport) -> Peer:
    tls = transport.get_extra_info("ssl_object")
    return Peer(
        address(transport.get_extra_info("peername")),
        address(transport.get_extra_info("sockname"), server=True),
        None if tls is None else tls_extension(tls),
    )
