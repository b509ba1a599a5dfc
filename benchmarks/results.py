"""What was measured, and what follows from it.

Each figure is the median over the rounds, with the lowest and the highest. Ratios are
formed within a round and only then reduced to their median: what else the machine did
in that round weighed on both sides.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from cases import Case
from servers import OURS, Server

Figures = dict[str, float]


@dataclass(frozen=True)
class Spread:
    median: float
    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float]) -> Spread:
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])


@dataclass
class Row:
    """A server in a case: its figures by round, and what went wrong."""

    server: Server
    rounds: dict[int, Figures] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    #: It did not start, and is not tried again.
    out: bool = False

    def spread(self, key: str) -> Spread:
        return Spread.over(figures[key] for figures in self.rounds.values())


@dataclass
class CaseResult:
    case: type[Case]
    rows: list[Row]

    @property
    def measured(self) -> list[Row]:
        return [row for row in self.rows if row.rounds]

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.failures]

    @property
    def reference(self) -> Row | None:
        """Our row; where it has no figures, the best."""
        for row in self.measured:
            if row.server.name == OURS:
                return row
        key = self.case.headline.key
        return min(self.measured, key=lambda row: row.spread(key).median, default=None)

    def ratio(self, row: Row) -> Spread | None:
        """The reference's headline figure divided by the row's."""
        reference = self.reference
        if reference is None or reference is row:
            return None
        key = self.case.headline.key
        common = reference.rounds.keys() & row.rounds.keys()
        if not common:
            return None
        return Spread.over(
            reference.rounds[number][key] / row.rounds[number][key] for number in common
        )

    def as_json(self) -> dict[str, object]:
        reference = self.reference
        return {
            "title": self.case.title,
            "headline": self.case.headline.key,
            "reference": reference and reference.server.name,
            "servers": {row.server.name: self._row_as_json(row) for row in self.rows},
        }

    def _row_as_json(self, row: Row) -> dict[str, object]:
        ratio = self.ratio(row)
        keys = next(iter(row.rounds.values()), {})
        return {
            "rounds": {str(number): row.rounds[number] for number in row.rounds},
            "spread": {key: vars(row.spread(key)) for key in keys},
            "reference_ratio": ratio and vars(ratio),
            "failures": row.failures,
        }
