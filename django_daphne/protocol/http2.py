"""HTTP/2 on one connection (RFC 9113), without I/O.

The division of labour with h2: it keeps the states of streams and the windows of both
sides, and takes apart the frames that move them. Everything that a peer can send is
looked at by us first, for reasons that were found by trying:

- Frames are cut apart here and given to h2 one by one. It forgets the events of all
  earlier frames of a read when a later one is at fault.
- Header blocks are decoded and validated here, and h2 is told only that one came. To it
  every fault in a block is the connection's, be it a space in one request's path, and
  content-length too; by RFC 9113 section 8.1.1 they are the stream's.
- What costs it something and serves nobody is counted (:mod:`.http2_patience`): h2
  takes resets, pings and settings without end.
- It never hears of GOAWAY, in either direction. After one it refuses to go on with the
  streams that are to be finished.
- HEADERS and DATA that we send are built here, and h2 hears of what they change: the
  windows, and that a stream has ended. That they come in the right order is seen to
  above; its own way to send them costs as much as everything else about a request.

Windows, inwards: the connection's is opened by what arrives, as soon as it arrives, so
that no stream can use it up for the others. A stream's is opened only by what its
application has taken; it is :data:`STREAM_WINDOW` bytes, which is all that an
application which reads nothing makes us hold. Outwards, :mod:`.priority` says who
sends, and everything of one turn of the loop leaves in one write.

Each request is an :class:`~.http2_exchange.Exchange`, which is to its application what
the whole engine is on HTTP/1.1. One timer serves them all: it is armed for the nearest
of their deadlines, looks at every exchange when it expires, and costs a request without
deadlines nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamReset
from h2.exceptions import ProtocolError as RefereeError
from h2.settings import SettingCodes, Settings
from h2.stream import StreamInputs

from ..config import Limits, Timeouts
from ..errors import ProtocolError
from .http2_exchange import (
    FRAME_SIZE_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    Exchange,
)
from .http2_fields import (
    BlockDecoder,
    BlockEncoder,
    Field,
    HeaderListTooLarge,
    NotHPACK,
)
from .http2_head import Head, Malformed, check_trailers, read_head
from .http2_patience import (
    EARNING,
    NUISANCE,
    PREMATURE,
    REFUSED,
    RESET,
    SENT,
    SERVED,
    Patience,
)
from .pace import Pace
from .priority import Priority, Schedule, read_priority
from .wire import Stream, Wire

#: RFC 9113 section 3.4: how a client begins.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: Bytes of a request's body that we hold for an application that takes none. Twice what
#: HTTP/1.1 has for it, because there the kernel's buffers come on top.
STREAM_WINDOW = 128 * 1024

#: Bytes of all streams together that may be under way to us: enough for a fast and
#: distant client. It is opened by what arrives, so it holds nobody up.
CONNECTION_WINDOW = 1024 * 1024

#: RFC 9113 section 4.2: the largest payload that we take, and that we send, is what
#: everybody must take; larger ones would make the others' frames wait.
MAX_FRAME = 16 * 1024

#: Frames read in one turn of the loop. Each may cost some 20 µs; a read can hold 25,000
#: of them, and other connections want their turn.
FRAMES_PER_TURN = 500

#: Bytes of a header block that count like another frame: each may stand for a field.
FIELDS_PER_FRAME = 32

#: Bytes of responses put into one write, and the writes of one turn.
WRITE_SIZE = 64 * 1024
WRITES_PER_TURN = 4

#: Bytes written to a client that does not read, before we stop reading from it:
#: everything that it sends may need an answer.
CHOKE = 64 * 1024

#: Bytes of a SETTINGS frame that cost like another frame: three times what there is.
SETTINGS_PAYLOAD = 192

#: Smaller frames of a body that nobody wants cost us more than the client, who has an
#: answer to each: that the connection's window is open again.
CRUMB = 256

#: Streams that we have reset and whose last frames may still be under way.
MAX_RESETS = 1000

#: How long a client has for requests that it sent before it read our GOAWAY. It answers
#: the ping behind it within a round trip.
GOAWAY_PAUSE = 1.0
_GOAWAY_PING = b"farewell"

# Frame types (section 6, RFC 9218 section 7.1).
_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PUSH_PROMISE, _PING, _GOAWAY = (
    range(8)
)
_WINDOW_UPDATE, _CONTINUATION = 8, 9
_PRIORITY_UPDATE = 0x10

# Flags.
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_PRIORITY_FLAG = 0x20

# Error codes that an exchange has no use for; the others are in http2_exchange.
FLOW_CONTROL_ERROR = 0x3
COMPRESSION_ERROR = 0x9
ENHANCE_YOUR_CALM = 0xB

_NAMES = {
    0x0: "NO_ERROR",
    0x1: "PROTOCOL_ERROR",
    0x2: "INTERNAL_ERROR",
    0x3: "FLOW_CONTROL_ERROR",
    0x4: "SETTINGS_TIMEOUT",
    0x5: "STREAM_CLOSED",
    0x6: "FRAME_SIZE_ERROR",
    0x7: "REFUSED_STREAM",
    0x8: "CANCEL",
    0x9: "COMPRESSION_ERROR",
    0xA: "CONNECT_ERROR",
    0xB: "ENHANCE_YOUR_CALM",
    0xC: "INADEQUATE_SECURITY",
    0xD: "HTTP_1_1_REQUIRED",
}

# Settings (section 6.5.2, RFC 8441, RFC 9218 section 2.1).
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MAX_STREAMS = 1, 2, 3
_INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE, _MAX_HEADER_LIST_SIZE = 4, 5, 6
_ENABLE_CONNECT_PROTOCOL, _NO_RFC7540_PRIORITIES = 8, 9

#: The values that a setting may have, and what another is (section 6.5.2, RFC 9218
#: section 2.1).
_SETTINGS_RANGES = {
    _ENABLE_PUSH: (0, 1, PROTOCOL_ERROR),
    _INITIAL_WINDOW_SIZE: (0, 2**31 - 1, FLOW_CONTROL_ERROR),
    _MAX_FRAME_SIZE: (2**14, 2**24 - 1, PROTOCOL_ERROR),
    _NO_RFC7540_PRIORITIES: (0, 1, PROTOCOL_ERROR),
}

#: What h2 has to hear of: it takes every unknown setting and keeps it.
_FOR_REFEREE = frozenset({_ENABLE_PUSH, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE})

#: The largest identifier of a stream, and the largest value of a setting.
_LAST_STREAM = 2**31 - 1
_LARGEST = 2**32 - 1

_SETTING = struct.Struct(">HL")
_LONG = struct.Struct(">L")

#: Status None: no status was answered with, the protocol's own means were used.
Report = Callable[[str, int | None, bytes], None]
Begin = Callable[[Exchange, Head], Stream]


class _ConnectionFault(Exception):
    """The peer broke the protocol in a way that ends the connection (section 5.4.1)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


# -- h2 --------------------------------------------------------------------------------


class _NoDecoder:
    """Stands where h2 decodes: we have done it already."""

    max_header_list_size = max_allowed_table_size = 0

    def decode(self, data: bytes, raw: bool) -> tuple[()]:
        return ()


_CONFIGURATION = H2Configuration(
    client_side=False,
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)


class _Referee(H2Connection):
    """h2, with its memory bounded and its view of a connection reduced to states."""

    MAX_CLOSED_STREAMS = MAX_RESETS

    def __init__(self) -> None:
        super().__init__(_CONFIGURATION)
        self._sweep_at = 64
        self.local_settings = Settings(
            client=False,
            initial_values={SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW},
        )
        self.decoder = _NoDecoder()  # type: ignore[assignment]
        self.initiate_connection()
        # Its settings are not all that we have to say.
        self.clear_outbound_data_buffer()
        self.receive_data(PREFACE)

    @property
    def open_inbound_streams(self) -> int:
        """Called for every new stream. The limit is ours; what is left is that h2
        forgets closed streams on this occasion, for which it looks at all there are.
        """
        if len(self.streams) >= self._sweep_at:
            count = super().open_inbound_streams
            self._sweep_at = 64 + 2 * count
        return 0

    def sent_data(self, id: int, size: int) -> None:
        """DATA went out; there was room for it."""
        self.outbound_flow_control_window -= size
        self.streams[id].outbound_flow_control_window -= size

    def sent_end(self, id: int) -> None:
        """END_STREAM went out."""
        self.streams[id].state_machine.process_input(StreamInputs.SEND_END_STREAM)


# -- The engine ------------------------------------------------------------------------


class HTTP2Engine:
    """Speaks HTTP/2 on one wire; an :class:`~.wire.Engine`.

    ``begin`` is called with every request's exchange and head and may raise
    :class:`~django_daphne.errors.ProtocolError` to refuse it. ``report`` hears of every
    refusal: the reason, the status (None: there was none), and the first bytes of the
    offence.
    """

    __slots__ = (
        "_acknowledged", "_armed", "_block", "_block_ended", "_block_fault",
        "_block_id", "_buffered", "_choked", "_client_leaves", "_closed", "_date",
        "_date_line", "_deaf_since", "_decoder", "_draining", "_dry",
        "_early_priorities", "_encoder", "_flush_due", "_goaway_due", "_h2",
        "_head_due", "_highest", "_holding", "_idle_since", "_largest_block",
        "_last_id", "_out", "_patience", "_paused", "_pending", "_preface_left",
        "_read_at", "_readers", "_received", "_resets", "_sent", "_settled",
        "_window_due", "_window_pace", "begin", "exchanges", "limits", "report",
        "schedule", "server", "timeouts", "wire", "woken",
    )  # fmt: skip

    http_version = "2"
    stream_window = STREAM_WINDOW

    def __init__(
        self,
        wire: Wire,
        begin: Begin,
        report: Report,
        limits: Limits,
        timeouts: Timeouts,
        server_line: bytes | None = None,
    ) -> None:
        self.wire = wire
        self.begin = begin
        self.report = report
        self.limits = limits
        self.timeouts = timeouts
        self.server: Field | None = None
        if server_line is not None:
            self.server = (b"server", server_line.partition(b": ")[2])
        self.exchanges: dict[int, Exchange] = {}
        self.schedule: Schedule[Exchange] = Schedule()
        #: Exchanges that became writable in this turn.
        self.woken: list[Exchange] = []
        #: The first of those that have sent all they had in this turn.
        self._dry: Priority | None = None
        self._h2 = _Referee()
        # What is larger is answered 431 or, beyond what we would decode, hung up on.
        self._decoder = BlockDecoder(2 * limits.header_bytes)
        self._largest_block = limits.header_bytes + MAX_FRAME
        self._encoder = BlockEncoder()
        self._patience = Patience(wire.clock)
        self._readers = {
            _DATA: self._read_data,
            _HEADERS: self._read_headers,
            _PRIORITY: self._read_priority,
            _RST_STREAM: self._read_reset,
            _SETTINGS: self._read_settings,
            _PUSH_PROMISE: self._read_push,
            _PING: self._read_ping,
            _GOAWAY: self._read_goaway,
            _WINDOW_UPDATE: self._read_window_update,
            _CONTINUATION: self._read_continuation,
            _PRIORITY_UPDATE: self._read_priority_update,
        }
        self._preface_left = PREFACE
        self._settled = False
        #: How fast the client opens the connection's window while somebody waits for
        #: it, and what it has let through since that was last looked at.
        self._window_pace: Pace | None = None
        self._window_due: float | None = None
        self._sent = 0
        #: The client knows our settings.
        self._acknowledged = False
        self._pending = b""
        #: Frames wait for the next turn of the loop.
        self._holding = False
        self._paused = False
        #: A header block whose end has not come (section 4.3).
        self._block: bytearray | None = None
        self._block_id = 0
        self._block_ended = False
        self._block_fault: Malformed | None = None
        self._highest = 0
        #: Streams that we have reset, oldest first: what still comes is ignored.
        self._resets: dict[int, None] = {}
        #: Priorities of requests that have not come yet (RFC 9218 section 7.1).
        self._early_priorities: dict[int, Priority] = {}
        #: Bytes of DATA for which the connection's window has not been opened again.
        self._received = 0
        #: Frames on their way out; h2's own go behind them.
        self._out: list[bytes] = []
        #: Bytes of DATA among them.
        self._buffered = 0
        self._choked = 0
        #: When we stopped reading because of what the client does not take.
        self._deaf_since: float | None = None
        self._flush_due = False
        self._closed = False
        self._draining = False
        self._client_leaves = False
        #: The last stream that we promised to serve; None until we have said so.
        self._last_id: int | None = None
        self._goaway_due: float | None = None
        self._head_due: float | None = None
        self._idle_since = wire.clock.seconds
        self._read_at = wire.clock.seconds
        #: For when the wire's timer is armed.
        self._armed: float | None = None
        self._date: Field = (b"date", b"")
        self._date_line = b""

    def start_reading(self) -> None:
        """The connection is open: say what we take, and wait for the client."""
        limits = self.limits
        settings = (
            (_MAX_STREAMS, min(limits.streams, _LARGEST)),
            (_INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (_MAX_HEADER_LIST_SIZE, min(limits.header_bytes, _LARGEST)),
            (_ENABLE_CONNECT_PROTOCOL, 1),
            (_NO_RFC7540_PRIORITIES, 1),
        )
        payload = b"".join(_SETTING.pack(*setting) for setting in settings)
        self._out.append(_frame(_SETTINGS, 0, 0, payload))
        self._h2.increment_flow_control_window(CONNECTION_WINDOW - 65535)
        self.send_soon()
        if self.timeouts.headers is not None:
            self._head_due = self.due(self.timeouts.headers)
        self._rest()

    @property
    def parting(self) -> bool:
        """Whether we are leaving and not yet gone: there are responses on their way, or
        requests may come that were sent before our farewell was read.
        """
        return self._draining and not self._closed

    @property
    def deaf(self) -> bool:
        """Whether we read nothing until the client has taken more."""
        return self._deaf_since is not None

    @property
    def tunnels(self) -> int:
        """How many WebSockets there are."""
        return sum(exchange.is_tunnel for exchange in self.exchanges.values())

    # -- What the wire tells us --------------------------------------------------------

    def receive_data(self, data: bytes, /) -> None:
        if self._closed:
            return
        self._read_at = self.wire.clock.seconds
        if self._pending:
            data = self._pending + data
            self._pending = b""
        if self._holding:
            self._pending = data
        elif not self._preface_left:
            self._read(data)
        else:
            self._read_preface(data)

    def receive_eof(self) -> None:
        self._lose_all("the client closed the connection")
        self._closed = True
        self.wire.close()

    def connection_lost(self) -> None:
        self._closed = True
        self._lose_all("the connection was lost")

    def writable_again(self) -> None:
        self._choked = 0
        since, self._deaf_since = self._deaf_since, None
        if since is not None:
            for exchange in self.exchanges.values():
                exchange.was_not_heard(since)
        self._resume()
        self._flush()

    def drain(self) -> None:
        """Section 6.8: first say that we go, then, a round trip later, since when."""
        if self._draining or self._closed:
            return
        self._draining = True
        for exchange in tuple(self.exchanges.values()):
            if exchange.discarding:
                # Nobody wants what is still to come.
                self.reset(exchange, NO_ERROR)
            else:
                exchange.drain()
        if self._closed:
            # The client was leaving, and that was the last of it.
            return
        self._say_goaway(_LAST_STREAM, NO_ERROR)
        self._out.append(_frame(_PING, 0, 0, _GOAWAY_PING))
        self._goaway_due = self.due(GOAWAY_PAUSE)
        self._flush()

    # -- Frames ------------------------------------------------------------------------

    def _read_preface(self, data: bytes) -> None:
        """Section 3.4."""
        begin = data[: len(self._preface_left)]
        if not self._preface_left.startswith(begin):
            self._fail(PROTOCOL_ERROR, "the connection does not begin as HTTP/2 does")
            return
        self._preface_left = self._preface_left[len(begin) :]
        if not self._preface_left:
            self._read(data[len(begin) :])

    def _read(self, data: bytes) -> None:
        position, size = 0, len(data)
        budget = FRAMES_PER_TURN
        frame = b""
        readers = self._readers
        try:
            while size - position >= 9:
                end = position + 9 + int.from_bytes(data[position : position + 3])
                if end - position - 9 > MAX_FRAME:
                    raise _ConnectionFault(FRAME_SIZE_ERROR, "a frame is too large")
                if end > size:
                    break
                if budget <= 0:
                    self._hold()
                    break
                kind, flags = data[position + 3], data[position + 4]
                budget -= 1
                if kind in (_HEADERS, _CONTINUATION):
                    budget -= (end - position) // FIELDS_PER_FRAME
                id = int.from_bytes(data[position + 5 : position + 9]) & _LAST_STREAM
                if not self._settled and (kind != _SETTINGS or flags & _ACK):
                    raise _ConnectionFault(
                        PROTOCOL_ERROR, "the first frame is not SETTINGS"
                    )
                if self._block is not None and kind != _CONTINUATION:
                    raise _ConnectionFault(
                        PROTOCOL_ERROR, "a frame inside a header block"
                    )
                reader = readers.get(kind)
                frame = data[position:end]
                position = end
                if reader is not None:
                    reader(frame, flags, id)
                else:
                    # Section 4.1: unknown types are ignored.
                    self._spend(NUISANCE, "unknown frames")
                if self._closed:
                    return
        except _ConnectionFault as fault:
            self._fail(fault.code, str(fault), frame)
            return
        except RefereeError as error:
            # Its own GOAWAY is in its buffer already.
            code = int(error.error_code)
            self._report(code, str(error), frame)
            self._hang_up()
            return
        self._pending = pending = data[position:] if position < size else b""
        self._watch_heads(pending, budget < FRAMES_PER_TURN)

    def _hold(self) -> None:
        """Let others have a turn before the rest of what was read."""
        self._holding = True
        self._pause()
        self.wire.soon(self._read_on)

    def _read_on(self) -> None:
        if self._closed:
            return
        self._holding = False
        data, self._pending = self._pending, b""
        self._read(data)
        self._resume()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.wire.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self._holding and self._choked <= CHOKE:
            self._paused = False
            self.wire.resume_reading()

    def _watch_heads(self, pending: bytes, progress: bool) -> None:
        """Set a time for what must not stay incomplete: anything but DATA."""
        if self._block is None and (not pending or pending[3:4] == b"\0"):
            if not self._preface_left and self._settled:
                self._head_due = None
        elif self.timeouts.headers is not None and (
            self._head_due is None or (progress and self._block is None)
        ):
            self._head_due = self.due(self.timeouts.headers)

    def _spend(self, cost: int, what: str) -> None:
        if not self._patience.spend(cost):
            raise _ConnectionFault(ENHANCE_YOUR_CALM, f"too many {what}")

    def _check_stream(self, id: int) -> Exchange | None:
        """The exchange that a frame is for; None when it is over (section 5.1)."""
        exchange = self.exchanges.get(id)
        if exchange is None and (not id or id > self._highest or not id & 1):
            raise _ConnectionFault(
                PROTOCOL_ERROR, f"a frame for stream {id}, which was never opened"
            )
        return exchange

    # -- Header blocks -----------------------------------------------------------------

    def _read_headers(self, frame: bytes, flags: int, id: int) -> None:
        if not id & 1:
            raise _ConnectionFault(PROTOCOL_ERROR, f"HEADERS on stream {id}")
        begin, end = 9, len(frame)
        fault = None
        if flags & (_PADDED | _PRIORITY_FLAG):
            if flags & _PADDED:
                begin += 1
            if flags & _PRIORITY_FLAG:
                begin += 5
            if begin > end:
                raise _ConnectionFault(FRAME_SIZE_ERROR, "HEADERS of a wrong size")
            if flags & _PADDED:
                end -= frame[9]
            if begin > end:
                raise _ConnectionFault(PROTOCOL_ERROR, "HEADERS with too much padding")
            if flags & _PRIORITY_FLAG and _names_itself(frame[begin - 5 :], id):
                fault = Malformed("a stream depends on itself")
        fragment = frame[begin:end]
        ended = bool(flags & _END_STREAM)
        if flags & _END_HEADERS:
            self._read_block(id, fragment, ended, fault)
        else:
            self._block = bytearray(fragment)
            self._block_id = id
            self._block_ended = ended
            self._block_fault = fault

    def _read_continuation(self, frame: bytes, flags: int, id: int) -> None:
        block = self._block
        if block is None or id != self._block_id:
            raise _ConnectionFault(PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._spend(NUISANCE, "CONTINUATION frames")
        block += frame[9:]
        if len(block) > self._largest_block:
            # Not to be decoded, and without decoding there is no next block.
            raise _ConnectionFault(ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & _END_HEADERS:
            self._block = None
            self._read_block(id, bytes(block), self._block_ended, self._block_fault)

    def _read_block(
        self,
        id: int,
        block: bytes,
        ended: bool,
        fault: Malformed | ProtocolError | None,
    ) -> None:
        """A whole header block; ``fault`` is one of the frame that it came in."""
        exchange = self.exchanges.get(id)
        if exchange is not None:
            self._read_trailers(exchange, self._decode(block), ended)
            return
        if id <= self._highest:
            self._decode(block)
            if id not in self._resets:
                # A client's own reset is answered with one (section 5.1), an end with
                # the connection's.
                self._tell_referee(id, ended)
                self._note_reset(id)
                self.send_soon()
            self._spend(NUISANCE, "frames on closed streams")
            return
        head: Head | None = self._decoder.recall(block)
        if head is not None:
            head = head.copy()
        else:
            fields = self._decode(block)
            try:
                head = read_head(fields, self.limits)
            except (Malformed, ProtocolError) as error:
                fault = fault or error
            else:
                self._decoder.remember(block, head.copy())
        self._highest = id
        if self._last_id is not None:
            # Section 6.8: beyond what we promised; the client may send it elsewhere.
            self._note_reset(id)
            return
        if not self._tell_referee(id, ended):
            return
        exchange = Exchange(self, id)
        if head is not None and ended and head.length:
            fault = Malformed("a body was announced and none comes")
        if isinstance(fault, Malformed):
            self._spend(REFUSED, "malformed requests")
            self._report(PROTOCOL_ERROR, str(fault), block)
            self.reset(exchange, PROTOCOL_ERROR)
        elif len(self.exchanges) >= self.limits.streams:
            # Section 5.1.2. The client may not have read our settings yet.
            self._spend(REFUSED, "streams at once")
            self.reset(exchange, REFUSED_STREAM)
        elif fault is not None:
            self._spend(RESET, "unacceptable requests")
            self.exchanges[id] = exchange
            exchange.ended = ended
            exchange.refuse(fault)
        else:
            assert head is not None
            self.exchanges[id] = exchange
            if self._early_priorities:
                self._recall_priority(id, head)
            exchange.begin(head, ended)

    def _recall_priority(self, id: int, head: Head) -> None:
        """What was said of this request before it came; it is of use once."""
        early = self._early_priorities
        head.priority = early.get(id, head.priority)
        # Those that were skipped are never begun (section 5.1.1).
        for target in [target for target in early if target <= id]:
            del early[target]

    def _read_trailers(
        self, exchange: Exchange, fields: Iterable[Field], ended: bool
    ) -> None:
        if exchange.ended:
            self._fault_stream(exchange, STREAM_CLOSED, "HEADERS after the end")
            return
        try:
            if not ended:
                raise Malformed("a second header block that does not end the stream")
            if exchange.is_tunnel:
                raise Malformed("trailers in a tunnel")
            check_trailers(fields, self.limits)
        except Malformed as error:
            self._fault_stream(exchange, PROTOCOL_ERROR, str(error))
            return
        except ProtocolError as error:
            self._tell_referee(exchange.id, True)
            exchange.ended = True
            exchange.fail(error)
            self.charge_reset(exchange)
            return
        self._tell_referee(exchange.id, True)
        exchange.receive_trailers()

    def _decode(self, block: bytes) -> Iterable[Field]:
        try:
            return self._decoder.decode(block)
        except HeaderListTooLarge as error:
            raise _ConnectionFault(ENHANCE_YOUR_CALM, str(error)) from error
        except NotHPACK as error:
            raise _ConnectionFault(COMPRESSION_ERROR, str(error)) from error

    def _tell_referee(self, id: int, ended: bool) -> bool:
        """A whole header block has come; whether h2 finds that it opens the stream."""
        flags = _END_HEADERS | _END_STREAM if ended else _END_HEADERS
        events = self._h2.receive_data(_frame(_HEADERS, flags, id, b""))
        return any(isinstance(event, RequestReceived) for event in events)

    def _fault_stream(self, exchange: Exchange, code: int, reason: str) -> None:
        """A stream error (section 5.4.2)."""
        self._report(code, reason, b"")
        self._send_reset(exchange.id, code)
        self.forget(exchange, reason)
        self.charge_reset(exchange)

    # -- Other frames ------------------------------------------------------------------

    def _read_data(self, frame: bytes, flags: int, id: int) -> None:
        size = len(frame) - 9
        exchange = self._check_stream(id)
        ended = bool(flags & _END_STREAM)
        if exchange is None or exchange.ended:
            if size:
                # It counts against the connection's window whatever becomes of it.
                self._out.append(_window_update(0, size))
                self.send_soon()
            if exchange is not None:
                self._fault_stream(exchange, STREAM_CLOSED, "DATA after the end")
            elif id not in self._resets:
                raise _ConnectionFault(STREAM_CLOSED, f"DATA on stream {id}, closed")
            else:
                cost = NUISANCE if size < CRUMB else 0
                self._spend(cost, "small DATA frames on closed streams")
            return
        for event in self._h2.receive_data(frame):
            if isinstance(event, DataReceived):
                data = event.data or b""
                break
        else:
            return
        self._received += size
        if self._received >= CONNECTION_WINDOW // 2:
            self._h2.increment_flow_control_window(self._received)
            self._received = 0
            self.send_soon()
        if not data and not ended:
            self._spend(NUISANCE, "empty DATA frames")
        exchange.receive_data(data, size - len(data), ended)

    def _read_priority(self, frame: bytes, flags: int, id: int) -> None:
        """Section 5.3.2: deprecated, and of no effect here."""
        self._spend(NUISANCE, "PRIORITY frames")
        if not id:
            raise _ConnectionFault(PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(frame) != 14:
            code, reason = FRAME_SIZE_ERROR, "PRIORITY of a wrong size"
        elif _names_itself(frame[9:], id):
            code, reason = PROTOCOL_ERROR, "a stream depends on itself"
        else:
            return
        # Section 6.3: a stream error, if there is a stream.
        exchange = self.exchanges.get(id)
        if exchange is None:
            raise _ConnectionFault(code, reason)
        self._fault_stream(exchange, code, reason)

    def _read_reset(self, frame: bytes, flags: int, id: int) -> None:
        exchange = self._check_stream(id)
        if len(frame) != 13:
            raise _ConnectionFault(FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        if exchange is None:
            self._spend(NUISANCE, "frames on closed streams")
            return
        self._h2.receive_data(frame)
        code = int.from_bytes(frame[9:])
        name = _NAMES.get(code, hex(code))
        served = exchange.discarding
        self.forget(exchange, f"the client reset the stream ({name})")
        if served:
            self._spend(NUISANCE, "streams reset")
        else:
            self.charge_reset(exchange)

    def _read_settings(self, frame: bytes, flags: int, id: int) -> None:
        if id:
            raise _ConnectionFault(PROTOCOL_ERROR, f"SETTINGS on stream {id}")
        payload = frame[9:]
        if len(payload) % 6 or (flags & _ACK and payload):
            raise _ConnectionFault(FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        if self._settled:
            # One frame can hold thousands (CVE-2020-11080).
            self._spend(NUISANCE + len(payload) // SETTINGS_PAYLOAD, "SETTINGS frames")
        if flags & _ACK:
            self._acknowledged = True
            return
        self._settled = True
        heard: dict[int, int] = {}
        for code, value in _SETTING.iter_unpack(payload):
            if code in _SETTINGS_RANGES:
                # Section 6.5.3: each counts, also where another follows.
                least, most, error = _SETTINGS_RANGES[code]
                if not least <= value <= most:
                    raise _ConnectionFault(error, f"setting {code} is {value}")
            if code == _HEADER_TABLE_SIZE:
                self._encoder.resize(value)
            elif code in _FOR_REFEREE:
                heard[code] = value
        told = b"".join(_SETTING.pack(*setting) for setting in heard.items())
        self._h2.receive_data(_frame(_SETTINGS, 0, 0, told))
        # The acknowledgement, ahead of everything that relies on it.
        self._out.append(self._h2.data_to_send())
        self.send_soon()
        if _INITIAL_WINDOW_SIZE in heard:
            for exchange in tuple(self.exchanges.values()):
                self.schedule.discard(exchange)
                exchange.window_changed()
            if not self.schedule:
                self._window_matters_not()

    def _read_push(self, frame: bytes, flags: int, id: int) -> None:
        # Section 8.4: a client cannot push.
        raise _ConnectionFault(PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _read_ping(self, frame: bytes, flags: int, id: int) -> None:
        if id:
            raise _ConnectionFault(PROTOCOL_ERROR, f"PING on stream {id}")
        if len(frame) != 17:
            raise _ConnectionFault(FRAME_SIZE_ERROR, "PING of a wrong size")
        if flags & _ACK:
            if self._goaway_due is not None and frame[9:] == _GOAWAY_PING:
                self._settle_goaway()
                return
        else:
            self._out.append(_frame(_PING, _ACK, 0, frame[9:]))
            self.send_soon()
        self._spend(NUISANCE, "PING frames")

    def _read_goaway(self, frame: bytes, flags: int, id: int) -> None:
        if id:
            raise _ConnectionFault(PROTOCOL_ERROR, f"GOAWAY on stream {id}")
        if len(frame) < 17:
            raise _ConnectionFault(FRAME_SIZE_ERROR, "GOAWAY of a wrong size")
        self._spend(NUISANCE, "GOAWAY frames")
        # Section 6.8: it limits what we begin, which is nothing. What the client has
        # asked for it still wants.
        self._client_leaves = True
        if not self.exchanges:
            self._part()

    def _read_window_update(self, frame: bytes, flags: int, id: int) -> None:
        if len(frame) != 13:
            raise _ConnectionFault(FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        self._spend(NUISANCE, "WINDOW_UPDATE frames")
        exchange = self._check_stream(id) if id else None
        size = _LONG.unpack(frame[9:])[0] & _LAST_STREAM
        if not size:
            # Section 6.9.
            if not id:
                raise _ConnectionFault(PROTOCOL_ERROR, "a window opened by nothing")
            if exchange is not None:
                self._fault_stream(
                    exchange, PROTOCOL_ERROR, "a window opened by nothing"
                )
            return
        if id and exchange is None:
            return
        events = self._h2.receive_data(_window_update(id, size))
        if exchange is None:
            self._window_matters_not()
            if self.schedule:
                self.send_soon()
        elif any(isinstance(event, StreamReset) for event in events):
            # Section 6.9.1; h2 has sent the RST_STREAM.
            self._report(FLOW_CONTROL_ERROR, "a window opened beyond its limit", b"")
            self._note_reset(id)
            self.send_soon()
            self.forget(exchange, "a window opened beyond its limit")
            self.charge_reset(exchange)
        else:
            exchange.window_changed()
            if self.schedule:
                self.send_soon()

    def _read_priority_update(self, frame: bytes, flags: int, id: int) -> None:
        """RFC 9218 section 7.1."""
        self._spend(NUISANCE, "PRIORITY_UPDATE frames")
        if id:
            raise _ConnectionFault(PROTOCOL_ERROR, f"PRIORITY_UPDATE on stream {id}")
        if len(frame) < 13:
            raise _ConnectionFault(FRAME_SIZE_ERROR, "PRIORITY_UPDATE of a wrong size")
        target = _LONG.unpack(frame[9:13])[0] & _LAST_STREAM
        if not target & 1:
            raise _ConnectionFault(PROTOCOL_ERROR, f"a priority of stream {target}")
        priority = read_priority(frame[13:])
        exchange = self.exchanges.get(target)
        if exchange is not None:
            self.schedule.move(exchange, priority)
        elif target > self._highest:
            early = self._early_priorities
            if target in early or (
                len(early) + len(self.exchanges) < self.limits.streams
            ):
                early[target] = priority
            elif self._acknowledged:
                raise _ConnectionFault(
                    PROTOCOL_ERROR, "priorities of more streams than there may be"
                )

    # -- What an exchange asks ---------------------------------------------------------

    def charge_reset(self, exchange: Exchange) -> None:
        """The client has made a stream end that an application was answering.

        Whether it did so itself or provoked us into it makes no difference
        (CVE-2023-44487, CVE-2025-8671). Only for what is called by its frames.
        """
        lived = self.wire.clock.seconds - exchange.begun
        self._spend(RESET if lived < PREMATURE else NUISANCE, "streams reset")

    def date(self) -> Field:
        line = self.wire.clock.date_line
        if line is not self._date_line:
            self._date_line = line
            self._date = (b"date", line[6:])
        return self._date

    def send_headers(
        self,
        exchange: Exchange,
        status: int | None,
        fields: Iterable[Field],
        end: bool,
    ) -> None:
        """HEADERS and what continues them; ``status`` is None for trailers."""
        block = self._encoder.encode(status, fields)
        id = exchange.id
        flags = _END_STREAM if end else 0
        largest = self._h2.max_outbound_frame_size
        if len(block) <= largest:
            self._out.append(_frame(_HEADERS, flags | _END_HEADERS, id, block))
        else:
            self._out.append(_frame(_HEADERS, flags, id, block[:largest]))
            for at in range(largest, len(block), largest):
                piece = block[at : at + largest]
                last = _END_HEADERS if at + largest >= len(block) else 0
                self._out.append(_frame(_CONTINUATION, last, id, piece))
        if end:
            self._h2.sent_end(id)
        if not self._flush_due:
            self.send_soon()

    def send_data(self, id: int, data: bytes, end: bool, idle: bool = False) -> None:
        """One DATA frame; there is room for it.

        ``idle``: it is no work that speaks for the client, because it would be larger
        if the client's window were, or says what the client did wrong.
        """
        size = len(data)
        self._out.append(
            size.to_bytes(3) + (b"\0\1" if end else b"\0\0") + id.to_bytes(4)
        )
        if size:
            self._out.append(data)
            self._h2.sent_data(id, size)
            self._sent += size
        if end:
            self._h2.sent_end(id)
        self._buffered += size + 9
        if not idle:
            self._patience.earn(SENT + size // EARNING)
        if not self._flush_due:
            self.send_soon()

    def window(self, id: int) -> int:
        """What the client takes of a stream; the connection's window aside."""
        return self._h2.streams[id].outbound_flow_control_window

    def room(self) -> int:
        """The most that may be sent at once, past those who wait for their turn."""
        if self.schedule or not self.wire.writable:
            return 0
        h2 = self._h2
        return min(
            h2.outbound_flow_control_window,
            MAX_FRAME,
            WRITE_SIZE - self._buffered,
        )

    def open_window(self, id: int, size: int) -> None:
        self._h2.increment_flow_control_window(size, id)
        self.send_soon()

    def reset(self, exchange: Exchange, code: int) -> None:
        """RST_STREAM, and nothing more of this exchange."""
        self._send_reset(exchange.id, code)
        self.forget(exchange)

    def forget(self, exchange: Exchange, reason: str | None = None) -> None:
        """The stream is closed; whoever answers it hears of the ``reason``, if any."""
        self.exchanges.pop(exchange.id, None)
        self.schedule.discard(exchange)
        if not self.schedule:
            self._window_matters_not()
        if reason is None:
            exchange.close()
        else:
            exchange.lose(reason)
        if not self.exchanges:
            self._rest()

    def served(self) -> None:
        """A response is complete."""
        self._patience.earn(SERVED)

    def due(self, seconds: float) -> float:
        """``seconds`` from now; the timer will have expired by then."""
        at = self.wire.clock.seconds + seconds
        if self._armed is None or at < self._armed:
            self._arm(at)
        return at

    def send_soon(self) -> None:
        """Write at the end of this turn."""
        if not self._flush_due:
            self._flush_due = True
            self.wire.soon(self._flush)

    # -- Writing -----------------------------------------------------------------------

    def _flush(self) -> None:
        if self._closed:
            self._flush_due = False
            return
        # What is put into the buffer here is written here.
        self._flush_due = True
        wire, schedule = self.wire, self.schedule
        self._dry, again = None, False
        for _ in range(WRITES_PER_TURN):
            again = bool(schedule) and wire.writable and self._fill()
            if not self._write_out():
                break
            if again or not schedule or not wire.writable:
                break
        else:
            again = True
        self._flush_due = False
        if self.woken:
            woken, self.woken = self.woken, []
            for exchange in woken:
                exchange.wake()
        if again:
            self.send_soon()

    def _fill(self) -> bool:
        """Let those whose turn it is put frames into the buffer.

        True: the rest waits for the next turn of the loop.
        """
        h2, schedule = self._h2, self.schedule
        while self._buffered < WRITE_SIZE and schedule:
            window = h2.outbound_flow_control_window
            if window <= 0:
                self._await_window()
                return False
            exchange = schedule.next()
            assert exchange is not None
            if self._dry is not None and exchange.priority.follows(self._dry):
                return True
            exchange.send_frame(min(window, MAX_FRAME))
        return False

    def ran_dry(self, exchange: Exchange) -> None:
        """It has sent all that it had; its application may be about to have more."""
        if self._dry is None or self._dry.follows(exchange.priority):
            self._dry = exchange.priority

    def _await_window(self) -> None:
        """The connection's window is shut; a client that only sips has to go."""
        now, pace = self.wire.clock.seconds, self._window_pace
        if self._window_due is None and self.timeouts.write is not None:
            self._window_due = self.due(self.timeouts.write)
        if pace is None:
            rate = self.limits.minimum_rate
            self._window_pace = Pace(self.timeouts.write, rate, now)
        else:
            pace.go_on(now)
            if not pace.keeps(self._sent, now):
                reason = "responses are taken more slowly than LIMITS['MINIMUM_RATE']"
                self._fail(ENHANCE_YOUR_CALM, reason)
        self._sent = 0

    def _window_matters_not(self) -> None:
        """The connection's window is open, or nobody is left who waits for it."""
        if self._window_pace is not None:
            self._window_due = None
            self._window_pace.stop(self.wire.clock.seconds)

    def _write_out(self) -> bool:
        """One write of everything there is; whether there was anything."""
        out = self._out
        out.append(self._h2.data_to_send())
        data = b"".join(out)
        out.clear()
        self._buffered = 0
        if not data:
            return False
        if not self.wire.writable:
            self._choked += len(data)
            if self._choked > CHOKE:
                if self._deaf_since is None:
                    self._deaf_since = self.wire.clock.seconds
                self._pause()
        self.wire.write(data)
        return True

    def _send_reset(self, id: int, code: int) -> None:
        self._h2.reset_stream(id, code)
        self._note_reset(id)
        self.send_soon()

    def _note_reset(self, id: int) -> None:
        resets = self._resets
        resets[id] = None
        if len(resets) > MAX_RESETS:
            del resets[next(iter(resets))]

    # -- Ends --------------------------------------------------------------------------

    def _rest(self) -> None:
        """No request is in progress."""
        self._idle_since = self.wire.clock.seconds
        if self._client_leaves or (self._draining and self._last_id is not None):
            self._part()
        elif self.timeouts.keep_alive is not None:
            self.due(self.timeouts.keep_alive)

    def _settle_goaway(self) -> None:
        """Whatever the client sent before it knew has come: the rest is not served."""
        self._goaway_due = None
        self._last_id = self._highest
        self._say_goaway(self._highest, NO_ERROR)
        self.send_soon()
        if not self.exchanges:
            self._leave()

    def _say_goaway(self, last_id: int, code: int, reason: str = "") -> None:
        payload = _LONG.pack(last_id) + _LONG.pack(code) + reason.encode()[:200]
        self._out.append(_frame(_GOAWAY, 0, 0, payload))

    def _part(self) -> None:
        """Leave, and say so (section 6.8) where it has not been said."""
        if self._last_id is None and not self._closed:
            self._say_goaway(self._highest, NO_ERROR)
        self._leave()

    def _leave(self) -> None:
        """Every stream is finished."""
        if not self._closed:
            self._write_out()
            self._closed = True
            self.wire.linger()

    def _fail(self, code: int, reason: str, data: bytes = b"") -> None:
        """A connection error (section 5.4.1)."""
        self._report(code, reason, data)
        self._write_out()
        last = self._highest if self._last_id is None else self._last_id
        self._say_goaway(last, code, reason)
        self._hang_up()

    def _hang_up(self) -> None:
        self._write_out()
        self._closed = True
        self._lose_all("the client broke the protocol")
        self.wire.linger()

    def _lose_all(self, reason: str) -> None:
        self._pending = b""
        self._block = None
        exchanges, self.exchanges = self.exchanges, {}
        for exchange in exchanges.values():
            self.schedule.discard(exchange)
            exchange.lose(reason)

    def _report(self, code: int, reason: str, data: bytes) -> None:
        self.report(f"{reason} ({_NAMES.get(code, hex(code))})", None, data[:64])

    # -- Time --------------------------------------------------------------------------

    def _arm(self, at: float) -> None:
        self._armed = at
        seconds = max(0.0, at - self.wire.clock.seconds)
        self.wire.arm(seconds, self._expired)

    def _expired(self) -> None:
        """Look at everything that has a deadline, and arm for the nearest."""
        self._armed = None
        if self._closed:
            return
        now = self.wire.clock.seconds
        if self._head_due is not None and self._head_due <= now:
            self._head_due = None
            self._head_expired()
            return
        if self._goaway_due is not None and self._goaway_due <= now:
            self._settle_goaway()
        if self._window_due is not None and self._window_due <= now:
            if self.schedule and self.wire.writable:
                self._fail(
                    ENHANCE_YOUR_CALM,
                    "the client took nothing of responses in TIMEOUTS['WRITE']",
                )
                return
            # Nothing waits for it, or the wire has an eye on that.
            self._window_matters_not()
        for exchange in tuple(self.exchanges.values()):
            exchange.check_time(now, self._heard_of(exchange.id))
        if self._closed:
            return
        ours = (self._head_due, self._goaway_due, self._window_due)
        dues = [due for due in ours if due is not None]
        for exchange in self.exchanges.values():
            due = exchange.next_due()
            if due is not None:
                dues.append(due)
        if not self.exchanges and self.timeouts.keep_alive is not None:
            idle_due = self._idle_since + self.timeouts.keep_alive
            if idle_due <= now and self._goaway_due is None:
                self.report("idle for TIMEOUTS['KEEP_ALIVE']", 0, b"")
                self._say_goaway(self._highest, NO_ERROR)
                self._leave()
                return
            dues.append(idle_due)
        if dues:
            self._arm(min(dues))

    def _heard_of(self, id: int) -> tuple[float, int] | None:
        """Of an incomplete DATA frame of this stream: when bytes of it last came, and
        how many there are.
        """
        pending = self._pending
        if (
            len(pending) >= 9
            and pending[3] == _DATA
            and int.from_bytes(pending[5:9]) & _LAST_STREAM == id
        ):
            return self._read_at, len(pending) - 9
        return None

    def _head_expired(self) -> None:
        if self._preface_left == PREFACE and not self._pending:
            # Nobody has said anything that could be answered.
            self.report("no request within TIMEOUTS['HEADERS']", 0, b"")
            self._leave()
        else:
            self._fail(
                NO_ERROR, "a frame or a head took longer than TIMEOUTS['HEADERS']"
            )


def _names_itself(priority: bytes, id: int) -> bool:
    """Whether a stream depends on itself (RFC 7540 section 5.3.1)."""
    return int.from_bytes(priority[:4]) & _LAST_STREAM == id


def _frame(kind: int, flags: int, id: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + id.to_bytes(4) + payload


def _window_update(id: int, size: int) -> bytes:
    return _frame(_WINDOW_UPDATE, 0, id, _LONG.pack(size))
