"""Small ASGI applications, for servers in processes of their own and for tests."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def start(
    send: Send, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    await send(
        {"type": "http.response.start", "status": status, "headers": list(headers)}
    )


async def body(send: Send, data: bytes = b"", more: bool = False) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def respond(
    send: Send,
    data: bytes = b"",
    status: int = 200,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    await start(send, status, headers)
    await body(send, data)


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request.

    :raises EOFError: when the client goes before its end.
    """
    parts, more = [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise EOFError
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


async def until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def say(*words: object) -> None:
    """Tell whoever started this process; within a test's own, nobody listens."""
    if os.environ.get("ASGI_APPS_TALK"):
        print(*words, flush=True)


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers ``hello``; speaks nothing but HTTP."""
    assert scope["type"] == "http"
    await respond(send, b"hello")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the request's body, as it comes."""
    assert scope["type"] == "http"
    await start(send)
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
        await body(send, message["body"], more)


async def exits(scope: Scope, receive: Receive, send: Send) -> None:
    """Does its work in a task of its own, as frameworks do, and ends it badly."""
    assert scope["type"] == "http"

    async def work() -> None:
        if scope["path"] == "/exit":
            sys.exit(3)
        elif scope["path"] == "/interrupt":
            raise KeyboardInterrupt
        await respond(send, b"fine")

    async def exit_soon() -> None:
        sys.exit(3)

    if scope["path"] == "/forgotten":
        _forgotten.append(asyncio.ensure_future(exit_soon()))
    task = asyncio.ensure_future(work())
    await asyncio.wait([task])
    task.result()


_forgotten: list[asyncio.Future[None]] = []


# -- For what must not leak ------------------------------------------------------------


async def everything(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers, streams, reads, echoes; ``/state`` says what the process holds."""
    if scope["type"] == "websocket":
        await _echo_messages(receive, send)
        return
    assert scope["type"] == "http"
    path = scope["path"]
    if path == "/state":
        await respond(send, json.dumps(_state()).encode())
    elif path == "/stream":
        await start(send, 200, [(b"content-type", b"text/event-stream")])
        listening = asyncio.ensure_future(until_disconnect(receive))
        try:
            for number in range(int(scope["query_string"] or 1 << 30)):
                await body(send, b"data: %d %b\n\n" % (number, b"x" * 2000), True)
                if listening.done():
                    return
        finally:
            listening.cancel()
        await body(send)
    elif path == "/download":
        size = int(scope["query_string"])
        await start(send, 200, [(b"content-length", b"%d" % size)])
        piece = bytes(64 * 1024)
        for begin in range(0, size, len(piece)):
            await body(send, piece[: size - begin], begin + len(piece) < size)
    elif path == "/upload":
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            more = message["more_body"]
        await respond(send, b"%d" % size)
    elif path == "/wait":
        await until_disconnect(receive)
    else:
        await respond(send, b"hello")


async def _echo_messages(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


def _state() -> dict[str, int]:
    """Open files, tasks, and the bytes of memory in use now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
    }


# -- For shutdown ----------------------------------------------------------------------


async def many_ways(scope: Scope, receive: Receive, send: Send) -> None:
    """Does what the path says, and prints what it meets."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await _WAYS[scope["path"]](receive, send)


async def _slow(receive: Receive, send: Send) -> None:
    """Answers two seconds later, whatever happens."""
    say("slow began")
    await asyncio.sleep(2)
    await respond(send, b"slow but sure")


async def _held(receive: Receive, send: Send) -> None:
    """Answers once there is the file that ``ASGI_APPS_GO`` names."""
    say("held began")
    while not os.path.exists(os.environ["ASGI_APPS_GO"]):
        await asyncio.sleep(0.02)
    await respond(send, b"at last")


async def _events(receive: Receive, send: Send) -> None:
    """An event stream, as frameworks make them: it ends when the client goes."""
    await start(send, 200, [(b"content-type", b"text/event-stream")])
    await body(send, b"data: 1\n\n", True)
    await until_disconnect(receive)
    say("events heard of the disconnect")
    await body(send, b"data: bye\n\n", True)


async def _report(receive: Receive, send: Send) -> None:
    """A long download that its framework gives up when the client has gone."""
    await start(send, 200, [(b"content-type", b"text/csv")])
    await body(send, b"first line\n", True)
    say("report began")
    await until_disconnect(receive)
    raise asyncio.CancelledError


async def _poll(receive: Receive, send: Send) -> None:
    """A long poll: it answers when something happens, which is never."""
    say("poll began")
    await until_disconnect(receive)
    say("poll heard of the disconnect")
    await respond(send, b"nothing new")


async def _deaf(receive: Receive, send: Send) -> None:
    """Never ends, but can be cancelled."""
    say("deaf began")
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        say("deaf was cancelled")
        raise


async def _stubborn(receive: Receive, send: Send) -> None:
    """Never ends, and cannot be cancelled."""
    say("stubborn began")
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            say("stubborn was cancelled")


async def _blocking(receive: Receive, send: Send) -> None:
    """Synchronous work, in a thread, that takes longer than anybody waits."""
    import time

    say("blocking began")
    await asyncio.to_thread(time.sleep, 1000)


async def _hello(receive: Receive, send: Send) -> None:
    await respond(send, b"hello")


_WAYS = {
    "/": _hello,
    "/slow": _slow,
    "/held": _held,
    "/events": _events,
    "/report": _report,
    "/poll": _poll,
    "/deaf": _deaf,
    "/stubborn": _stubborn,
    "/blocking": _blocking,
}


class Crowded:
    """Holds requests, streams events, reads uploads and keeps WebSockets open.

    ``/counts`` says how many there are. The held ones go when an event stream hears
    that the server stops.
    """

    def __init__(self) -> None:
        self.counts = {"held": 0, "events": 0, "uploaded": 0, "sockets": 0}
        self._go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            self.counts["sockets"] += 1
            while (await receive())["type"] != "websocket.disconnect":
                pass
            return
        way = getattr(self, "_" + scope["path"].strip("/"))
        await way(receive, send)

    async def _counts(self, receive: Receive, send: Send) -> None:
        await respond(send, json.dumps(self.counts).encode())

    async def _held(self, receive: Receive, send: Send) -> None:
        self.counts["held"] += 1
        await self._go.wait()
        await respond(send, b"at last")

    async def _events(self, receive: Receive, send: Send) -> None:
        await start(send, 200, [(b"content-type", b"text/event-stream")])
        await body(send, b"data: 1\n\n", True)
        self.counts["events"] += 1
        await until_disconnect(receive)
        self._go.set()

    async def _upload(self, receive: Receive, send: Send) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            self.counts["uploaded"] += len(message["body"])
            more = message["more_body"]
        await respond(send, b"%d" % size)


crowded = Crowded()


# -- For lifespan ----------------------------------------------------------------------


class Lifespan:
    """Speaks lifespan, prints its steps, and answers with what it put in ``state``.

    ``flaw`` names what goes wrong.
    """

    def __init__(self, flaw: str = "") -> None:
        self.flaw = flaw

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await respond(send, repr(scope.get("state")).encode())
            return
        if self.flaw == "returns":
            return
        if self.flaw == "raises early":
            raise RuntimeError("lifespan raises early")
        assert (await receive())["type"] == "lifespan.startup"
        say("starting up")
        if self.flaw == "raises late":
            raise RuntimeError("lifespan raises late")
        if self.flaw == "slow startup":
            await asyncio.sleep(1000)
        if self.flaw == "fails":
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            return
        if self.flaw == "fails silently":
            await send({"type": "lifespan.startup.failed"})
            return
        scope["state"]["colour"] = "green"
        await send({"type": "lifespan.startup.complete"})
        say("started")
        if self.flaw == "ends at once":
            return
        assert (await receive())["type"] == "lifespan.shutdown"
        say("shutting down")
        if self.flaw == "raises in shutdown":
            raise RuntimeError("lifespan raises in shutdown")
        if self.flaw == "slow shutdown":
            await asyncio.sleep(1000)
        if self.flaw == "fails in shutdown":
            await send({"type": "lifespan.shutdown.failed", "message": "lost a file"})
            return
        await send({"type": "lifespan.shutdown.complete"})
        say("shut down")


lifespan = Lifespan()
lifespan_returns = Lifespan("returns")
lifespan_raises_early = Lifespan("raises early")
lifespan_raises_late = Lifespan("raises late")
lifespan_slow_startup = Lifespan("slow startup")
lifespan_fails = Lifespan("fails")
lifespan_fails_silently = Lifespan("fails silently")
lifespan_ends_at_once = Lifespan("ends at once")
lifespan_raises_in_shutdown = Lifespan("raises in shutdown")
lifespan_fails_in_shutdown = Lifespan("fails in shutdown")
lifespan_slow_shutdown = Lifespan("slow shutdown")


# -- For memory ------------------------------------------------------------------------


async def count_slowly(scope: Scope, receive: Receive, send: Send) -> None:
    """Counts the bytes of a body, and is slow to begin with."""
    assert scope["type"] == "http"
    size, more = 0, True
    for number in range(1 << 30):
        if not more:
            break
        if number < 20:
            await asyncio.sleep(0.1)
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    await respond(send, b"%d" % size)


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends a gigabyte, in pieces, and prints how much of it was taken."""
    assert scope["type"] == "http"
    piece, total = bytes(64 * 1024), 1 << 30
    headers = [(b"content-length", b"%d" % total)]
    await start(send, 200, headers)
    for sent in range(0, total, len(piece)):
        sending = asyncio.ensure_future(body(send, piece, sent + len(piece) < total))
        if not (await asyncio.wait([sending], timeout=2))[0]:
            say("stuck after", sent)
        await sending


_answers = 0


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with a mebibyte in one piece, and counts its answers."""
    global _answers
    assert scope["type"] == "http"
    _answers += 1
    say("large answers:", _answers)
    await respond(send, bytes(1024 * 1024))
