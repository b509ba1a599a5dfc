"""A blocking WebSocket client that shows every frame."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os

from .serving import Answer, Client, Serving
from .websocket_frames import CLOSE, Sent, close_frame, frame

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class WebSocketClient(Client):
    """Begins with a handshake of its own: :meth:`open`, or :meth:`ask` to be denied."""

    def __init__(self, server: Serving, *, receive_buffer: int | None = None) -> None:
        super().__init__(server.host, server.port, receive_buffer=receive_buffer)

    def ask(self, target: str = "/", *fields: str, early: bytes = b"") -> None:
        """Send a handshake; ``early`` follows it in the same segment."""
        self.key = base64.b64encode(os.urandom(16))
        lines = [
            f"GET {target} HTTP/1.1",
            "Host: test",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {self.key.decode()}",
            "Sec-WebSocket-Version: 13",
            *fields,
        ]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + early)

    def open(self, target: str = "/", *fields: str, early: bytes = b"") -> Answer:
        self.ask(target, *fields, early=early)
        answer = self.read_head()
        if answer.status != 101:
            raise AssertionError(f"the handshake was denied: {answer}")
        proof = base64.b64encode(hashlib.sha1(self.key + GUID).digest()).decode()
        if answer.get("Sec-WebSocket-Accept") != proof:
            raise AssertionError("Sec-WebSocket-Accept proves nothing")
        if (answer.get("Upgrade"), answer.get("Connection")) != (
            "websocket",
            "Upgrade",
        ):
            raise AssertionError(f"not an upgrade: {answer}")
        return answer

    def frame(self, opcode: int, payload: bytes = b"") -> None:
        self.send(frame(opcode, payload))

    def read_frame(self) -> Sent:
        head = self.read_exactly(2)
        size = head[1]
        if size > 125:
            size = int.from_bytes(self.read_exactly(2 if size == 126 else 8), "big")
        first = head[0]
        payload = self.read_exactly(size)
        return Sent(first & 0x0F, payload, bool(first & 0x80), (first & 0x70) >> 4)

    def close_with(self, code: int | None = 1000, reason: bytes = b"") -> Sent:
        """Close as the protocol wants it; the server's close frame."""
        self.send(close_frame(code, reason))
        return self.read_close()

    def read_close(self) -> Sent:
        """The server's close frame, answered, and the end of the connection."""
        sent = self.read_frame()
        if sent.opcode != CLOSE:
            raise AssertionError(f"not a close frame: {sent}")
        # The server may have closed already.
        with contextlib.suppress(OSError):
            self.send(frame(CLOSE, sent.payload))
        if not self.ended():
            raise AssertionError("the server goes on after the close")
        return sent
