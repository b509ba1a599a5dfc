"""A blocking HTTP/2 client over a socket, with TLS or by prior knowledge."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable

from . import http2_peer as h2
from .http2_peer import Fields, Peer, Received, Response
from .serving import PATIENCE, Connected
from .websocket_frames import CLOSE, Sent, close_frame, frame


class HTTP2Client(Connected, Peer):
    """Used as a context manager, or closed by the test.

    ``windows`` opens the client's windows so far that they are never in the way;
    ``greeting`` is said in place of the preface and all that.
    """

    def __init__(
        self,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        windows: bool = True,
        greeting: bytes | None = None,
        receive_buffer: int | None = None,
        source: str | None = None,
    ) -> None:
        super().__init__()
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        if source is not None:
            self.socket.bind((source, 0))
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
            assert isinstance(self.socket, ssl.SSLSocket)
            assert self.socket.selected_alpn_protocol() == "h2"
        if greeting is None:
            greeting = h2.PREFACE + h2.settings()
            if windows:
                size = 1 << 30
                greeting = h2.PREFACE + h2.settings(INITIAL_WINDOW_SIZE=size)
                greeting += h2.window_update(0, size)
        self.send(greeting)

    def read_some(self) -> list[Received]:
        """The frames that one read completes; settings and pings are acknowledged.

        :raises EOFError: at the end.
        """
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(f"{self.frames[-3:]}")
        frames = self.feed(data)
        for one in frames:
            if one.kind in (h2.SETTINGS, h2.PING) and not one.flags & h2.ACK:
                payload = one.payload if one.kind == h2.PING else b""
                with contextlib.suppress(OSError):
                    self.send(h2.frame(one.kind, h2.ACK, 0, payload))
        return frames

    def read_until(self, happened: Callable[[], object]) -> None:
        """Read until ``happened()``."""
        end = time.monotonic() + PATIENCE
        while not happened():
            if time.monotonic() > end:
                raise AssertionError(f"it did not happen: {self.frames[-3:]}")
            self.read_some()

    def read_to_end(self) -> None:
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                self.read_some()

    def ask(self, fields: Fields | None = None, flags: int = h2.END_STREAM) -> int:
        """Send a request; return its stream."""
        self.send(self.open(fields, flags))
        return self.last

    def answer(self, id: int) -> Response:
        """The whole response on a stream, or what there is of it at its reset."""

        def over() -> bool:
            response = self.responses.get(id)
            return response is not None and (
                response.complete or response.reset is not None
            )

        self.read_until(over)
        return self.responses[id]

    def head(self, id: int) -> Response:
        """The response on a stream, once its head has come."""
        self.read_until(lambda: id in self.responses and self.responses[id].headers)
        return self.responses[id]

    def get(self, path: bytes = b"/", *fields: tuple[bytes, bytes]) -> Response:
        return self.answer(self.ask(h2.request(b"GET", path, *fields)))


class WebSocketOverHTTP2:
    """A WebSocket on a stream of a client's."""

    def __init__(
        self, client: HTTP2Client, path: bytes = b"/", *fields: tuple[bytes, bytes]
    ) -> None:
        self.client = client
        self.id = client.ask(
            [
                (b":method", b"CONNECT"),
                (b":protocol", b"websocket"),
                (b":scheme", b"http"),
                (b":path", path),
                (b":authority", b"example.org"),
                (b"sec-websocket-version", b"13"),
                *fields,
            ],
            0,
        )
        self._read = 0

    @property
    def response(self) -> Response:
        return self.client.head(self.id)

    def send(self, data: bytes, flags: int = 0) -> None:
        """In frames; the stream's window is the test's business."""
        while len(data) > self.client.max_frame:
            piece, data = data[: self.client.max_frame], data[self.client.max_frame :]
            self.client.send(h2.data(self.id, piece))
        self.client.send(h2.data(self.id, data, flags))

    def frame(self, opcode: int, payload: bytes = b"") -> None:
        self.send(frame(opcode, payload))

    def _exactly(self, size: int) -> bytes:
        response = self.response
        self.client.read_until(lambda: len(response.body) >= self._read + size)
        begin, self._read = self._read, self._read + size
        return bytes(response.body[begin : self._read])

    def read_frame(self) -> Sent:
        head = self._exactly(2)
        size = head[1]
        assert not size & 0x80, "the server masks"
        if size > 125:
            size = int.from_bytes(self._exactly(2 if size == 126 else 8))
        first = head[0]
        return Sent(
            first & 0x0F, self._exactly(size), bool(first & 0x80), (first & 0x70) >> 4
        )

    def read_close(self) -> int:
        """The server's close frame, answered; its code."""
        sent = self.read_frame()
        assert sent.opcode == CLOSE, sent
        self.send(frame(CLOSE, sent.payload), h2.END_STREAM)
        return int.from_bytes(sent.payload[:2])

    def close_with(self, code: int) -> int:
        """Close as the protocol wants it; the code of the server's answer."""
        self.send(close_frame(code))
        sent = self.read_frame()
        assert sent.opcode == CLOSE, sent
        self.send(b"", h2.END_STREAM)
        return int.from_bytes(sent.payload[:2])
