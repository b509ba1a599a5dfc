"""Django's own handler on this server: what it cleans up when clients leave."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.core.asgi import get_asgi_application
from django.core.signals import request_finished, request_started
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    StreamingHttpResponse,
)
from django.test import SimpleTestCase, override_settings
from django.urls import path

from .serving import Client, Serving, serving
from .test_asgi import Happening

#: What the views tell of one test; each test makes them anew.
began = Happening()
closed = Happening()
ended = Happening()

PIECE = bytes(64 * 1024)


class Streaming(StreamingHttpResponse):
    def close(self) -> None:
        super().close()
        closed.tell()


def stream_sync(request: HttpRequest) -> HttpResponseBase:
    def pieces() -> Iterator[bytes]:
        began.tell()
        for _ in range(1000):
            yield PIECE

    return Streaming(pieces())


async def stream_async(request: HttpRequest) -> HttpResponseBase:
    async def pieces() -> AsyncIterator[bytes]:
        began.tell()
        try:
            while True:
                yield PIECE
        finally:
            ended.tell()

    return Streaming(pieces())


async def stream_quietly(request: HttpRequest) -> HttpResponseBase:
    """Like an event stream: nearly always it waits, and does not send."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        began.tell()
        try:
            await asyncio.sleep(1000)
        finally:
            ended.tell()

    return Streaming(pieces(), content_type="text/event-stream")


async def think(request: HttpRequest) -> HttpResponseBase:
    began.tell()
    try:
        await asyncio.sleep(1000)
    finally:
        ended.tell()
    return HttpResponse()


def file(request: HttpRequest) -> HttpResponseBase:
    return FileResponse(open(__file__, "rb"))


def upload(request: HttpRequest) -> HttpResponseBase:
    return HttpResponse(str(len(request.body)))


def fail(request: HttpRequest) -> HttpResponseBase:
    raise ZeroDivisionError("a view that fails")


urlpatterns = [
    path("sync", stream_sync),
    path("async", stream_async),
    path("quiet", stream_quietly),
    path("think", think),
    path("file", file),
    path("upload", upload),
    path("fail", fail),
]


@override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[])
class DjangoTests(SimpleTestCase):
    def begin(self) -> None:
        global began, closed, ended
        began, closed, ended = Happening(), Happening(), Happening()
        self.finished = Happening()
        self.signals: list[str] = []

    def setUp(self) -> None:
        # It sets Django's logging up anew, and with it takes away what a test added.
        self.application = get_asgi_application()
        self.begin()
        self.enterContext(warnings.catch_warnings())
        # That it reads the whole of a synchronous iterator first is well known here.
        warnings.filterwarnings("ignore", ".*must consume synchronous iterators")

        def on_started(**kwargs: Any) -> None:
            self.signals.append("started")

        def on_finished(**kwargs: Any) -> None:
            self.signals.append("finished")
            self.finished.tell()

        request_started.connect(on_started)
        request_finished.connect(on_finished)
        self.addCleanup(request_started.disconnect, on_started)
        self.addCleanup(request_finished.disconnect, on_finished)

    def serve(self) -> Any:
        return serving(self.application)

    def leave(self, server: Serving, target: str, how: Any, after: bytes) -> None:
        client = server.connect()
        client.request(target)
        client.read_until(after)
        began.wait()
        how(client)

    def check_cleaned_up(self, target: str, after: bytes = b"\r\n\r\n") -> None:
        """The response is closed and the signal sent, and nobody calls it an error."""
        for how in (Client.close, Client.vanish):
            self.begin()
            with (
                self.assertNoLogs("django_daphne.server", logging.WARNING),
                self.assertNoLogs("django.request", logging.WARNING),
                self.serve() as server,
            ):
                self.leave(server, target, how, after)
                closed.wait()
                self.finished.wait()
                with server.connect() as client:
                    self.assertEqual(client.get("/file").status, 200)
                server.stop()
                server.join()
            self.assertEqual(self.signals, ["started", "finished"] * 2)

    def test_leaving_a_synchronous_stream(self) -> None:
        self.check_cleaned_up("/sync")

    def test_leaving_an_asynchronous_stream(self) -> None:
        self.check_cleaned_up("/async")

    def test_leaving_a_quiet_stream(self) -> None:
        self.check_cleaned_up("/quiet", after=b"data: 1\n\n")

    def test_leaving_before_the_answer(self) -> None:
        for how in (Client.close, Client.vanish):
            self.begin()
            with (
                self.assertNoLogs("django_daphne.server", logging.WARNING),
                self.serve() as server,
            ):
                client = server.connect()
                client.request("/think")
                began.wait()
                how(client)
                ended.wait()
                self.finished.wait()

    def test_leaving_inside_an_upload(self) -> None:
        with (
            self.assertNoLogs("django_daphne.server", logging.WARNING),
            self.serve() as server,
        ):
            client = server.connect()
            client.request("/upload", "POST", "Content-Length: 1000")
            client.send(b"x" * 500)
            client.vanish()
            with server.connect() as other:
                other.request("/upload", "POST", body=b"x" * 1000)
                self.assertEqual(other.read().body, b"1000")

    def test_streams_that_are_read_to_their_end(self) -> None:
        with self.serve() as server, server.connect() as client:
            answer = client.get("/sync")
            self.assertEqual(len(answer.body), 1000 * len(PIECE))
            self.assertTrue(answer.complete)
            closed.wait()
            answer = client.get("/file")
            with open(__file__, "rb") as source:
                self.assertEqual(answer.body, source.read())

    def test_head(self) -> None:
        with self.serve() as server, server.connect() as client:
            client.request("/file", "HEAD")
            answer = client.read("HEAD")
            self.assertIsNotNone(answer.get("Content-Length"))
            self.assertEqual(client.get("/file").status, 200)

    def test_a_view_that_fails_is_djangos_business(self) -> None:
        with (
            self.assertNoLogs("django_daphne.server", logging.WARNING),
            self.assertLogs("django.request", logging.ERROR),
            self.serve() as server,
            server.connect() as client,
        ):
            self.assertEqual(client.get("/fail").status, 500)
            self.assertEqual(client.get("/file").status, 200)

    def test_a_stop_ends_event_streams_in_order(self) -> None:
        with self.serve() as server, server.connect() as client:
            client.request("/quiet")
            client.read_until(b"data: 1\n\n")
            server.stop()
            self.assertTrue(client.read_until(b"0\r\n\r\n"))
            server.join()
            closed.wait()
            self.finished.wait()
