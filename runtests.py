#!/usr/bin/env python
"""Run the tests: ``python runtests.py [labels] [options]``.

Labels and options are those of Django's ``manage.py test`` (``--failfast``, ``-k``,
``--tag``, ``--exclude-tag``, ``--parallel``, ``-v`` …); without a label everything
runs. The last line printed is ``N passed, N failed, N skipped``; the exit status is 0
only when something ran and nothing failed.

There are two projects, and Django has one set of settings in a process. So each
project's tests run in a process of their own, which leaves its tally in a file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent

#: The package that each project's tests are in, and its settings.
PROJECTS = {
    "tests": "tests.settings",
    "example_project": "example_project.settings",
}


class Tally:
    """What became of each test.

    A test that fails in several subtests, or in its body and again while it is taken
    down, is one failure.
    """

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.failed: set[str] = set()
        self.skipped: set[str] = set()

    def counts(self) -> dict[str, int]:
        return {
            "passed": len(self.passed - self.failed),
            "failed": len(self.failed),
            "skipped": len(self.skipped),
        }


def counting(result_class: type[unittest.TextTestResult], tally: Tally) -> type:
    """``result_class``, which also keeps ``tally``."""

    class CountingResult(result_class):  # type: ignore[misc,valid-type]
        def addSuccess(self, test: Any) -> None:
            super().addSuccess(test)
            tally.passed.add(test.id())

        def addFailure(self, test: Any, err: Any) -> None:
            super().addFailure(test, err)
            tally.failed.add(test.id())

        def addError(self, test: Any, err: Any) -> None:
            super().addError(test, err)
            tally.failed.add(test.id())

        def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
            super().addSubTest(test, subtest, err)
            if err is not None:
                tally.failed.add(test.id())

        def addSkip(self, test: Any, reason: str) -> None:
            super().addSkip(test, reason)
            tally.skipped.add(test.id())

        def addExpectedFailure(self, test: Any, err: Any) -> None:
            super().addExpectedFailure(test, err)
            tally.passed.add(test.id())

        def addUnexpectedSuccess(self, test: Any) -> None:
            super().addUnexpectedSuccess(test)
            tally.failed.add(test.id())

    return CountingResult


def parser() -> argparse.ArgumentParser:
    from django.test.runner import DiscoverRunner

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labels", nargs="*", help="Modules, classes or tests to run.")
    parser.add_argument("-v", "--verbosity", type=int, choices=range(4), default=1)
    DiscoverRunner.add_arguments(parser)
    return parser


def run_project(project: str, labels: list[str], options: dict[str, Any]) -> Tally:
    """Run tests of one project in this process.

    :raises SystemExit: when what surrounds the tests fails, such as a system check.
    """
    os.environ["DJANGO_SETTINGS_MODULE"] = PROJECTS[project]
    import django
    from django.test.runner import DiscoverRunner

    tally = Tally()

    class Runner(DiscoverRunner):
        def get_resultclass(self) -> type:
            return counting(super().get_resultclass() or unittest.TextTestResult, tally)

    django.setup()
    # A test database that is left over is ours: nobody has to be asked.
    failures = Runner(interactive=False, **options).run_tests(labels)
    if failures and not tally.failed:
        sys.exit(f"{failures} failures were reported and none was counted")
    return tally


def by_project(labels: list[str]) -> dict[str, list[str]]:
    """Which labels concern which project; a path may be written as a label, too."""
    groups: dict[str, list[str]] = {}
    for label in labels or PROJECTS:
        name = label.removeprefix("./").replace(os.sep, ".").partition(".")[0]
        if name not in PROJECTS:
            sys.exit(f"{label!r} is in neither of {', '.join(PROJECTS)}")
        groups.setdefault(name, []).append(label)
    return groups


def main(arguments: list[str]) -> int:
    options = vars(parser().parse_args(arguments))
    groups = by_project(options.pop("labels"))
    project, _, report = os.environ.pop(ONE_PROJECT, "").partition(":")
    if project:
        tally = run_project(project, groups[project], options)
        Path(report).write_text(json.dumps(tally.counts()))
        return 0
    totals = {"passed": 0, "failed": 0, "skipped": 0}
    broken = False
    for project in groups:
        with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
            child = subprocess.run(
                [sys.executable, __file__, *arguments],
                env={**os.environ, ONE_PROJECT: f"{project}:{file.name}"},
            )
            broken = broken or child.returncode != 0
            counts = json.loads(file.read() or "{}")
        for what, number in counts.items():
            totals[what] += number
        if options["failfast"] and totals["failed"]:
            break
    print("\n" + ", ".join(f"{n} {what}" for what, n in totals.items()), flush=True)
    anything = totals["passed"] + totals["skipped"] > 0
    return 0 if anything and not broken and not totals["failed"] else 1


#: In the environment of a process that runs one project: which, and the file for its
#: tally.
ONE_PROJECT = "DJANGO_DAPHNE_TEST_PROJECT"


if __name__ == "__main__":
    # The tests start servers in processes of their own, from wherever they like.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    sys.exit(main(sys.argv[1:]))
