"""Saying no while there is too much: connections, and requests in the application.

Who is over a limit is told so, with 503 and when to come again, rather than left to
wait; nobody among those who have been let in notices. A connection too many is told
when it asks for something, in whatever protocol it speaks, and only so many are kept
for that.

Overload is when logs must be readable. Each refusal is a line of
``django_daphne.protocol``; the warning that there are some comes now and then, with
their number.

One limit is the system's. libuv goes on accepting when descriptors have run out, closes
what it accepts, and tells nobody: so there is a warning shortly before.
"""

from __future__ import annotations

import sys
from collections.abc import Sized

from ..application.context import server_log
from ..config import spell
from ..errors import ProtocolError
from .clock import Clock

#: Seconds after which a client may try again: longer than a moment's burst.
RETRY_AFTER = 5

#: Seconds between warnings of one kind.
WARN_EVERY = 10.0

#: Connections over the limit that are kept until they have been told. Each is gone when
#: it has, or after ``TIMEOUTS["HEADERS"]``; those beyond are dropped without a word.
EXCESS = 128

CONNECTIONS = f"more connections than {spell('LIMITS.CONNECTIONS')}"
CONCURRENCY = f"more requests in the application than {spell('LIMITS.CONCURRENCY')}"


#: Refusals for which a warning stands in the server's log already.
FORETOLD = frozenset((CONNECTIONS, CONCURRENCY))


#: Descriptors that are left when there is a warning; of a low limit, an eighth.
LAST_DESCRIPTORS = 64


class Ceiling:
    """A limit, and who has been refused because of it."""

    def __init__(self, reason: str, limit: int, clock: Clock) -> None:
        self.limit = limit
        self._reason = reason
        self._clock = clock
        self.refused = 0
        self._warned = float("-inf")

    def refusal(self) -> ProtocolError:
        """What to tell one more."""
        self.count()
        retry_after = (b"Retry-After", b"%d" % RETRY_AFTER)
        return ProtocolError(self._reason, 503, (retry_after,))

    def count(self) -> None:
        """One more is refused."""
        self.refused += 1
        now = self._clock.seconds
        if now < self._warned + WARN_EVERY:
            return
        server_log.warning(
            "There are %s allows (%d); refused so far: %d",
            self._reason,
            self.limit,
            self.refused,
        )
        self._warned = now


class Crowd(Ceiling):
    """The limit of connections."""

    def __init__(self, limit: int, clock: Clock) -> None:
        super().__init__(CONNECTIONS, limit, clock)
        self.excess: set[object] = set()

    def admits(self, connections: Sized) -> bool:
        """Whether the newest of ``connections`` is not one too many."""
        return len(connections) - len(self.excess) <= self.limit

    def keep(self, connection: object) -> bool:
        """Whether a connection too many may stay until it has been told."""
        self.excess.add(connection)
        if len(self.excess) <= EXCESS:
            return True
        self.count()
        return False


class Descriptors:
    """The system's limit of files and sockets for one process (``ulimit -n``)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._limit = _descriptor_limit()
        # The lowest free one is given out, so a high one says how many there are.
        self._alarming = self._limit - min(LAST_DESCRIPTORS, self._limit // 8)
        self._warned = float("-inf")

    def look(self, number: int) -> None:
        """A connection has been given the descriptor ``number``."""
        now = self._clock.seconds
        if number < self._alarming or now < self._warned + WARN_EVERY:
            return
        self._warned = now
        server_log.warning(
            "Of the %d files and sockets that this process may have open (ulimit -n), "
            "nearly all are: soon connections will be closed as they come. Raise the "
            "limit, or set %s",
            self._limit,
            spell("LIMITS.CONNECTIONS"),
        )


def _descriptor_limit() -> int:
    if sys.platform == "win32":
        return sys.maxsize
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
