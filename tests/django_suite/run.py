"""Run test modules of Django's own, with our handler in the place of Django's.

``python tests/django_suite/run.py DIRECTORY LABELS…``, where DIRECTORY is an unpacked
source distribution of the Django that is installed. ``--theirs`` leaves Django's
handler where it is. What remains of the command line goes to Django's ``runtests.py``.

Replaced are, before any test is imported, the handler that ASGI applications are, and
the one that ``AsyncClient`` has, whose chain of middleware is the same. With
``--through-asgi`` the synchronous ``Client`` drives the whole handler, too: a request
becomes a scope, and what the handler sends becomes a response.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path


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


def main() -> None:
    tests = Path(sys.argv[1], "tests").resolve()
    arguments = sys.argv[2:]
    if "--theirs" in arguments:
        arguments.remove("--theirs")
    else:
        replace_handlers()
    os.chdir(tests)
    sys.path.insert(0, str(tests))
    sys.argv = ["runtests.py", *arguments]
    runpy.run_path("runtests.py", run_name="__main__")


if __name__ == "__main__":
    main()
