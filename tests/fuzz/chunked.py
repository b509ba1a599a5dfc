"""The chunked transfer coding, beside a reader that is as simple as it can be."""

from __future__ import annotations

import re

from django_daphne.errors import ProtocolError
from django_daphne.protocol.chunked import ChunkedReader

from . import cuttings

TRAILER_BYTES, TRAILER_COUNT = 1000, 10

Outcome = tuple[bytes, bytes] | str

_DIGITS = re.compile(rb"[0-9A-Fa-f]+")


def body(data: bytes) -> None:
    whole = _read([data])
    for parts in cuttings(data):
        other = _read(parts)
        assert other == whole, (parts, other, whole)
    if isinstance(whole, tuple):
        assert plain(data) == whole


def _read(parts: list[bytes]) -> Outcome:
    """Body and rest; or how it ended instead."""
    reader = ChunkedReader(TRAILER_BYTES, TRAILER_COUNT)
    pieces: list[bytes] = []
    rest = b""
    fed = 0
    for part in parts:
        fed += len(part)
        if reader.done:
            rest += part
            continue
        try:
            new, behind = reader.feed(part)
        except ProtocolError as error:
            assert error.status in (400, 431)
            return "refused"
        assert all(new)
        pieces += new
        rest += behind
        assert len(reader._buffer) <= TRAILER_BYTES + 2
    if not reader.done:
        assert not rest
        return f"incomplete after {b''.join(pieces)!r}"
    return b"".join(pieces), rest


def plain(data: bytes) -> tuple[bytes, bytes]:
    """Body and rest of a body that is known to be well-formed (RFC 9112 section 7.1).

    :raises AssertionError: where it is not.
    """
    content = b""
    while True:
        line, end, data = data.partition(b"\r\n")
        digits = _DIGITS.match(line)
        assert end and digits, line
        size = int(digits[0], 16)
        if not size:
            break
        content += data[:size]
        assert data[size : size + 2] == b"\r\n", data[size:]
        data = data[size + 2 :]
    while line:
        line, end, data = data.partition(b"\r\n")
        assert end and (not line or b":" in line), line
    return content, data
