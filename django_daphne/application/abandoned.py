"""Applications that go on after their client has left.

What they do is for nobody, and what a WebSocket's sends is dropped in silence until it
has received the disconnect; one that never receives would never learn of it. Under
Daphne each has some seconds to end, and where the configuration says so, here too.
"""

from __future__ import annotations

import asyncio

from .context import Context, Scope, server_log
from .scope import path_as_sent


def end_abandoned(context: Context, task: asyncio.Task[None], scope: Scope) -> None:
    """Cancel ``task``, whose client has just left, if it does not end in time."""
    seconds = context.config.abandoned
    if seconds is None or task.done():
        return

    def expired() -> None:
        server_log.warning(
            "The application did not end within %g seconds of its client's leaving %s; "
            "it is cancelled",
            seconds,
            path_as_sent(scope),
        )
        task.cancel()

    timer = context.loop.call_later(seconds, expired)
    task.add_done_callback(lambda task: timer.cancel())
