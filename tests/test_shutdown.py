"""Stopping, in stages: who may finish, who hears of it and when, and who is left."""

from __future__ import annotations

import signal
import socket
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

from .serving import PATIENCE, Answer, Client, Process, Reader


class ShutdownTests(unittest.TestCase):
    def start(self, **timeouts: Any) -> Process:
        timeouts = {"GRACEFUL": PATIENCE, "APPLICATION_CLOSE": 1, **timeouts}
        settings = {"TIMEOUTS": timeouts, "LOGGING": {"ACCESS": False}}
        self.go = Path(self.enterContext(tempfile.TemporaryDirectory()), "go")
        process = Process(
            "tests.asgi_apps:many_ways",
            settings,
            environment={"ASGI_APPS_GO": str(self.go)},
        )
        self.addCleanup(process.__exit__)
        return process

    def connect(self, process: Process) -> Client:
        client = process.connect()
        self.addCleanup(client.close)
        return client

    def ask(self, process: Process, path: str, sign: str = "") -> Client:
        """A request under way: the application has printed ``sign``."""
        client = self.connect(process)
        client.request(path)
        if sign:
            process.expect(sign)
        return client

    def begin_to_stop(
        self, process: Process, number: signal.Signals = signal.SIGTERM
    ) -> None:
        """Send the signal, and return when it is obeyed."""
        idle = self.connect(process)
        idle.get()
        process.signal(number)
        self.assertTrue(idle.ended())

    def assert_at_last(self, held: Client) -> Answer:
        """The request on ``held`` is answered when it may be."""
        self.go.touch()
        answer = held.read()
        self.assertEqual(answer.body, b"at last")
        return answer

    def assert_closed(self, client: Client, answer: Answer) -> None:
        self.assertEqual(answer.get("Connection"), "close")
        self.assertTrue(client.ended())

    def assert_ends(self, process: Process, code: int = 0) -> None:
        self.assertEqual(process.wait(), code)
        self.assertNotIn("Traceback", process.output)

    def test_nothing_to_do(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            process = self.start()
            idle = self.connect(process)
            self.assertEqual(idle.get().status, 200)
            process.signal(number)
            self.assertTrue(idle.ended())
            self.assert_ends(process)

    def test_a_slow_request_finishes(self) -> None:
        process = self.start()
        held = self.ask(process, "/held", "held began")
        self.begin_to_stop(process)
        self.assert_closed(held, self.assert_at_last(held))
        self.assert_ends(process)

    def test_nobody_is_accepted_any_more(self) -> None:
        process = self.start()
        held = self.ask(process, "/held", "held began")
        self.begin_to_stop(process)
        with self.assertRaises(ConnectionRefusedError):
            self.connect(process)
        self.assert_at_last(held)
        self.assert_ends(process)

    def test_a_request_on_a_new_connection_is_served(self) -> None:
        process = self.start()
        held = self.ask(process, "/held", "held began")
        # Whoever connected before one who has been answered has been accepted.
        fresh = self.connect(process)
        self.begin_to_stop(process)
        # Connected before the stop, and about to ask.
        answer = fresh.get()
        self.assertEqual(answer.body, b"hello")
        self.assert_closed(fresh, answer)
        self.assert_at_last(held)
        self.assert_ends(process)

    def test_an_event_stream_hears_of_it_at_once(self) -> None:
        process = self.start()
        events = self.ask(process, "/events")
        held = self.ask(process, "/held", "held began")
        head = events.read_head()
        self.assertEqual(head.get("Transfer-Encoding"), "chunked")
        process.terminate()
        # What it says last arrives, and the stream ends in order.
        rest = events.read_until(b"0\r\n\r\n")
        self.assertIn(b"data: bye", rest)
        self.assertTrue(events.ended())
        self.assert_at_last(held)
        self.assert_ends(process)
        self.assertIn("events heard of the disconnect", process.output)

    def test_an_event_stream_alone_takes_no_time(self) -> None:
        process = self.start(GRACEFUL=1000, APPLICATION_CLOSE=1)
        events = self.ask(process, "/events")
        events.read_until(b"data: 1\n\n")
        process.terminate()
        events.read_until(b"0\r\n\r\n")
        self.assert_ends(process)

    def test_a_long_poll_hears_of_it_at_the_end(self) -> None:
        process = self.start(GRACEFUL=4, APPLICATION_CLOSE=2)
        poll = self.ask(process, "/poll", "poll began")
        slow = self.ask(process, "/slow", "slow began")
        process.terminate()
        self.assertEqual(slow.read().body, b"slow but sure")
        # The slow request needed nearly as long as the poll is left alone.
        self.assertEqual(poll.read().body, b"nothing new")
        self.assertTrue(poll.ended())
        self.assert_ends(process)
        self.assertIn("poll heard of the disconnect", process.output)

    def test_a_short_stop_leaves_time_to_finish_too(self) -> None:
        # Less than APPLICATION_CLOSE is by default.
        settings = {"TIMEOUTS": {"GRACEFUL": 9.5}, "LOGGING": {"ACCESS": False}}
        process = Process("tests.asgi_apps:many_ways", settings)
        self.addCleanup(process.__exit__)
        poll = self.ask(process, "/poll", "poll began")
        slow = self.ask(process, "/slow", "slow began")
        process.terminate()
        self.assertEqual(slow.read().body, b"slow but sure")
        self.assertNotIn("poll heard", process.output)
        self.assertEqual(poll.read().body, b"nothing new")
        self.assert_ends(process)

    def test_a_very_short_stop_does_not_cancel_at_once(self) -> None:
        process = self.start(GRACEFUL=4, APPLICATION_CLOSE=1000)
        slow = self.ask(process, "/slow", "slow began")
        process.terminate()
        self.assertEqual(slow.read().body, b"slow but sure")
        self.assert_ends(process)

    def test_a_download_that_is_given_up_does_not_look_complete(self) -> None:
        process = self.start(GRACEFUL=2, APPLICATION_CLOSE=1)
        report = self.ask(process, "/report", "report began")
        process.terminate()
        answer = report.read()
        self.assertEqual((answer.body, answer.complete), (b"first line\n", False))
        self.assert_ends(process)
        self.assertIn("GET /report was given up", process.output)

    def test_a_poll_is_not_told_while_there_is_time(self) -> None:
        process = self.start(GRACEFUL=1000, APPLICATION_CLOSE=1)
        poll = self.ask(process, "/poll", "poll began")
        slow = self.ask(process, "/slow", "slow began")
        process.terminate()
        self.assertEqual(slow.read().body, b"slow but sure")
        self.assertNotIn("poll heard", process.output)
        process.terminate()
        self.assert_ends(process)
        poll.close()

    def test_who_does_not_end_is_cancelled(self) -> None:
        process = self.start(GRACEFUL=1, APPLICATION_CLOSE=0.5)
        deaf = self.ask(process, "/deaf", "deaf began")
        process.terminate()
        self.assertIn(deaf.read().status, (500, 503))
        self.assertTrue(deaf.ended())
        self.assert_ends(process)
        self.assertIn("deaf was cancelled", process.output)
        self.assertIn("Given up, unfinished: GET /deaf\n", process.output)

    def test_who_cannot_be_cancelled_is_left(self) -> None:
        process = self.start(GRACEFUL=1, APPLICATION_CLOSE=0.5)
        stubborn = self.ask(process, "/stubborn", "stubborn began")
        process.terminate()
        self.assertTrue(stubborn.ended())
        self.assert_ends(process)
        self.assertIn("stubborn was cancelled", process.output)
        self.assertIn("in vain, and left behind: GET /stubborn\n", process.output)

    def test_a_thread_that_does_not_end_is_left(self) -> None:
        process = self.start(GRACEFUL=1, APPLICATION_CLOSE=0.5)
        self.ask(process, "/blocking", "blocking began")
        process.terminate()
        self.assert_ends(process)
        self.assertIn("Given up, unfinished: GET /blocking\n", process.output)
        self.assertIn("view in its thread; it is left behind", process.output)

    def test_a_second_signal_does_not_wait_for_threads_either(self) -> None:
        process = self.start(GRACEFUL=1000, APPLICATION_CLOSE=900)
        blocking = self.ask(process, "/blocking", "blocking began")
        idle = self.connect(process)
        idle.get()
        process.terminate()
        self.assertTrue(idle.ended())
        process.terminate()
        self.assert_ends(process)
        blocking.close()

    def test_a_second_signal_stops_now(self) -> None:
        for first, second in (
            (signal.SIGTERM, signal.SIGTERM),
            (signal.SIGINT, signal.SIGTERM),
            (signal.SIGINT, signal.SIGINT),
        ):
            process = self.start(GRACEFUL=1000, APPLICATION_CLOSE=900)
            deaf = self.ask(process, "/deaf", "deaf began")
            idle = self.connect(process)
            idle.get()
            process.signal(first)
            self.assertTrue(idle.ended())
            self.assertTrue(process.running)
            process.signal(second)
            self.assert_ends(process)
            self.assertIn("deaf was cancelled", process.output)
            deaf.close()

    def test_the_delay_keeps_the_listeners_open(self) -> None:
        process = self.start(DRAIN_DELAY=4)
        self.assertTrue(process.url)
        began = time.monotonic()
        process.terminate()
        # A balancer that has not noticed yet still gets its answers.
        for _ in range(3):
            client = self.connect(process)
            self.assertEqual(client.get().status, 200)
        self.assert_ends(process)
        self.assertGreaterEqual(time.monotonic() - began, 4)

    def test_a_second_signal_ends_the_delay(self) -> None:
        process = self.start(DRAIN_DELAY=PATIENCE * 2, GRACEFUL=PATIENCE * 3)
        client = self.connect(process)
        client.get()
        process.terminate()
        self.assertEqual(client.get().status, 200)
        process.terminate()
        self.assert_ends(process)

    def test_requests_sent_ahead_are_answered_up_to_the_close(self) -> None:
        process = self.start()
        client = self.connect(process)
        client.send(
            b"GET /held HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        process.expect("held began")
        self.begin_to_stop(process)
        self.assert_closed(client, self.assert_at_last(client))
        self.assert_ends(process)

    def test_an_upload_under_way_finishes(self) -> None:
        settings = {"TIMEOUTS": {"GRACEFUL": PATIENCE}, "LOGGING": {"ACCESS": False}}
        process = Process("tests.asgi_apps:echo", settings)
        self.addCleanup(process.__exit__)
        client, idle = self.connect(process), self.connect(process)
        idle.get()
        client.request("/", "POST", "Content-Length: 10")
        client.send(b"hello")
        client.read_until(b"hello\r\n")
        process.terminate()
        self.assertTrue(idle.ended())
        client.send(b"world")
        self.assertEqual(client.read_to_end(), b"5\r\nworld\r\n0\r\n\r\n")
        self.assert_ends(process)

    def test_a_client_that_reads_nothing_is_dropped(self) -> None:
        settings = {
            "TIMEOUTS": {"GRACEFUL": 2, "APPLICATION_CLOSE": 1},
            "LOGGING": {"ACCESS": False},
        }
        process = Process("tests.asgi_apps:endless", settings)
        self.addCleanup(process.__exit__)
        client = self.connect(process)
        client.request()
        process.expect("stuck after")
        process.terminate()
        self.assert_ends(process)
        # Even a body that ends with its connection must not look complete.
        answer = client.read()
        self.assertFalse(answer.complete)

    def test_the_signal_of_a_terminal_while_clients_wait(self) -> None:
        process = self.start()
        held = self.ask(process, "/held", "held began")
        self.begin_to_stop(process, signal.SIGINT)
        self.assert_at_last(held)
        self.assert_ends(process)

    def test_hangup_does_not_stop(self) -> None:
        process = self.start()
        self.assertTrue(process.url)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            process.signal(number)
            client = self.connect(process)
            self.assertEqual(client.get().status, 200)
        process.terminate()
        self.assert_ends(process)

    def test_half_a_head_does_not_hold_it_up(self) -> None:
        process = self.start(GRACEFUL=1000, APPLICATION_CLOSE=1)
        client = self.connect(process)
        client.send(b"GET / HTTP/1.1\r\n")
        other = self.connect(process)
        other.get()
        process.terminate()
        self.assertTrue(client.ended())
        self.assert_ends(process)

    def test_a_unix_socket_is_removed(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "app.sock")
            process = Process(
                "tests.asgi_apps:many_ways",
                {"BIND": [f"unix:{path}"], "LOGGING": {"ACCESS": False}},
            )
            self.addCleanup(process.__exit__)
            process.expect("Listening on unix:")
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect(str(path))
                # What is not accepted when the server stops is reset.
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                self.assertEqual(Reader(client.recv).read().body, b"hello")
                process.terminate()
                self.assertEqual(client.recv(1), b"")
            self.assert_ends(process)
            self.assertFalse(path.exists())
