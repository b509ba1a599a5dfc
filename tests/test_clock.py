"""The clock that all connections of a process share, with time made by the test."""

from __future__ import annotations

import re
import unittest
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

from django_daphne.server.clock import TICK, Clock


class FakeLoop:
    """Runs what is due when the test lets time pass."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> mock.Mock:
        call = (self.now + delay, callback)
        self.calls.append(call)
        handle = mock.Mock()
        handle.cancel = lambda: self.calls.remove(call)
        return handle

    def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [call for call in self.calls if call[0] <= end]:
            call = min(due, key=lambda call: call[0])
            self.calls.remove(call)
            self.now = max(self.now, call[0])
            call[1]()
        self.now = end


class Entry:
    def __init__(self, clock: Clock, loop: FakeLoop) -> None:
        self.filed = 0
        self.ticks: list[float] = []
        self._clock = clock
        self._loop = loop

    def tick(self, now: int) -> None:
        assert now == self._clock.now
        self.ticks.append(self._loop.now)

    def wake_in(self, seconds: float) -> None:
        self._clock.file(self, self._clock.after(seconds))


class ClockTests(unittest.TestCase):
    def setUp(self) -> None:
        self.loop = FakeLoop()
        self.clock = Clock(self.loop)  # type: ignore[arg-type]
        self.clock.start()
        self.addCleanup(self.clock.stop)

    def entry(self) -> Entry:
        return Entry(self.clock, self.loop)

    def test_never_early_and_little_late(self) -> None:
        for seconds in (0.01, 0.25, 1, 1.1, 75):
            for offset in (0, 0.1, 0.2):
                self.loop.sleep(offset)
                entry, began = self.entry(), self.loop.now
                entry.wake_in(seconds)
                self.loop.sleep(seconds + 3 * TICK)
                (ended,) = entry.ticks
                self.assertGreaterEqual(ended - began, seconds)
                self.assertLessEqual(ended - began, seconds + 2 * TICK)

    def test_once(self) -> None:
        entry = self.entry()
        entry.wake_in(1)
        self.loop.sleep(10)
        self.assertEqual(len(entry.ticks), 1)
        self.assertEqual(entry.filed, 0)

    def test_a_later_tick_is_not_filed_beside_an_earlier_one(self) -> None:
        entry = self.entry()
        entry.wake_in(1)
        entry.wake_in(5)
        self.loop.sleep(20)
        self.assertEqual(len(entry.ticks), 1)

    def test_an_earlier_tick_takes_the_place_of_a_later_one(self) -> None:
        entry = self.entry()
        entry.wake_in(5)
        entry.wake_in(1)
        self.loop.sleep(2)
        self.assertEqual(len(entry.ticks), 1)
        entry.wake_in(1)
        self.loop.sleep(20)
        self.assertEqual(len(entry.ticks), 2)

    def test_ticks_missed_while_the_loop_was_blocked(self) -> None:
        entries = [self.entry() for _ in range(20)]
        for number, entry in enumerate(entries):
            entry.wake_in(number / 4)
        self.loop.now += 10
        with self.assertLogs("django_daphne.server", "WARNING") as logs:
            self.loop.sleep(5 + 2 * TICK)
        self.assertEqual(len(logs.records), 1)
        self.assertIn("stood still for 10.", logs.output[0])
        self.assertEqual([len(entry.ticks) for entry in entries], [1] * 20)

    def test_time_in_which_the_loop_was_blocked_does_not_count(self) -> None:
        before, after = self.entry(), self.entry()
        before.wake_in(3)
        self.loop.now += 60
        # What the loop does first when it goes on, the clock has yet to tick.
        after.wake_in(3)
        with self.assertLogs("django_daphne.server", "WARNING"):
            self.loop.sleep(2)
        self.assertEqual(before.ticks, [])
        self.assertEqual(after.ticks, [])
        self.loop.sleep(2)
        self.assertEqual(len(before.ticks), 1)
        self.assertEqual(len(after.ticks), 1)
        self.test_never_early_and_little_late()

    def test_a_start_that_takes_long_is_no_standstill(self) -> None:
        clock = Clock(self.loop)  # type: ignore[arg-type]
        self.loop.now += 60
        self.clock.stop()
        with self.assertNoLogs("django_daphne.server"):
            clock.start()
        clock.stop()

    def test_ticks_that_are_a_little_late_do_not_add_up(self) -> None:
        entry, began = self.entry(), self.loop.now
        entry.wake_in(60)
        while not entry.ticks:
            self.loop.now += 0.2
            self.loop.sleep(TICK)
        self.assertLessEqual(entry.ticks[0] - began, 61)

    def test_what_is_forgotten_is_let_go(self) -> None:
        entry = self.entry()
        for seconds in (75, 10, 1):
            entry.wake_in(seconds)
        self.clock.forget(entry)
        self.assertEqual(entry.filed, 0)
        gone = weakref.ref(entry)
        del entry
        self.assertIsNone(gone())
        self.loop.sleep(100)

    def test_one_entry_may_forget_another_that_is_due(self) -> None:
        first, second = self.entry(), self.entry()
        first.wake_in(1)
        second.wake_in(1)
        ticked = []

        def tick(now: int, other: Entry) -> None:
            ticked.append(other)
            self.clock.forget(other)

        with (
            mock.patch.object(first, "tick", lambda now: tick(now, second)),
            mock.patch.object(second, "tick", lambda now: tick(now, first)),
        ):
            self.loop.sleep(2)
        self.assertEqual(len(ticked), 1)

    def test_an_entry_that_fails_stops_no_other(self) -> None:
        first, second = self.entry(), self.entry()
        first.wake_in(1)
        second.wake_in(1)
        with (
            mock.patch.object(first, "tick", side_effect=ZeroDivisionError),
            self.assertLogs("django_daphne.server", "ERROR"),
        ):
            self.loop.sleep(2)
        self.assertEqual(len(second.ticks), 1)
        second.wake_in(1)
        self.loop.sleep(2)
        self.assertEqual(len(second.ticks), 2)

    def test_the_date(self) -> None:
        with mock.patch("time.time", return_value=784111777.9):
            self.loop.sleep(TICK)
            self.assertEqual(
                self.clock.date_line, b"Date: Sun, 06 Nov 1994 08:49:37 GMT"
            )
        before: Any = self.clock.date_line
        with mock.patch("time.time", return_value=784111778.0):
            self.loop.sleep(TICK)
        self.assertNotEqual(self.clock.date_line, before)
        self.loop.sleep(TICK)
        self.assertRegex(
            self.clock.date_line.decode(),
            re.compile(
                r"Date: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"
            ),
        )

    def test_stopped(self) -> None:
        entry = self.entry()
        entry.wake_in(1)
        self.clock.stop()
        self.loop.sleep(10)
        self.assertEqual(entry.ticks, [])
        self.assertEqual(self.loop.calls, [])
