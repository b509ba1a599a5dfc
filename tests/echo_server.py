"""A server for the tests of listening: ``python -m tests.echo_server BIND...``.

It prints one JSON object a line: the listeners' URLs once they listen, the ends of each
connection, what Twisted's reactor asks for, and the last word. SIGTERM stops accepting,
waits for the connections to end, and finishes. The first bytes of a connection may be a
command (:meth:`Echo.obey`); everything else comes back as it was sent.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import logging
import signal
import sys
from typing import Any, cast

from django_daphne.binds import parse_bind
from django_daphne.errors import BindError
from django_daphne.server.endpoints import open_listeners
from django_daphne.server.tls_extension import tls_extension

CHUNK = bytes(range(256)) * 256


def say(event: str, **details: Any) -> None:
    print(json.dumps({"event": event, **details}), flush=True)


class Echo(asyncio.Protocol):
    connections: set[Echo] = set()
    hoarders: set[Echo] = set()

    def __init__(self) -> None:
        self.left = 0
        self.largest = 0
        self.counted: int | None = None
        self.first = True
        self.writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=64 * 1024)
        transport.set_protocol(self)
        assert transport.get_protocol() is self
        self.connections.add(self)
        tls = transport.get_extra_info("ssl_object")
        say(
            "made",
            peername=transport.get_extra_info("peername"),
            sockname=transport.get_extra_info("sockname"),
            tls=tls and [tls.version(), tls.cipher(), tls.selected_alpn_protocol()],
            extension=tls and tls_extension(tls),
        )

    def data_received(self, data: bytes) -> None:
        if self.counted is not None:
            assert self.transport.is_reading(), "data while reading is paused"
            self.counted += len(data)
        elif self.first and data.startswith(b"!"):
            command, *arguments = data.decode().split()
            self.obey(command[1:], *arguments)
        else:
            self.transport.write(data)
        self.first = False

    def obey(self, command: str, *arguments: str) -> None:
        transport = self.transport
        match command:
            case "flood":
                self.left = int(arguments[0])
                self.flood()
            case "hoard":
                self.counted = 0
                transport.pause_reading()
                self.hoarders.add(self)
                say("hoarding")
            case "release":
                for hoarder in self.hoarders:
                    hoarder.transport.resume_reading()
                transport.writelines([b"re", bytearray(b"leased")])
            case "close":
                transport.write(CHUNK * 16)
                transport.close()
                transport.write(b"too late")
            case "half":
                transport.write(CHUNK * 16)
                assert transport.can_write_eof()
                transport.write_eof()
                self.counted = 0
            case "abort":
                transport.abort()
                assert transport.is_closing()
            case "fail":
                raise RuntimeError("the protocol failed")

    def flood(self) -> None:
        while self.left and self.writable:
            piece = CHUNK[: self.left]
            self.left -= len(piece)
            self.transport.write(piece)
            self.largest = max(self.largest, self.transport.get_write_buffer_size())
        if not self.left:
            say("flooded", largest=self.largest)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        say("drained", left=self.transport.get_write_buffer_size())
        self.flood()

    def eof_received(self) -> bool:
        say("eof")
        if self.counted is not None:
            return False
        self.transport.write(b"<eof>")
        self.transport.close()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.connections.discard(self)
        self.hoarders.discard(self)
        say(
            "lost",
            error=error and type(error).__name__,
            counted=self.counted,
            peername=self.transport.get_extra_info("peername"),
        )
        assert self.transport.is_closing()
        self.transport.abort()
        self.transport.close()


async def serve(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def reactor_stop() -> None:
        say("reactor.stop")
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.set_exception_handler(
        lambda loop, context: say("failure", text=context["message"])
    )
    listeners = await open_listeners(
        [parse_bind(text) for text in options.binds],
        backlog=64,
        on_reactor_stop=reactor_stop,
    )
    say("bound", urls=[listener.url for listener in listeners])
    if options.hold:
        await asyncio.to_thread(sys.stdin.readline)
    for listener in listeners:
        await listener.start(
            Echo,
            handshake_timeout=options.timeout,
            first_data_timeout=options.timeout,
        )
    say(
        "listening",
        urls=[listener.url for listener in listeners],
        addresses=[listener.address for listener in listeners],
        twisted="twisted" in sys.modules,
    )
    await stop.wait()
    for listener in listeners:
        listener.stop_accepting()
        listener.stop_accepting()
    say("stopped")
    while Echo.connections:
        await asyncio.sleep(0.01)
    for listener in listeners:
        await listener.finish()
    say("finished")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("binds", nargs="+")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="uvloop")
    parser.add_argument("--timeout", type=float)
    parser.add_argument("--reactor", help="install this reactor first")
    parser.add_argument("--set", action="append", default=[], metavar="MODULE.NAME=X")
    parser.add_argument("--hold", action="store_true", help="start at a line of input")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    if options.reactor:
        __import__(f"twisted.internet.{options.reactor}", fromlist=["x"]).install()
    for setting in options.set:
        place, _, value = setting.partition("=")
        module, _, name = place.rpartition(".")
        setattr(importlib.import_module(module), name, float(value))
    if options.loop == "uvloop":
        import uvloop

        new_loop = uvloop.new_event_loop
    else:
        new_loop = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        try:
            runner.run(serve(options))
        except BindError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
