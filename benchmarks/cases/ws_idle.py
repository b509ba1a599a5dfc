"""Memory of a WebSocket that says nothing: 5,000 open, counted while all still are.

Resident memory, not proportional: the client maps the same libraries as the server, and
its coming would lower the server's share of them. The difference is what counts, so the
pages that a server's processes share among themselves cancel out.
"""

from __future__ import annotations

import time

from machine import cpu_seconds_between
from problems import ServerFailed
from running import Client, RunningServer
from servers import WEBSOCKET

from . import Case, Metric
from .ws_echo import verify_echo

CONNECTIONS = 5000

#: Enough for every lazy import and first allocation, too few to leave free memory
#: behind that later connections would then seem not to need.
WARM_UP_CONNECTIONS = 20

#: The slowest peer opens them in 10 s on a quiet machine.
OPEN_SECONDS = 90

READY_SECONDS = 20
COUNT_SECONDS = 10

#: Until a server has dropped what it needed only for the handshakes.
SETTLE_SECONDS = 2


class WebSocketIdle(Case):
    name = "ws-idle"
    title = f"Idle WebSockets, {CONNECTIONS:,} open"
    needs = WEBSOCKET
    # A descriptor for each, and what a Python process holds anyway.
    open_files = CONNECTIONS + 256
    headline = Metric("kib_each", "KiB/WebSocket", 1)
    others = (
        Metric("memory_mib", "all open MiB", 1),
        Metric("empty_mib", "none open MiB", 1),
        Metric("opening_us", "CPU µs/opening"),
    )

    def verify(self, server: RunningServer) -> None:
        verify_echo(server, self.cores)

    def warm_up(self, server: RunningServer) -> None:
        with Client(self.cores.client, "ws_idle.py", server.websocket_url) as client:
            client.hear(READY_SECONDS)
            self._open(client, WARM_UP_CONNECTIONS)

    def measure(self, server: RunningServer) -> dict[str, float]:
        with Client(self.cores.client, "ws_idle.py", server.websocket_url) as client:
            client.hear(READY_SECONDS)
            time.sleep(SETTLE_SECONDS)
            empty = server.memory()
            before = server.cpu_clocks()
            self._open(client, CONNECTIONS)
            opening = cpu_seconds_between(before, server.cpu_clocks())
            time.sleep(SETTLE_SECONDS)
            full = server.memory()
            client.say("count")
            still = client.hear_figures(COUNT_SECONDS)["open"]
            if still != CONNECTIONS:
                raise ServerFailed(f"only {still} of {CONNECTIONS} stayed open")
        return {
            "kib_each": (full.resident - empty.resident) / CONNECTIONS / 1024,
            "memory_mib": full.proportional / 2**20,
            "empty_mib": empty.proportional / 2**20,
            "opening_us": opening / CONNECTIONS * 1e6,
        }

    def _open(self, client: Client, count: int) -> None:
        client.say(f"open {count}")
        opened = client.hear_figures(OPEN_SECONDS)["open"]
        if opened != count:
            raise ServerFailed(f"only {opened} of {count} connections were opened")
