"""Who sends next: priorities are read, and turns are fair."""

from __future__ import annotations

import unittest
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from django_daphne.protocol.priority import (
    DEFAULT_URGENCY,
    MAX_PRIORITY,
    MAX_STALE,
    UNSAID,
    Priority,
    Schedule,
    read_priority,
)


@dataclass(eq=False)
class Sender:
    id: int
    priority: Priority = UNSAID


def schedule(*senders: Sender) -> Schedule[Sender]:
    made: Schedule[Sender] = Schedule()
    for sender in senders:
        made.add(sender)
    return made


def turns(made: Schedule[Sender], count: int) -> list[int]:
    taken = []
    for _ in range(count):
        sender = made.next()
        assert sender is not None
        taken.append(sender.id)
    return taken


class Reading(unittest.TestCase):
    def test_fields(self) -> None:
        for value, priority in {
            b"u=0": (0, False),
            b"u=7, i": (7, True),
            b"i": (3, True),
            b"i=?1,u=5": (5, True),
            b"u=5;x=1, i=?0": (5, False),
            b"u=1, u=2": (2, False),
            b'u=1, later="a b", x=(1 2)': (1, False),
            b"\tu=1 ,\ti ": (1, True),
            b"": (3, False),
        }.items():
            with self.subTest(value):
                self.assertEqual(read_priority(value), priority)

    def test_what_is_wrong_is_ignored(self) -> None:
        for value in (
            b"u=8", b"u=-1", b"u=1.5", b"u=?1", b'u="1"', b"u", b"u=", b"U=1",
            b"i=1", b"i=yes", b"\xff", b"u=1 2", b"u==1", b"u=11",
        ):  # fmt: skip
            with self.subTest(value):
                self.assertEqual(read_priority(value), (3, False))

    def test_what_takes_long_to_read_is_ignored(self) -> None:
        said = b"u=1,".ljust(MAX_PRIORITY)
        self.assertEqual(read_priority(said), Priority(1, False))
        self.assertEqual(read_priority(said + b" "), Priority(DEFAULT_URGENCY, False))

    @given(st.binary(max_size=40))
    def test_anything_can_be_read(self, value: bytes) -> None:
        urgency, _ = read_priority(value)
        self.assertIn(urgency, range(8))


class Turns(unittest.TestCase):
    def test_nobody(self) -> None:
        made = schedule()
        self.assertFalse(made)
        self.assertIsNone(made.next())

    def test_the_urgent_come_first(self) -> None:
        calm, urgent = Sender(1, Priority(4, True)), Sender(3, Priority(2, True))
        made = schedule(calm, urgent)
        self.assertEqual(turns(made, 3), [3, 3, 3])
        made.discard(urgent)
        self.assertEqual(turns(made, 2), [1, 1])

    def test_incremental_ones_take_turns(self) -> None:
        made = schedule(*(Sender(id, Priority(3, True)) for id in (1, 3, 5)))
        self.assertEqual(turns(made, 7), [1, 3, 5, 1, 3, 5, 1])

    def test_the_others_go_in_the_order_of_their_requests(self) -> None:
        first, second = (Sender(id, Priority(3, False)) for id in (1, 3))
        made = schedule(second, first)
        self.assertEqual(turns(made, 3), [1, 1, 1])
        made.discard(first)
        self.assertEqual(turns(made, 2), [3, 3])
        # The client has opened its window again.
        made.add(first)
        self.assertEqual(turns(made, 2), [1, 1])

    def test_neither_kind_starves_the_other(self) -> None:
        made = schedule(
            Sender(1, Priority(3, False)),
            Sender(3, Priority(3, False)),
            Sender(5, Priority(3, True)),
            Sender(7, Priority(3, True)),
        )
        self.assertEqual(turns(made, 8), [1, 5, 1, 7, 1, 5, 1, 7])

    def test_those_who_say_nothing_share(self) -> None:
        made = schedule(Sender(1), Sender(3))
        self.assertEqual(turns(made, 4), [1, 3, 1, 3])

    def test_adding_twice_is_adding_once(self) -> None:
        sender = Sender(1)
        made = schedule(sender, sender)
        made.discard(sender)
        self.assertFalse(made)
        made.discard(sender)

    def test_moving(self) -> None:
        one, other = Sender(1), Sender(3)
        made = schedule(one, other)
        made.move(other, Priority(0, False))
        self.assertEqual(turns(made, 2), [3, 3])
        made.move(other, Priority(7, False))
        self.assertEqual(turns(made, 2), [1, 1])
        absent = Sender(5)
        made.move(absent, Priority(0, True))
        self.assertNotIn(absent, made)
        self.assertEqual(absent.priority.urgency, 0)

    def test_one_who_comes_and_goes_leaves_nothing_behind(self) -> None:
        first, other = (Sender(id, Priority(3, False)) for id in (1, 3))
        made = schedule(first)
        for _ in range(1000):
            made.add(other)
            made.discard(other)
        level = made._levels[3]
        assert level is not None
        self.assertLess(len(level.first), 10 + MAX_STALE)
        self.assertEqual(turns(made, 2), [1, 1])

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["add", "discard", "move", "next"]),
                st.integers(0, 5),
                st.integers(0, 7),
                st.booleans(),
            )
        )
    )
    def test_it_holds_what_was_added(
        self, steps: list[tuple[str, int, int, bool]]
    ) -> None:
        senders = [Sender(2 * n + 1) for n in range(6)]
        made: Schedule[Sender] = Schedule()
        present: set[int] = set()
        for what, number, urgency, incremental in steps:
            sender = senders[number]
            if what == "add":
                made.add(sender)
                present.add(sender.id)
            elif what == "discard":
                made.discard(sender)
                present.discard(sender.id)
            elif what == "move":
                made.move(sender, Priority(urgency, incremental))
            else:
                taken = made.next()
                if taken is None:
                    self.assertEqual(present, set())
                else:
                    self.assertIn(taken.id, present)
                    most = min(s.priority.urgency for s in senders if s.id in present)
                    self.assertEqual(taken.priority.urgency, most)
            self.assertEqual(bool(made), bool(present))
            self.assertEqual({s.id for s in senders if s in made}, present)
