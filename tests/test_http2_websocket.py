"""WebSockets over HTTP/2 (RFC 8441): the same application, the same behaviour."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import unittest
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.test import tag
from playwright.sync_api import sync_playwright

from django_daphne.protocol.http2 import STREAM_WINDOW

from . import http2_peer as h2
from .asgi_apps import Message, Receive, Scope, Send, respond
from .http2_client import HTTP2Client, WebSocketOverHTTP2
from .http2_peer import END_STREAM, NO_ERROR
from .listening import Authority
from .services import find, require
from .serving import PATIENCE, Process, Serving, serving
from .test_asgi import Happening
from .test_example_browser import ARGUMENTS
from .websocket_frames import BINARY, CLOSE, PING, PONG, TEXT, frame


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepts and echoes; answers plain requests with ``hello``."""
    if scope["type"] == "http":
        await respond(send, b"hello")
        return
    await receive()
    await send({"type": "websocket.accept", "headers": [(b"x-accepted", b"yes")]})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({**message, "type": "websocket.send"})


class WebSocketTestCase(unittest.TestCase):
    def serve(self, app: Any, settings: dict[str, Any] | None = None) -> Serving:
        return self.enterContext(serving(app, {"LIFESPAN": "off", **(settings or {})}))

    def connect(self, server: Serving | Process, **options: Any) -> HTTP2Client:
        client = HTTP2Client(server.port, **options)
        self.addCleanup(client.close)
        return client

    def open(
        self, app: Any, path: bytes = b"/", *fields: tuple[bytes, bytes], **options: Any
    ) -> WebSocketOverHTTP2:
        client = self.connect(self.serve(app, options.pop("settings", None)), **options)
        return WebSocketOverHTTP2(client, path, *fields)


class Handshakes(WebSocketTestCase):
    def test_it_is_offered(self) -> None:
        client = self.connect(self.serve(echo))
        client.read_until(lambda: client.of(h2.SETTINGS))
        self.assertIn(b"\0\x08\0\0\0\x01", client.of(h2.SETTINGS)[0].payload)

    def test_accepting(self) -> None:
        socket = self.open(echo)
        response = socket.response
        self.assertEqual(response.status, 200)
        self.assertEqual(response.get(b"x-accepted"), b"yes")
        self.assertIsNotNone(response.get(b"date"))
        for name in (b"upgrade", b"connection", b"sec-websocket-accept"):
            self.assertIsNone(response.get(name))

    def test_the_scope(self) -> None:
        seen = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.tell(scope)
            await receive()
            await send({"type": "websocket.accept", "subprotocol": "b"})

        socket = self.open(
            app,
            b"/a%20b?c=d",
            (b"sec-websocket-protocol", b"a, b"),
            (b"origin", b"https://example.org"),
            (b"cookie", b"a=1"),
            (b"cookie", b"b=2"),
        )
        self.assertEqual(socket.response.get(b"sec-websocket-protocol"), b"b")
        scope = seen.wait()
        self.assertEqual(scope["type"], "websocket")
        self.assertEqual(scope["http_version"], "2")
        self.assertEqual(scope["scheme"], "ws")
        self.assertEqual(scope["path"], "/a b")
        self.assertEqual(scope["raw_path"], b"/a%20b")
        self.assertEqual(scope["query_string"], b"c=d")
        self.assertEqual(scope["subprotocols"], ["a", "b"])
        headers = scope["headers"]
        self.assertEqual(headers[0], (b"host", b"example.org"))
        self.assertIn((b"cookie", b"a=1; b=2"), headers)
        self.assertFalse([name for name, _ in headers if name.startswith(b":")])
        self.assertNotIn("method", scope)

    def test_denying(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await respond(send)
                return
            await receive()
            if scope["path"] == "/plain":
                await send({"type": "websocket.close"})
            elif scope["path"] == "/fails":
                raise ValueError("deliberately")
            elif scope["path"] == "/own":
                await send(
                    {
                        "type": "websocket.http.response.start",
                        "status": 401,
                        "headers": [(b"www-authenticate", b"Basic")],
                    }
                )
                await send({"type": "websocket.http.response.body", "body": b"who?"})

        client = self.connect(self.serve(app))
        with self.assertLogs("django_daphne.server", "ERROR"):
            for path, status in {
                b"/plain": 403,
                b"/fails": 500,
                b"/returns": 403,
            }.items():
                socket = WebSocketOverHTTP2(client, path)
                response = client.answer(socket.id)
                self.assertEqual((response.status, response.complete), (status, True))
                client.get()
                self.assertEqual(response.reset, NO_ERROR)
        socket = WebSocketOverHTTP2(client, b"/own")
        response = client.answer(socket.id)
        self.assertEqual((response.status, response.body), (401, b"who?"))
        self.assertEqual(response.get(b"www-authenticate"), b"Basic")

    def test_an_application_that_does_not_decide(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await receive()

        with self.assertLogs("django_daphne.protocol", "WARNING"):
            socket = self.open(app, settings={"TIMEOUTS": {"WEBSOCKET_CONNECT": 0.2}})
            self.assertEqual(socket.client.answer(socket.id).status, 503)

    def test_a_wrong_version(self) -> None:
        client = self.connect(self.serve(echo))
        fields = [
            (b":method", b"CONNECT"), (b":protocol", b"websocket"),
            (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a"),
        ]  # fmt: skip
        for version in ([], [(b"sec-websocket-version", b"8")]):
            response = client.answer(client.ask([*fields, *version], 0))
            self.assertEqual(response.status, 400)
            self.assertEqual(response.get(b"sec-websocket-version"), b"13")
            self.assertIsNone(response.get(b"upgrade"))

    def test_a_body(self) -> None:
        client = self.connect(self.serve(echo))
        socket = WebSocketOverHTTP2(client, b"/", (b"content-length", b"5"))
        self.assertEqual(client.answer(socket.id).status, 400)

    def test_another_protocol(self) -> None:
        client = self.connect(self.serve(echo))
        fields = [
            (b":method", b"CONNECT"), (b":protocol", b"connect-udp"),
            (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a"),
        ]  # fmt: skip
        self.assertEqual(client.answer(client.ask(fields, 0)).status, 501)

    def test_bad_offers(self) -> None:
        client = self.connect(self.serve(echo))
        socket = WebSocketOverHTTP2(client, b"/", (b"sec-websocket-protocol", b"a b"))
        self.assertEqual(client.answer(socket.id).status, 400)


class Conversations(WebSocketTestCase):
    def test_messages(self) -> None:
        socket = self.open(echo)
        socket.frame(TEXT, "grüß dich".encode())
        self.assertEqual(socket.read_frame().payload.decode(), "grüß dich")
        socket.frame(BINARY, bytes(range(256)) * 1000)
        sent = socket.read_frame()
        self.assertEqual(
            (sent.opcode, sent.payload), (BINARY, bytes(range(256)) * 1000)
        )

    def test_frames_however_they_are_cut(self) -> None:
        socket = self.open(echo)
        whole = frame(TEXT, b"one") + frame(TEXT, b"two" * 100) + frame(PING, b"p")
        for at in range(len(whole)):
            socket.send(whole[at : at + 1])
        self.assertEqual(socket.read_frame().payload, b"one")
        opcodes = {}
        for sent in (socket.read_frame(), socket.read_frame()):
            opcodes[sent.opcode] = sent.payload
        self.assertEqual(opcodes, {TEXT: b"two" * 100, PONG: b"p"})

    def test_messages_before_the_answer(self) -> None:
        client = self.connect(self.serve(echo))
        socket = WebSocketOverHTTP2(client)
        socket.frame(TEXT, b"early")
        self.assertEqual(socket.read_frame().payload, b"early")

    def test_several_and_requests_beside_them(self) -> None:
        client = self.connect(self.serve(echo))
        sockets = [WebSocketOverHTTP2(client) for _ in range(20)]
        for number, socket in enumerate(sockets):
            socket.frame(TEXT, b"%d" % number)
        self.assertEqual(client.get().body, b"hello")
        for number, socket in enumerate(sockets):
            self.assertEqual(socket.read_frame().payload, b"%d" % number)

    def test_compression(self) -> None:
        socket = self.open(
            echo, b"/", (b"sec-websocket-extensions", b"permessage-deflate")
        )
        extension = socket.response.get(b"sec-websocket-extensions")
        assert extension is not None
        self.assertTrue(extension.startswith(b"permessage-deflate"))
        text = b"all work and no play " * 100
        deflater = zlib.compressobj(wbits=-15)
        packed = deflater.compress(text) + deflater.flush(zlib.Z_SYNC_FLUSH)
        socket.send(frame(TEXT, packed[:-4], rsv=4))
        sent = socket.read_frame()
        self.assertEqual(sent.rsv, 4)
        inflater = zlib.decompressobj(wbits=-15)
        self.assertEqual(inflater.decompress(sent.payload + packed[-4:]), text)

    def test_too_large(self) -> None:
        socket = self.open(echo, settings={"WEBSOCKET": {"MAX_MESSAGE_SIZE": 1000}})
        with self.assertLogs("django_daphne.protocol", "INFO"):
            socket.frame(TEXT, b"x" * 1001)
            self.assertEqual(socket.read_close(), 1009)
        response = socket.client.answer(socket.id)
        self.assertTrue(response.complete)

    def test_pings(self) -> None:
        socket = self.open(
            echo, settings={"WEBSOCKET": {"PING_INTERVAL": 0.5, "PING_TIMEOUT": 3}}
        )
        self.assertEqual(socket.read_frame().opcode, PING)
        socket.frame(PONG)
        self.assertEqual(socket.read_frame().opcode, PING)
        # Nobody answers any more; HTTP/2's own frames do not count.
        sent = socket.read_frame()
        while sent.opcode == PING:
            sent = socket.read_frame()
        self.assertEqual((sent.opcode, sent.close_code), (CLOSE, 1011))


class Ends(WebSocketTestCase):
    def told(
        self, *, path: bytes = b"/", **options: Any
    ) -> tuple[WebSocketOverHTTP2, Any]:
        """A WebSocket, and what its application is told last."""
        heard = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await respond(send, b"hello")
                return
            await receive()
            await send({"type": "websocket.accept"})
            if scope["path"] == "/close":
                await send({"type": "websocket.close", "code": 4001, "reason": "so"})
            if scope["path"] == "/fail":
                raise ValueError("deliberately")
            if scope["path"] == "/return":
                return
            message: Message = {"type": ""}
            while message["type"] != "websocket.disconnect":
                message = await receive()
            heard.tell(message)

        return self.open(app, path, **options), heard

    def test_the_client_closes(self) -> None:
        socket, heard = self.told()
        socket.response  # noqa: B018
        self.assertEqual(socket.close_with(1000), 1000)
        self.assertEqual(heard.wait()["code"], 1000)
        self.assertTrue(socket.client.answer(socket.id).complete)
        self.assertEqual(socket.client.get().body, b"hello")

    def test_the_application_closes(self) -> None:
        socket, heard = self.told(path=b"/close")
        self.assertEqual(socket.read_close(), 4001)
        self.assertEqual(heard.wait()["type"], "websocket.disconnect")
        self.assertTrue(socket.client.answer(socket.id).complete)

    def test_the_application_fails_or_returns(self) -> None:
        for path, code in ((b"/fail", 1011), (b"/return", 1000)):
            with (
                self.assertLogs("django_daphne.server", "ERROR")
                if code == 1011
                else contextlib.nullcontext()
            ):
                socket, _ = self.told(path=path)
                self.assertEqual(socket.read_close(), code)

    def test_the_client_ends_the_stream_without_a_close(self) -> None:
        socket, heard = self.told()
        socket.response  # noqa: B018
        socket.send(b"", END_STREAM)
        self.assertEqual(heard.wait()["code"], 1006)
        self.assertTrue(socket.client.answer(socket.id).complete)
        self.assertEqual(socket.client.get().body, b"hello")

    def test_the_client_resets_the_stream(self) -> None:
        socket, heard = self.told()
        socket.response  # noqa: B018
        socket.client.send(h2.reset(socket.id))
        self.assertEqual(heard.wait()["code"], 1006)
        self.assertEqual(socket.client.get().body, b"hello")

    def test_the_client_goes_before_the_answer(self) -> None:
        begun, heard = Happening(), Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            begun.tell()
            heard.tell(await receive())

        socket = self.open(app)
        begun.wait()
        socket.client.send(h2.reset(socket.id))
        self.assertEqual(heard.wait()["type"], "websocket.disconnect")

    def test_the_connection_is_lost(self) -> None:
        socket, heard = self.told()
        socket.response  # noqa: B018
        socket.client.vanish()
        self.assertEqual(heard.wait()["code"], 1006)

    def test_the_server_stops(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await echo(scope, receive, send)

        # Their answers end the streams, and nothing is left to wait for.
        server = self.serve(app, {"TIMEOUTS": {"GRACEFUL": 100 * PATIENCE}})
        client = self.connect(server)
        sockets = [WebSocketOverHTTP2(client) for _ in range(3)]
        for socket in sockets:
            self.assertEqual(socket.response.status, 200)
        server.stop()
        for socket in sockets:
            self.assertEqual(socket.read_close(), 1012)
            self.assertTrue(client.answer(socket.id).complete)
        client.read_to_end()
        self.assertEqual(len(client.goaways()), 2)
        server.join()


class BackPressure(WebSocketTestCase):
    def test_a_client_that_reads_nothing(self) -> None:
        stuck = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await respond(send, b"hello")
                return
            await receive()
            await send({"type": "websocket.accept"})
            for number in range(10_000):
                try:
                    async with asyncio.timeout(2):
                        await send({"type": "websocket.send", "bytes": bytes(10_000)})
                except TimeoutError:
                    stuck.tell(number)
                    break
            await receive()

        client = self.connect(self.serve(app), windows=False)
        client.send(h2.window_update(0, 1 << 30))
        socket = WebSocketOverHTTP2(client)
        self.assertEqual(socket.response.status, 200)
        client.read_until(lambda: len(client.responses[socket.id].body) == 65535)
        self.assertLess(stuck.wait(), 30)
        # Its own stream only.
        self.assertEqual(client.get().body, b"hello")
        client.send(h2.window_update(socket.id, 1 << 20))
        self.assertEqual(socket.read_frame().payload, bytes(10_000))

    def test_an_application_that_reads_nothing(self) -> None:
        go = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await respond(send, b"hello")
                return
            await receive()
            await send({"type": "websocket.accept"})
            await go.reached()
            total = 0
            while total < 30 * 20_000:
                total += len((await receive())["bytes"])
            await send({"type": "websocket.send", "text": str(total)})

        self.addCleanup(go.tell)
        client = self.connect(self.serve(app, {"WEBSOCKET": {"QUEUE_BYTES": 50_000}}))
        socket = WebSocketOverHTTP2(client)
        self.assertEqual(socket.response.status, 200)
        left = frame(BINARY, bytes(20_000)) * 30
        sent = 0

        def room() -> int:
            updates = client.of(h2.WINDOW_UPDATE)
            opened = sum(f.number for f in updates if f.id == socket.id)
            return STREAM_WINDOW + opened - sent

        while left and room():
            piece = left[: min(16_000, room())]
            socket.send(piece)
            sent, left = sent + len(piece), left[len(piece) :]
            if not room():
                # It stays shut while the queue is full; others go on.
                self.assertEqual(client.get().body, b"hello")
        self.assertLess(sent, 2 * STREAM_WINDOW)
        go.tell()
        while left:
            client.read_until(room)
            piece = left[: min(16_000, room())]
            socket.send(piece)
            sent, left = sent + len(piece), left[len(piece) :]
        self.assertEqual(socket.read_frame().payload, b"600000")


PAGE = b"""<!doctype html><title>h2</title><script>
async function talk() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}/socket`, ["one", "two"]);
  const heard = [];
  return await new Promise((resolve) => {
    socket.onopen = () => { socket.send("hello"); socket.send("x".repeat(100000)); };
    socket.onmessage = (event) => {
      heard.push(event.data);
      if (heard.length === 3) socket.close(4000, "enough");
    };
    socket.onclose = (event) => resolve({
      first: heard[0], second: heard[1], size: (heard[2] || "").length,
      code: event.code, clean: event.wasClean,
      protocol: socket.protocol, extensions: socket.extensions,
    });
  });
}
</script>"""


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    """A page, and a WebSocket that first tells how it was connected, then echoes."""
    if scope["type"] == "http":
        html = [(b"content-type", b"text/html")]
        await respond(send, PAGE, 200, html)
        return
    await receive()
    await send({"type": "websocket.accept", "subprotocol": "two"})
    told = {"version": scope["http_version"], "scheme": scope["scheme"]}
    await send({"type": "websocket.send", "text": json.dumps(told)})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


@tag("browser")
@require("chromium")
class ChromiumTests(unittest.TestCase):
    def test_everything_on_one_connection(self) -> None:
        directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        authority = Authority(directory)
        bind = (
            f"ssl:0:interface=127.0.0.1"
            f":privateKey={quote(str(authority.private_key))}"
            f":certKey={quote(str(authority.full))}"
        )
        server = self.enterContext(serving(page, {"LIFESPAN": "off", "BIND": [bind]}))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=find("chromium"),
                args=ARGUMENTS,
                timeout=2 * PATIENCE * 1000,
            )
            try:
                context = browser.new_context(ignore_https_errors=True)
                tab = context.new_page()
                tab.set_default_timeout(PATIENCE * 1000)
                tab.goto(f"https://localhost:{server.port}/")
                protocol = tab.evaluate(
                    "performance.getEntriesByType('navigation')[0].nextHopProtocol"
                )
                heard = tab.evaluate("talk()")
            finally:
                browser.close()
        self.assertEqual(protocol, "h2")
        self.assertEqual(
            json.loads(heard.pop("first")), {"version": "2", "scheme": "wss"}
        )
        self.assertIn("permessage-deflate", heard.pop("extensions"))
        self.assertEqual(
            heard,
            {
                "second": "hello",
                "size": 100_000,
                "code": 4000,
                "clean": True,
                "protocol": "two",
            },
        )
