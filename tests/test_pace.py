"""Bodies that drip, and clients that sip, end at ``LIMITS["MINIMUM_RATE"]``."""

from __future__ import annotations

import contextlib
import logging
import time
import unittest
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from django_daphne.protocol.http2 import STREAM_WINDOW
from django_daphne.protocol.pace import Pace

from . import http2_peer as h2
from .asgi_apps import Receive, Scope, Send, body, read_body, respond, start
from .http2_peer import settings
from .serving import Client, Serving, serving
from .test_asgi import Happening
from .test_http import read_slowly
from .test_http1_engine import BODY_HIGH_WATER, Conversation, post, post_raw, talk
from .test_http2_engine import LARGE
from .test_http2_engine import Conversation as HTTP2Conversation
from .test_http2_engine import FakeStream as HTTP2Stream

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
        self.assertFalse(pace.keeps(974, 70))

    def test_a_long_silence_counts_as_a_whole(self) -> None:
        pace = Pace(10, 100, 50)
        self.assertFalse(pace.keeps(2974, 80))

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

    @given(
        st.floats(0.1, 5),
        st.floats(0.01, 0.3),
        st.floats(0, 0.25),
        st.integers(10, 500),
    )
    def test_nor_by_a_clock_that_ticks(
        self, window: float, gap: float, begin: float, rate: int
    ) -> None:
        def ticked() -> float:
            return now - now % 0.25

        now = begin
        pace = Pace(window, rate, ticked())
        for _ in range(100):
            now += gap
            self.assertTrue(pace.keeps(int(rate * gap) + 1, ticked()))

    def test_a_window_of_less_than_the_clock_can_tell(self) -> None:
        pace, kept = Pace(0.1, 100, 0), []
        for number in range(1, 20):
            kept.append(pace.keeps(1, number * 0.25))
        self.assertIn(False, kept)


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
            conversation.stream.resets,
            [("the request body came more slowly than LIMITS['MINIMUM_RATE']", 408)],
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

    def test_a_body_that_nobody_wants(self) -> None:
        conversation = talk(post(bytes(60_000))[:-59_000])
        conversation.stream.answer()
        wire = conversation.wire
        for _ in range(50):
            wire.armed = None
            conversation.feed(bytes(300))
            # Each piece has its own time, not the whole.
            self.assertIsNotNone(wire.armed)
            wire.clock.seconds += 1
        self.assertIsNone(wire.ended)
        self.assertLess(self.drip(conversation, b"x", 20), 5)
        # What it was answered with must not be lost to a reset.
        self.assertEqual(wire.ended, "linger")
        self.assertEqual(len(conversation.answers()), 1)

    def test_the_next_request_begins_anew(self) -> None:
        conversation = talk(post(bytes(1000))[:-900], bytes(900))
        conversation.settle()
        conversation.wire.clock.seconds += 70
        conversation.feed(post(bytes(1000))[:-900])
        conversation.wire.clock.seconds += 20
        conversation.feed(bytes(10))
        self.assertIsNone(conversation.wire.ended)


class Streams(unittest.TestCase):
    """HTTP/2's bodies and windows, each judged by itself."""

    def conversation(self, **limits: Any) -> HTTP2Conversation:
        # No pings or idle times of a test's length are in the way.
        return HTTP2Conversation(limits=limits, timeouts={"keep_alive": None})

    def upload(self, conversation: HTTP2Conversation) -> HTTP2Stream:
        return conversation.ask(h2.request(b"POST"), 0)

    def drip(
        self, conversation: HTTP2Conversation, piece: bytes, every: float, number: int
    ) -> None:
        for _ in range(number):
            conversation.wire.wait(every)
            conversation.feed(piece)

    def test_a_body_that_drips(self) -> None:
        conversation = self.conversation()
        stream, other = self.upload(conversation), self.upload(conversation)
        self.drip(conversation, h2.data(1, b"x"), 20, 5)
        response = conversation.response(stream)
        self.assertEqual(response.status, 408)
        self.assertEqual(
            stream.resets,
            [("the request body came more slowly than LIMITS['MINIMUM_RATE']", 408)],
        )
        # The other has not even begun, which is the business of BODY.
        self.assertIn("no progress", other.resets[0][0])

    def drip_frame(self, conversation: HTTP2Conversation) -> None:
        """The head of a frame of DATA, and some of its bytes, one at a time."""
        conversation.feed(h2.data(1, bytes(100))[:9])
        self.drip(conversation, b"x", 5, 20)

    def test_a_frame_that_drips(self) -> None:
        conversation = self.conversation()
        stream = self.upload(conversation)
        self.drip_frame(conversation)
        self.assertEqual(conversation.response(stream).status, 408)
        self.assertEqual(
            stream.resets,
            [("the request body came more slowly than LIMITS['MINIMUM_RATE']", 408)],
        )

    def test_a_frame_that_is_slow_and_fast_enough(self) -> None:
        conversation = self.conversation()
        stream = self.upload(conversation)
        # 250 bytes a second, in frames that take longer than a window.
        for _ in range(3):
            frame = h2.data(1, bytes(16_000))
            for begin in range(0, len(frame), 1250):
                self.drip(conversation, frame[begin : begin + 1250], 5, 1)
            self.assertEqual(stream.untaken, 16_000)
            stream.take()
        self.assertEqual(stream.resets, [])
        # What was counted piece by piece is not counted again as a whole.
        self.drip_frame(conversation)
        self.assertIn("MINIMUM_RATE", stream.resets[0][0])

    def test_a_frame_that_drips_and_that_nobody_wants(self) -> None:
        conversation = self.conversation()
        stream = self.upload(conversation)
        stream.answer(200, [], b"enough")
        self.drip_frame(conversation)
        self.assertEqual(conversation.response(stream).reset, h2.NO_ERROR)

    def test_a_body_that_is_fast_enough(self) -> None:
        conversation = self.conversation()
        stream = self.upload(conversation)
        for _ in range(100):
            self.drip(conversation, h2.data(1, bytes(2500)), 10, 1)
            stream.take()
        self.assertEqual(stream.resets, [])
        conversation.feed(h2.data(1, b"", h2.END_STREAM))
        self.assertTrue(stream.ended)

    def test_a_body_that_we_do_not_take(self) -> None:
        conversation = self.conversation()
        stream = self.upload(conversation)
        window = STREAM_WINDOW
        for _ in range(5):
            while stream.untaken <= STREAM_WINDOW // 2:
                conversation.feed(h2.data(1, bytes(min(window, 10_000))))
            conversation.wire.wait(1000)
            stream.take()
            self.assertEqual(stream.resets, [])
            conversation.wire.wait(1)

    def test_a_body_that_we_do_not_read(self) -> None:
        conversation = self.conversation()
        upload = self.upload(conversation)
        self.drip(conversation, h2.data(1, bytes(2500)), 10, 2)
        for _ in range(2):
            conversation.wire.writable = False
            while not conversation.wire.paused:
                # Each answer is more for the client to take, who takes nothing.
                stream = conversation.ask()
                stream.answer(204, [(b"x", b"y" * 10_000)])
                conversation.wire.turns()
            conversation.wire.wait(100)
            conversation.wire.writable = True
            conversation.engine.writable_again()
            conversation.wire.wait(1)
            conversation.feed(h2.data(1, bytes(300)))
            self.assertEqual(upload.resets, [])
        # From now on it is the client's time again.
        conversation.wire.wait(31)
        self.assertIn("no progress", upload.resets[0][0])

    def sip(
        self, conversation: HTTP2Conversation, id: int, size: int, number: int
    ) -> None:
        self.drip(conversation, h2.window_update(id, size), 20, number)

    def test_a_window_that_is_opened_byte_by_byte(self) -> None:
        conversation = self.conversation()
        conversation.feed(h2.window_update(0, LARGE))
        slow, other = conversation.ask(), conversation.ask()
        slow.engine.start(200, [], bytes(100_000), True)
        self.sip(conversation, 1, 10, 5)
        self.assertEqual(conversation.response(slow).reset, h2.CANCEL)
        self.assertEqual(
            slow.resets,
            [("the client takes it more slowly than LIMITS['MINIMUM_RATE']", 0)],
        )
        self.assertIn("MINIMUM_RATE", conversation.reports[0][0])
        # The connection is none the worse for it.
        other.answer(200, [], b"hello")
        self.assertEqual(conversation.response(other).body, b"hello")

    def test_what_is_added_gives_no_more_time(self) -> None:
        conversation = self.conversation()
        conversation.feed(settings(INITIAL_WINDOW_SIZE=0))
        stream = conversation.ask()
        stream.engine.start(200, [], b"event", True)
        for _ in range(4):
            conversation.wire.wait(20)
            stream.engine.body(b"event", True)
        self.assertEqual(conversation.response(stream).reset, h2.CANCEL)
        self.assertIn("WRITE", stream.resets[0][0])

    def test_a_window_that_is_opened_fast_enough(self) -> None:
        conversation = self.conversation()
        conversation.feed(h2.window_update(0, LARGE))
        stream = conversation.ask()
        stream.engine.start(200, [], bytes(1_000_000), True)
        self.sip(conversation, 1, 20 * 250, 50)
        self.assertEqual(stream.resets, [])

    def test_what_fills_more_than_a_frame_counts_whole(self) -> None:
        conversation = self.conversation()
        conversation.feed(h2.window_update(0, LARGE))
        stream = conversation.ask()
        stream.engine.start(200, [], bytes(1_000_000), True)
        # The last frame of each has one byte.
        self.sip(conversation, 1, 16 * 1024 + 1, 50)
        self.assertEqual(stream.resets, [])

    def test_what_has_not_had_to_wait_counts(self) -> None:
        conversation = self.conversation()
        conversation.feed(settings(INITIAL_WINDOW_SIZE=LARGE))
        stream = conversation.ask()
        stream.engine.start(200, [], bytes(65535 - 10_000), True)
        for _ in range(50):
            # There is room for all but the last of these.
            for _ in range(101):
                stream.engine.body(bytes(100), True)
                conversation.hear()
            self.sip(conversation, 0, 101 * 100, 1)
        self.assertEqual(stream.resets, [])

    def test_a_window_that_nobody_waits_for(self) -> None:
        for pause, patience in ((1000, 10), (50, 15)):
            conversation = self.conversation()
            conversation.feed(settings(INITIAL_WINDOW_SIZE=LARGE))
            first = conversation.ask()
            first.engine.start(200, [], bytes(100_000), True)
            conversation.hear()
            conversation.feed(h2.reset(1))
            conversation.wire.wait(pause)
            second = conversation.ask()
            second.engine.start(200, [], bytes(100_000), True)
            conversation.hear()
            conversation.wire.wait(patience)
            self.sip(conversation, 0, 5000, 2)
            self.assertEqual(second.resets, [])

    def test_a_connection_that_sips(self) -> None:
        conversation = self.conversation()
        conversation.feed(settings(INITIAL_WINDOW_SIZE=LARGE))
        streams = [conversation.ask() for _ in range(5)]
        for stream in streams:
            stream.engine.start(200, [], bytes(100_000), True)
        self.sip(conversation, 0, 50, 8)
        self.assertEqual(conversation.goaway.code, h2.ENHANCE_YOUR_CALM)
        self.assertIn("MINIMUM_RATE", conversation.reports[0][0])
        self.assertTrue(all(stream.resets for stream in streams))

    def test_a_connection_that_takes_nothing(self) -> None:
        conversation = self.conversation()
        conversation.feed(settings(INITIAL_WINDOW_SIZE=LARGE))
        streams = [conversation.ask() for _ in range(3)]
        for stream in streams:
            stream.engine.start(200, [], bytes(100_000), True)
        conversation.hear()
        conversation.wire.wait(59)
        self.assertEqual(conversation.peer.goaways(), [])
        conversation.wire.wait(2)
        self.assertEqual(conversation.goaway.code, h2.ENHANCE_YOUR_CALM)
        self.assertIn("took nothing", conversation.reports[0][0])
        self.assertTrue(all(stream.resets for stream in streams))

    def test_who_waits_for_others_is_not_slow(self) -> None:
        conversation = self.conversation()
        conversation.feed(settings(INITIAL_WINDOW_SIZE=LARGE))
        urgent = (b"priority", b"u=0")
        first = conversation.ask(h2.request(b"GET", b"/", urgent))
        last = conversation.ask(h2.request(b"GET", b"/", (b"priority", b"u=7")))
        for stream in (first, last):
            stream.engine.start(200, [], bytes(1_000_000), True)
        # All of it goes to the first.
        self.sip(conversation, 0, 20 * 300, 40)
        self.assertEqual((first.resets, last.resets), ([], []))
        self.assertEqual(conversation.peer.goaways(), [])

    def test_without_a_rate(self) -> None:
        conversation = self.conversation(minimum_rate=None)
        conversation.feed(h2.window_update(0, LARGE))
        slow, upload = conversation.ask(), self.upload(conversation)
        slow.engine.start(200, [], bytes(100_000), True)
        for _ in range(20):
            self.sip(conversation, 1, 10, 1)
            conversation.feed(h2.data(3, b"x"))
        self.assertEqual((slow.resets, upload.resets), ([], []))


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

        # The client may be held up for seconds, and still it drips.
        client = self.connect(self.serve(app, 240, BODY=3))
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
        self.assertIn("MINIMUM_RATE", logs.output[0])

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
        self.assertEqual(logs.records[0].client[0], "127.0.0.1")

    def test_a_slow_client_that_is_fast_enough(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(send, bytes(20_000_000))

        server = self.serve(app, 1000, WRITE=4)
        client = self.connect(server, receive_buffer=65536)
        client.request()
        left = 20_000_000
        client.read_until(b"\r\n\r\n")
        for some in read_slowly(client, 4):
            left -= len(some)
            if not left:
                break

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
