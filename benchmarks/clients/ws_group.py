"""Group client: N WebSockets; one sends a message, and when all have it, another.

Speaks with the driver as ``ws_echo.py`` does. A latency is the time from sending to the
last member's having it.
"""

import argparse
import asyncio
import json
import time
from array import array

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect
from ws_echo import next_line

MESSAGE = b"0123456789abcdef" * 4


class Run:
    """What all members share."""

    def __init__(self, members: int) -> None:
        self.members = members
        self.deadline = 0.0
        self.waiting = 0
        self.sent = 0.0
        self.latencies = array("d")
        self.speaker: WSTransport | None = None
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def say(self) -> None:
        self.waiting = self.members
        self.sent = time.perf_counter()
        assert self.speaker is not None
        self.speaker.send(WSMsgType.TEXT, MESSAGE)

    def heard(self) -> None:
        self.waiting -= 1
        if self.waiting:
            return
        now = time.perf_counter()
        self.latencies.append(now - self.sent)
        if now < self.deadline:
            self.say()
        elif not self.finished.done():
            self.finished.set_result(None)

    def fail(self, reason: str) -> None:
        if not self.finished.done():
            self.finished.set_exception(RuntimeError(reason))


class Member(WSListener):
    def __init__(self, run: Run) -> None:
        self.run = run

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.run.speaker = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            if frame.get_payload_as_bytes() != MESSAGE:
                self.run.fail(f"instead of the message came {frame}")
            self.run.heard()
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.run.fail("the server closed a connection")


async def main(url: str, members: int, seconds: float) -> None:
    run = Run(members)
    kept = [await ws_connect(lambda: Member(run), url) for _ in range(members)]
    # Joining the group takes the server a moment after it has accepted.
    await asyncio.sleep(0.5)
    print("ready", flush=True)
    next_line()
    began = time.perf_counter()
    run.deadline = began + seconds
    run.say()
    await asyncio.wait_for(run.finished, seconds + 10)
    took = time.perf_counter() - began
    latencies = sorted(run.latencies)
    figures = {
        "messages": len(latencies) * members,
        "seconds": took,
        "p50_us": latencies[len(latencies) // 2] * 1e6,
        "p99_us": latencies[len(latencies) * 99 // 100] * 1e6,
    }
    print(json.dumps(figures), flush=True)
    next_line()
    del kept


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--members", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    uvloop.run(main(**vars(options)))
