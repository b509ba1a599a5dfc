"""Django's handler inside an ASGI application that wraps it.

Routers and middleware keep what they wrap in attributes, dicts, lists or closures,
under names of their own; so all of these are searched, breadth first and not far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

from django.core.handlers.asgi import ASGIHandler

from .grouping import GroupingHandler

#: What is looked at before giving up; an application is wrapped a few times, and each
#: wrapper has a handful of attributes.
OBJECTS = 2000


def find_handler(application: Any) -> ASGIHandler | None:
    """The handler that ``application`` leads HTTP requests to, or None."""
    waiting = deque([application])
    seen = {id(application)}
    while waiting and len(seen) < OBJECTS:
        found = waiting.popleft()
        # That of staticfiles is a handler, too, and wraps another.
        if isinstance(found, ASGIHandler) and not hasattr(found, "application"):
            return found
        for within in _within(found):
            if id(within) not in seen:
                seen.add(id(within))
                waiting.append(within)
    return None


def describe_handler(application: Any) -> dict[str, Any] | None:
    """Which handler of Django's answers, and what keeps it from being fast.

    None when there is none, or none that could be found.
    """
    handler = find_handler(application)
    if handler is None:
        return None
    kind = type(handler)
    described: dict[str, Any] = {"CLASS": f"{kind.__module__}.{kind.__qualname__}"}
    if isinstance(handler, GroupingHandler):
        described["LEFT_TO_DJANGO"] = handler.left_to_django
    return described


def _within(found: Any) -> Iterator[Any]:
    if isinstance(found, str | bytes | int | float | type | ModuleType):
        return
    if isinstance(found, Mapping):
        yield from found.values()
    elif isinstance(found, list | tuple | set | frozenset):
        yield from found
    elif isinstance(found, MethodType):
        yield found.__self__
    elif isinstance(found, FunctionType):
        for cell in found.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:
                continue  # not filled yet
    yield from getattr(found, "__dict__", {}).values()
