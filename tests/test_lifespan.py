"""Lifespan: applications that speak it, that do not, and that fail."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import logging
import os
import tempfile
import unittest
from collections.abc import Iterator
from typing import Any

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

from django_daphne.config import Hooks
from django_daphne.errors import BindError, LifespanFailed
from django_daphne.server import process

from .asgi_apps import Lifespan, Receive, Scope, Send, hello, respond
from .serving import Process, Serving, make_config, serving

SERVER_LOG = "django_daphne.server"


class InProcess(unittest.TestCase):
    @contextlib.contextmanager
    def quiet(self, level: int = logging.WARNING) -> Iterator[None]:
        with self.assertNoLogs(SERVER_LOG, level):
            yield

    def state(self, server: Serving) -> Any:
        with server.connect() as client:
            return ast.literal_eval(client.get().body.decode())

    def test_state_reaches_scopes(self) -> None:
        for mode in ("auto", "on"):
            with self.quiet(), serving(Lifespan(), {"LIFESPAN": mode}) as server:
                self.assertEqual(self.state(server), {"colour": "green"})

    def test_off(self) -> None:
        with self.quiet(), serving(Lifespan(), {"LIFESPAN": "off"}) as server:
            self.assertIsNone(self.state(server))

    def test_state_is_a_shallow_copy(self) -> None:
        shared: list[int] = []
        seen = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await receive()
                scope["state"]["shared"] = shared
                await send({"type": "lifespan.startup.complete"})
                await receive()
                seen.append(dict(scope["state"]))
                await send({"type": "lifespan.shutdown.complete"})
                return
            seen.append(dict(scope["state"]))
            scope["state"]["mine"] = 1
            scope["state"]["shared"].append(len(seen))
            await respond(send)

        with self.quiet(), serving(app) as server, server.connect() as client:
            client.get()
            client.get()
        self.assertEqual(shared, [1, 2])
        self.assertEqual([sorted(state) for state in seen], [["shared"]] * 3)

    def test_the_scope(self) -> None:
        scopes = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scopes.append(dict(scope))
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

        with self.quiet(), serving(app):
            pass
        self.assertEqual(
            scopes,
            [
                {
                    "type": "lifespan",
                    "asgi": {"version": "3.0", "spec_version": "2.0"},
                    "state": {},
                }
            ],
        )

    def test_applications_that_do_not_speak_it(self) -> None:
        async def keyed(scope: Scope, receive: Receive, send: Send) -> None:
            await {"http": hello}[scope["type"]](scope, receive, send)

        for app in (
            hello,
            keyed,
            ProtocolTypeRouter({"http": hello}),
            Lifespan("raises early"),
            Lifespan("returns"),
        ):
            with (
                self.quiet(),
                serving(app, {"LIFESPAN": "auto"}) as server,
                server.connect() as client,
            ):
                self.assertEqual(client.get().status, 200)

    def test_djangos_handler_does_not_speak_it(self) -> None:
        with (
            self.quiet(),
            self.settings_for_django(),
            serving(get_asgi_application()) as server,
            server.connect() as client,
        ):
            self.assertEqual(client.get("/nowhere").status, 404)
            server.stop()
            server.join()

    @contextlib.contextmanager
    def settings_for_django(self) -> Iterator[None]:
        from django.test import override_settings

        with override_settings(ROOT_URLCONF="tests.test_lifespan"):
            yield

    def test_those_are_refused_where_it_is_demanded(self) -> None:
        for app, words in (
            (hello, "AssertionError"),
            (Lifespan("raises early"), "RuntimeError: lifespan raises early"),
            (Lifespan("returns"), "returned without starting"),
            (Lifespan("raises late"), "RuntimeError: lifespan raises late"),
        ):
            with (
                self.subTest(app=app),
                self.assertRaisesRegex(LifespanFailed, words),
                self.assertLogs(SERVER_LOG, logging.ERROR)
                if words != "returned without starting"
                else contextlib.nullcontext(),
                serving(app, {"LIFESPAN": "on"}),
            ):
                self.fail("the server started")

    def test_a_fault_in_startup_is_not_passed_over_in_silence(self) -> None:
        with (
            self.assertLogs(SERVER_LOG, logging.WARNING) as logs,
            serving(Lifespan("raises late")) as server,
            server.connect() as client,
        ):
            self.assertEqual(client.get().body, b"None")
        self.assertIn("lifespan raises late", logs.output[0])

    def test_failed(self) -> None:
        for mode in ("auto", "on"):
            with (
                self.assertRaisesRegex(LifespanFailed, "no database"),
                serving(Lifespan("fails"), {"LIFESPAN": mode}),
            ):
                self.fail("the server started")

    def test_an_end_before_shutdown(self) -> None:
        with self.quiet(), serving(Lifespan("ends at once")) as server:
            self.assertEqual(self.state(server), {"colour": "green"})

    def test_faults_in_shutdown_are_logged(self) -> None:
        for flaw, words in (
            ("raises in shutdown", "lifespan raises in shutdown"),
            ("fails in shutdown", "lost a file"),
        ):
            with self.assertLogs(SERVER_LOG, logging.ERROR) as logs:
                with serving(Lifespan(flaw)) as server:
                    self.state(server)
            self.assertIn(words, "".join(logs.output))

    def test_a_start_that_fails_after_the_applications(self) -> None:
        steps = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            steps.append((await receive())["type"])
            # What another server would do that takes the name of this one.
            os.unlink(path)
            await send({"type": "lifespan.startup.complete"})
            steps.append((await receive())["type"])
            await send({"type": "lifespan.shutdown.complete"})

        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "app.sock")
            with (
                self.assertRaisesRegex(BindError, "has taken"),
                serving(app, {"BIND": [f"unix:{path}"]}),
            ):
                pass
        self.assertEqual(steps, ["lifespan.startup", "lifespan.shutdown"])

    def test_a_stop_while_the_start_is_announced(self) -> None:
        steps = []
        stop = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            steps.append((await receive())["type"])
            await send({"type": "lifespan.startup.complete"})
            steps.append((await receive())["type"])
            await send({"type": "lifespan.shutdown.complete"})

        async def started() -> None:
            stop.set()
            for _ in range(10):
                await asyncio.sleep(0)
            steps.append("started")

        async def stopping() -> None:
            steps.append("stopping")

        config = make_config({}, Hooks(on_started=started, on_stopping=stopping))
        asyncio.run(process.serve(config, app, stop))
        self.assertEqual(
            steps, ["lifespan.startup", "started", "stopping", "lifespan.shutdown"]
        )

    def test_messages_out_of_order(self) -> None:
        for sequence, when in (
            (["lifespan.shutdown.complete"], "before"),
            (["http.response.start"], "before"),
            (["lifespan.startup.complete", "lifespan.startup.complete"], "after"),
            (["lifespan.startup.complete", "lifespan.startup.failed"], "after"),
        ):
            raised = []

            async def app(
                scope: Scope,
                receive: Receive,
                send: Send,
                sequence: list[str] = sequence,
                raised: list[Exception] = raised,
            ) -> None:
                await receive()
                *good, bad = sequence
                for kind in good:
                    await send({"type": kind})
                with self.assertRaises(RuntimeError) as caught:
                    await send({"type": bad})
                raised.append(caught.exception)

            with serving(app):
                pass
            (error,) = raised
            self.assertIn(repr(sequence[-1]), str(error))
            self.assertIn(when, str(error))


#: Of Django's application in the tests above: it has no pages.
urlpatterns: list[Any] = []


class InProcessOfItsOwn(unittest.TestCase):
    def start(self, name: str, **settings: Any) -> Process:
        process = Process(f"tests.asgi_apps:lifespan{name}", settings)
        self.addCleanup(process.__exit__)
        return process

    def test_from_start_to_end(self) -> None:
        process = self.start("")
        process.expect("started\n(.|\n)*Listening")
        self.assertNotIn("shutting", process.output)
        process.terminate()
        self.assertEqual(process.wait(), 0)
        self.assertTrue(process.output.endswith("shutting down\nshut down\n"))

    def test_failure_is_exit_3_and_one_line(self) -> None:
        for name, words in (
            ("_fails", "no database"),
            ("_fails_silently", "no message given"),
        ):
            process = self.start(name)
            self.assertEqual(process.wait(), 3)
            self.assertEqual(
                process.output,
                f"starting up\nApplication startup failed: {words}\n",
            )

    def test_demanded_and_not_spoken_is_exit_3(self) -> None:
        process = self.start("_raises_early", LIFESPAN="on")
        self.assertEqual(process.wait(), 3)
        self.assertIn("Application startup failed: RuntimeError", process.output)

    def test_a_stop_during_startup(self) -> None:
        process = self.start("_slow_startup")
        process.expect("starting up")
        process.terminate()
        self.assertEqual(process.wait(), 0)
        self.assertNotIn("Listening", process.output)
        self.assertNotIn("Traceback", process.output)

    def test_a_shutdown_that_takes_too_long(self) -> None:
        process = self.start(
            "_slow_shutdown", TIMEOUTS={"GRACEFUL": 1, "APPLICATION_CLOSE": 0}
        )
        process.expect("Listening")
        process.terminate()
        self.assertEqual(process.wait(), 0)
        self.assertIn("shutting down", process.output)
        self.assertNotIn("shut down\n", process.output.replace("shutting down\n", ""))
