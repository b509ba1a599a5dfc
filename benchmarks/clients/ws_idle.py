"""Idle client: opens WebSockets and keeps them open, answering pings, saying nothing.

Speaks with the driver by lines: each ``open N`` opens connections until N are open and
prints how many are; ``count`` prints how many still are; end of input ends it.
"""

import argparse
import asyncio
import json
import sys

import uvloop
from picows import WSListener, WSTransport, ws_connect

#: Handshakes under way at once: enough to keep the server busy, few enough for any
#: backlog of connections not yet accepted.
AT_ONCE = 50

#: Longest a handshake may take; slow servers accept some 500 a second.
HANDSHAKE_SECONDS = 30

#: Loopback addresses the connections come from, so that no one of them has to supply
#: an ephemeral port for every connection of a run (and for those in TIME_WAIT).
SOURCES = [f"127.0.0.{last}" for last in range(2, 10)]


class Idle(WSListener):
    def __init__(self, opened: set[WSTransport]) -> None:
        self.opened = opened

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.opened.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.opened.discard(transport)


async def main(url: str) -> None:
    opened: set[WSTransport] = set()
    gate = asyncio.Semaphore(AT_ONCE)

    async def connect(number: int) -> None:
        source = SOURCES[number % len(SOURCES)]
        async with gate:
            await ws_connect(
                lambda: Idle(opened),
                url,
                websocket_handshake_timeout=HANDSHAKE_SECONDS,
                local_addr=(source, 0),
            )

    print("ready", flush=True)
    lines = await standard_input()
    while line := await lines.readline():
        command, *arguments = line.decode().split()
        if command == "open":
            wanted = range(len(opened), int(arguments[0]))
            # Not a TaskGroup: the first failure is what the driver should read.
            await asyncio.gather(*map(connect, wanted))
        print(json.dumps({"open": len(opened)}), flush=True)


async def standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    uvloop.run(main(parser.parse_args().url))
