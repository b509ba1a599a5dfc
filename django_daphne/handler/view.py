"""The innermost handler: from resolving the path to the rendered response.

This is Django's ``BaseHandler._get_response_async`` for somebody who is in a thread
already. What is synchronous in it is called, one after the other; where an asynchronous
view, or the ``render`` of its response, has to run, the thread says so by an
:class:`~.inside.Away`, and is told afterwards what came of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from django.core.handlers import base
from django.core.handlers.exception import response_for_exception

from .hop import Work
from .inside import Away, Request, Response

#: As Django sees it: asgiref's before 6.0, Python's since.
iscoroutinefunction: Callable[[Any], bool] = vars(base)["iscoroutinefunction"]


class View:
    """Resolves and calls the view of a request, with the hooks that belong to it."""

    #: The hooks ``process_view`` and ``process_template_response`` of the chain, as
    #: they are before Django makes them asynchronous; set once it is built.
    process_view: Sequence[Callable[..., Response]] = ()
    process_template_response: Sequence[Callable[..., Response]] = ()

    async_mode = True

    def __init__(self, handler: base.BaseHandler) -> None:
        self._handler = handler

    def enter(self, request: Request, work: Work) -> Response | Away:
        try:
            return self._begin(request, work)
        except Exception as error:
            work.step()
            return response_for_exception(request, error)

    def _begin(self, request: Request, work: Work) -> Response | Away:
        handler = self._handler
        callback, args, kwargs = handler.resolve_request(request)
        response = None
        for process_view in self.process_view:
            work.step()
            response = process_view(request, callback, args, kwargs)
            if response:
                break
        if response is None:
            view: Any = handler.make_view_atomic(callback)
            work.step()
            if iscoroutinefunction(view):
                return Away(
                    partial(view, request, *args, **kwargs),
                    partial(self._viewed, request, callback),
                )
            try:
                response = view(request, *args, **kwargs)
            except Exception as error:
                response = self._excuse(request, error, work)
        return self._render(request, callback, response, work)

    def _viewed(
        self,
        request: Request,
        callback: Callable[..., Any],
        response: Response,
        error: Exception | None,
        work: Work,
    ) -> Response | Away:
        """An asynchronous view has ended."""
        render = partial(self._render, request, callback, work=work)
        return self._resume(request, response, error, work, render)

    def _render(
        self,
        request: Request,
        callback: Callable[..., Any],
        response: Response,
        work: Work,
    ) -> Response | Away:
        handler = self._handler
        handler.check_response(response, callback)
        if not (hasattr(response, "render") and callable(response.render)):
            return response
        for hook in self.process_template_response:
            work.step()
            response = hook(request, response)
            middleware = hook.__self__.__class__.__name__  # type: ignore[attr-defined]
            handler.check_response(
                response, hook, name=f"{middleware}.process_template_response"
            )
        work.step()
        if iscoroutinefunction(response.render):
            return Away(response.render, partial(self._rendered, request))
        try:
            response = response.render()
        except Exception as error:
            response = self._excuse(request, error, work)
        return _complete(response)

    def _rendered(
        self,
        request: Request,
        response: Response,
        error: Exception | None,
        work: Work,
    ) -> Response | Away:
        """An asynchronous ``render`` has ended."""
        return self._resume(request, response, error, work, _complete)

    def _resume(
        self,
        request: Request,
        response: Response,
        error: Exception | None,
        work: Work,
        finish: Callable[[Response], Response | Away],
    ) -> Response | Away:
        """What was awaited has ended: ``finish`` its response, or the error's."""
        try:
            if error is not None:
                try:
                    raise error
                except Exception as raised:
                    response = self._excuse(request, raised, work)
            return finish(response)
        except Exception as raised:
            work.step()
            return response_for_exception(request, raised)

    def _excuse(self, request: Request, error: Exception, work: Work) -> Response:
        """The answer of a ``process_exception``; without one ``error`` goes on.

        To be called where ``error`` is being handled.
        """
        work.step()
        response = self._handler.process_exception_by_middleware(error, request)
        if response is None:
            raise error
        return response


def _complete(response: Response) -> Response:
    if asyncio.iscoroutine(response):
        raise RuntimeError("Response is still a coroutine.")
    return response
