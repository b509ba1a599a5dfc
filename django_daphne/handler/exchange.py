"""One request and its response, between the loop and the request's thread.

The first hop does all that is synchronous up to where the loop is needed: signals, the
request object, middleware, the view, and with a synchronous view the whole way out,
``close()`` included where that cannot be told from closing after sending. An
asynchronous view costs a second hop, what is sent piece by piece another for closing.

A client that goes away is heard by a task of its own, which cancels the request's, as
Django does; a function that runs in the thread finishes, and what would come after it
is dropped. However a request ends, it is closed once, in its thread: by ``close()`` of
its response, or by ``request_finished`` where there is none. What comes last for a
thread comes last in its queue, so nobody has to wait for it who is cancelled.
"""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import IO, TYPE_CHECKING, Any

import django
from asgiref.sync import AsyncToSync, SyncToAsync
from django.conf import settings
from django.core import signals
from django.core.handlers.asgi import ASGIRequest, get_script_prefix
from django.dispatch import Signal
from django.http import FileResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix, set_urlconf
from django.utils.log import log_response

from ..conf import get_config
from .grouping import tell_once
from .hop import Work, begin_in, hop, run_in
from .inside import Away, Response, fetch, go_on
from .outgoing import (
    Message,
    Send,
    body_message,
    head_of,
    is_plain_file,
    path_of,
    send_file,
    send_iterated,
)
from .threads import Worker, threads

if TYPE_CHECKING:
    from . import Handler

Receive = Callable[[], Awaitable[Message]]

#: Before 6.1 Django answers in a task of its own, and closes in the context that was
#: there before.
ANSWERS_IN_A_CHILD_TASK = django.VERSION < (6, 1)

#: Seconds before anybody listens for the client's going. A task for it costs a third of
#: what a short request does, which is answered by then.
LISTEN_AFTER: float = 0.1

#: Whether the thread-sensitive context that a request is in was made for it alone.
alone: contextvars.ContextVar[bool] = contextvars.ContextVar("alone", default=False)


class Exchange:
    """What :class:`~.Handler` does for one request whose body is complete."""

    __slots__ = (
        "_armed", "_before", "_body", "_cancelled", "_closed", "_disconnected",
        "_handler", "_head", "_listener", "_parts", "_path", "_receive", "_request",
        "_response", "_scope", "_send", "_surprise", "_task", "_worker",
    )  # fmt: skip

    def __init__(
        self,
        handler: Handler,
        scope: dict[str, Any],
        receive: Receive,
        send: Send,
        body: IO[bytes],
    ) -> None:
        self._handler = handler
        self._scope = scope
        self._receive = receive
        self._send = send
        self._body = body
        #: The request's thread; None: asgiref knows where to go.
        self._worker: Worker | None = None
        self._request: ASGIRequest | None = None
        self._response: Any = None
        self._closed = False
        #: The context in which the response is closed; None: the present one.
        self._before: contextvars.Context | None = None
        self._head: Message | None = None
        self._parts: Iterable[tuple[bytes, bool]] | None = None
        self._path: str | None = None
        #: The client's going ends what the request's task does.
        self._armed = True
        #: It has, in other words: we cancelled the task.
        self._cancelled = False
        #: The client has gone, as far as we know.
        self._disconnected = False
        #: What is raised when all has been done.
        self._surprise: Exception | None = None
        self._listener: asyncio.TimerHandle | asyncio.Task[None]

    async def run(self) -> None:
        """Answer, and close whatever was opened."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._expect_client()
        try:
            try:
                self._worker = await self._lease()
            except asyncio.CancelledError:
                if not self._cancelled or task.uncancel():
                    raise
                # Its client has not waited for a thread.
                return
            await self._run()
        finally:
            self._armed = False
            self._listener.cancel()
            if self._worker is not None:
                self._give_back(self._worker)
            elif self._request is None:
                self._body.close()
        if self._surprise is not None:
            raise self._surprise

    async def _run(self) -> None:
        try:
            try:
                await self._answer()
            finally:
                self._armed = False
                if self._cancelled:
                    self._task.uncancel()
        except asyncio.CancelledError:
            if not self._cancelled or self._task.cancelling():
                await self._close_unattended()
                raise
        except BaseException as error:
            await self._close()
            # A server says by an OSError that the client has gone.
            if not self._disconnected or not isinstance(error, OSError):
                raise
        await self._close()

    # -- The client --------------------------------------------------------------------

    def _expect_client(self) -> None:
        """Begin to listen, unless the request is answered before."""
        loop = asyncio.get_running_loop()
        if LISTEN_AFTER:
            self._listener = loop.call_later(LISTEN_AFTER, self._begin_listening)
        else:
            self._begin_listening()

    def _begin_listening(self) -> None:
        self._listener = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        try:
            message = await self._receive()
        except Exception as error:
            self._surprise = error
        else:
            if message["type"] != "http.disconnect":
                self._surprise = AssertionError(
                    f"Invalid ASGI message after request body: {message['type']}"
                )
        self._disconnected = True
        if self._armed:
            self._armed = False
            self._cancelled = True
            self._task.cancel()

    # -- The thread --------------------------------------------------------------------

    async def _lease(self) -> Worker | None:
        """The thread of this request, unless somebody else has one for it.

        asgiref finds it through the thread-sensitive context.
        """
        if not alone.get() or getattr(AsyncToSync.executors, "current", None):
            tell_once(
                "Requests run where the code that calls the application has threads "
                "for them: it is inside async_to_sync or a thread-sensitive context."
            )
            return None
        worker = await threads.lease(get_config().worker.threads)
        context = SyncToAsync.thread_sensitive_context.get()
        SyncToAsync.context_to_thread_executor[context] = worker
        return worker

    def _give_back(self, worker: Worker) -> None:
        # A task that outlives its request gets a thread of its own, as under Django.
        context = SyncToAsync.thread_sensitive_context.get()
        SyncToAsync.context_to_thread_executor.pop(context, None)
        threads.give_back(worker)

    async def _hop(self, function: Callable[[Work], Any]) -> Any:
        if self._worker is None:
            return await hop(function)
        return await run_in(self._worker, function)

    # -- Answering, on the loop --------------------------------------------------------

    async def _answer(self) -> None:
        handler = self._handler
        started = _has_async(signals.request_started)
        if started:
            tell_once("Asynchronous receivers of request_started are called apart.")
            set_script_prefix(get_script_prefix(self._scope))
            await signals.request_started.asend(sender=type(handler), scope=self._scope)
        whole = handler.answers_as_django
        result = await self._hop(partial(self._begin, not started, whole))
        while type(result) is Away:
            result = await self._hop(partial(self._take, await fetch(result)))
        if self._response is None:
            tell_once("BaseHandler.get_response_async() was replaced, and is called.")
            assert self._request is not None
            response = await handler.run_get_response(self._request)
            self._response = response
            if handler.sends_as_django:
                self._prepare(response)
        if self._closed and self._worker is not None:
            # Nothing is left for the thread to do, however slow the client is.
            worker, self._worker = self._worker, None
            self._give_back(worker)
        await self._deliver()

    async def _deliver(self) -> None:
        send, response = self._send, self._response
        if self._parts is not None:
            assert self._head is not None
            await send(self._head)
            for part, last in self._parts:
                if last:
                    self._armed = False
                await send(body_message(part, not last))
        elif self._path is not None:
            assert self._head is not None
            await send_file(self._head, self._path, send)
        elif self._head is not None:
            await send_iterated(
                self._head, response, self._handler.chunk_size, self._send_to_the_end
            )
        else:
            await self._handler.send_response(response, self._send_to_the_end)

    async def _send_to_the_end(self, message: Message) -> None:
        """``send``, after whose last message the client may go."""
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._armed = False
        await self._send(message)

    # -- Answering, in the thread ------------------------------------------------------

    def _begin(self, start: bool, whole: bool, work: Work) -> Away | None:
        handler, scope = self._handler, self._scope
        if start:
            set_script_prefix(get_script_prefix(scope))
            signals.request_started.send(sender=type(handler), scope=scope)
        request, refusal = handler.create_request(scope, self._body)
        if request is None:
            self._response = refusal
            self._prepare(refusal)
            return None
        self._request = request
        if ANSWERS_IN_A_CHILD_TASK:
            self._before = contextvars.copy_context()
        if not whole:
            return None
        set_urlconf(settings.ROOT_URLCONF)
        assert handler.segment is not None
        return self._take(partial(handler.segment.enter, request), work)

    def _take(
        self, answer: Callable[[Work], Response | Away], work: Work
    ) -> Away | None:
        """What Django does with the response of its chain, if that is what it gets."""
        response = go_on(answer, work)
        if isinstance(response, Away):
            return response
        request, handler = self._request, self._handler
        assert request is not None
        response._resource_closers.append(request.close)
        response._handler_class = type(handler)
        self._response = response
        if work.deserted:
            raise asyncio.CancelledError
        if response.status_code >= 400:
            log_response(
                "%s: %s",
                response.reason_phrase,
                request.path,
                response=response,
                request=request,
            )
        if isinstance(response, FileResponse):
            response.block_size = handler.chunk_size
        if handler.sends_as_django:
            self._prepare(response)
            if self._closes_unseen(response):
                if self._before is None:
                    # What is sent is sent in the context that was there before.
                    self._before = contextvars.copy_context()
                try:
                    self._finish(work)
                except Exception as error:
                    # It would have come after the response, and does.
                    self._surprise = error
        return None

    def _prepare(self, response: Response) -> None:
        """Find out how ``response`` is to be sent, and encode what there is of it."""
        if not response.streaming:
            self._head = head_of(response)
            # Cut when it is sent: a large response need not be there twice.
            chunks: Any = self._handler.chunk_bytes(response.content)
            self._parts = chunks
        elif (
            not response.is_async
            and type(response).__aiter__ is StreamingHttpResponse.__aiter__
        ):
            self._head = head_of(response)
            self._path = path_of(response, self._scope.get("extensions"))

    # -- Closing -----------------------------------------------------------------------

    def _closes_unseen(self, response: Response) -> bool:
        """Whether nobody could tell if ``response`` is closed before it is sent."""
        if self._parts is not None:
            resources = 1
        elif self._path is not None and is_plain_file(response.file_to_stream):
            # The server opens the file itself.
            resources = 2
        else:
            return False
        return (
            len(response._resource_closers) == resources
            and type(response).close is HttpResponseBase.close
            and "close" not in vars(response)
            and self._handler.request_class.close is ASGIRequest.close
            and "close" not in vars(self._request)
            # Their files are deleted, and may be what is sent.
            and not getattr(self._request, "_files", None)
            and _has_only_djangos(signals.request_finished)
        )

    async def _close(self) -> None:
        if not self._closed:
            await self._hop(self._finish)

    async def _close_unattended(self) -> None:
        """:meth:`_close` for a task that is cancelled and has no time."""
        if self._worker is None:
            await self._close()
        else:
            begin_in(self._worker, self._finish)

    def _finish(self, work: Work) -> None:
        """Close the response, or end a request that has none; once."""
        if self._closed:
            return
        self._closed = True
        if self._response is None:
            close = partial(signals.request_finished.send, sender=type(self._handler))
        else:
            close = self._response.close
        try:
            if self._before is None:
                close()
            else:
                self._before.run(close)
        finally:
            self._body.close()


def _has_async(signal: Signal) -> bool:
    return any(receiver[-1] for receiver in signal.receivers)


def _has_only_djangos(signal: Signal) -> bool:
    for entry in signal.receivers:
        receiver = entry[1]
        if isinstance(receiver, weakref.ReferenceType):
            receiver = receiver()
        module = getattr(receiver, "__module__", None) or ""
        if receiver is not None and not module.startswith("django."):
            return False
    return True
