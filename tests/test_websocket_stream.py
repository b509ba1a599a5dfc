"""WebSocket applications, seen from a real socket and from inside."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import subprocess
import sys
import textwrap
import threading
import unittest
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import websockets.sync.client
from channels.generic.websocket import AsyncWebsocketConsumer
from django.test import SimpleTestCase

from django_daphne.application.context import Context, Peer
from django_daphne.application.websocket import MAX_QUEUED, WebSocketStream
from django_daphne.config import build_config
from django_daphne.errors import ProtocolError
from django_daphne.protocol.websocket_handshake import Handshake

from .serving import PATIENCE, Answer, Serving, serving
from .websocket_client import WebSocketClient
from .websocket_frames import BINARY, CLOSE, PING, PONG, TEXT, FakeWire, Sent, frame

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Body = Callable[["Talk"], Awaitable[None]]


class Talk:
    """What the application of a test works with, and tells the test."""

    def __init__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send_event = send

    async def send(self, kind: str, **event: Any) -> None:
        await self.send_event({"type": f"websocket.{kind}", **event})

    async def accept(self, **event: Any) -> None:
        assert (await self.receive()) == {"type": "websocket.connect"}
        await self.send("accept", **event)


class StreamTestCase(SimpleTestCase):
    """``self.serve(body)`` runs ``body`` for each WebSocket.

    What a body puts into ``self.told`` is read with :meth:`hear`; what it returns or
    raises comes last.
    """

    def setUp(self) -> None:
        self.told: queue.Queue[Any] = queue.Queue()

    def hear(self) -> Any:
        return self.told.get(timeout=PATIENCE)

    def hear_failure(self) -> BaseException:
        error = self.hear()
        self.assertIsInstance(error, BaseException)
        return error  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def serve(
        self, body: Body, settings: dict[str, Any] | None = None, **options: Any
    ) -> Iterator[Serving]:
        async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                raise ValueError("no lifespan here")
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": 204})
                await send({"type": "http.response.body"})
                return
            try:
                await body(Talk(scope, receive, send))
            except BaseException as error:
                self.told.put(error)
                raise
            self.told.put("returned")

        with serving(application, settings, **options) as server:
            yield server

    @contextlib.contextmanager
    def talking(
        self, body: Body, settings: dict[str, Any] | None = None, **options: Any
    ) -> Iterator[WebSocketClient]:
        """A client, not yet open, of a server that runs ``body``."""
        with self.serve(body, settings, **options) as server:
            with WebSocketClient(server) as client:
                yield client

    def quiet(self) -> Any:
        """The application is about to fail, which the server logs."""
        return self.assertLogs("django_daphne.server", logging.ERROR)


async def echo(talk: Talk) -> None:
    await talk.accept()
    while (event := await talk.receive())["type"] == "websocket.receive":
        await talk.send("send", text=event.get("text"), bytes=event.get("bytes"))


class HandshakeTests(StreamTestCase):
    def test_the_scope(self) -> None:
        async def body(talk: Talk) -> None:
            self.told.put(talk.scope)
            await talk.accept()

        with self.talking(body) as client:
            client.open(
                "/r%C3%A9union/a%2Fb?q=%20",
                "Sec-WebSocket-Protocol: a, b",
                "Cookie: x=1",
                "Sec-WebSocket-Protocol: c",
                "Cookie: y=2",
                "X_Forged: 1",
            )
            scope = self.hear()
            port = client.socket.getsockname()[1]
        self.assertEqual(scope["type"], "websocket")
        self.assertEqual(scope["asgi"]["version"], "3.0")
        self.assertEqual(scope["http_version"], "1.1")
        self.assertEqual(scope["scheme"], "ws")
        self.assertEqual(scope["path"], "/réunion/a/b")
        self.assertEqual(scope["raw_path"], b"/r%C3%A9union/a%2Fb")
        self.assertEqual(scope["query_string"], b"q=%20")
        self.assertEqual(scope["root_path"], "")
        self.assertEqual(scope["client"], ("127.0.0.1", port))
        self.assertEqual(scope["subprotocols"], ["a", "b", "c"])
        self.assertIn("websocket.http.response", scope["extensions"])
        cookies = [value for name, value in scope["headers"] if name == b"cookie"]
        self.assertEqual(cookies, [b"x=1; y=2"])
        self.assertNotIn(b"x_forged", dict(scope["headers"]))

    def test_subprotocol_and_headers(self) -> None:
        async def body(talk: Talk) -> None:
            headers = [
                (b"x-one", b"1"),
                (b"set-cookie", b"a=b"),
                (b"set-cookie", b"c=d"),
            ]
            await talk.accept(subprotocol="chat.v2", headers=headers)

        with self.talking(body) as client:
            answer = client.open("/", "Sec-WebSocket-Protocol: chat.v1, chat.v2")
        self.assertEqual(answer.get("Sec-WebSocket-Protocol"), "chat.v2")
        self.assertEqual(answer.get("x-one"), "1")
        self.assertEqual(answer.all("set-cookie"), ["a=b", "c=d"])
        self.assertTrue(answer.get("Date"))

    def test_no_subprotocol(self) -> None:
        with self.talking(echo) as client:
            answer = client.open("/", "Sec-WebSocket-Protocol: chat")
        self.assertEqual(answer.all("Sec-WebSocket-Protocol"), [])
        self.assertEqual(answer.all("Sec-WebSocket-Extensions"), [])

    def test_acceptances_that_are_refused(self) -> None:
        cases: dict[str, dict[str, Any]] = {
            "does not offer|offers": {"subprotocol": "other"},
            "inject": {"headers": [(b"x", b"1\r\nx: 2")]},
            "not a valid header name": {"headers": [(b"x y", b"1")]},
            "byte string": {"headers": [("x", b"1")]},
            "belongs to the handshake": {"headers": [(b"Sec-WebSocket-Accept", b"1")]},
            "sec-websocket-protocol": {"headers": [(b"sec-websocket-protocol", b"a")]},
            "upgrade": {"headers": [(b"upgrade", b"h2c")]},
        }
        for expected, event in cases.items():
            with self.subTest(expected):

                async def body(talk: Talk, event: Event = event) -> None:
                    with contextlib.suppress(RuntimeError):
                        await talk.accept(**event)
                    # Nothing is lost: the application may still do better.
                    await talk.send("accept")
                    await talk.send("send", text="better")

                async def fails(talk: Talk, event: Event = event) -> None:
                    await talk.accept(**event)

                with self.talking(body) as client:
                    client.open("/", "Sec-WebSocket-Protocol: a")
                    self.assertEqual(client.read_frame(), Sent(TEXT, b"better"))
                    self.assertEqual(client.read_close().close_code, 1000)
                self.hear()
                with self.talking(fails) as client, self.quiet():
                    client.ask("/", "Sec-WebSocket-Protocol: a")
                    self.assertEqual(client.read().status, 500)
                self.assertRegex(str(self.hear_failure()), expected)

    def test_frames_that_come_with_the_handshake(self) -> None:
        with self.talking(echo) as client:
            client.open("/", early=frame(TEXT, b"impatient") + frame(PING))
            self.assertEqual(client.read_frame(), Sent(TEXT, b"impatient"))
            self.assertEqual(client.read_frame(), Sent(PONG, b""))
            client.close_with()

    def test_a_close_that_comes_with_the_handshake(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()
            self.told.put(await talk.receive())

        with self.talking(body) as client:
            client.open("/", early=frame(CLOSE, b"\x03\xe9gone"))
            self.assertEqual(client.read_close().close_code, 1001)
            event = {"type": "websocket.disconnect", "code": 1001, "reason": "gone"}
            self.assertEqual(self.hear(), event)

    def refuse(self, *lines: str, method: str = "GET") -> Answer:
        head = [f"{method} / HTTP/1.1", "Host: t", "Upgrade: websocket", *lines]
        with (
            self.talking(echo) as client,
            self.assertLogs("django_daphne.protocol", logging.INFO),
        ):
            client.send("\r\n".join([*head, "", ""]).encode())
            return client.read()

    KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    VERSION = "Sec-WebSocket-Version: 13"
    UPGRADE = "Connection: keep-alive, Upgrade"

    def test_handshakes_that_are_refused(self) -> None:
        cases = {
            "an old version": (426, [self.KEY, "Sec-WebSocket-Version: 8"]),
            "no version": (426, [self.KEY]),
            "no key": (400, [self.VERSION]),
            "two keys": (400, [self.KEY, self.KEY, self.VERSION]),
            "a short key": (400, ["Sec-WebSocket-Key: dGhl", self.VERSION]),
            "a key that is not base64": (
                400,
                ["Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!==", self.VERSION],
            ),
            "a body": (400, [self.KEY, self.VERSION, "Content-Length: 1"]),
            "a bad subprotocol": (
                400,
                [self.KEY, self.VERSION, "Sec-WebSocket-Protocol: a b"],
            ),
            "a bad extension": (
                400,
                [self.KEY, self.VERSION, "Sec-WebSocket-Extensions: a;=b"],
            ),
        }
        for name, (status, lines) in cases.items():
            with self.subTest(name):
                answer = self.refuse(self.UPGRADE, *lines)
                self.assertEqual(answer.status, status)
                if status == 426:
                    self.assertEqual(answer.get("Sec-WebSocket-Version"), "13")
        with self.subTest("POST"):
            answer = self.refuse(self.UPGRADE, self.KEY, self.VERSION, method="POST")
            self.assertEqual((answer.status, answer.get("Allow")), (405, "GET"))

    def test_other_upgrades_are_plain_requests(self) -> None:
        with self.talking(echo) as client:
            self.assertEqual(client.get("/", "Upgrade: websocket").status, 204)
            answer = client.get("/", "Upgrade: h2c", "Connection: Upgrade")
            self.assertEqual(answer.status, 204)


class DenialTests(StreamTestCase):
    def test_close_instead_of_accept(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.receive()
            await talk.send("close", code=4000, reason="no")
            self.told.put(await talk.receive())

        with self.talking(body) as client:
            client.ask()
            self.assertEqual(client.read().status, 403)
            event = self.hear()
            self.assertEqual(
                (event["type"], event["code"]), ("websocket.disconnect", 1006)
            )
            # The connection is an HTTP connection still.
            self.assertEqual(client.get().status, 204)

    def test_a_denial_response(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.receive()
            headers = [(b"content-type", b"text/plain"), (b"x-reason", b"teapot")]
            await talk.send("http.response.start", status=418, headers=headers)
            await talk.send("http.response.body", body=b"short ", more_body=True)
            await talk.send("http.response.body", body=b"and stout")
            self.told.put(await talk.receive())

        with self.talking(body) as client:
            client.ask()
            answer = client.read()
            self.assertEqual((answer.status, answer.get("x-reason")), (418, "teapot"))
            self.assertEqual((answer.body, answer.complete), (b"short and stout", True))
            self.assertEqual(self.hear()["type"], "websocket.disconnect")

    def test_a_denial_that_injects_or_has_no_status(self) -> None:
        for event in (
            {"status": 400, "headers": [(b"a", b"\r\nb: c")]},
            {"status": 101},
            {"status": "400"},
        ):
            with self.subTest(event=event):

                async def body(talk: Talk, event: Event = event) -> None:
                    await talk.receive()
                    await talk.send("http.response.start", **event)
                    await talk.send("http.response.body")

                with self.talking(body) as client, self.quiet():
                    client.ask()
                    self.assertEqual(client.read().status, 500)
                self.assertIsInstance(self.hear_failure(), RuntimeError)

    def test_a_denial_that_is_not_finished(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.receive()
            await talk.send("http.response.start", status=400)
            await talk.send("http.response.body", body=b"be", more_body=True)

        with self.talking(body) as client, self.quiet():
            client.ask()
            answer = client.read()
            self.assertEqual((answer.status, answer.complete), (400, False))

    def test_an_application_that_returns(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.receive()

        with self.talking(body) as client, self.quiet() as logs:
            client.ask("/path")
            self.assertEqual(client.read().status, 403)
        self.assertIn("without accepting or denying WebSocket /path", logs.output[0])

    def test_an_application_that_fails(self) -> None:
        async def body(talk: Talk) -> None:
            raise LookupError("the cause")

        with self.talking(body) as client, self.quiet() as logs:
            client.ask()
            self.assertEqual(client.read().status, 500)
        self.assertIn("the cause", logs.output[0])
        self.assertEqual(len(logs.output), 1)

    def test_an_application_that_does_not_decide(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.receive()
            self.told.put(await talk.receive())
            await talk.send("accept")

        settings = {"TIMEOUTS": {"WEBSOCKET_CONNECT": 0.05}}
        with (
            self.talking(body, settings) as client,
            self.assertLogs("django_daphne.protocol", logging.INFO) as logs,
        ):
            client.ask()
            self.assertEqual(client.read().status, 503)
            self.assertEqual(self.hear()["code"], 1006)
            self.assertIsInstance(self.hear_failure(), OSError)
        self.assertEqual(len(logs.output), 1)
        self.assertIn("WARNING", logs.output[0])
        self.assertRegex(logs.output[0], r"127\.0\.0\.1:\d+: .*\['WEBSOCKET_CONNECT'\]")

    def test_a_client_that_does_not_wait(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.receive()
            self.told.put(await talk.receive())

        with self.talking(body) as client:
            client.ask()
            client.close()
            self.assertEqual(self.hear()["code"], 1006)
            self.assertEqual(self.hear(), "returned")


class MessageTests(StreamTestCase):
    def test_echo(self) -> None:
        with self.talking(echo) as client:
            client.open()
            for sent in (
                Sent(TEXT, b""),
                Sent(BINARY, b""),
                Sent(TEXT, "Grüße".encode()),
                Sent(BINARY, bytes(range(256)) * 300),
            ):
                client.frame(sent.opcode, sent.payload)
                self.assertEqual(client.read_frame(), sent)
            client.close_with()
        self.assertEqual(self.hear(), "returned")

    def test_events(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()
            for _ in range(2):
                self.told.put(await talk.receive())

        with self.talking(body) as client:
            client.open()
            client.frame(TEXT, b"text")
            client.frame(BINARY, b"bytes")
            self.assertEqual(self.hear(), {"type": "websocket.receive", "text": "text"})
            self.assertEqual(
                self.hear(), {"type": "websocket.receive", "bytes": b"bytes"}
            )

    def test_what_may_be_sent(self) -> None:
        class Safe(str):
            pass

        async def body(talk: Talk) -> None:
            await talk.accept()
            await talk.send("send", text=Safe("safe"), bytes=None)
            await talk.send("send", bytes=bytearray(b"array"))
            await talk.send("send", bytes=memoryview(b"view"), text=None)

        with self.talking(body) as client:
            client.open()
            self.assertEqual(client.read_frame(), Sent(TEXT, b"safe"))
            self.assertEqual(client.read_frame(), Sent(BINARY, b"array"))
            self.assertEqual(client.read_frame(), Sent(BINARY, b"view"))

    def test_what_may_not_be_sent(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()
            for event in (
                {},
                {"text": None, "bytes": None},
                {"text": "a", "bytes": b"b"},
                {"text": "", "bytes": b""},
                {"text": b"a"},
                {"bytes": "b"},
                {"text": 1},
            ):
                try:
                    await talk.send("send", **event)
                except RuntimeError as error:
                    assert "either 'text'" in str(error)
                else:
                    self.told.put(event)
            await talk.send("send", text="unharmed")

        with self.talking(body) as client:
            client.open()
            self.assertEqual(client.read_frame(), Sent(TEXT, b"unharmed"))
            self.assertEqual(self.hear(), "returned")

    def test_order(self) -> None:
        """Each illegal message names itself and the state, and changes nothing."""
        before = "cannot be sent before 'websocket.accept'"
        after = "cannot be sent after 'websocket.accept'"

        async def body(talk: Talk) -> None:
            async def refused(kind: str, reason: str) -> None:
                try:
                    await talk.send(kind)
                except RuntimeError as error:
                    expected = f"'websocket.{kind}' {reason}"
                    if str(error).startswith(expected):
                        return
                    self.told.put(str(error))
                else:
                    self.told.put(f"{kind} passed")

            await talk.receive()
            await refused("send", before)
            await refused("http.response.body", before)
            await refused("nonsense", before)
            await talk.send("accept")
            await refused("accept", after)
            await refused("http.response.start", after)
            await refused("http.response.body", after)
            await talk.send("close")
            await refused("send", "cannot be sent after 'websocket.close'")
            await refused("close", "cannot be sent after 'websocket.close'")

        with self.talking(body) as client:
            client.open()
            client.read_close()
            self.assertEqual(self.hear(), "returned")

    def test_order_inside_a_denial(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.receive()
            await talk.send("http.response.start", status=400)
            try:
                await talk.send("accept")
            except RuntimeError as error:
                self.told.put(str(error))
            await talk.send("http.response.body")
            try:
                await talk.send("http.response.body")
            except RuntimeError as error:
                self.told.put(str(error))

        with self.talking(body) as client:
            client.ask()
            self.assertEqual(client.read().status, 400)
            self.assertIn("'websocket.http.response.start'", self.hear())
            self.assertIn("after the handshake was denied", self.hear())

    def test_a_cancelled_receive_loses_nothing(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()
            for _ in range(3):
                waiting = asyncio.ensure_future(talk.receive())
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait([waiting])
            await talk.send("send", text="ready")
            waiting = asyncio.ensure_future(talk.receive())
            # Cancelled in the very turn in which the message arrives.
            loop = asyncio.get_running_loop()
            original = type(stream_of(talk)).message

            def message(stream: Any, *arguments: Any) -> bool:
                taken = original(stream, *arguments)
                waiting.cancel()
                return taken

            type(stream_of(talk)).message = message  # type: ignore[method-assign]
            try:
                await asyncio.wait([waiting])
            finally:
                type(stream_of(talk)).message = original  # type: ignore[method-assign]
            assert waiting.cancelled() and loop is not None
            self.told.put((await talk.receive())["text"])

        with self.talking(body) as client:
            client.open()
            client.read_frame()
            client.frame(TEXT, b"kept")
            self.assertEqual(self.hear(), "kept")

    def test_two_that_receive_at_once(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()
            first = asyncio.ensure_future(talk.receive())
            second = asyncio.ensure_future(talk.receive())
            third = asyncio.ensure_future(talk.receive())
            await asyncio.sleep(0)
            first.cancel()
            await talk.send("send", text="ready")
            events = await asyncio.gather(second, third)
            self.told.put(sorted(event["text"] for event in events))

        with self.talking(body) as client:
            client.open()
            client.read_frame()
            client.frame(TEXT, b"a")
            client.frame(TEXT, b"b")
            self.assertEqual(self.hear(), ["a", "b"])


def stream_of(talk: Talk) -> Any:
    return talk.receive.__self__  # type: ignore[attr-defined]


class EndTests(StreamTestCase):
    def test_the_application_closes(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()
            await talk.send("close", code=4002, reason="genug für heute")
            self.told.put(await talk.receive())
            self.told.put(await talk.receive())

        with self.talking(body) as client:
            client.open()
            sent = client.read_close()
            self.assertEqual(sent.payload, b"\x0f\xa2" + "genug für heute".encode())
            event = {
                "type": "websocket.disconnect",
                "code": 4002,
                "reason": "genug für heute",
            }
            self.assertEqual([self.hear(), self.hear()], [event, event])

    def test_the_codes_that_an_application_may_use(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()
            for event in (
                {"code": 1005},
                {"code": 1006},
                {"code": 999},
                {"code": 5000},
                {"code": "1000"},
                {"reason": "x" * 124},
                {"reason": b"bytes"},
            ):
                try:
                    await talk.send("close", **event)
                except RuntimeError as error:
                    assert "close" in str(error)
                else:
                    self.told.put(event)
            await talk.send("close", reason=None)

        with self.talking(body) as client:
            client.open()
            self.assertEqual(client.read_close().payload, b"\x03\xe8")
            self.assertEqual(self.hear(), "returned")

    def test_what_comes_after_the_applications_close_is_dropped(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()
            await talk.receive()
            await talk.send("close")
            self.told.put(await talk.receive())

        with self.talking(body) as client:
            client.open()
            client.send(frame(TEXT, b"a") + frame(TEXT, b"b") + frame(TEXT, b"c"))
            client.frame(TEXT, b"d")
            client.read_close()
            self.assertEqual(self.hear()["type"], "websocket.disconnect")

    def test_sending_after_its_own_close_is_wrong_at_any_time(self) -> None:
        """Whether the client has answered the close, or not, must not matter."""

        async def body(talk: Talk) -> None:
            await talk.accept()
            await talk.send("close")
            while stream_of(talk)._disconnect is None:
                await asyncio.sleep(0.01)
            try:
                await talk.send("send", text="late")
            except RuntimeError as error:
                self.told.put(str(error))

        with self.talking(body) as client:
            client.open()
            client.read_close()
            self.assertIn("after 'websocket.close'", self.hear())

    def test_an_application_that_returns(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()

        with self.talking(body) as client:
            client.open()
            self.assertEqual(client.read_close().close_code, 1000)

    def test_an_application_that_fails(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()
            raise LookupError("the cause")

        with self.talking(body) as client, self.quiet() as logs:
            client.open()
            self.assertEqual(client.read_close().close_code, 1011)
        self.assertEqual(len(logs.output), 1)
        self.assertIn("the cause", logs.output[0])

    def disconnects(self, leave: Callable[[WebSocketClient], object]) -> Event:
        async def body(talk: Talk) -> None:
            await talk.accept()
            events = [await talk.receive() for _ in range(3)]
            assert events[0] == events[1] == events[2]
            # An application may do with its event what it likes.
            assert events[0] is not events[1]
            self.told.put(events[0])

        with self.talking(body) as client:
            client.open()
            leave(client)
            event: Event = self.hear()
            self.assertEqual(self.hear(), "returned")
        self.assertEqual(event["type"], "websocket.disconnect")
        return event

    def test_the_client_closes(self) -> None:
        event = self.disconnects(lambda client: client.close_with(3001, b"bye"))
        self.assertEqual((event["code"], event["reason"]), (3001, "bye"))

    def test_the_client_closes_without_a_code(self) -> None:
        event = self.disconnects(lambda client: client.close_with(None))
        self.assertEqual((event["code"], event["reason"]), (1005, ""))

    def test_the_client_vanishes(self) -> None:
        for leave in (WebSocketClient.close, WebSocketClient.vanish):
            self.assertEqual(self.disconnects(leave)["code"], 1006)

    def test_the_client_breaks_the_protocol(self) -> None:
        def leave(client: WebSocketClient) -> None:
            with self.assertLogs("django_daphne.protocol", logging.INFO) as logs:
                client.send(frame(TEXT, b"\xff"))
                self.assertEqual(client.read_close().close_code, 1007)
            self.assertIn("127.0.0.1:", logs.output[0])

        self.assertEqual(self.disconnects(leave)["code"], 1007)

    def test_messages_that_came_before_the_close_are_received(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()
            await talk.send("send", text="go")
            await asyncio.to_thread(release.wait, PATIENCE)
            while (event := await talk.receive())["type"] == "websocket.receive":
                self.told.put(event["text"])
            self.told.put(event["code"])

        release = threading.Event()
        with self.talking(body) as client:
            client.open()
            client.read_frame()
            client.send(frame(TEXT, b"1") + frame(TEXT, b"2"))
            self.assertEqual(client.close_with(1001).close_code, 1001)
            release.set()
            self.assertEqual([self.hear() for _ in range(3)], ["1", "2", 1001])

    def test_sending_is_silent_until_the_application_knows(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()
            await asyncio.to_thread(gone.wait, PATIENCE)
            while stream_of(talk)._disconnect is None:
                await asyncio.sleep(0.01)
            await talk.send("send", text="silent")
            await talk.send("send", bytes=bytes(1_000_000))
            await talk.send("close")
            try:
                await talk.send("nonsense")
            except RuntimeError:
                self.told.put("still strict")
            self.told.put(await talk.receive())
            await talk.send("send", text="loud")

        gone = threading.Event()
        with self.assertNoLogs("django_daphne.server", logging.ERROR):
            with self.talking(body) as client:
                client.open()
                client.vanish()
                gone.set()
                self.assertEqual(self.hear(), "still strict")
                self.assertEqual(self.hear()["code"], 1006)
                self.assertIsInstance(self.hear_failure(), OSError)

    def test_a_group_of_our_disconnects_is_no_failure_either(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()
            await talk.receive()
            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(talk.send("send", text="x"))

        with self.assertNoLogs("django_daphne.server", logging.ERROR):
            with self.talking(body) as client:
                client.open()
                client.close_with()
                self.assertIsInstance(self.hear_failure(), BaseExceptionGroup)


@dataclass
class Head:
    method: str = "GET"
    http_version: str = "1.1"
    path: str = "/"
    raw_path: bytes = b"/"
    query: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


class Carrier:
    """Accepts a handshake that nobody sent, on a wire that goes nowhere."""

    def __init__(self) -> None:
        self.wire = FakeWire()

    def accept(self, headers: Any, make_engine: Callable[[Any], Any]) -> None:
        self.engine = make_engine(self.wire)


class QueueTests(unittest.IsolatedAsyncioTestCase):
    """What waits between the engine and the application, and how long."""

    CAPACITY = 1000

    async def asyncSetUp(self) -> None:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.Event().wait()

        loop = asyncio.get_running_loop()
        config = build_config({"WEBSOCKET": {"QUEUE_BYTES": self.CAPACITY}})
        context = Context(config, application, loop)
        carrier = Carrier()
        self.wire = carrier.wire
        self.stream = WebSocketStream(
            context,
            carrier,  # type: ignore[arg-type]
            Peer(None, None),
            Head(),
            Handshake((), (), None),
        )
        await self.stream.receive()
        await self.stream.send({"type": "websocket.accept"})
        self.engine = carrier.engine
        self.addCleanup(self.stream.cancel)

    async def take(self, count: int) -> list[Any]:
        return [(await self.stream.receive())["bytes"] for _ in range(count)]

    async def test_bytes(self) -> None:
        message = bytes(400)
        self.engine.receive_data(frame(BINARY, message) * 5)
        self.assertEqual(self.stream._queue, [message] * 3)
        self.assertFalse(self.wire.reading)
        await self.take(2)
        # Nothing is added to a queue that is being emptied: one pause for each of them.
        self.assertEqual(self.stream._queue, [message])
        self.assertFalse(self.wire.reading)
        await self.take(1)
        self.assertTrue(self.wire.reading)
        self.assertEqual(self.stream._queue, [message] * 2)

    async def test_count(self) -> None:
        self.engine.receive_data(frame(BINARY) * (2 * MAX_QUEUED + 1))
        self.assertEqual(len(self.stream._queue), MAX_QUEUED)
        self.assertFalse(self.wire.reading)
        await self.take(MAX_QUEUED)
        self.assertEqual(len(self.stream._queue), MAX_QUEUED)
        await self.take(MAX_QUEUED)
        self.assertEqual(len(self.stream._queue), 1)
        self.assertTrue(self.wire.reading)

    async def test_an_application_that_keeps_up_is_never_paused(self) -> None:
        for _ in range(10):
            self.engine.receive_data(frame(BINARY, bytes(self.CAPACITY)))
            self.assertTrue(self.wire.reading)
            await self.take(1)

    async def test_one_message_may_be_larger_than_the_queue(self) -> None:
        message = bytes(self.CAPACITY * 2)
        for _ in range(3):
            self.engine.receive_data(frame(BINARY, message))
            self.assertFalse(self.wire.reading)
            self.assertEqual(await self.take(1), [message])
            self.assertTrue(self.wire.reading)


class PressureTests(StreamTestCase):
    #: More than the kernel's buffers on both sides and ours take.
    PLENTY = 64 * 1024 * 1024

    def test_an_application_that_does_not_receive_stops_its_client(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()
            await asyncio.to_thread(release.wait, PATIENCE)
            count = 0
            while (event := await talk.receive())["type"] == "websocket.receive":
                assert event["bytes"] == b"%08d" % count + bytes(100_000)
                count += 1
            self.told.put(count)

        release = threading.Event()
        with self.talking(body) as client:
            client.open()
            sent = whole = 0
            client.socket.settimeout(0.5)
            pending = b""
            try:
                while sent < self.PLENTY:
                    if not pending:
                        pending = frame(
                            BINARY, b"%08d" % whole + bytes(100_000), mask=b"\0\0\0\0"
                        )
                        whole += 1
                    accepted = client.socket.send(pending)
                    pending = pending[accepted:]
                    sent += accepted
            except TimeoutError:
                pass
            self.assertLess(sent, self.PLENTY)
            client.socket.settimeout(PATIENCE)
            release.set()
            client.send(pending)
            client.close_with()
            self.assertEqual(self.hear(), whole)

    def test_very_many_small_messages(self) -> None:
        """More than the queue takes in one read, all there and in order."""
        count = 20 * MAX_QUEUED
        with self.talking(echo) as client:
            client.open()
            sender = threading.Thread(
                target=client.send,
                args=(b"".join(frame(TEXT, b"%d" % n) for n in range(count)),),
            )
            sender.start()
            for number in range(count):
                self.assertEqual(client.read_frame().payload, b"%d" % number)
            sender.join()
            client.close_with()

    def test_a_client_that_does_not_read_makes_send_wait(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()
            for number in range(self.PLENTY // 100_000):
                self.count = number
                await talk.send("send", bytes=b"%08d" % number + bytes(100_000))

        with self.serve(body) as server:
            with WebSocketClient(server, receive_buffer=65536) as client:
                client.open()
                client.frame(PING)
                before = -2
                while self.count_now() != before:
                    before = self.count_now()
                    threading.Event().wait(0.2)
                self.assertLess(before, self.PLENTY // 100_000 - 1)
                for number in range(before + 20):
                    sent = client.read_frame()
                    while sent.opcode == PONG:
                        sent = client.read_frame()
                    self.assertEqual(sent.payload[:8], b"%08d" % number)

    count = -1

    def count_now(self) -> int:
        return self.count

    def test_a_waiting_send_is_woken_when_the_client_goes(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()
            while stream_of(talk)._disconnect is None:
                await talk.send("send", bytes=bytes(1_000_000))
            self.told.put("woken")
            self.told.put(await talk.receive())

        with self.serve(body) as server:
            client = WebSocketClient(server, receive_buffer=65536)
            client.open()
            client.read_exactly(1000)
            client.vanish()
            self.assertEqual(self.hear(), "woken")
            self.assertEqual(self.hear()["code"], 1006)

    def test_a_channels_consumer_that_is_sending_gets_its_disconnect(self) -> None:
        told = self.told

        class Consumer(AsyncWebsocketConsumer):
            async def connect(self) -> None:
                await self.accept()
                self.sending = asyncio.ensure_future(self.flood())

            async def flood(self) -> None:
                while True:
                    await self.send(bytes_data=bytes(100_000))

            async def disconnect(self, code: int) -> None:
                self.sending.cancel()
                told.put(code)

        with self.assertNoLogs("django_daphne.server", logging.ERROR):
            with serving(Consumer.as_asgi()) as server:
                client = WebSocketClient(server)
                client.open()
                client.read_exactly(100_000)
                client.vanish()
                self.assertEqual(self.hear(), 1006)


class DrainTests(StreamTestCase):
    def test_open_websockets_are_closed_with_1012(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.accept()
            self.told.put(await talk.receive())

        with self.serve(body) as server, WebSocketClient(server) as client:
            client.open()
            server.stop()
            self.assertEqual(client.read_close().close_code, 1012)
            self.assertEqual(self.hear()["code"], 1012)
            self.assertEqual(self.hear(), "returned")
            server.join()

    def test_handshakes_are_answered_with_503(self) -> None:
        async def body(talk: Talk) -> None:
            await talk.receive()
            self.told.put("waiting")
            self.told.put(await talk.receive())

        with self.serve(body) as server, WebSocketClient(server) as client:
            client.ask()
            self.assertEqual(self.hear(), "waiting")
            server.stop()
            self.assertEqual(client.read().status, 503)
            self.assertEqual(self.hear()["code"], 1012)
            server.join()

    def test_no_handshake_is_begun(self) -> None:
        """Between the decision to stop and its turn, a connection may still ask."""

        async def begin() -> None:
            loop = asyncio.get_running_loop()
            context = Context(build_config({}), None, loop)  # type: ignore[arg-type]
            context.draining = True
            head, handshake = Head(), Handshake((), (), None)
            with self.assertRaises(ProtocolError) as caught:
                WebSocketStream(
                    context,
                    Carrier(),  # type: ignore[arg-type]
                    Peer(None, None),
                    head,
                    handshake,
                )
            self.assertEqual(caught.exception.status, 503)
            self.assertEqual(context.streams, set())

        asyncio.run(begin())


class AccessTests(StreamTestCase):
    def test_connect_reject_and_disconnect(self) -> None:
        lines: list[tuple[str, int]] = []

        def log_access(
            kind: str, scope: Any, status: int, sent: int, seconds: float
        ) -> None:
            assert scope["type"] == "websocket" and 0 <= seconds < PATIENCE
            lines.append((kind, status))

        async def body(talk: Talk) -> None:
            if talk.scope["path"] == "/no":
                await talk.send("close")
            else:
                await echo(talk)

        with self.serve(body, log_access=log_access) as server:
            with WebSocketClient(server) as client:
                client.ask("/no")
                client.read()
            with WebSocketClient(server) as client:
                client.open()
                client.close_with(1001)
        self.assertEqual(
            lines, [("reject", 403), ("connect", 101), ("disconnect", 1001)]
        )

    def test_a_client_that_leaves_before_the_end_of_a_denial(self) -> None:
        lines: list[tuple[str, int]] = []

        def log_access(
            kind: str, scope: Any, status: int, sent: int, seconds: float
        ) -> None:
            lines.append((kind, status))

        async def body(talk: Talk) -> None:
            await talk.receive()
            if talk.scope["path"] == "/head":
                await talk.send("http.response.start", status=401)
            elif talk.scope["path"] == "/body":
                await talk.send("http.response.start", status=401)
                await talk.send("http.response.body", body=b"no", more_body=True)
            self.told.put("asked")
            self.told.put(await talk.receive())

        with self.serve(body, log_access=log_access) as server:
            for path in ("/", "/head", "/body"):
                with WebSocketClient(server) as client:
                    client.ask(path)
                    self.hear()
                self.assertEqual(self.hear()["type"], "websocket.disconnect")
                self.assertEqual(self.hear(), "returned")
        self.assertEqual(lines, [("reject", 499), ("reject", 499), ("reject", 401)])


class ClientTests(StreamTestCase):
    """Clients that others wrote, with the compression that they ask for."""

    MESSAGES = ("", "short", "ü" * 500, "long " * 30_000, b"", b"\0" * 100_000)

    def test_websockets(self) -> None:
        for compression in ("deflate", None):
            with self.subTest(compression=compression), self.serve(echo) as server:
                with websockets.sync.client.connect(
                    server.ws_url, compression=compression, open_timeout=PATIENCE
                ) as client:
                    for message in self.MESSAGES:
                        client.send(message)
                        self.assertEqual(client.recv(PATIENCE), message)
                    client.send(["frag", "ments"])
                    self.assertEqual(client.recv(PATIENCE), "fragments")
                    self.assertTrue(client.ping().wait(PATIENCE))
                    extensions = client.protocol.extensions
                    self.assertEqual(len(extensions), 1 if compression else 0)

    def test_aiohttp(self) -> None:
        async def talk(url: str) -> None:
            async with aiohttp.ClientSession() as session:
                for compress in (0, 15, 9):
                    async with session.ws_connect(url, compress=compress) as client:
                        for message in self.MESSAGES:
                            if isinstance(message, str):
                                await client.send_str(message)
                                got: Any = await client.receive_str(timeout=PATIENCE)
                            else:
                                await client.send_bytes(message)
                                got = await client.receive_bytes(timeout=PATIENCE)
                            self.assertEqual(got, message)
                        self.assertEqual(bool(client.compress), bool(compress))

        with self.serve(echo) as server:
            asyncio.run(talk(server.ws_url))

    #: In a process of its own: it chooses txaio's framework.
    AUTOBAHN = """
        import asyncio, sys
        from autobahn.asyncio.websocket import (
            WebSocketClientFactory, WebSocketClientProtocol)
        from autobahn.websocket.compress import (
            PerMessageDeflateOffer, PerMessageDeflateResponseAccept)

        MESSAGES = [b"", b"short", b"long " * 30_000, bytes(100_000)]

        class Client(WebSocketClientProtocol):
            def onOpen(self):
                self.left = list(MESSAGES)
                self.next()
            def next(self):
                if self.left:
                    self.sendMessage(self.left[0], isBinary=True)
                else:
                    self.sendClose(3000, "done")
            def onMessage(self, payload, isBinary):
                assert isBinary and payload == self.left.pop(0)
                self.next()
            def onClose(self, clean, code, reason):
                extensions = self.websocket_extensions_in_use
                self.factory.closed.set_result((clean, code, reason, len(extensions)))

        async def main(url):
            loop = asyncio.get_running_loop()
            factory = WebSocketClientFactory(url, loop=loop)
            factory.protocol = Client
            factory.closed = loop.create_future()
            factory.setProtocolOptions(
                perMessageCompressionOffers=[PerMessageDeflateOffer()],
                perMessageCompressionAccept=PerMessageDeflateResponseAccept)
            await loop.create_connection(factory, factory.host, factory.port)
            print(*await factory.closed)

        asyncio.run(main(sys.argv[1]))
    """

    def test_autobahn(self) -> None:
        with self.serve(echo) as server:
            process = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(self.AUTOBAHN), server.ws_url],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
        self.assertEqual(process.stdout.strip(), "True 3000 done 1", process.stderr)

    def test_compression_turned_off(self) -> None:
        with self.serve(echo, {"WEBSOCKET": {"COMPRESSION": False}}) as server:
            with websockets.sync.client.connect(
                server.ws_url, open_timeout=PATIENCE
            ) as client:
                self.assertEqual(client.protocol.extensions, [])

    def test_pings(self) -> None:
        settings = {"WEBSOCKET": {"PING_INTERVAL": 0.5, "PING_TIMEOUT": 3}}
        with self.talking(echo, settings) as client:
            client.open()
            self.assertEqual(client.read_frame(), Sent(PING, b""))
            client.frame(PONG)
            self.assertEqual(client.read_frame(), Sent(PING, b""))
            # Silence from here on.
            sent = client.read_frame()
            while sent.opcode == PING:
                sent = client.read_frame()
            self.assertEqual((sent.opcode, sent.close_code), (CLOSE, 1011))
