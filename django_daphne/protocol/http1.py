"""HTTP/1.1 on one connection (RFC 9112), without I/O.

One request is in progress at a time. What a client sends ahead (pipelining) stays raw
bytes until its turn comes, so that it costs neither objects nor parsing, and reading
stops when too much of it waits.

The division of labour with httptools: we find the end of the head and read the request
line; httptools reads the header section; framing, chunks and the reuse of the
connection are ours again. httptools by itself refuses methods that it does not know and
targets that are not ASCII, drops the body of any request with an Upgrade field, cannot
say where in a feed a message ended, and limits nothing. So its parser is only ever fed
whole header sections behind a request line of our own making, and thrown away whenever
it might believe itself inside a body.

Requests are handed on by ``begin(engine, head)``, which returns the stream that will
hear ``data``, ``end`` and ``reset``, and that answers through
:meth:`HTTP1Engine.start`, :meth:`~HTTP1Engine.body` and their kin.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from urllib.parse import unquote_to_bytes

import httptools

from ..config import Limits, Timeouts
from ..errors import IllegalMessage, ProtocolError
from .chunked import ChunkedReader
from .headers import (
    CONNECTION,
    CONTENT_LENGTH,
    DATE,
    KNOWN_HOSTS,
    LENGTH_NAMES,
    MAX_LENGTH_DIGITS,
    ORDINARY,
    REQUEST_NAMES,
    RESPONSE_FIELDS,
    SERVER,
    TOKEN,
    Headers,
    as_pairs,
    check_host,
    learn_request_name,
    read_response_field,
    split_tokens,
)
from .pace import Pace
from .proxy_protocol import UNEXPECTED, begins_header
from .status import BODILESS, plain_text, reason
from .wire import TICK, Engine, SocketWire, Stream, Wire

#: Body bytes given to the stream and not yet taken by the application, above which we
#: stop reading: enough to keep a fast network busy, small beside a thousand uploads.
BODY_HIGH_WATER = 64 * 1024

#: Raw bytes of requests sent ahead, above which we stop reading.
PIPELINE_HIGH_WATER = 64 * 1024

#: What we read and throw away of a body that the application did not want, rather than
#: close the connection under the client.
DISCARD_LIMIT = 64 * 1024

#: Up to here a body is joined to its head in one write; beyond, copying costs more than
#: the second write.
JOIN_LIMIT = 32 * 1024

#: The longest header section that a connection remembers while it is idle.
MAX_KEPT_SECTION = 2 * 1024

#: Seconds without a request after which a stop takes a connection for idle. On one that
#: is in use the next request is under way, and its answer can say that it is the last;
#: closed at once, it would lose that request.
LULL = 0.5

#: RFC 9112 section 2.2: at least one empty line before a request line is ignored.
MAX_LEADING_CRLF = 4

_TARGET = re.compile(rb"[^\x00-\x20\x7f#]+")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?]*)(.*)", re.DOTALL)
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_CONTENT_LENGTH = re.compile(rb"[0-9]{1,19}")

_CRLF = b"\r\n"
_REQUEST_LINE = b"GET / HTTP/1.1\r\n"
_FRAMING = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade",
     b"expect", b"proxy-connection", b"te"}
)  # fmt: skip
_LAST_CHUNK = b"0\r\n\r\n"
_WEBSOCKET = b"websocket"
_CONNECTION_CLOSE = b"Connection: close"
_CONNECTION_KEEP_ALIVE = b"Connection: keep-alive"
_CHUNKED = b"Transfer-Encoding: chunked"

#: Where the response stands: nothing of it sent; a body of known length, of chunks, or
#: ended by closing the connection; a body that is only pretended (HEAD, 204, 304);
#: trailers awaited; complete; nobody there any more.
_AWAITED, _COUNTED, _CHUNKS, _UNTIL_CLOSE, _PRETENDED, _TRAILERS, _COMPLETE, _GONE = (
    range(8)
)

#: Request lines remembered, and the longest of them: clients ask for the same few
#: things, and reading a line costs more than looking it up.
MAX_KNOWN_LINES = 512
MAX_KNOWN_LINE = 256

_known_lines: dict[bytes, RequestLine] = {}

#: What a TLS client says to a port that does not speak TLS: the type of its record and
#: the major version that every TLS has had.
TLS_HANDSHAKE = b"\x16\x03"
TLS_ON_PLAIN_PORT = "TLS on a plain HTTP port"

_STATUS_LINES = {
    status: b"HTTP/1.1 %d %s" % (status, reason(status)) for status in range(100, 600)
}


class Head:
    """A request's head: what an application wants to know of it, and its framing.

    ``path`` is decoded and without the query; ``raw_path`` and ``query`` are as sent.
    ``headers`` has lower-case names in the order of arrival. The framing is that of
    nearly every request, HTTP/1.1 without a body; :class:`FramedHead` says otherwise.
    """

    __slots__ = ("headers", "method", "path", "query", "raw_path")

    method: str
    path: str
    raw_path: bytes
    query: bytes
    headers: Headers

    http_version = "1.1"
    #: Whether the client lets the connection live after this request.
    keep_alive = True
    #: The number of body bytes; None for a chunked body.
    length: int | None = 0
    expect_continue = False
    trailers_accepted = False
    #: The protocol that the client asks to change to, lower-case.
    upgrade: bytes | None = None


class FramedHead(Head):
    """A head that says something about its version, its body or its connection."""

    __slots__ = (
        "expect_continue", "http_version", "keep_alive", "length", "trailers_accepted",
        "upgrade",
    )  # fmt: skip

    def __init__(self, http_version: str) -> None:
        self.http_version = http_version
        self.keep_alive = http_version == "1.1"
        self.length = 0
        self.expect_continue = False
        self.trailers_accepted = False
        self.upgrade = None


#: Method, decoded path, raw path, query, version, and the host of an absolute target.
RequestLine = tuple[str, str, bytes, bytes, str, bytes | None]

Begin = Callable[["HTTP1Engine", Head], Stream]
Report = Callable[[str, int, bytes], None]


class _Flushing:
    """Stands where a stream does, while the last response is still being taken."""

    def data(self, chunk: bytes, /) -> None: ...
    def end(self) -> None: ...
    def reset(self, reason: str, status: int = 0) -> None: ...
    def writable_again(self) -> None: ...
    def drain(self) -> None: ...


_FLUSHING = _Flushing()


class HTTP1Engine:
    """Speaks HTTP/1.1 and 1.0 on one wire; an :class:`~.wire.Engine`.

    ``begin`` is called with every request's head and may raise
    :class:`~django_daphne.errors.ProtocolError` to refuse it. ``report`` hears of every
    refusal: the reason, the status (0: nobody was left to be answered), and the first
    bytes of the offence.
    """

    __slots__ = (
        "_begin", "_body_left", "_body_read", "_chunks", "_close_after",
        "_continue_due", "_discarding", "_draining", "_fields", "_framing",
        "_idle_armed", "_idle_since", "_last_fields", "_last_section", "_limits",
        "_pace", "_parser", "_paused", "_pending", "_report",
        "_response", "_response_left", "_scanned", "_server_line", "_timeouts",
        "_unread", "_write", "head", "stream", "wire",
    )  # fmt: skip

    http_version = "1.1"

    def __init__(
        self,
        wire: SocketWire,
        begin: Begin,
        report: Report,
        limits: Limits,
        timeouts: Timeouts,
        server_line: bytes | None = None,
    ) -> None:
        self.wire = wire
        self.stream: Stream | None = None
        self.head: Head | None = None
        self._write = wire.write
        self._begin = begin
        self._report = report
        self._limits = limits
        self._timeouts = timeouts
        self._server_line = server_line
        self._parser: httptools.HttpRequestParser | None = None
        self._fields: Headers = []
        self._framing: list[tuple[bytes, bytes]] = []
        #: Raw bytes that wait: an incomplete head, or requests sent ahead.
        self._pending = bytearray()
        self._scanned = 0
        #: Body bytes still to come; -1: chunked, 0: the request is complete.
        self._body_left = 0
        self._body_read = 0
        self._chunks: ChunkedReader | None = None
        #: How fast the body comes, from its second piece on.
        self._pace: Pace | None = None
        self._continue_due = False
        self._discarding = False
        self._unread = 0
        self._paused = False
        self._close_after = False
        self._draining = False
        self._response = _AWAITED
        self._response_left = 0
        #: When the last exchange ended, or the connection began; the idle timer is
        #: armed once and looks here.
        self._idle_since = 0.0
        self._idle_armed = False
        #: The header section before this one: a client's fields seldom change from
        #: one request of a connection to the next.
        self._last_section = b""
        self._last_fields: tuple[tuple[bytes, bytes], ...] = ()

    def start_reading(self) -> None:
        """The connection is open: wait for the first request."""
        self._idle_since = self.wire.clock.seconds
        self._arm(self._timeouts.headers, self._head_expired)

    # -- What the wire tells us --------------------------------------------------------

    def receive_data(self, data: bytes, /) -> None:
        if self._body_left:
            self._read_body(data)
        elif self.stream is None:
            if self._pending:
                self._pending += data
                self._read_pending()
            elif not self._read_head(data):
                self._arm(self._timeouts.headers, self._head_expired)
                self._keep(data)
        else:
            self._pending += data
            if len(self._pending) > PIPELINE_HIGH_WATER:
                self._pause()

    def receive_eof(self) -> None:
        stream = self.stream
        if stream is not None:
            # ASGI cannot tell a client that closed one direction from one that has
            # gone, and the latter is what happens.
            self.stream = None
            stream.reset("the client closed the connection")
        elif self._pending:
            self._report("the connection was closed inside a request head", 0, b"")
        self.wire.close()

    def connection_lost(self) -> None:
        stream, self.stream = self.stream, None
        self._pending = bytearray()
        self._response = _GONE
        if stream is not None:
            stream.reset("the connection was lost")

    def writable_again(self) -> None:
        if self.stream is _FLUSHING:
            self._end_exchange()
        elif self.stream is not None:
            self.stream.writable_again()

    def drain(self) -> None:
        self._draining = True
        if self.stream is not None:
            self.stream.drain()
        elif self._response == _COMPLETE and not self._pending:
            # A connection that has asked for nothing yet is about to.
            left = self._until_lull()
            if self._body_left or left <= 0:
                self._stop_after_response()
            else:
                self._arm(left, self._lull_expired)

    @property
    def parting(self) -> bool:
        """Whether a request may be under way that was sent before the stop."""
        return self._draining and self.stream is None and self._until_lull() > 0

    def _until_lull(self) -> float:
        # It may have begun a tick later than the clock knew.
        return self._idle_since + LULL + TICK - self.wire.clock.seconds

    # -- Reading a head ----------------------------------------------------------------

    def _keep(self, data: bytes) -> None:
        """Hold on to the beginning of a head.

        Empty lines before it are held, and counted, until something else comes.
        """
        stripped = data.lstrip(_CRLF)
        self._scanned = len(stripped)
        self._pending += stripped or data

    def _read_pending(self) -> None:
        """Read the next head out of what waits."""
        pending, scanned = self._pending, self._scanned
        # Only what is new is looked at: a head that arrives byte by byte must not cost
        # the square of its length.
        end = pending.find(b"\r\n\r\n", max(0, scanned - 3))
        if end > 0 and pending[0] != 0x0D and pending[0] != 0x0A:
            # Nor must requests sent ahead cost the square of their number.
            head = bytes(pending[: end + 4])
            del pending[: end + 4]
            self._scanned = 0
            self._read_head(head)
            if self._body_left and self._pending:
                rest, self._pending = bytes(self._pending), bytearray()
                self._read_body(rest)
        elif end < 0 and scanned:
            self._scanned = len(pending)
            try:
                self._check_unfinished(pending, scanned)
            except ProtocolError as error:
                self._refuse(error, bytes(pending[:64]))
        else:
            data = bytes(pending)
            pending.clear()
            if self._read_head(data):
                self._scanned = 0
            else:
                self._keep(data)

    def _read_head(self, data: bytes) -> bool:
        """Read one head and begin its request; False while the head is incomplete."""
        end = data.find(b"\r\n\r\n")
        try:
            if end < 1 or data[0] == 0x0D or data[0] == 0x0A:
                return self._read_odd_beginning(data)
            self.head = head = self._parse(data, end + 4)
            self.stream = stream = self._begin(self, head)
        except ProtocolError as error:
            self._refuse(error, data)
            return True
        self._response = _AWAITED
        if self._body_left:
            self._await_body(data[end + 4 :])
            return True
        if len(data) != end + 4:
            self._pending += data[end + 4 :]
            if len(self._pending) > PIPELINE_HIGH_WATER:
                self._pause()
        if self.stream is stream:
            # The idle timer is left running: it will find the stream and do nothing.
            if self._timeouts.request is not None:
                self._arm(self._timeouts.request, self._request_expired)
            stream.end()
        return True

    def _await_body(self, data: bytes) -> None:
        """A head announced a body; ``data`` is what has come of it."""
        if data:
            self._read_body(data)
        elif self._continue_due:
            # The client waits for the application, as with a request that is complete.
            self._arm(self._timeouts.request, self._request_expired)
        else:
            self._arm(self._timeouts.body, self._body_expired)

    def _read_odd_beginning(self, data: bytes) -> bool:
        """The head is incomplete, or empty lines come before it.

        :raises ProtocolError: when it can never become an acceptable head.
        """
        if data[:1] in (b"\r", b"\n"):
            return self._skip_leading_crlf(data)
        self._check_unfinished(data)
        return False

    def _skip_leading_crlf(self, data: bytes) -> bool:
        if begins_header(data):
            raise ProtocolError(UNEXPECTED)
        stripped = data.lstrip(_CRLF)
        skipped = data[: len(data) - len(stripped)]
        if len(skipped) > 2 * MAX_LEADING_CRLF:
            raise ProtocolError("empty lines instead of a request")
        if not stripped:
            # The LF of the last CR is on its way.
            skipped = skipped.removesuffix(b"\r")
        if skipped != _CRLF * (len(skipped) // 2):
            raise ProtocolError("a bare CR or LF before the request line")
        return bool(stripped) and self._read_head(stripped)

    def _check_unfinished(self, data: bytes | bytearray, scanned: int = 0) -> None:
        """Refuse what can never become an acceptable head, without waiting for it.

        What lies before ``scanned`` has been found good.
        """
        if data[:2] == TLS_HANDSHAKE:
            raise ProtocolError(TLS_ON_PLAIN_PORT)
        limits = self._limits
        if scanned and data[scanned - 1] == 0x0D:
            scanned -= 1
        line_end = data.find(b"\n")
        if line_end < 0:
            if len(data) > limits.request_line + 1:
                raise ProtocolError(
                    "the request line is over LIMITS['REQUEST_LINE']", 414
                )
            if data.find(b"\r", scanned, len(data) - 1) >= 0:
                raise ProtocolError("a bare CR in the request line")
            return
        if line_end > limits.request_line + 1:
            raise ProtocolError("the request line is over LIMITS['REQUEST_LINE']", 414)
        if len(data) - line_end > limits.header_bytes + 4:
            raise ProtocolError(
                "the header section is over LIMITS['HEADER_BYTES']", 431
            )
        if data.count(b"\n", scanned) != data.count(_CRLF, scanned):
            raise ProtocolError("a line of the head ends without CR")
        if line_end >= scanned:
            self._read_request_line(bytes(data[: line_end - 1]))

    def _read_request_line(self, line: bytes) -> RequestLine:
        if len(line) > self._limits.request_line:
            raise ProtocolError("the request line is over LIMITS['REQUEST_LINE']", 414)
        known = read_request_line(line)
        if len(line) <= MAX_KNOWN_LINE:
            if len(_known_lines) >= MAX_KNOWN_LINES:
                _known_lines.clear()
            _known_lines[line] = known
        return known

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools hands over one field."""
        lowered = REQUEST_NAMES.get(name)
        if lowered is None:
            lowered = learn_request_name(name)
        if lowered:
            field = (lowered, value)
            self._fields.append(field)
            if lowered in _FRAMING:
                self._framing.append(field)

    def _parse(self, data: bytes, end: int) -> Head:
        """Read the complete head in ``data[:end]``.

        :raises ProtocolError: for anything but a well-formed and acceptable request.
        """
        line_end = data.find(_CRLF)
        line = data[:line_end]
        known = _known_lines.get(line) or self._read_request_line(line)
        section = data[line_end + 2 : end]
        method, path, raw_path, query, version, authority = known
        head: Head
        if section == self._last_section and version == "1.1":
            head = Head()
            head.headers = list(self._last_fields)
            self._close_after = self._draining
        else:
            head = self._read_section(section, version)
        head.method = method
        head.path = path
        head.raw_path = raw_path
        head.query = query
        if authority is not None:
            # RFC 9112 section 3.2.2: the target's host replaces the Host field's.
            head.headers = [
                (name, authority if name == b"host" else value)
                for name, value in head.headers
            ]
        if head.length != 0:
            self._expect_body(head)
        return head

    def _read_section(self, section: bytes, version: str) -> Head:
        """Read a header section; the head is complete but for its request line."""
        if len(section) > self._limits.header_bytes + 2:
            raise ProtocolError(
                "the header section is over LIMITS['HEADER_BYTES']", 431
            )
        fields: Headers = []
        framing: Headers = []
        self._fields, self._framing = fields, framing
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(_REQUEST_LINE + section)
        except httptools.HttpParserUpgrade:
            self._parser = None
        except httptools.HttpParserError as error:
            self._parser = None
            raise ProtocolError(str(error) or "malformed header section") from error
        if len(fields) > self._limits.header_count:
            raise ProtocolError(
                "the header section has more fields than LIMITS['HEADER_COUNT']", 431
            )
        if b" \r\n" in section or b"\t\r\n" in section:
            fields[:] = [(name, value.rstrip(b" \t")) for name, value in fields]
            framing[:] = [(name, value.rstrip(b" \t")) for name, value in framing]
        head: Head
        # The overwhelming case: HTTP/1.1, one Host, nothing else about framing.
        if len(framing) == 1 and framing[0][0] == b"host" and version == "1.1":
            if framing[0][1] not in KNOWN_HOSTS:
                check_host(framing[0][1])
            head = Head()
            self._close_after = self._draining
            if len(section) <= MAX_KEPT_SECTION:
                # A copy: the application may change the list in its scope.
                self._last_section, self._last_fields = section, tuple(fields)
        else:
            head = self._read_framing(framing, version)
            self._close_after = self._draining or not head.keep_alive
        head.headers = fields
        return head

    def _expect_body(self, head: Head) -> None:
        # The parser believes itself inside the body that we read ourselves.
        self._parser = None
        limits = self._limits
        if head.length is None:
            self._body_left = -1
            self._chunks = ChunkedReader(limits.header_bytes, limits.header_count)
        else:
            if limits.body_bytes is not None and head.length > limits.body_bytes:
                self._close_after = True
                raise ProtocolError(
                    "the request body is over LIMITS['BODY_BYTES']", 413
                )
            self._body_left = head.length
        self._body_read = self._unread = 0
        self._pace = None
        self._discarding = False
        self._continue_due = head.expect_continue

    def _read_framing(self, framing: Headers, version: str) -> FramedHead:
        """Host, body length, connection options and expectations, in one pass."""
        head = FramedHead(version)
        hosts = lengths = codings = 0
        upgrades: list[bytes] = []
        options: list[bytes] = []
        for name, value in framing:
            if name == b"host":
                hosts += 1
                check_host(value)
            elif name == b"content-length":
                lengths += 1
                if not _CONTENT_LENGTH.fullmatch(value):
                    raise ProtocolError(f"invalid Content-Length {value[:40]!r}")
                head.length = int(value)
            elif name == b"transfer-encoding":
                codings += 1
                if value.lower() != b"chunked":
                    raise ProtocolError(f"unknown transfer coding {value[:40]!r}")
                head.length = None
            elif name == b"connection":
                options += split_tokens(value)
            elif name == b"upgrade":
                upgrades += split_tokens(value)
            elif name == b"expect":
                head.expect_continue = value.lower() == b"100-continue"
            elif name == b"proxy-connection":
                # httptools heeds it, and takes no other message after a "close".
                self._parser = None
            elif name == b"te":
                members = split_tokens(value)
                head.trailers_accepted = b"trailers" in members
        # RFC 9112 section 3.2: exactly one Host; HTTP/1.0 knew none.
        if hosts != 1 and not (hosts == 0 and head.http_version == "1.0"):
            raise ProtocolError("no Host" if not hosts else "more than one Host")
        # RFC 9112 section 6.3: what two readers could frame differently is refused.
        if lengths + codings > 1:
            raise ProtocolError("more than one statement of the body's length")
        if codings and head.http_version == "1.0":
            raise ProtocolError("Transfer-Encoding in an HTTP/1.0 request")
        if head.http_version == "1.0":
            # RFC 9110 sections 6.5, 7.8 and 10.1.1: none of it existed in HTTP/1.0.
            head.expect_continue = head.trailers_accepted = False
            head.keep_alive = b"keep-alive" in options and b"close" not in options
            return head
        if b"close" in options:
            head.keep_alive = False
        if upgrades and b"upgrade" in options:
            # RFC 9110 section 7.8: several may be offered, and we know one.
            head.upgrade = _WEBSOCKET if _WEBSOCKET in upgrades else upgrades[0]
        return head

    # -- Reading a body ----------------------------------------------------------------

    def _read_body(self, data: bytes) -> None:
        rest = b""
        self._continue_due = False
        if self._chunks is not None:
            try:
                pieces, rest = self._chunks.feed(data)
            except ProtocolError as error:
                self._fail_request(error, data)
                return
            chunk = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if self._chunks.done:
                self._body_left = 0
                self._chunks = None
        else:
            left = self._body_left
            chunk = data
            if len(data) > left:
                chunk, rest = data[:left], data[left:]
            self._body_left = left - len(chunk)
        complete = not self._body_left
        if rest:
            self._pending += rest
        if self._discarding:
            self._body_read += len(chunk)
            if complete:
                self._end_exchange()
            elif self._body_read > DISCARD_LIMIT:
                self._stop_after_response()
            else:
                self._expect_more_of_body(len(chunk))
            return
        stream = self.stream
        if stream is None:
            return
        if chunk:
            self._body_read += len(chunk)
            limit = self._limits.body_bytes
            if limit is not None and self._body_read > limit:
                over = ProtocolError(
                    "the request body is over LIMITS['BODY_BYTES']", 413
                )
                self._fail_request(over, b"")
                return
            self._unread += len(chunk)
            stream.data(chunk)
            if self._unread > BODY_HIGH_WATER and not complete:
                self._pause()
        if complete:
            self._pace = None
            self._arm(self._timeouts.request, self._request_expired)
            stream.end()
        else:
            self._expect_more_of_body(len(chunk))

    def _expect_more_of_body(self, size: int) -> None:
        """``size`` bytes of it have come, and they were not the last."""
        if not self._keeps_pace(size):
            late = ProtocolError(
                "the request body came more slowly than LIMITS['MINIMUM_RATE']", 408
            )
            self._fail_request(late, b"")
        elif not self._paused:
            self._arm(self._timeouts.body, self._body_expired)

    def _keeps_pace(self, size: int) -> bool:
        now = self.wire.clock.seconds
        pace = self._pace
        if pace is not None:
            return pace.keeps(size, now)
        self._pace = Pace(self._timeouts.body, self._limits.minimum_rate, now)
        if self._paused:
            self._pace.stop(now)
        return True

    def consumed(self, size: int) -> None:
        """The application took ``size`` bytes of the body; more may come."""
        self._unread -= size
        if self._paused and self._unread <= BODY_HIGH_WATER // 2 and self._body_left:
            self._listen_to_body()

    def _listen_to_body(self) -> None:
        """From now on it is the client who keeps us waiting."""
        self._resume()
        if self._pace is not None:
            self._pace.go_on(self.wire.clock.seconds)
        self._arm(self._timeouts.body, self._body_expired)

    def invite_body(self) -> None:
        """The application wants the body: say so to a client that waits to be asked.

        RFC 9110 section 10.1.1: ``100 Continue``, once, unless the body is already
        coming or the answer is.
        """
        if self._continue_due:
            self._continue_due = False
            if self._response == _AWAITED:
                self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # Until now the client was not slow, it was polite.
            self._arm(self._timeouts.body, self._body_expired)

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.wire.pause_reading()
            if self._body_left:
                # The client is not slow; we are not listening.
                if self._pace is not None:
                    self._pace.stop(self.wire.clock.seconds)
                self._arm(self._timeouts.request, self._request_expired)

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self.wire.resume_reading()

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

        ``trailers`` promises a later call of :meth:`trailers`; it may be True only for
        a client that accepts them.

        :raises IllegalMessage: for headers that cannot be sent, or a body longer than
            its Content-Length; nothing has been sent then.
        """
        head = self.head
        assert head is not None
        lines = [_STATUS_LINES[status]]
        length = -1
        date: bytes = self.wire.clock.date_line
        server = self._server_line
        close = self._close_after or self._draining
        length_line: bytes | None = None
        known_fields = RESPONSE_FIELDS
        try:
            for field in headers:
                line = known_fields.get(field)
                if line is not None:
                    lines.append(line)
                    continue
                value = field[1]
                if (
                    field[0] in LENGTH_NAMES
                    and type(value) is bytes
                    and value.isdigit()
                    and len(value) <= MAX_LENGTH_DIGITS
                ):
                    # New for nearly every response, so it is not worth remembering.
                    length = int(value)
                    length_line = b"Content-Length: " + value
                    continue
                line, kind = read_response_field(field)
                if kind == ORDINARY:
                    lines.append(line)
                elif kind == CONTENT_LENGTH:
                    length_line, length = line, int(field[1])
                elif kind == CONNECTION:
                    close = close or b"close" in split_tokens(field[1])
                elif kind == DATE:
                    date = line
                elif kind == SERVER:
                    server = line
                # An application's Transfer-Encoding is not passed on: framing is ours.
        except (TypeError, IndexError, AttributeError):
            # A list of lists, which the specification allows, cannot be looked up.
            headers = as_pairs(headers)
            self.start(status, headers, body, more, trailers)
            return
        lines.append(date)
        if server is not None:
            lines.append(server)
        one_point_one = head.http_version == "1.1"
        pretend = status in BODILESS or head.method == "HEAD"
        framing = _COUNTED
        if status == 204:
            # RFC 9110 section 8.6: no Content-Length in a 204.
            length = -1
        elif trailers and one_point_one and head.trailers_accepted:
            lines.append(_CHUNKED)
            framing = _CHUNKS
        elif length_line is not None:
            lines.append(length_line)
            if len(body) > length and not pretend:
                raise _too_long(length)
        elif not more:
            length = len(body)
            # In a 304 or an answer to HEAD it would describe what is not sent.
            if length or not pretend:
                lines.append(b"Content-Length: %d" % length)
        elif one_point_one:
            lines.append(_CHUNKED)
            framing = _CHUNKS
        else:
            framing = _UNTIL_CLOSE
            close = True
        if self._body_left and not more and not self._discardable():
            close = True
        self._close_after = close
        if close:
            lines.append(_CONNECTION_CLOSE)
        elif not one_point_one:
            lines.append(_CONNECTION_KEEP_ALIVE)
        lines.append(b"")
        lines.append(b"")
        block = _CRLF.join(lines)
        if framing == _COUNTED and not pretend:
            if len(body) <= JOIN_LIMIT:
                self._write(block + body)
            else:
                self._write(block)
                self._write(body)
            left = length - len(body)
            if (
                not more
                and not left
                and not close
                and self._idle_armed
                and not self._pending
                and not self._body_left
                and self.wire.writable
            ):
                # What follows nearly every response, without the questions.
                self._response = _COMPLETE
                self.stream = self.head = None
                self._idle_since = self.wire.clock.seconds
                return
            self._response_left = left
            self._response = _COUNTED
            if not more:
                self._finish_response()
            return
        self._response_left = length
        if pretend:
            self._response = _PRETENDED
            body = b""
        elif framing == _CHUNKS:
            self._response = _CHUNKS
            if body:
                self._count(len(body))
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if not more:
                if trailers:
                    self._response = _TRAILERS
                else:
                    body += _LAST_CHUNK
        else:
            self._response = _UNTIL_CLOSE
        self._write(block + body)
        if not more and not trailers:
            self._finish_response()

    def body(self, data: bytes, more: bool, trailers: bool = False) -> None:
        """Send more of the body; ``more`` False completes it.

        :raises IllegalMessage: when the body becomes longer than its Content-Length;
            nothing of ``data`` has been sent then.
        """
        state = self._response
        if state == _CHUNKS:
            if data:
                self._count(len(data))
                if len(data) <= JOIN_LIMIT:
                    data = b"%x\r\n%b\r\n" % (len(data), data)
                else:
                    self._write(b"%x\r\n" % len(data))
                    self._write(data)
                    data = _CRLF
            if not more:
                if trailers:
                    self._response = _TRAILERS
                else:
                    data += _LAST_CHUNK
            if data:
                self._write(data)
        elif state == _COUNTED:
            self._count(len(data))
            if data:
                self._write(data)
        elif state == _UNTIL_CLOSE and data:
            self._write(data)
        if not more and not trailers:
            self._finish_response()

    def copy_file(self, file: int, size: int) -> Awaitable[int] | None:
        """Send ``size`` bytes of an open file as body, if that can be done directly.

        The result is how many have gone; others, and with None all, have to be read,
        and sent by :meth:`body`.
        """
        if self._response != _COUNTED or size > self._response_left:
            return None
        copying = self.wire.copy_file(file, size)
        return None if copying is None else self._counted(copying)

    async def _counted(self, copying: Awaitable[int]) -> int:
        copied = await copying
        self._count(copied)
        return copied

    def trailers(self, headers: Headers) -> None:
        """Complete a response with trailers (RFC 9112 section 7.1.2).

        One without a body has none, but waits for them all the same.

        :raises IllegalMessage: for fields that cannot be sent.
        """
        if self._response == _TRAILERS:
            self._write(b"0\r\n" + encode_fields(headers) + _CRLF)
        self._finish_response()

    def informational(self, status: int, headers: Headers) -> None:
        """Send a 1xx response ahead of the final one; HTTP/1.0 has none."""
        fields = encode_fields(headers)
        head = self.head
        if head is not None and head.http_version == "1.1":
            self._write(_STATUS_LINES[status] + _CRLF + fields + _CRLF)

    def abort(self) -> None:
        """End the connection so that the client sees the response is incomplete.

        What was sent still arrives where the framing shows that something is missing;
        a body that ends with the connection can only be told by a reset.
        """
        framed = self._response in (_COUNTED, _CHUNKS, _TRAILERS)
        self.stream = None
        self._response = _GONE
        if framed:
            self.wire.close()
        else:
            self.wire.abort()

    def accept(self, headers: Headers, make_engine: Callable[[Wire], Engine]) -> None:
        """Answer 101 and hand the wire to the engine that ``make_engine`` returns."""
        lines = [_STATUS_LINES[101], b"Upgrade: websocket", b"Connection: Upgrade"]
        lines.append(self.wire.clock.date_line)
        if self._server_line is not None:
            lines.append(self._server_line)
        block = _CRLF.join(lines) + _CRLF + encode_fields(headers) + _CRLF
        self.stream = None
        self._response = _COMPLETE
        self._write(block)
        engine = make_engine(self.wire)
        self.wire.switch(engine)
        self._resume()
        if self._pending:
            early, self._pending = bytes(self._pending), bytearray()
            engine.receive_data(early)

    def _count(self, size: int) -> None:
        left = self._response_left
        if left < 0:
            return
        if size > left:
            raise _too_long(left)
        self._response_left = left - size

    def _discardable(self) -> bool:
        """Whether what is left of the request's body is cheaper read than refused.

        A client that waits for ``100 Continue`` may or may not send the body after
        another answer; only closing is safe then.
        """
        return self._body_left <= DISCARD_LIMIT and not self._continue_due

    def _finish_response(self) -> None:
        if self._response == _COUNTED and self._response_left > 0:
            missing = self._response_left
            self._report(
                f"the application sent {missing} bytes less than its Content-Length",
                500,
                b"",
            )
            self.abort()
            return
        self._response = _COMPLETE
        self.stream = None
        if not self._body_left:
            self._end_exchange()
        elif self._close_after or self._draining or not self._discardable():
            self._stop_after_response()
        else:
            self._discarding = True
            self._body_read = 0
            self._listen_to_body()

    def _end_exchange(self) -> None:
        """Request and response are both complete: take up the next, or close."""
        self._discarding = False
        if self._close_after or self._draining:
            self._stop_after_response()
            return
        if self.wire.writable:
            self._next_request()
        else:
            # A client that sends requests ahead and reads no responses gets no more.
            self.stream = _FLUSHING

    def _next_request(self) -> None:
        self.stream = self.head = None
        self._idle_since = self.wire.clock.seconds
        if not self._idle_armed:
            self._arm_idle(self._timeouts.keep_alive)
        self._unread = 0
        if self._pending:
            self._scanned = 0
            self._read_pending()
            if self._pending and self.stream is None:
                self._arm(self._timeouts.headers, self._head_expired)
        if (
            self._paused
            and len(self._pending) <= PIPELINE_HIGH_WATER
            and self._unread <= BODY_HIGH_WATER
        ):
            self._resume()

    def _stop_after_response(self) -> None:
        self._response = _COMPLETE
        self.stream = None
        if self._body_left or self._pending:
            self.wire.linger()
        else:
            self.wire.close()

    @property
    def idle(self) -> bool:
        """Whether requests were answered here, and nothing of another has come."""
        return (
            self.stream is None
            and self._response == _COMPLETE
            and not self._pending
            and not self._body_left
        )

    # -- Refusing ----------------------------------------------------------------------

    def refuse(self, error: ProtocolError) -> None:
        """Answer a connection that is to have none of its requests served."""
        self._refuse(error, b"")

    def _refuse(self, error: ProtocolError, data: bytes) -> None:
        """Answer a message that cannot be served, and close."""
        self._report(str(error), error.status, data[:64])
        self._answer(error.status, error.headers)

    def _answer(self, status: int, headers: Headers) -> None:
        text = plain_text(status)
        lines = [
            _STATUS_LINES[status],
            self.wire.clock.date_line,
            b"Content-Type: text/plain; charset=utf-8",
            b"Content-Length: %d" % len(text),
            _CONNECTION_CLOSE,
            *(name + b": " + value for name, value in headers),
        ]
        if self.head is not None and self.head.method == "HEAD":
            text = b""
        self._write(_CRLF.join(lines) + b"\r\n\r\n" + text)
        self._response = _COMPLETE
        self.stream = None
        self._pending = bytearray()
        self.wire.linger()

    def _fail_request(self, error: ProtocolError, data: bytes) -> None:
        """A request turned out bad after the application had begun on it."""
        stream, self.stream = self.stream, None
        self._report(str(error), error.status, data[:64])
        status = 0
        if self._response == _AWAITED:
            status = error.status
            self._answer(status, error.headers)
        elif self._discarding:
            # Its answer may not have been read yet.
            self.wire.linger()
        else:
            self.abort()
        if stream is not None:
            stream.reset(str(error), status)

    # -- Time --------------------------------------------------------------------------

    def _arm(self, seconds: float | None, expired: Callable[[], None]) -> None:
        self._idle_armed = False
        self.wire.arm(seconds, expired)

    def _arm_idle(self, seconds: float | None) -> None:
        self._idle_armed = seconds is not None
        self.wire.arm(seconds, self._idle_expired)

    def _idle_expired(self) -> None:
        """Close a connection that was asked for nothing for too long."""
        self._idle_armed = False
        limit = self._timeouts.keep_alive
        if limit is None or self.stream is not None or self._body_left or self._pending:
            # The end of the exchange arms it anew.
            return
        left = self._idle_since + limit - self.wire.clock.seconds
        if left > 0:
            self._arm_idle(left)
        else:
            self._report("idle for TIMEOUTS['KEEP_ALIVE']", 0, b"")
            self.wire.close()

    def _lull_expired(self) -> None:
        if self.idle:
            self._stop_after_response()

    def _head_expired(self) -> None:
        """The head did not come in time; only one that began is owed an answer."""
        if self.stream is not None or self._body_left:
            return
        # An empty line is no part of a head.
        if not self._pending.strip(_CRLF):
            self._report("no request within TIMEOUTS['HEADERS']", 0, b"")
            self.wire.close()
        else:
            late = ProtocolError(
                "the request head took longer than TIMEOUTS['HEADERS']", 408
            )
            self._refuse(late, bytes(self._pending[:64]))

    def _body_expired(self) -> None:
        if self._body_left and not self._paused:
            late = ProtocolError(
                "the request body made no progress in TIMEOUTS['BODY']", 408
            )
            self._fail_request(late, b"")

    def _request_expired(self) -> None:
        if self.stream is not None:
            late = ProtocolError(
                "the response took longer than TIMEOUTS['REQUEST']", 503
            )
            self._fail_request(late, b"")


def read_request_line(line: bytes) -> RequestLine:
    """RFC 9112 section 3: method SP request-target SP HTTP-version, and no more.

    :raises ProtocolError: for anything else.
    """
    parts = line.split(b" ")
    if len(parts) != 3:
        if begins_header(line):
            raise ProtocolError(UNEXPECTED)
        raise ProtocolError(f"malformed request line {line[:100]!r}")
    method, target, version = parts
    if version != b"HTTP/1.1" and version != b"HTTP/1.0":
        if not _VERSION.fullmatch(version):
            raise ProtocolError(f"malformed request line {line[:100]!r}")
        raise ProtocolError(f"unsupported version {version!r}", 505)
    if not TOKEN.fullmatch(method):
        raise ProtocolError(f"invalid method {method[:40]!r}")
    if not _TARGET.fullmatch(target):
        raise ProtocolError(f"invalid request target {target[:100]!r}")
    if method.upper() == b"CONNECT":
        # RFC 9110 section 9.3.6: only a proxy can mean anything by it.
        raise ProtocolError("CONNECT is not implemented", 501)
    target, authority = _read_target(method, target)
    raw_path, _, query = target.partition(b"?")
    path = unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path
    return (
        method.decode("ascii").upper(),
        path.decode("utf-8", "replace"),
        raw_path,
        query,
        version[5:].decode("ascii"),
        authority,
    )


def _read_target(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """RFC 9112 section 3.2: path and query, and the host of an absolute target."""
    options = method.upper() == b"OPTIONS"
    if target[:1] == b"/" or (target == b"*" and options):
        return target, None
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise ProtocolError(f"invalid request target {target[:100]!r}")
    authority, rest = match.groups()
    if not authority:
        raise ProtocolError("a request target without a host")
    check_host(authority)
    if not rest and options:
        return b"*", authority
    return rest if rest[:1] == b"/" else b"/" + rest, authority


def encode_fields(headers: Headers) -> bytes:
    """Fields as they stand on the wire, each with its line end.

    :raises IllegalMessage: for fields that cannot be sent.
    """
    lines = [read_response_field(field)[0] + _CRLF for field in as_pairs(headers)]
    return b"".join(lines)


def _too_long(left: int) -> IllegalMessage:
    return IllegalMessage(
        f"the response body is longer than its Content-Length ({left} bytes were left)"
    )
