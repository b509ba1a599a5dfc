"""HTTP/1.1 over real sockets, on both event loops."""

from __future__ import annotations

import asyncio
import contextvars
import email.utils
import errno
import gc
import logging
import socket
import threading
import time
import unittest
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from django_daphne.application.http import HTTPStream
from django_daphne.server import connection, process
from django_daphne.server.connection import Connection
from django_daphne.server.server import Server

from .asgi_apps import (
    Receive,
    Scope,
    Send,
    body,
    echo,
    read_body,
    respond,
    start,
    until_disconnect,
)
from .serving import PATIENCE, Client, make_config, serving
from .test_asgi import Happening

PROTOCOL_LOG = "django_daphne.protocol"
SERVER_LOG = "django_daphne.server"


async def pages(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what was asked for: method, path and body."""
    try:
        data = await read_body(receive)
    except EOFError:
        return
    text = f"{scope['method']} {scope['path']} ".encode() + data
    await respond(send, text, int(scope["query_string"] or 200))


async def deaf(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without looking at the body."""
    await respond(send, b"no, thank you", 403)


def longer_than(seconds: float) -> Iterator[float]:
    """How long a slow client rests before each of its reads, without end.

    After more than ``seconds`` it hurries.
    """
    end = time.monotonic() + seconds + 1
    while time.monotonic() < end:
        yield 0.02
    while True:
        yield 0


def read_slowly(client: Client, seconds: float) -> Iterator[bytes]:
    """What comes, piece by piece, without end; for more than ``seconds`` slowly."""
    for pause in longer_than(seconds):
        time.sleep(pause)
        some = client.read_some()
        if not some:
            raise AssertionError("the response was cut off")
        yield some


class HTTPTests(unittest.TestCase):
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = staticmethod(
        process.new_event_loop
    )

    def serve(self, app: Any = pages, **options: Any) -> Any:
        settings = {"LIFESPAN": "off", **options.pop("settings", {})}
        return serving(app, settings, loop_factory=self.loop_factory, **options)

    def assert_heard_out(self, client: Client) -> None:
        """The server has closed its direction, while it hears the client out."""
        self.assertTrue(client.ended())

    # -- Requests and answers ----------------------------------------------------------

    def test_one_connection_many_requests(self) -> None:
        with self.serve() as server, server.connect() as client:
            for number in range(50):
                self.assertEqual(client.get(f"/{number}").body, b"GET /%d " % number)
            client.request("/a", "POST", body=b"hello")
            self.assertEqual(client.read().body, b"POST /a hello")
            client.request("/a", "HEAD")
            answer = client.read("HEAD")
            self.assertEqual(answer.get("Content-Length"), "8")
            client.request("/?204", "DELETE")
            self.assertEqual(client.read().status, 204)
            client.request("/?304")
            self.assertEqual(client.read().status, 304)
            client.request("/b", "M-SEARCH")
            self.assertEqual(client.read().body, b"M-SEARCH /b ")

    def test_chunks(self) -> None:
        with self.serve() as server, server.connect() as client:
            for _ in range(3):
                client.send(
                    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                    b"5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nX: y\r\n\r\n"
                )
                self.assertEqual(client.read().body, b"POST / hello!")

    def test_an_upgrade_not_taken(self) -> None:
        with self.serve() as server, server.connect() as client:
            for _ in range(2):
                client.request(
                    "/",
                    "POST",
                    "Connection: Upgrade, HTTP2-Settings",
                    "Upgrade: h2c",
                    "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
                    body=b"a=b",
                )
                self.assertEqual(client.read().body, b"POST / a=b")

    def test_http_1_0(self) -> None:
        with self.serve() as server:
            with server.connect() as client:
                client.send(b"GET /a HTTP/1.0\r\n\r\n")
                answer = client.read()
                self.assertEqual(answer.body, b"GET /a ")
                self.assertEqual(answer.get("Connection"), "close")
                self.assertTrue(client.ended())
            with server.connect() as client:
                for _ in range(3):
                    client.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                    answer = client.read()
                    self.assertEqual(answer.body, b"GET /a ")
                    self.assertEqual(answer.get("Connection"), "keep-alive")

    def test_http_1_0_without_a_length(self) -> None:
        with self.serve(echo) as server, server.connect() as client:
            client.send(
                b"POST / HTTP/1.0\r\n"
                b"Connection: keep-alive\r\nContent-Length: 5\r\n\r\n"
            )
            client.send(b"he")
            client.read_until(b"\r\n\r\nhe")
            client.send(b"llo")
            self.assertEqual(client.read_to_end(), b"llo")

    def test_close(self) -> None:
        with self.serve() as server, server.connect() as client:
            answer = client.get("/", "Connection: close")
            self.assertEqual(answer.get("Connection"), "close")
            self.assertTrue(client.ended())

    @mock.patch.object(connection, "LINGER", PATIENCE)
    def test_data_behind_a_close_does_not_destroy_the_answer(self) -> None:
        with self.serve() as server, server.connect() as client:
            request = b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            client.send(request + request * 10_000)
            self.assertEqual(client.read().body, b"GET /a ")
            self.assert_heard_out(client)

    def test_date(self) -> None:
        with self.serve() as server, server.connect() as client:
            value = client.get().get("Date")
            assert value is not None
            date = email.utils.parsedate_to_datetime(value)
            self.assertLess(abs(time.time() - date.timestamp()), PATIENCE)
            self.assertEqual(value, email.utils.format_datetime(date, usegmt=True))

    def test_server_header(self) -> None:
        with self.serve() as server, server.connect() as client:
            self.assertIsNone(client.get().get("Server"))
        settings = {"SERVER_HEADER": "mine/1"}
        with self.serve(settings=settings) as server, server.connect() as client:
            self.assertEqual(client.get().get("Server"), "mine/1")

    def test_large_answers(self) -> None:
        data = bytes(range(256)) * 40_000

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/whole":
                await respond(send, data)
                return
            await start(send)
            for begin in range(0, len(data), 100_000):
                await body(send, data[begin : begin + 100_000], True)
            await body(send)

        with self.serve(app) as server, server.connect() as client:
            for path in ("/whole", "/parts", "/whole"):
                answer = client.get(path)
                self.assertTrue(answer.complete)
                self.assertEqual(answer.body, data)

    # -- Pipelining --------------------------------------------------------------------

    def test_pipelining(self) -> None:
        with self.serve() as server, server.connect() as client:
            number, ahead = 3000, 500

            def ask(begin: int) -> None:
                client.send(
                    b"".join(
                        b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"
                        % n
                        for n in range(begin, min(begin + ahead, number))
                    )
                )

            ask(0)
            for n in range(number):
                if n % ahead == 0:
                    ask(n + ahead)
                self.assertEqual(client.read().body, b"POST /%d ab" % n)

    def test_answers_that_nobody_reads_are_not_made(self) -> None:
        made, size = 0, 256 * 1024

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal made
            made += 1
            await respond(send, bytes(size))

        with self.serve(app) as server, server.connect() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)
            seen = -1
            while seen != made:
                seen = made
                time.sleep(0.3)
            self.assertLess(made, 200)
            for _ in range(1000):
                self.assertEqual(len(client.read().body), size)
            self.assertEqual(made, 1000)

    # -- Refusals ----------------------------------------------------------------------

    def test_refusals_are_answered_and_logged(self) -> None:
        for data, status in (
            (b"nonsense\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\nZ: 1\r\n\r\n", 400),
            (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            (b"GET /" + b"a" * 9000, 414),
            (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000, 431),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),
            (
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                400,
            ),
            (
                b"POST / HTTP/1.1\r\nHost: a\r\n"
                b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
                400,
            ),
        ):
            with (
                self.subTest(data=data[:60]),
                self.assertLogs(PROTOCOL_LOG, logging.INFO) as logs,
                self.serve() as server,
                server.connect() as client,
            ):
                host, port = client.socket.getsockname()
                client.send(data)
                answer = client.read()
                self.assertEqual(answer.status, status)
                self.assertEqual(answer.get("Connection"), "close")
                self.assert_heard_out(client)
                (record,) = logs.records
                self.assertIn(f"{host}:{port}", record.getMessage())
                self.assertIn(str(status), record.getMessage())
                self.assertEqual(record.status, status)  # type: ignore[attr-defined]

    def test_nothing_behind_a_refusal_is_served(self) -> None:
        served = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            served.append(scope["path"])
            await respond(send)

        good = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        with self.serve(app) as server, server.connect() as client:
            client.get("/first")
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + good)
            self.assertEqual(client.read().status, 400)
            with self.assertRaises((EOFError, ConnectionError)):
                for _ in range(1000):
                    client.send(good)
                    client.read_head()
        self.assertEqual(served, ["/first"])

    @mock.patch.object(connection, "LINGER", PATIENCE)
    def test_the_answer_reaches_a_client_that_is_still_sending(self) -> None:
        size = 3_000_000
        for app, settings, status in (
            (deaf, {}, 403),
            (pages, {"LIMITS": {"BODY_BYTES": 1000}}, 413),
        ):
            for coded in (False, True):
                with (
                    self.serve(app, settings=settings) as server,
                    server.connect() as client,
                ):
                    if coded:
                        client.request("/", "POST", "Transfer-Encoding: chunked")
                        data = b"8000\r\n" + bytes(0x8000) + b"\r\n"
                    else:
                        client.request("/", "POST", f"Content-Length: {size}")
                        data = bytes(0x8000)
                    for _ in range(size // 0x8000):
                        client.send(data)
                    answer = client.read()
                    self.assertEqual(answer.status, status)
                    self.assertTrue(answer.complete)
                    self.assert_heard_out(client)

    def test_a_small_rest_of_a_body_keeps_the_connection(self) -> None:
        with self.serve(deaf) as server, server.connect() as client:
            for _ in range(3):
                client.request("/", "POST", body=bytes(1000))
                answer = client.read()
                self.assertEqual(answer.status, 403)
                self.assertIsNone(answer.get("Connection"))

    def test_expect_continue_refused(self) -> None:
        with self.serve(deaf) as server, server.connect() as client:
            client.request("/", "PUT", "Expect: 100-continue", "Content-Length: 9")
            answer = client.read_head()
            self.assertEqual(answer.status, 403)
            self.assertEqual(answer.get("Connection"), "close")

    # -- Time --------------------------------------------------------------------------

    def timed(self, app: Any = pages, **timeouts: Any) -> Any:
        return self.serve(app, settings={"TIMEOUTS": timeouts})

    def test_a_connection_that_asks_for_nothing(self) -> None:
        with (
            self.assertNoLogs(PROTOCOL_LOG, logging.INFO),
            self.timed(HEADERS=0.2) as server,
            server.connect() as client,
        ):
            self.assertEqual(client.read_to_end(), b"")

    def test_part_of_a_head(self) -> None:
        with self.timed(HEADERS=2) as server, server.connect() as client:
            client.send(b"GET / HTTP/1.1\r\nHost:")
            self.assertEqual(client.read().status, 408)
            self.assertTrue(client.ended())

    def test_a_head_that_drips(self) -> None:
        with self.timed(HEADERS=2) as server, server.connect() as client:
            client.socket.settimeout(0.05)
            head = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 10_000
            answered = b""
            for position in range(len(head)):
                try:
                    client.send(head[position : position + 1])
                    answered = client.socket.recv(100)
                    break
                except TimeoutError:
                    continue
            self.assertTrue(answered.startswith(b"HTTP/1.1 408 "), answered)

    def test_an_idle_connection(self) -> None:
        with (
            self.assertNoLogs(PROTOCOL_LOG, logging.INFO),
            self.timed(KEEP_ALIVE=2) as server,
            server.connect() as client,
        ):
            for _ in range(3):
                self.assertEqual(client.get().status, 200)
            self.assertEqual(client.read_to_end(), b"")

    def test_a_stalled_body(self) -> None:
        for data in (b"Content-Length: 9\r\n\r\nabc", b"Content-Length: 9\r\n\r\n"):
            with self.timed(BODY=0.3) as server, server.connect() as client:
                client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + data)
                self.assertEqual(client.read().status, 408)
                self.assertTrue(client.ended())

    def test_a_body_that_keeps_coming(self) -> None:
        timeouts, limits = {"BODY": 4}, {"MINIMUM_RATE": None}
        with (
            self.serve(settings={"TIMEOUTS": timeouts, "LIMITS": limits}) as server,
            server.connect() as client,
        ):
            client.request("/", "POST", "Content-Length: 8")
            for _ in range(8):
                # Each comes in good time, and all of them take longer than that.
                time.sleep(0.6)
                client.send(b"a")
            self.assertEqual(client.read().body, b"POST / aaaaaaaa")

    def test_an_application_may_take_its_time_over_a_body(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.sleep(4)
            data = await read_body(receive)
            await respond(send, b"%d" % len(data))

        # More than we hold: reading is paused for longer than BODY.
        with self.timed(app, BODY=2) as server, server.connect() as client:
            client.request("/", "POST", body=bytes(1_000_000))
            self.assertEqual(client.read().body, b"1000000")

    def test_a_response_that_takes_too_long(self) -> None:
        told = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await read_body(receive)
            told.tell(await receive())

        with (
            self.assertLogs(PROTOCOL_LOG, logging.WARNING),
            self.timed(app, REQUEST=0.3) as server,
            server.connect() as client,
        ):
            answer = client.get()
            self.assertEqual(answer.status, 503)
            self.assertTrue(client.ended())
            self.assertEqual(told.wait(), {"type": "http.disconnect"})

    def test_a_response_that_takes_too_long_after_its_head(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send)
            await body(send, b"begun", True)
            await until_disconnect(receive)

        with (
            self.assertLogs(PROTOCOL_LOG, logging.WARNING),
            self.timed(app, REQUEST=0.3) as server,
            server.connect() as client,
        ):
            answer = client.get()
            self.assertEqual((answer.body, answer.complete), (b"begun", False))

    def test_a_client_that_reads_nothing(self) -> None:
        ended = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send)
            try:
                while True:
                    await body(send, bytes(65536), True)
            except OSError as error:
                ended.tell(error)
                raise

        with (
            self.assertLogs(PROTOCOL_LOG, logging.INFO) as logs,
            self.timed(app, WRITE=0.5) as server,
            server.connect() as client,
        ):
            client.request()
            ended.wait()
        self.assertIn("took nothing", logs.output[0])

    def test_a_client_that_reads_slowly_is_served(self) -> None:
        size = 20_000_000

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send)
            for _ in range(size // 64_000):
                await body(send, bytes(64_000), True)
            await body(send)

        with (
            self.assertNoLogs(PROTOCOL_LOG, logging.INFO),
            self.timed(app, WRITE=4) as server,
            server.connect(receive_buffer=65536) as client,
        ):
            client.request()
            data = b""
            for some in read_slowly(client, 4):
                data = (data + some)[-65536:]
                if data.endswith(b"\r\n0\r\n\r\n"):
                    break

    def test_an_answer_of_one_piece_that_is_read_slowly(self) -> None:
        # The application is done with it long before the client is.
        size = 20_000_000

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(send, bytes(size))

        with (
            self.timed(app, KEEP_ALIVE=0.3, WRITE=4) as server,
            server.connect(receive_buffer=65536) as client,
        ):
            client.request()
            client.read_until(b"\r\n\r\n")
            left = size
            for some in read_slowly(client, 4):
                left -= len(some)
                if not left:
                    break

    # -- One request is not another's --------------------------------------------------

    def test_context_variables(self) -> None:
        variable = contextvars.ContextVar("variable", default="unset")
        seen = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append((scope["path"], variable.get()))
            variable.set(scope["path"])
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
                return
            await read_body(receive)
            # Large: the wire is full for a while.
            await respond(send, bytes(1_000_000))

        with self.serve(app) as server, server.connect() as client:
            large = b"POST /%b HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
            for data in (
                [b"GET /alone HTTP/1.1\r\nHost: a\r\n\r\n"],
                [b"GET /ahead/%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(5)],
                # Reading is paused and resumed from inside the application.
                [large % b"upload" + bytes(1_000_000)],
                [large % b"another" + bytes(1_000_000)],
                [
                    b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n",
                    b"GET /socket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n"
                    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n",
                ],
            ):
                client.send(b"".join(data))
                for _ in data:
                    client.read()
        self.assertEqual(len(seen), 10)
        self.assertEqual({value for _, value in seen}, {"unset"}, seen)

    # -- Endings -----------------------------------------------------------------------

    def test_clients_that_leave_leave_nothing(self) -> None:
        leaves: list[tuple[bytes, Callable[[Client], None]]] = [
            (data, leave)
            for data in (
                b"",
                b"GET",
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab",
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 10,
                b"POST /large HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n"
                + bytes(500_000),
            )
            for leave in (Client.close, Client.vanish)
        ]
        with self.assertNoLogs(SERVER_LOG, logging.WARNING), self.serve(echo) as server:
            for data, leave in leaves * 3:
                client = server.connect()
                client.send(data)
                leave(client)
            with server.connect() as client:
                client.request("/", "POST", body=b"still here")
                self.assertEqual(client.read().body, b"still here")
        gc.collect()
        left = [o for o in gc.get_objects() if isinstance(o, HTTPStream | Connection)]
        self.assertEqual(left, [])

    def test_access_is_told(self) -> None:
        told: list[tuple[Any, ...]] = []
        happened = threading.Semaphore(0)

        def log_access(
            kind: str, scope: Any, status: int, sent: int, seconds: float
        ) -> None:
            told.append((kind, scope["path"], status, sent))
            self.assertGreaterEqual(seconds, 0)
            happened.release()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/fails":
                raise ZeroDivisionError
            if scope["path"] == "/parts":
                await start(send, 201)
                await body(send, b"abc", True)
                await body(send, b"def")
            elif scope["path"] == "/slow":
                await until_disconnect(receive)
            else:
                await respond(send, b"hello", 202)

        with (
            self.assertLogs(SERVER_LOG, logging.ERROR),
            self.serve(
                app, log_access=log_access, settings={"TIMEOUTS": {"BODY": 2}}
            ) as server,
        ):
            with server.connect() as client:
                for path in ("/", "/parts", "/fails"):
                    client.get(path)
                client.request("/", "HEAD")
                client.read("HEAD")
                client.request("/slow", "POST", "Content-Length: 5")
                self.assertEqual(client.read().status, 408)
            with server.connect() as client:
                client.request("/slow", "POST", "Content-Length: 5")
            for _ in range(6):
                self.assertTrue(happened.acquire(timeout=PATIENCE))
        self.assertEqual(
            told,
            [
                ("http", "/", 202, 5),
                ("http", "/parts", 201, 6),
                ("http", "/fails", 500, 26),
                # What a client never gets is not counted.
                ("http", "/", 202, 0),
                ("http", "/slow", 408, 0),
                ("http", "/slow", 499, 0),
            ],
        )

    def test_a_half_closed_connection_hears_the_end(self) -> None:
        with self.serve() as server, server.connect() as client:
            client.get()
            client.socket.shutdown(socket.SHUT_WR)
            self.assertTrue(client.ended())


class LeavingTransport(asyncio.Transport):
    """Its peer resets the connection between our last byte and our end."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def set_write_buffer_limits(self, *limits: Any, **named: Any) -> None: ...
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: Any) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    def abort(self) -> None:
        self.aborted = True


class ConnectionTests(unittest.IsolatedAsyncioTestCase):
    async def test_a_reset_at_the_last_moment(self) -> None:
        server = Server(make_config(), pages)
        connection, transport = Connection(server), LeavingTransport()
        connection.connection_made(transport)
        connection.data_received(b"nonsense\r\n\r\n")
        self.assertTrue(transport.written.startswith(b"HTTP/1.1 400 "))
        self.assertTrue(transport.aborted)
        connection.connection_lost(None)
        self.assertEqual(server.connections, set())


class HTTPTestsOnAsyncio(HTTPTests):
    """The same where there is no uvloop."""

    loop_factory = staticmethod(asyncio.new_event_loop)
