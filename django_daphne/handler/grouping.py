"""Django's chain of middleware, built of :mod:`segments <.segments>`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import django
from asgiref.sync import SyncToAsync, async_to_sync
from django.core.handlers import base, exception
from django.core.handlers.base import BaseHandler

from .inside import AsyncHandler, Inside
from .origin import is_djangos
from .segments import Bridge, Segment, plan
from .view import View

logger = logging.getLogger("django_daphne.handler")

#: Whose chain and whose hops we have compared with ours. With others Django's own are
#: used until somebody has looked at them.
KNOWN_DJANGO = ((5, 2), (6, 0), (6, 1))
KNOWN_ASGIREF = ((3, 13),)

_told: set[str] = set()


def tell_once(reason: str) -> None:
    """Say in the log why something takes Django's own path; each reason once."""
    if reason not in _told:
        _told.add(reason)
        logger.debug("%s", reason)


def why_unknown() -> str:
    """Why nothing at all can be taken apart; empty if it can."""
    asgiref = tuple(map(int, version("asgiref").split(".")[:2]))
    if asgiref not in KNOWN_ASGIREF:
        return f"asgiref {version('asgiref')} is newer than this version knows"
    if django.VERSION[:2] not in KNOWN_DJANGO:
        return f"Django {django.get_version()} is newer than this version knows"
    return ""


class GroupingHandler(BaseHandler):
    """A handler whose asynchronous chain makes as few hops as its order allows."""

    #: None: the chain is Django's own.
    segment: Segment | None = None

    #: Why something is left to Django, in sentences.
    left_to_django: list[str]

    _grouping = False

    # Django's, which its type hints do not tell.
    _middleware_chain: Any
    _view_middleware: list[Callable[..., Any]]
    _template_response_middleware: list[Callable[..., Any]]
    _get_response_async: Callable[..., Any]

    def load_middleware(self, is_async: bool = False) -> None:
        self.left_to_django = []
        self._view = View(self)
        self._grouping = is_async and self._can_group()
        super().load_middleware(is_async)
        if not self._grouping:
            return
        chain = self._middleware_chain
        self.segment = chain if isinstance(chain, Segment) else None
        self._view.process_view = _before_adapting(self._view_middleware)
        self._view.process_template_response = _before_adapting(
            self._template_response_middleware
        )

    def _can_group(self) -> bool:
        reason = why_unknown()
        if reason:
            self._leave_to_django(f"Django's own handler is used: {reason}.")
        return not reason

    def adapt_method_mode(
        self,
        is_async: bool,
        method: Callable[..., Any],
        method_is_async: bool | None = None,
        debug: bool = False,
        name: str | None = None,
    ) -> Any:
        adapted = super().adapt_method_mode(
            is_async, method, method_is_async, debug, name
        )
        if not self._grouping or method_is_async is None:
            # A hook.
            return adapted
        if getattr(method, "__wrapped__", None) == self._get_response_async:
            segment = Segment(method, (), self._innermost(method))
        else:
            segment, reason = plan(method, method_is_async)
            if reason:
                self._leave_to_django(f"{_name(method)} has hops of its own: {reason}.")
        return segment if is_async else Bridge(method, segment)

    def _innermost(self, handler: Callable[..., Any]) -> Inside:
        reason = ""
        if not is_djangos(type(self)._get_response_async, base):
            reason = "BaseHandler._get_response_async() is not Django's"
        if not is_djangos(handler, exception):
            reason = "what makes responses of its exceptions is not Django's"
        if not reason:
            return self._view
        self._leave_to_django(f"Views are called by Django: {reason}.")
        return AsyncHandler(handler)

    def _leave_to_django(self, reason: str) -> None:
        self.left_to_django.append(reason)
        tell_once(reason)


def _name(handler: Any) -> str:
    middleware = getattr(handler, "__wrapped__", handler)
    named = middleware if hasattr(middleware, "__qualname__") else type(middleware)
    return f"{named.__module__}.{named.__qualname__}"


def _before_adapting(hooks: Sequence[Callable[..., Any]]) -> list[Callable[..., Any]]:
    """``hooks`` as a thread can call them.

    An asynchronous one runs on the loop, and the thread waits.
    """
    return [
        hook.func if isinstance(hook, SyncToAsync) else _called_from_thread(hook)
        for hook in hooks
    ]


def _called_from_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    adapted = async_to_sync(hook)
    return adapted
