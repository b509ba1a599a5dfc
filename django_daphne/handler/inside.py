"""What a segment can be around, and how a thread says that it needs the loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from .hop import Work

#: Django's requests and responses, or whatever middleware makes of them.
Request = Any
Response = Any


class Away(NamedTuple):
    """What only the loop can do, and how to go on in the thread with its outcome."""

    call: Callable[[], Awaitable[Response]]
    back: Callable[[Response, Exception | None, Work], Response | Away]


class Inside(Protocol):
    """Makes a response of a request, beginning in a thread."""

    def enter(self, request: Request, work: Work) -> Response | Away: ...


class SyncHandler:
    """A handler that is called in the thread."""

    def __init__(self, handler: Callable[[Request], Response]) -> None:
        self._handler = handler

    def enter(self, request: Request, work: Work) -> Response:
        work.step(interruptible=False)
        return self._handler(request)


class AsyncHandler:
    """A handler that is awaited on the loop."""

    def __init__(self, handler: Callable[[Request], Awaitable[Response]]) -> None:
        self._handler = handler

    def enter(self, request: Request, work: Work) -> Away:
        work.step()
        return Away(partial(self._handler, request), _pass_on)


def _pass_on(response: Response, error: Exception | None, work: Work) -> Response:
    if error is not None:
        raise error
    return response


async def fetch(away: Away) -> Callable[[Work], Response | Away]:
    """Do the loop's part; return how to go on in the thread."""
    response = error = None
    try:
        response = await away.call()
    except Exception as raised:
        error = raised
    return partial(away.back, response, error)
