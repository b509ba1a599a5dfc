"""Frames and messages of one WebSocket (RFC 6455), without I/O.

Two ways lead from bytes to messages. Nearly every frame is *ordinary*: masked, final, a
whole text or binary message, complete in what was just read. Those are read in a short
loop of ours. Everything else — fragments, control frames, frames that span reads,
whatever is wrong — goes to Autobahn's frame engine, which is made for the occasion and
forgotten as soon as it is between messages with nothing buffered. One flag, ``_quiet``,
says that the short way is open: nothing is under way in Autobahn, nothing waits, nobody
has begun to close. A peer must not be able to tell which way its frames took; the tests
send the same bytes down both. What we send needs no engine: a whole message is a header
and a payload, in one write.

Autobahn is never asked to do I/O, to keep time or to open the handshake, so that none
of its frameworks is chosen: ``txaio.use_asyncio()`` is for the whole process, and would
break an application that has chosen the other. :class:`_Frames` is the only place that
knows its hooks.

When the receiver is full, parsing stops, not only reading: one read can hold thousands
of frames. What is left waits as raw bytes until the receiver calls
:meth:`WebSocketEngine.resume`. Before an extraordinary frame, messages that the
application has not seen yet get a turn of the loop, so that a close does not overtake
their answers.

A peer that breaks the protocol gets a close frame that says so, and the connection is
ended without waiting for the peer's (section 7.1.7). One timer serves every purpose;
see :meth:`WebSocketEngine._expired`.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, Protocol

from autobahn.exception import PayloadCorruptError, PayloadExceededError
from autobahn.websocket import USES_NVX, xormasker
from autobahn.websocket.protocol import (
    TrafficStats,
    WebSocketProtocol,
    WebSocketServerProtocol,
)

from ..config import WebSocketSettings
from ..errors import IllegalMessage
from .websocket_deflate import (
    COMPRESS_FROM,
    InflatedTooLarge,
    NotDeflated,
    PerMessageDeflate,
)
from .wire import Wire

#: Extraordinary frames read in one turn of the loop. Each costs some 20 µs; a read can
#: hold 35,000 of them, and other connections want their turn.
FRAMES_PER_TURN = 64

#: How long we wait for the peer's answer to our close frame. A peer that is there
#: answers within a round trip; one that is gone must not hold up a shutdown.
CLOSE_TIMEOUT = 5.0

#: RFC 6455 section 5.5: a control frame's payload, less the two bytes of the code.
MAX_REASON = 125 - 2

#: Up to here a payload is joined to its header in one write; beyond, copying costs more
#: than the second write.
JOIN_LIMIT = 64 * 1024

#: Up to here an XOR of whole integers unmasks fastest. Autobahn's masker costs 2 µs for
#: each call, and nearly nothing for each byte.
INTEGER_LIMIT = 1200

# Section 7.4.1: codes for close frames, and two that only describe their absence.
NORMAL = 1000
GOING_AWAY = 1001
NO_STATUS = 1005
ABNORMAL = 1006
INVALID_PAYLOAD = 1007
TOO_BIG = 1009
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012

#: First bytes of ordinary frames: FIN, RSV1 where compressed, opcode.
_TEXT: Final = 0x81
_BINARY: Final = 0x82
_DEFLATED_TEXT: Final = 0xC1
_DEFLATED_BINARY: Final = 0xC2
#: First bytes of control frames.
_CLOSE: Final = 0x88
_PING: Final = 0x89
_PONG: Final = 0x8A

#: Headers of frames whose length fits the second byte: most of those we send.
_TEXT_HEADERS = [bytes((_TEXT, length)) for length in range(126)]
_BINARY_HEADERS = [bytes((_BINARY, length)) for length in range(126)]

# Why received bytes wait.
_NOT: Final = 0
_FOR_ROOM: Final = 1
_FOR_A_TURN: Final = 2
#: They never will be read.
_ENDED: Final = 3

#: What the peer reads in the close frame when its payload is at fault; how exactly is
#: for our log, and differs between the two ways.
_REASONS = {INVALID_PAYLOAD: "invalid payload", TOO_BIG: "message too big"}

_from_bytes = int.from_bytes


class Receiver(Protocol):
    """Whoever takes the messages."""

    @property
    def behind(self) -> bool:
        """Whether messages wait for the application."""

    def message(self, message: str | bytes, size: int, /) -> bool:
        """A message, and the bytes it had on the wire once inflated.

        False: full; the receiver calls :meth:`WebSocketEngine.resume` when it is not.
        """

    def next_turn(self, callback: Callable[[], None], /) -> None:
        """Call ``callback`` in the next turn of the loop."""

    def failed(self, code: int, reason: str, /) -> None:
        """The peer is at fault, in more words than it is told; ``closed`` follows."""

    def closed(self, code: int, reason: str, /) -> None:
        """The conversation is over; called once.

        The code is that of the peer's close frame, 1005 if the frame had none; ours
        where we ended the connection because of a fault; 1006 if there was no close
        frame at all.
        """

    def writable_again(self) -> None:
        """The wire takes bytes again."""


class WebSocketEngine:
    """Speaks WebSocket on one wire, from the moment it is open.

    An :class:`~.wire.Engine`. ``deflate`` is the negotiated compression, or None.
    """

    __slots__ = (
        "_close_by", "_ends_at", "_eof", "_frames", "_heard", "_held", "_largest",
        "_open", "_ping_at", "_pong_by", "_pong_owed", "_quiet", "_receiver",
        "_waiting", "deflate", "settings", "wire",
    )  # fmt: skip

    def __init__(
        self,
        wire: Wire,
        receiver: Receiver,
        settings: WebSocketSettings,
        deflate: PerMessageDeflate | None = None,
    ) -> None:
        self.wire = wire
        self._receiver = receiver
        self.settings = settings
        self.deflate = deflate
        self._largest = _smaller(settings.max_message_size, settings.max_frame_size)
        self._frames: _Frames | None = None
        self._quiet = True
        self._waiting = _NOT
        self._held = b""
        self._eof = False
        #: Neither side has sent a close frame.
        self._open = True
        self._heard = False
        self._pong_owed: bytes | None = None
        self._ping_at: float | None = None
        self._pong_by: float | None = None
        self._ends_at: float | None = None
        self._close_by: float | None = None

    def start(self) -> None:
        """Begin to keep time; the wire is ours by now."""
        if self._open:
            now = monotonic()
            self._ping_at = _after(now, self.settings.ping_interval)
            self._ends_at = _after(now, self.settings.max_lifetime)
            self._arm(now)

    # -- What the wire tells us --------------------------------------------------------

    def receive_data(self, data: bytes, /) -> None:
        self._heard = True
        if self._quiet:
            # One short text, alone in its read: what a conversation is made of. It is
            # all said again, for every case, in _read_ordinary.
            length = len(data) - 6
            if (
                0 <= length < 126
                and data[1] == length + 0x80
                and data[0] == _TEXT
                and length <= self._largest
            ):
                mask = (data[2:6] * (length // 4 + 1))[:length]
                payload = (_from_bytes(data[6:]) ^ _from_bytes(mask)).to_bytes(length)
                try:
                    message = payload.decode()
                except UnicodeDecodeError:
                    self._read(data, patient=True)
                    return
                if not self._receiver.message(message, length):
                    self._wait(_FOR_ROOM, b"")
                return
            data = self._read_ordinary(data)
            if data:
                self._read(data, patient=True)
        elif self._waiting == _NOT:
            self._read(data, patient=True)
        elif self._waiting != _ENDED:
            # Once is no matter, but one who sends faster than a turn reads goes on.
            self._held += data
            self.wire.pause_reading()

    def receive_eof(self) -> None:
        if self._waiting == _NOT:
            self._lose("the client closed the connection without a close frame")
        else:
            self._eof = True

    def connection_lost(self) -> None:
        # What had arrived before still counts, a close frame most of all.
        while self._waiting == _FOR_ROOM or self._waiting == _FOR_A_TURN:
            self._read_held(patient=False)
        if self._waiting != _ENDED:
            self._end(ABNORMAL, "connection lost")

    def writable_again(self) -> None:
        pong, self._pong_owed = self._pong_owed, None
        if pong is not None and self._open:
            self.wire.write(_control(_PONG, pong))
        self._receiver.writable_again()

    def drain(self) -> None:
        self.close(SERVICE_RESTART, "service restart")

    # -- What the receiver asks --------------------------------------------------------

    def send_text(self, text: str) -> None:
        """Send a text message; nothing is sent once a close frame has been.

        :raises UnicodeEncodeError: for lone surrogates.
        """
        payload = text.encode()
        length = len(payload)
        if length < COMPRESS_FROM or self.deflate is None:
            if not self._open:
                return
            if length < 126:
                self.wire.write(_TEXT_HEADERS[length] + payload)
            else:
                self._send(_TEXT, payload)
        else:
            self._send_deflated(_DEFLATED_TEXT, payload)

    def send_bytes(self, payload: bytes) -> None:
        """Send a binary message; nothing is sent once a close frame has been."""
        length = len(payload)
        if length < COMPRESS_FROM or self.deflate is None:
            if not self._open:
                return
            if length < 126:
                self.wire.write(_BINARY_HEADERS[length] + payload)
            else:
                self._send(_BINARY, payload)
        else:
            self._send_deflated(_DEFLATED_BINARY, payload)

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame, once; ``receiver.closed`` follows when the peer answers,
        or does not within :data:`CLOSE_TIMEOUT` seconds.
        """
        if not self._open:
            return
        frames = self._frames
        if frames is None:
            frames = self._frames = _Frames(self)
        frames.sendCloseFrame(code, reason.encode())
        self._open = self._quiet = False
        now = monotonic()
        self._ping_at = self._pong_by = self._ends_at = None
        self._close_by = now + CLOSE_TIMEOUT
        self._arm(now)
        if self._waiting == _FOR_ROOM:
            # Messages are dropped from now on; among them is the peer's answer.
            self._resume(patient=False)

    def resume(self) -> None:
        """The receiver has room again."""
        if self._waiting == _FOR_ROOM:
            self._resume(patient=True)

    # -- Reading -----------------------------------------------------------------------

    def _read_ordinary(self, data: bytes) -> bytes:
        """Deliver ordinary frames; return what begins with any other."""
        size = len(data)
        end = 0
        while end + 6 <= size:
            first = data[end]
            if first != _TEXT and first != _BINARY and not self._is_deflated(first):
                break
            begin = end + 6
            length = data[end + 1] - 0x80
            if length > 125:
                if length == 126:
                    begin += 2
                    length = _from_bytes(data[end + 2 : end + 4])
                    minimal = length > 125
                else:
                    begin += 8
                    length = _from_bytes(data[end + 2 : end + 10])
                    minimal = length > 0xFFFF
                if not minimal:
                    break
            stop = begin + length
            # Unmasked, not all here, or too large.
            if length < 0 or stop > size or length > self._largest:
                break
            if length > INTEGER_LIMIT:
                payload = unmask(data[begin - 4 : begin], data[begin:stop])
            else:
                mask = (data[begin - 4 : begin] * (length // 4 + 1))[:length]
                payload = (_from_bytes(data[begin:stop]) ^ _from_bytes(mask)).to_bytes(
                    length
                )
            if first == _TEXT:
                try:
                    message: str | bytes = payload.decode()
                except UnicodeDecodeError:
                    break
            elif first == _BINARY:
                message = payload
            else:
                inflated = self._inflate(first, payload)
                if inflated is None:
                    return b""
                message, length = inflated
            end = stop
            if not self._receiver.message(message, length):
                self._wait(_FOR_ROOM, data[end:])
                return b""
        return data[end:] if end else data

    def _is_deflated(self, first: int) -> bool:
        return first in (_DEFLATED_TEXT, _DEFLATED_BINARY) and self.deflate is not None

    def _inflate(self, first: int, payload: bytes) -> tuple[str | bytes, int] | None:
        """A whole compressed message, and its size; None: the connection has failed.

        There is no going back to Autobahn from here: the context has moved on.
        """
        deflate = self.deflate
        assert deflate is not None
        try:
            inflated = deflate.inflate(payload)
            deflate.end_message()
            if first == _DEFLATED_TEXT:
                return inflated.decode(), len(inflated)
        except InflatedTooLarge as error:
            self.fail(TOO_BIG, str(error))
        except NotDeflated as error:
            self.fail(INVALID_PAYLOAD, f"a message is not deflate data: {error}")
        except UnicodeDecodeError:
            self.fail(INVALID_PAYLOAD, "a text message is not UTF-8")
        else:
            return inflated, len(inflated)
        return None

    def _read(self, data: bytes, *, patient: bool) -> None:
        """Read anything.

        ``patient``: give the application a turn before the first extraordinary frame,
        if it is behind.
        """
        budget = FRAMES_PER_TURN
        while data:
            frames = self._frames
            if frames is None:
                unread = len(data)
                data = self._read_ordinary(data)
                if not data:
                    return
                if (patient or len(data) < unread) and self._receiver.behind:
                    self._wait(_FOR_A_TURN, data)
                    return
                frames = self._frames = _Frames(self)
                self._quiet = False
            if not budget:
                self._wait(_FOR_A_TURN, data)
                return
            budget -= 1
            data = frames.take(data)
            if frames.between_messages and self._open:
                self._frames = None
                self._quiet = self._waiting == _NOT
            if self._waiting != _NOT:
                self._held = data
                return

    def _wait(self, reason: int, data: bytes) -> None:
        """Leave ``data`` unread until there is room, or for a turn of the loop."""
        self._waiting = reason
        self._quiet = False
        self._held = data
        if reason == _FOR_ROOM:
            self.wire.pause_reading()
        else:
            self._receiver.next_turn(self._take_turn)

    def _take_turn(self) -> None:
        if self._waiting == _FOR_A_TURN:
            self._resume(patient=False)

    def _resume(self, *, patient: bool) -> None:
        self._read_held(patient=patient)
        if self._waiting == _NOT:
            self.wire.resume_reading()
            if self._eof:
                self.receive_eof()

    def _read_held(self, *, patient: bool) -> None:
        data, self._held = self._held, b""
        self._waiting = _NOT
        self._quiet = self._frames is None
        self._read(data, patient=patient)

    # -- What Autobahn finds -----------------------------------------------------------

    def deliver(self, payload: bytes, binary: bool) -> None:
        """A message, checked; what comes after our close frame is dropped."""
        if self._open:
            message = payload if binary else payload.decode()
            if not self._receiver.message(message, len(payload)):
                self._wait(_FOR_ROOM, b"")

    def pong(self, payload: bytes) -> None:
        """Answer a ping.

        RFC 6455 section 5.5.3: it is enough to answer the latest; to one who does not
        read, every answer more would only fill our memory.
        """
        if self.wire.writable:
            self.wire.write(_control(_PONG, payload))
        else:
            self._pong_owed = payload

    def closed(self, code: int | None, reason: str | None) -> None:
        """Close frames have gone both ways; the server closes first (section 7.1.1)."""
        self._end(NO_STATUS if code is None else code, reason or "")
        self.wire.close()

    # -- Ends --------------------------------------------------------------------------

    def fail(self, code: int, reason: str) -> None:
        """The peer broke the protocol: say how, and stop listening (section 7.1.7)."""
        if self._open:
            told = _REASONS.get(code, reason).encode()[:MAX_REASON]
            self.wire.write(_control(_CLOSE, code.to_bytes(2) + told))
        self._receiver.failed(code, reason)
        self._end(code, _REASONS.get(code, reason))
        self.wire.linger()

    def _lose(self, reason: str) -> None:
        """There will be no close frame from the peer."""
        if self._waiting != _ENDED:
            self._end(ABNORMAL, reason)
            self.wire.close()

    def _end(self, code: int, reason: str) -> None:
        self._open = self._quiet = False
        self._waiting = _ENDED
        self._frames = self.deflate = self._pong_owed = None
        self._held = b""
        self.wire.arm(None, self._expired)
        self._receiver.closed(code, reason)

    # -- Sending -----------------------------------------------------------------------

    def _send(self, first: int, payload: bytes) -> None:
        if self._open:
            length = len(payload)
            if length < 126:
                header = bytes((first, length))
            elif length <= 0xFFFF:
                header = b"%c\x7e%b" % (first, length.to_bytes(2))
            else:
                header = b"%c\x7f%b" % (first, length.to_bytes(8))
            if length <= JOIN_LIMIT:
                self.wire.write(header + payload)
            else:
                self.wire.write(header)
                self.wire.write(payload)

    def _send_deflated(self, first: int, payload: bytes) -> None:
        if self._open:
            assert self.deflate is not None
            self._send(first, self.deflate.compress(payload))

    # -- Time --------------------------------------------------------------------------

    def _arm(self, now: float) -> None:
        deadlines = (self._ping_at, self._pong_by, self._ends_at, self._close_by)
        due = min((at for at in deadlines if at is not None), default=None)
        seconds = None if due is None else max(0.0, due - now)
        self.wire.arm(seconds, self._expired)

    def _expired(self) -> None:
        """Do what is due.

        Anything that arrives after a ping proves that the peer is there as well as its
        pong does: a pong has to queue behind the large message that the peer sends.
        The silence of a peer that does not read proves nothing, nor would a ping that
        we send while we do not read.
        """
        now = monotonic()
        if self._close_by is not None:
            if now >= self._close_by:
                self._end(ABNORMAL, "the close frame was not answered")
                self.wire.abort()
                return
        elif self._ends_at is not None and now >= self._ends_at:
            self.close(GOING_AWAY, "maximum lifetime reached")
            return
        elif self._pong_by is not None and now >= self._pong_by:
            self._pong_by = None
            if not self._heard and self.wire.writable:
                self._ping_timed_out()
                return
        if self._open and self._ping_at is not None and now >= self._ping_at:
            self._ping(now)
        self._arm(now)

    def _ping(self, now: float) -> None:
        self._ping_at = _after(now, self.settings.ping_interval)
        if self.wire.writable and self._waiting == _NOT:
            self.wire.write(_control(_PING, b""))
            if self._pong_by is None:
                self._heard = False
                self._pong_by = _after(now, self.settings.ping_timeout)

    def _ping_timed_out(self) -> None:
        # The peer may be there after all, behind a path that loses only one direction.
        self.wire.write(_control(_CLOSE, INTERNAL_ERROR.to_bytes(2) + b"ping timeout"))
        self._receiver.failed(
            INTERNAL_ERROR, "no ping was answered within WEBSOCKET['PING_TIMEOUT']"
        )
        self._end(ABNORMAL, "ping timeout")
        self.wire.close()


def check_close(code: object, reason: object) -> None:
    """Refuse what an application must not put in a close frame.

    :raises IllegalMessage: for a code that section 7.4 reserves, or a reason beyond
        :data:`MAX_REASON` bytes.
    """
    if (
        not isinstance(code, int)
        or not (1000 <= code <= 1014 or 3000 <= code <= 4999)
        or 1004 <= code <= 1006
    ):
        raise IllegalMessage(
            f"{code!r} is not a close code that may be sent: "
            f"use 1000 to 1003, 1007 to 1014, or 3000 to 4999"
        )
    if not isinstance(reason, str):
        raise IllegalMessage(f"the close reason must be a string, not {reason!r}")
    size = len(reason.encode())
    if size > MAX_REASON:
        raise IllegalMessage(
            f"the close reason has {size} bytes in UTF-8; "
            f"a close frame holds {MAX_REASON} at most"
        )


def unmask(mask: bytes, payload: bytes) -> bytes:
    """``payload`` with the four bytes of ``mask`` taken off (RFC 6455 section 5.3)."""
    length = len(payload)
    if length > INTEGER_LIMIT:
        if USES_NVX:
            masked: bytes = _new_masker(mask, length).process(payload)
            return masked
        # Each byte of the mask concerns every fourth byte of the payload.
        lanes = bytearray(length)
        for lane, key in enumerate(mask):
            lanes[lane::4] = payload[lane::4].translate(_XOR_TABLES[key])
        return bytes(lanes)
    stream = (mask * (length // 4 + 1))[:length]
    return (_from_bytes(payload) ^ _from_bytes(stream)).to_bytes(length)


_new_masker: Any = xormasker.create_xor_masker  # type: ignore[attr-defined]

#: For each byte of a mask, what it makes of every byte.
_XOR_TABLES = [bytes(key ^ byte for byte in range(256)) for key in range(256)]


def _control(first: int, payload: bytes) -> bytes:
    return bytes((first, len(payload))) + payload


def _after(now: float, seconds: float | None) -> float | None:
    return None if seconds is None else now + seconds


def _smaller(*limits: int | None) -> int:
    return min((limit for limit in limits if limit is not None), default=1 << 63)


# -- Autobahn ------------------------------------------------------------------------


class _Inflate:
    """The compression of a connection, as Autobahn wants to call it."""

    EXTENSION_NAME = "permessage-deflate"

    __slots__ = ("_deflate",)

    def __init__(self, deflate: PerMessageDeflate) -> None:
        self._deflate = deflate

    def start_decompress_message(self) -> None:
        """Nothing to do: the end of the last message was the beginning of this."""

    def decompress_message_data(
        self, data: bytes, max_output_len: int | None = None
    ) -> bytes:
        try:
            return self._deflate.inflate(data)
        except InflatedTooLarge as error:
            raise PayloadExceededError(str(error)) from None
        except NotDeflated as error:
            raise PayloadCorruptError(str(error)) from None

    def end_decompress_message(self) -> None:
        try:
            self._deflate.end_message()
        except NotDeflated as error:
            raise PayloadCorruptError(str(error)) from None


class _Validator:
    """Strict UTF-8, as it arrives, told as Autobahn's own validator tells it.

    That one is a loop in Python, a thousand times slower, wherever Autobahn was
    installed without its compiled part.
    """

    __slots__ = ("_decoder", "_total")

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._total = 0

    def reset(self) -> None:
        self._decoder.reset()
        self._total = 0

    def validate(self, data: bytes) -> tuple[bool, bool, int, int]:
        """Valid so far; complete; the offset in ``data``; the offset in the message."""
        self._total += len(data)
        try:
            self._decoder.decode(data)
        except UnicodeDecodeError:
            return False, False, len(data), self._total
        pending = self._decoder.getstate()[0]
        # The decoder waits for a surrogate's last byte before it objects.
        valid = not b"\xed\xa0" <= pending[:2] <= b"\xed\xbf"
        return valid, not pending, len(data), self._total


class _Log:
    """Autobahn's words, unheard: ``_fail_connection`` says what matters."""

    def debug(self, *args: object, **kwargs: object) -> None: ...

    info = warn = error = debug


class _Factory:
    """All that the frame engine asks of the factory behind it."""

    isServer = True


class _Frames(WebSocketServerProtocol):
    """Autobahn's frame engine, for one connection and a while.

    Neither ``__init__`` nor ``_connectionMade`` of Autobahn runs: the first makes
    futures, the second copies and formats every option. What they would set is in the
    class, and a test compares it with what they do set. Frames are unmasked before they
    come here, because the mask is fast in C only where Autobahn was compiled.
    """

    factory = _Factory()
    log = _Log()
    logFrames = logOctets = False
    trackedTimings: Any = None
    #: Shared by all, read by nobody.
    trafficStats: Any = TrafficStats()  # type: ignore[no-untyped-call]
    utf8validator: Any

    # Options of ours.
    applyMask = False
    closeHandshakeTimeout = 0
    echoCloseCodeReason = True

    # Options as Autobahn has them.
    autoPingInterval = 0
    autoPingRestartOnAnyTraffic = True
    failByDrop = True
    maskServerFrames = False
    requireMaskedClientFrames = True
    utf8validateIncoming = True

    # The state of a connection that has just opened.
    state = WebSocketProtocol.STATE_OPEN
    websocket_version = 13
    data = b""
    inside_message = False
    current_frame: Any = None
    closedByMe = failedByMe = wasClean = False
    wasMaxFramePayloadSizeExceeded = wasMaxMessagePayloadSizeExceeded = False
    localCloseCode = localCloseReason = None
    remoteCloseCode = remoteCloseReason = None
    closeHandshakeTimeoutCall = None
    autoPingPending = autoPingTimeoutCall = None
    send_queue: Any = ()
    _perMessageCompress: Any = None

    def __init__(self, engine: WebSocketEngine) -> None:
        self.engine = engine
        settings = engine.settings
        self.maxFramePayloadSize = settings.max_frame_size or 0
        self.maxMessagePayloadSize = settings.max_message_size or 0
        self.utf8validator = _Validator()
        if engine.deflate is not None:
            self._perMessageCompress = _Inflate(engine.deflate)

    # -- In ----------------------------------------------------------------------------

    @property
    def between_messages(self) -> bool:
        """Whether nothing is buffered or under way."""
        return not (self.inside_message or self.current_frame or self.data)

    def take(self, data: bytes) -> bytes:
        """Read one frame, or as much of it as there is; return what follows it."""
        frame = self.current_frame
        if frame is None:
            data = self.data + data
            self.data = b""
            begin = _header_size(data)
            # Of an incomplete header, too, the first bytes may be wrong already.
            self._dataReceived(data[:begin])
            data = data[begin:]
            frame = self.current_frame
            if frame is None:
                return data
        begin = self.current_frame_masker.pointer()
        piece = data[: frame.length - begin]
        if piece:
            turn = begin & 3
            mask = frame.mask[turn:] + frame.mask[:turn]
            self._dataReceived(unmask(mask, piece))
        return data[len(piece) :]

    # -- What Autobahn calls -----------------------------------------------------------

    def _onMessageBegin(self, isBinary: bool) -> None:
        self.message_data_total_length = 0
        self.binary = isBinary
        self.payload = bytearray()

    def _onMessageFrameBegin(self, length: int) -> None:
        # Holds a message and its frames to their limits.
        self.onMessageFrameBegin(length)

    def _onMessageFrameData(self, payload: bytes) -> None:
        # Not Autobahn's list of pieces: an empty fragment would add to it for ever.
        self.payload += payload

    def _onMessageFrameEnd(self) -> None: ...

    def _onMessageEnd(self) -> None:
        self.engine.deliver(bytes(self.payload), self.binary)

    def _onPing(self, payload: bytes) -> None:
        if self.state == WebSocketProtocol.STATE_OPEN:
            self.engine.pong(payload)

    def _onPong(self, payload: bytes) -> None:
        """That something arrived is all that a pong says."""

    def _fail_connection(self, code: int, reason: str) -> None:  # type: ignore[override]
        if self.state != WebSocketProtocol.STATE_CLOSED:
            self.failedByMe = True
            self.state = WebSocketProtocol.STATE_CLOSED
            self.engine.fail(code, reason)

    def dropConnection(self, abort: bool = False) -> None:
        self.state = WebSocketProtocol.STATE_CLOSED
        self.engine.closed(self.remoteCloseCode, self.remoteCloseReason)

    def sendData(
        self, data: bytes, sync: bool = False, chopsize: int | None = None
    ) -> None:
        self.engine.wire.write(data)


def _header_size(data: bytes) -> int:
    """The size of the frame header that ``data`` begins with (RFC 6455 section 5.2)."""
    if len(data) < 2:
        return 2
    length, masked = data[1] & 0x7F, data[1] & 0x80
    size = 2 if length < 126 else 4 if length == 126 else 10
    return size + 4 if masked else size
