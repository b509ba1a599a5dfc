"""What an orchestrator asks of a server: does it live, and does it want requests.

Both are questions about the server, so no application is asked: one that waits for its
database is no reason to be killed, and a check that runs through a site's middleware
tells how the site is, to everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .context import Receive, Scope, Send

_PLAIN_TEXT = "text/plain; charset=utf-8"

#: Metrics in the format that the ``Accept`` header asks for: content type and text.
Metrics = Callable[[str], tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    content_type: str = _PLAIN_TEXT
    allow: bytes | None = None


class Health:
    """An ASGI application for ``/health/live``, ``/health/ready`` and ``/metrics``.

    ``unready`` says why no requests are wanted, in a word or two, or is None.
    ``metrics`` may be None, where what makes them is not installed.
    """

    def __init__(
        self, unready: Callable[[], str | None], metrics: Metrics | None
    ) -> None:
        self._unready = unready
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        answer = self._answer(scope)
        headers = [
            (b"content-type", answer.content_type.encode("latin-1")),
            (b"cache-control", b"no-store"),
            (b"content-length", b"%d" % len(answer.body)),
        ]
        if answer.allow is not None:
            headers.append((b"allow", answer.allow))
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": headers,
            }
        )
        await send({"type": "http.response.body", "body": answer.body})

    def _answer(self, scope: Scope) -> Answer:
        path = scope["path"]
        if path not in ("/health/live", "/health/ready", "/metrics"):
            return Answer(404, b"Not Found\n")
        if scope["method"] not in ("GET", "HEAD"):
            # RFC 9110 section 15.5.6.
            return Answer(405, b"Method Not Allowed\n", allow=b"GET, HEAD")
        if path == "/health/live":
            return Answer(200, b"alive\n")
        if path == "/health/ready":
            reason = self._unready()
            if reason is None:
                return Answer(200, b"ready\n")
            return Answer(503, f"{reason}\n".encode())
        if self._metrics is None:
            return Answer(501, b"Metrics need: pip install django-daphne[metrics]\n")
        accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
        content_type, text = self._metrics(accept)
        return Answer(200, text, content_type)
