"""``python -m tests.soak --minutes 30``: everything at once, for as long as you like.

One server in a process of its own, and clients of every kind that check every answer.
When the server has warmed up its memory must stay flat, its log must stay empty, and
when the clients have gone nothing of them may be left: no file, no task.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import ssl
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import httpx

from .certificates import LOCAL, Files, authority
from .serving import PATIENCE, Process
from .test_resets import STAGES, Crasher, state_of, wait_for_state

MIB = 1024 * 1024

#: The part of the time in which caches fill and the allocator finds its size.
WARM_UP = 0.25

#: What memory may differ by, between the medians of the first and the last quarter of
#: the time behind the warm-up. Not a rate: thirty minutes are allowed no more than one.
TOLERANCE = 6 * MIB

#: Seconds between looks at the server.
SAMPLE = 0.5

#: What a client pauses, in seconds, between two rounds: the machine is not to be
#: loaded, it is to go on for long.
PAUSE = 0.02

#: Clients of each kind.
CLIENTS = 3

#: Pauses of a slow client, within every timeout.
DRIP = 0.4


class Wrong(Exception):
    """An answer was not what it should be."""


@dataclass
class Report:
    """What was asked for, and what the server held: (seconds, bytes)."""

    rounds: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, int]] = field(default_factory=list)

    @property
    def growth(self) -> int:
        """The difference of the medians, in bytes."""
        begin = self.memory[-1][0] * WARM_UP
        warm = [memory for seconds, memory in self.memory if seconds >= begin]
        quarter = max(1, len(warm) // 4)
        return int(
            statistics.median(warm[-quarter:]) - statistics.median(warm[:quarter])
        )


class Traffic:
    """The clients; each kind is a method that goes one round."""

    def __init__(self, plain: int, secure: int, root: str) -> None:
        self.plain = plain
        self.url = f"http://127.0.0.1:{plain}"
        self.secure_url = f"https://127.0.0.1:{secure}"
        self.root = root
        self.crasher = Crasher(plain, secure, self._trust())
        self.dice = random.Random(1)
        self.rounds: Counter[str] = Counter()
        self._ends = 0.0

    def _trust(self) -> ssl.SSLContext:
        """A new one each time: clients write into it which protocols they speak."""
        return ssl.create_default_context(cadata=self.root)

    async def run(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds
        connector = aiohttp.TCPConnector(ssl=self._trust(), limit=0)
        async with (
            aiohttp.ClientSession(connector=connector) as self.session,
            httpx.AsyncClient(
                http1=False, http2=True, verify=self._trust(), timeout=PATIENCE
            ) as self.http2,
            asyncio.TaskGroup() as clients,
        ):
            for kind in (
                self.keep_alive, self.close, self.over_tls, self.over_http2,
                self.over_http2_with_tls, self.talk, self.talk_compressed,
                self.talk_over_tls, self.listen, self.upload, self.upload_chunks,
                self.download, self.crash, self.drip_a_head, self.drip_a_body,
                self.read_slowly,
            ):  # fmt: skip
                for _ in range(CLIENTS):
                    clients.create_task(self._repeat(kind))

    async def _repeat(self, kind: Callable[[], Awaitable[None]]) -> None:
        name = kind.__name__  # type: ignore[attr-defined]
        while time.monotonic() < self._ends:
            async with asyncio.timeout(4 * PATIENCE):
                await kind()
            self.rounds[name] += 1
            await asyncio.sleep(PAUSE)

    # -- Requests ----------------------------------------------------------------------

    async def _get(self, url: str, wanted: bytes, **options: object) -> None:
        async with self.session.get(url, **options) as answer:  # type: ignore[arg-type]
            body = await answer.read()
            if answer.status != 200 or body != wanted:
                raise Wrong(f"{answer.status} {body[:80]!r} of {url}")

    async def keep_alive(self) -> None:
        number = self.dice.randrange(10**9)
        await self._get(f"{self.url}/{number}?a={number}", b"hello")

    async def close(self) -> None:
        await self._get(self.url, b"hello", headers={"Connection": "close"})

    async def over_tls(self) -> None:
        await self._get(self.secure_url, b"hello")

    async def download(self) -> None:
        size = self.dice.randrange(1_000_000)
        await self._get(f"{self.url}/download?{size}", bytes(size))

    async def upload(self) -> None:
        size = self.dice.randrange(1_000_000)
        await self._post(bytes(size), size)

    async def upload_chunks(self) -> None:
        async def chunks() -> object:
            for _ in range(20):
                yield bytes(1000)
                await asyncio.sleep(0)

        await self._post(chunks(), 20_000)

    async def _post(self, data: object, size: int) -> None:
        async with self.session.post(f"{self.url}/upload", data=data) as answer:
            body = await answer.read()
            if body != b"%d" % size:
                raise Wrong(f"{answer.status} {body[:80]!r} of an upload of {size}")

    async def over_http2(self) -> None:
        await self._http2(self.url)

    async def over_http2_with_tls(self) -> None:
        await self._http2(self.secure_url)

    async def _http2(self, url: str) -> None:
        size = self.dice.randrange(100_000)
        wanted = {
            "/": b"hello",
            f"/download?{size}": bytes(size),
            f"/stream?{size % 20}": None,
        }
        answers = await asyncio.gather(
            *(self.http2.get(url + path) for path in wanted),
            self.http2.post(f"{url}/upload", content=bytes(size)),
        )
        for answer, body in zip(answers, [*wanted.values(), b"%d" % size], strict=True):
            if answer.status_code != 200 or body not in (None, answer.content):
                raise Wrong(f"{answer!r} {answer.content[:80]!r}")

    # -- WebSockets and event streams --------------------------------------------------

    async def talk(self) -> None:
        await self._talk(self.url, 0)

    async def talk_compressed(self) -> None:
        await self._talk(self.url, 15)

    async def talk_over_tls(self) -> None:
        await self._talk(self.secure_url, 15)

    async def _talk(self, url: str, compress: int) -> None:
        async with self.session.ws_connect(url, compress=compress) as socket:
            for _ in range(20):
                text = "zwölf " * self.dice.randrange(1, 2000)
                await socket.send_str(text)
                if await socket.receive_str(timeout=PATIENCE) != text:
                    raise Wrong("another text came back")
            await socket.send_bytes(b"last")
            if await socket.receive_bytes(timeout=PATIENCE) != b"last":
                raise Wrong("other bytes came back")

    async def listen(self) -> None:
        async with self.session.get(f"{self.url}/stream") as answer:
            for _ in range(self.dice.randrange(1, 50)):
                await answer.content.readuntil(b"\n\n")

    # -- Clients that are slow, or gone ------------------------------------------------

    async def crash(self) -> None:
        [stage] = self.dice.choices([*STAGES], [*STAGES.values()])
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await asyncio.to_thread(stage, self.crasher)

    async def drip_a_head(self) -> None:
        await self._drip(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    async def drip_a_body(self) -> None:
        head = b"POST /upload HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        await self._drip(head + b"Content-Length: 3000\r\n\r\n" + bytes(3000))

    async def _drip(self, data: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.plain)
        size = len(data) // 5 + 1
        for begin in range(0, len(data), size):
            writer.write(data[begin : begin + size])
            await asyncio.sleep(DRIP)
        answer = await reader.read()
        writer.close()
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise Wrong(f"{answer[:80]!r} of a slow client")

    async def read_slowly(self) -> None:
        size = 300_000
        reader, writer = await asyncio.open_connection("127.0.0.1", self.plain)
        writer.write(
            b"GET /download?%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % size
        )
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(5):
            size -= len(await reader.read(20_000))
            await asyncio.sleep(DRIP)
        size -= len(await reader.read())
        writer.close()
        if size:
            raise Wrong(f"{size} bytes of a slow download are missing")


def soak(
    seconds: float,
    tell: Callable[[str], None] = lambda line: None,
    *,
    tolerance: int = TOLERANCE,
) -> Report:
    """Run everything for so long; the report, if nothing went wrong.

    :raises AssertionError: where memory grew, something leaked, or the log has a line.
    """
    with tempfile.TemporaryDirectory() as directory:
        root = authority()
        tls = Files(Path(directory)).tls("server", root.issue("localhost", LOCAL))
        settings = {
            # The first has TLS, the second has not.
            "BIND": ["127.0.0.1:0", "tcp:0:interface=127.0.0.1"],
            "TLS": tls,
            "LIFESPAN": "off",
            "LOGGING": {"ACCESS": False},
        }
        with Process("tests.asgi_apps:everything", settings) as server:
            server.expect(r"(Listening on \S+\s+){2}")
            urls = [line.split()[-1] for line in server.output.splitlines()]
            secure, plain = (int(url.rpartition(":")[2]) for url in urls)
            before = state_of(plain)
            traffic = Traffic(plain, secure, root.pem)
            report = asyncio.run(_watch(seconds, traffic, server.pid, tell))
            wait_for_state(plain, before)
            assert server.output.count("\n") == 2, server.output
            server.terminate()
            assert server.wait() == 0, server.output
    assert report.growth < tolerance, f"memory grew by {report.growth} bytes"
    return report


async def _watch(
    seconds: float, traffic: Traffic, pid: int, tell: Callable[[str], None]
) -> Report:
    """Look from outside: to ask the server for its memory would have it clean up."""
    report = Report(traffic.rounds)
    began = time.monotonic()
    running = asyncio.ensure_future(traffic.run(seconds))
    told = 0.0
    while not (await asyncio.wait([running], timeout=SAMPLE))[0]:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        memory = pages * os.sysconf("SC_PAGE_SIZE")
        passed = time.monotonic() - began
        report.memory.append((passed, memory))
        if passed >= told + 60:
            told = passed
            tell(
                f"{passed / 60:.0f} min: {memory / MIB:.1f} MiB, "
                f"{len(os.listdir(f'/proc/{pid}/fd'))} files, "
                f"{traffic.rounds.total()} rounds"
            )
    running.result()
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    report = soak(options.minutes * 60, lambda line: print(line, flush=True))
    for kind, number in sorted(report.rounds.items()):
        print(f"{kind}: {number}")
    print(f"memory grew by {report.growth / 1024:.0f} KiB after the warm-up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
