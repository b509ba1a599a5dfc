"""The threads that requests are leased, one each, for as long as they last.

Django keeps things in threads, database connections first, and so do middleware and
views. So a request has one thread from its first synchronous call to its last, and
gives it back only then: given back in between, what one user's request left in it would
be found by another's. Threads live on between requests, as under WSGI, and the one that
was given back last is taken first: a few stay warm, with their connections, and those
that nobody has wanted for a while close theirs and end.

Nothing is gained by a cap unless it is asked for. Most synchronous views wait, for a
database or for somebody else's service, and a request that waits for a thread waits
behind requests that wait.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import ParamSpec, Protocol, TypeVar

from django.db import connections

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Seconds after which a thread that no request has wanted ends: longer than the lulls
#: of a site that is in use, and than most of what sets ``CONN_MAX_AGE``.
IDLE = 120.0

#: What threads get to close their connections when the process exits.
LAST_MOMENTS = 1.0

_numbers = itertools.count(1)


class Doing(Protocol):
    """Something that a worker was given to do."""

    def done(self) -> bool: ...


class _Call:
    """A call that was submitted; what came of it is no business of ours."""

    __slots__ = ("over",)

    def __init__(self, over: bool = False) -> None:
        self.over = over

    def done(self) -> bool:
        return self.over


_NOTHING = _Call(over=True)


class Worker(Executor):
    """A thread, and an executor that runs everything in it, in turn.

    asgiref uses it as the executor of a thread-sensitive context; our own hops
    (:mod:`.hop`) put their work into it directly.
    """

    def __init__(self, pool: Threads) -> None:
        self._pool = pool
        queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._get = queue.get
        #: Puts a callable behind those that wait; it must not raise.
        self.put = queue.put
        #: What was given to it last, which is done when all is.
        self.last: Doing = _NOTHING
        # Not joined at exit: a view that never ends would keep the process from it.
        self.thread = threading.Thread(
            # In a context of its own, whatever Python's threads inherit.
            target=contextvars.Context().run,
            args=(self._work,),
            name=f"django-daphne-{next(_numbers)}",
            daemon=True,
        )
        self.thread.start()

    def submit(
        self, fn: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_R]:
        future: Future[_R] = Future()
        call = _Call()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                call.over = True
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                call.over = True
                future.set_exception(error)
            else:
                call.over = True
                future.set_result(result)

        self.last = call
        self.put(run)
        return future

    def end(self) -> None:
        """End the thread once it has done what it was given."""
        self.put(None)

    def _work(self) -> None:
        get = self._get
        try:
            while True:
                try:
                    job = get(timeout=IDLE)
                except Empty:
                    if self._pool.retire(self):
                        return
                    continue
                if job is None:
                    return
                job()
                # Nothing of a request is kept while the thread waits for the next.
                del job
        finally:
            # Only this thread can close what it opened.
            connections.close_all()


class Threads:
    """Leases workers; any thread may call it."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, in a forked process: the threads have stayed behind."""
        self._lock = threading.Lock()
        #: The one that came back last is the last.
        self._idle: list[Worker] = []
        #: All that live, leased or idle.
        self._count = 0
        self._waiting: deque[
            tuple[asyncio.AbstractEventLoop, asyncio.Future[Worker]]
        ] = deque()

    async def lease(self, cap: int | None) -> Worker:
        """A worker that is nobody else's until :meth:`give_back`.

        With ``cap`` workers in existence it is waited for, first come, first served.
        """
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if cap is None or self._count < cap:
                # Where no thread can be started, none counts.
                worker = Worker(self)
                self._count += 1
                return worker
            loop = asyncio.get_running_loop()
            future: asyncio.Future[Worker] = loop.create_future()
            self._waiting.append((loop, future))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give_back(future.result())
            raise

    def give_back(self, worker: Worker) -> None:
        """End a lease, once the worker has done what it was given.

        A view may be running whose client has gone, or something that a task does which
        a view has left behind.
        """
        if worker.last.done():
            self._take_back(worker)
        else:
            worker.put(lambda: self._take_back(worker))

    def _take_back(self, worker: Worker) -> None:
        with self._lock:
            while self._waiting:
                loop, future = self._waiting.popleft()
                with contextlib.suppress(RuntimeError):  # a loop that was closed
                    loop.call_soon_threadsafe(self._hand_over, future, worker)
                    return
            self._idle.append(worker)

    def _hand_over(self, future: asyncio.Future[Worker], worker: Worker) -> None:
        if future.done():
            # Whoever waited has gone.
            self._take_back(worker)
        else:
            future.set_result(worker)

    def retire(self, worker: Worker) -> bool:
        """Whether ``worker``, which has waited long, may end."""
        with self._lock:
            if worker not in self._idle:
                return False
            self._idle.remove(worker)
            self._count -= 1
            return True

    def close(self) -> None:
        """End every idle thread, which closes its connections; wait a moment for it."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._count -= len(idle)
        for worker in idle:
            worker.end()
        for worker in idle:
            worker.thread.join(LAST_MOMENTS)

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def count(self) -> int:
        return self._count


threads = Threads()

atexit.register(threads.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=threads.forget)
