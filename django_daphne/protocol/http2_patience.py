"""How much pointless work a client may make for us.

HTTP/2 has a dozen frames that cost the sender nothing and the receiver something:
streams opened and reset at once, pings, settings, empty data, priorities, unknown
frames. Each is legal, and each in endless repetition is an attack (CVE-2019-9511 to
-9518, CVE-2023-44487, CVE-2025-8671). One budget covers them all, so that no mixture
gets around it:

1. A connection begins with :data:`PATIENCE`, and never has more.

2. What serves nothing costs. A request that is reset soon costs most, by the client or
   by us because the client broke a rule: an application has been started for it.

3. Time gives it back, :data:`RECOVERY` a second: a client that pings every second, or a
   user who leaves a page with a hundred images, is nobody's enemy.

4. So does work. A proxy that carries thousands of requests a second over one connection
   has clients that cancel, in proportion.

5. When it is used up, the connection ends with ENHANCE_YOUR_CALM.
"""

from __future__ import annotations

from .wire import Clock

PATIENCE = 2000
RECOVERY = 100

#: What things cost: 400 resets at once, or 2000 pings. A browser whose user leaves four
#: pages of a hundred images each in one second is served; who goes on like this must be
#: served in between.
RESET = 5
#: Seconds after which a stream that is reset is a nuisance like others: it was wanted
#: and is no more. Event streams and long polls all end like this, and in a second no
#: more of them than may be open.
PREMATURE = 1.0
#: A stream over the limit: refused before it costs an application.
REFUSED = 2
NUISANCE = 1

#: What a complete response gives back; with its DATA, what one reset costs.
SERVED = 3
#: What a DATA frame sent gives back: some clients open their windows for each one. A
#: frame that is tiny because the window is gives back nothing.
SENT = 2
#: Bytes sent that give back one more: those who open both their windows for every KiB
#: that they take get it for nothing.
EARNING = 512


class Patience:
    """What is left for one connection."""

    __slots__ = ("_clock", "_left", "_since")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left = PATIENCE
        self._since = clock.seconds

    def spend(self, cost: int) -> bool:
        """Whether there was enough."""
        self._left -= cost
        if self._left >= 0:
            return True
        now = self._clock.seconds
        self.earn(int((now - self._since) * RECOVERY))
        self._since = now
        return self._left >= 0

    def earn(self, amount: int) -> None:
        self._left = min(PATIENCE, self._left + amount)
