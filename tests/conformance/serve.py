"""An echo server with every default on, for the Autobahn test suite to talk to.

Prints the URL of its WebSocket once it listens; SIGTERM stops it.
"""

from __future__ import annotations

import sys
from typing import Any

from django_daphne.config import build_config
from django_daphne.server.process import run


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    assert scope["type"] == "websocket"
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        await send(message | {"type": "websocket.send"})


def announce(urls: list[str]) -> None:
    print(urls[0].replace("http", "ws", 1), flush=True)


if __name__ == "__main__":
    config = build_config({"BIND": ["127.0.0.1:0"], "LIFESPAN": "off"})
    sys.exit(run(config, echo, on_listening=announce))
