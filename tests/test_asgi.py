"""The ASGI contract of HTTP, seen by an application on a server with real clients."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import tempfile
import threading
import unittest
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest import mock

from django_daphne.config import Hooks
from django_daphne.errors import ClientDisconnected, IllegalMessage

from .asgi_apps import (
    Message,
    Receive,
    Scope,
    Send,
    body,
    echo,
    hello,
    read_body,
    respond,
    start,
    until_disconnect,
)
from .serving import PATIENCE, Answer, Client, Reader, Serving, serving

SERVER_LOG = "django_daphne.server"


class Happening:
    """Something that the application tells the test, or the test the application."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.value: Any = None

    def tell(self, value: Any = None) -> None:
        self.value = value
        self._event.set()

    @property
    def told(self) -> bool:
        return self._event.is_set()

    def wait(self) -> Any:
        """For the test."""
        if not self._event.wait(PATIENCE):
            raise AssertionError("it never happened")
        return self.value

    async def reached(self) -> Any:
        """For the application."""
        while not self._event.is_set():
            await asyncio.sleep(0.005)
        return self.value


async def never() -> None:
    await asyncio.get_running_loop().create_future()


class ScopeTests(unittest.TestCase):
    def scope_of(
        self, data: bytes = b"", settings: Any = None
    ) -> tuple[Scope, Client, Serving]:
        seen = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] == "http"
            seen.tell(scope)
            await respond(send)

        with serving(app, settings) as server, server.connect() as client:
            client.send(data or b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            client.read()
            self.peer = client.socket.getsockname()
            self.server = client.socket.getpeername()
            return seen.wait(), client, server

    def test_complete(self) -> None:
        scope, _, _ = self.scope_of(
            b"POST /caf%C3%A9/a?b=%20c&d HTTP/1.1\r\nHost: example.org:81\r\n"
            b"X-Two: 1\r\nX-TWO: 2\r\nContent-Length: 0\r\n\r\n"
        )
        self.assertEqual(
            scope,
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.5"},
                "http_version": "1.1",
                "method": "POST",
                "scheme": "http",
                "path": "/café/a",
                "raw_path": b"/caf%C3%A9/a",
                "query_string": b"b=%20c&d",
                "root_path": "",
                "headers": [
                    (b"host", b"example.org:81"),
                    (b"x-two", b"1"),
                    (b"x-two", b"2"),
                    (b"content-length", b"0"),
                ],
                "client": self.peer,
                "server": self.server,
                "extensions": {
                    "http.response.trailers": {},
                    "http.response.pathsend": {},
                    "http.response.early_hint": {},
                },
            },
        )
        self.assertIsInstance(scope["client"][0], str)
        self.assertIsInstance(scope["client"][1], int)
        self.assertIsInstance(scope, dict)

    def test_http_1_0(self) -> None:
        scope, _, _ = self.scope_of(b"GET / HTTP/1.0\r\n\r\n")
        self.assertEqual(scope["http_version"], "1.0")
        self.assertEqual(scope["headers"], [])

    def test_root_path(self) -> None:
        scope, _, _ = self.scope_of(settings={"ROOT_PATH": "/app"})
        self.assertEqual(scope["root_path"], "/app")
        self.assertEqual(scope["path"], "/")

    def test_ipv6(self) -> None:
        scope, _, _ = self.scope_of(settings={"BIND": ["[::1]:0"]})
        self.assertEqual(scope["client"], self.peer[:2])
        self.assertEqual(scope["server"], ("::1", self.server[1]))

    def test_unix_socket(self) -> None:
        seen = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.tell(scope)
            await respond(send)

        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/app.sock"
            with (
                serving(app, {"BIND": [f"unix:{path}"], "LIFESPAN": "off"}),
                socket.socket(socket.AF_UNIX) as client,
            ):
                client.connect(path)
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                self.assertEqual(Reader(client.recv).read().status, 200)
                self.assertEqual(tuple(seen.wait()["server"]), (path, None))
                self.assertIsNone(seen.value["client"])

    def test_each_request_has_its_own(self) -> None:
        scopes = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scopes.append(dict(scope))
            scope["extensions"]["mine"] = 1
            scope["headers"].append((b"mine", b"1"))
            scope["asgi"]["mine"] = 1
            scope["mine"] = 1
            await respond(send)

        with (
            serving(app, {"LIFESPAN": "off"}) as server,
            server.connect() as client,
        ):
            for _ in range(2):
                client.get()
        first, second = scopes
        self.assertNotIn("mine", second)
        for part in ("extensions", "asgi"):
            self.assertIsNot(first[part], second[part])
            self.assertEqual(list(second[part]).count("mine"), 1)
        self.assertEqual(second["headers"].count((b"mine", b"1")), 1)


class BodyTests(unittest.TestCase):
    def test_one_message_for_a_small_body(self) -> None:
        messages: list[Message] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            messages.append(await receive())
            await respond(send)

        with serving(app, {"LIFESPAN": "off"}) as server, server.connect() as client:
            client.request("/", "POST", body=b"hello")
            client.read()
            client.get()
        self.assertEqual(
            messages,
            [
                {"type": "http.request", "body": b"hello", "more_body": False},
                {"type": "http.request", "body": b"", "more_body": False},
            ],
        )

    def test_it_is_streamed_both_ways_at_once(self) -> None:
        with serving(echo) as server, server.connect() as client:
            client.send(
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            for number in range(5):
                client.send(b"1\r\n%d\r\n" % number)
                if not number:
                    answer = client.read_head()
                    self.assertEqual(answer.get("Transfer-Encoding"), "chunked")
                self.assertEqual(client.read_exactly(6), b"1\r\n%d\r\n" % number)
            client.send(b"0\r\n\r\n")
            self.assertEqual(client.read_exactly(5), b"0\r\n\r\n")
            client.request("/", "POST", body=b"next")
            self.assertEqual(client.read().body, b"next")

    def test_a_client_waits_for_a_slow_application(self) -> None:
        go = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await go.reached()
            data = await read_body(receive)
            await respond(send, b"%d" % len(data))

        size = 64 * 1024 * 1024
        with (
            serving(app, {"LIFESPAN": "off"}) as server,
            server.connect() as client,
        ):
            client.send(
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
            )
            client.socket.settimeout(1)
            left = memoryview(bytes(size))
            with self.assertRaises(TimeoutError):
                while left:
                    left = left[client.socket.send(left[:65536]) :]
            # What the kernel holds for both sides, and little of ours.
            self.assertGreater(len(left), size // 2)
            client.socket.settimeout(PATIENCE)
            go.tell()
            client.send(left)  # type: ignore[arg-type]
            self.assertEqual(client.read().body, b"%d" % size)

    def test_an_application_waits_for_a_slow_client(self) -> None:
        stuck, sent = Happening(), 0

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal sent
            await start(send)
            for _ in range(1024):
                sending = asyncio.ensure_future(body(send, bytes(65536), True))
                if not (await asyncio.wait([sending], timeout=1))[0]:
                    stuck.tell()
                await sending
                sent += 65536
            await body(send)

        with (
            serving(app, {"LIFESPAN": "off"}) as server,
            server.connect() as client,
        ):
            client.request()
            stuck.wait()
            self.assertLess(sent, 32 * 1024 * 1024)
            answer = client.read()
            self.assertTrue(answer.complete)
            self.assertEqual(len(answer.body), 1024 * 65536)

    def test_cancelled_receives_lose_nothing(self) -> None:
        gave_up = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            data, more = b"", True
            while more:
                try:
                    message = await asyncio.wait_for(receive(), 0.001)
                except TimeoutError:
                    gave_up.tell()
                    continue
                data += message["body"]
                more = message["more_body"]
            await respond(send, data)

        with (
            serving(app, {"LIFESPAN": "off"}) as server,
            server.connect() as client,
        ):
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            data = bytes(range(250))
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 250\r\n\r\n")
            pause = threading.Event()
            for number in range(249):
                client.send(data[number : number + 1])
                # About as long as the application waits: some arrive as it gives up.
                pause.wait(0.001)
            # Once at least, however busy the machine is.
            gave_up.wait()
            client.send(data[249:])
            self.assertEqual(client.read().body, data)

    def test_two_tasks_receive(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            data, ended = [], asyncio.Event()

            async def read() -> None:
                while not ended.is_set():
                    message = await receive()
                    if message["type"] == "http.request":
                        data.append(message["body"])
                        if not message["more_body"]:
                            ended.set()

            tasks = [asyncio.create_task(read()) for _ in range(2)]
            await ended.wait()
            await respond(send, b"".join(data))
            await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)

        with (
            self.assertNoLogs(SERVER_LOG, logging.ERROR),
            serving(app, {"LIFESPAN": "off"}) as server,
            server.connect() as client,
        ):
            client.request("/", "POST", "Content-Length: 3")
            for part in (b"a", b"b", b"c"):
                client.send(part)
            self.assertEqual(client.read().body, b"abc")
            self.assertEqual(client.get("/").status, 200)

    def test_continue_is_asked_for_by_receiving(self) -> None:
        go, body_read = Happening(), Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await go.reached()
            body_read.tell(await read_body(receive))
            await respond(send)

        with (
            serving(app, {"LIFESPAN": "off"}) as server,
            server.connect() as client,
        ):
            client.request("/", "PUT", "Expect: 100-continue", "Content-Length: 5")
            client.socket.settimeout(0.3)
            with self.assertRaises(TimeoutError):
                client.socket.recv(1)
            client.socket.settimeout(PATIENCE)
            go.tell()
            self.assertEqual(client.read_head().status, 100)
            client.send(b"hello")
            self.assertEqual(client.read().status, 200)
            self.assertEqual(body_read.wait(), b"hello")


class DisconnectTests(unittest.TestCase):
    def serve(self, app: Any) -> Any:
        return serving(app, {"LIFESPAN": "off"})

    def test_a_waiting_receive_hears_of_it(self) -> None:
        for leave in (Client.close, Client.vanish):
            began, heard = Happening(), Happening()

            async def app(
                scope: Scope,
                receive: Receive,
                send: Send,
                began: Happening = began,
                heard: Happening = heard,
            ) -> None:
                await receive()
                began.tell()
                messages = [await receive() for _ in range(3)]
                heard.tell(messages)

            with self.serve(app) as server:
                client = server.connect()
                client.request()
                began.wait()
                leave(client)
                self.assertEqual(heard.wait(), [{"type": "http.disconnect"}] * 3)

    def test_inside_the_body(self) -> None:
        heard = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            messages = [await receive()]
            while messages[-1]["type"] != "http.disconnect":
                messages.append(await receive())
            heard.tell(messages)

        with self.serve(app) as server:
            client = server.connect()
            client.request("/", "POST", "Content-Length: 9")
            client.send(b"part")
            client.close()
            messages = heard.wait()
            self.assertEqual(messages[-1], {"type": "http.disconnect"})
            self.assertTrue(all(m["more_body"] for m in messages[:-1]))

    def test_after_the_body_is_not_yet_the_end(self) -> None:
        waited, order = Happening(), []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await read_body(receive)
            listening = asyncio.create_task(receive())
            done, _ = await asyncio.wait([listening], timeout=0.3)
            order.append(bool(done))
            await start(send)
            await body(send, b"a", True)
            await asyncio.sleep(0)
            order.append(listening.done())
            await body(send, b"b")
            order.append((await listening)["type"])
            order.append((await receive())["type"])
            waited.tell()

        with self.serve(app) as server, server.connect() as client:
            self.assertEqual(client.get().body, b"ab")
            waited.wait()
            self.assertEqual(
                order, [False, False, "http.disconnect", "http.disconnect"]
            )
            # The client is still there, and asks for more.
            order.clear()
            self.assertEqual(client.get().body, b"ab")

    def test_send_raises(self) -> None:
        for leave in (Client.close, Client.vanish):
            raised = Happening()

            async def app(
                scope: Scope, receive: Receive, send: Send, raised: Happening = raised
            ) -> None:
                await start(send)
                try:
                    while True:
                        await body(send, bytes(65536), True)
                except BaseException as first:
                    errors: list[BaseException] = [first]
                    for _ in range(2):
                        try:
                            await body(send, b"", True)
                        except BaseException as again:
                            errors.append(again)
                    raised.tell(errors)
                    raise

            with (
                self.assertNoLogs(SERVER_LOG, logging.WARNING),
                self.serve(app) as server,
            ):
                client = server.connect()
                client.request()
                client.read_head()
                leave(client)
                errors = raised.wait()
                self.assertEqual(len(errors), 3)
                for error in errors:
                    self.assertIsInstance(error, OSError)
                    self.assertIsInstance(error, ClientDisconnected)

    def test_the_first_send_raises_too(self) -> None:
        raised = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await until_disconnect(receive)
            try:
                await respond(send)
            except OSError as error:
                raised.tell(error)
                raise

        with self.assertNoLogs(SERVER_LOG, logging.WARNING), self.serve(app) as server:
            client = server.connect()
            client.request()
            client.close()
            self.assertIsInstance(raised.wait(), ClientDisconnected)

    def test_who_listens_can_cancel_who_sends(self) -> None:
        # As Django's handler does: a sender that failed first would not clean up.
        ended = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def stream() -> None:
                try:
                    await start(send)
                    while True:
                        await body(send, bytes(65536), True)
                        await asyncio.sleep(0)
                except BaseException as error:
                    ended.tell(error)
                    raise

            await receive()
            listening = asyncio.create_task(receive())
            streaming = asyncio.create_task(stream())
            await asyncio.wait(
                [listening, streaming], return_when=asyncio.FIRST_COMPLETED
            )
            streaming.cancel()

        for leave in (Client.close, Client.vanish):
            ended = Happening()
            with self.serve(app) as server:
                client = server.connect()
                client.request()
                client.read_head()
                leave(client)
                self.assertIsInstance(ended.wait(), asyncio.CancelledError)

    def test_who_sends_raises_when_who_listens_does_nothing(self) -> None:
        ended = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            listening = asyncio.create_task(receive())
            try:
                await start(send)
                while True:
                    await body(send, bytes(65536), True)
            except BaseException as error:
                ended.tell((error, listening.done()))
                raise

        with self.assertNoLogs(SERVER_LOG, logging.WARNING), self.serve(app) as server:
            client = server.connect()
            client.request()
            client.read_head()
            client.close()
            error, heard = ended.wait()
            self.assertIsInstance(error, ClientDisconnected)
            self.assertTrue(heard)

    def test_a_listener_that_runs_beside_the_answer(self) -> None:
        heard = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def listen() -> None:
                heard.tell(await receive())

            await read_body(receive)
            task = asyncio.create_task(listen())
            await start(send)
            for _ in range(20):
                await body(send, b"x" * 1000, True)
            assert not task.done()
            await body(send)
            await task

        with (
            self.assertNoLogs(SERVER_LOG, logging.WARNING),
            self.serve(app) as server,
            server.connect() as client,
        ):
            for _ in range(3):
                self.assertEqual(len(client.get().body), 20_000)
            self.assertEqual(heard.wait(), {"type": "http.disconnect"})

    def test_exceptions_made_of_ours_are_not_errors(self) -> None:
        ended = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await until_disconnect(receive)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(2):
                        group.create_task(respond(send))
            finally:
                ended.tell()

        with self.assertNoLogs(SERVER_LOG, logging.WARNING), self.serve(app) as server:
            client = server.connect()
            client.request()
            client.close()
            ended.wait()

    def test_other_errors_after_it_are_logged(self) -> None:
        heard = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await until_disconnect(receive)
            heard.tell()
            raise ConnectionError("a database, say")

        with self.assertLogs(SERVER_LOG, logging.ERROR) as logs:
            with self.serve(app) as server:
                client = server.connect()
                client.request()
                client.close()
                # A server that stops before may know of no client.
                heard.wait()
            self.assertIn("a database, say", "".join(logs.output))

    def test_a_connection_that_is_closed_one_way(self) -> None:
        heard = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await until_disconnect(receive)
            heard.tell()

        with self.serve(app) as server, server.connect() as client:
            client.request()
            client.socket.shutdown(socket.SHUT_WR)
            heard.wait()
            self.assertTrue(client.ended())


class FailureTests(unittest.TestCase):
    def serve(self, app: Any, **options: Any) -> Any:
        return serving(app, {"LIFESPAN": "off"}, **options)

    def check_500(self, app: Any, words: str, **options: Any) -> Answer:
        """500 on a connection that goes on; the error is logged."""
        with self.assertLogs(SERVER_LOG, logging.ERROR) as logs:
            with self.serve(app, **options) as server, server.connect() as client:
                answer = client.get("/broken")
                self.assertEqual(answer.status, 500)
                self.assertTrue(answer.complete)
                self.assertEqual(client.get("/broken").status, 500)
        self.assertEqual(len(logs.records), 2)
        self.assertIn(words, logs.output[0])
        self.assertIn("GET /broken", logs.output[0])
        return answer

    def test_before_the_head(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise ZeroDivisionError("oops")

        answer = self.check_500(app, "ZeroDivisionError: oops")
        self.assertNotIn(b"oops", answer.body)

    def test_between_head_and_body(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send, 200, [(b"content-length", b"5"), (b"x", b"y")])
            raise ZeroDivisionError("oops")

        self.assertIsNone(self.check_500(app, "oops").get("x"))

    def test_a_path_cannot_forge_a_log_record(self) -> None:
        async def fail(scope: Scope, receive: Receive, send: Send) -> None:
            raise ZeroDivisionError("oops")

        async def stay_silent(scope: Scope, receive: Receive, send: Send) -> None:
            """Returns without answering."""

        for app in (fail, stay_silent):
            with self.assertLogs(SERVER_LOG, logging.ERROR) as logs:
                with self.serve(app) as server, server.connect() as client:
                    client.send(
                        b"GET /a%0aCRITICAL%1b[0m\xff HTTP/1.1\r\nHost: a\r\n\r\n"
                    )
                    self.assertEqual(client.read().status, 500)
            (record,) = logs.records
            self.assertIn(r"GET /a%0aCRITICAL%1b[0m\xff", record.getMessage())
            self.assertTrue(record.getMessage().isprintable())

    def test_not_an_exception_at_all(self) -> None:
        for error in (SystemExit(3), KeyboardInterrupt(), GeneratorExit()):

            async def app(
                scope: Scope,
                receive: Receive,
                send: Send,
                error: BaseException = error,
            ) -> None:
                raise error

            self.check_500(app, type(error).__name__)

    def test_an_application_that_cancels_itself(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise asyncio.CancelledError

        self.check_500(app, "CancelledError")

    def test_an_application_that_is_no_coroutine(self) -> None:
        def app(scope: Scope, receive: Receive, send: Send) -> None:
            return None

        self.check_500(app, "TypeError")

    def test_no_answer(self) -> None:
        async def nothing(scope: Scope, receive: Receive, send: Send) -> None: ...
        async def head(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send)

        for app in (nothing, head):
            self.check_500(app, "returned without answering")

    def test_an_error_page(self) -> None:
        seen = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise ZeroDivisionError("oops")

        def page(scope: Any, error: BaseException) -> Any:
            seen.append((scope["path"], error))
            return 500, [(b"content-type", b"text/html")], b"<h1>sorry</h1>"

        answer = self.check_500(app, "oops", hooks=Hooks(error_page=page))
        self.assertEqual(answer.body, b"<h1>sorry</h1>")
        self.assertEqual(answer.get("content-type"), "text/html")
        self.assertEqual(seen[0][0], "/broken")
        self.assertIsInstance(seen[0][1], ZeroDivisionError)

    def test_no_error_page_after_all(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise ZeroDivisionError("oops")

        hooks = Hooks(error_page=lambda scope, error: None)
        self.assertIn(b"500", self.check_500(app, "oops", hooks=hooks).body)

    def test_an_error_page_that_fails(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise ZeroDivisionError("oops")

        def fails(scope: Any, error: BaseException) -> Any:
            raise ValueError("the page fails too")

        def exits(scope: Any, error: BaseException) -> Any:
            raise SystemExit("the page exits")

        def cannot_be_sent(scope: Any, error: BaseException) -> Any:
            return 500, [(b"a b", b"c")], b""

        for page, words in (
            (fails, "the page fails too"),
            (exits, "the page exits"),
            (cannot_be_sent, "a b"),
        ):
            with (
                self.assertLogs(SERVER_LOG, logging.ERROR) as logs,
                self.serve(app, hooks=Hooks(error_page=page)) as server,
                server.connect() as client,
            ):
                answer = client.get()
                self.assertEqual(answer.status, 500)
                self.assertIn(b"500", answer.body)
            self.assertIn("oops", "".join(logs.output))
            self.assertIn(words, "".join(logs.output))

    def test_after_the_head(self) -> None:
        async def raises(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send, 200, self.headers)
            await body(send, b"hello", True)
            raise ZeroDivisionError("oops")

        async def returns(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send, 200, self.headers)
            await body(send, b"hello", True)

        for app, words in ((raises, "oops"), (returns, "before the end")):
            for self.headers in ([], [(b"content-length", b"9")]):
                with (
                    self.assertLogs(SERVER_LOG, logging.ERROR) as logs,
                    self.serve(app) as server,
                    server.connect() as client,
                ):
                    answer = client.get()
                    self.assertEqual(answer.body, b"hello")
                    self.assertFalse(answer.complete)
                    with server.connect() as other:
                        self.assertEqual(other.get().body, b"hello")
                self.assertEqual(len(logs.records), 2)
                self.assertIn(words, logs.output[0])

    def test_after_the_head_under_http_1_0(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send)
            await body(send, b"hello", True)
            await sent.reached()
            raise ZeroDivisionError("oops")

        sent = Happening()
        with (
            self.assertLogs(SERVER_LOG, logging.ERROR),
            self.serve(app) as server,
            server.connect() as client,
        ):
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            client.read_until(b"hello")
            sent.tell()
            # Nothing but a reset tells that the body is not complete.
            with self.assertRaises(ConnectionResetError):
                client.read_to_end()

    def test_after_the_answer(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(send, b"fine")
            raise ZeroDivisionError("oops")

        with (
            self.assertLogs(SERVER_LOG, logging.ERROR) as logs,
            self.serve(app) as server,
            server.connect() as client,
        ):
            self.assertEqual(client.get().body, b"fine")
            self.assertEqual(client.get().body, b"fine")
        self.assertEqual(len(logs.records), 2)

    def test_the_length_is_not_kept(self) -> None:
        async def less(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send, 200, [(b"content-length", b"9")])
            await body(send, b"hello", True)
            await body(send)

        with (
            self.assertLogs("django_daphne.protocol", logging.ERROR) as logs,
            self.serve(less) as server,
            server.connect() as client,
        ):
            answer = client.get()
            self.assertEqual((answer.body, answer.complete), (b"hello", False))
        self.assertIn("4 bytes less than its Content-Length", logs.output[0])

        async def more(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send, 200, [(b"content-length", b"5")])
            await body(send, b"hell", True)
            await body(send, b"o, world")

        with (
            self.assertLogs(SERVER_LOG, logging.ERROR) as logs,
            self.serve(more) as server,
            server.connect() as client,
        ):
            answer = client.get()
            self.assertEqual((answer.body, answer.complete), (b"hell", False))
        self.assertIn("longer than its Content-Length", logs.output[0])

        async def at_once(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send, 200, [(b"content-length", b"4")])
            await body(send, b"hello")

        self.check_500(at_once, "longer than its Content-Length")

    def test_injection(self) -> None:
        for name, value in ((b"x", b"a\r\nb: c"), (b"x\r\nb", b"c"), (b"x", b"\0")):

            async def app(
                scope: Scope,
                receive: Receive,
                send: Send,
                field: tuple[bytes, bytes] = (name, value),
            ) -> None:
                await respond(send, b"", 200, [field])

            self.assertIsNone(self.check_500(app, "IllegalMessage").get("b"))


START = {"type": "http.response.start", "status": 200, "headers": []}
PART = {"type": "http.response.body", "body": b"a", "more_body": True}
LAST = {"type": "http.response.body", "body": b"b"}
TRAILERS = {"type": "http.response.trailers", "headers": [(b"x", b"y")]}
START_TRAILERS = {**START, "trailers": True}


class OrderTests(unittest.TestCase):
    def refusal(self, *messages: Any, fields: tuple[str, ...] = ()) -> str:
        """What sending the last of ``messages`` raises, the others being fine."""
        raised = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            *good, bad = messages
            for message in good:
                await send(message)
            try:
                await send(bad)
            except BaseException as error:
                raised.tell(error)
                raise
            raised.tell(None)

        with mock.patch.object(logging.getLogger(SERVER_LOG), "disabled", True):
            with serving(app, {"LIFESPAN": "off"}) as server:
                with server.connect() as client:
                    client.request("/", "GET", *fields)
                    error = raised.wait()
        self.assertIsInstance(error, RuntimeError)
        self.assertIsInstance(error, IllegalMessage)
        return str(error)

    def test_messages_out_of_order(self) -> None:
        for messages, state, expected in (
            ([LAST], "before 'http.response.start'", "http.response.start"),
            ([PART], "before 'http.response.start'", "http.response.start"),
            ([TRAILERS], "before 'http.response.start'", "http.response.start"),
            ([START, START], "after 'http.response.start'", "http.response.body"),
            ([START, TRAILERS], "after 'http.response.start'", "http.response.body"),
            ([START, PART, START], "inside the response's body", "response.body"),
            ([START, PART, TRAILERS], "inside the response's body", "response.body"),
            ([START, LAST, LAST], "after the response is complete", "nothing"),
            ([START, PART, LAST, START], "after the response is complete", "nothing"),
            ([START_TRAILERS, LAST, LAST], "after the response's body", "trailers"),
        ):
            with self.subTest(messages=messages):
                text = self.refusal(*messages)
                self.assertIn(repr(messages[-1]["type"]), text)
                self.assertIn(state, text)
                self.assertIn(expected, text)

    def test_unknown_messages(self) -> None:
        for kind in ("http.response.push", "websocket.send", "http.request", "", "x"):
            self.assertIn(repr(kind), self.refusal({"type": kind}))
            self.assertIn(repr(kind), self.refusal(START, {"type": kind}))
            self.assertIn(repr(kind), self.refusal(START, LAST, {"type": kind}))

    def test_bad_contents(self) -> None:
        for messages, words in (
            ([{**START, "status": 99}], "status 99"),
            ([{**START, "status": 101}], "status 101"),
            ([{**START, "status": 600}], "status 600"),
            ([{**START, "status": "200"}], "status '200'"),
            ([{**START, "status": None}], "status None"),
            ([START, {**LAST, "body": "text"}], "type str"),
            ([START, {**LAST, "body": None}], "type NoneType"),
            ([START, {**PART, "body": "text"}], "type str"),
            ([START, PART, {**PART, "body": "text"}], "type str"),
            ([{**START, "headers": [("x", b"y")]}, LAST], "byte strings"),
            ([{**START, "headers": [(b"x", "y")]}, LAST], "byte strings"),
            ([{**START, "headers": [(b"x", b"y", b"z")]}, LAST], "pairs"),
        ):
            with self.subTest(messages=messages):
                self.assertIn(words, self.refusal(*messages))

    def test_loose_but_clear_shapes_are_taken(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": (pair for pair in ([b"X", b"y"], (b"z", b"w"))),
                }
            )
            await send(
                {
                    "type": "http.response.body",
                    "body": bytearray(b"a"),
                    "more_body": True,
                }
            )
            await send(
                {"type": "http.response.body", "body": memoryview(b"b"), "more_body": 1}
            )
            await send({"type": "http.response.body"})

        with serving(app, {"LIFESPAN": "off"}) as server, server.connect() as client:
            answer = client.get()
            self.assertEqual(answer.body, b"ab")
            self.assertEqual((answer.get("X"), answer.get("z")), ("y", "w"))

    def test_headers_may_be_missing(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})

        with serving(app, {"LIFESPAN": "off"}) as server, server.connect() as client:
            self.assertEqual(client.get().status, 204)

    def test_an_application_may_recover(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for message in (LAST, {**START, "status": 0}):
                with contextlib.suppress(RuntimeError):
                    await send(message)
            await start(send, 200, [(b"content-length", b"1")])
            with contextlib.suppress(RuntimeError):
                await body(send, b"too long")
            await body(send, b"a")

        with (
            self.assertNoLogs(SERVER_LOG, logging.WARNING),
            serving(app, {"LIFESPAN": "off"}) as server,
            server.connect() as client,
        ):
            self.assertEqual(client.get().body, b"a")


class ExtensionTests(unittest.TestCase):
    def serve(self, app: Any) -> Any:
        return serving(app, {"LIFESPAN": "off"})

    def test_trailers(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(START_TRAILERS)
            await send(PART)
            await send(LAST)
            await send({**TRAILERS, "more_trailers": True})
            await send({**TRAILERS, "headers": [[b"z", b"w"]]})

        with (
            self.assertNoLogs(SERVER_LOG, logging.WARNING),
            self.serve(app) as server,
            server.connect() as client,
        ):
            answer = client.get("/", "TE: trailers")
            self.assertEqual(answer.body, b"ab")
            self.assertEqual(answer.trailers, [("x", "y"), ("z", "w")])
            answer = client.get("/")
            self.assertEqual((answer.body, answer.trailers), (b"ab", []))
            client.request("/", "HEAD", "TE: trailers")
            self.assertEqual(client.read("HEAD").status, 200)
            self.assertEqual(
                client.get("/", "TE: trailers").trailers, [("x", "y"), ("z", "w")]
            )

    def test_trailers_that_never_come(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(START_TRAILERS)
            await send(LAST)

        with (
            self.assertLogs(SERVER_LOG, logging.ERROR) as logs,
            self.serve(app) as server,
        ):
            with server.connect() as client:
                answer = client.get("/", "TE: trailers")
                self.assertEqual((answer.body, answer.complete), (b"b", False))
            with server.connect() as client:
                # Nothing is missing for a client that wants none.
                self.assertTrue(client.get("/").complete)
                self.assertTrue(client.get("/").complete)
        self.assertEqual(len(logs.records), 3)

    def test_unwanted_trailers_do_not_touch_the_next_request(self) -> None:
        go, done = Happening(), Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/next":
                await start(send)
                await body(send, b"next ", True)
                go.tell()
                await done.reached()
                await body(send, b"untouched")
                return
            await send(START_TRAILERS)
            await send(LAST)
            await go.reached()
            try:
                await send(TRAILERS)
                assert (await receive())["type"] == "http.disconnect"
            finally:
                done.tell()

        with (
            self.assertNoLogs(SERVER_LOG, logging.WARNING),
            self.serve(app) as server,
            server.connect() as client,
        ):
            client.request("/")
            client.request("/next")
            self.assertEqual(client.read().body, b"b")
            answer = client.read()
            self.assertEqual(answer.body, b"next untouched")
            self.assertTrue(answer.complete)

    def test_early_hints(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            hint = {"type": "http.response.early_hint"}
            await send({**hint, "links": [b"</a.css>; rel=preload", b"</b.js>"]})
            await send({**hint, "links": []})
            await start(send)
            await send({**hint, "links": [b"</c.css>"]})
            await body(send, b"a", True)
            await send({**hint, "links": [b"</too-late.css>"]})
            await body(send)

        with self.serve(app) as server, server.connect() as client:
            client.request()
            hint = client.read_head()
            self.assertEqual((hint.status, hint.reason), (103, "Early Hints"))
            self.assertEqual(hint.all("link"), ["</a.css>; rel=preload", "</b.js>"])
            self.assertEqual(client.read_head().all("link"), ["</c.css>"])
            answer = client.read()
            self.assertEqual((answer.status, answer.body), (200, b"a"))
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            self.assertEqual(client.read_head().status, 200)

    def send_file(
        self, path: str | Path, method: str = "GET", headers: Any = ()
    ) -> Answer:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send, 200, headers)
            await send({"type": "http.response.pathsend", "path": str(path)})

        with self.serve(app) as server, server.connect() as client:
            client.request("/", method)
            answer = client.read(method)
            client.request("/", method)
            self.assertEqual(client.read(method).status, answer.status)
            return answer

    def test_pathsend(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "file")
            for data in (b"", b"hello", bytes(range(256)) * 8192):
                path.write_bytes(data)
                answer = self.send_file(path)
                self.assertEqual(answer.body, data)
                self.assertEqual(answer.get("Content-Length"), str(len(data)))
                answer = self.send_file(path, "HEAD")
                self.assertEqual(answer.get("Content-Length"), str(len(data)))
            headers = [(b"content-length", b"%d" % len(data))]
            self.assertEqual(self.send_file(path, headers=headers).body, data)
            with self.assertLogs(SERVER_LOG, logging.ERROR) as logs:
                self.assertEqual(self.send_file(f"{directory}/none").status, 500)
                self.assertEqual(self.send_file("relative").status, 500)
            self.assertIn("FileNotFoundError", logs.output[0])
            self.assertIn("absolute path", logs.output[-1])

    def test_a_file_that_grows_meanwhile(self) -> None:
        size = (8 << 20) + 1000
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "log")
            path.write_bytes(bytes(size))

            async def app(scope: Scope, receive: Receive, send: Send) -> None:
                await start(send)
                await send({"type": "http.response.pathsend", "path": str(path)})

            with (
                self.assertNoLogs(SERVER_LOG, logging.ERROR),
                self.serve(app) as server,
                server.connect(receive_buffer=65536) as client,
            ):
                client.request()
                client.read_until(b"\r\n\r\n")
                with path.open("ab") as file:
                    file.write(b"more")
                self.assertEqual(client.read_exactly(size), bytes(size))
                self.assertEqual(client.get().get("Content-Length"), str(size + 4))

    def test_a_client_that_leaves_inside_a_file(self) -> None:
        closed = Happening()
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "file")
            path.write_bytes(bytes(32 << 20))

            async def app(scope: Scope, receive: Receive, send: Send) -> None:
                await start(send)
                try:
                    await send({"type": "http.response.pathsend", "path": str(path)})
                except OSError as error:
                    closed.tell(error)
                    raise

            with (
                self.assertNoLogs(SERVER_LOG, logging.WARNING),
                self.serve(app) as server,
            ):
                client = server.connect()
                client.request()
                client.read_head()
                client.vanish()
                self.assertIsInstance(closed.wait(), ClientDisconnected)


Check = Callable[[], Awaitable[None]]


class LoopTests(unittest.TestCase):
    """One request is not another's."""

    def test_many_at_once(self) -> None:
        count, all_here = 0, asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal count
            count += 1
            if count == 50:
                all_here.set()
            await all_here.wait()
            await respond(send, scope["path"].encode())

        with serving(app, {"LIFESPAN": "off"}) as server:
            clients = [server.connect() for _ in range(50)]
            for number, client in enumerate(clients):
                client.request(f"/{number}")
            for number, client in enumerate(clients):
                self.assertEqual(client.read().body, b"/%d" % number)
                client.close()

    def test_work_after_the_answer_holds_nothing_up(self) -> None:
        go, ended = Happening(), Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(send, scope["path"].encode())
            if scope["path"] == "/first":
                await go.reached()
                ended.tell(await receive())

        with serving(app, {"LIFESPAN": "off"}) as server, server.connect() as client:
            self.assertEqual(client.get("/first").body, b"/first")
            self.assertEqual(client.get("/second").body, b"/second")
            go.tell()
            self.assertEqual(ended.wait(), {"type": "http.disconnect"})
            self.assertEqual(client.get("/third").body, b"/third")

    def test_hello(self) -> None:
        with serving(hello) as server, server.connect() as client:
            self.assertEqual(client.get().body, b"hello")
