"""Run test modules of Django's own, with our handler in the place of Django's.

``python run.py SOURCE REPORT [--theirs] LABELS…`` runs them from SOURCE, an unpacked
distribution of the Django that is installed, and writes the outcome of each test to
REPORT. ``--theirs`` leaves Django's handler where it is.

Replaced are, before any test is imported, the handler that ASGI applications are, and
the one of ``AsyncClient``, which has the same chain of middleware.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import unittest
from pathlib import Path
from typing import Any


def replace_handlers() -> None:
    import django.core.asgi
    import django.core.handlers.asgi
    import django.test.client

    from django_daphne.handler import Handler
    from django_daphne.handler.grouping import GroupingHandler

    theirs = django.test.client.AsyncClientHandler

    class AsyncClientHandler(GroupingHandler, theirs):  # type: ignore[misc, valid-type]
        pass

    django.core.handlers.asgi.ASGIHandler = Handler  # type: ignore[misc]
    django.core.asgi.ASGIHandler = Handler  # type: ignore[attr-defined]
    django.test.client.AsyncClientHandler = AsyncClientHandler  # type: ignore[misc]
    settle()


def settle() -> None:
    """Give requests threads of ours even where there is somebody else's.

    Django runs its asynchronous tests inside ``async_to_sync``, whose thread would be
    used.
    """
    from asgiref.sync import AsyncToSync, SyncToAsync

    from django_daphne.handler import exchange
    from django_daphne.handler.exchange import Exchange
    from django_daphne.handler.threads import Worker, threads

    async def lease(self: Exchange) -> Worker:
        worker = await threads.lease(None)
        context = SyncToAsync.thread_sensitive_context.get()
        SyncToAsync.context_to_thread_executor[context] = worker
        AsyncToSync.executors.current = None
        return worker

    Exchange._lease = lease  # type: ignore[method-assign]
    # Clients of the tests leave at once.
    exchange.LISTEN_AFTER = 0


def note_outcomes(outcomes: dict[str, str]) -> None:
    """Make every result of a test write itself down in ``outcomes``.

    What went wrong in any part of a test is its outcome.
    """

    def noting(name: str, outcome: str) -> None:
        own = getattr(unittest.TextTestResult, name)

        def add(self: Any, test: Any, *details: Any) -> None:
            own(self, test, *details)
            whole = getattr(test, "test_case", test)
            if name != "addSubTest" or details[-1] is not None:
                if outcome == "passed":
                    outcomes.setdefault(whole.id(), outcome)
                else:
                    outcomes[whole.id()] = outcome

        setattr(unittest.TextTestResult, name, add)

    noting("addSuccess", "passed")
    noting("addExpectedFailure", "expectedly failed")
    noting("addSkip", "skipped")
    noting("addFailure", "failed")
    noting("addError", "failed")
    noting("addSubTest", "failed")
    noting("addUnexpectedSuccess", "unexpectedly passed")


def main() -> None:
    source, report, *arguments = sys.argv[1:]
    tests = Path(source, "tests").resolve()
    if "--theirs" in arguments:
        arguments.remove("--theirs")
    else:
        replace_handlers()
    outcomes: dict[str, str] = {}
    note_outcomes(outcomes)
    os.chdir(tests)
    sys.path.insert(0, str(tests))
    sys.argv = ["runtests.py", "--parallel=1", "--noinput", *arguments]
    try:
        runpy.run_path("runtests.py", run_name="__main__")
    finally:
        Path(report).write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
