"""One coroutine run to its end, whatever other tasks of its loop do.

asyncio lets SystemExit and KeyboardInterrupt fly through the loop from whichever task
raised them, and the loop stops there. In a script that is what was meant. In a server
it is a view that called ``sys.exit()``, in a task that its framework made for it, and
every other client would pay. The task has its exception already, and whoever awaits it
will meet it there; so the loop is told to go on.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..application.context import server_log

Result = TypeVar("Result")


def run(
    main: Coroutine[Any, Any, Result],
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> Result:
    """What ``main`` returns, run on a loop of its own.

    An interrupt that comes where nobody handles signals cancels ``main``, and a second
    one ends it, as under :func:`asyncio.run`.
    """
    task: asyncio.Task[Any] | None = None

    async def begin() -> Result:
        nonlocal task
        task = asyncio.current_task()
        return await main

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        running: Coroutine[Any, Any, Result] = begin()
        while True:
            try:
                return runner.run(running)
            except (SystemExit, KeyboardInterrupt) as error:
                if task is None or task.done() or task.cancelling():
                    raise
                # Its traceback is told where the task is awaited, or by asyncio.
                last = traceback.extract_tb(error.__traceback__)[-1]
                server_log.error(
                    "A task raised %s (%s, line %s), which would have ended the "
                    "server; it goes on",
                    type(error).__name__,
                    last.filename,
                    last.lineno,
                )
                running = _wait_for(task)


async def _wait_for(task: asyncio.Task[Result]) -> Result:
    """The result of ``task``; cancellation is handed on to it."""
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait((task,))
        raise
    return task.result()
