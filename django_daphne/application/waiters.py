"""Tasks that wait for something to happen to a stream.

An ``asyncio.Event`` for the many streams that nobody ever waits on: no object exists
until somebody waits, and waiting is safe against cancellation, because what is waited
for is looked up after waking and never handed over in the future itself.
"""

from __future__ import annotations

import asyncio


class Waiters:
    """Futures of the tasks that wait; :meth:`wake` wakes them all."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: list[asyncio.Future[None]] = []

    def __bool__(self) -> bool:
        return bool(self._futures)

    async def wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Return after the next :meth:`wake`; check what you waited for again."""
        future = loop.create_future()
        self._futures.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future in self._futures:
                self._futures.remove(future)
            raise

    def wake(self) -> None:
        futures, self._futures = self._futures, []
        for future in futures:
            if not future.done():
                future.set_result(None)
