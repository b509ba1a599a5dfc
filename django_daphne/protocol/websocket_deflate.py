"""permessage-deflate: agreeing on it, and messages through it (RFC 7692).

*Agreement.* The client's offers are taken in its order; the first that can be satisfied
wins, one that cannot is declined, never an error (section 5.1). Windows are kept small:
a deflate context at zlib's defaults costs 256 KiB for each connection, ours 32 KiB, for
a tenth more bytes on the wire.

*Sending.* Contexts are made when first needed, and short messages go as they are: a
message that saves less than a packet's header is not worth two contexts.

*Receiving.* zlib is never asked for more than may still come. What a message may
inflate to is the smaller of two numbers: the largest message, and, beyond the first
MiB, a multiple of the compressed bytes that have arrived. One byte more is asked for,
so that "exactly full" and "more to come" differ.

The end of a message is four bytes that every sender takes off (section 7.2.1); put
back, they must bring forth nothing, or the data ended inside a block. Another empty
block behind them shows whether it ended inside a block's head. A sender may also
end its stream with a final block (section 7.2.3.4): what follows is a new stream. Of
its window we know what the same piece of the message brought; a sender that reaches
further back across a final block, which none is known to, is refused as damaged.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from functools import lru_cache

from .websocket_handshake import Handshake, Offer

#: Largest window of ours and, where the client lets us choose, of the client's.
WINDOW_BITS = 12
#: zlib has no raw deflate with a window of 8 bits.
MIN_WINDOW_BITS = 9
MAX_WINDOW_BITS = 15
MEMORY_LEVEL = 5
#: Half the time of zlib's default for 97 % of its saving, measured on JSON.
LEVEL = 3

#: Shorter messages are sent as they are.
COMPRESS_FROM = 128

#: Below this a message's ratio does not matter: it is no bomb at any ratio.
FREE_INFLATED = 1024 * 1024

#: Final blocks in one message. One is the rule; a message of nothing else would have us
#: make half a million contexts for each MiB.
MAX_FINAL_BLOCKS = 16

#: Offers remembered. Browsers send a handful of different ones, and one that a client
#: invents may be as long as a head.
MAX_KNOWN_OFFERS = 16

_NAME = b"permessage-deflate"
#: What the sender took off, and an empty block.
_TAIL = b"\x00\x00\xff\xff" + b"\x00\x00\x00\xff\xff"
_BITS = re.compile(rb"[89]|1[0-5]")


class InflatedTooLarge(Exception):
    """A message inflates beyond its limits; the text says which."""


class NotDeflated(Exception):
    """A message is not deflate data."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both sides keep to; ``answer`` is the field value that says so."""

    answer: bytes
    our_bits: int
    our_takeover: bool
    their_bits: int
    their_takeover: bool


def agree(handshake: Handshake) -> Agreement | None:
    """The agreement on the first acceptable offer, or None."""
    for offer in handshake.offers:
        if offer.name == _NAME:
            agreement = _accept(offer)
            if agreement is not None:
                return agreement
    return None


@lru_cache(maxsize=MAX_KNOWN_OFFERS)
def _accept(offer: Offer) -> Agreement | None:
    """RFC 7692 section 7.1; None declines."""
    parameters = dict(offer.parameters)
    if len(parameters) != len(offer.parameters):
        return None
    answer = [_NAME]
    our_bits, their_bits = WINDOW_BITS, MAX_WINDOW_BITS
    our_takeover = their_takeover = True
    for name, value in parameters.items():
        if name == b"server_no_context_takeover" and value is None:
            our_takeover = False
            answer.append(name)
        elif name == b"client_no_context_takeover" and value is None:
            their_takeover = False
            answer.append(name)
        elif name == b"server_max_window_bits" and _is_bits(value):
            our_bits = min(our_bits, int(value or b""))
            if our_bits < MIN_WINDOW_BITS:
                return None
        elif name == b"client_max_window_bits" and (value is None or _is_bits(value)):
            # Section 7.1.2.2: only a client that named it may be told its window.
            hint = int(value) if value is not None else MAX_WINDOW_BITS
            their_bits = max(MIN_WINDOW_BITS, min(WINDOW_BITS, hint))
            if hint >= MIN_WINDOW_BITS:
                answer.append(b"client_max_window_bits=%d" % their_bits)
        else:
            return None
    # Section 7.1.2.1: we may name our window without being asked.
    answer.append(b"server_max_window_bits=%d" % our_bits)
    return Agreement(
        b"; ".join(answer), our_bits, our_takeover, their_bits, their_takeover
    )


def _is_bits(value: bytes | None) -> bool:
    return value is not None and _BITS.fullmatch(value) is not None


class PerMessageDeflate:
    """The two contexts of one connection.

    ``max_message_size`` and ``max_ratio`` bound what a message inflates to; None does
    not.
    """

    __slots__ = (
        "_agreement", "_compressed", "_compressor", "_finals", "_inflated", "_inflater",
        "_max_message_size", "_max_ratio",
    )  # fmt: skip

    def __init__(
        self,
        agreement: Agreement,
        max_message_size: int | None,
        max_ratio: int | None,
    ) -> None:
        self._agreement = agreement
        self._max_message_size = max_message_size
        self._max_ratio = max_ratio
        self._compressor: zlib._Compress | None = None
        self._inflater: zlib._Decompress | None = None
        #: Bytes of the present message so far.
        self._compressed = self._inflated = self._finals = 0

    def compress(self, payload: bytes) -> bytes:
        """A whole message, compressed."""
        compressor = self._compressor
        if compressor is None:
            agreement = self._agreement
            compressor = zlib.compressobj(
                LEVEL, zlib.DEFLATED, -agreement.our_bits, MEMORY_LEVEL
            )
            if agreement.our_takeover:
                self._compressor = compressor
        data = compressor.compress(payload)
        return (data + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def inflate(self, data: bytes) -> bytes:
        """A piece of a message, inflated.

        :raises InflatedTooLarge: the message grows beyond its limits.
        :raises NotDeflated: the data is damaged.
        """
        self._compressed += len(data)
        room = self._room()
        inflater = self._inflater
        if inflater is None:
            inflater = self._inflater = self._new_inflater(b"")
        try:
            inflated = inflater.decompress(data, 0 if room is None else room + 1)
            while inflater.eof and inflater.unused_data:
                self._finals += 1
                if self._finals > MAX_FINAL_BLOCKS:
                    raise NotDeflated("too many final blocks")
                rest = inflater.unused_data
                inflater = self._inflater = self._new_inflater(inflated)
                if room is None:
                    inflated += inflater.decompress(rest)
                elif len(inflated) <= room:
                    more = room - len(inflated) + 1
                    inflated += inflater.decompress(rest, more)
        except zlib.error as error:
            raise NotDeflated(str(error)) from None
        if room is not None and len(inflated) > room:
            raise InflatedTooLarge(self._excuse())
        self._inflated += len(inflated)
        return inflated

    def end_message(self) -> None:
        """The message is complete.

        :raises NotDeflated: its data ends inside a block.
        """
        inflater = self._inflater
        if not self._compressed:
            # Section 7.2.3.6: an empty message is a byte.
            raise NotDeflated("there is none")
        try:
            if inflater is not None and inflater.decompress(_TAIL, 1):
                raise NotDeflated("the data ends inside a block")
        except zlib.error as error:
            raise NotDeflated(str(error)) from None
        self._compressed = self._inflated = self._finals = 0
        if not self._agreement.their_takeover or (inflater and inflater.eof):
            self._inflater = None

    def _new_inflater(self, window: bytes) -> zlib._Decompress:
        bits = self._agreement.their_bits
        return zlib.decompressobj(-bits, zdict=window[-(1 << bits) :])

    def _room(self) -> int | None:
        """How much more the message may inflate to."""
        limits = []
        if self._max_message_size is not None:
            limits.append(self._max_message_size)
        if self._max_ratio is not None:
            limits.append(max(FREE_INFLATED, self._max_ratio * self._compressed))
        return min(limits) - self._inflated if limits else None

    def _excuse(self) -> str:
        size = self._max_message_size
        if size is not None and self._room() == size - self._inflated:
            return f"a message inflates to more than {size} bytes"
        return f"a message inflates to more than {self._max_ratio} times its size"
