"""Listening where TLS is spoken.

An event loop that is given a context accepts, shakes hands and shows us what comes out;
it cannot tell a client that speaks plain HTTP what is wrong. So connections are
accepted here, and what a client says first is looked at and left where it is
(``MSG_PEEK``). A TLS record goes to the loop's own transports, with the context that is
current then: that is all there is to a new certificate. Letters get an answer in
letters.

A PROXY header comes before the handshake. It is looked at in the same way, and exactly
as many bytes as it has are taken.

A connection that has not shaken hands is an :class:`Arrival`. It has one deadline for
everything, the silence before the first byte included.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import Any

from ..application.context import client_name, protocol_log, server_log
from ..binds import Bind
from ..errors import ProtocolError
from ..protocol.proxy_protocol import (
    UNEXPECTED,
    HeaderReader,
    ProxyHeader,
    begins_header,
)
from .certificates import CertificateStore
from .endpoints import MakeProtocol, SocketListener
from .peers import address, is_trusted
from .refusals import refusal
from .tls import hush_undecodable_names, send_last_words

#: Connections accepted in one turn of the loop, before others have theirs.
ACCEPT_BATCH = 64

#: Seconds without accepting when the system has no more descriptors or memory. What
#: waits in the backlog meanwhile would wake the loop without end.
ACCEPT_PAUSE = 1.0

#: Enough of what a client says first to know it, and to show it in a log.
FIRST_BYTES = 64

#: What is looked at of a PROXY header at once.
HEADER_BYTES = 4096

#: How long a client that was refused is heard out, so that it reads why before a reset
#: destroys it.
LINGER = 2.0

#: The loops take None for 60 s, and have no word for never.
NEVER = 10 * 365 * 24 * 3600.0

#: The reason in the log record of such a client.
PLAIN_ON_TLS_PORT = "plain HTTP on a TLS port"

#: What a request line may begin with (RFC 9112 sections 2.2 and 3). A handshake begins
#: with 22, and everything else is for OpenSSL to refuse.
_LETTERS = frozenset(
    b"\r\nABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~"
)

_PLAIN_BODY = b"400 Bad Request: this port speaks HTTPS, and this was plain HTTP.\n"
_PLAIN_HEAD = (
    "HTTP/1.1 400 Bad Request\r\n"
    "Date: {}\r\n"
    "Content-Type: text/plain; charset=utf-8\r\n"
    f"Content-Length: {len(_PLAIN_BODY)}\r\n"
    "Connection: close\r\n\r\n"
)


class TLSListener(SocketListener):
    """The sockets of one bind, on which TLS is spoken."""

    scheme = "https"

    def __init__(
        self,
        bind: Bind,
        sockets: Sequence[socket.socket],
        *,
        backlog: int,
        store: CertificateStore,
    ) -> None:
        super().__init__(bind, sockets, backlog=backlog)
        self.store = store
        self.arrivals: set[Arrival] = set()
        self._crowded = False
        self._resuming: asyncio.TimerHandle | None = None
        self._accepting: set[socket.socket] = set()

    async def serve(
        self,
        make_protocol: MakeProtocol,
        handshake_timeout: float | None,
        handshakes: int | None,
    ) -> None:
        self.make_protocol = make_protocol
        self.handshake_timeout = handshake_timeout
        self.handshakes = handshakes
        self.loop = asyncio.get_running_loop()
        if _can_watch(self.loop):
            self._accept_again()
        elif self.announcing is not None:
            self.stop_accepting()
            raise refusal(
                self.bind,
                "this system's event loop cannot read a PROXY header before TLS; use "
                "a bind without TLS, or PROXY['PROTOCOL'] False.",
            )
        else:
            await self.accept_by_loop(make_protocol, **self._by_loop())

    def _by_loop(self) -> dict[str, Any]:
        """Options for a loop that accepts by itself: nothing is looked at there.

        Its one context gives way, in each handshake, to the one that is current.
        """
        front = self.store.build()

        def give_way(tls: Any, name: Any, _: ssl.SSLContext) -> None:
            tls.context = current = self.store.current
            if current.sni_callback is not None:
                current.sni_callback(tls, name, current)

        hush_undecodable_names()
        front.sni_callback = give_way
        return tls_options(front, self.handshake_timeout)

    def stop_accepting(self) -> None:
        """Arrivals may still shake hands, until :meth:`finish`."""
        self._crowded = False
        self._accept_no_more()
        super().stop_accepting()

    async def finish(self) -> None:
        for arrival in tuple(self.arrivals):
            arrival.close()
        # uvloop closes its handles in the turn after.
        await asyncio.sleep(0)

    def _accept_again(self) -> None:
        self._resuming = None
        for sock in self.sockets:
            # What was bound elsewhere may wait, and the loop with it.
            sock.setblocking(False)
            self.loop.add_reader(sock, self._accept, sock)
            self._accepting.add(sock)

    def _accept_no_more(self) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
        for sock in self._accepting:
            self.loop.remove_reader(sock)
        self._accepting.clear()

    def _accept(self, listening: socket.socket) -> None:
        for _turn in range(ACCEPT_BATCH):
            if self.handshakes is not None and len(self.arrivals) >= self.handshakes:
                # The rest waits in the backlog until one of these has shaken hands.
                self._crowded = True
                self._accept_no_more()
                return
            try:
                sock, name = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                # The client has gone again before we came.
                continue
            except OSError as error:
                self._pause(error)
                return
            sock.setblocking(False)
            Arrival(self, sock, name)

    def depart(self, arrival: Arrival) -> None:
        """It has shaken hands, or never will."""
        self.arrivals.discard(arrival)
        if self._crowded:
            self._crowded = False
            self._accept_again()

    def _pause(self, error: OSError) -> None:
        scarce = error.errno in (
            errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM,
        )  # fmt: skip
        server_log.error(
            "%s: no connection can be accepted (%s); trying again in %g s",
            self.url,
            error.strerror,
            ACCEPT_PAUSE,
            exc_info=None if scarce else error,
        )
        self._accept_no_more()
        self._resuming = self.loop.call_later(ACCEPT_PAUSE, self._accept_again)


def _can_watch(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether ``loop`` says when a socket can be read; Windows' own cannot."""
    return not (sys.platform == "win32" and isinstance(loop, asyncio.ProactorEventLoop))


def tls_options(
    context: ssl.SSLContext, handshake_timeout: float | None
) -> dict[str, Any]:
    """What the loops want to know to speak TLS on a connection."""
    return {
        "ssl": context,
        "ssl_handshake_timeout": (
            NEVER if handshake_timeout is None else handshake_timeout
        ),
        # The loops would cut what a slow client has not taken yet; the connection
        # itself knows better.
        "ssl_shutdown_timeout": NEVER,
    }


class Arrival:
    """An accepted connection until its handshake is complete, or will never be."""

    __slots__ = (
        "_client", "_deadline", "_dropped", "_handed_over", "_header", "_listener",
        "_loop", "_reader", "_sock", "_task", "_timer", "_watching",
    )  # fmt: skip

    def __init__(self, listener: TLSListener, sock: socket.socket, name: Any) -> None:
        self._listener = listener
        self._loop = listener.loop
        self._sock = sock
        self._client = address(name)
        self._reader = HeaderReader()
        self._header: ProxyHeader | None = None
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watching = False
        self._task: asyncio.Task[None] | None = None
        #: Whether the socket is the transport's to close.
        self._handed_over = False
        self._dropped = False
        listener.arrivals.add(self)
        if listener.handshake_timeout is not None:
            self._deadline = self._loop.time() + listener.handshake_timeout
        trust = listener.announcing
        # Most clients have said something by now.
        if trust is not None and is_trusted(trust, self._client, sock):
            self._read_header()
        else:
            self._look()

    def close(self) -> None:
        """Drop the connection; no word is owed to it."""
        self._dropped = True
        if self._task is not None:
            self._task.cancel()
            return
        self._stop_watching()
        self._sock.close()
        self._listener.depart(self)

    def _watch(
        self,
        readable: Callable[[], None],
        deadline: float | None,
        expired: Callable[[], None],
    ) -> None:
        self._watching = True
        self._loop.add_reader(self._sock, readable)
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, expired)

    def _stop_watching(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._sock)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _report(self, reason: str, status: int = 0, data: bytes = b"") -> None:
        protocol_log.info(
            "%s: %s%s",
            client_name(self._client),
            reason,
            f" ({status})" if status else "",
            extra={
                "reason": reason,
                "status": status,
                "client": self._client,
                "data": data,
            },
        )

    # -- The PROXY header --------------------------------------------------------------

    def _read_header(self) -> None:
        reader = self._reader
        try:
            seen = self._sock.recv(HEADER_BYTES, socket.MSG_PEEK)
            if seen:
                self._sock.recv(reader.take(seen))
        except (BlockingIOError, InterruptedError):
            self._await_more_of_header()
            return
        except ProtocolError as error:
            self._refuse(str(error), seen)
            return
        except OSError:
            seen = b""
        if not seen:
            if reader.begun:
                self._report("the connection was closed inside a PROXY header")
            self._stop_watching()
            self.close()
        elif reader.header is None:
            self._await_more_of_header()
        else:
            self._stop_watching()
            self._header = reader.header
            if not reader.header.local:
                self._client = reader.header.client
            self._look()

    def _await_more_of_header(self) -> None:
        if not self._watching:
            self._watch(self._read_header, self._deadline, self._sent_no_header)

    def _sent_no_header(self) -> None:
        self._refuse("no PROXY header within TIMEOUTS['HANDSHAKE']")

    def _refuse(self, reason: str, data: bytes = b"") -> None:
        self._report(reason, data=data[:FIRST_BYTES])
        self.close()

    # -- The first bytes ---------------------------------------------------------------

    def _look(self) -> None:
        try:
            first = self._sock.recv(FIRST_BYTES, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            if not self._watching:
                self._watch(self._look, self._deadline, self._stayed_silent)
            return
        except OSError:
            first = b""
        self._stop_watching()
        if not first:
            # Somebody looked whether the port is open.
            self.close()
        elif begins_header(first):
            self._refuse(UNEXPECTED, first)
        elif first[0] in _LETTERS:
            self._answer_plainly(first)
        else:
            self._task = self._loop.create_task(self._shake_hands())
            self._task.add_done_callback(self._done)

    def _stayed_silent(self) -> None:
        self._report("no TLS handshake within TIMEOUTS['HANDSHAKE']")
        self.close()

    # -- Plain HTTP --------------------------------------------------------------------

    def _answer_plainly(self, first: bytes) -> None:
        self._report(PLAIN_ON_TLS_PORT, 400, first)
        head = _PLAIN_HEAD.format(formatdate(usegmt=True)).encode("ascii")
        body = b"" if first.startswith(b"HEAD ") else _PLAIN_BODY
        try:
            # The first that is written always fits.
            self._sock.send(head + body)
        except OSError:
            self.close()
        else:
            self._part()

    def _part(self) -> None:
        """Say nothing more, and leave when the client does."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
        else:
            self._watch(self._hear_out, self._loop.time() + LINGER, self.close)

    def _hear_out(self) -> None:
        try:
            if self._sock.recv(65536):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self.close()

    # -- TLS ---------------------------------------------------------------------------

    async def _shake_hands(self) -> None:
        listener = self._listener
        left = None
        if self._deadline is not None:
            # The loops take no 0 seconds.
            left = max(self._deadline - self._loop.time(), 0.001)
        make_protocol = listener.make_protocol
        if self._header is not None:
            make_protocol = functools.partial(make_protocol, self._header)
        self._handed_over = True
        send_last_words.set(self._send_last_words)
        try:
            await self._loop.connect_accepted_socket(
                make_protocol,
                self._sock,
                **tls_options(listener.store.current, left),
            )
        except OSError as error:
            self._report(f"TLS handshake failed: {self._explain(error)}")

    def _send_last_words(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._sock.send(data)
            # The transport closes the connection in a moment. What the client has sent
            # for want of a better knowledge would then reset it.
            self._sock = self._sock.dup()
            self._handed_over = False

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if self._handed_over:
            self._listener.depart(self)
        elif self._dropped:
            self.close()
        else:
            self._part()

    def _explain(self, error: OSError) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the client's certificate is refused, {error.verify_message}"
        if isinstance(error, ssl.SSLError):
            if error.reason == "CALLBACK_FAILED":
                return "the server name asked for is not ASCII"
            return (error.reason or str(error)).replace("_", " ").lower()
        if isinstance(error, ConnectionAbortedError):
            return "it took longer than TIMEOUTS['HANDSHAKE']"
        return "the client closed the connection"
