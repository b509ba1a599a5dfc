"""A response's way out: its head, and its content in one of four ways.

A plain response is a few byte strings. An asynchronous iterator is Django's to send. A
synchronous one is iterated in the request's thread, which runs ahead of the client by
:data:`AHEAD` bytes and no more: what has come until the loop gets to it leaves
together, so that many small pieces cost little and one slow piece waits for no other. A
file that is sent as it lies on the disk is the server's to send, by
``http.response.pathsend``.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import stat
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from inspect import getattr_static
from typing import Any

from django.core.files.base import File
from django.core.files.utils import FileProxyMixin
from django.http import FileResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from .hop import Work, hop

Message = Mapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

#: Bytes that an iterator may be ahead of its client, before its thread waits.
AHEAD = 64 * 1024

#: What a piece counts for besides its bytes, lest empty ones be free.
PIECE_COST = 256

#: Objects that read what is in the file and nothing else, or a buffer before them.
_PLAIN_FILES = (io.BufferedReader, io.BufferedRandom, io.FileIO)

#: Where ``FileResponse`` would read on by itself.
_READ = FileProxyMixin.__dict__["read"]


def head_of(response: HttpResponseBase) -> Message:
    """The message that begins ``response``.

    :raises UnicodeError: for a header that cannot be sent.
    """
    headers = [
        (name.encode("ascii"), value.encode("latin-1"))
        for name, value in response.items()
    ]
    for cookie in response.cookies.values():
        headers.append((b"Set-Cookie", cookie.OutputString().encode("ascii")))
    return {
        "type": "http.response.start",
        "status": response.status_code,
        "headers": headers,
    }


def body_message(data: bytes, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


# -- Files -----------------------------------------------------------------------------


def is_plain_file(file: object) -> bool:
    """Whether nothing happens when ``file`` is closed but its closing."""
    return type(file) in _PLAIN_FILES and (
        # A buffer reads from anything that has the methods of a file.
        type(getattr(file, "raw", file)) is io.FileIO
    )


def path_of(response: HttpResponseBase, extensions: Any) -> str | None:
    """The file whose whole content ``response`` is, if the server can send files.

    None when somebody has replaced the content or begun to read it, when the file is no
    longer, or not only, what lies at its path, and when the head promises anything else
    than its size.
    """
    if not extensions or "http.response.pathsend" not in extensions:
        return None
    if not isinstance(response, FileResponse):
        return None
    if type(response).streaming_content is not StreamingHttpResponse.streaming_content:
        return None
    file: Any = response.file_to_stream
    while isinstance(file, File) and getattr_static(type(file), "read") is _READ:
        file = file.file
    if not is_plain_file(file) or file.closed:
        return None
    name = file.name
    if not isinstance(name, str) or not file.readable():
        return None
    path = os.path.abspath(name)
    try:
        if file.tell() != 0:
            return None
        opened, there = os.fstat(file.fileno()), os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(opened.st_mode) or not os.path.samestat(opened, there):
        return None
    if response.headers.get("Content-Length") != str(opened.st_size):
        return None
    return path


async def send_file(head: Message, path: str, send: Send) -> None:
    await send(head)
    await send({"type": "http.response.pathsend", "path": path})


# -- Iterators -------------------------------------------------------------------------


async def send_iterated(
    head: Message, response: StreamingHttpResponse, chunk_size: int, send: Send
) -> None:
    """Send a response whose iterator is synchronous.

    :raises Exception: what the iterator raises, after what came before it.
    """
    await send(head)
    ahead = _Ahead(asyncio.get_running_loop())
    iterating = asyncio.ensure_future(_iterate(ahead, response))
    iterating.add_done_callback(lambda _: ahead.arrived.set())
    try:
        while not iterating.done() or ahead.pieces:
            await ahead.arrived.wait()
            for chunk in _chunks(b"".join(ahead.take()), chunk_size):
                await send(body_message(chunk, True))
        error = await iterating
        if error is not None:
            raise error
    finally:
        ahead.stop()
        if not iterating.done():
            # It ends with its present piece; the thread is needed for closing.
            with contextlib.suppress(BaseException):
                await asyncio.shield(iterating)
    await send({"type": "http.response.body"})


async def _iterate(
    ahead: _Ahead, response: StreamingHttpResponse
) -> BaseException | None:
    """Returns what would end the loop if it was raised in a task of its own."""
    try:
        await hop(lambda work: ahead.run(response, work))
    except (SystemExit, KeyboardInterrupt) as error:
        return error
    return None


def _chunks(data: bytes, size: int) -> Iterable[bytes]:
    for position in range(0, len(data), size):
        yield data[position : position + size]


class _Ahead:
    """Pieces that a thread has made and the loop has yet to send."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.pieces: list[bytes] = []
        #: There are pieces, or there will be no more.
        self.arrived = asyncio.Event()
        self._loop = loop
        self._room = threading.Condition()
        self._size = 0
        self._stopped = False

    def run(self, pieces: Iterable[bytes], work: Work) -> None:
        """In the thread: iterate until there is nothing more, or nobody to send it."""
        for piece in self._until_stopped(iter(pieces)):
            with self._room:
                self.pieces.append(piece)
                self._size += len(piece) + PIECE_COST
                if len(self.pieces) == 1:
                    self._loop.call_soon_threadsafe(self.arrived.set)
                while self._size > AHEAD and not self._stopped:
                    self._room.wait()

    def _until_stopped(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        while not self._stopped:
            try:
                piece = next(pieces)
            except StopIteration:
                return
            yield piece

    def take(self) -> list[bytes]:
        """On the loop: what has come. The thread may go on."""
        with self._room:
            pieces, self.pieces = self.pieces, []
            self._size = 0
            self.arrived.clear()
            self._room.notify()
        return pieces

    def stop(self) -> None:
        with self._room:
            self._stopped = True
            self._room.notify()
