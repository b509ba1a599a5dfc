"""WebSocket: 64-byte text messages echoed, 32 connections, one in flight on each.

The client checks every echo. The CPU clock is read when all connections are open and
again when the last echo has come: handshakes are left out.
"""

from __future__ import annotations

from typing import Any

from machine import Cores, cpu_seconds_between
from problems import ServerFailed
from running import Client, RunningServer
from servers import WEBSOCKET

from . import Case, Metric

CONNECTIONS = 32
MESSAGE_BYTES = 64
WARM_UP_SECONDS = 1

#: To start the client and open its connections.
READY_SECONDS = 20

#: How much longer than its duration the client may take.
GRACE_SECONDS = 20


class WebSocketEcho(Case):
    name = "ws-echo"
    title = f"WebSocket echo, {MESSAGE_BYTES} bytes, {CONNECTIONS} connections"
    needs = WEBSOCKET
    headline = Metric("cpu_us", "CPU µs/message", 1)
    others = (
        Metric("per_second", "messages/s"),
        Metric("p50_ms", "p50 ms", 2),
        Metric("p99_ms", "p99 ms", 2),
        Metric("memory_mib", "memory MiB", 1),
    )

    def verify(self, server: RunningServer) -> None:
        verify_echo(server, self.cores)

    def warm_up(self, server: RunningServer) -> None:
        self.send(server, WARM_UP_SECONDS)

    def measure(self, server: RunningServer) -> dict[str, float]:
        cpu, report = self.send(server, self.seconds)
        return {
            "cpu_us": cpu / report["messages"] * 1e6,
            "per_second": report["messages"] / report["seconds"],
            "p50_ms": report["p50_us"] / 1e3,
            "p99_ms": report["p99_us"] / 1e3,
            "memory_mib": server.memory().proportional / 2**20,
        }

    def send(self, server: RunningServer, seconds: int) -> tuple[float, dict[str, Any]]:
        """The server's CPU seconds, and the client's report."""
        return _echo(server, self.cores, seconds)


def verify_echo(server: RunningServer, cores: Cores) -> None:
    """:raises ServerFailed: unless one message comes back on each connection."""
    # No time: the client sends one message on each connection.
    _, report = _echo(server, cores, seconds=0)
    if report["messages"] != CONNECTIONS:
        raise ServerFailed(f"{report['messages']} echoes instead of {CONNECTIONS}")


def _echo(
    server: RunningServer, cores: Cores, seconds: int
) -> tuple[float, dict[str, Any]]:
    client = Client(
        cores.client,
        "ws_echo.py",
        server.websocket_url,
        *("--connections", CONNECTIONS),
        *("--size", MESSAGE_BYTES),
        *("--seconds", seconds),
    )
    return measured(server, client, seconds)


def measured(
    server: RunningServer, client: Client, seconds: int
) -> tuple[float, dict[str, Any]]:
    """Let ``client`` work for so long: the server's CPU seconds, and its report."""
    with client:
        client.hear(READY_SECONDS)
        before = server.cpu_clocks()
        client.say("go")
        report = client.hear_figures(seconds + GRACE_SECONDS)
        cpu = cpu_seconds_between(before, server.cpu_clocks())
    return cpu, report
