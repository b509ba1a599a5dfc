"""One HTTP request: its application's task, and the ``receive`` and ``send`` it gets.

The engine that owns the wire calls :meth:`HTTPStream.data`, :meth:`~HTTPStream.end`,
:meth:`~HTTPStream.reset` and :meth:`~HTTPStream.writable_again`; the stream answers
through the engine's ``start``, ``body``, ``trailers``, ``informational`` and ``abort``,
which are the same on every version of HTTP.

What the application may send is a table: each state is a dict from message type to the
method that carries it out, and whatever is not in the dict of the present state is
refused with the names of both. The head is held until the first body message, so that
both leave in one write and a failure in between can still become a 500.

A client's going is told in an order that lets frameworks clean up: a waiting
``receive`` returns ``http.disconnect`` first; a ``send`` raises only after whoever
heard of the disconnect has had :data:`SEND_GRACE` seconds to cancel it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import IO, Protocol

from ..errors import ClientDisconnected, IllegalMessage, shown
from ..protocol.headers import Headers, as_pairs
from ..protocol.wire import Outlet
from .abandoned import end_abandoned
from .context import (
    Context,
    Message,
    Peer,
    protocol_log,
    server_log,
    was_cancelled,
)
from .messages import as_bytes, as_list, no_type
from .scope import RequestHead, http_scope, path_as_sent
from .waiters import Waiters

#: How long a ``send`` to a vanished client waits for the task that was told so first.
#: Django's handler needs a few turns of the loop, and a thread's switch, to cancel.
SEND_GRACE = 0.25

#: What is read from a file at once for ``http.response.pathsend``.
FILE_CHUNK = 256 * 1024

#: A file up to this size leaves with the head, in one write: it costs less than asking
#: the kernel to copy it.
SMALL_FILE = 32 * 1024

#: What an application may send without waiting, before others have their turn. As long
#: as the client keeps up, nothing else in ``send`` waits; and a client's going is only
#: learnt of in between. A message counts for its bytes and some more.
TURN = 256 * 1024
MESSAGE_COST = 1024

#: nginx's "client closed request": what the access log says when nobody was answered.
CLIENT_CLOSED_REQUEST = 499


#: Pieces of a body that wait together are joined up to this size: each object costs
#: some 50 bytes besides, and a client can send its body byte by byte.
SMALL_CHUNK = 4096


class Engine(Protocol):
    """What a stream asks of the engine that speaks the wire."""

    @property
    def wire(self) -> Outlet: ...
    def start(
        self, status: int, headers: Headers, body: bytes, more: bool, trailers: bool
    ) -> None: ...
    def body(self, data: bytes, more: bool, trailers: bool) -> None: ...
    def copy_file(self, file: int, size: int) -> Awaitable[int] | None: ...
    def trailers(self, headers: Headers) -> None: ...
    def informational(self, status: int, headers: Headers) -> None: ...
    def consumed(self, size: int) -> None: ...
    def invite_body(self) -> None: ...
    def abort(self) -> None: ...


class HTTPHead(RequestHead, Protocol):
    length: int | None
    trailers_accepted: bool


#: What a final response may have (RFC 9110 section 15); 1xx are not final.
_STATUSES = frozenset(range(200, 600))

_NO_CHUNKS: list[bytes] = []
_PLAIN_TEXT = [(b"content-type", b"text/plain; charset=utf-8")]


class _State(dict[str, Callable[["HTTPStream", Message], Awaitable[None] | None]]):
    """The messages that may be sent now, and a name of "now" for errors."""

    __slots__ = ("name",)

    def __init__(
        self,
        name: str,
        legal: dict[str, Callable[[HTTPStream, Message], Awaitable[None] | None]],
    ) -> None:
        super().__init__(legal)
        self.name = name


class HTTPStream:
    """One request and its response; serves every version of HTTP."""

    # What nearly every request leaves as it is stands here and costs it nothing; with
    # __slots__ each would have to be stored for each request.

    #: Body received and not yet taken.
    _chunks: list[bytes] = _NO_CHUNKS
    _ended = False
    #: The application has not yet been given the end of the body.
    _body_open = True
    #: ``receive`` has nothing to give but the disconnect.
    _gone = False
    #: We told the application so ourselves, because the server is stopping.
    _farewell = False
    _event_stream = False
    _readers: Waiters | None = None
    _writers: Waiters | None = None
    _headers: Headers = []
    _status = 0
    _sent = 0
    #: What of it counts against TURN.
    _turn = 0
    _started = 0.0
    _trailers = False
    _trailers_accepted = False
    _trailer_fields: Headers = []

    def __init__(
        self, context: Context, engine: Engine, peer: Peer, head: HTTPHead
    ) -> None:
        self.context = context
        self.engine = engine
        self.wire = engine.wire
        self.scope = http_scope(context, peer, head)
        self._state = _BEFORE_START
        if head.trailers_accepted:
            self._trailers_accepted = True
        if context.log_access is not None:
            self._started = perf_counter()
        context.streams.add(self)
        # Without the loop's factory and a numbered name: a tenth of a task's price.
        self._task = asyncio.Task(
            self._run(),
            loop=context.loop,
            name="request",
            context=context.variables.copy(),
        )

    # -- What the engine tells us ------------------------------------------------------

    def data(self, chunk: bytes, /) -> None:
        chunks = self._chunks
        if not chunks:
            self._chunks = [chunk]
        elif len(chunk) + len(chunks[-1]) <= SMALL_CHUNK:
            chunks[-1] += chunk
        else:
            chunks.append(chunk)
        if self._readers is not None:
            self._readers.wake()

    def end(self) -> None:
        self._ended = True
        if self._readers is not None:
            self._readers.wake()

    def writable_again(self) -> None:
        if self._writers is not None:
            self._writers.wake()

    def reset(self, reason: str, status: int = 0) -> None:
        """Nothing can be sent any more; the client was answered ``status`` instead."""
        if not self._state:
            return
        self._gone = True
        if self._state is _BEFORE_START or self._state is _HEAD_HELD:
            self._status = status or CLIENT_CLOSED_REQUEST
        self._log(self._status)
        protocol_log.debug("%s: %s", path_as_sent(self.scope), reason)
        end_abandoned(self.context, self._task, self.scope)
        if self._readers:
            self._state = _LOSING
            self._readers.wake()
            self.context.loop.call_later(SEND_GRACE, self._lose)
        else:
            self._lose()

    def _lose(self) -> None:
        self._state = _LOST
        if self._writers is not None:
            self._writers.wake()

    def drain(self) -> None:
        """The server is stopping: an event stream would go on for ever."""
        if self._event_stream or self._holds_event_stream():
            self.say_goodbye()

    def _holds_event_stream(self) -> bool:
        """Whether the response is an event stream whose first event is awaited."""
        try:
            return self._state is _HEAD_HELD and _is_event_stream(self._headers)
        except (AttributeError, TypeError, ValueError):
            # Nobody has looked at them yet: the engine will, and say what they lack.
            return False

    def say_goodbye(self) -> None:
        """Tell the application that its client has gone, while it can still answer.

        ``receive`` returns ``http.disconnect`` from now on; what the application still
        sends arrives, and an event stream that it leaves unfinished is ended in order.
        """
        if not self._gone:
            self._farewell = self._gone = True
            if self._readers is not None:
                self._readers.wake()

    def cancel(self) -> None:
        """End the application's task."""
        self._task.cancel()

    @property
    def name(self) -> str:
        """What was asked for, as the log calls it."""
        return f"{self.scope['method']} {path_as_sent(self.scope)}"

    # -- The application's task --------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self.context.application(self.scope, self.receive, self.send)
        except BaseException as error:
            self._failed(error)
        else:
            if self._state is not _COMPLETE:
                self._returned()
        finally:
            self.context.streams.discard(self)

    def _failed(self, error: BaseException) -> None:
        """The application raised: answer 500 where that is still possible."""
        state = self._state
        # A disconnect is answered by frameworks with a cancellation of their own.
        heard = self._gone and isinstance(error, asyncio.CancelledError)
        if not (heard or was_cancelled(error, self._task) or is_our_disconnect(error)):
            server_log.error(
                "The application failed on %s",
                self.name,
                exc_info=error,
                extra={"scope": self.scope},
            )
        if state is _BEFORE_START or state is _HEAD_HELD:
            if self._farewell and isinstance(error, asyncio.CancelledError):
                self._excuse_us()
            else:
                self._answer_500(error)
        elif state is _IN_BODY or state is _IN_TRAILERS:
            self._give_up()

    def _returned(self) -> None:
        """The application returned without completing its response."""
        state = self._state
        if self._farewell and (state is _BEFORE_START or state is _HEAD_HELD):
            self._excuse_us()
        elif state is _BEFORE_START or state is _HEAD_HELD:
            server_log.error(
                "The application returned without answering %s",
                self.name,
                extra={"scope": self.scope},
            )
            self._answer_500(None)
        elif state:
            if not self._farewell:
                server_log.error(
                    "The application returned before the end of its response to %s",
                    self.name,
                    extra={"scope": self.scope},
                )
            if state is not _IN_UNWANTED_TRAILERS:
                self._give_up()

    def _give_up(self) -> None:
        """The body will not be completed."""
        if self._farewell and self._event_stream and self._state is _IN_BODY:
            self.engine.body(b"", False, False)
        else:
            if self._farewell:
                self._report_given_up()
            self.engine.abort()
        self._complete()

    def _report_given_up(self) -> None:
        """We told it to end, and it did not bring it to an end."""
        # Who is cancelled is named by whoever does it.
        if not self._task.cancelling():
            server_log.warning("%s was given up: the server stops", self.name)

    def _excuse_us(self) -> None:
        """Answer for an application that gave up because we told it to."""
        if self._holds_event_stream():
            # A browser comes back to a stream that has ended, not to one that failed.
            self._answer(self._status, self._headers, b"")
        else:
            self._report_given_up()
            self._answer(503, _PLAIN_TEXT, b"503 Service Unavailable\n")

    def _answer_500(self, error: BaseException | None) -> None:
        if error is None or not self._answer_page(error):
            self._answer(500, _PLAIN_TEXT, b"500 Internal Server Error\n")

    def _answer_page(self, error: BaseException) -> bool:
        """Answer with the page that the layer above has for ``error``, if any."""
        if self.context.error_page is None:
            return False
        try:
            page = self.context.error_page(self.scope, error)
            if page is not None:
                self._answer(*page)
        except BaseException:
            server_log.exception("The page for an error failed")
            return False
        return page is not None

    def _answer(self, status: int, headers: Headers, body: bytes) -> None:
        self._status = status
        self._sent = len(body)
        self.engine.start(status, headers, body, False, False)
        self._complete()

    def _complete(self) -> None:
        """Nothing more is to be sent; whoever waits in ``receive`` may go."""
        self._state = _COMPLETE
        self._gone = True
        if self.context.log_access is not None:
            self._log(self._status)
        if self._readers is not None:
            self._readers.wake()

    def _log(self, status: int) -> None:
        log = self.context.log_access
        if log is not None:
            scope = self.scope
            bodiless = status == 204 or status == 304 or scope.get("method") == "HEAD"
            sent = 0 if bodiless else self._sent
            log("http", scope, status, sent, perf_counter() - self._started)

    # -- receive -----------------------------------------------------------------------

    async def receive(self) -> Message:
        """The application's ``receive``.

        Body first; then, once the response is complete or the client has gone,
        ``http.disconnect``, at once and every time.
        """
        while not self._gone:
            if self._body_open:
                chunks = self._chunks
                if chunks or self._ended:
                    return self._take(chunks)
                self.engine.invite_body()
            if self._readers is None:
                self._readers = Waiters()
            await self._readers.wait(self.context.loop)
        return {"type": "http.disconnect"}

    def _take(self, chunks: list[bytes]) -> Message:
        more = not self._ended
        self._body_open = more
        if not chunks:
            return {"type": "http.request", "body": b"", "more_body": False}
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = _NO_CHUNKS
        self.engine.consumed(len(body))
        return {"type": "http.request", "body": body, "more_body": more}

    # -- send --------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """The application's ``send``; returns once the wire takes more.

        :raises ClientDisconnected: when the client has gone.
        :raises IllegalMessage: for a message out of order, or one that cannot be sent.
        """
        try:
            handler = self._state.get(message["type"])
        except (KeyError, TypeError):
            raise no_type(message) from None
        if handler is None:
            await self._refuse(message)
            return
        pending = handler(self, message)
        if pending is not None:
            await pending
        if not self.wire.writable:
            await self._wait_writable()

    async def _wait_writable(self) -> None:
        while not self.wire.writable:
            state = self._state
            if state is _COMPLETE or state is _IN_UNWANTED_TRAILERS:
                # What the wire carries now is another's.
                return
            if state is _LOST:
                raise ClientDisconnected
            await self._wait_to_write()

    async def _wait_to_write(self) -> None:
        if self._writers is None:
            self._writers = Waiters()
        await self._writers.wait(self.context.loop)

    async def _refuse(self, message: Message) -> None:
        """``message`` is not legal now: say why."""
        while self._state is _LOSING:
            await self._wait_to_write()
        kind = message["type"]
        if self._state is _LOST and kind in _BEFORE_START.keys() | _IN_BODY.keys() | (
            _HEAD_HELD.keys() | _IN_TRAILERS.keys()
        ):
            raise ClientDisconnected
        raise IllegalMessage(
            f"{shown(kind)} cannot be sent {self._state.name}; "
            f"expected {' or '.join(map(repr, self._state)) or 'nothing'}"
        )

    def _send_start(self, message: Message) -> None:
        status = message.get("status")
        if not isinstance(status, int) or status not in _STATUSES:
            raise IllegalMessage(
                f"'http.response.start' has status {shown(status)}; "
                f"a response's status is a whole number from 200 to 599"
            )
        headers = message.get("headers")
        if type(headers) is not list:
            headers = as_list(message, "headers")
        self._status = status
        self._headers = headers
        if message.get("trailers"):
            self._trailers = True
        self._state = _HEAD_HELD
        if self.context.draining:
            self.drain()

    def _send_first_body(self, message: Message) -> None:
        body = message.get("body", b"")
        more = message.get("more_body", False)
        if type(body) is not bytes:
            body = as_bytes(message, "body")
        trailers = self._trailers
        self.engine.start(
            self._status,
            self._headers,
            body,
            more,
            trailers and self._trailers_accepted,
        )
        self._sent = len(body)
        if more:
            self._event_stream = _is_event_stream(self._headers)
            self._state = _IN_BODY
            if self._event_stream and self.context.draining:
                self.say_goodbye()
        elif trailers:
            self._await_trailers()
        else:
            self._complete()

    def _send_body(self, message: Message) -> Awaitable[None] | None:
        body = message.get("body", b"")
        more = message.get("more_body", False)
        if type(body) is not bytes:
            body = as_bytes(message, "body")
        trailers = self._trailers
        self.engine.body(body, more, trailers and self._trailers_accepted)
        self._sent += len(body)
        if not more:
            if trailers:
                self._await_trailers()
            else:
                self._complete()
            return None
        self._turn += len(body) + MESSAGE_COST
        if self._turn < TURN:
            return None
        self._turn = 0
        return asyncio.sleep(0)

    def _await_trailers(self) -> None:
        if self._trailers_accepted:
            self._state = _IN_TRAILERS
        else:
            # The client has its whole response; only the application does not know.
            self._complete()
            self._state = _IN_UNWANTED_TRAILERS

    def _send_trailers(self, message: Message) -> None:
        fields = as_list(message, "headers")
        self._headers = [*self._trailer_fields, *fields]
        self._trailer_fields = self._headers
        if not message.get("more_trailers", False):
            self.engine.trailers(self._headers)
            self._complete()

    def _drop_trailers(self, message: Message) -> None:
        if not message.get("more_trailers", False):
            self._state = _COMPLETE

    def _send_early_hint(self, message: Message) -> None:
        links = [(b"link", link) for link in as_list(message, "links")]
        if links:
            self.engine.informational(103, links)

    def _ignore(self, message: Message) -> None:
        """Legal, and too late to be of use: the head has left."""

    def _send_path(self, message: Message) -> Awaitable[None]:
        return self._copy_file(message.get("path"))

    async def _copy_file(self, path: object) -> None:
        """``http.response.pathsend``: the file is the whole body."""
        loop = self.context.loop
        if not isinstance(path, str) or not os.path.isabs(path):
            raise IllegalMessage(
                f"'http.response.pathsend' needs an absolute path, not {shown(path)}"
            )
        file, size, content = await loop.run_in_executor(None, _open, path)
        try:
            headers = as_pairs(self._headers)
            if not any(name.lower() == b"content-length" for name, _ in headers):
                self._headers = [*self._headers, (b"content-length", b"%d" % size)]
            if content is not None or self.scope["method"] == "HEAD":
                await self.send({"type": "http.response.body", "body": content or b""})
                return
            # The head goes first, whichever way the file takes.
            await self.send({"type": "http.response.body", "more_body": True})
            copying = self.engine.copy_file(file.fileno(), size)
            copied = 0 if copying is None else await copying
            self._sent += copied
            if copied < size:
                if os.fstat(file.fileno()).st_size < size:
                    raise OSError(f"{path} became shorter while it was sent")
                # If the connection is lost, we hear it here.
                await self._wait_writable()
                file.seek(copied)
                await self._read_out(file, size - copied)
            await self.send({"type": "http.response.body"})
        finally:
            file.close()

    async def _read_out(self, file: IO[bytes], size: int) -> None:
        """Send ``size`` bytes of ``file``, and no more if it has grown meanwhile."""
        loop = self.context.loop
        while size and (
            chunk := await loop.run_in_executor(None, file.read, min(size, FILE_CHUNK))
        ):
            size -= len(chunk)
            await self.send(
                {"type": "http.response.body", "body": chunk, "more_body": True}
            )


def _open(path: str) -> tuple[IO[bytes], int, bytes | None]:
    """The file, its size, and what is in it if that is little."""
    file = open(path, "rb")  # noqa: SIM115
    try:
        size = os.fstat(file.fileno()).st_size
        return file, size, file.read(size) if size <= SMALL_FILE else None
    except BaseException:
        file.close()
        raise


def is_our_disconnect(error: BaseException) -> bool:
    """Whether an application ended with nothing but our own word of a lost client."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_our_disconnect(inner) for inner in error.exceptions)
    return isinstance(error, ClientDisconnected)


def _is_event_stream(headers: Headers) -> bool:
    return any(
        name.lower() == b"content-type"
        and value.lower().startswith(b"text/event-stream")
        for name, value in headers
    )


_BEFORE_START = _State(
    "before 'http.response.start'",
    {
        "http.response.start": HTTPStream._send_start,
        "http.response.early_hint": HTTPStream._send_early_hint,
    },
)
_HEAD_HELD = _State(
    "after 'http.response.start'",
    {
        "http.response.body": HTTPStream._send_first_body,
        "http.response.pathsend": HTTPStream._send_path,
        "http.response.early_hint": HTTPStream._send_early_hint,
    },
)
_IN_BODY = _State(
    "inside the response's body",
    {
        "http.response.body": HTTPStream._send_body,
        "http.response.early_hint": HTTPStream._ignore,
    },
)
_IN_TRAILERS = _State(
    "after the response's body", {"http.response.trailers": HTTPStream._send_trailers}
)
#: The same for a client that takes none: its response is complete.
_IN_UNWANTED_TRAILERS = _State(
    "after the response's body", {"http.response.trailers": HTTPStream._drop_trailers}
)
_COMPLETE = _State("after the response is complete", {})
#: The client has gone; whoever waited in ``receive`` may cancel the sender yet.
_LOSING = _State("after the client has gone", {})
_LOST = _State("after the client has gone", {})
