"""Judge the suite's report: ``python verdict.py index.json CASES``.

Every case has to pass strictly; the suite calls three of its cases informational,
because every outcome of theirs is allowed. ``CASES`` is how many must have run, or 0
when only a part was asked for. Exits with 1 for anything else.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

GOOD = {"OK", "INFORMATIONAL"}


def judge(report: dict[str, dict[str, str]], expected: int) -> list[str]:
    """What is wrong with the report of one agent; empty when nothing is."""
    faults = [
        f"{case}: {result['behavior']}, closing {result['behaviorClose']}"
        for case, result in sorted(report.items(), key=lambda item: _number(item[0]))
        if not {result["behavior"], result["behaviorClose"]} <= GOOD
    ]
    if not report or (expected and len(report) != expected):
        faults.append(f"{len(report)} cases ran instead of {expected or 'some'}")
    return faults


def _number(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


def main(path: str, expected: str) -> int:
    [report] = json.loads(Path(path).read_text()).values()
    counts = Counter(result["behavior"] for result in report.values())
    print(", ".join(f"{count} {behavior}" for behavior, count in counts.most_common()))
    faults = judge(report, int(expected))
    print("\n".join(faults), end="\n" * bool(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
