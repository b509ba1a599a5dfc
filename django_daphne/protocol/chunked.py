"""The chunked transfer coding, read strictly (RFC 9112 section 7.1).

Two servers that disagree on where a chunked body ends can be made to disagree on
where the next request begins. So nothing is forgiven: sizes are hexadecimal digits and
nothing else, lines end in CRLF, extensions are well-formed and discarded, trailers are
valid fields and discarded, and all of them are counted. The reader consumes exactly the
body and hands back what follows.
"""

from __future__ import annotations

import re

from ..errors import ProtocolError

#: 16 hexadecimal digits are 2**64 bytes; more digits can only be an attack.
_SIZE_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,16})"
    rb"(?:[ \t]*;[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    rb"(?:[ \t]*=[ \t]*(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    rb"|\"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*\"))?)*"
)
_TRAILER = re.compile(
    rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t \x21-\x7e\x80-\xff]*",
)

#: A size line with its extensions. Nobody uses extensions; a long one costs us memory
#: while it is incomplete.
MAX_SIZE_LINE = 256

#: All extensions of one body together, so that tiny chunks cannot carry endless ones.
MAX_EXTENSION_BYTES = 16 * 1024

_SIZE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)


class ChunkedReader:
    """Reads one chunked body.

    ``trailer_bytes`` and ``trailer_count`` limit the trailer section.
    """

    __slots__ = (
        "_buffer", "_extensions", "_left", "_state", "_trailers", "trailer_bytes",
        "trailer_count",
    )  # fmt: skip

    def __init__(self, trailer_bytes: int, trailer_count: int) -> None:
        self.trailer_bytes = trailer_bytes
        self.trailer_count = trailer_count
        self._state = _SIZE
        self._left = 0
        self._buffer = b""
        self._extensions = 0
        self._trailers = 0

    @property
    def done(self) -> bool:
        return self._state == _DONE

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Take bytes; give the pieces of body in them, and what lies behind the body.

        The second part is empty until :attr:`done`.

        :raises ProtocolError: 400 for anything malformed, 431 for too many trailers.
        """
        pieces: list[bytes] = []
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        position, end = 0, len(data)
        while position < end:
            state = self._state
            if state == _DATA:
                taken = min(self._left, end - position)
                pieces.append(data[position : position + taken])
                position += taken
                self._left -= taken
                if not self._left:
                    self._state = _DATA_END
            elif state == _DATA_END:
                if end - position < 2:
                    if data[position] != 0x0D:
                        raise ProtocolError("a chunk is longer than its size")
                    break
                if data[position : position + 2] != b"\r\n":
                    raise ProtocolError("a chunk is longer than its size")
                position += 2
                self._state = _SIZE
            elif state == _SIZE:
                line_end = self._line_end(data, position, MAX_SIZE_LINE)
                if line_end < 0:
                    break
                self._read_size(data[position:line_end])
                position = line_end + 2
            elif state == _TRAILERS:
                line_end = self._line_end(data, position, self.trailer_bytes)
                if line_end < 0:
                    break
                self._read_trailer(data[position:line_end])
                position = line_end + 2
            else:
                return pieces, data[position:]
        self._buffer = data[position:]
        return pieces, b""

    def _line_end(self, data: bytes, position: int, limit: int) -> int:
        """Where the line's CRLF is, or -1 while it is incomplete."""
        line_feed = data.find(b"\n", position, position + limit + 2)
        if line_feed < 0:
            # The CR of a line that is as long as it may be.
            if len(data) - position > limit + 1:
                status = 431 if self._state == _TRAILERS else 400
                raise ProtocolError("a line of a chunked body is too long", status)
            return -1
        if line_feed == position or data[line_feed - 1] != 0x0D:
            raise ProtocolError("a line of a chunked body ends without CR")
        return line_feed - 1

    def _read_size(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise ProtocolError(f"invalid chunk size {line[:40]!r}")
        digits = match[1]
        self._extensions += len(line) - len(digits)
        if self._extensions > MAX_EXTENSION_BYTES:
            raise ProtocolError("too many chunk extensions")
        self._left = int(digits, 16)
        self._state = _DATA if self._left else _TRAILERS

    def _read_trailer(self, line: bytes) -> None:
        if not line:
            self._state = _DONE
            return
        if not _TRAILER.fullmatch(line):
            raise ProtocolError(f"invalid trailer {line[:40]!r}")
        self.trailer_bytes -= len(line) + 2
        self._trailers += 1
        if self.trailer_bytes < 0 or self._trailers > self.trailer_count:
            raise ProtocolError("too many trailers", 431)
