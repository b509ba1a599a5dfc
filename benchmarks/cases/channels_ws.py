"""Channels: an echo, and one message to a group of a hundred.

Beside ``ws-echo``, the first tells what Channels costs above the server. In the second
a message in the table is one that a member of the group has received.
"""

from __future__ import annotations

from typing import Any

from machine import cpu_seconds_between
from problems import ServerFailed
from running import Client, RunningServer
from servers import CHANNELS

from . import Metric
from .ws_echo import GRACE_SECONDS, READY_SECONDS, WARM_UP_SECONDS, WebSocketEcho

MEMBERS = 100


class ChannelsEcho(WebSocketEcho):
    name = "channels-echo"
    title = "Channels, an AsyncWebsocketConsumer that echoes, 32 connections"
    needs = CHANNELS
    app = "channels_app:app"


class ChannelsGroup(WebSocketEcho):
    name = "channels-group"
    title = f"Channels, a message to a group of {MEMBERS}"
    needs = CHANNELS
    app = "channels_app:app"
    others = (
        Metric("per_second", "messages/s"),
        Metric("p50_ms", "p50 ms", 2),
        Metric("p99_ms", "p99 ms", 2),
        Metric("memory_mib", "memory MiB", 1),
    )

    def verify(self, server: RunningServer) -> None:
        _, report = self._send(server, seconds=0)
        if report["messages"] != MEMBERS:
            raise ServerFailed(f"{report['messages']} members were told")

    def warm_up(self, server: RunningServer) -> None:
        self._send(server, WARM_UP_SECONDS)

    def measure(self, server: RunningServer) -> dict[str, float]:
        cpu, report = self._send(server, self.seconds)
        return {
            "cpu_us": cpu / report["messages"] * 1e6,
            "per_second": report["messages"] / report["seconds"],
            "p50_ms": report["p50_us"] / 1e3,
            "p99_ms": report["p99_us"] / 1e3,
            "memory_mib": server.memory().proportional / 2**20,
        }

    def _send(
        self, server: RunningServer, seconds: int
    ) -> tuple[float, dict[str, Any]]:
        with Client(
            self.cores.client,
            "ws_group.py",
            f"{server.websocket_url}group",
            *("--members", MEMBERS),
            *("--seconds", seconds),
        ) as client:
            client.hear(READY_SECONDS)
            before = server.cpu_clocks()
            client.say("go")
            report = client.hear_figures(seconds + GRACE_SECONDS)
            cpu = cpu_seconds_between(before, server.cpu_clocks())
        return cpu, report
