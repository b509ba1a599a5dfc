"""Whether bytes come, or go, at the least rate that is worth a connection.

A timeout that every byte starts anew is no limit: a byte now and then holds whatever it
is that waits for the rest. So bytes are counted over windows of the timeout's length,
and a window in which too few came is the last. Nobody is judged on less than a window,
nor on time in which they had no choice: :meth:`Pace.stop` and :meth:`Pace.go_on`.

The clock advances in ticks, so a window may have been a tick shorter than it seems.
Whoever has sent enough for that has sent enough.
"""

from __future__ import annotations

from .wire import TICK

#: The shortest window: of a shorter one, too much is a tick's.
MIN_WINDOW = 4 * TICK


class Pace:
    """Counts from ``now`` on, in windows of ``seconds``, ``rate`` bytes a second.

    Where one of both is None everything is fast enough.
    """

    __slots__ = ("_came", "_least", "_since", "_stopped", "_window")

    def __init__(self, seconds: float | None, rate: int | None, now: float) -> None:
        self._window = None if seconds is None else max(seconds, MIN_WINDOW)
        self._least = rate
        self._since = now
        self._came = 0
        self._stopped: float | None = None

    def keeps(self, size: int, now: float) -> bool:
        """``size`` bytes have come; False when those of a whole window are too few."""
        self.count(size)
        window, least = self._window, self._least
        if window is None or least is None or self._stopped is not None:
            return True
        passed = now - self._since
        if passed < window:
            return True
        kept = self._came >= least * (passed - TICK)
        self._since = now
        self._came = 0
        return kept

    def count(self, size: int) -> None:
        """``size`` bytes have come; the judgement waits for others."""
        self._came += size

    def stop(self, now: float) -> None:
        """What passes from now on counts for nothing."""
        if self._stopped is None:
            self._stopped = now

    def go_on(self, now: float) -> None:
        """Time counts again."""
        if self._stopped is not None:
            self._since += now - self._stopped
            self._stopped = None
