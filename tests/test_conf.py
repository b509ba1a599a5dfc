"""Settings and flags become one Config; what Django lends the server as hooks."""

from __future__ import annotations

import asyncio
import functools
import json
from typing import Any
from unittest import mock

from django.db import connection
from django.test import SimpleTestCase, TestCase, override_settings

from django_daphne.binds import parse_bind
from django_daphne.conf import describe, error_page, get_config
from django_daphne.config import TLS, Config, build_config, reword
from django_daphne.errors import ConfigurationError, Problem
from django_daphne.signals import server_started, server_stopping


def problems_of(settings: Any) -> list[Problem]:
    try:
        build_config(settings)
    except ConfigurationError as error:
        return error.problems
    return []


class GetConfigTests(SimpleTestCase):
    def test_without_the_setting_everything_is_default(self) -> None:
        config = get_config()
        self.assertEqual(config.bind, Config().bind)
        self.assertEqual(config.timeouts, Config().timeouts)

    def test_the_setting(self) -> None:
        with override_settings(DJANGO_DAPHNE={"TIMEOUTS": {"HEADERS": 3}}):
            self.assertEqual(get_config().timeouts.headers, 3)
        self.assertEqual(get_config().timeouts.headers, 10)

    def test_it_is_read_once(self) -> None:
        self.assertIs(get_config(), get_config())

    def test_other_settings_do_not_read_it_anew(self) -> None:
        config = get_config()
        with override_settings(DEBUG=True):
            self.assertIs(get_config(), config)

    def test_mistakes_are_raised_each_time(self) -> None:
        with override_settings(DJANGO_DAPHNE={"BIND": 3}):
            for _ in range(2):
                with self.assertRaisesMessage(ConfigurationError, "'BIND'"):
                    get_config()

    def test_root_path_is_force_script_name(self) -> None:
        self.assertEqual(get_config().root_path, "")
        with override_settings(FORCE_SCRIPT_NAME="/app"):
            self.assertEqual(get_config().root_path, "/app")
            with override_settings(DJANGO_DAPHNE={"ROOT_PATH": "/other"}):
                self.assertEqual(get_config().root_path, "/other")
            with override_settings(DJANGO_DAPHNE={"ROOT_PATH": ""}):
                self.assertEqual(get_config().root_path, "")
        self.assertEqual(get_config().root_path, "")


class OverridesTests(SimpleTestCase):
    def test_a_key_is_replaced(self) -> None:
        with override_settings(DJANGO_DAPHNE={"BIND": [":8000"], "LIFESPAN": "on"}):
            config = get_config({"BIND": ["fd:3"]})
        self.assertEqual(config.bind, (parse_bind("fd:3"),))
        self.assertEqual(config.lifespan, "on")

    def test_a_section_keeps_its_other_keys(self) -> None:
        with override_settings(DJANGO_DAPHNE={"LOGGING": {"FORMAT": "json"}}):
            config = get_config({"LOGGING": {"ACCESS": False}})
        self.assertEqual(
            (config.logging.access, config.logging.format), (False, "json")
        )

    def test_the_setting_itself_stays_as_it_is(self) -> None:
        values: dict[str, Any] = {"LOGGING": {"FORMAT": "json"}}
        with override_settings(DJANGO_DAPHNE=values):
            get_config({"LOGGING": {"ACCESS": False}, "BIND": ["fd:3"]})
            self.assertEqual(get_config().logging.access, True)
        self.assertEqual(values, {"LOGGING": {"FORMAT": "json"}})

    def test_they_do_not_hide_a_mistake_in_the_setting(self) -> None:
        for values in ("nonsense", {"LOGGING": "nonsense"}):
            with (
                self.subTest(values),
                override_settings(DJANGO_DAPHNE=values),
                self.assertRaisesMessage(ConfigurationError, "must be a dict, not str"),
            ):
                get_config({"LOGGING": {"ACCESS": False}})

    def test_a_section_that_is_none_is_begun(self) -> None:
        with override_settings(DJANGO_DAPHNE={"TLS": None}):
            config = get_config({"TLS": {"CERTIFICATE": "crt.pem"}})
        self.assertEqual(config.tls, TLS("crt.pem"))

    def test_they_are_judged_like_settings(self) -> None:
        with self.assertRaises(ConfigurationError) as caught:
            get_config({"LOGGING": {"FORMAT": "%(nothing)s"}})
        self.assertEqual(
            caught.exception.problems,
            problems_of({"LOGGING": {"FORMAT": "%(nothing)s"}}),
        )


class ApplicationCloseTests(SimpleTestCase):
    def test_a_short_stop_is_shared(self) -> None:
        for timeouts, close in (
            ({}, 10),
            ({"GRACEFUL": None}, 10),
            ({"GRACEFUL": 60}, 10),
            ({"GRACEFUL": 8}, 4),
            ({"DRAIN_DELAY": 15}, 5),
            # Who says it means it.
            ({"GRACEFUL": 8, "APPLICATION_CLOSE": 8}, 8),
        ):
            with self.subTest(timeouts):
                config = build_config({"TIMEOUTS": timeouts})
                self.assertEqual(config.timeouts.application_close, close)

    def test_an_impossible_delay_is_the_only_mistake(self) -> None:
        problems = problems_of({"TIMEOUTS": {"GRACEFUL": 5, "DRAIN_DELAY": 9}})
        self.assertEqual([p.key for p in problems], ["TIMEOUTS.DRAIN_DELAY"])


class LogFormatTests(SimpleTestCase):
    def test_good_ones(self) -> None:
        for value in (
            "common",
            "combined",
            "json",
            "daphne",
            "%(client)s",
            "%(asctime)s %(levelname)s %(process)d %(message)s",
            "%(status)d %(bytes)d %(duration).3f %%",
        ):
            self.assertEqual(problems_of({"LOGGING": {"FORMAT": value}}), [], value)

    def test_bad_ones(self) -> None:
        for value, reason in {
            "apache": "or a %-style template like",
            "": "must be one of",
            None: "must be one of",
            "%(nothing)s": "there is no field 'nothing', only kind, client,",
            "%(path)d": "a real number is required",
            "%(bytes)c": "%c arg not in range",
            "%(path)": "incomplete format",
            "%(path)s %s": "'common'",
            "%(path)y": "unsupported format character",
        }.items():
            with self.subTest(value):
                (problem,) = problems_of({"LOGGING": {"FORMAT": value}})
                self.assertEqual(problem.code, "E004")
                self.assertIn(reason, problem.message)


class RewordTests(SimpleTestCase):
    def test_a_flag_in_the_place_of_the_setting(self) -> None:
        (problem,) = problems_of({"ROOT_PATH": "app"})
        self.assertIn("DJANGO_DAPHNE['ROOT_PATH'] must be", str(problem))
        self.assertEqual(
            reword(problem, "--root-path"),
            "--root-path must be a path that starts with '/', not 'app'.",
        )

    def test_the_hint_is_kept(self) -> None:
        (problem,) = problems_of({"WORKERS": 2})
        self.assertEqual(
            reword(problem, "--workers"),
            "--workers is not available yet. "
            "Remove it: this version would not do what it says.",
        )


class DescribeTests(SimpleTestCase):
    def test_it_can_be_fed_back(self) -> None:
        values = {
            "BIND": ["127.0.0.1:1234", "unix:/run/app.sock:mode=600"],
            "ROOT_PATH": "/app",
            "TIMEOUTS": {"HEADERS": None, "BODY": 3},
            "WEBSOCKET": {"COMPRESSION": False},
        }
        described = json.loads(json.dumps(describe(build_config(values))))
        self.assertEqual(described["BIND"], values["BIND"])
        self.assertEqual(described["TIMEOUTS"]["BODY"], 3)
        self.assertEqual(build_config(described), build_config(values))

    def test_secrets_in_endpoints_are_masked(self) -> None:
        text = r"onion:80:controlPassword=s3\:cr=et:apiToken=abc:hostname=x"
        described = describe(build_config({"BIND": [text]}))
        self.assertEqual(
            described["BIND"],
            ["onion:80:controlPassword=********:apiToken=********:hostname=x"],
        )


urlpatterns: list[Any] = []


@override_settings(ROOT_URLCONF=__name__)
class ErrorPageTests(SimpleTestCase):
    def scope(self, accept: bytes = b"*/*") -> dict[str, Any]:
        return {
            "type": "http",
            "method": "POST",
            "path": "/broken",
            "query_string": b"q=1",
            "headers": [(b"host", b"example.org"), (b"accept", accept)],
        }

    def error(self) -> Exception:
        try:
            raise LookupError("no such <thing>")
        except LookupError as error:
            return error

    def test_only_under_debug(self) -> None:
        self.assertIsNone(error_page(self.scope(), self.error()))

    @override_settings(DEBUG=True)
    def test_html(self) -> None:
        page = error_page(self.scope(b"text/html"), self.error())
        assert page is not None
        status, headers, body = page
        self.assertEqual(status, 500)
        ((name, value),) = headers
        self.assertEqual((name, value[:9]), (b"content-type", b"text/html"))
        self.assertIn(b"LookupError", body)
        self.assertIn(b"no such &lt;thing&gt;", body)
        self.assertIn(b"/broken", body)

    @override_settings(DEBUG=True)
    def test_plain_text(self) -> None:
        page = error_page(self.scope(b"application/json"), self.error())
        assert page is not None
        _, headers, body = page
        self.assertEqual(headers, [(b"content-type", b"text/plain; charset=utf-8")])
        self.assertIn(b"no such <thing>", body)

    @override_settings(DEBUG=True, DEFAULT_EXCEPTION_REPORTER="tests.nowhere.Reporter")
    def test_a_page_that_fails_is_logged(self) -> None:
        with self.assertLogs("django_daphne.server", "ERROR") as caught:
            self.assertIsNone(error_page(self.scope(), self.error()))
        self.assertIn("The technical error page failed", caught.output[0])

    @override_settings(DEBUG=True)
    def test_a_websocket_gets_none(self) -> None:
        self.assertIsNone(error_page({"type": "websocket"}, self.error()))


class SignalTests(TestCase):
    def send(self, *names: str) -> None:
        async def call() -> None:
            for name in names:
                hook = getattr(get_config().hooks, name)
                await hook()

        asyncio.run(call())

    def listen(self, signal: Any, receiver: Any) -> None:
        signal.connect(receiver, weak=False)
        self.addCleanup(signal.disconnect, receiver)

    def test_both_are_sent(self) -> None:
        started, stopping = mock.Mock(), mock.Mock()
        self.listen(server_started, started)
        self.listen(server_stopping, stopping)
        self.send("on_started")
        started.assert_called_once_with(signal=server_started, sender=Config)
        stopping.assert_not_called()
        self.send("on_stopping")
        stopping.assert_called_once_with(signal=server_stopping, sender=Config)

    def test_a_synchronous_receiver_may_use_the_database(self) -> None:
        found = []

        def receiver(**kwargs: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                found.append(cursor.fetchone())

        self.listen(server_started, receiver)
        self.send("on_started")
        self.assertEqual(found, [(1,)])

    def test_an_asynchronous_receiver_runs_on_the_servers_loop(self) -> None:
        loops = []

        async def receiver(**kwargs: Any) -> None:
            loops.append(asyncio.get_running_loop())

        async def call() -> bool:
            hook = get_config().hooks.on_started
            assert hook is not None
            await hook()
            return loops == [asyncio.get_running_loop()]

        self.listen(server_started, receiver)
        self.assertTrue(asyncio.run(call()))

    def test_one_that_fails_is_logged_and_hinders_nobody(self) -> None:
        def fail(**kwargs: Any) -> None:
            raise ValueError("no")

        second = mock.Mock()
        self.listen(server_started, fail)
        self.listen(server_started, second)
        with self.assertLogs("django.dispatch", "ERROR"):
            self.send("on_started")
        second.assert_called_once()

    def test_one_without_a_name_fails(self) -> None:
        self.listen(server_started, functools.partial(int, "no", sender=1))
        # By us where Django fails to.
        with self.assertLogs(level="ERROR"):
            self.send("on_started")
