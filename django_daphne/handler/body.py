"""A request's body, complete before anything of Django's begins.

As in Django: what ``FILE_UPLOAD_MAX_MEMORY_SIZE`` allows stays in memory, more goes
into a temporary file. A disk may take its time, so files are written off the loop; and
since nothing is received meanwhile, a client that is faster than the disk waits for it.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import IO, Any

from django.conf import settings
from django.core.exceptions import RequestAborted

Receive = Callable[[], Awaitable[Mapping[str, Any]]]

#: Received bytes that are written to a file at once: a hop costs more than a small
#: write.
WRITE_SIZE = 256 * 1024


async def read_body(receive: Receive) -> IO[bytes]:
    """The body as a file, at its beginning.

    :raises RequestAborted: when the client goes away before its end.
    """
    message = await receive()
    if message["type"] != "http.disconnect" and not message.get("more_body", False):
        body = message.get("body", b"")
        if len(body) <= _memory_limit():
            return io.BytesIO(body)
    spool = _Spool()
    try:
        while True:
            if message["type"] == "http.disconnect":
                raise RequestAborted
            await spool.add(message.get("body", b""))
            if not message.get("more_body", False):
                return await spool.rewound()
            message = await receive()
    except BaseException:
        spool.close()
        raise


def _memory_limit() -> float:
    limit: int | None = settings.FILE_UPLOAD_MAX_MEMORY_SIZE
    return inf if limit is None else limit


class _Spool:
    def __init__(self) -> None:
        self._limit = _memory_limit()
        self._memory = io.BytesIO()
        self._file: IO[bytes] | None = None

    async def add(self, data: bytes) -> None:
        self._memory.write(data)
        size = self._memory.tell()
        if size > self._limit if self._file is None else size >= WRITE_SIZE:
            await self._flush()

    async def rewound(self) -> IO[bytes]:
        if self._file is None:
            self._memory.seek(0)
            return self._memory
        await self._flush()
        self._file.seek(0)
        return self._file

    async def _flush(self) -> None:
        await asyncio.to_thread(self._write, self._memory.getbuffer())
        self._memory = io.BytesIO()

    def _write(self, data: memoryview) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        with data:
            self._file.write(data)

    def close(self) -> None:
        self._memory = io.BytesIO()
        if self._file is not None:
            self._file.close()
