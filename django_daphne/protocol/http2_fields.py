"""Fields on their way to and from the wire: HPACK (RFC 7541), and what may be sent.

Reading is hpack's. What is added is memory: a block in which every field is an index
changes no table and means the same until some other block has changed one, and clients
that ask for the same thing again and again send just such blocks.

Writing is ours, because it is done for every response and hpack searches its table from
end to end for each field. The strategy:

1. The table is a dict from the whole field to the number of its insertion; an index on
   the wire counts back from the newest (section 2.3.3). Numbers never change, so
   nothing has to move when a field is added.

2. A field that is in the static table or in ours is its index: one byte, mostly.

3. A field that may come again is written out once and inserted. The oldest make room,
   as the peer's table does (section 4.4).

4. A field that does not come again is written out without being inserted: lengths,
   entity tags, dates of files, values that are long. Cookies are marked as never to be
   inserted by anyone on the way (section 7.1).

5. Strings are not Huffman-coded. It would save a quarter of what is sent once for each
   connection, and cost more than all the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from ..errors import IllegalMessage
from .headers import CONTENT_LENGTH, DATE, ORDINARY, SERVER, read_response_field

Field = tuple[bytes, bytes]

#: RFC 7541 section 4.2 with RFC 9113 section 6.5.2: what a peer's table has at first.
#: We never use more.
TABLE_SIZE = 4096

#: Section 4.1: what an entry counts for besides its name and value.
ENTRY_OVERHEAD = 32

#: The largest entry inserted: one must not push all others out.
MAX_ENTRY = 1024

#: Blocks remembered for a connection, and the longest of them.
MAX_KNOWN_BLOCKS = 32
MAX_KNOWN_BLOCK = 256

#: Fields of applications remembered for the process, and the longest of them.
MAX_LEARNT_FIELDS = 1024
MAX_LEARNT_FIELD = 256

_STATIC_SIZE = len(HeaderTable.STATIC_TABLE)

#: RFC 9113 section 8.2.2: they speak of a connection that is not there.
_CONNECTION_FIELDS = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
    }
)

#: Never seen again with the same value.
_PASSING = frozenset(
    {
        b"content-length",
        b"content-range",
        b"etag",
        b"expires",
        b"last-modified",
        b"location",
    }
)

_SECRET = frozenset({b"set-cookie", b"authorization", b"proxy-authorization"})


# -- Reading ---------------------------------------------------------------------------


class HeaderListTooLarge(Exception):
    """A block that is larger than anything we would look at."""


class NotHPACK(Exception):
    """A block that cannot be decoded; nothing after it can be either."""


class BlockDecoder:
    """Decodes the header blocks of one connection.

    ``largest`` is the most that a header list may count for (RFC 9113 section 6.5.2)
    before decoding stops.
    """

    __slots__ = ("_decoder", "_known")

    def __init__(self, largest: int) -> None:
        self._decoder = Decoder(largest)
        self._known: dict[bytes, Any] = {}

    def recall(self, block: bytes) -> Any:
        """What :meth:`remember` was given for ``block``, if it is still true."""
        return self._known.get(block)

    def remember(self, block: bytes, meaning: Any) -> None:
        """Keep ``meaning`` for ``block`` as long as the tables stay as they are."""
        # Section 6.1: a byte with the top bit set is an index, unless the number needs
        # another byte, and the last of those has the bit clear.
        if len(block) <= MAX_KNOWN_BLOCK and min(block) > 0x80:
            if len(self._known) >= MAX_KNOWN_BLOCKS:
                self._known.clear()
            self._known[block] = meaning

    def decode(self, block: bytes) -> Iterable[Field]:
        """The fields of a block, in order.

        :raises HeaderListTooLarge: the connection cannot go on.
        :raises NotHPACK: neither can it.
        """
        if block and min(block) <= 0x80:
            self._known.clear()
            _check_resizing(block)
        try:
            return self._decoder.decode(block, raw=True)
        except OversizedHeaderListError as error:
            raise HeaderListTooLarge(str(error)) from error
        except HPACKError as error:
            raise NotHPACK(str(error) or type(error).__name__) from error


def _check_resizing(block: bytes) -> None:
    """Section 4.2: a block begins with two changes of the table's size at most.

    hpack takes any number, and 80 KB of them keep it busy for a tenth of a second.
    """
    position = changes = 0
    while position < len(block) and block[position] & 0xE0 == 0x20:
        changes += 1
        if changes > 2:
            raise NotHPACK("more than two changes of the table's size")
        longer = block[position] & 0x1F == 0x1F
        position += 1
        while longer and position < len(block):
            longer = block[position] >= 0x80
            position += 1


# -- Writing ---------------------------------------------------------------------------


def _integer(value: int, prefix: int, first: int) -> bytes:
    """Section 5.1: a number in the low ``prefix`` bits of ``first``, and more bytes."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes((first | value,))
    out = bytearray((first | most,))
    value -= most
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _string(value: bytes) -> bytes:
    return _integer(len(value), 7, 0) + value


#: Indices as they stand on the wire. Entries have 32 bytes at least.
_INDICES = [
    _integer(index, 7, 0x80)
    for index in range(_STATIC_SIZE + 2 + TABLE_SIZE // ENTRY_OVERHEAD)
]

_STATIC_FIELDS: dict[Field, bytes] = {}
_STATIC_NAMES: dict[bytes, int] = {}
for _index, _field in enumerate(HeaderTable.STATIC_TABLE, 1):
    _STATIC_NAMES.setdefault(_field[0], _index)
    if _field[1]:
        _STATIC_FIELDS[_field] = _INDICES[_index]

_STATUSES = {
    status: _STATIC_FIELDS.get((b":status", b"%d" % status))
    or _integer(_STATIC_NAMES[b":status"], 4, 0) + _string(b"%d" % status)
    for status in range(100, 600)
}


class BlockEncoder:
    """Encodes the header blocks of one connection."""

    __slots__ = ("_capacity", "_inserted", "_numbers", "_order", "_resized", "_size")

    def __init__(self) -> None:
        #: The number that each field in the table was inserted as.
        self._numbers: dict[Field, int] = {}
        self._order: deque[Field] = deque()
        self._inserted = 0
        self._size = 0
        self._capacity = TABLE_SIZE
        #: The smallest capacity since the last block, if there was a change.
        self._resized: int | None = None

    def resize(self, capacity: int) -> None:
        """The peer's table may have ``capacity`` bytes (SETTINGS_HEADER_TABLE_SIZE)."""
        capacity = min(capacity, TABLE_SIZE)
        if capacity != self._capacity:
            least = capacity if self._resized is None else min(self._resized, capacity)
            self._resized = least
            self._capacity = capacity
            self._shrink(capacity)

    def encode(self, status: int | None, fields: Iterable[Field]) -> bytes:
        """A block; ``status`` is None for trailers."""
        block = [] if status is None else [_STATUSES[status]]
        if self._resized is not None:
            block.insert(0, self._table_sizes())
        numbers = self._numbers
        for field in fields:
            number = numbers.get(field)
            if number is not None:
                block.append(_INDICES[_STATIC_SIZE + 1 + self._inserted - number])
            else:
                block.append(_STATIC_FIELDS.get(field) or self._literal(field))
        return b"".join(block)

    def _literal(self, field: Field) -> bytes:
        name, value = field
        index = _STATIC_NAMES.get(name, 0)
        size = len(name) + len(value) + ENTRY_OVERHEAD
        if name in _SECRET:
            start = _integer(index, 4, 0x10)
        elif name in _PASSING or size > min(MAX_ENTRY, self._capacity):
            start = _integer(index, 4, 0)
        else:
            start = _integer(index, 6, 0x40)
            self._insert(field, size)
        if not index:
            start += _string(name)
        return start + _string(value)

    def _insert(self, field: Field, size: int) -> None:
        self._shrink(self._capacity - size)
        self._inserted += 1
        self._numbers[field] = self._inserted
        self._order.append(field)
        self._size += size

    def _shrink(self, size: int) -> None:
        while self._size > size:
            name, value = oldest = self._order.popleft()
            del self._numbers[oldest]
            self._size -= len(name) + len(value) + ENTRY_OVERHEAD

    def _table_sizes(self) -> bytes:
        """Section 4.2: the smallest capacity there was in between, and the present."""
        least, self._resized = self._resized, None
        assert least is not None
        sizes = _integer(self._capacity, 5, 0x20)
        return sizes if least == self._capacity else _integer(least, 5, 0x20) + sizes


# -- What may be sent ------------------------------------------------------------------

#: An application's field as it came -> as it is sent, of the ordinary kind.
_LEARNT: dict[Field, Field] = {}


class ResponseFields:
    """An application's fields, sorted: what goes out, and what the server decides."""

    __slots__ = ("date", "fields", "length", "server")

    def __init__(self, headers: Iterable[Any]) -> None:
        """:raises IllegalMessage: for a field that cannot be sent."""
        self.fields: list[Field] = []
        self.length: int | None = None
        self.date = self.server = False
        for field in headers:
            try:
                known = _LEARNT.get(field)
            except TypeError:
                # A list of lists, which the specification allows, cannot be looked up.
                field = tuple(field) if isinstance(field, list) else field
                known = None
            if known is not None:
                self.fields.append(known)
            else:
                self._add(field)

    def _add(self, field: Any) -> None:
        _, kind = read_response_field(field)
        name, value = field[0].lower(), field[1].strip(b" \t")
        if name in _CONNECTION_FIELDS:
            return
        if kind == CONTENT_LENGTH:
            # Sent only where it is true, so not from here.
            self.length = int(value)
            return
        if kind == DATE:
            self.date = True
        elif kind == SERVER:
            self.server = True
        self.fields.append((name, value))
        if (
            kind == ORDINARY
            and len(name) + len(value) <= MAX_LEARNT_FIELD
            and name not in _PASSING
            and name not in _SECRET
        ):
            if len(_LEARNT) >= MAX_LEARNT_FIELDS:
                _LEARNT.clear()
            _LEARNT[field] = (name, value)


def plain_fields(headers: Iterable[Any]) -> list[Field]:
    """Fields of a response without framing: trailers, and what comes ahead of it.

    :raises IllegalMessage: for a field that cannot be sent.
    """
    sorted_fields = ResponseFields(headers)
    if sorted_fields.length is not None:
        raise IllegalMessage("Content-Length belongs into the head of a response")
    return sorted_fields.fields
