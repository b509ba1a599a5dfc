#!/usr/bin/env python
"""Run the tests: ``python runtests.py [labels] [options]``.

Labels and options are those of Django's ``manage.py test`` (``--failfast``, ``-k``,
``--tag``, ``--exclude-tag``, ``--parallel``, ``-v`` …); without a label every test in
``tests`` runs. The last line printed is ``N passed, N failed, N skipped``; the exit
status is 0 only when something ran and nothing failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import unittest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent


class Tally:
    """What became of each test.

    A test that fails in several subtests, or in its body and again while it is taken
    down, is one failure.
    """

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.failed: set[str] = set()
        self.skipped: set[str] = set()

    @property
    def success(self) -> bool:
        return bool(self.passed or self.skipped) and not self.failed

    def __str__(self) -> str:
        passed = len(self.passed - self.failed)
        return (
            f"{passed} passed, {len(self.failed)} failed, {len(self.skipped)} skipped"
        )


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


def run(arguments: list[str]) -> int:
    import django
    import hypothesis
    from django.test.runner import DiscoverRunner
    from django.test.utils import iter_test_cases

    tally = Tally()

    class Runner(DiscoverRunner):
        def build_suite(self, *args: Any, **kwargs: Any) -> unittest.TestSuite:
            suite = super().build_suite(*args, **kwargs)
            wanted = [
                test
                for test in iter_test_cases(suite)
                if not any(f"{test.id()}.".startswith(f"{name}.") for name in excluded)
            ]
            return self.test_suite(wanted) if excluded else suite

        def get_resultclass(self) -> type:
            return counting(super().get_resultclass() or unittest.TextTestResult, tally)

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labels", nargs="*", help="Modules, classes or tests to run.")
    parser.add_argument("-v", "--verbosity", type=int, choices=range(4), default=1)
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="LABEL",
        help="Leave out this module, class or test; may be repeated.",
    )
    Runner.add_arguments(parser)
    options = vars(parser.parse_args(arguments))
    labels = options.pop("labels") or ["tests"]
    excluded = options.pop("exclude")

    django.setup()
    # How long an example takes says nothing about whether it is right: the first pays
    # for imports, and the machine may be busy.
    hypothesis.settings.register_profile(
        "untimed", parent=hypothesis.settings(), deadline=None
    )
    hypothesis.settings.load_profile("untimed")
    # A test database that is left over is ours: nobody has to be asked.
    failures = Runner(interactive=False, **options).run_tests(labels)
    print(f"\n{tally}", flush=True)
    return 0 if tally.success and not failures else 1


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    # The tests start servers in processes of their own, from wherever they like.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    sys.exit(run(sys.argv[1:]))
