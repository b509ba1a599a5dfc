"""Who sends next, where many responses share one connection (RFC 9218).

A client may tell how much it wants each response: an *urgency* from 0 (most) to 7, and
whether the response is *incremental*, that is, of use before it is complete. What
follows from that here, in order:

1. Only responses that can be sent now take part: those with bytes waiting and room in
   their own window. One whose client does not open its window is not in the way of any
   other.

2. The most urgent go first. As long as one of urgency 2 can be sent, none of urgency 3
   is.

3. Incremental responses of the same urgency take turns, one frame each. A page's images
   appear together.

4. Of those that are not incremental, only the one that was asked for first is in the
   rotation of its urgency; half of two scripts is of no use, one whole script is. It
   takes turns with the incremental ones, so that neither kind starves the other.

5. A request that says nothing is of urgency 3, as RFC 9218 section 4 has it, and is
   *shared* like an incremental one. The RFC's default would let one download hold up
   everything that the connection carries besides. Browsers say what they want; the
   clients that say nothing are programs and proxies, whose requests have nothing to do
   with one another.

The schedule knows nothing of frames and windows: it keeps what was added until it is
taken out, and names the one whose turn it is.
"""

from __future__ import annotations

import heapq
import re
from typing import Generic, NamedTuple, Protocol, TypeVar

#: RFC 9218 section 4.1.
URGENCIES = 8
DEFAULT_URGENCY = 3

#: The longest value that is read; ``u=1, i`` is all that anyone has to say.
MAX_PRIORITY = 256

#: Ids that a heap may hold besides those that can send, before it is made anew.
MAX_STALE = 16

#: One member of a dictionary of structured fields (RFC 9651 section 3.2), as far as
#: priorities need it: a key, a bare value, and parameters that mean nothing.
_MEMBER = re.compile(
    rb"[ \t]*([a-z*][a-z0-9_.*-]*)(?:=([^,;\"]*|\"[^\"]*\"))?(?:;[^,]*)?"
)


class Priority(NamedTuple):
    """How much a client wants a response."""

    urgency: int
    incremental: bool

    def follows(self, other: Priority) -> bool:
        """Whether it has to wait until there is nothing more of ``other``, which was
        asked for first.
        """
        if self.urgency == other.urgency:
            return not (self.incremental or other.incremental)
        return self.urgency > other.urgency


#: Of a request without a word about it; see point 5 above.
UNSAID = Priority(DEFAULT_URGENCY, True)


def read_priority(value: bytes) -> Priority:
    """The value of a ``Priority`` field, or of a PRIORITY_UPDATE frame.

    RFC 9218 section 4: what is unknown, out of range or of another type is ignored, so
    every value is one. So is one that would take long to read.
    """
    urgency, incremental = DEFAULT_URGENCY, False
    if len(value) > MAX_PRIORITY:
        return Priority(urgency, incremental)
    for member in value.split(b","):
        match = _MEMBER.fullmatch(member.rstrip(b" \t"))
        if match is None:
            continue
        key, said = match.groups()
        if key == b"u" and said is not None and len(said) == 1 and said in b"01234567":
            urgency = int(said)
        elif key == b"i" and said in (None, b"?1", b"?0"):
            incremental = said != b"?0"
    return Priority(urgency, incremental)


class Sender(Protocol):
    """What has its turns."""

    #: Grows from one request to the next.
    id: int
    priority: Priority


S = TypeVar("S", bound=Sender)


class _Level(Generic[S]):
    """Those of one urgency."""

    __slots__ = ("first", "shared", "single", "singles")

    def __init__(self) -> None:
        #: Incremental ones, in the order of their turns.
        self.shared: dict[int, S] = {}
        #: The others, and their ids as a heap: it may hold some that are gone.
        self.singles: dict[int, S] = {}
        self.first: list[int] = []
        #: Whether the turn is that of the first of the others.
        self.single = True

    def next(self) -> S | None:
        shared, singles = self.shared, self.singles
        if singles and (self.single or not shared):
            self.single = False
            first = self.first
            while first[0] not in singles:
                heapq.heappop(first)
            return singles[first[0]]
        if not shared:
            return None
        self.single = True
        id = next(iter(shared))
        sender = shared.pop(id)
        shared[id] = sender
        return sender


class Schedule(Generic[S]):
    """Those who have something to send, and whose turn it is."""

    __slots__ = ("_levels", "_ready")

    def __init__(self) -> None:
        #: Of all senders, by id, the level that they were added to.
        self._ready: dict[int, _Level[S]] = {}
        self._levels: list[_Level[S] | None] = [None] * URGENCIES

    def __bool__(self) -> bool:
        return bool(self._ready)

    def __contains__(self, sender: S) -> bool:
        return sender.id in self._ready

    def add(self, sender: S) -> None:
        """``sender`` can send; adding it again changes nothing."""
        id = sender.id
        if id in self._ready:
            return
        urgency, incremental = sender.priority
        level = self._levels[urgency]
        if level is None:
            level = self._levels[urgency] = _Level()
        self._ready[id] = level
        if incremental:
            level.shared[id] = sender
        else:
            level.singles[id] = sender
            heapq.heappush(level.first, id)
            if len(level.first) > 2 * len(level.singles) + MAX_STALE:
                level.first = sorted(level.singles)

    def discard(self, sender: S) -> None:
        """``sender`` cannot send now, or has gone."""
        id = sender.id
        level = self._ready.pop(id, None)
        if level is None:
            return
        if level.shared.pop(id, None) is None:
            del level.singles[id]
            if not level.singles:
                level.first.clear()

    def move(self, sender: S, priority: Priority) -> None:
        """Give ``sender`` another priority."""
        ready = sender in self
        self.discard(sender)
        sender.priority = priority
        if ready:
            self.add(sender)

    def next(self) -> S | None:
        """Whose turn it is. It stays in the schedule until it is discarded."""
        if self._ready:
            for level in self._levels:
                if level is not None:
                    sender = level.next()
                    if sender is not None:
                        return sender
        return None
