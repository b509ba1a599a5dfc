"""Bodies that drip, and clients that sip, end at ``LIMITS["MINIMUM_RATE"]``."""

from __future__ import annotations

import contextlib
import logging
import time
import unittest
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from django_daphne.protocol.pace import Pace

from .asgi_apps import Receive, Scope, Send, body, read_body, respond, start
from .serving import Client, Serving, serving
from .test_asgi import Happening
from .test_http1_engine import BODY_HIGH_WATER, Conversation, post, post_raw, talk

PROTOCOL_LOG = "django_daphne.protocol"


class Windows(unittest.TestCase):
    def test_nobody_is_judged_on_less_than_a_window(self) -> None:
        pace = Pace(10, 100, 50)
        self.assertTrue(pace.keeps(1, 59.9))
        self.assertFalse(pace.keeps(1, 60))

    def test_enough_begins_another_window(self) -> None:
        pace = Pace(10, 100, 50)
        self.assertTrue(pace.keeps(1000, 60))
        self.assertTrue(pace.keeps(0, 69))
        # What was too much in the window before helps in none.
        self.assertFalse(pace.keeps(999, 70))

    def test_a_long_silence_counts_as_a_whole(self) -> None:
        pace = Pace(10, 100, 50)
        self.assertFalse(pace.keeps(2999, 80))

    def test_time_that_is_not_theirs(self) -> None:
        pace = Pace(10, 100, 50)
        pace.stop(51)
        pace.stop(55)
        self.assertTrue(pace.keeps(1, 1000))
        pace.go_on(1000)
        pace.go_on(1000)
        self.assertTrue(pace.keeps(0, 1008.9))
        self.assertFalse(pace.keeps(0, 1009))

    def test_without_a_limit(self) -> None:
        self.assertTrue(Pace(None, 100, 0).keeps(0, 1000))
        self.assertTrue(Pace(10, None, 0).keeps(0, 1000))

    @given(st.lists(st.floats(0.01, 30), min_size=1, max_size=50), st.integers(1, 500))
    def test_whoever_is_faster_is_never_cut(self, gaps: list[float], rate: int) -> None:
        pace, now = Pace(10, rate, 0), 0.0
        for gap in gaps:
            now += gap
            self.assertTrue(pace.keeps(int(rate * gap) + 1, now))


class Bodies(unittest.TestCase):
    """The engine's, on a clock of the test's."""

    def drip(self, conversation: Conversation, piece: bytes, every: float) -> int:
        """How many pieces were taken, of a hundred."""
        for number in range(100):
            if conversation.wire.ended:
                return number
            conversation.wire.clock.seconds += every
            conversation.feed(piece)
        return 100

    def test_a_byte_now_and_then(self) -> None:
        conversation = talk(post(bytes(100_000))[:-99_000])
        taken = self.drip(conversation, b"x", 20)
        self.assertEqual(taken, 2)
        [answer] = conversation.answers()
        self.assertEqual(answer.status, 408)
        self.assertEqual(conversation.wire.ended, "linger")
        self.assertEqual(
            conversation.stream.resets, [("the request body came too slowly", 408)]
        )
        self.assertEqual(conversation.reports[0][1], 408)

    def test_chunks(self) -> None:
        # What frames the bytes is not the body.
        conversation = talk(post_raw(b"Transfer-Encoding: chunked", body=b"1\r\nx\r\n"))
        taken = self.drip(conversation, b"1;" + b"a" * 250 + b"\r\nx\r\n", 1)
        self.assertLess(taken, 100)

    def test_fast_enough(self) -> None:
        conversation = talk(post(bytes(100_000))[:-99_000])
        self.assertEqual(self.drip(conversation, bytes(241), 1), 100)

    def test_another_rate(self) -> None:
        options = {"limits": {"minimum_rate": 1000}}
        conversation = talk(post(bytes(100_000))[:-99_000], **options)
        self.assertLess(self.drip(conversation, bytes(900), 1), 40)
        options = {"limits": {"minimum_rate": None}}
        conversation = talk(post(bytes(100_000))[:-99_000], **options)
        self.assertEqual(self.drip(conversation, b"x", 20), 100)

    def test_time_in_which_we_did_not_read(self) -> None:
        conversation = talk(post(bytes(500_000))[:-499_000])
        clock = conversation.wire.clock
        for _ in range(5):
            conversation.feed(bytes(BODY_HIGH_WATER + 1))
            self.assertTrue(conversation.wire.paused)
            clock.seconds += 1000
            conversation.stream.take()
            conversation.wire.flush()
            self.assertIsNone(conversation.wire.ended)
            # The end of each pause begins no window in which nobody has to hurry.
            clock.seconds += 1

    def test_the_next_request_begins_anew(self) -> None:
        conversation = talk(post(bytes(1000))[:-900], bytes(900))
        conversation.settle()
        conversation.wire.clock.seconds += 70
        conversation.feed(post(bytes(1000))[:-900])
        conversation.wire.clock.seconds += 20
        conversation.feed(bytes(10))
        self.assertIsNone(conversation.wire.ended)


class Clients(unittest.TestCase):
    """Over sockets, with windows short enough to wait for."""

    def serve(self, app: Any, rate: int | None, **timeouts: float) -> Serving:
        limits = {"MINIMUM_RATE": rate}
        settings = {"LIFESPAN": "off", "TIMEOUTS": timeouts, "LIMITS": limits}
        return self.enterContext(serving(app, settings))

    def connect(self, server: Serving, **options: Any) -> Client:
        return self.enterContext(server.connect(**options))

    def test_an_upload_that_drips(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            with contextlib.suppress(EOFError):
                await read_body(receive)

        client = self.connect(self.serve(app, 240, BODY=0.5))
        client.request("/", "POST", "Content-Length: 1000")
        client.socket.settimeout(0.05)
        with self.assertLogs(PROTOCOL_LOG, logging.INFO) as logs:
            for _ in range(500):
                try:
                    client.send(b"x")
                    answer = client.read()
                    break
                except TimeoutError:
                    continue
            else:
                self.fail("a byte now and then held the request")
        self.assertEqual(answer.status, 408)
        self.assertIn("too slowly", logs.output[0])

    def download(self, ended: Happening) -> Any:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send)
            try:
                while True:
                    await body(send, bytes(65536), True)
            except OSError as error:
                ended.tell(error)
                raise

        return app

    def test_a_download_that_is_sipped(self) -> None:
        ended = Happening()
        # More than anybody takes in such sips.
        server = self.serve(self.download(ended), 10_000_000, WRITE=0.5)
        client = self.connect(server, receive_buffer=4096)
        with self.assertLogs(PROTOCOL_LOG, logging.INFO) as logs:
            client.request()
            for _ in range(500):
                if ended.told:
                    break
                try:
                    client.socket.recv(2048)
                except ConnectionResetError:
                    break
                time.sleep(0.02)
            ended.wait()
        self.assertIn("of the response in", logs.output[0])

    def test_a_slow_client_that_is_fast_enough(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(send, bytes(20_000_000))

        server = self.serve(app, 1000, WRITE=4)
        client = self.connect(server, receive_buffer=65536)
        client.request()
        left = 20_000_000
        client.read_until(b"\r\n\r\n")
        while left:
            time.sleep(0.02)
            left -= len(client.read_some())

    def test_an_event_stream_has_nothing_to_hurry_for(self) -> None:
        go = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send)
            await body(send, b"data: 1\n\n", True)
            await go.reached()
            await body(send, b"data: 2\n\n")

        client = self.connect(self.serve(app, 1_000_000, WRITE=0.3))
        self.addCleanup(go.tell)
        with self.assertNoLogs(PROTOCOL_LOG, logging.INFO):
            client.request()
            client.read_until(b"data: 1\n\n")
            # Several windows.
            time.sleep(1.2)
            go.tell()
            client.read_until(b"data: 2\n\n")
