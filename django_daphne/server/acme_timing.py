"""When a certificate is renewed, and when an attempt that failed is made again.

Nothing here looks at a clock or at a network: :func:`make_plan` turns what is known
into two points in time. They are compared with the clock every now and then, so that a
machine that was suspended, or had the wrong time, finds itself late and not lost.

Authorities count what they are asked for. Let's Encrypt, for one, allows five refused
challenges an hour for a name, five certificates a week for the same names, and
names the time itself when it has had enough. So a refusal waits much longer than a
connection that failed, which costs the authority nothing; and what was told to wait
waits, across restarts too.
"""

from __future__ import annotations

import enum
import hashlib
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from .acme_storage import Status
from .tls import Leaf

#: A certificate is renewed when a third of its life is left ...
RENEWAL_SHARE = 3
#: ... or up to a thirtieth later, so that many servers that were set up in one night do
#: not come back in one night for ever.
JITTER_SHARE = 30
#: The authority's wish is followed up to here: what is left then is for failures.
LAST_CALL_SHARE = 6

#: A certificate is left alone at first, whatever the authority says of it: one whose
#: clock is wrong must not have us order for ever. Of a short life, this share.
LEAST_AGE = timedelta(hours=1)
LEAST_AGE_SHARE = 3

#: Between questions when it would be renewed (RFC 9773 section 4.3): what is used where
#: the authority names no time, and between what that may be.
ASK_AGAIN = timedelta(hours=6)
ASK_SOONEST = timedelta(minutes=1)
ASK_LATEST = timedelta(days=1)

#: More than that nobody is made to wait. A week is the longest period in which
#: authorities count. Also the proof of a clock that was wrong.
LONGEST_WAIT = timedelta(days=8)

#: What is added to a wait, as a share of it, and at most.
JITTER = 0.2
MOST_JITTER = timedelta(minutes=10)

#: An authority that says "again in 0 seconds", time after time, is asked ever later.
SHORTEST_WAIT = timedelta(seconds=1)


class Fault(enum.Enum):
    """Why there is no certificate; for each the first wait, its growth, the longest."""

    #: Nobody has answered, or has answered that it is out of order.
    AWAY = timedelta(minutes=1), 2, timedelta(hours=1)
    #: The authority has said no. Four attempts in the first hour.
    REFUSED = timedelta(minutes=2), 5, timedelta(hours=12)
    #: It has had enough of us, and has not said until when.
    LIMITED = timedelta(hours=1), 2, timedelta(hours=24)


def wait_after(fault: Fault, failures: int, told: timedelta | None = None) -> timedelta:
    """How long to wait after that many ``failures`` in a row, at least 1.

    ``told`` is what the authority has asked for; no less is waited.
    """
    first, growth, longest = fault.value
    wait = _grown(first, growth, failures, longest)
    if told is not None:
        floor = _grown(SHORTEST_WAIT, 2, failures, timedelta(hours=1))
        wait = max(told, floor if fault is Fault.LIMITED else wait)
    wait = min(wait, LONGEST_WAIT)
    return wait + min(wait * JITTER, MOST_JITTER) * random.random()


def _grown(
    first: timedelta, growth: int, failures: int, longest: timedelta
) -> timedelta:
    # The exponent is bounded: a power of thousands of failures has no end.
    return min(first * int(growth ** min(failures - 1, 8)), longest)


@dataclass(frozen=True, slots=True)
class Plan:
    #: When a certificate is ordered.
    order: datetime
    #: When the authority is asked when that should be; None if that is settled.
    ask: datetime | None

    @property
    def next(self) -> datetime:
        return self.order if self.ask is None else min(self.order, self.ask)


def make_plan(leaf: Leaf | None, status: Status, now: datetime) -> Plan:
    """What to do next about the certificate ``leaf``, or, with None, to get one.

    Times that are past mean at once.
    """
    order, ask = now, None
    if leaf is not None:
        order = _renewal(leaf, status, now)
        if now < order:
            ask = now
            if status.suggested_for == mark_of(leaf) and status.ask_again is not None:
                ask = min(status.ask_again, now + ASK_LATEST)
    for later in (status.next_attempt, status.unfinished):
        if later is not None and later <= now + LONGEST_WAIT + MOST_JITTER:
            order = max(order, later)
    return Plan(order, ask)


def _renewal(leaf: Leaf, status: Status, now: datetime) -> datetime:
    life = leaf.expires - leaf.begins
    chosen = leaf.expires - life / RENEWAL_SHARE + life / JITTER_SHARE * _chance(leaf)
    if status.suggested is not None and status.suggested_for == mark_of(leaf):
        chosen = min(status.suggested, leaf.expires - life / LAST_CALL_SHARE)
    if status.issued is not None and status.issued <= now:
        left = leaf.expires - status.issued
        chosen = max(chosen, status.issued + min(LEAST_AGE, left / LEAST_AGE_SHARE))
    return chosen


def within(leaf: Leaf, start: datetime, end: datetime) -> datetime:
    """A time in the window in which the authority would have ``leaf`` renewed.

    Uniformly by chance, as RFC 9773 section 4.2 has it, and always the same.
    """
    return start + max(end - start, timedelta()) * _chance(leaf)


def mark_of(leaf: Leaf) -> str:
    """What tells a certificate from every other."""
    return hashlib.sha256(leaf.pem.encode()).hexdigest()


def _chance(leaf: Leaf) -> float:
    """A number from 0 to 1 that is the certificate's own.

    Drawn anew at each restart, it would be the least of many before long.
    """
    return int(mark_of(leaf)[:8], 16) / 0xFFFFFFFF


def now() -> datetime:
    return datetime.now(UTC)
