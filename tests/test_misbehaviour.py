"""Applications that misbehave: the server stays up and says, once, what happened."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
import unittest
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, ClassVar
from unittest import mock

from django_daphne.errors import IllegalMessage, LifespanFailed
from django_daphne.protocol import http1, http2, websocket
from django_daphne.server import clock, process
from django_daphne.server.threaded import ThreadedServer

from .asgi_apps import Receive, Scope, Send, body, everything, exits, respond, start
from .http2_client import HTTP2Client, WebSocketOverHTTP2
from .http2_peer import HEADERS, PREFACE, request
from .http2_peer import frame as http2_frame
from .http2_peer import settings as http2_settings
from .serving import PATIENCE, Client, Process, Serving, make_config, serving
from .websocket_client import WebSocketClient
from .websocket_frames import BINARY, CLOSE, PING, TEXT, frame

SERVER_LOG = "django_daphne.server"

#: What no client may ever see of an application's failure.
SECRET = "oops"

STALL = "The event loop stood still"

Way = Callable[[Receive, Send], Awaitable[None]]

START = {"type": "http.response.start", "status": 200, "headers": []}
LAST = {"type": "http.response.body", "body": b"a"}

#: Messages, the last of which is refused, and words of the refusal.
GARBAGE: list[tuple[list[Any], str]] = [
    ([{}], "a dict whose 'type'"),
    ([None], "a dict whose 'type'"),
    ([[]], "a dict whose 'type'"),
    (["http.response.start"], "a dict whose 'type'"),
    ([{"status": 200}], "a dict whose 'type'"),
    ([{"type": ["http.response.start"]}], "a dict whose 'type'"),
    ([{"type": None}], "None cannot be sent"),
    ([{"type": b"http.response.start"}], "cannot be sent"),
    ([{"type": "http.response.start"}], "status None"),
    ([{"type": "http.response.start", "status": 200.0}], "status 200.0"),
    ([{"type": "http.response.start", "status": [200]}], "status [200]"),
    ([{"type": "http.response.start", "status": True}], "status True"),
    ([{**START, "headers": 5}], "headers of type int"),
    ([{**START, "headers": {b"content-type": b"a"}}, LAST], "pairs"),
    ([{**START, "headers": {b"te": b"a"}}, LAST], "byte strings"),
    ([{**START, "headers": "ab"}, LAST], "pairs"),
    ([{**START, "headers": [5]}, LAST], "pairs"),
    ([{**START, "headers": [None]}, LAST], "pairs"),
    ([{**START, "headers": [(b"x", None)]}, LAST], "byte strings"),
    ([{**START, "headers": [(5, b"x")]}, LAST], "byte strings"),
    ([{**START, "headers": [([], b"x")]}, LAST], "byte strings"),
    ([{**START, "headers": [(b"", b"x")]}, LAST], "not a valid header name"),
    ([{**START, "headers": [(b"x", b"\n" + bytes(1 << 20))]}, LAST], "inject"),
    ([START, {**LAST, "body": None}], "type NoneType"),
    ([START, {**LAST, "body": "text"}], "type str"),
    ([START, {**LAST, "body": 10**10}], "type int"),
    ([START, {**LAST, "body": [b"a"]}], "type list"),
    ([{"type": "http.response.early_hint", "links": 5}], "links of type int"),
    ([{"type": "http.response.early_hint", "links": ["a"]}], "byte strings"),
    ([START, {"type": "http.response.pathsend"}], "absolute path, not None"),
    ([START, {"type": "http.response.pathsend", "path": 5}], "absolute path, not 5"),
    ([START, {"type": "http.response.pathsend", "path": "a"}], "absolute path"),
    ([{**START, "headers": [5]}, {"type": "http.response.pathsend", "path": __file__}],
     "pairs"),
]  # fmt: skip

WEBSOCKET_GARBAGE: list[tuple[list[Any], str]] = [
    ([{}], "a dict whose 'type'"),
    ([None], "a dict whose 'type'"),
    ([{"type": {}}], "a dict whose 'type'"),
    ([{"type": None}], "None cannot be sent"),
    ([{"type": "websocket.accept", "headers": 5}], "headers of type int"),
    ([{"type": "websocket.accept", "headers": [5]}], "pairs"),
    ([{"type": "websocket.accept", "headers": ["ab"]}], "byte strings"),
    ([{"type": "websocket.accept", "headers": [(b"a", None)]}], "byte strings"),
    ([{"type": "websocket.accept", "headers": [(b"a", b"\r\n")]}], "inject"),
    ([{"type": "websocket.accept", "subprotocol": []}], "subprotocol"),
    ([{"type": "websocket.http.response.start"}], "status None"),
    ([{"type": "websocket.http.response.start", "status": []}], "status []"),
    ([{"type": "websocket.http.response.start", "status": 403, "headers": 5}],
     "headers of type int"),
    ([{"type": "websocket.http.response.start", "status": 403, "headers": [5]},
      {"type": "websocket.http.response.body"}], "pairs"),
    ([{"type": "websocket.http.response.start", "status": 403},
      {"type": "websocket.http.response.body", "body": "text"}], "type str"),
    ([{"type": "websocket.http.response.start", "status": 403},
      {"type": "websocket.http.response.body", "body": 10**10}], "type int"),
    ([{"type": "websocket.http.response.start", "status": 403},
      {"type": "websocket.http.response.body", "body": None}], "type NoneType"),
]  # fmt: skip

#: The same once it is open.
OPEN_GARBAGE: list[tuple[Any, str]] = [
    ({}, "a dict whose 'type'"),
    (5, "a dict whose 'type'"),
    ({"type": "websocket.send"}, "either 'text'"),
    ({"type": "websocket.send", "text": 5}, "either 'text'"),
    ({"type": "websocket.send", "bytes": [1]}, "either 'text'"),
    ({"type": "websocket.close", "code": "1000"}, "close code"),
    ({"type": "websocket.close", "reason": b"bye"}, "reason must be a string"),
    ({"type": "websocket.close", "reason": "x" * 124}, "124 bytes"),
]


class Ending:
    """What a client got of a response."""

    def __init__(self, status: int | None, body: bytes, complete: bool) -> None:
        self.status = status
        self.body = body
        self.complete = complete


def ask_http1(server: Serving) -> Ending:
    with server.connect() as client:
        client.request("/bad", "GET", "TE: trailers")
        try:
            answer = client.read()
        except (EOFError, ConnectionResetError):
            return Ending(None, b"", False)
        return Ending(answer.status, answer.body, answer.complete)


def ask_http2(server: Serving) -> Ending:
    with HTTP2Client(server.port) as client:
        client.decoder.max_header_list_size = 1 << 24
        fields = request(b"GET", b"/bad", (b"te", b"trailers"))
        answer = client.answer(client.ask(fields))
        status = answer.status if answer.headers else None
        return Ending(status, bytes(answer.body), answer.complete)


class MisbehaviourTestCase(unittest.TestCase):
    """``self.way`` is what the application does on ``/bad``; it is fine elsewhere."""

    way: Way
    server: Serving
    settings: ClassVar[dict[str, Any]] = {"LIFESPAN": "off"}

    def setUp(self) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/bad":
                await self.way(receive, send)
            else:
                await respond(send, b"fine")

        self.server = self.enterContext(serving(application, self.settings))

    def check_fine(self) -> None:
        with self.server.connect() as client:
            self.assertEqual(client.get("/").body, b"fine")

    @contextlib.contextmanager
    def said_once(self, words: str, *, traceback: bool = True) -> Iterator[None]:
        """Inside, there is one line of the log, and it has ``words``."""
        with self.assertLogs("django_daphne", logging.INFO) as logs:
            yield
            # The task may end after its client has been answered.
            end = time.monotonic() + PATIENCE
            while not _said(logs) or self.server_busy:
                self.assertLess(time.monotonic(), end, "nothing was said")
                time.sleep(0.005)
        [(record, text)] = _said(logs)
        self.assertIn(words, text)
        self.assertEqual(record.exc_info is not None, traceback)
        self.assertLess(len(text), 100_000)

    @property
    def server_busy(self) -> bool:
        tasks = asyncio.all_tasks(self.server.loop)
        return any(task.get_name() == "request" for task in tasks)


def _said(logs: Any) -> list[tuple[logging.LogRecord, str]]:
    """What was logged, but for a busy machine that held everything up."""
    # Another thread logs: it may have appended to the first and not yet to the second.
    both = zip(logs.records, logs.output, strict=False)
    return [(record, text) for record, text in both if STALL not in text]


class Requests(MisbehaviourTestCase):
    def check(
        self, way: Way, words: str, *, traceback: bool = True, status: int | None = 500
    ) -> None:
        """``status`` None: the answer begins and is cut off."""
        self.way = way
        for ask in (ask_http1, ask_http2):
            with self.subTest(ask=ask.__name__, words=words):
                with self.said_once(words, traceback=traceback):
                    ending = ask(self.server)
                if status is None:
                    self.assertFalse(ending.complete)
                else:
                    self.assertEqual(ending.status, status)
                    self.assertTrue(ending.complete)
                self.assertNotIn(SECRET.encode(), ending.body)
                self.assertNotIn(b"Traceback", ending.body)
        self.check_fine()

    def test_garbage(self) -> None:
        for messages, words in GARBAGE:
            raised: list[BaseException] = []

            async def way(
                receive: Receive,
                send: Send,
                messages: list[Any] = messages,
                told: Callable[[BaseException], None] = raised.append,
            ) -> None:
                *good, bad = messages
                for message in good:
                    await send(message)
                try:
                    await send(bad)
                except BaseException as error:
                    told(error)
                    raise

            self.check(way, words)
            for refusal in raised:
                self.assertIsInstance(refusal, IllegalMessage)

    def test_files_that_cannot_be_sent(self) -> None:
        for path in ("/does/not/exist", "/", "/\0"):

            async def way(receive: Receive, send: Send, path: str = path) -> None:
                await send(START)
                await send({"type": "http.response.pathsend", "path": path})

            self.check(way, "Error")

    def test_what_ends_loops_and_threads(self) -> None:
        for error in (
            SystemExit(SECRET),
            KeyboardInterrupt(SECRET),
            GeneratorExit(SECRET),
            asyncio.CancelledError(SECRET),
            BaseExceptionGroup(SECRET, [SystemExit(SECRET)]),
            StopAsyncIteration(SECRET),
            RecursionError(SECRET),
            MemoryError(SECRET),
        ):

            async def before(
                receive: Receive, send: Send, error: BaseException = error
            ) -> None:
                raise error

            async def inside(
                receive: Receive, send: Send, error: BaseException = error
            ) -> None:
                await start(send)
                await body(send, b"begun", True)
                raise error

            name = type(error).__name__
            self.check(before, name)
            self.check(inside, name, status=None)

    def test_an_error_that_cannot_be_printed(self) -> None:
        class Unspeakable(Exception):
            def __str__(self) -> str:
                raise ValueError(SECRET)

            __repr__ = __str__

        async def way(receive: Receive, send: Send) -> None:
            raise Unspeakable

        self.check(way, "Unspeakable")

    def test_returning_too_early(self) -> None:
        async def nothing(receive: Receive, send: Send) -> None: ...

        async def head(receive: Receive, send: Send) -> None:
            await start(send)

        async def some(receive: Receive, send: Send) -> None:
            await start(send)
            await body(send, b"begun", True)

        async def no_trailers(receive: Receive, send: Send) -> None:
            await send({**START, "trailers": True})
            await send(LAST)

        self.check(nothing, "without answering", traceback=False)
        self.check(head, "without answering", traceback=False)
        self.check(some, "before the end", traceback=False, status=None)
        self.check(no_trailers, "before the end", traceback=False, status=None)

    def test_sending_after_the_end(self) -> None:
        async def way(receive: Receive, send: Send) -> None:
            await respond(send, b"all")
            await body(send, b"more")

        self.check(way, "after the response is complete", status=200)

    def test_huge_headers(self) -> None:
        """Legal, and the application's own business."""

        async def way(receive: Receive, send: Send) -> None:
            await respond(send, b"", 200, [(b"x", b"y" * 1_000_000)])

        self.way = way
        for ask in (ask_http1, ask_http2):
            self.assertEqual(ask(self.server).status, 200)
        self.check_fine()

    def test_a_task_that_outlives_its_request(self) -> None:
        """It can do no harm to the next one on the connection."""
        refusals: list[str] = []
        over = threading.Event()

        async def linger(receive: Receive, send: Send, go: asyncio.Event) -> None:
            await go.wait()
            for message in (START, LAST, {}):
                try:
                    await send(message)
                except RuntimeError as error:
                    refusals.append(str(error))
            refusals.append((await receive())["type"])
            over.set()

        async def way(receive: Receive, send: Send) -> None:
            go = asyncio.Event()
            tasks.append(asyncio.ensure_future(linger(receive, send, go)))
            await respond(send, b"all")
            asyncio.get_running_loop().call_later(0.01, go.set)

        tasks: list[Any] = []
        self.way = way
        for ask in (ask_http1, ask_http2):
            over.clear()
            refusals.clear()
            self.assertEqual(ask(self.server).body, b"all")
            self.assertTrue(over.wait(PATIENCE))
            self.assertIn("after the response is complete", refusals[0])
            self.assertIn("after the response is complete", refusals[1])
            self.assertIn("a dict whose 'type'", refusals[2])
            self.assertEqual(refusals[3], "http.disconnect")
        self.check_fine()

    def test_blocking_the_loop(self) -> None:
        async def way(receive: Receive, send: Send) -> None:
            time.sleep(1.5)
            await respond(send, b"at last")

        self.way = way
        with mock.patch.object(clock, "STANDSTILL", 1.0):
            for ask in (ask_http1, ask_http2):
                with self.assertLogs(SERVER_LOG, logging.WARNING) as logs:
                    self.assertEqual(ask(self.server).body, b"at last")
                    # The answer is out before the clock notices.
                    end = time.monotonic() + PATIENCE
                    while not logs.records and time.monotonic() < end:
                        time.sleep(0.01)
                self.assertIn(STALL, logs.output[0])
        self.check_fine()

    def test_never_returning(self) -> None:
        """After the answer it hurts nobody; a stop does not wait for it for ever."""

        async def way(receive: Receive, send: Send) -> None:
            await respond(send, b"all")
            await asyncio.Event().wait()

        self.way = way
        for ask in (ask_http1, ask_http2):
            self.assertEqual(ask(self.server).body, b"all")
        self.check_fine()
        with self.assertLogs(SERVER_LOG, logging.WARNING) as logs:
            self.server.close()
        messages = [record.getMessage() for record in logs.records]
        self.assertEqual(messages, ["Given up, unfinished: GET /bad, GET /bad"])

    def test_never_reading(self) -> None:
        """A body that nobody wants neither fills memory nor stops the answer."""

        async def way(receive: Receive, send: Send) -> None:
            await respond(send, b"no, thanks")

        self.way = way
        with self.server.connect() as client:
            client.request("/bad", "POST", "Content-Length: 10000000")
            self.assertEqual(client.read().body, b"no, thanks")
        with HTTP2Client(self.server.port) as client:
            id = client.ask(request(b"POST", b"/bad"), 0)
            self.assertEqual(client.answer(id).body, b"no, thanks")
        self.check_fine()

    def test_garbage_while_the_server_stops(self) -> None:
        """Headers that nobody has looked at yet are looked at by the stop."""
        waiting = threading.Event()

        async def way(receive: Receive, send: Send) -> None:
            await send({**START, "headers": [5]})
            waiting.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            await send(LAST)

        self.way = way
        with self.server.connect() as client:
            client.request("/bad")
            self.assertTrue(waiting.wait(PATIENCE))
            with self.assertLogs(SERVER_LOG, logging.ERROR) as logs:
                self.server.stop()
                self.assertEqual(client.read().status, 500)
                self.server.join()
        self.assertEqual(len(logs.records), 1, logs.output)
        self.assertIn("pairs", logs.output[0])


class RequestTimeouts(MisbehaviourTestCase):
    settings: ClassVar[dict[str, Any]] = {
        "LIFESPAN": "off",
        "TIMEOUTS": {"REQUEST": 0.5},
    }

    def test_never_answering(self) -> None:
        async def way(receive: Receive, send: Send) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        self.way = way
        for ask in (ask_http1, ask_http2):
            with self.assertLogs("django_daphne.protocol", logging.WARNING) as logs:
                self.assertEqual(ask(self.server).status, 503)
            self.assertIn("the response took longer than", logs.output[0])
            self.assertEqual(len(logs.records), 1)
        self.check_fine()


class WebSockets(MisbehaviourTestCase):
    """On HTTP/1.1, and in a stream of HTTP/2."""

    @property
    def server_busy(self) -> bool:
        return bool(self.running)

    def setUp(self) -> None:
        super().setUp()
        self.running: set[int] = set()

    def begin(self, way: Way) -> None:
        async def watched(receive: Receive, send: Send) -> None:
            self.running.add(id(receive))
            try:
                await way(receive, send)
            finally:
                # Whatever is said is said when this task has ended.
                loop = asyncio.get_running_loop()
                loop.call_soon(loop.call_soon, self.running.discard, id(receive))

        self.way = watched

    def denied_http1(self) -> Ending:
        with WebSocketClient(self.server) as client:
            client.ask("/bad")
            try:
                answer = client.read()
            except (EOFError, ConnectionResetError):
                return Ending(None, b"", False)
            return Ending(answer.status, answer.body, answer.complete)

    def denied_http2(self) -> Ending:
        with HTTP2Client(self.server.port) as client:
            answer = client.answer(WebSocketOverHTTP2(client, b"/bad").id)
            status = answer.status if answer.headers else None
            return Ending(status, bytes(answer.body), answer.complete)

    def check_denied(
        self, way: Way, words: str, status: int = 500, *, traceback: bool = True
    ) -> None:
        self.begin(way)
        for ask in (self.denied_http1, self.denied_http2):
            with self.subTest(ask=ask.__name__, words=words):
                with self.said_once(words, traceback=traceback):
                    ending = ask()
                self.assertEqual(ending.status, status)
                self.assertNotIn(b"Traceback", ending.body)
                self.assertNotIn(SECRET.encode(), ending.body)
        self.check_fine()

    def check_closed(self, way: Way, words: str, code: int = 1011) -> None:
        """``way`` fails behind the acceptance."""

        async def accepted(receive: Receive, send: Send) -> None:
            await send({"type": "websocket.accept"})
            await way(receive, send)

        self.begin(accepted)
        with self.subTest(words=words, http=1):
            with self.said_once(words), WebSocketClient(self.server) as client:
                client.open("/bad")
                sent = client.read_close()
            self.assertEqual((sent.close_code, sent.payload[2:]), (code, b""))
        with self.subTest(words=words, http=2):
            with self.said_once(words), HTTP2Client(self.server.port) as client:
                found = WebSocketOverHTTP2(client, b"/bad").read_close()
            self.assertEqual(found, code)
        self.check_fine()

    def test_garbage_before_the_acceptance(self) -> None:
        for messages, words in WEBSOCKET_GARBAGE:

            async def way(
                receive: Receive, send: Send, messages: list[Any] = messages
            ) -> None:
                *good, bad = messages
                for message in good:
                    await send(message)
                try:
                    await send(bad)
                except IllegalMessage:
                    raise
                except BaseException as error:
                    raise AssertionError("no sentence") from error

            self.check_denied(way, words)

    def test_garbage_behind_the_acceptance(self) -> None:
        for message, words in OPEN_GARBAGE:

            async def way(receive: Receive, send: Send, message: Any = message) -> None:
                await send(message)

            self.check_closed(way, words)

    def test_what_ends_loops_and_threads(self) -> None:
        for error in (
            SystemExit(SECRET),
            KeyboardInterrupt(SECRET),
            asyncio.CancelledError(SECRET),
        ):

            async def way(
                receive: Receive, send: Send, error: BaseException = error
            ) -> None:
                raise error

            self.check_denied(way, type(error).__name__)
            self.check_closed(way, type(error).__name__)

    def test_returning_too_early(self) -> None:
        async def nothing(receive: Receive, send: Send) -> None: ...

        words = "without accepting or denying"
        self.check_denied(nothing, words, 403, traceback=False)

    def test_sending_after_the_end(self) -> None:
        async def way(receive: Receive, send: Send) -> None:
            await send({"type": "websocket.close", "code": 3000})
            await send({"type": "websocket.send", "text": "late"})

        self.check_closed(way, "after 'websocket.close'", 3000)

    def test_never_reading(self) -> None:
        """One that only sends holds up nobody else, and not even itself."""
        enough = threading.Event()

        async def way(receive: Receive, send: Send) -> None:
            await send({"type": "websocket.accept"})
            await asyncio.get_running_loop().run_in_executor(None, enough.wait)
            await send({"type": "websocket.send", "text": "done"})

        self.begin(way)
        with WebSocketClient(self.server) as client:
            client.open("/bad")
            for _ in range(3000):
                client.frame(BINARY, b"x" * 100)
            self.check_fine()
            enough.set()
            self.assertEqual(client.read_frame().payload, b"done")
            self.assertEqual(client.read_frame().opcode, CLOSE)

    def test_a_task_that_outlives_its_websocket(self) -> None:
        refusals: list[str] = []
        over = threading.Event()

        async def linger(receive: Receive, send: Send, go: asyncio.Event) -> None:
            await go.wait()
            try:
                await send({"type": "websocket.send", "text": "late"})
            except RuntimeError as error:
                refusals.append(str(error))
            refusals.append((await receive())["type"])
            try:
                await send({"type": "websocket.send", "text": "later"})
            except (RuntimeError, OSError) as error:
                refusals.append(str(error))
            over.set()

        async def way(receive: Receive, send: Send) -> None:
            assert (await receive())["type"] == "websocket.connect"
            await send({"type": "websocket.accept"})
            go = asyncio.Event()
            tasks.append(asyncio.ensure_future(linger(receive, send, go)))
            asyncio.get_running_loop().call_later(0.01, go.set)

        tasks: list[Any] = []
        self.begin(way)
        with self.assertNoLogs("django_daphne", logging.WARNING):
            with WebSocketClient(self.server) as client:
                client.open("/bad")
                client.frame(TEXT, b"unread")
                self.assertEqual(client.read_close().close_code, 1000)
            self.assertTrue(over.wait(PATIENCE))
        self.assertEqual(len(refusals), 3, refusals)
        self.check_fine()


class Lifespans(unittest.TestCase):
    def refused(self, way: Way) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] == "lifespan"
            await way(receive, send)

        with serving(app, {"LIFESPAN": "on"}):
            pass

    def test_garbage(self) -> None:
        for message, words in (
            ({}, "a dict whose 'type'"),
            (None, "a dict whose 'type'"),
            ({"type": None}, "None cannot be sent"),
            ({"type": "http.response.start"}, "cannot be sent before"),
        ):

            async def way(receive: Receive, send: Send, message: Any = message) -> None:
                await receive()
                await send(message)

            with self.subTest(message=message), self.assertLogs(SERVER_LOG) as logs:
                with self.assertRaisesRegex(LifespanFailed, words):
                    self.refused(way)
            self.assertEqual(len(logs.records), 1)
            self.assertIsNotNone(logs.records[0].exc_info)

    def test_what_ends_loops_and_threads(self) -> None:
        for error in (SystemExit(SECRET), asyncio.CancelledError(SECRET)):

            async def way(
                receive: Receive, send: Send, error: BaseException = error
            ) -> None:
                await receive()
                raise error

            with self.assertLogs(SERVER_LOG) as logs:
                with self.assertRaisesRegex(LifespanFailed, type(error).__name__):
                    self.refused(way)
            self.assertEqual(len(logs.records), 1)


class OurOwnErrors(unittest.TestCase):
    """A fault in an engine ends its connection; the log has it, its client has not."""

    def check(self, broken: Any, *sent: bytes) -> None:
        for loop_factory in (process.new_event_loop, asyncio.new_event_loop):
            with (
                self.subTest(loop=loop_factory.__module__),
                serving(
                    everything, {"LIFESPAN": "off"}, loop_factory=loop_factory
                ) as server,
                server.connect() as client,
            ):
                *first, last = sent
                for part in first:
                    client.send(part)
                    client.read_some()
                with broken, self.assertLogs(level=logging.ERROR) as logs:
                    client.send(last)
                    try:
                        heard = client.read_to_end()
                    except ConnectionResetError:
                        heard = b""
                self.assertEqual(len(logs.records), 1, logs.output)
                self.assertIn("Traceback", logs.output[0])
                self.assertIn(SECRET, logs.output[0])
                self.assertNotIn(SECRET.encode(), heard)
                self.assertNotIn(b"Traceback", heard)
                with server.connect() as other:
                    self.assertEqual(other.get().body, b"hello")

    def test_http1(self) -> None:
        broken = mock.patch.object(
            http1.HTTP1Engine, "_parse", side_effect=ZeroDivisionError(SECRET)
        )
        self.check(broken, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

    def test_http2(self) -> None:
        broken = mock.patch.object(
            http2, "read_head", side_effect=ZeroDivisionError(SECRET)
        )
        greeting = PREFACE + http2_settings()
        self.check(broken, greeting, http2_frame(HEADERS, 5, 1, b"\x82\x86\x84"))

    def test_websocket(self) -> None:
        broken = mock.patch.object(
            websocket.WebSocketEngine, "_read", side_effect=ZeroDivisionError(SECRET)
        )
        handshake = (
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )
        self.check(broken, handshake, frame(PING))


class InATaskOfItsOwn(unittest.TestCase):
    """SystemExit in a task stops its loop, by asyncio's rules; not our server."""

    def test_the_server_goes_on(self) -> None:
        process = self.enterContext(
            Process("tests.asgi_apps:exits", {"LOGGING": {"ACCESS": False}})
        )
        for path, name in (
            ("/exit", "SystemExit"),
            ("/interrupt", "KeyboardInterrupt"),
        ):
            with process.connect() as client, process.connect() as other:
                other.get("/")
                answer = client.get(path)
                self.assertEqual(answer.status, 500)
                self.assertNotIn(b"Traceback", answer.body)
                self.assertEqual(other.get("/").body, b"fine")
            process.expect(rf"A task raised {name} \(.*asgi_apps.py, line \d+\)")
            process.expect(rf"The application failed on GET {path}")
        with process.connect() as client:
            self.assertEqual(client.get("/forgotten").body, b"fine")
        process.expect(r"(?s)A task raised SystemExit.*A task raised SystemExit")
        self.assertEqual(process.output.count("The application failed"), 2)
        with process.connect() as client:
            self.assertEqual(client.get("/").body, b"fine")
        process.terminate()
        self.assertEqual(process.wait(), 0)

    def test_a_server_in_a_thread_goes_on(self) -> None:
        sock = self.enterContext(socket.create_server(("127.0.0.1", 0)))
        server = ThreadedServer(make_config(), exits, [sock])
        thread = threading.Thread(target=server.run)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.stop)
        with Client(*sock.getsockname()) as client:
            with self.assertLogs(SERVER_LOG, logging.ERROR) as logs:
                self.assertEqual(client.get("/exit").status, 500)
            self.assertEqual(len(logs.records), 2)
            self.assertEqual(client.get("/").body, b"fine")
