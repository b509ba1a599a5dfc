"""The soak, short."""

from __future__ import annotations

import unittest

from django.test import tag

from .soak import MIB, Traffic, soak

#: Enough for every kind of client to go several rounds on a busy machine.
SECONDS = 20

#: The allocator has not found its size by then, which takes minutes: this notices only
#: what is lost with every connection or request.
TOLERANCE = 16 * MIB


@tag("slow")
class SoakTests(unittest.TestCase):
    def test_everything_at_once_for_a_while(self) -> None:
        report = soak(SECONDS, tolerance=TOLERANCE)
        kinds = {name for name in report.rounds if hasattr(Traffic, name)}
        self.assertEqual(len(kinds), 16, report.rounds)
