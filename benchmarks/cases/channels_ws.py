"""Channels: an echo, and one message to a group of a hundred.

Beside ``ws-echo``, the first tells what Channels costs above the server. In the second
a message in the table is one that a member of the group has received.
"""

from __future__ import annotations

from typing import Any

from problems import ServerFailed
from running import Client, RunningServer
from servers import CHANNELS

from .ws_echo import WebSocketEcho, measured

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

    def verify(self, server: RunningServer) -> None:
        _, report = self.send(server, seconds=0)
        if report["messages"] != MEMBERS:
            raise ServerFailed(f"{report['messages']} members were told")

    def send(self, server: RunningServer, seconds: int) -> tuple[float, dict[str, Any]]:
        client = Client(
            self.cores.client,
            "ws_group.py",
            f"{server.websocket_url}group",
            *("--members", MEMBERS),
            *("--seconds", seconds),
        )
        return measured(server, client, seconds)
