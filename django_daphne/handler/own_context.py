"""A coroutine in a context of its own, at less than the price of a task."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any


@coroutine
def in_own_context(work: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
    """Await ``work``; what it sets in its context is not seen after it.

    It is in the same task as whoever awaits it, with all that a task stands for.
    """
    context = contextvars.copy_context()
    step: Callable[[Any], Any] = work.send
    value: Any = None
    while True:
        try:
            awaited = context.run(step, value)
        except StopIteration:
            return
        try:
            value = yield awaited
            step = work.send
        except BaseException as error:
            step, value = work.throw, error
