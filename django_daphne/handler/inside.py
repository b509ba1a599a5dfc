"""What a segment can be around, and how a thread says that it needs the loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from asgiref.sync import async_to_sync

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

    #: Whether Django awaits it on the loop, step by step.
    async_mode: bool

    def enter(self, request: Request, work: Work) -> Response | Away: ...


class SyncHandler:
    """A handler that is called in the thread."""

    async_mode = False

    def __init__(self, handler: Callable[[Request], Response]) -> None:
        self._handler = handler

    def enter(self, request: Request, work: Work) -> Response:
        work.step(interruptible=False)
        return self._handler(request)


class AsyncHandler:
    """A handler that is awaited on the loop."""

    async_mode = True

    def __init__(self, handler: Callable[[Request], Awaitable[Response]]) -> None:
        self._handler = handler

    def enter(self, request: Request, work: Work) -> Away:
        work.step()
        return Away(partial(self._handler, request), _pass_on)


def _pass_on(response: Response, error: Exception | None, work: Work) -> Response:
    if error is not None:
        raise error
    return response


def fetch_from_thread(result: Response | Away, work: Work) -> Response:
    """Wait in the thread for whatever ``result`` needs of the loop."""
    while type(result) is Away:
        result = async_to_sync(fetch)(result)(work)
    return result


def go_on(function: Callable[[Work], Response | Away], work: Work) -> Response | Away:
    """What ``function`` comes to, for whoever waits for this thread.

    When nobody does any more, and the thread is in a step after which Django does not
    stop, then it goes on alone, as Django's does.
    """
    result = function(work)
    return fetch_from_thread(result, work) if work.deserted else result


async def fetch(away: Away) -> Callable[[Work], Response | Away]:
    """Do the loop's part; return how to go on in the thread."""
    response = error = None
    try:
        response = await away.call()
    except Exception as raised:
        error = raised
    return partial(away.back, response, error)
