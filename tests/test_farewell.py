"""What clients get of requests that are ended because the server stops."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import unittest
from typing import Any
from unittest import mock

from django_daphne.protocol import http1

from .asgi_apps import hello
from .serving import PATIENCE, Client, Serving, serving

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class BetweenRequests(unittest.TestCase):
    """A connection that is in use has its next request under way, seen or not."""

    def stop(self, server: Serving, client: Client) -> None:
        """Stop ``server``, and ask for more when it no longer takes connections."""
        server.stop()
        with contextlib.suppress(ConnectionError):
            while True:
                server.connect().close()
        answer = client.get()
        self.assertEqual((answer.status, answer.get("Connection")), (200, "close"))
        self.assertTrue(client.ended())
        server.join()

    @mock.patch.object(http1, "LULL", 2 * PATIENCE)
    def test_the_next_request_is_answered(self) -> None:
        settings = {"TIMEOUTS": {"GRACEFUL": 3 * PATIENCE}}
        with serving(hello, settings) as server, server.connect() as client:
            client.get()
            self.stop(server, client)

    @mock.patch.object(http1, "LULL", 2 * PATIENCE)
    def test_the_first_request_is_answered(self) -> None:
        settings = {"TIMEOUTS": {"GRACEFUL": 3 * PATIENCE}}
        with serving(hello, settings) as server, server.connect() as client:
            with server.connect() as other:
                # Whoever connected before one who is answered has been accepted.
                other.get()
            self.stop(server, client)

    def test_a_stop_does_not_wait_for_those_who_ask_for_nothing(self) -> None:
        settings = {"TIMEOUTS": {"GRACEFUL": 100 * PATIENCE}}
        with (
            serving(hello, settings) as server,
            server.connect() as client,
            server.connect() as other,
        ):
            other.get()
            server.stop()
            self.assertTrue(other.ended())
            self.assertTrue(client.ended())
            server.join()


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
