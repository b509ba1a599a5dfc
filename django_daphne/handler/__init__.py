"""Django's ASGI handler, at the price of WSGI.

:class:`Handler` *is* Django's ``ASGIHandler``: it builds the same chain of the same
middleware and answers with the same responses. What it does differently is where things
run. Django crosses between the loop and a thread for every synchronous hook, and starts
threads for each request. Here

- :mod:`~.grouping` and :mod:`~.segments` plan, once, which hooks run together;
- :mod:`~.exchange` takes one request through the plan, in as few hops as it can;
- :mod:`~.hop` is the way to the request's thread and back, :mod:`~.threads` has the
  threads;
- :mod:`~.view` is the innermost handler, in two halves;
- :mod:`~.own_context` keeps a request's context from its caller, as a task would;
- :mod:`~.body` and :mod:`~.outgoing` are what comes in first and goes out last.

What cannot be shown to be the same — a middleware with an asynchronous form of its
own, a function of Django's that somebody has replaced — is called as Django calls it,
and the logger ``django_daphne.handler`` says so once, at DEBUG.
"""

from __future__ import annotations

from typing import IO, Any

from asgiref.sync import SyncToAsync
from django.core.exceptions import RequestAborted
from django.core.handlers import asgi, base
from django.core.handlers.asgi import ASGIHandler

from .body import read_body
from .exchange import ANSWERS_IN_A_CHILD_TASK, Exchange, Receive, alone
from .grouping import GroupingHandler
from .origin import is_djangos
from .outgoing import Send
from .own_context import in_own_context


class Handler(GroupingHandler, ASGIHandler):
    """Answers HTTP requests as Django's ``ASGIHandler`` does, at less cost.

    A request has one thread for all that is synchronous in it, from a pool of threads
    that live on. ``WORKER["THREADS"]`` limits them, and with them the requests that
    Django answers at the same time; more wait their turn.
    """

    async def __call__(
        self, scope: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        enclosing = SyncToAsync.thread_sensitive_context.get(None)
        token = alone.set(enclosing is None)
        try:
            await super().__call__(scope, receive, send)
        finally:
            alone.reset(token)

    async def handle(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if self.segment is None:
            await super().handle(scope, receive, send)
            return
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        answering = Exchange(self, scope, receive, send, body).run()
        if ANSWERS_IN_A_CHILD_TASK:
            # Whoever called sees nothing of what a view sets.
            await in_own_context(answering)
        else:
            await answering

    async def read_body(self, receive: Receive) -> IO[bytes]:
        if self.segment is None:
            body: IO[bytes] = await super().read_body(receive)
            return body
        return await read_body(receive)

    @property
    def answers_as_django(self) -> bool:
        """Whether what leads from a request to the chain's response is Django's."""
        return is_djangos(type(self).get_response_async, base) and is_djangos(
            type(self).run_get_response, asgi
        )

    @property
    def sends_as_django(self) -> bool:
        """Whether what sends a response is Django's."""
        return is_djangos(type(self).send_response, asgi)
