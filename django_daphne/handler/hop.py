"""A function's way to a request's thread and back.

:func:`hop` is what asgiref's ``sync_to_async`` is, without what costs time there: one
queue, one future of the loop, one wake-up. What it keeps is all that code in the
thread, and code on the loop beneath it, can see:

- The function runs in a copy of the task's context, and what it sets there is set in
  the task afterwards; ``asgiref.local.Local`` moves along.
- ``async_to_sync`` inside it reaches the loop it came from.
- A task that is cancelled while it waits goes on at once. The thread cannot be stopped;
  where Django would come back to the loop between two steps, the next is not begun
  (:meth:`Work.step`). But where the thread waits itself, in ``async_to_sync``, the task
  that it waits for is cancelled and the rest left to it.

Below an ``async_to_sync`` of somebody else's, a waiting thread does the synchronous
work, and asking any other would deadlock or find other database connections; a context
with an executor, as tests and ``runserver --nothreading`` have, names the thread to
use. In both cases, and with a version of asgiref that we do not know, asgiref itself
makes the hop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from asgiref import local
from asgiref.sync import AsyncToSync, SyncToAsync

from .threads import Worker

_R = TypeVar("_R")

#: What a ``Local`` keeps in a context: its data, and the thread that may see them.
#: Private, hence :data:`.grouping.KNOWN_ASGIREF`.
_Storage: Any = getattr(local, "_Storage", None)

_NOTHING = object()


def _carry_over(context: contextvars.Context) -> None:
    """Set what is set in ``context`` in the present one, for the present thread."""
    thread = threading.get_ident()
    for variable, value in context.items():
        present = variable.get(_NOTHING)
        if type(value) is _Storage:
            if (
                type(present) is _Storage
                and present.data is value.data
                and present.thread_id == thread
            ):
                continue
            variable.set(_Storage(thread, value.data))
        elif present is not value:
            variable.set(value)


class Work:
    """One function's run in a thread; it is given to the function."""

    __slots__ = (
        "_context", "_error", "_finished", "_function", "_interruptible", "_loop",
        "_result", "_stopped", "_tasks", "deserted", "future",
    )  # fmt: skip

    def __init__(
        self,
        function: Callable[[Work], Any],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._function = function
        self._loop = loop
        self._context = contextvars.copy_context()
        self._error: BaseException | None = None
        self._result: Any = None
        self._finished = False
        #: Filled by asgiref: what the thread waits for on the loop.
        self._tasks: list[asyncio.Task[Any]] = []
        #: Nobody waits for the result any more.
        self.deserted = False
        #: Whether the present step is one that Django would await on the loop.
        self._interruptible = True
        #: Nobody waited any more in such a step: there is to be no next.
        self._stopped = False
        if loop is not None:
            self.future: asyncio.Future[None] = loop.create_future()

    def step(self, interruptible: bool = True) -> None:
        """Begin the next step; False: one between which Django does not await.

        :raises asyncio.CancelledError: as a task would at its next ``await``, when
            nobody waits any more.
        """
        if interruptible and self._stopped:
            raise asyncio.CancelledError
        self._interruptible = interruptible

    def desert(self) -> None:
        """Nobody waits any more."""
        self.deserted = True
        self._stopped = self._interruptible

    def done(self) -> bool:
        return self._finished

    # -- In the thread -----------------------------------------------------------------

    def __call__(self) -> None:
        loop = self._loop
        local = SyncToAsync.threadlocal
        local.main_event_loop = loop
        local.main_event_loop_pid = os.getpid()
        local.task_context = self._tasks
        _here.work = self
        context = self._context
        try:
            self._result = context.run(self._enter, context)
        except BaseException as error:
            self._error = error
        _here.work = None
        # A thread remembers what it did last, and must not keep a request by that.
        self._function = _no_function
        self._finished = True
        if self.deserted:
            self._forget()
        assert loop is not None
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(self._wake)

    def _enter(self, context: contextvars.Context) -> Any:
        _carry_over(context)
        return self._function(self)

    def through_asgiref(self) -> Any:
        """The same where asgiref made the hop."""
        # In a thread that waits, there is something that goes on afterwards.
        before, _here.work = _here.work, self
        try:
            return self._function(self)
        finally:
            _here.work = before

    def _forget(self) -> None:
        self._context = _EMPTY
        # An error's traceback leads to its frames, and they here.
        self._error = self._result = None

    # -- On the loop -------------------------------------------------------------------

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    async def wait(self) -> Any:
        """The function's result, in the context that it leaves."""
        try:
            try:
                await self.future
            except asyncio.CancelledError:
                if not self._tasks or self._finished:
                    self.desert()
                    raise
                # Whatever comes of that is in the hands of the thread.
                await _cancel(self._tasks[0])
                self.future = asyncio.get_running_loop().create_future()
                if not self._finished:
                    await self.future
            if self._error is not None:
                raise self._error
            return self._result
        finally:
            # Even of a function that is still running: asgiref does so, too.
            _carry_over(self._context)
            if self._finished:
                self._forget()


_EMPTY = contextvars.Context()


class _Here(threading.local):
    work: Work | None = None


#: What the present thread is doing.
_here = _Here()


def present_work() -> Work:
    """What this thread is doing; in a thread that is not ours, something endless."""
    return _here.work or Work(_no_function)


def _no_function(work: Work) -> None:
    raise NotImplementedError


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def leased_worker() -> Worker | None:
    """The worker that thread-sensitive code has to run in now, if it is one of ours."""
    if getattr(AsyncToSync.executors, "current", None) is not None:
        return None
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context is None:
        return None
    executor = SyncToAsync.context_to_thread_executor.get(context)
    return executor if isinstance(executor, Worker) else None


async def hop(function: Callable[[Work], _R]) -> _R:
    """``function`` run in the thread for thread-sensitive code."""
    worker = leased_worker()
    if worker is not None:
        return await run_in(worker, function)
    work = Work(function)
    try:
        run = SyncToAsync(work.through_asgiref, thread_sensitive=True)
        answer: _R = await run()
        return answer
    except asyncio.CancelledError:
        work.desert()
        raise


async def run_in(worker: Worker, function: Callable[[Work], _R]) -> _R:
    """``function`` run by ``worker``."""
    result: _R = await begin_in(worker, function).wait()
    return result


def begin_in(worker: Worker, function: Callable[[Work], Any]) -> Work:
    """Have ``worker`` run ``function``, when it has done what it was given before."""
    work = Work(function, asyncio.get_running_loop())
    worker.last = work
    worker.put(work)
    return work
