"""An application that sends without end does not have the server for itself."""

from __future__ import annotations

import threading
import unittest
from typing import Any

from websockets.sync.client import connect

from .serving import PATIENCE, serving

SMALL, LARGE = b"x", b"x" * 65536


def endless(body: bytes) -> Any:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/brief":
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})
            return
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send({"type": "http.response.body", "body": body, "more_body": True})

    return application


class Turns(unittest.TestCase):
    def test_others_are_answered_after_its_client_has_gone(self) -> None:
        for body in (SMALL, LARGE, b""):
            with (
                self.subTest(len(body)),
                serving(endless(body), {"LIFESPAN": "off"}) as server,
            ):
                for _ in range(5):
                    with server.connect() as client:
                        client.socket.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                        client.read_head()
                with server.connect() as client:
                    client.socket.sendall(b"GET /brief HTTP/1.1\r\nHost: a\r\n\r\n")
                    self.assertEqual(client.read().status, 204)

    def test_others_are_answered_while_its_client_keeps_up(self) -> None:
        with (
            serving(endless(LARGE), {"LIFESPAN": "off"}) as server,
            server.connect() as greedy,
            server.connect() as modest,
        ):
            greedy.socket.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            done = threading.Event()

            def read() -> None:
                while not done.is_set() and greedy.socket.recv(1 << 20):
                    pass

            reader = threading.Thread(target=read)
            reader.start()
            try:
                modest.socket.sendall(b"GET /brief HTTP/1.1\r\nHost: a\r\n\r\n")
                self.assertEqual(modest.read().status, 204)
            finally:
                done.set()
                reader.join()

    def test_a_websocket_that_talks_without_end(self) -> None:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            if scope["path"] == "/endless":
                while True:
                    await send({"type": "websocket.send", "text": "and another thing"})
            await send({"type": "websocket.send", "text": "hello"})

        with serving(application, {"LIFESPAN": "off"}) as server:
            for _ in range(5):
                client = server.connect()
                client.socket.sendall(
                    b"GET /endless HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n"
                    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                )
                self.assertEqual(client.read_head().status, 101)
                client.socket.close()
            with connect(server.ws_url + "/", open_timeout=PATIENCE) as friend:
                self.assertEqual(friend.recv(PATIENCE), "hello")
