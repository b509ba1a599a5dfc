"""Which middleware run together, and how a request passes them.

Django's asynchronous chain gives each synchronous hook of each middleware a thread hop
of its own. Ours are merged: neighbours of the plain kind, those that have nothing but
hooks, become one :class:`Segment`. On the way in it runs its hooks in one hop, goes on
with what is inside it in the same hop as far as that is synchronous, and runs its hooks
on the way out. What Django makes of a hook that answers early or raises is kept: each
hook stands for a layer, and what a layer raises becomes a response before the next
layer sees it.

The plan is made while Django builds its chain, from the inside out. It asks
``adapt_method_mode`` for each handler in the mode that the next middleware wants; there
we hand out a face of our own, asynchronous (:class:`Segment`) or synchronous
(:class:`Bridge`), behind which the same segment stands. So each middleware exists once,
and has Django's own answer of what it is called in.

What is inside a segment is one of three: the view (:class:`~.view.View`); a synchronous
handler, which is called in the same hop; an asynchronous one, which is awaited on the
loop between two hops.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.handlers import exception
from django.core.handlers.exception import response_for_exception
from django.utils import deprecation
from django.utils.deprecation import MiddlewareMixin

from .hop import Work, hop, present_work
from .inside import (
    AsyncHandler,
    Away,
    Inside,
    Request,
    Response,
    SyncHandler,
    fetch,
    fetch_from_thread,
    go_on,
)
from .origin import is_djangos


class Segment:
    """Neighbouring middleware whose hooks run together, around what is inside.

    It is the asynchronous handler that Django's chain has in the place of theirs.
    """

    def __init__(
        self,
        handler: Callable[[Request], Any],
        middleware: tuple[MiddlewareMixin, ...],
        inside: Inside,
    ) -> None:
        functools.update_wrapper(self, handler, updated=())
        #: The outermost first.
        self.middleware = middleware
        self.inside = inside
        #: For each middleware, whether Django awaits what is within it, step by step,
        #: while it waits itself in one piece.
        modes = [*(each.async_mode for each in middleware), inside.async_mode]
        self._ends_steps = [
            within and not outer for outer, within in itertools.pairwise(modes)
        ]
        markcoroutinefunction(self)

    async def __call__(self, request: Request) -> Response:
        result = await hop(partial(go_on, partial(self.enter, request)))
        while type(result) is Away:
            result = await hop(partial(go_on, await fetch(result)))
        return result

    # -- In a thread -------------------------------------------------------------------

    def enter(self, request: Request, work: Work) -> Response | Away:
        """The response, or what the loop has to do first.

        :raises Exception: where Django lets one through, under
            ``DEBUG_PROPAGATE_EXCEPTIONS``.
        :raises asyncio.CancelledError: when nobody waits for the response any more.
        """
        passed = 0
        for middleware in self.middleware:
            response = None
            if hasattr(middleware, "process_request"):
                work.step(middleware.async_mode)
                try:
                    response = middleware.process_request(request)
                except Exception as error:
                    work.step(middleware.async_mode)
                    return self._leave_with(request, error, passed, work)
            passed += 1
            if response:
                return self._leave(request, response, None, passed, work)
        try:
            response = self.inside.enter(request, work)
        except Exception as error:
            return self._leave(request, None, error, passed, work)
        if type(response) is Away:
            return Away(response.call, partial(self._come_back, request, response.back))
        return self._leave(request, response, None, passed, work)

    def _come_back(
        self,
        request: Request,
        back: Callable[[Response, Exception | None, Work], Response | Away],
        response: Response,
        error: Exception | None,
        work: Work,
    ) -> Response | Away:
        """The loop has done its part of what is inside."""
        try:
            response = back(response, error, work)
        except Exception as raised:
            return self._leave(request, None, raised, len(self.middleware), work)
        if type(response) is Away:
            return Away(response.call, partial(self._come_back, request, response.back))
        return self._leave(request, response, None, len(self.middleware), work)

    def _leave_with(
        self, request: Request, error: Exception, passed: int, work: Work
    ) -> Response:
        """:meth:`_leave` for what the layer after those ``passed`` has raised."""
        try:
            response = response_for_exception(request, error)
        except Exception as raised:
            return self._leave(request, None, raised, passed, work)
        return self._leave(request, response, None, passed, work)

    def _leave(
        self,
        request: Request,
        response: Response,
        error: Exception | None,
        passed: int,
        work: Work,
    ) -> Response:
        """Pass the first ``passed`` middleware on the way out.

        An ``error`` is one that Django would not make a response of: each layer tries.
        """
        for number in range(passed - 1, -1, -1):
            middleware = self.middleware[number]
            if self._ends_steps[number]:
                work.step()
            try:
                if error is not None:
                    raise error
                if hasattr(middleware, "process_response"):
                    work.step(middleware.async_mode)
                    response = middleware.process_response(request, response)
            except Exception as raised:
                work.step(middleware.async_mode)
                try:
                    response = response_for_exception(request, raised)
                    error = None
                except Exception as again:
                    error = again
        if error is not None:
            raise error
        return response


class Bridge:
    """A segment as the synchronous handler that a synchronous middleware calls."""

    def __init__(self, handler: Callable[[Request], Any], segment: Segment) -> None:
        functools.update_wrapper(self, handler, updated=())
        self.segment = segment

    def __call__(self, request: Request) -> Response:
        work = present_work()
        # The thread waits for the loop, as Django's does.
        result = fetch_from_thread(self.segment.enter(request, work), work)
        # Here ends what Django would await, and the middleware goes on.
        work.step()
        work.step(interruptible=False)
        return result


# -- The plan --------------------------------------------------------------------------


def plan(handler: Any, is_async: bool) -> tuple[Segment, str]:
    """The segment that stands for ``handler``, and why it does not reach further in.

    The reason is empty where nothing is lost by it.
    """
    known = segment_behind(handler)
    if known is not None:
        return known, ""
    middleware = getattr(handler, "__wrapped__", None)
    reason = why_apart(handler, middleware)
    if not reason:
        assert isinstance(middleware, MiddlewareMixin)
        within = segment_behind(middleware.get_response)
        assert within is not None
        return Segment(handler, (middleware, *within.middleware), within.inside), ""
    if is_async:
        return Segment(handler, (), AsyncHandler(handler)), reason
    # It runs in the same hop as its neighbours.
    return Segment(handler, (), SyncHandler(handler)), ""


def segment_behind(handler: Any) -> Segment | None:
    if isinstance(handler, Bridge):
        return handler.segment
    return handler if isinstance(handler, Segment) else None


def why_apart(handler: Any, middleware: Any) -> str:
    """Why ``middleware`` cannot be taken for its hooks; empty if it can.

    Its ``__call__`` must be Django's, which calls ``process_request``, the handler that
    it was given, and ``process_response``; and so must be what turns its exceptions
    into responses.
    """
    if not is_djangos(handler, exception):
        return "what makes responses of its exceptions is not Django's"
    if not isinstance(middleware, MiddlewareMixin):
        return "it has an asynchronous form of its own"
    if segment_behind(middleware.get_response) is None:
        return "it does not keep the get_response that it was given"
    for name in ("__call__", "__acall__"):
        own = name in vars(middleware)
        if own or not is_djangos(getattr(type(middleware), name), deprecation):
            return f"it has {name}() of its own"
    for name in ("process_request", "process_response"):
        if iscoroutinefunction(getattr(middleware, name, None)):
            return f"its {name}() is asynchronous"
    return ""
