"""One request and its response, on a stream of HTTP/2 (RFC 9113 section 8).

To whoever answers the request an :class:`Exchange` is what the whole engine is on
HTTP/1.1: it has the same ``start``, ``body``, ``trailers``, ``informational``,
``consumed``, ``invite_body``, ``abort`` and ``accept``, and a ``wire`` that is writable
or not. So the request cycle is written once, above.

Bytes of the response leave at once where nothing is in the way: nobody else waits, and
the windows are open. Otherwise they wait here, and the connection's schedule takes them
frame by frame. Once :data:`SEND_HIGH_WATER` bytes wait, the exchange is not writable:
the application is held up by its own client and by nobody else's.

After an extended CONNECT (RFC 8441) the exchange carries bytes of a WebSocket both
ways, and a :class:`Tunnel` is the wire that the WebSocket's engine is given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import IllegalMessage, ProtocolError
from .headers import Headers
from .http2_fields import Field, ResponseFields, plain_fields
from .http2_head import Head
from .pace import Pace
from .priority import UNSAID, Priority
from .status import BODILESS, plain_text
from .wire import Clock, Engine, Stream

if TYPE_CHECKING:
    from .http2 import HTTP2Engine

#: What a response may have waiting here before ``send`` waits, and what must be left of
#: it before ``send`` goes on: as on a transport.
SEND_HIGH_WATER = 64 * 1024
SEND_LOW_WATER = 16 * 1024

#: Frames smaller than this although more waits are the doing of the client's windows:
#: each byte of a response can be made to cost us a frame.
SQUEEZED = 256

#: What we read and throw away of a body that the application did not want, rather than
#: reset the stream: some clients then forget the answer that they have.
DISCARD_LIMIT = 64 * 1024

#: How long a client may take to end its side of a WebSocket after we have ended ours.
TUNNEL_CLOSE_TIMEOUT = 5.0

# Error codes (RFC 9113 section 7), as far as one stream can have them.
NO_ERROR = 0x0
PROTOCOL_ERROR = 0x1
INTERNAL_ERROR = 0x2
STREAM_CLOSED = 0x5
FRAME_SIZE_ERROR = 0x6
REFUSED_STREAM = 0x7
CANCEL = 0x8

#: Where the response stands: nothing of it sent; its body under way; a body that is
#: only pretended (HEAD, 204, 304); trailers awaited; all handed over; nobody there.
_AWAITED, _BODY, _PRETENDED, _TRAILERS, _COMPLETE, _GONE = range(6)

_TEXT_PLAIN = (b"content-type", b"text/plain; charset=utf-8")


class Exchange:
    """A stream; the engine that an application's stream answers to.

    What nearly every exchange leaves as it is stands in the class and costs it nothing.
    """

    writable = True
    priority: Priority = UNSAID
    head: Head | None = None
    stream: Stream | None = None
    #: On the wire's clock.
    begun = 0.0

    # -- The request
    #: Its end has come.
    ended = False
    #: Body bytes still announced; None where no length was.
    _left: int | None = None
    _body_read = 0
    #: Bytes that the application has, and those that the client may send again.
    _unread = 0
    _credit = 0
    _continue_due = False
    #: The response is complete, and what still comes of the request is thrown away.
    discarding = False
    #: When we lose patience: with the body, the reading, and the whole response.
    _body_due: float | None = None
    _write_due: float | None = None
    _request_due: float | None = None
    #: How fast the body comes, from its second frame on, and how fast the client opens
    #: a window that was in our way.
    _body_pace: Pace | None = None
    #: Bytes of a frame still incomplete that its pace has been judged by.
    _counted = 0
    _window_pace: Pace | None = None

    # -- The response
    _response = _AWAITED
    #: Body bytes still announced; -1 where no length was.
    _response_left = -1
    _unsent: deque[bytes] | None = None
    _unsent_size = 0
    #: What of the first piece has been sent.
    _offset = 0
    #: The stream ends after what is unsent, or after these trailers.
    _ending = False
    _trailer_fields: list[Field] | None = None
    #: The client's side is not worth reading any further.
    _refused = False

    # -- A WebSocket
    _tunnel: Tunnel | None = None
    #: What came before the WebSocket was accepted.
    _early: bytearray | None = None

    def __init__(self, engine: HTTP2Engine, id: int) -> None:
        self.engine = engine
        self.id = id

    @property
    def wire(self) -> Exchange:
        return self

    # -- What the engine tells us ------------------------------------------------------

    def begin(self, head: Head, ended: bool) -> None:
        """The request's head is complete, and the request itself when ``ended``."""
        engine = self.engine
        self.head = head
        self.begun = engine.wire.clock.seconds
        if head.priority is not UNSAID:
            self.priority = head.priority
        if not ended:
            limit = engine.limits.body_bytes
            if head.length is not None:
                if limit is not None and head.length > limit:
                    over = ProtocolError(
                        "the request body is over LIMITS['BODY_BYTES']", 413
                    )
                    self.refuse(over)
                    return
                self._left = head.length
            self._continue_due = head.expect_continue
        try:
            stream = engine.begin(self, head)
        except ProtocolError as error:
            self.ended = ended
            self.refuse(error)
            return
        if self._response == _GONE:
            return
        self.stream = stream
        if ended:
            self._end_request()
        elif head.upgrade is not None:
            return
        elif self._continue_due:
            self._await_application()
        else:
            self._expect_body()

    def receive_data(self, data: bytes, padding: int, ended: bool) -> None:
        """DATA; ``padding`` counts against the window and means nothing."""
        self._continue_due = False
        self._credit += padding
        if self.discarding:
            self._discard(data, ended)
        elif self._tunnel is not None:
            self._tunnel.receive(data, ended)
        elif self.head is not None and self.head.upgrade is not None:
            self._receive_early(data, ended)
        elif self.stream is not None:
            self._receive_body(data, ended)
        elif ended:
            # It was refused, and the answer still waits for the client.
            self.ended = True
        if self._counted:
            self._counted = 0
        if padding and not self.ended and self._response != _GONE:
            # Nobody takes it, and there may be nothing else.
            self._give_back()

    def receive_trailers(self) -> None:
        """Trailers, found good; they mean nothing to ASGI."""
        if self.discarding:
            self._discard(b"", True)
        elif self.stream is None:
            # Refused, as above.
            self.ended = True
        elif self._left:
            self._fall_short()
        else:
            self._end_request()

    def window_changed(self) -> None:
        """The client takes more of this stream, or, by its settings, less."""
        if self._unsent and not self._queue():
            self._give_up_slow()

    def lose(self, reason: str) -> None:
        """Nothing goes either way any more."""
        stream, tunnel = self.stream, self._tunnel
        self.close()
        if tunnel is not None:
            tunnel.lose()
        elif stream is not None:
            stream.reset(reason)

    def drain(self) -> None:
        if self._tunnel is not None:
            self._tunnel.drain()
        elif self.stream is not None:
            self.stream.drain()

    def wake(self) -> None:
        """It is writable again."""
        if self._tunnel is not None:
            self._tunnel.wake()
        elif self.stream is not None:
            self.stream.writable_again()

    def close(self) -> None:
        """The engine forgets the stream."""
        self._response = _GONE
        self.stream = self._tunnel = self._unsent = self._early = None
        self._unsent_size = 0
        self._body_due = self._write_due = self._request_due = None
        self._body_pace = self._window_pace = None

    @property
    def is_tunnel(self) -> bool:
        return self._tunnel is not None

    # -- The request's body ------------------------------------------------------------

    def _receive_body(self, data: bytes, ended: bool) -> None:
        size = len(data)
        if self._left is not None:
            # RFC 9113 section 8.1.1.
            self._left -= size
            if self._left < 0 or (ended and self._left):
                self._fall_short()
                return
        if size:
            self._body_read += size
            limit = self.engine.limits.body_bytes
            if limit is not None and self._body_read > limit:
                self.ended = ended
                self.fail(
                    ProtocolError("the request body is over LIMITS['BODY_BYTES']", 413)
                )
                self.engine.charge_reset(self)
                return
            self._unread += size
            assert self.stream is not None
            self.stream.data(data)
        if ended:
            self._end_request()
        elif not self._body_keeps_pace(size):
            self._body_too_slow()
        elif self._unread <= self.engine.stream_window // 2:
            self._give_back()
            self._expect_body()
        else:
            # The client is not slow; we are not listening.
            self._body_due = None
            if self._body_pace is not None:
                self._body_pace.stop(self.engine.wire.clock.seconds)
            if self._request_due is None:
                # What the window still lets through puts nothing off.
                self._await_application()

    def _body_keeps_pace(self, size: int) -> bool:
        now = self.engine.wire.clock.seconds
        return self._keeps_pace(max(0, size - self._counted), now)

    def _part_keeps_pace(self, heard: float, size: int) -> bool:
        """Of a frame that is not complete ``size`` bytes had come when it was heard."""
        size, self._counted = size - self._counted, size
        return self._keeps_pace(size, heard)

    def _keeps_pace(self, size: int, now: float) -> bool:
        engine, pace = self.engine, self._body_pace
        if pace is not None:
            return pace.keeps(size, now)
        rate = engine.limits.minimum_rate
        self._body_pace = Pace(engine.timeouts.body, rate, now)
        return True

    def _fall_short(self) -> None:
        self._reject("the body's length is not the announced Content-Length")

    def _reject(self, reason: str) -> None:
        """The request is malformed, as one sees only now."""
        stream = self.stream
        self.engine.report(f"{reason} (PROTOCOL_ERROR)", None, b"")
        self.engine.reset(self, PROTOCOL_ERROR)
        if stream is not None:
            stream.reset(reason)
        self.engine.charge_reset(self)

    def _end_request(self) -> None:
        self.ended = True
        self._body_due = None
        self._await_application()
        assert self.stream is not None
        self.stream.end()

    def _await_application(self) -> None:
        """The client has done what it can, and waits."""
        seconds = self.engine.timeouts.request
        if seconds is not None:
            self._request_due = self.engine.due(seconds)

    def _expect_body(self) -> None:
        self._request_due = None
        seconds = self.engine.timeouts.body
        if seconds is not None:
            if self._body_due is None and self._body_pace is not None:
                self._body_pace.go_on(self.engine.wire.clock.seconds)
            self._body_due = self.engine.due(seconds)

    def was_not_heard(self, since: float) -> None:
        """The engine read nothing for a while: that was no time of the client's."""
        if self._body_due is not None:
            if self._body_pace is not None:
                self._body_pace.stop(since)
                self._body_pace.go_on(self.engine.wire.clock.seconds)
            self._expect_body()

    def _discard(self, data: bytes, ended: bool) -> None:
        self._body_read += len(data)
        if ended:
            self.ended = True
            self.engine.forget(self)
        elif self._body_read > DISCARD_LIMIT:
            self.engine.reset(self, NO_ERROR)

    def consumed(self, size: int) -> None:
        """The application took ``size`` bytes of the body; as many more may come."""
        self._unread -= size
        self._credit += size
        if self.ended or self._response == _GONE:
            return
        self._give_back()
        if (
            self._body_due is None
            and self._tunnel is None
            and self._unread <= self.engine.stream_window // 2
        ):
            self._expect_body()

    def _give_back(self) -> None:
        """Open the window by what was taken, once that is worth a frame."""
        if self._credit >= self.engine.stream_window // 2:
            self.engine.open_window(self.id, self._credit)
            self._credit = 0

    def invite_body(self) -> None:
        """The application wants the body: say so to a client that waits to be asked.

        RFC 9110 section 10.1.1.
        """
        if self._continue_due:
            self._continue_due = False
            if self._response == _AWAITED:
                self.engine.send_headers(self, 100, (), False)
            # Until now the client was not slow, it was polite.
            self._expect_body()

    # -- Answering ---------------------------------------------------------------------

    def start(
        self,
        status: int,
        headers: Headers,
        body: bytes,
        more: bool,
        trailers: bool = False,
    ) -> None:
        """Send a response's head and the beginning, or the whole, of its body.

        ``trailers`` promises a later call of :meth:`trailers`.

        :raises IllegalMessage: for headers that cannot be sent, or a body longer than
            its Content-Length; nothing has been sent then.
        """
        if self._response == _GONE:
            return
        head = self.head
        assert head is not None
        own = ResponseFields(headers)
        length = own.length
        pretend = status in BODILESS or head.method == "HEAD"
        if status == 204:
            # RFC 9110 section 8.6: no Content-Length in a 204.
            length = None
        elif length is not None:
            if len(body) > length and not pretend:
                raise _too_long(length)
        elif not more and not trailers and (body or not pretend):
            # In a 304 or an answer to HEAD it would describe what is not sent.
            length = len(body)
        fields = own.fields
        if length is not None:
            fields.append((b"content-length", b"%d" % length))
        if not own.date:
            fields.append(self.engine.date())
        if not own.server and self.engine.server is not None:
            fields.append(self.engine.server)
        if pretend:
            self._response = _PRETENDED
            body = b""
        else:
            self._response = _BODY
            if length is not None:
                self._response_left = length - len(body)
        last = not more and not trailers
        if last and not body and self._response_left <= 0:
            self._response = _COMPLETE
            self.engine.send_headers(self, status, fields, True)
            self._ended_response()
            return
        self.engine.send_headers(self, status, fields, False)
        if last:
            self._finish(body)
        else:
            if not more:
                self._response = _TRAILERS
            if body:
                self._push(body, False)

    def body(self, data: bytes, more: bool, trailers: bool = False) -> None:
        """Send more of the body; ``more`` False completes it.

        :raises IllegalMessage: when the body becomes longer than its Content-Length;
            nothing of ``data`` has been sent then.
        """
        state = self._response
        if state == _PRETENDED:
            data = b""
        elif state != _BODY:
            return
        elif self._response_left >= 0:
            if len(data) > self._response_left:
                raise _too_long(self._response_left)
            self._response_left -= len(data)
        if more:
            if data:
                self._push(data, False)
        elif trailers:
            self._response = _TRAILERS
            if data:
                self._push(data, False)
        else:
            self._finish(data)

    def copy_file(self, file: int, size: int) -> None:
        """Nothing goes past the frames: a file is read, and sent by :meth:`body`."""

    def trailers(self, headers: Headers) -> None:
        """Complete a response with trailers (RFC 9113 section 8.1).

        :raises IllegalMessage: for fields that cannot be sent.
        """
        if self._response != _TRAILERS:
            return
        fields = plain_fields(headers)
        if not fields or self._response_left > 0:
            self._response = _BODY
            self._finish(b"")
            return
        self._response = _COMPLETE
        self._trailer_fields = fields
        if not self._unsent:
            self._send_trailers()

    def informational(self, status: int, headers: Headers) -> None:
        """Send a 1xx response ahead of the final one."""
        fields = plain_fields(headers)
        if self._response == _AWAITED:
            self.engine.send_headers(self, status, fields, False)

    def abort(self) -> None:
        """Reset the stream, so that the client sees the response is incomplete."""
        if self._response != _GONE:
            self.engine.reset(self, INTERNAL_ERROR)

    def refuse(self, error: ProtocolError) -> None:
        """Answer a request that no application sees."""
        self.engine.report(str(error), error.status, b"")
        self._answer(error)

    def fail(self, error: ProtocolError) -> None:
        """The request turned out bad after the application had begun on it."""
        stream, self.stream = self.stream, None
        self.engine.report(str(error), error.status, b"")
        status = 0
        if self._response == _AWAITED:
            status = error.status
            self._answer(error)
        else:
            self.engine.reset(self, CANCEL)
        if stream is not None:
            stream.reset(str(error), status)

    def _answer(self, error: ProtocolError) -> None:
        text = plain_text(error.status)
        fields = [
            _TEXT_PLAIN,
            (b"content-length", b"%d" % len(text)),
            self.engine.date(),
            *((name.lower(), value) for name, value in error.headers),
        ]
        self._refused = True
        self._response = _COMPLETE
        self._body_due = self._request_due = None
        self.engine.send_headers(self, error.status, fields, False)
        if self.head is not None and self.head.method == "HEAD":
            text = b""
        self._push(text, True)

    def _finish(self, data: bytes) -> None:
        """Complete the response with ``data``."""
        if self._response == _BODY and self._response_left > 0:
            if data:
                self._push(data, False)
            self.engine.report(
                f"the application sent {self._response_left} bytes less than its "
                f"Content-Length",
                500,
                b"",
            )
            self.abort()
            return
        self._response = _COMPLETE
        self._push(data, True)

    # -- Bytes on their way out --------------------------------------------------------

    def _push(self, data: bytes, end: bool) -> None:
        """Send ``data`` now if nothing is in the way, or else in its turn."""
        engine = self.engine
        size = len(data)
        if not self._unsent:
            if not size or (size <= engine.room() and size <= engine.window(self.id)):
                engine.send_data(self.id, data, end, self._refused)
                if end:
                    self._ended_response()
                return
            self._unsent = deque()
        if size:
            assert self._unsent is not None
            self._unsent.append(data)
            self._unsent_size += size
            if self._unsent_size > SEND_HIGH_WATER:
                self.writable = False
        self._ending = end
        self._queue()
        engine.send_soon()

    def _queue(self) -> bool:
        """Wait for our turn, or else for the client, and whether it hurries."""
        if self.engine.window(self.id) > 0:
            # From here on others may be in our way.
            self._write_due = None
            if self._window_pace is not None:
                self._window_pace.stop(self.engine.wire.clock.seconds)
            self.engine.schedule.add(self)
            return True
        # RFC 9113 section 6.9.2: it may also be shut by less than nothing.
        return self._write_due is not None or self._await_window(0)

    def send_frame(self, largest: int) -> None:
        """Send one frame of what waits, ``largest`` bytes at most.

        Called by the engine, whose turn it knows to be this exchange's.
        """
        engine, unsent = self.engine, self._unsent
        assert unsent
        window = engine.window(self.id)
        left = size = min(largest, window, self._unsent_size)
        pieces = []
        while left:
            first = unsent[0]
            piece = first[self._offset : self._offset + left]
            pieces.append(piece)
            left -= len(piece)
            self._offset += len(piece)
            if self._offset == len(first):
                unsent.popleft()
                self._offset = 0
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._unsent_size -= size
        if unsent:
            engine.send_data(self.id, data, False, size < SQUEEZED)
            if size < window:
                if self._window_pace is not None:
                    self._window_pace.count(size)
            else:
                engine.schedule.discard(self)
                if not self._await_window(size):
                    self._give_up_slow()
                    return
        else:
            self._unsent = self._write_due = self._window_pace = None
            engine.schedule.discard(self)
            engine.send_data(self.id, data, self._ending, self._refused)
            if not self._ending:
                engine.ran_dry(self)
        if not self.writable and self._unsent_size <= SEND_LOW_WATER:
            self.writable = True
            engine.woken.append(self)
        if not unsent:
            if self._trailer_fields is not None:
                self._send_trailers()
            elif self._ending:
                self._ended_response()

    def _await_window(self, size: int) -> bool:
        """The client's window is shut, after ``size`` bytes; whether it hurries."""
        engine, pace = self.engine, self._window_pace
        now = engine.wire.clock.seconds
        self._expect_window()
        if pace is not None:
            pace.go_on(now)
            return pace.keeps(size, now)
        rate = engine.limits.minimum_rate
        self._window_pace = Pace(engine.timeouts.write, rate, now)
        return True

    def _expect_window(self) -> None:
        seconds = self.engine.timeouts.write
        if seconds is not None:
            self._write_due = self.engine.due(seconds)

    def _send_trailers(self) -> None:
        fields, self._trailer_fields = self._trailer_fields, None
        assert fields is not None
        self.engine.send_headers(self, None, fields, True)
        self._ended_response()

    def _ended_response(self) -> None:
        """Our side is closed."""
        engine = self.engine
        if not self._refused:
            engine.served()
        self._request_due = None
        if self.ended:
            engine.forget(self)
        elif self._tunnel is not None:
            self._await_tunnel_end()
        elif (
            self._refused
            or self._continue_due
            or (self._left is not None and self._left > DISCARD_LIMIT)
            or (self.head is not None and self.head.upgrade is not None)
        ):
            # RFC 9113 section 8.1: the response is whole, the request is unwanted.
            engine.reset(self, NO_ERROR)
        else:
            self.discarding = True
            self._body_read = 0
            self.stream = None
            # What the application has not taken is nobody's now.
            self._credit += self._unread
            self._unread = 0
            self._give_back()
            self._expect_body()

    # -- Time --------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """When this exchange wants to be looked at."""
        dues = [
            due
            for due in (self._body_due, self._write_due, self._request_due)
            if due is not None
        ]
        if self._tunnel is not None and self._tunnel.timer_due is not None:
            dues.append(self._tunnel.timer_due)
        return min(dues, default=None)

    def check_time(self, now: float, heard: tuple[float, int] | None) -> None:
        """Do what is due.

        ``heard`` is when something of a frame of ours that is still incomplete came,
        and how much of it has.
        """
        if self._write_due is not None and self._write_due <= now:
            if self.engine.wire.writable:
                self._write_due = None
                self._give_up(
                    "the client took nothing of the response in TIMEOUTS['WRITE']"
                )
                return
            # The whole connection stands still; the wire has an eye on that.
            self._expect_window()
        if self._body_due is not None and self._body_due <= now:
            seconds = self.engine.timeouts.body or TUNNEL_CLOSE_TIMEOUT
            if self.engine.deaf:
                self._body_due = self.engine.due(seconds)
            elif heard is None or heard[0] + seconds <= now or self.is_tunnel:
                self._body_due = None
                self._body_expired()
                return
            elif not self._part_keeps_pace(*heard):
                self._body_due = None
                self._body_too_slow()
                return
            else:
                self._body_due = heard[0] + seconds
        if self._request_due is not None and self._request_due <= now:
            self._request_due = None
            self.fail(
                ProtocolError("the response took longer than TIMEOUTS['REQUEST']", 503)
            )
            return
        if self._tunnel is not None:
            self._tunnel.check_time(now)

    def _give_up(self, reason: str) -> None:
        """The client does not open its window as it should."""
        stream, tunnel = self.stream, self._tunnel
        self.engine.report(f"{reason} (CANCEL)", None, b"")
        self.engine.reset(self, CANCEL)
        if tunnel is not None:
            tunnel.lose()
        elif stream is not None:
            stream.reset(reason)

    def _give_up_slow(self) -> None:
        self._give_up("the client takes it more slowly than LIMITS['MINIMUM_RATE']")

    def _body_expired(self) -> None:
        self._end_late("the request body made no progress in TIMEOUTS['BODY']")

    def _body_too_slow(self) -> None:
        self._end_late("the request body came more slowly than LIMITS['MINIMUM_RATE']")

    def _end_late(self, reason: str) -> None:
        if self.discarding or self._tunnel is not None:
            self.engine.reset(self, NO_ERROR)
        else:
            self.fail(ProtocolError(reason, 408))

    # -- WebSocket ---------------------------------------------------------------------

    def accept(self, headers: Headers, make_engine: Callable[[Tunnel], Engine]) -> None:
        """Answer 200 and hand the stream to the engine that ``make_engine`` returns.

        :raises IllegalMessage: for headers that cannot be sent.
        """
        if self._response == _GONE:
            return
        own = ResponseFields(headers)
        if not own.date:
            own.fields.append(self.engine.date())
        if not own.server and self.engine.server is not None:
            own.fields.append(self.engine.server)
        self._response = _BODY
        self._request_due = None
        self.stream = None
        self.engine.send_headers(self, 200, own.fields, False)
        tunnel = self._tunnel = Tunnel(self)
        tunnel.engine = make_engine(tunnel)
        early, self._early = self._early, None
        if early:
            self._unread -= len(early)
            tunnel.receive(bytes(early), False)
        if self.ended and self._response != _GONE:
            tunnel.receive(b"", True)

    def _receive_early(self, data: bytes, ended: bool) -> None:
        """The client begins before it is told that it may."""
        if self._early is None:
            self._early = bytearray()
        self._unread += len(data)
        self._early += data
        if ended:
            self.ended = True

    def received_by_tunnel(self, size: int) -> None:
        self._unread += size

    def push_tunnel(self, data: bytes) -> None:
        if self._response == _BODY:
            self._push(data, False)

    def end_tunnel(self) -> None:
        """RFC 8441 section 5: an orderly closure is END_STREAM."""
        if self._response == _BODY:
            self._response = _COMPLETE
            self._push(b"", True)

    def _await_tunnel_end(self) -> None:
        self.discarding = True
        self._body_read = 0
        self._body_due = self.engine.due(TUNNEL_CLOSE_TIMEOUT)


class Tunnel:
    """The wire of a WebSocket inside a stream; a :class:`~.wire.Wire`."""

    __slots__ = ("_exchange", "_expired", "_held", "_paused", "engine", "timer_due")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.engine: Engine | None = None
        self.timer_due: float | None = None
        self._expired: Callable[[], None] | None = None
        self._paused = False
        #: Bytes that came while reading was paused: no room for more of them yet.
        self._held = 0

    # -- From the exchange -------------------------------------------------------------

    def receive(self, data: bytes, ended: bool) -> None:
        exchange = self._exchange
        if ended:
            # First, since what ends our side may be in the same frame.
            exchange.ended = True
        if data and self.engine is not None:
            exchange.received_by_tunnel(len(data))
            self.engine.receive_data(data)
            if self._paused:
                self._held += len(data)
            else:
                self._take(len(data))
        if ended and self.engine is not None:
            self.engine.receive_eof()

    def lose(self) -> None:
        engine, self.engine = self.engine, None
        self.timer_due = None
        if engine is not None:
            engine.connection_lost()

    def wake(self) -> None:
        if self.engine is not None:
            self.engine.writable_again()

    def drain(self) -> None:
        if self.engine is not None:
            self.engine.drain()

    def check_time(self, now: float) -> None:
        if self.timer_due is not None and self.timer_due <= now:
            self.timer_due = None
            assert self._expired is not None
            self._expired()

    # -- The wire ----------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        return self._exchange.writable

    @property
    def clock(self) -> Clock:
        return self._exchange.engine.wire.clock

    def write(self, data: bytes, /) -> None:
        self._exchange.push_tunnel(data)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            held, self._held = self._held, 0
            self._take(held)

    def arm(self, seconds: float | None, expired: Callable[[], None]) -> None:
        self._expired = expired
        self.timer_due = None if seconds is None else self._exchange.engine.due(seconds)

    def soon(self, callback: Callable[[], None], /) -> None:
        self._exchange.engine.wire.soon(callback)

    def close(self) -> None:
        self.engine = None
        self.timer_due = None
        self._exchange.end_tunnel()

    def linger(self) -> None:
        self.close()

    def abort(self) -> None:
        # RFC 8441 section 5: what would have been a reset of the connection.
        self.engine = None
        self.timer_due = None
        exchange = self._exchange
        if exchange.is_tunnel:
            exchange.engine.reset(exchange, CANCEL)

    def switch(self, engine: Engine) -> None:
        self.engine = engine

    def _take(self, size: int) -> None:
        self._exchange.consumed(size)


def _too_long(left: int) -> IllegalMessage:
    return IllegalMessage(
        f"the response body is longer than its Content-Length ({left} bytes were left)"
    )
