"""Health and metrics, asked as an orchestrator asks."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
import tempfile
import threading
import unittest
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from unittest import mock

from prometheus_client.parser import text_string_to_metric_families

from django_daphne.binds import parse_bind
from django_daphne.config import build_config
from django_daphne.errors import BindError, ConfigurationError
from django_daphne.server.monitor import Monitor
from django_daphne.server.server import Server

from .asgi_apps import Receive, Scope, Send, read_body, respond
from .http2_client import HTTP2Client
from .ports import free_port
from .serving import PATIENCE, Answer, Client, Process, Serving, make_config, serving
from .test_asgi import Happening
from .websocket_client import WebSocketClient

HEALTHY, READY, METRICS = "/health/live", "/health/ready", "/metrics"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        if scope["path"] == "/closed":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    else:
        await read_body(receive)
        await respond(send, b"hello", 404 if scope["path"] == "/missing" else 200)


class MonitorTestCase(unittest.TestCase):
    def serve(self, app: Any = application, **settings: Any) -> Serving:
        settings = {
            "LIFESPAN": "off",
            "MONITOR": {"BIND": "127.0.0.1:0"},
            **settings,
        }
        return self.enterContext(serving(app, settings))

    def ask(
        self, server: Serving, path: str, *fields: str, method: str = "GET"
    ) -> Answer:
        """The monitor, which is the last that listens."""
        with Client("127.0.0.1", int(server.urls[-1].rpartition(":")[2])) as client:
            client.request(path, method, *fields)
            return client.read(method)

    def figures(self, server: Serving) -> dict[tuple[str, ...], float]:
        text = self.ask(server, METRICS).body.decode()
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


class Health(MonitorTestCase):
    def test_a_server_that_serves(self) -> None:
        server = self.serve()
        self.assertEqual(len(server.urls), 2)
        for path, body in ((HEALTHY, b"alive\n"), (READY, b"ready\n")):
            answer = self.ask(server, path)
            self.assertEqual((answer.status, answer.body), (200, body))
            self.assertEqual(answer.get("Cache-Control"), "no-store")
            self.assertEqual(answer.get("Content-Type"), "text/plain; charset=utf-8")
        self.assertEqual(self.ask(server, READY, method="HEAD").status, 200)

    def test_what_is_not_there(self) -> None:
        server = self.serve()
        self.assertEqual(self.ask(server, "/").status, 404)
        self.assertEqual(self.ask(server, "/health/ready/").status, 404)
        answer = self.ask(server, READY, method="POST")
        self.assertEqual((answer.status, answer.get("Allow")), (405, "GET, HEAD"))
        # And nothing of it is on the site's own address.
        with server.connect() as client:
            self.assertEqual(client.get(HEALTHY).body, b"hello")

    def test_a_stop_does_not_wait_for_who_may_ask_again(self) -> None:
        async def ask_and_stop() -> bytes:
            monitor = Monitor(parse_bind("127.0.0.1:0"))
            watched = Server(make_config(), application)
            (url,) = await monitor.start(watched)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", int(url.rpartition(":")[2])
            )
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"alive\n")
            with mock.patch.object(Server, "_pause", side_effect=AssertionError):
                await monitor.stop()
            rest = await reader.read()
            writer.close()
            return rest

        self.assertEqual(asyncio.run(ask_and_stop()), b"")

    def test_over_http_2(self) -> None:
        server = self.serve()
        with HTTP2Client(int(server.urls[-1].rpartition(":")[2])) as client:
            self.assertEqual(client.get(READY.encode()).body, b"ready\n")

    def test_a_site_that_is_busy(self) -> None:
        go = Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await go.reached()
            await respond(send)

        self.addCleanup(go.tell)
        server = self.serve(app, LIMITS={"CONNECTIONS": 1, "CONCURRENCY": 1})
        with server.connect() as client, server.connect() as other:
            client.request()
            other.request()
            self.assertEqual(other.read().status, 503)
            self.assertEqual(self.ask(server, READY).status, 200)
            self.assertEqual(
                self.figures(server)["django_daphne_refused_total", "CONNECTIONS"], 1
            )

    def test_while_the_application_starts(self) -> None:
        begun, go = Happening(), Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await receive()
                begun.tell()
                await go.reached()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await send({"type": "lifespan.shutdown.complete"})

        # Its port has to be known before the server says where it listens.
        port = free_port()
        settings = {
            "BIND": ["127.0.0.1:0"],
            "LIFESPAN": "on",
            "MONITOR": {"BIND": f"127.0.0.1:{port}"},
        }
        server = Serving(app, make_config(settings))
        starting = threading.Thread(target=server.start)
        starting.start()
        self.addCleanup(starting.join)
        begun.wait()
        with Client("127.0.0.1", port) as client:
            answer = client.get(READY)
            self.assertEqual((answer.status, answer.body), (503, b"starting\n"))
            self.assertEqual(client.get(HEALTHY).status, 200)
            go.tell()
            starting.join()
            self.addCleanup(server.close)
            self.assertEqual(client.get(READY).status, 200)

    def test_a_port_that_is_taken(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            bind = f"127.0.0.1:{taken.getsockname()[1]}"
            with self.assertRaisesRegex(BindError, f"^{bind}: .* in use"):
                self.serve(MONITOR={"BIND": bind})


class Stopping(unittest.TestCase):
    def start(self, **timeouts: Any) -> Process:
        timeouts = {"GRACEFUL": PATIENCE, "APPLICATION_CLOSE": 1, **timeouts}
        settings = {
            "MONITOR": {"BIND": "127.0.0.1:0"},
            "TIMEOUTS": timeouts,
            "LOGGING": {"ACCESS": False},
        }
        self.go = Path(self.enterContext(tempfile.TemporaryDirectory()), "go")
        process = Process(
            "tests.asgi_apps:many_ways",
            settings,
            environment={"ASGI_APPS_GO": str(self.go)},
        )
        return self.enterContext(process)

    def status(self, process: Process, path: str) -> int:
        last = re.findall(r"Listening on (\S+)", process.output)[-1]
        try:
            with urllib.request.urlopen(last + path, timeout=PATIENCE) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def test_readiness_fails_first(self) -> None:
        process = self.start(DRAIN_DELAY=PATIENCE / 2)
        process.expect("Listening on .*\n.*Listening on .*\n")
        self.assertEqual(self.status(process, READY), 200)
        process.terminate()
        while self.status(process, READY) != 503:
            pass
        # Balancers that have not noticed yet are still served.
        with process.connect() as client:
            self.assertEqual(client.get().status, 200)
        self.assertEqual(self.status(process, HEALTHY), 200)
        process.signal(signal.SIGINT)
        self.assertEqual(process.wait(), 0)

    def test_it_answers_until_the_end(self) -> None:
        process = self.start()
        process.expect("Listening on .*\n.*Listening on .*\n")
        with process.connect() as client:
            client.request("/held")
            process.expect("held began")
            process.terminate()
            while self.status(process, READY) != 503:
                pass
            self.assertEqual(self.status(process, HEALTHY), 200)
            self.go.touch()
            self.assertEqual(client.read().body, b"at last")
        self.assertEqual(process.wait(), 0)
        self.assertNotIn("Traceback", process.output)


class Metrics(MonitorTestCase):
    def test_requests(self) -> None:
        server = self.serve()
        with server.connect() as client:
            for _ in range(3):
                client.get()
            client.get("/missing")
            client.request("/", "BREW", body=b"x")
            self.assertEqual(client.read().status, 200)
            figures = self.figures(server)
        total = "django_daphne_requests_total"
        self.assertEqual(figures[total, "1.1", "GET", "200"], 3)
        self.assertEqual(figures[total, "1.1", "GET", "404"], 1)
        self.assertEqual(figures[total, "1.1", "other", "200"], 1)
        self.assertEqual(figures[("django_daphne_request_seconds_count",)], 5)
        self.assertEqual(figures[("django_daphne_response_body_bytes_total",)], 25)
        self.assertEqual(figures[("django_daphne_connections",)], 1)
        # The library's own.
        self.assertIn(("process_open_fds",), figures)

    def test_what_is_going_on(self) -> None:
        server = self.serve()
        with WebSocketClient(server) as client, WebSocketClient(server) as denied:
            self.assertEqual(client.open().status, 101)
            denied.ask("/closed")
            self.assertEqual(denied.read().status, 403)
            figures = self.figures(server)
            self.assertEqual(figures[("django_daphne_websockets",)], 1)
            self.assertEqual(figures[("django_daphne_requests_in_progress",)], 0)
        total = "django_daphne_websocket_handshakes_total"
        self.assertEqual(figures[total, "accepted"], 1)
        self.assertEqual(figures[total, "denied"], 1)

    def test_the_access_log_goes_on(self) -> None:
        told = []
        settings = {"LIFESPAN": "off", "MONITOR": {"BIND": "127.0.0.1:0"}}
        options = {"log_access": lambda *access: told.append(access)}
        with (
            serving(application, settings, **options) as server,
            server.connect() as client,
        ):
            client.get()
        self.assertEqual(len(told), 1)

    def test_the_formats(self) -> None:
        server = self.serve()
        plain = self.ask(server, METRICS)
        self.assertRegex(plain.get("Content-Type"), "^text/plain; version=")
        asked = "Accept: application/openmetrics-text; version=1.0.0"
        answer = self.ask(server, METRICS, asked)
        self.assertRegex(answer.get("Content-Type"), "^application/openmetrics-text")
        self.assertEqual(answer.body.count(b"# EOF\n"), 1)
        self.assertTrue(answer.body.endswith(b"# EOF\n"))
        with self.assertNoLogs("django_daphne", "WARNING"):
            for nonsense in (";=,", "application/openmetrics-text; version=x"):
                answer = self.ask(server, METRICS, f"Accept: {nonsense}")
                self.assertEqual(answer.get("Content-Type"), plain.get("Content-Type"))

    def test_without_the_extra(self) -> None:
        modules = {
            "prometheus_client": None,
            "django_daphne.server.metrics": None,
        }
        with (
            mock.patch.dict(sys.modules, modules),
            self.assertLogs("django_daphne.server", "WARNING") as logs,
        ):
            server = self.serve()
        self.assertIn("django-daphne[metrics]", logs.output[0])
        answer = self.ask(server, METRICS)
        self.assertEqual(answer.status, 501)
        self.assertIn(b"django-daphne[metrics]", answer.body)
        self.assertEqual(self.ask(server, READY).status, 200)


class Settings(unittest.TestCase):
    def refused(self, **settings: Any) -> list[str]:
        with self.assertRaises(ConfigurationError) as caught:
            build_config(settings)
        return [f"{p.code} {p.key}: {p}" for p in caught.exception.problems]

    def test_mistakes(self) -> None:
        for settings, complaint in (
            ({"MONITOR": 9000}, "E004 MONITOR: .* must be a dict, not int"),
            ({"MONITOR": {"PORT": 1}}, "E002 MONITOR.PORT"),
            ({"MONITOR": {"BIND": ["a:1"]}}, "E004 MONITOR.BIND: .* must be a string"),
            ({"MONITOR": {"BIND": "nonsense"}}, "E006 MONITOR.BIND"),
            (
                {"BIND": ["127.0.0.1:80"], "MONITOR": {"BIND": "127.0.0.1:80"}},
                "E005 MONITOR.BIND: .* is in BIND too",
            ),
            (
                {"BIND": ["unix:/run/a"], "MONITOR": {"BIND": "unix:/run/a"}},
                "E005 MONITOR.BIND: .* is in BIND too",
            ),
            ({"MONITOR": {"BIND": "fd:3:tls"}}, "E005 MONITOR.BIND: .* certificate"),
            (
                {"BIND": ["systemd:name=a"], "MONITOR": {"BIND": "systemd:name=b"}},
                "E005 MONITOR.BIND: .* what systemd passes is for the site",
            ),
        ):
            with self.subTest(settings):
                [problem] = self.refused(**settings)
                self.assertRegex(problem, complaint)

    def test_none(self) -> None:
        self.assertIsNone(build_config({"MONITOR": {"BIND": None}}).monitor.bind)
        self.assertIsNone(build_config({}).monitor.bind)
