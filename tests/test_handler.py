"""Our Django handler: threads, bodies, streams, files, and what it leaves to Django.

That it does what Django's does is the matter of ``test_handler_differential`` and
``django_suite``; here is what it does of its own accord.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import gzip
import io
import logging
import os
import tempfile
import threading
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import django
from asgiref.local import Local
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.files.base import File
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.base import BaseHandler
from django.core.signals import request_finished, request_started
from django.db import connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import SimpleTestCase, override_settings
from django.urls import path
from django.utils import timezone
from django.utils.decorators import sync_and_async_middleware

from django_daphne.asgi import get_asgi_application
from django_daphne.handler import Handler, grouping, outgoing
from django_daphne.handler.outgoing import path_of
from django_daphne.handler.search import describe_handler, find_handler
from django_daphne.handler.threads import Threads, threads
from django_daphne.server import sendfile

from . import test_asgi_django
from .serving import PATIENCE, serving
from .test_tls import eventually

LOG = "django_daphne.handler"

Message = dict[str, Any]

LARGE = bytes(range(256)) * 4096


class Exchange:
    """One request to a handler, by hand."""

    def __init__(self, target: str, *body: bytes, extensions: Any = None) -> None:
        self.scope: Message = {
            "type": "http",
            "method": "POST" if body else "GET",
            "path": target,
            "query_string": b"",
            "headers": [(b"host", b"testserver")],
            "extensions": extensions or {},
        }
        self.sent: list[Message] = []
        #: What :data:`variable` was where something was sent.
        self.seen: set[str] = set()
        self.gone = asyncio.Event()
        self.may_send = asyncio.Event()
        self.may_send.set()
        pieces = body or (b"",)
        self._body = [
            {
                "type": "http.request",
                "body": piece,
                "more_body": piece is not pieces[-1],
            }
            for piece in pieces
        ]

    async def receive(self) -> Message:
        if self._body:
            return self._body.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.seen.add(variable.get())
        self.sent.append(message)
        await self.may_send.wait()

    async def run(self, handler: Any) -> Exchange:
        await handler(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def fetch(handler: Any, target: str, *body: bytes, **options: Any) -> Exchange:
    async with asyncio.timeout(PATIENCE):
        return await Exchange(target, *body, **options).run(handler)


# -- Views -----------------------------------------------------------------------------

local = Local()
variable = contextvars.ContextVar("variable", default="unset")
hold = threading.Event()
held = threading.Semaphore(0)
begun = threading.Event()
late: list[Any] = []
kept: list[Any] = []


def thread_name(request: HttpRequest) -> HttpResponse:
    return HttpResponse(threading.current_thread().name)


async def thread_names(request: HttpRequest) -> HttpResponse:
    """The thread of the middleware, and those of two more calls."""
    names = [request.META["thread"]]
    for _ in range(2):
        names.append(await sync_to_async(lambda: threading.current_thread().name)())
    return HttpResponse(",".join(names))


def wait_held(request: HttpRequest) -> HttpResponse:
    held.release()
    hold.wait(PATIENCE)
    return HttpResponse("held")


def leaks(request: HttpRequest) -> HttpResponse:
    before = getattr(local, "user", "nobody")
    local.user = "somebody"
    return HttpResponse(before)


def set_variable(request: HttpRequest) -> HttpResponse:
    before = f"{variable.get()} {timezone.get_current_timezone_name()}"
    variable.set("set")
    timezone.activate("Asia/Tokyo")
    return HttpResponse(before)


async def aset_variable(request: HttpRequest) -> HttpResponse:
    return set_variable(request)


def keep(request: HttpRequest) -> HttpResponse:
    response = HttpResponse("kept")
    kept.extend([weakref.ref(request), weakref.ref(response)])
    if "fail" in request.GET:
        raise LookupError("on purpose")
    return response


async def akeep(request: HttpRequest) -> HttpResponse:
    await sync_to_async(kept.append)(weakref.ref(request))
    return keep(request)


def body_size(request: HttpRequest) -> HttpResponse:
    begun.set()
    stream = type(request._stream).__name__  # type: ignore[attr-defined]
    return HttpResponse(f"{len(request.body)} {stream}")


def send_to_group(request: HttpRequest) -> HttpResponse:
    layer = get_channel_layer()
    async_to_sync(layer.group_send)("everybody", {"type": "greet"})
    return HttpResponse("sent")


async def leave_a_task(request: HttpRequest) -> HttpResponse:
    async def later() -> None:
        await asyncio.sleep(0.05)
        late.append(await sync_to_async(lambda: threading.current_thread().name)())

    late.append(asyncio.create_task(later()))
    return HttpResponse("left")


class Numbers:
    """An iterator that says how far it is."""

    made = 0
    closed = 0
    last = 1000
    threads: set[str]

    def __init__(self) -> None:
        type(self).made = 0
        type(self).threads = set()

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self.last):
            type(self).made += 1
            self.threads.add(threading.current_thread().name)
            yield b"%06d\n" % self.made * 1000

    def close(self) -> None:
        type(self).closed += 1


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(Numbers())


def stream_and_fail(request: HttpRequest) -> StreamingHttpResponse:
    def pieces() -> Iterator[bytes]:
        yield b"one"
        raise LookupError("no more")

    return StreamingHttpResponse(pieces())


def stream_and_exit(request: HttpRequest) -> StreamingHttpResponse:
    def pieces() -> Iterator[bytes]:
        yield b"one"
        raise SystemExit(3)

    return StreamingHttpResponse(pieces())


def stream_slowly(request: HttpRequest) -> StreamingHttpResponse:
    def pieces() -> Iterator[bytes]:
        yield b"first"
        hold.wait(PATIENCE)
        yield b"second"

    return StreamingHttpResponse(pieces())


def this_file(request: HttpRequest) -> FileResponse:
    return FileResponse(open(__file__, "rb"))


def return_upload(request: HttpRequest) -> FileResponse:
    name = request.FILES["file"].temporary_file_path()
    late.append(name)
    return FileResponse(open(name, "rb"))


async def areturn_upload(request: HttpRequest) -> FileResponse:
    return return_upload(request)


def close_as_it_likes(request: HttpRequest) -> HttpResponse:
    request.close = lambda: late.append("closed")  # type: ignore[method-assign]
    return HttpResponse()


def query(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse(str(id(connections["default"])))


def large(request: HttpRequest) -> HttpResponse:
    return HttpResponse(LARGE)


def not_there(request: HttpRequest) -> HttpResponse:
    return HttpResponse("nothing", status=404)


async def wait_for_ever(request: HttpRequest) -> HttpResponse:
    begun.set()
    await asyncio.sleep(PATIENCE)
    return HttpResponse()


urlpatterns = [
    path("thread", thread_name),
    path("threads", thread_names),
    path("held", wait_held),
    path("leaks", leaks),
    path("size", body_size),
    path("variable", set_variable),
    path("avariable", aset_variable),
    path("kept", keep),
    path("akept", akeep),
    path("group", send_to_group),
    path("task", leave_a_task),
    path("stream", stream),
    path("fail", stream_and_fail),
    path("exit", stream_and_exit),
    path("slow", stream_slowly),
    path("file", this_file),
    path("large", large),
    path("upload", return_upload),
    path("aupload", areturn_upload),
    path("closing", close_as_it_likes),
    path("query", query),
    path("wait", wait_for_ever),
    path("none", not_there),
]


# -- Middleware ------------------------------------------------------------------------


class NoteThread:
    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        request.META["thread"] = threading.current_thread().name
        return self.get_response(request)


@sync_and_async_middleware
def dual(get_response: Any) -> Any:
    async def middleware(request: HttpRequest) -> Any:
        return await get_response(request)

    return middleware


DEFAULT = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]


@override_settings(
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[],
    ALLOWED_HOSTS=["testserver", "test"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
)
class HandlerTestCase(SimpleTestCase):
    def setUp(self) -> None:
        global hold, held, begun
        hold, held, begun = threading.Event(), threading.Semaphore(0), threading.Event()
        late.clear()
        self.addCleanup(hold.set)

    def fetch(self, target: str, *body: bytes, **options: Any) -> Exchange:
        return asyncio.run(fetch(Handler(), target, *body, **options))


class OnTheServerTests(test_asgi_django.DjangoTests):
    """What is asked of Django's handler on this server, of ours."""

    def setUp(self) -> None:
        super().setUp()
        self.application = get_asgi_application()


# -- Threads ---------------------------------------------------------------------------


class ThreadTests(HandlerTestCase):
    def test_a_thread_is_used_again(self) -> None:
        names = {self.fetch("/thread").body for _ in range(5)}
        self.assertEqual(len(names), 1)
        self.assertIn(b"django-daphne", names.pop())

    @override_settings(MIDDLEWARE=[f"{__name__}.NoteThread"])
    def test_below_synchronous_middleware_there_is_one_thread(self) -> None:
        names = self.fetch("/threads").body.split(b",")
        self.assertEqual(len(names), 3)
        self.assertEqual(len(set(names)), 1)

    def test_as_many_threads_as_requests(self) -> None:
        async def main() -> list[Exchange]:
            handler = Handler()
            waiting = [asyncio.ensure_future(fetch(handler, "/held")) for _ in range(9)]
            for _ in waiting:
                await asyncio.to_thread(held.acquire, timeout=PATIENCE)
            hold.set()
            return await asyncio.gather(*waiting)

        self.assertEqual({e.body for e in asyncio.run(main())}, {b"held"})
        self.assertGreaterEqual(threads.count, 9)
        self.assertEqual(threads.count, threads.idle)

    @override_settings(DJANGO_DAPHNE={"WORKER": {"THREADS": 2}})
    def test_a_limit(self) -> None:
        async def main() -> None:
            handler = Handler()
            waiting = [asyncio.ensure_future(fetch(handler, "/held")) for _ in range(3)]
            gone = Exchange("/held")
            given_up = asyncio.ensure_future(gone.run(handler))
            for _ in range(2):
                await asyncio.to_thread(held.acquire, timeout=PATIENCE)
            # One that waits for a thread may leave.
            gone.gone.set()
            await given_up
            self.assertEqual(gone.sent, [])
            self.assertFalse(held.acquire(blocking=False))
            hold.set()
            await asyncio.gather(*waiting)

        with mock.patch("django_daphne.handler.exchange.threads", Threads()) as own:
            asyncio.run(main())
            self.assertEqual((own.count, own.idle), (2, 2))
            own.close()
            self.assertEqual((own.count, own.idle), (0, 0))

    def test_a_slow_client_holds_no_thread(self) -> None:
        """Once nothing is left but to send what there is."""

        async def main(target: str) -> None:
            handler = Handler()
            slow = Exchange(target, extensions=PATHSEND)
            slow.may_send.clear()
            waiting = asyncio.ensure_future(slow.run(handler))
            async with asyncio.timeout(PATIENCE):
                while not slow.sent:
                    await asyncio.sleep(0.01)
            self.assertEqual((await fetch(handler, "/thread")).status, 200)
            slow.may_send.set()
            await waiting
            self.assertEqual(slow.status, 200)

        for target in ("/thread", "/file"):
            with (
                self.subTest(target),
                override_settings(DJANGO_DAPHNE={"WORKER": {"THREADS": 1}}),
                mock.patch("django_daphne.handler.exchange.threads", Threads()) as own,
            ):
                asyncio.run(main(target))
                self.assertEqual((own.count, own.idle), (1, 1))
                own.close()

    def test_a_thread_that_cannot_be_started(self) -> None:
        """It does not count."""
        some = Threads()

        async def main() -> None:
            with (
                mock.patch.object(
                    threading.Thread, "start", side_effect=RuntimeError("no more")
                ),
                self.assertRaisesMessage(RuntimeError, "no more"),
            ):
                await some.lease(1)
            async with asyncio.timeout(PATIENCE):
                some.give_back(await some.lease(1))

        asyncio.run(main())
        some.close()

    def test_what_nobody_wants_ends(self) -> None:
        own = Threads()
        with mock.patch("django_daphne.handler.threads.IDLE", 0.05):
            worker = asyncio.run(own.lease(None))
            # Leased, it stays.
            self.assertFalse(own.retire(worker))
            own.give_back(worker)
            worker.thread.join(PATIENCE)
        self.assertFalse(worker.thread.is_alive())
        self.assertEqual((own.count, own.idle), (0, 0))

    def test_a_busy_thread_is_not_given_on(self) -> None:
        async def main() -> None:
            own = Threads()
            first = await own.lease(None)
            running = first.submit(hold.wait, PATIENCE)
            own.give_back(first)
            second = await own.lease(None)
            self.assertIsNot(first, second)
            hold.set()
            await asyncio.wrap_future(running)
            eventually(lambda: own.idle == 1)
            own.give_back(second)
            own.close()

        asyncio.run(main())

    def test_nothing_of_a_request_is_kept(self) -> None:
        for target in ("/kept", "/akept", "/kept?fail"):
            with self.subTest(target), self.assertNoLogs("django", "CRITICAL"):
                logging.disable(logging.ERROR)
                self.addCleanup(logging.disable, logging.NOTSET)
                kept.clear()
                exchange = Exchange("/" + target.strip("/").partition("?")[0])
                exchange.scope["query_string"] = target.partition("?")[2].encode()
                asyncio.run(exchange.run(Handler()))
                gc.collect()
                self.assertEqual([each() for each in kept], [None] * len(kept))
                self.assertTrue(kept)

    def test_locals_begin_anew(self) -> None:
        for _ in range(3):
            self.assertEqual(self.fetch("/leaks").body, b"nobody")

    def test_one_task_that_asks_several_times(self) -> None:
        """Whoever calls the application twice need not make a task for each.

        Until Django 6.1 it answers in a child of that task, and what a view sets is
        nobody else's.
        """

        async def ask(handler: Any) -> list[Any]:
            told: list[Any] = []
            for target in ("/variable", "/avariable"):
                for _ in range(2):
                    exchange = await fetch(handler, target)
                    told += [exchange.body.decode(), exchange.seen, variable.get()]
            return told

        told = asyncio.run(ask(Handler()))
        self.assertEqual(told, asyncio.run(ask(ASGIHandler())))
        if django.VERSION < (6, 1):
            zone = timezone.get_default_timezone_name()
            self.assertEqual(told, [f"unset {zone}", {"set"}, "unset"] * 4)

    def test_a_task_that_outlives_its_request(self) -> None:
        async def main() -> None:
            await fetch(Handler(), "/task")
            await late[0]

        asyncio.run(main())
        self.assertIsInstance(late[1], str)

    def test_inside_async_to_sync(self) -> None:
        """The thread that waits does the work: it has the connections."""
        own = threading.current_thread().name.encode()
        self.assertEqual(async_to_sync(fetch)(Handler(), "/thread").body, own)
        with override_settings(MIDDLEWARE=[f"{__name__}.NoteThread", *DEFAULT[:1]]):
            names = async_to_sync(fetch)(Handler(), "/threads").body
        self.assertEqual(set(names.split(b",")), {own})

    def test_inside_a_thread_sensitive_context(self) -> None:
        async def main() -> set[bytes]:
            async with ThreadSensitiveContext():
                handler = Handler()
                found = [await fetch(handler, "/thread") for _ in range(2)]
            return {exchange.body for exchange in found}

        names = asyncio.run(main())
        self.assertEqual(len(names), 1)
        self.assertNotIn(b"django-daphne", names.pop())

    def test_a_message_to_a_group(self) -> None:
        """``async_to_sync`` in a view reaches the loop that consumers run on."""

        async def main() -> Any:
            layer = get_channel_layer()
            await layer.group_add("everybody", "one")
            waiting = asyncio.ensure_future(layer.receive("one"))
            await fetch(Handler(), "/group")
            return await asyncio.wait_for(waiting, PATIENCE)

        self.assertEqual(asyncio.run(main()), {"type": "greet"})

    def test_forked(self) -> None:
        own = Threads()
        own.give_back(asyncio.run(own.lease(None)))
        forgetful = Threads()
        self.assertEqual(own.idle, 1)
        own.close()
        self.assertEqual(forgetful.idle, 0)


class ConnectionTests(HandlerTestCase):
    """Database connections live as long as ``CONN_MAX_AGE`` says, in their threads."""

    databases = {"default"}

    def test_closing_that_fails(self) -> None:
        """The response is sent all the same, as by Django."""

        def fail(**kwargs: Any) -> None:
            raise LookupError("on purpose")

        async def main() -> None:
            exchange = Exchange("/thread")
            with self.assertRaisesMessage(LookupError, "on purpose"):
                await exchange.run(Handler())
            self.assertEqual(exchange.status, 200)
            self.assertFalse(exchange.sent[-1]["more_body"])

        request_finished.connect(fail)
        self.addCleanup(request_finished.disconnect, fail)
        for module in (__name__, "django.core.cache"):
            fail.__module__ = module
            with self.subTest(module):
                asyncio.run(main())

    def test_persistent_connections(self) -> None:
        opened: list[int] = []
        connect = BaseDatabaseWrapper.connect

        def counted(self: Any) -> None:
            opened.append(threading.get_ident())
            connect(self)

        async def main() -> None:
            handler = Handler()
            for _ in range(20):
                self.assertEqual((await fetch(handler, "/query")).status, 200)

        for age, expected in ((None, 1), (0, 20)):
            own = Threads()
            with (
                self.subTest(age=age),
                tempfile.NamedTemporaryFile() as database,
                mock.patch.dict(
                    connections.settings["default"],
                    CONN_MAX_AGE=age,
                    NAME=database.name,
                ),
                mock.patch("django_daphne.handler.exchange.threads", own),
                mock.patch.object(BaseDatabaseWrapper, "connect", counted),
            ):
                opened.clear()
                asyncio.run(main())
                own.close()
            self.assertEqual(len(opened), expected)
            self.assertEqual(len(set(opened)), 1)


# -- Bodies ----------------------------------------------------------------------------


class BodyTests(HandlerTestCase):
    def test_in_memory_and_in_a_file(self) -> None:
        for pieces, kind in (
            ((b"",), b"BytesIO"),
            ((b"a" * 1000,), b"BytesIO"),
            ((b"a" * 1000, b"b" * 1000), b"BytesIO"),
            ((b"a" * 2000, b"b" * 3000, b"c" * 600_000, b"d"), b"BufferedRandom"),
        ):
            with override_settings(
                FILE_UPLOAD_MAX_MEMORY_SIZE=2500, DATA_UPLOAD_MAX_MEMORY_SIZE=None
            ):
                size, found = self.fetch("/size", *pieces).body.split()
            self.assertEqual(int(size), sum(map(len, pieces)))
            self.assertEqual(found, kind)

    @override_settings(FILE_UPLOAD_MAX_MEMORY_SIZE=None)
    def test_without_a_limit(self) -> None:
        for pieces in ((b"x",), (b"x" * 300_000, b"y")):
            body = self.fetch("/size", *pieces).body
            self.assertEqual(body, b"%d BytesIO" % sum(map(len, pieces)))

    def test_too_much_for_a_view(self) -> None:
        with (
            override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=10),
            self.assertLogs("django", "ERROR"),
        ):
            self.assertEqual(self.fetch("/size", b"a" * 11).status, 400)

    def test_a_slow_upload_holds_no_thread(self) -> None:
        async def main() -> None:
            exchange = Exchange("/size", b"a")
            exchange._body[0]["more_body"] = True
            running = asyncio.ensure_future(exchange.run(Handler()))
            for _ in range(10):
                await asyncio.sleep(0)
            self.assertEqual(threads.count, threads.idle)
            exchange.gone.set()
            await running
            self.assertEqual(exchange.sent, [])

        asyncio.run(main())
        self.assertFalse(begun.is_set())

    def test_a_broken_upload_leaves_no_file(self) -> None:
        async def main() -> None:
            exchange = Exchange("/size", b"a" * 600_000, b"b" * 600_000)
            exchange._body[-1]["more_body"] = True
            exchange.gone.set()
            await exchange.run(Handler())

        before = set(os.listdir("/proc/self/fd"))
        with override_settings(FILE_UPLOAD_MAX_MEMORY_SIZE=1000):
            asyncio.run(main())
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), len(before))
        self.assertFalse(begun.is_set())


# -- Responses -------------------------------------------------------------------------


class StreamTests(HandlerTestCase):
    def test_in_the_thread_of_the_request(self) -> None:
        exchange = self.fetch("/stream")
        self.assertEqual(len(exchange.body), 7_000_000)
        self.assertEqual(exchange.body.count(b"001000\n"), 1000)
        self.assertEqual(len(Numbers.threads), 1)
        self.assertIn("django-daphne", Numbers.threads.pop())

    def test_no_further_than_the_client(self) -> None:
        async def main() -> None:
            exchange = Exchange("/stream")
            exchange.may_send.clear()
            running = asyncio.ensure_future(exchange.run(Handler()))
            while not exchange.sent:
                await asyncio.sleep(0.01)
            exchange.may_send.set()
            while len(exchange.sent) < 2:
                await asyncio.sleep(0)
            exchange.may_send.clear()
            await asyncio.sleep(0.2)
            sent = len(exchange.body)
            ahead = Numbers.made * 7000 - sent
            self.assertLessEqual(ahead, 4 * outgoing.AHEAD)
            closed = Numbers.closed
            exchange.gone.set()
            await running
            self.assertEqual(Numbers.closed, closed + 1)

        asyncio.run(main())
        self.assertLess(Numbers.made, 100)

    def test_a_large_response_is_there_once(self) -> None:
        """It is cut as it is sent: a slow client does not cost its size again."""
        cut: list[int] = []

        class Cutting(Handler):
            @classmethod
            def chunk_bytes(cls, data: bytes) -> Iterator[tuple[bytes, bool]]:
                for chunk, last in super().chunk_bytes(data):
                    cut.append(len(chunk))
                    yield chunk, last

        async def main() -> None:
            exchange = Exchange("/large")
            exchange.may_send.clear()
            running = asyncio.ensure_future(exchange.run(Cutting()))
            while not exchange.sent:
                await asyncio.sleep(0.01)
            self.assertLessEqual(len(cut), 1)
            exchange.may_send.set()
            async with asyncio.timeout(PATIENCE):
                await running
            self.assertEqual(exchange.body, LARGE)
            self.assertEqual(
                [message["more_body"] for message in exchange.sent[1:]],
                [True] * (len(cut) - 1) + [False],
            )

        asyncio.run(main())
        self.assertGreater(len(cut), 10)

    def test_a_piece_waits_for_no_other(self) -> None:
        async def main() -> None:
            exchange = Exchange("/slow")
            running = asyncio.ensure_future(exchange.run(Handler()))
            async with asyncio.timeout(PATIENCE):
                while b"first" not in exchange.body:
                    await asyncio.sleep(0.01)
            hold.set()
            await running
            self.assertEqual(exchange.body, b"firstsecond")

        asyncio.run(main())

    def test_an_iterator_that_fails(self) -> None:
        finished: list[Any] = []

        def receive(**kwargs: Any) -> None:
            finished.append(kwargs["sender"])

        async def main() -> None:
            exchange = Exchange("/fail")
            with self.assertRaises(LookupError):
                await exchange.run(Handler())
            self.assertEqual(exchange.body, b"one")

        request_finished.connect(receive)
        self.addCleanup(request_finished.disconnect, receive)
        asyncio.run(main())
        self.assertEqual(finished, [Handler])

    def test_an_iterator_that_would_end_the_process(self) -> None:
        """Raised in a task of its own, it would end the loop."""
        ended: list[bytes] = []

        async def main() -> None:
            exchange = Exchange("/exit")
            with self.assertRaises(SystemExit):
                await exchange.run(Handler())
            ended.append(exchange.body)

        asyncio.run(main())
        self.assertEqual(ended, [b"one"])


PATHSEND: dict[str, Any] = {"http.response.pathsend": {}}


class FileTests(HandlerTestCase):
    def test_left_to_the_server(self) -> None:
        exchange = self.fetch("/file", extensions=PATHSEND)
        self.assertEqual(
            exchange.sent[1], {"type": "http.response.pathsend", "path": __file__}
        )
        size = str(Path(__file__).stat().st_size).encode()
        self.assertIn((b"Content-Length", size), exchange.sent[0]["headers"])

    def test_closed_once(self) -> None:
        finished: list[Any] = []

        def receive(**kwargs: Any) -> None:
            finished.append(kwargs["sender"])

        for receivers in (0, 1):
            with self.subTest(receivers=receivers), warnings.catch_warnings():
                # Of a file that is left open.
                warnings.simplefilter("error", ResourceWarning)
                if receivers:
                    request_finished.connect(receive)
                    self.addCleanup(request_finished.disconnect, receive)
                before = len(os.listdir("/proc/self/fd"))
                self.fetch("/file", extensions=PATHSEND)
                self.assertEqual(len(os.listdir("/proc/self/fd")), before)
                self.assertEqual(finished, [Handler] * receivers)

    def test_a_server_that_cannot(self) -> None:
        self.assertEqual(self.fetch("/file").body, Path(__file__).read_bytes())

    @override_settings(MIDDLEWARE=["django.middleware.gzip.GZipMiddleware"])
    def test_compressed(self) -> None:
        exchange = Exchange("/file", extensions=PATHSEND)
        exchange.scope["headers"].append((b"accept-encoding", b"gzip"))
        asyncio.run(exchange.run(Handler()))
        self.assertEqual(gzip.decompress(exchange.body), Path(__file__).read_bytes())

    def test_on_the_server(self) -> None:
        copied: list[int] = []
        if sendfile.AVAILABLE:
            own = os.sendfile

            def count(*args: Any) -> int:
                copied.append(own(*args))
                return copied[-1]

            self.enterContext(mock.patch.object(os, "sendfile", count))
        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes(range(256)) * 4096)
            file.flush()
            with (
                mock.patch(f"{__name__}.__file__", file.name),
                serving(Handler()) as server,
                server.connect() as client,
            ):
                answer = client.get("/file")
        self.assertEqual(answer.body, bytes(range(256)) * 4096)
        self.assertEqual(sum(copied), 256 * 4096 if sendfile.AVAILABLE else 0)

    @override_settings(FILE_UPLOAD_MAX_MEMORY_SIZE=100)
    def test_what_closing_the_request_would_delete(self) -> None:
        """An upload's temporary file goes when its request is closed: not before."""
        upload = (
            b"--edge\r\n"
            b'Content-Disposition: form-data; name="file"; filename="name"\r\n'
            b"\r\n" + b"content" * 10000 + b"\r\n--edge--\r\n"
        )
        kind = b"Content-Type: multipart/form-data; boundary=edge\r\n"
        with serving(Handler()) as server, server.connect() as client:
            for target in ("/upload", "/aupload"):
                with self.subTest(target):
                    client.send(
                        b"POST %s HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n"
                        b"%s\r\n%s" % (target.encode(), len(upload), kind, upload)
                    )
                    answer = client.read()
                    self.assertEqual(answer.status, 200)
                    self.assertEqual(answer.body, b"content" * 10000)
        self.assertEqual(len(late), 2)
        for temporary in late:
            self.assertFalse(Path(temporary).exists())

    def test_a_request_that_is_closed_in_its_own_way(self) -> None:
        """Whoever replaces a request's close() may expect it after the response."""

        async def main() -> None:
            exchange = Exchange("/closing", extensions=PATHSEND)
            send = exchange.send

            async def note(message: Message) -> None:
                late.append(message["type"])
                await send(message)

            exchange.send = note  # type: ignore[method-assign]
            await exchange.run(Handler())

        asyncio.run(main())
        self.assertEqual(late, ["http.response.start", "http.response.body", "closed"])

    def test_what_is_not_the_file_at_its_path(self) -> None:
        directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        file = directory / "file"

        def opened(mode: str = "rb") -> Any:
            file.write_bytes(b"content")
            return self.enterContext(contextlib.closing(file.open(mode)))

        self.assertEqual(path_of(FileResponse(opened()), PATHSEND), str(file))
        wrapped = FileResponse(File(opened()))
        self.assertEqual(path_of(wrapped, PATHSEND), str(file))
        self.assertIsNone(path_of(wrapped, {}))
        self.assertIsNone(path_of(HttpResponse(), PATHSEND))

        begun = opened()
        begun.seek(2)
        self.assertIsNone(path_of(FileResponse(begun), PATHSEND))

        class Upper(File):
            def read(self, *args: Any) -> bytes:
                return bytes(super().read(*args)).upper()

        self.assertIsNone(path_of(FileResponse(Upper(opened())), PATHSEND))

        replaced = FileResponse(opened())
        replaced.streaming_content = map(bytes.upper, replaced.streaming_content)
        self.assertIsNone(path_of(replaced, PATHSEND))

        class Overridden(FileResponse):
            @property
            def streaming_content(self) -> Iterator[bytes]:
                return iter([b"CONTENT"])

            @streaming_content.setter
            def streaming_content(self, value: Any) -> None:
                self._set_streaming_content(value)

        self.assertIsNone(path_of(Overridden(opened()), PATHSEND))

        class UpperFile(io.FileIO):
            def readinto(self, buffer: Any) -> int:
                count = super().readinto(buffer)
                buffer[:count] = bytes(buffer[:count]).upper()
                return count

        opened()
        buffer = self.enterContext(io.BufferedReader(UpperFile(file)))
        self.assertIsNone(path_of(FileResponse(buffer), PATHSEND))

        shortened = FileResponse(opened())
        shortened["Content-Length"] = "3"
        self.assertIsNone(path_of(shortened, PATHSEND))

        removed = FileResponse(opened())
        file.unlink()
        self.assertIsNone(path_of(removed, PATHSEND))
        file.write_bytes(b"another")
        self.assertIsNone(path_of(removed, PATHSEND))


# -- Ends ------------------------------------------------------------------------------


class EndTests(HandlerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.signals: list[str] = []

        def started(**kwargs: Any) -> None:
            self.signals.append("started")

        def finished(**kwargs: Any) -> None:
            self.signals.append("finished")

        for signal, receiver in (
            (request_started, started),
            (request_finished, finished),
        ):
            signal.connect(receiver, weak=False)
            self.addCleanup(signal.disconnect, receiver)

    def test_cancelled_from_outside(self) -> None:
        """A server that stops cancels; the request is ended in its thread."""
        for target in ("/wait", "/held", "/slow"):
            with self.subTest(target):
                self.signals.clear()
                begun.clear()

                async def main(target: str = target) -> None:
                    exchange = Exchange(target)
                    running = asyncio.ensure_future(exchange.run(Handler()))
                    while self.signals != ["started"] or not (
                        begun.is_set() or exchange.sent or held.acquire(blocking=False)
                    ):
                        await asyncio.sleep(0.01)
                    running.cancel()
                    if target == "/slow":
                        hold.set()
                    with self.assertRaises(asyncio.CancelledError):
                        await running
                    hold.set()

                asyncio.run(main())
                eventually(lambda: self.signals == ["started", "finished"])
                eventually(lambda: threads.count == threads.idle)
                hold.clear()

    def test_a_short_request_is_answered_in_any_case(self) -> None:
        async def main() -> None:
            exchange = Exchange("/thread")
            exchange.gone.set()
            await exchange.run(Handler())
            self.assertEqual(exchange.status, 200)

        asyncio.run(main())
        self.assertEqual(self.signals, ["started", "finished"])

    def test_a_client_that_leaves_a_long_one(self) -> None:
        async def main() -> None:
            exchange = Exchange("/wait")
            exchange.gone.set()
            async with asyncio.timeout(PATIENCE / 2):
                await exchange.run(Handler())
            self.assertEqual(exchange.sent, [])

        asyncio.run(main())
        self.assertEqual(self.signals, ["started", "finished"])

    def test_a_send_that_fails(self) -> None:
        async def main() -> None:
            exchange = Exchange("/thread")

            async def send(message: Any) -> None:
                raise OSError("gone")

            exchange.send = send  # type: ignore[method-assign]
            with self.assertRaises(OSError):
                await exchange.run(Handler())

        asyncio.run(main())
        self.assertEqual(self.signals, ["started", "finished"])

    def test_what_comes_after_the_body(self) -> None:
        async def main() -> None:
            exchange = Exchange("/wait")
            exchange._body.append({"type": "http.request", "body": b"?"})
            with self.assertRaisesMessage(AssertionError, "after request body"):
                await exchange.run(Handler())

        asyncio.run(main())
        self.assertEqual(self.signals, ["started", "finished"])

    def test_a_receive_that_fails(self) -> None:
        """Middleware around the application may have its own word for a lost client."""

        async def main() -> None:
            exchange = Exchange("/wait")

            async def receive() -> Message:
                if exchange._body:
                    return exchange._body.pop(0)
                raise LookupError("nobody is there")

            exchange.receive = receive  # type: ignore[method-assign]
            async with asyncio.timeout(PATIENCE / 2):
                with self.assertRaisesMessage(LookupError, "nobody is there"):
                    await exchange.run(Handler())
            self.assertEqual(exchange.sent, [])

        asyncio.run(main())
        self.assertEqual(self.signals, ["started", "finished"])


# -- What is left to Django ------------------------------------------------------------


class LeftToDjangoTests(HandlerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.enterContext(mock.patch.object(grouping, "_told", set()))

    @override_settings(MIDDLEWARE=DEFAULT)
    def test_the_default_middleware_is_one_segment(self) -> None:
        handler = Handler()
        assert handler.segment is not None
        self.assertEqual(len(handler.segment.middleware), len(DEFAULT))
        self.assertEqual(handler.left_to_django, [])

    @override_settings(MIDDLEWARE=[*DEFAULT[:2], f"{__name__}.dual", *DEFAULT[2:]])
    def test_asynchronous_middleware(self) -> None:
        with self.assertLogs(LOG, "DEBUG") as logs:
            handler = Handler()
            Handler()
        self.assertEqual(len(logs.output), 1)
        self.assertIn("asynchronous form of its own", logs.output[0])
        assert handler.segment is not None
        self.assertEqual(len(handler.segment.middleware), 2)
        self.assertEqual(asyncio.run(fetch(handler, "/thread")).status, 200)

    def test_unknown_versions(self) -> None:
        for patched in (
            mock.patch.object(grouping, "KNOWN_ASGIREF", ()),
            mock.patch.object(grouping, "KNOWN_DJANGO", ()),
        ):
            with patched, self.assertLogs(LOG, "DEBUG") as logs:
                handler = Handler()
            self.assertIn("newer than this version knows", logs.output[0])
            self.assertIsNone(handler.segment)
            self.assertEqual(asyncio.run(fetch(handler, "/thread")).status, 200)
            self.assertEqual(asyncio.run(fetch(handler, "/size", b"abc")).status, 200)

    def test_a_function_that_was_replaced(self) -> None:
        own, called = BaseHandler.get_response_async, []

        async def get_response_async(self: Any, request: Any) -> Any:
            called.append(request)
            return await own(self, request)

        with (
            mock.patch.object(BaseHandler, "get_response_async", get_response_async),
            self.assertLogs(LOG, "DEBUG") as logs,
        ):
            self.assertEqual(self.fetch("/thread").status, 200)
        self.assertEqual(len(called), 1)
        self.assertIn("get_response_async", logs.output[0])

    def test_an_innermost_handler_that_was_replaced(self) -> None:
        own = BaseHandler._get_response_async

        async def _get_response_async(self: Any, request: Any) -> Any:
            return await own(self, request)

        with mock.patch.object(BaseHandler, "_get_response_async", _get_response_async):
            handler = Handler()
            self.assertEqual(asyncio.run(fetch(handler, "/thread")).status, 200)
        self.assertIn("Views are called by Django", handler.left_to_django[0])

    def test_shown(self) -> None:
        handler = Handler()
        expected = {"CLASS": "django_daphne.handler.Handler", "LEFT_TO_DJANGO": []}
        self.assertEqual(describe_handler(handler), expected)

        async def around(scope: Any, receive: Any, send: Any) -> None:
            await handler(scope, receive, send)

        router = ProtocolTypeRouter({"http": around})
        self.assertIs(find_handler(router), handler)
        self.assertIs(find_handler(ASGIStaticFilesHandler(handler)), handler)
        self.assertEqual(
            describe_handler(ProtocolTypeRouter({"http": ASGIHandler()})),
            {"CLASS": "django.core.handlers.asgi.ASGIHandler"},
        )
        self.assertIsNone(describe_handler(ProtocolTypeRouter({})))
