"""The server's time, once a second, over Server-Sent Events.

An asynchronous generator in a StreamingHttpResponse is all there is to an event stream.
When the reader goes away, or the server stops, Django cancels the generator.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from django.core.handlers.asgi import ASGIRequest
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    StreamingHttpResponse,
)
from django.views.decorators.http import require_safe

#: Milliseconds after which a browser that lost the stream comes back.
RETRY = 2000


@require_safe
async def clock(request: HttpRequest) -> HttpResponseBase:
    if not isinstance(request, ASGIRequest):
        # WSGI would collect the whole stream before sending it, and it has no end.
        return HttpResponse("The clock needs ASGI.", status=501)
    return StreamingHttpResponse(
        ticks(),
        content_type="text/event-stream",
        headers={
            "Cache-Control": "no-store",
            # nginx would otherwise save the seconds up.
            "X-Accel-Buffering": "no",
        },
    )


async def ticks() -> AsyncIterator[str]:
    yield f"retry: {RETRY}\n\n"
    while True:
        # The nearest one: timers fire a little early or late.
        second = round(time.time())
        now = datetime.fromtimestamp(second, UTC).isoformat()
        yield f"event: tick\ndata: {json.dumps({'now': now})}\n\n"
        # Not `sleep(1)`, which would be late by a little more every second.
        await asyncio.sleep(second + 1 - time.time())
