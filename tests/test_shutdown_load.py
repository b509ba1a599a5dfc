"""A stop in the middle of everything at once: nothing that was begun is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import unittest
from collections import Counter
from collections.abc import Awaitable, Callable

from .serving import PATIENCE, Process
from .websocket_frames import CLOSE, close_frame, read_frames

REQUESTS, EVENT_STREAMS, UPLOADS, SOCKETS = 500, 50, 10, 2000

#: An upload, half of which is sent before the signal.
UPLOAD = 400_000

#: Connections that are being made at once.
AT_ONCE = 50

#: What all of it may take on a machine that has other things to do.
LONG = 6 * PATIENCE

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Crowd:
    """The clients; each counts how it ended."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.ends: Counter[str] = Counter()
        self.signalled = asyncio.Event()
        self._making = asyncio.Semaphore(AT_ONCE)

    async def connect(self, first: bytes) -> Streams:
        async with self._making:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(first)
        return reader, writer

    async def get(self, path: str) -> bytes:
        request = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        reader, writer = await self.connect(request.encode())
        answer = await reader.read()
        writer.close()
        return answer.partition(b"\r\n\r\n")[2]

    async def request(self) -> None:
        reader, writer = await self.connect(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        fine = head.startswith(b"HTTP/1.1 200 ") and body == b"at last"
        # The client is told that there is no next one.
        fine = fine and b"\r\nConnection: close" in head
        self.ends["answered" if fine else f"request: {head + body!r}"] += 1
        writer.close()

    async def events(self) -> None:
        reader, writer = await self.connect(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        data = await reader.read()
        fine = data.endswith(b"data: 1\n\n\r\n0\r\n\r\n")
        self.ends["events ended" if fine else f"events: {data!r}"] += 1
        writer.close()

    async def upload(self) -> None:
        head = f"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: {UPLOAD}\r\n\r\n"
        reader, writer = await self.connect(head.encode() + bytes(UPLOAD // 2))
        await self.signalled.wait()
        for _ in range(UPLOAD // 2 // 20_000):
            writer.write(bytes(20_000))
            await writer.drain()
            await asyncio.sleep(0.05)
        answer = await reader.read()
        fine = answer.endswith(b"\r\n\r\n%d" % UPLOAD)
        self.ends["uploaded" if fine else f"upload: {answer!r}"] += 1
        writer.close()

    async def socket(self) -> None:
        reader, writer = await self.connect(HANDSHAKE)
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 101 "):
            first = await reader.readexactly(2)
            [close] = read_frames(first + await reader.readexactly(first[1]))
            more = b""
            # Who answers a close late finds the connection gone; that of two thousand
            # some do is this client's slowness.
            with contextlib.suppress(ConnectionError):
                writer.write(close_frame(close.close_code))
                more = await reader.read()
            fine = close.opcode == CLOSE and not more
            self.ends[f"closed {close.close_code}" if fine else "socket: more"] += 1
        else:
            self.ends[f"socket: {head!r}"] += 1
        writer.close()


class ShutdownUnderLoad(unittest.IsolatedAsyncioTestCase):
    def allow_as_many_files(self) -> None:
        """A socket is a file, and the usual limit is less than the crowd needs."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft in (hard, resource.RLIM_INFINITY):
            return
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        wanted = hard if hard != resource.RLIM_INFINITY else 4 * SOCKETS
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))

    async def test_everything_at_once(self) -> None:
        asyncio.get_running_loop().slow_callback_duration = PATIENCE
        self.allow_as_many_files()
        settings = {
            "LIFESPAN": "off",
            "LOGGING": {"ACCESS": False},
            # Nobody is sent away for what this machine is too slow for.
            "TIMEOUTS": {
                "GRACEFUL": LONG,
                "HEADERS": LONG,
                "BODY": LONG,
                "WEBSOCKET_CONNECT": LONG,
            },
            "WEBSOCKET": {"PING_INTERVAL": None},
        }
        process = self.enterContext(Process("tests.asgi_apps:crowded", settings))
        crowd = Crowd(process.port)
        kinds: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (crowd.request, REQUESTS),
            (crowd.events, EVENT_STREAMS),
            (crowd.upload, UPLOADS),
            (crowd.socket, SOCKETS),
        ]
        async with asyncio.timeout(LONG), asyncio.TaskGroup() as clients:
            for client, number in kinds:
                for _ in range(number):
                    clients.create_task(client())
            wanted = {
                "held": REQUESTS,
                "events": EVENT_STREAMS,
                "uploaded": UPLOADS * UPLOAD // 2,
                "sockets": SOCKETS,
            }
            while json.loads(await crowd.get("/counts")) != wanted:
                await asyncio.sleep(0.05)
            process.terminate()
            crowd.signalled.set()
        self.assertEqual(
            crowd.ends,
            {
                "answered": REQUESTS,
                "events ended": EVENT_STREAMS,
                "uploaded": UPLOADS,
                "closed 1012": SOCKETS,
            },
        )
        self.assertEqual(await asyncio.to_thread(process.wait), 0)
        self.assertNotIn("Traceback", process.output)
