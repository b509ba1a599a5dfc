"""What clients get of requests that are ended because the server stops."""

from __future__ import annotations

import asyncio
import threading
import unittest
from typing import Any

from .serving import PATIENCE, Client, Serving, serving

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Farewell(unittest.TestCase):
    def stopping(self, application: Any, settings: dict[str, Any]) -> Client:
        """A client whose request is under way in a server that has begun to stop."""
        self.heard = threading.Event()

        async def announced(scope: Any, receive: Any, send: Any) -> None:
            self.assertEqual((await receive())["type"], "http.request")
            await application(receive, send, self.heard.set)

        server: Serving = self.enterContext(
            serving(announced, {"LIFESPAN": "off", **settings})
        )
        client: Client = self.enterContext(server.connect())
        client.socket.sendall(REQUEST)
        self.assertTrue(self.heard.wait(PATIENCE))
        server.stop()
        return client

    def test_an_event_stream_before_its_first_event_ends(self) -> None:
        async def application(receive: Any, send: Any, ready: Any) -> None:
            headers = [(b"content-type", b"text/event-stream")]
            await send(
                {"type": "http.response.start", "status": 200, "headers": headers}
            )
            ready()
            self.assertEqual((await receive())["type"], "http.disconnect")

        # Event streams hear of it at once: nothing waits for APPLICATION_CLOSE.
        timeouts = {"GRACEFUL": 3600, "APPLICATION_CLOSE": 1}
        with self.assertNoLogs("django_daphne"):
            answer = self.stopping(application, {"TIMEOUTS": timeouts}).read()
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(answer.get("Content-Type"), "text/event-stream")
        self.assertTrue(answer.complete)

    def test_a_request_that_gives_up_is_unavailable(self) -> None:
        async def application(receive: Any, send: Any, ready: Any) -> None:
            ready()
            self.assertEqual((await receive())["type"], "http.disconnect")

        timeouts = {"GRACEFUL": 60, "APPLICATION_CLOSE": 60}
        with self.assertLogs("django_daphne.server", "WARNING") as logs:
            answer = self.stopping(application, {"TIMEOUTS": timeouts}).read()
        self.assertEqual(answer.status, 503)
        self.assertEqual(
            [record.getMessage() for record in logs.records],
            ["GET / was given up: the server stops"],
        )

    def test_a_request_that_is_cancelled_is_unavailable(self) -> None:
        async def application(receive: Any, send: Any, ready: Any) -> None:
            ready()
            await asyncio.Event().wait()

        timeouts = {"GRACEFUL": 0.1, "APPLICATION_CLOSE": 0}
        with self.assertLogs("django_daphne.server") as logs:
            answer = self.stopping(application, {"TIMEOUTS": timeouts}).read()
        self.assertEqual(answer.status, 503)
        self.assertEqual(
            [record.getMessage() for record in logs.records],
            ["Told that the client has gone: GET /", "Given up, unfinished: GET /"],
        )
