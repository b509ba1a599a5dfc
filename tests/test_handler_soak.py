"""Many requests of many kinds, and nothing is left of them.

``DJANGO_DAPHNE_SOAK`` says how many for each database.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import random
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.test import tag

from .postgres import postgres
from .services import require
from .serving import PATIENCE, Process

REQUESTS = int(os.environ.get("DJANGO_DAPHNE_SOAK", "25000"))

CLIENTS = 24

#: What one request may take when the machine has better things to do.
DEADLINE = 120

UPLOAD = b"x" * 200_000

#: Path, status, and how often.
MIX = (
    ("plain", 200, 40),
    ("aplain", 200, 20),
    ("query", 200, 20),
    ("aquery", 200, 10),
    ("atomic", 200, 4),
    ("atomic?fail=1", 500, 1),
    ("stream", 200, 1),
    ("astream", 200, 2),
    ("file", 200, 2),
    ("upload", 200, 1),
    ("none", 404, 1),
)


class Caller:
    """One client: it asks, and now and then it goes away in the middle."""

    def __init__(self, port: int, number: int) -> None:
        self._port = port
        self._random = random.Random(number)
        self._connection: tuple[Any, Any] | None = None
        self.answers: collections.Counter[tuple[str, int]] = collections.Counter()

    async def ask(self, target: str, method: str = "GET", body: bytes = b"") -> bytes:
        if self._connection is None:
            self._connection = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._connection
        head = f"{method} /{target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
        writer.write(f"{head}\r\n\r\n".encode() + body)
        if self._random.random() < 0.01:
            await asyncio.sleep(self._random.random() / 100)
            writer.transport.abort()
            self._connection = None
            return b""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        self.answers[target, int(head.split()[1])] += 1
        if "transfer-encoding: chunked" in head:
            return await self._read_chunks(reader)
        length = int(head.partition("content-length: ")[2].split("\r\n")[0])
        answer: bytes = await reader.readexactly(length)
        return answer

    async def _read_chunks(self, reader: Any) -> bytes:
        whole = b""
        while size := int(await reader.readline(), 16):
            whole += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return whole

    async def close(self) -> None:
        if self._connection is not None:
            self._connection[1].close()

    async def go_on(self, left: Iterator[int]) -> None:
        targets = [target for target, _, weight in MIX for _ in range(weight)]
        for _ in left:
            target = self._random.choice(targets)
            # A form would need a token.
            body = UPLOAD if target == "upload" else b""
            async with asyncio.timeout(DEADLINE):
                await self.ask(target, "GET", body)
        await self.close()


@tag("slow")
class SoakTests(unittest.TestCase):
    def setUp(self) -> None:
        directory = self.enterContext(tempfile.TemporaryDirectory())
        self.directory = Path(directory)
        (self.directory / "file").write_bytes(bytes(100_000))

    @contextlib.contextmanager
    def project(self, database: dict[str, Any]) -> Iterator[Process]:
        environment = {
            "DJANGO_SETTINGS_MODULE": "tests.handler_soak_project",
            "SOAK_DATABASE": json.dumps(database),
            "SOAK_FILE": str(self.directory / "file"),
        }
        command = ["-m", "django", "migrate", "--verbosity=0"]
        with Process("", command=command, environment=environment) as migrate:
            self.assertEqual(migrate.wait(4 * PATIENCE), 0, migrate.output)
        command = ["-m", "django", "runasgi", "127.0.0.1:0"]
        with Process("", command=command, environment=environment) as process:
            yield process
            process.terminate()
            self.assertEqual(process.wait(), 0, process.output)

    def soak(self, process: Process) -> dict[str, Any]:
        """Ask, and return what is left when everybody has gone."""
        port = process.port

        async def main() -> tuple[dict[str, Any], Any]:
            before = await self.state(port)
            callers = [Caller(port, number) for number in range(CLIENTS)]
            left = iter(range(REQUESTS))
            async with asyncio.TaskGroup() as group:
                for caller in callers:
                    group.create_task(caller.go_on(left))
            answers = sum((caller.answers for caller in callers), collections.Counter())
            # What clients have left is finished in its own time.
            async with asyncio.timeout(DEADLINE):
                while True:
                    after = await self.state(port)
                    if after["leased"] == 1 and len(after["files"]) <= len(
                        before["files"]
                    ):
                        break
                    await asyncio.sleep(0.1)
            return after, answers

        after, answers = asyncio.run(main())
        expected = {target: status for target, status, _ in MIX}
        wrong = {key: n for key, n in answers.items() if expected[key[0]] != key[1]}
        self.assertEqual(wrong, {})
        self.assertGreater(answers.total(), REQUESTS * 0.95)
        # One for each request at a time, and asyncio's own few.
        self.assertLessEqual(after["idle"], CLIENTS + CLIENTS)
        self.assertLessEqual(after["threads"], after["idle"] + 1 + 34)
        return after

    async def state(self, port: int) -> dict[str, Any]:
        caller = Caller(port, 0)
        found: dict[str, Any] = json.loads(await caller.ask("state"))
        await caller.close()
        return found

    def test_sqlite(self) -> None:
        name = str(self.directory / "soak.sqlite3")
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": name}
        with self.project(database) as process:
            left = self.soak(process)
        self.assertFalse([file for file in left["files"] if file.startswith(name)])

    @require("postgres")
    def test_postgresql(self) -> None:
        import psycopg

        with postgres() as database, self.project(database) as process:
            self.soak(process)
            with psycopg.connect(
                host=database["HOST"], user=database["USER"], dbname="postgres"
            ) as own:
                found = own.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE "
                    "backend_type = 'client backend' AND pid <> pg_backend_pid()"
                ).fetchone()
            self.assertEqual(found, (0,))
