"""Clients that others have written, against our server."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path
from typing import Any

import aiohttp

from .asgi_apps import Receive, Scope, Send, body, read_body, respond, start
from .services import find, require
from .serving import PATIENCE, Serving, serving


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Describes the request, or streams."""
    data = await read_body(receive)
    if scope["path"] == "/stream":
        await start(send, 200, [(b"content-type", b"text/plain")])
        for number in range(10):
            await body(send, b"%d\n" % number, True)
        await body(send)
        return
    description = {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode("latin-1"),
        "version": scope["http_version"],
        "headers": [[n.decode(), v.decode("latin-1")] for n, v in scope["headers"]],
        "size": len(data),
        "body": data[:100].decode("latin-1"),
    }
    content_type = [(b"content-type", b"application/json")]
    await respond(send, json.dumps(description).encode(), 200, content_type)


class Clients(unittest.TestCase):
    server: Serving

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.server = cls.enterClassContext(serving(app, {"LIFESPAN": "off"}))

    @property
    def url(self) -> str:
        return self.server.url


@require("curl")
class CurlTests(Clients):
    def curl(self, *arguments: str, path: str = "/") -> tuple[list[str], bytes]:
        """The heads of all responses and the body of the last."""
        with tempfile.TemporaryDirectory() as directory:
            head, content = Path(directory, "head"), Path(directory, "body")
            content.touch()
            subprocess.run(
                [
                    str(find("curl")),
                    "--silent",
                    "--show-error",
                    "--noproxy",
                    "*",
                    "--max-time",
                    str(PATIENCE),
                    "--dump-header",
                    str(head),
                    "--output",
                    str(content),
                    *arguments,
                    self.url + path,
                ],
                check=True,
            )
            heads = re.split("(?<=\r\n\r\n)", head.read_bytes().decode())
            return heads[:-1], content.read_bytes()

    def describe(self, *arguments: str, path: str = "/") -> tuple[list[str], Any]:
        heads, content = self.curl(*arguments, path=path)
        return heads, json.loads(content)

    def test_get(self) -> None:
        (head,), seen = self.describe(path="/a%20b?c=d")
        self.assertTrue(head.startswith("HTTP/1.1 200 OK\r\n"))
        self.assertEqual(seen["path"], "/a b")
        self.assertEqual(seen["query"], "c=d")
        self.assertEqual(seen["version"], "1.1")

    def test_http_1_0(self) -> None:
        (head,), seen = self.describe("--http1.0")
        self.assertEqual(seen["version"], "1.0")
        self.assertIn("Connection: close\r\n", head)
        _, content = self.curl("--http1.0", path="/stream")
        self.assertEqual(content, b"".join(b"%d\n" % n for n in range(10)))

    def test_chunks(self) -> None:
        (head,), content = self.curl(path="/stream")
        self.assertIn("Transfer-Encoding: chunked\r\n", head)
        self.assertEqual(content, b"".join(b"%d\n" % n for n in range(10)))

    def test_head(self) -> None:
        (head,), content = self.curl("--head")
        self.assertRegex(head, r"Content-Length: \d+\r\n")
        self.assertEqual(
            content.replace(b"\r\n", b"\n"), head.encode().replace(b"\r\n", b"\n")
        )

    def test_post(self) -> None:
        _, seen = self.describe("--data", "a=b")
        self.assertEqual((seen["method"], seen["body"]), ("POST", "a=b"))

    def test_an_offer_of_http_2_is_not_taken_but_served(self) -> None:
        (head,), seen = self.describe("--http2", "--data", "a=b")
        self.assertTrue(head.startswith("HTTP/1.1 200 OK\r\n"))
        self.assertIn(["upgrade", "h2c"], seen["headers"])
        self.assertEqual(seen["body"], "a=b")
        _, seen = self.describe("--http2")
        self.assertEqual(seen["method"], "GET")

    def test_expect(self) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes(3_000_000))
            file.flush()
            heads, seen = self.describe(
                "--header", "Expect: 100-continue", "--upload-file", file.name,
                # For ever, as far as this test goes: without the 100 it fails.
                "--expect100-timeout", str(2 * PATIENCE),
            )  # fmt: skip
        self.assertTrue(heads[0].startswith("HTTP/1.1 100 Continue\r\n"))
        self.assertEqual(seen["size"], 3_000_000)

    def test_an_upload_of_unknown_length(self) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes(3_000_000))
            file.flush()
            _, seen = self.describe(
                "--header", "Transfer-Encoding: chunked", "--upload-file", file.name
            )
        self.assertEqual(seen["size"], 3_000_000)
        self.assertIn(["transfer-encoding", "chunked"], seen["headers"])

    def test_many_on_one_connection(self) -> None:
        heads, _ = self.curl("--data", "a=b", path="/[1-30]")
        self.assertEqual(len(heads), 30)
        output = subprocess.run(
            [
                str(find("curl")), "--silent", "--noproxy", "*", "--output", os.devnull,
                "--write-out", "%{num_connects} ", f"{self.url}/[1-30]",
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout  # fmt: skip
        self.assertEqual(output.split(), ["1", *["0"] * 29])

    def test_odd_methods(self) -> None:
        for method in ("PURGE", "M-SEARCH", "OPTIONS"):
            _, seen = self.describe("--request", method)
            self.assertEqual(seen["method"], method)
        _, seen = self.describe("--request", "OPTIONS", "--request-target", "*")
        self.assertEqual(seen["path"], "*")

    def test_through_a_proxys_form(self) -> None:
        _, seen = self.describe(
            "--request-target", "http://elsewhere.example/a?b=c", "--header", "Host: x"
        )
        self.assertEqual((seen["path"], seen["query"]), ("/a", "b=c"))
        self.assertIn(["host", "elsewhere.example"], seen["headers"])


class StandardLibraryTests(Clients):
    def test_keep_alive(self) -> None:
        connection = http.client.HTTPConnection(
            self.server.host, self.server.port, timeout=PATIENCE
        )
        with contextlib.closing(connection):
            sockets = set()
            for number in range(20):
                connection.request("POST", f"/{number}", body=b"x" * number * 1000)
                response = connection.getresponse()
                seen = json.loads(response.read())
                self.assertEqual(seen["path"], f"/{number}")
                self.assertEqual(seen["size"], number * 1000)
                sockets.add(connection.sock)
            connection.request("GET", "/stream")
            self.assertEqual(len(connection.getresponse().read()), 20)
            connection.request("HEAD", "/")
            self.assertEqual(connection.getresponse().read(), b"")
            connection.request(
                "POST", "/", body=iter([b"a", b"b"]), encode_chunked=True
            )
            self.assertEqual(json.loads(connection.getresponse().read())["body"], "ab")
            sockets.add(connection.sock)
            self.assertEqual(len(sockets), 1)


class AiohttpTests(Clients, unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        # On a busy machine every callback is slow, and nobody wants to read of it.
        asyncio.get_running_loop().slow_callback_duration = PATIENCE

    async def test_many_at_once(self) -> None:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=20)
        ) as session:

            async def ask(number: int) -> None:
                data = b"x" * number
                async with session.post(
                    f"{self.url}/{number}?a=b", data=data
                ) as response:
                    seen = await response.json()
                    self.assertEqual(seen["path"], f"/{number}")
                    self.assertEqual(seen["size"], number)

            await asyncio.gather(*(ask(number) for number in range(200)))

    async def test_streams(self) -> None:
        async def pieces() -> Any:
            for _ in range(30):
                yield b"x" * 50_000

        async with aiohttp.ClientSession() as session:
            async with session.put(self.url, data=pieces()) as response:
                self.assertEqual((await response.json())["size"], 1_500_000)
            async with session.put(self.url, data=b"hello", expect100=True) as response:
                self.assertEqual((await response.json())["body"], "hello")
            async with session.get(f"{self.url}/stream") as response:
                lines = [line async for line in response.content]
                self.assertEqual(lines, [b"%d\n" % n for n in range(10)])
            async with session.head(self.url) as response:
                self.assertEqual(response.status, 200)


@require("wrk")
class WrkTests(Clients):
    def test_no_request_fails(self) -> None:
        output = subprocess.run(
            [
                str(find("wrk")), "--threads", "1", "--connections", "32", "--duration",
                # What takes longer than two seconds is an error otherwise.
                "2s", "--timeout", f"{PATIENCE:.0f}s", f"{self.url}/hello",
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout  # fmt: skip
        self.assertNotIn("Socket errors", output)
        self.assertNotIn("Non-2xx", output)
        match = re.search(r"(\d+) requests in", output)
        assert match is not None
        self.assertGreater(int(match[1]), 100)
