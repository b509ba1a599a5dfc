"""Echo client: N WebSockets, each sends a message, waits for it, sends the next.

Speaks with the driver by lines: prints ``ready`` once every connection is open, begins
at ``go``, prints its figures as JSON, and leaves when standard input closes. So the
driver can read the server's CPU clock around the messages alone, handshakes excluded.
"""

import argparse
import asyncio
import json
import sys
import time
from array import array

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect


class Run:
    """What all connections share."""

    def __init__(self, size: int) -> None:
        self.message = (b"0123456789abcdef" * (size // 16 + 1))[:size]
        self.deadline = 0.0
        self.waiting = 0
        self.latencies = array("d")
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, reason: str) -> None:
        if not self.finished.done():
            self.finished.set_exception(RuntimeError(reason))


class Echo(WSListener):
    def __init__(self, run: Run) -> None:
        self.run = run
        self.sent = 0.0

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def begin(self) -> None:
        self.sent = time.perf_counter()
        self.transport.send(WSMsgType.TEXT, self.run.message)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        run = self.run
        message = run.message
        if frame.msg_type != WSMsgType.TEXT or frame.get_payload_as_bytes() != message:
            run.fail(f"instead of its message it got {frame}")
            return
        now = time.perf_counter()
        run.latencies.append(now - self.sent)
        if now < run.deadline:
            self.sent = now
            transport.send(WSMsgType.TEXT, message)
            return
        run.waiting -= 1
        if not run.waiting and not run.finished.done():
            run.finished.set_result(None)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.run.fail("the server closed a connection")


async def main(url: str, connections: int, size: int, seconds: float) -> None:
    run = Run(size)
    echoes = []
    for _ in range(connections):
        _, echo = await ws_connect(lambda: Echo(run), url)
        echoes.append(echo)
    print("ready", flush=True)
    next_line()
    began = time.perf_counter()
    run.deadline = began + seconds
    run.waiting = connections
    for echo in echoes:
        echo.begin()
    await asyncio.wait_for(run.finished, seconds + 10)
    took = time.perf_counter() - began
    latencies = sorted(run.latencies)
    figures = {
        "messages": len(latencies),
        "seconds": took,
        "p50_us": latencies[len(latencies) // 2] * 1e6,
        "p99_us": latencies[len(latencies) * 99 // 100] * 1e6,
    }
    print(json.dumps(figures), flush=True)
    next_line()


def next_line() -> None:
    """Block until the driver speaks: nothing is in flight when this is called."""
    sys.stdin.readline()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    uvloop.run(main(**vars(options)))
