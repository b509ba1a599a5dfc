"""One WebSocket: its application's task, and the ``receive`` and ``send`` it is given.

A WebSocket begins as a request. Until the application accepts, the stream answers to
the HTTP engine that carries the handshake (its ``carrier``), and may still become a
plain response: 403 when the application closes or returns instead of accepting, 500
when it fails, 503 when it takes longer than ``WEBSOCKET_CONNECT``, or whatever it sends
as ``websocket.http.response``. On acceptance the carrier hands the wire to a
:class:`~django_daphne.protocol.websocket.WebSocketEngine`, whose receiver the stream
then is.

What the application may send is a table, as in :mod:`.http`. Afterwards, an application
that fails closes with 1011, one that returns with 1000.

Messages are queued and then announced; a task that is cancelled while it waits loses
none. The queue is bounded by bytes and by count. Once over either bound it has to be
emptied before the engine goes on, so that a slow application costs one pause for each
full queue and not one for each message.

A client's going is told by ``receive``. Until it has been, what the application sends
is dropped in silence: a Channels consumer that is sending at that moment still gets its
``disconnect()``. From then on ``send`` raises.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from ..errors import ClientDisconnected, IllegalMessage, ProtocolError, shown
from ..protocol.headers import Headers, as_pairs
from ..protocol.websocket import (
    ABNORMAL,
    INTERNAL_ERROR,
    NORMAL,
    SERVICE_RESTART,
    WebSocketEngine,
    check_close,
)
from ..protocol.websocket_deflate import PerMessageDeflate, agree
from ..protocol.websocket_handshake import Handshake
from ..protocol.wire import Engine, Outlet, Wire
from .abandoned import end_abandoned
from .context import (
    Context,
    Message,
    Peer,
    client_name,
    protocol_log,
    server_log,
    was_cancelled,
)
from .http import CLIENT_CLOSED_REQUEST, is_our_disconnect
from .messages import as_bytes, as_list, no_type
from .scope import RequestHead, path_as_sent, websocket_scope
from .waiters import Waiters

#: Messages received and not yet taken, whatever their size, before we stop reading.
#: An empty message has no bytes to count, and each costs the application some work.
MAX_QUEUED = 256

#: Messages that an application may send without waiting, before others have their turn:
#: as long as the client keeps up, nothing else in ``send`` waits, and a client's going
#: is only learnt of in between.
TURN = 64

#: Fields of the accepting response that say how the connection goes on: ours to send.
_OURS = frozenset({b"connection", b"upgrade", b"content-length", b"transfer-encoding"})

_PLAIN_TEXT = [(b"content-type", b"text/plain; charset=utf-8")]
_REFUSALS = {
    403: b"403 Forbidden\n",
    500: b"500 Internal Server Error\n",
    503: b"503 Service Unavailable\n",
}


class Carrier(Protocol):
    """What a stream asks of the HTTP engine that carries the handshake."""

    @property
    def wire(self) -> Outlet: ...
    def start(
        self, status: int, headers: Headers, body: bytes, more: bool, trailers: bool
    ) -> None: ...
    def body(self, data: bytes, more: bool, trailers: bool) -> None: ...
    def accept(
        self, headers: Headers, make_engine: Callable[[Wire], Engine]
    ) -> None: ...
    def abort(self) -> None: ...


class _Connect:
    """Stands in the queue for ``websocket.connect``."""


_CONNECT = _Connect()


class _State(dict[str, Callable[["WebSocketStream", Message], None]]):
    """The messages that may be sent now, and a name of "now" for errors."""

    __slots__ = ("name",)

    def __init__(
        self, name: str, legal: dict[str, Callable[[WebSocketStream, Message], None]]
    ) -> None:
        super().__init__(legal)
        self.name = name


class WebSocketStream:
    """One WebSocket, on any version of HTTP."""

    __slots__ = (
        "_capacity", "_carrier", "_denial", "_disconnect", "_engine", "_full",
        "_handshake", "_queue", "_queued", "_started", "_state", "_task", "_timer",
        "_turn", "_waiter", "_writers", "context", "scope", "wire",
    )  # fmt: skip

    def __init__(
        self,
        context: Context,
        carrier: Carrier,
        peer: Peer,
        head: RequestHead,
        handshake: Handshake,
    ) -> None:
        if context.draining:
            raise ProtocolError("a WebSocket handshake while the server stops", 503)
        self.context = context
        self.wire = carrier.wire
        self.scope = websocket_scope(context, peer, head, handshake.subprotocols)
        self._carrier: Carrier | None = carrier
        self._handshake: Handshake | None = handshake
        self._engine: WebSocketEngine | None = None
        self._state = _CONNECTING
        #: What the application has not taken. ``_queued`` counts the bytes that came
        #: since the queue was last empty: never less than it holds.
        self._queue: list[str | bytes | _Connect] = [_CONNECT]
        self._queued = 0
        self._capacity = context.websocket.queue_bytes
        self._turn = 0
        self._full = False
        self._disconnect: Message | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writers: Waiters | None = None
        #: The status and headers of a denial, until its first body.
        self._denial: tuple[int, Headers] | None = None
        self._started = 0.0 if context.log_access is None else perf_counter()
        self._timer: asyncio.TimerHandle | None = None
        if context.timeouts.websocket_connect is not None:
            self._timer = context.loop.call_later(
                context.timeouts.websocket_connect, self._connect_expired
            )
        context.streams.add(self)
        self._task = context.loop.create_task(
            self._run(), context=context.variables.copy()
        )

    # -- What the carrier tells us -----------------------------------------------------

    def data(self, chunk: bytes, /) -> None:
        """A handshake has no body."""

    def end(self) -> None: ...

    def reset(self, reason: str, status: int = 0) -> None:
        """The client went before the application decided."""
        if self._disconnect is None:
            protocol_log.debug("%s: %s", path_as_sent(self.scope), reason)
            if self._state is _CONNECTING or self._denial is not None:
                self._log("reject", status or CLIENT_CLOSED_REQUEST)
            self._finish(ABNORMAL, reason)

    def writable_again(self) -> None:
        if self._writers is not None:
            self._writers.wake()

    def drain(self) -> None:
        """The server is stopping; an open WebSocket hears of it by its engine."""
        if self._state is _CONNECTING:
            self._refuse_handshake(503, "the server is stopping", SERVICE_RESTART)

    # -- What the engine tells us ------------------------------------------------------

    @property
    def behind(self) -> bool:
        return bool(self._queue)

    def message(self, message: str | bytes, size: int, /) -> bool:
        queue = self._queue
        self._queued = queued = self._queued + size if queue else size
        queue.append(message)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if queued <= self._capacity and len(queue) < MAX_QUEUED:
            return True
        self._full = True
        return False

    def next_turn(self, callback: Callable[[], None], /) -> None:
        self.context.loop.call_soon(callback)

    def failed(self, code: int, reason: str, /) -> None:
        self._report(logging.INFO, reason, code)

    def closed(self, code: int, reason: str, /) -> None:
        self._log("disconnect", code)
        self._finish(code, reason)

    # -- What the server asks ----------------------------------------------------------

    def say_goodbye(self) -> None:
        """Tell the application that its client has gone, whether it has or not."""
        self.drain()
        if self._engine is not None:
            self._engine.drain()
        self._finish(SERVICE_RESTART, "service restart")

    def cancel(self) -> None:
        """End the application's task."""
        self._task.cancel()

    @property
    def name(self) -> str:
        """What was asked for, as the log calls it."""
        return f"WebSocket {path_as_sent(self.scope)}"

    # -- The application's task --------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self.context.application(self.scope, self.receive, self.send)
        except BaseException as error:
            self._failed(error)
        else:
            self._returned()
        finally:
            self.context.streams.discard(self)

    def _failed(self, error: BaseException) -> None:
        # A disconnect is answered by frameworks with a cancellation of their own.
        heard = self._disconnect is not None and isinstance(
            error, asyncio.CancelledError
        )
        if not (heard or was_cancelled(error, self._task) or is_our_disconnect(error)):
            server_log.error(
                "The application failed on %s",
                self.name,
                exc_info=error,
                extra={"scope": self.scope},
            )
        self._give_up(500, INTERNAL_ERROR)

    def _returned(self) -> None:
        if self._state is _CONNECTING or self._state is _DENYING:
            server_log.error(
                "The application returned without accepting or denying %s",
                self.name,
                extra={"scope": self.scope},
            )
        self._give_up(403, NORMAL)

    def _give_up(self, status: int, code: int) -> None:
        """The application is done; end what it has left open."""
        state, carrier, engine = self._state, self._carrier, self._engine
        if state is _CONNECTING:
            self._refuse_handshake(status, "the application ended", ABNORMAL)
        elif state is _DENYING and self._denial is not None:
            self._refuse_handshake(500, "the application ended", ABNORMAL)
        elif state is _DENYING and carrier is not None:
            carrier.abort()
            self._finish(ABNORMAL, "the application ended")
        elif state is _OPEN and engine is not None:
            self._state = _CLOSED
            engine.close(code)

    # -- receive -----------------------------------------------------------------------

    async def receive(self) -> Message:
        """The application's ``receive``.

        ``websocket.connect``, the messages, and then ``websocket.disconnect``, at once
        and every time.
        """
        queue = self._queue
        while not queue:
            if self._disconnect is not None:
                self._state = _TOLD
                return dict(self._disconnect)
            waiter = self._waiter
            if waiter is None or waiter.done():
                self._waiter = waiter = self.context.loop.create_future()
                await waiter
            else:
                # A second receive at the same time: wait, but never cancel the first's.
                await asyncio.wait((waiter,))
        message = queue.pop(0)
        if self._full and not queue:
            self._full = False
            if self._engine is not None:
                self._engine.resume()
        if type(message) is str:
            return {"type": "websocket.receive", "text": message}
        if type(message) is bytes:
            return {"type": "websocket.receive", "bytes": message}
        return {"type": "websocket.connect"}

    # -- send --------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """The application's ``send``; returns once the wire takes more.

        :raises ClientDisconnected: when ``receive`` has returned the disconnect.
        :raises IllegalMessage: for a message out of order, or one that cannot be sent.
        """
        try:
            handler = self._state.get(message["type"])
        except (KeyError, TypeError):
            raise no_type(message) from None
        if handler is None:
            raise self._illegal(message)
        handler(self, message)
        if not self.wire.writable:
            await self._wait_writable()
        self._turn += 1
        if self._turn >= TURN:
            self._turn = 0
            await asyncio.sleep(0)

    async def _wait_writable(self) -> None:
        while not self.wire.writable and (
            self._state is _OPEN or self._state is _DENYING
        ):
            if self._writers is None:
                self._writers = Waiters()
            await self._writers.wait(self.context.loop)

    def _illegal(self, message: Message) -> IllegalMessage:
        return IllegalMessage(
            f"{shown(message['type'])} cannot be sent {self._state.name}; "
            f"expected {' or '.join(map(repr, self._state)) or 'nothing'}"
        )

    def _send_message(self, message: Message) -> None:
        engine = self._engine
        assert engine is not None
        text = message.get("text")
        data = message.get("bytes")
        if data is None and isinstance(text, str):
            engine.send_text(text)
        elif text is None and isinstance(data, bytes | bytearray | memoryview):
            engine.send_bytes(data if type(data) is bytes else bytes(data))
        else:
            raise IllegalMessage(
                f"'websocket.send' must have either 'text', a string, or 'bytes', "
                f"a byte string, and the other None or absent; it has 'text' of type "
                f"{type(text).__name__} and 'bytes' of type {type(data).__name__}"
            )

    def _send_close(self, message: Message) -> None:
        engine = self._engine
        assert engine is not None
        code = message.get("code", NORMAL)
        reason = message.get("reason") or ""
        check_close(code, reason)
        self._state = _CLOSED
        self._queue.clear()
        self._full = False
        engine.close(code, reason)

    def _accept(self, message: Message) -> None:
        carrier, handshake = self._carrier, self._handshake
        assert carrier is not None and handshake is not None
        subprotocol = message.get("subprotocol")
        if subprotocol is not None and subprotocol not in handshake.subprotocols:
            raise IllegalMessage(
                f"'websocket.accept' has the subprotocol {subprotocol!r}, but the "
                f"client offers {', '.join(handshake.subprotocols) or 'none'}"
            )
        headers = as_pairs(as_list(message, "headers"))
        _check_accept_headers(headers)
        settings = self.context.websocket
        agreement = agree(handshake) if settings.compression else None
        extension = None if agreement is None else agreement.answer
        answer = handshake.answer(subprotocol, extension)

        def make_engine(wire: Wire) -> WebSocketEngine:
            deflate = None
            if agreement is not None:
                deflate = PerMessageDeflate(
                    agreement, settings.max_message_size, settings.max_inflate_ratio
                )
            self._engine = engine = WebSocketEngine(wire, self, settings, deflate)
            self._state = _OPEN
            # RFC 8441 section 5: nothing is switched on HTTP/2.
            self._log("connect", 200 if self.scope["http_version"] == "2" else 101)
            return engine

        carrier.accept(answer + headers, make_engine)
        self._stop_timer()
        self._carrier = self._handshake = None
        # A client that sent a close ahead of our answer has already been answered.
        if self._engine is not None:
            self._engine.start()

    def _deny(self, message: Message) -> None:
        """``websocket.close`` instead of an acceptance: its code goes nowhere."""
        self._refuse_handshake(403, "the application denied it", ABNORMAL)
        self._state = _DENIED

    def _start_denial(self, message: Message) -> None:
        status = message.get("status")
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise IllegalMessage(
                f"'websocket.http.response.start' has status {shown(status)}; "
                f"a denial's status is a whole number from 200 to 599"
            )
        self._denial = (int(status), as_list(message, "headers"))
        self._stop_timer()
        self._state = _DENYING

    def _send_denial(self, message: Message) -> None:
        carrier = self._carrier
        assert carrier is not None
        body = as_bytes(message, "body")
        more = bool(message.get("more_body", False))
        if self._denial is None:
            carrier.body(body, more, False)
        else:
            status, headers = self._denial
            carrier.start(status, headers, body, more, False)
            self._denial = None
            self._log("reject", status)
        if not more:
            self._finish(ABNORMAL, "the application denied it")
            self._state = _DENIED

    def _drop(self, message: Message) -> None:
        """Nobody is there to hear, and the application cannot know."""

    def _raise_gone(self, message: Message) -> None:
        raise ClientDisconnected

    # -- Ends --------------------------------------------------------------------------

    def _connect_expired(self) -> None:
        self._timer = None
        if self._state is _CONNECTING:
            self._report(
                logging.WARNING,
                f"the application did not accept or deny WebSocket "
                f"{path_as_sent(self.scope)} within TIMEOUTS['WEBSOCKET_CONNECT']",
                503,
            )
            self._refuse_handshake(503, "the application took too long", ABNORMAL)

    def _refuse_handshake(self, status: int, reason: str, code: int) -> None:
        """Answer with a plain response, and tell the application that it is over."""
        carrier = self._carrier
        assert carrier is not None
        carrier.start(status, _PLAIN_TEXT, _REFUSALS[status], False, False)
        self._log("reject", status)
        self._finish(code, reason)

    def _finish(self, code: int, reason: str) -> None:
        """There is nobody to talk to any more."""
        if self._disconnect is not None:
            return
        self._disconnect = {
            "type": "websocket.disconnect",
            "code": code,
            "reason": reason,
        }
        if self._state is not _CLOSED:
            self._state = _LOST
        self._stop_timer()
        end_abandoned(self.context, self._task, self.scope)
        self._carrier = self._handshake = self._engine = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self.writable_again()

    def _stop_timer(self) -> None:
        """The handshake is decided."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _report(self, level: int, reason: str, status: int) -> None:
        client = self.scope["client"]
        protocol_log.log(
            level,
            "%s: %s (%d)",
            client_name(client),
            reason,
            status,
            extra={"reason": reason, "status": status, "client": client, "data": b""},
        )

    def _log(self, kind: str, status: int) -> None:
        log = self.context.log_access
        if log is not None:
            log(kind, self.scope, status, 0, perf_counter() - self._started)


def _check_accept_headers(headers: Headers) -> None:
    """Refuse fields whose meaning the server has settled.

    :raises IllegalMessage: for any of them.
    """
    for name, _ in headers:
        lowered = name.lower()
        if lowered in _OURS or lowered.startswith(b"sec-websocket-"):
            raise IllegalMessage(
                f"'websocket.accept' must not set the header {name!r}: it belongs "
                f"to the handshake (use 'subprotocol' to choose a subprotocol)"
            )


_SEND = "websocket.send"
_CLOSE = "websocket.close"
_ACCEPT = "websocket.accept"
_START = "websocket.http.response.start"
_BODY = "websocket.http.response.body"
_ALL = (_SEND, _CLOSE, _ACCEPT, _START, _BODY)

_CONNECTING = _State(
    f"before {_ACCEPT!r}",
    {
        _ACCEPT: WebSocketStream._accept,
        _CLOSE: WebSocketStream._deny,
        _START: WebSocketStream._start_denial,
    },
)
_DENYING = _State(f"after {_START!r}", {_BODY: WebSocketStream._send_denial})
_OPEN = _State(
    f"after {_ACCEPT!r}",
    {_SEND: WebSocketStream._send_message, _CLOSE: WebSocketStream._send_close},
)
_DENIED = _State("after the handshake was denied", {})
_CLOSED = _State(f"after {_CLOSE!r}", {})
#: The client has gone; the application does not know.
_LOST = _State("after the client has gone", dict.fromkeys(_ALL, WebSocketStream._drop))
#: It has been told.
_TOLD = _State(
    "after the client has gone", dict.fromkeys(_ALL, WebSocketStream._raise_gone)
)
