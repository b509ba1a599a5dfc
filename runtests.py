#!/usr/bin/env python
"""Run the tests: ``python runtests.py [labels] [options]``.

Labels and options are those of Django's ``manage.py test`` (``--failfast``, ``-k``,
``--tag``, ``--exclude-tag``, ``-v`` …); without a label everything in ``tests`` runs.
``--jobs 3`` runs three modules at a time, each in a process of its own: most wait more
than they work. The last line printed is ``N passed, N failed, N skipped``; the exit
status is 0 only when something ran and nothing failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent

#: In the environment of a process that runs one module for another: the module, a
#: colon, and the file for its tally.
ONE_MODULE = "DJANGO_DAPHNE_TEST_MODULE"

#: Bytes of the path of the directory for temporary files, below which tests have
#: directories, and sockets in them.
LONGEST_TEMPORARY = 60

#: What would change what servers and Python print: colours, and systemd that is not
#: there.
OF_THE_MACHINE = (
    "FORCE_COLOR", "NO_COLOR", "PYTHON_COLORS", "LISTEN_FDNAMES", "LISTEN_FDS",
    "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC",
)  # fmt: skip


class Tally:
    """What became of each test.

    A test that fails in several subtests, or in its body and again while it is taken
    down, is one failure.
    """

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.failed: set[str] = set()
        self.skipped: set[str] = set()

    def counts(self) -> Counter[str]:
        return Counter(
            passed=len(self.passed - self.failed),
            failed=len(self.failed),
            skipped=len(self.skipped),
        )


def spell(counts: Counter[str]) -> str:
    return ", ".join(
        f"{counts[what]} {what}" for what in ("passed", "failed", "skipped")
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


# -- One process -----------------------------------------------------------------------


def run_here(labels: list[str], options: dict[str, Any]) -> tuple[Counter[str], bool]:
    """Run in this process; what was counted, and whether all was well."""
    import django
    import hypothesis
    from django.test.runner import DiscoverRunner
    from django.test.utils import iter_test_cases

    tally = Tally()
    excluded = options.pop("exclude")

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

    django.setup()
    # How long an example takes, or takes to make, says nothing about whether it is
    # right: the first pays for imports, and the machine may be busy.
    hypothesis.settings.register_profile(
        "untimed",
        parent=hypothesis.settings(),
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("untimed")
    # A test database that is left over is ours: nobody has to be asked.
    failures = Runner(interactive=False, **options).run_tests(labels)
    return tally.counts(), not failures and not tally.failed


# -- Several processes -----------------------------------------------------------------


class Outcome(NamedTuple):
    module: str
    counts: Counter[str]
    good: bool
    output: str
    seconds: float


def run_modules(
    modules: list[str], jobs: int, failfast: bool
) -> tuple[Counter[str], bool]:
    """Run each module in a process of its own, ``jobs`` at a time."""
    counts: Counter[str] = Counter()
    good = True
    with ThreadPoolExecutor(jobs) as pool:
        for outcome in pool.map(run_module, modules):
            counts += outcome.counts
            good = good and outcome.good
            print(
                f"{outcome.module}: {spell(outcome.counts)} ({outcome.seconds:.1f} s)"
            )
            if not outcome.good:
                print(outcome.output, flush=True)
                if failfast:
                    pool.shutdown(cancel_futures=True)
                    break
    return counts, good


def run_module(module: str) -> Outcome:
    began = time.monotonic()
    with tempfile.NamedTemporaryFile("r", suffix=".json") as report:
        child = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:]],
            env={**os.environ, ONE_MODULE: f"{module}:{report.name}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        counts = Counter(json.loads(report.read() or "{}"))
    good = child.returncode == 0
    return Outcome(module, counts, good, child.stdout, time.monotonic() - began)


def modules_of(labels: list[str]) -> Iterator[str]:
    """The modules that ``labels`` name; a class or a test stays what it is.

    The largest files come first, so that the longest is not begun last.
    """
    for label in labels:
        folder = ROOT / label.replace(".", os.sep)
        if folder.is_dir():
            files = sorted(folder.glob("test_*.py"), key=lambda f: -f.stat().st_size)
            yield from (f"{label}.{file.stem}" for file in files)
        else:
            yield label


# -- The command -----------------------------------------------------------------------


def parse(arguments: list[str]) -> tuple[list[str], int, dict[str, Any]]:
    """Labels, jobs, and the options of the runner."""
    from django.test.runner import DiscoverRunner

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labels", nargs="*", help="Modules, classes or tests to run.")
    parser.add_argument("-v", "--verbosity", type=int, choices=range(4), default=1)
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="Run N modules at a time."
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="LABEL",
        help="Leave out this module, class or test; may be repeated.",
    )
    DiscoverRunner.add_arguments(parser)
    options = vars(parser.parse_args(arguments))
    return options.pop("labels") or ["tests"], options.pop("jobs"), options


def main() -> int:
    labels, jobs, options = parse(sys.argv[1:])
    module, _, report = os.environ.pop(ONE_MODULE, "").partition(":")
    if module:
        counts, good = run_here([module], options)
        Path(report).write_text(json.dumps(counts))
        return 0 if good else 1
    if jobs > 1:
        modules = [m for m in modules_of(labels) if m not in options["exclude"]]
        counts, good = run_modules(modules, jobs, options["failfast"])
    else:
        counts, good = run_here(labels, options)
    print(f"\n{spell(counts)}", flush=True)
    return 0 if good and counts["passed"] + counts["skipped"] else 1


def shelter() -> None:
    """Keep away what a machine's own configuration would do to the tests.

    They and what they start speak with nobody but themselves, and no further than the
    loopback interface.
    """
    for name in OF_THE_MACHINE:
        os.environ.pop(name, None)
    # Proxies are for the world outside.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"
    # Names that nobody has are asked for; a resolver that is not there takes minutes.
    os.environ["RES_OPTIONS"] = "timeout:2 attempts:1"
    # A Unix socket's path has 107 bytes at most, and ours are in temporary directories.
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_TEMPORARY:
        os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"


if __name__ == "__main__":
    shelter()
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    # The tests start servers in processes of their own, from wherever they like.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    sys.exit(main())
