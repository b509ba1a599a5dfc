"""Django's own tests, on Django's handler and on ours: the outcome must be the same.

``python -m tests.django_suite [LABELS…]``. The tests come from the source distribution
of the Django that is installed. pip fetches it once, into ``django-daphne-tests`` of
the user's cache directory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import django

ROOT = Path(__file__).resolve().parent.parent.parent

#: Everything that has to do with handlers, and what runs on them.
LABELS = (
    "asgi", "async", "auth_tests.test_decorators", "auth_tests.test_middleware",
    "conditional_processing", "csrf_tests", "decorators", "deprecation", "file_uploads",
    "files", "flatpages_tests", "handlers", "httpwrappers",
    "i18n.tests.LocaleMiddlewareTests", "messages_tests", "middleware",
    "middleware_exceptions", "redirects_tests", "requests_tests", "responses",
    "sessions_tests", "shortcuts", "signals", "signed_cookies_tests", "sites_tests",
    "test_client", "test_client_regress", "view_tests",
)  # fmt: skip

#: What our handler may do otherwise; the documentation says why.
MAY_DIFFER = frozenset({"asgi.tests.ASGITest.test_read_body_thread"})

#: From the first test to the last.
SECONDS = 900

#: Some of Django's tests give an answer a second, or a view the tenth of one, and end
#: otherwise on either handler when the machine has something else to do just then. What
#: is the handlers' differs every time.
RUNS = 3

#: How each test ended.
Outcomes = dict[str, str]


def source() -> Path:
    """The unpacked distribution."""
    version = django.get_version()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = caches / "django-daphne-tests"
    unpacked = cache / f"django-{version}"
    if not (unpacked / "tests" / "runtests.py").exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as directory:
            subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                    *("--no-binary", "django", "--dest", directory),
                    f"django=={version}",
                ],
                check=True,
            )
            (archive,) = Path(directory).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(directory, filter="data")
            (found,) = (p.parent.parent for p in Path(directory).glob("*/tests/asgi"))
            if not unpacked.exists():
                found.rename(unpacked)
    return unpacked


def start(path: Path, report: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        name: value for name, value in os.environ.items() if "DJANGO" not in name
    }
    environment["PYTHONPATH"] = str(ROOT)
    run = Path(__file__).with_name("run.py")
    with report.with_suffix(".txt").open("w") as output:
        return subprocess.Popen(
            [sys.executable, str(run), str(path), str(report), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
        )


def compare(path: Path, labels: Sequence[str]) -> tuple[set[str], Outcomes, str]:
    """Which tests end otherwise on our handler, how each ended, and the output."""
    with tempfile.TemporaryDirectory() as directory:
        reports = [Path(directory, name) for name in ("theirs", "ours")]
        running = [
            start(path, reports[0], "--theirs", *labels),
            start(path, reports[1], *labels),
        ]
        try:
            for process in running:
                process.wait(SECONDS)
        finally:
            for process in running:
                process.kill()
        outputs = [report.with_suffix(".txt").read_text() for report in reports]
        if not all(report.exists() for report in reports):
            raise SystemExit("\n".join(outputs))
        theirs, ours = (json.loads(report.read_text()) for report in reports)
    different = set()
    for test in sorted(theirs.keys() | ours.keys()):
        if theirs.get(test) != ours.get(test) and test not in MAY_DIFFER:
            different.add(test)
            print(f"{test}: {theirs.get(test)} with Django's handler, {ours.get(test)}")
    return different, ours, outputs[1]


def main() -> int:
    path = source()
    labels = sys.argv[1:] or LABELS
    different, ours, output = compare(path, labels)
    for _ in range(RUNS - 1):
        if different:
            print("Once more:", flush=True)
            again, ours, output = compare(path, labels)
            different &= again
    if different:
        print(output)
    counts = Counter(ours[test] for test in ours.keys() - different)
    print(f"Django {django.get_version()}: {dict(counts)}")
    same, skipped = counts.total() - counts["skipped"], counts["skipped"]
    # What Django's tests skip for want of this or that is no skip of ours.
    print(f"{same + skipped} passed, {len(different)} failed, 0 skipped")
    return 1 if different or not same else 0


if __name__ == "__main__":
    sys.exit(main())
