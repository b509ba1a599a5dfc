"""``manage.py check``: every mistake is one message, and nothing else is."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import tempfile
import types
from pathlib import Path
from typing import Any
from unittest import mock

from django.core import checks
from django.core.checks import CheckMessage, Error, Warning
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import SimpleTestCase, override_settings

from django_daphne.config import Timeouts


def run(*, deploy: bool = False) -> list[CheckMessage]:
    """What our checks say, as ``manage.py check`` runs them."""
    return checks.run_checks(tags=["django_daphne"], include_deployment_checks=deploy)


def ids(messages: list[CheckMessage]) -> list[str | None]:
    return [message.id for message in messages]


class SettingsTests(SimpleTestCase):
    def test_defaults_are_fine(self) -> None:
        self.assertEqual(run(), [])
        self.assertEqual(run(deploy=True), [])

    def check(self, value: Any, *expected: CheckMessage) -> None:
        with override_settings(DJANGO_DAPHNE=value):
            self.assertEqual(run(), list(expected))

    def test_not_a_dict(self) -> None:
        self.check(
            ["127.0.0.1:8000"],
            Error(
                "DJANGO_DAPHNE must be a dict, not list.",
                hint="Write DJANGO_DAPHNE = {...}, or leave it out for the defaults.",
                id="django_daphne.E001",
            ),
        )

    def test_an_unknown_key(self) -> None:
        self.check(
            {"BINDS": []},
            Error(
                "DJANGO_DAPHNE['BINDS'] is not a setting.",
                hint="Did you mean 'BIND'?",
                id="django_daphne.E002",
            ),
        )

    def test_a_key_of_later_work(self) -> None:
        self.check(
            {"WORKERS": 4},
            Error(
                "DJANGO_DAPHNE['WORKERS'] is not available yet.",
                hint="Remove it: this version would not do what it says.",
                id="django_daphne.E003",
            ),
        )

    def test_a_wrong_type(self) -> None:
        self.check(
            {"TIMEOUTS": {"HEADERS": "10"}},
            Error(
                "DJANGO_DAPHNE['TIMEOUTS']['HEADERS'] must be a number of seconds "
                "above 0, or None to disable it, not '10'.",
                id="django_daphne.E004",
            ),
        )

    def test_every_timeout_can_be_disabled(self) -> None:
        timeouts = [field.name.upper() for field in dataclasses.fields(Timeouts)]
        with override_settings(DJANGO_DAPHNE={"TIMEOUTS": dict.fromkeys(timeouts)}):
            self.assertEqual(run(), [])

    def test_an_impossible_combination(self) -> None:
        self.check(
            {"TIMEOUTS": {"DRAIN_DELAY": 30, "GRACEFUL": 20}},
            Error(
                "DJANGO_DAPHNE['TIMEOUTS']['DRAIN_DELAY'] (30) must be shorter than "
                "TIMEOUTS['GRACEFUL'] (20): the delay is part of it.",
                id="django_daphne.E005",
            ),
        )

    def test_an_unreadable_bind(self) -> None:
        with override_settings(DJANGO_DAPHNE={"BIND": ["8000"]}):
            (message,) = run()
        self.assertEqual(message.id, "django_daphne.E006")
        self.assertIn("127.0.0.1:8000", message.msg)

    def test_every_mistake_has_its_message(self) -> None:
        value = {"WORKERS": 2, "LIFESPAN": "maybe", "LIMITS": {"HEADRS": 3}}
        with override_settings(DJANGO_DAPHNE=value):
            self.assertEqual(
                ids(run()),
                ["django_daphne.E003", "django_daphne.E004", "django_daphne.E002"],
            )

    @override_settings(DJANGO_DAPHNE={"WORKERS": 2})
    def test_the_command_fails(self) -> None:
        with self.assertRaisesMessage(SystemCheckError, "(django_daphne.E003)"):
            call_command("check")

    @override_settings(DJANGO_DAPHNE={"BIND": ["unix:/nowhere/at/all.sock", "fd:999"]})
    def test_the_machine_is_not_looked_at(self) -> None:
        self.assertEqual(run(), [])


class InstallationTests(SimpleTestCase):
    def test_ours_alone(self) -> None:
        with override_settings(INSTALLED_APPS=["django_daphne"]):
            self.assertEqual(run(), [])

    def test_beside_daphne(self) -> None:
        # An app of that name; Daphne itself need not be here.
        daphne = types.ModuleType("daphne")
        daphne.__path__ = [self.enterContext(tempfile.TemporaryDirectory())]
        self.addCleanup(sys.modules.pop, "daphne")
        sys.modules["daphne"] = daphne
        for apps in (["daphne", "django_daphne"], ["django_daphne", "daphne"]):
            with self.subTest(apps), override_settings(INSTALLED_APPS=apps):
                self.assertEqual(
                    run(),
                    [
                        Error(
                            "Both 'daphne' and 'django_daphne' are in INSTALLED_APPS, "
                            "and both provide runserver.",
                            hint="Remove 'daphne'.",
                            id="django_daphne.E008",
                        )
                    ],
                )

    @override_settings(INSTALLED_APPS=["django.contrib.staticfiles", "django_daphne"])
    def test_after_staticfiles(self) -> None:
        self.assertEqual(
            run(),
            [
                Error(
                    "'django_daphne' comes after 'django.contrib.staticfiles' in "
                    "INSTALLED_APPS, and the runserver of the first is used.",
                    hint="Move 'django_daphne' before 'django.contrib.staticfiles'.",
                    id="django_daphne.E009",
                )
            ],
        )

    @override_settings(
        INSTALLED_APPS=[
            "whitenoise.runserver_nostatic",
            "django_daphne",
            "django.contrib.staticfiles",
        ]
    )
    def test_whitenoise_passes_on_to_us(self) -> None:
        self.assertEqual(run(), [])


class ProductionTests(SimpleTestCase):
    def assert_warns(self, value: dict[str, Any], *numbers: str) -> None:
        with override_settings(DJANGO_DAPHNE=value):
            self.assertEqual(run(), [], "only check --deploy warns")
            messages = run(deploy=True)
        self.assertEqual(ids(messages), [f"django_daphne.{n}" for n in numbers])
        for message in messages:
            self.assertIsInstance(message, Warning)
            self.assertTrue(message.hint)

    def test_silent_clients(self) -> None:
        for name in ("HANDSHAKE", "HEADERS", "BODY", "WRITE", "KEEP_ALIVE"):
            with self.subTest(name):
                self.assert_warns({"TIMEOUTS": {name: None}}, "W001")

    def test_messages_without_a_limit(self) -> None:
        self.assert_warns({"WEBSOCKET": {"MAX_MESSAGE_SIZE": None}}, "W002")

    def test_websockets_without_pings(self) -> None:
        for name in ("PING_INTERVAL", "PING_TIMEOUT"):
            with self.subTest(name):
                self.assert_warns({"WEBSOCKET": {name: None}}, "W003")

    def test_a_stop_without_an_end(self) -> None:
        self.assert_warns({"TIMEOUTS": {"GRACEFUL": None}}, "W004")

    def test_a_stop_without_time_to_finish(self) -> None:
        for timeouts in (
            {"GRACEFUL": 10, "APPLICATION_CLOSE": 10},
            {"GRACEFUL": 20, "DRAIN_DELAY": 15, "APPLICATION_CLOSE": 5},
            {"APPLICATION_CLOSE": 30},
        ):
            with self.subTest(timeouts):
                self.assert_warns({"TIMEOUTS": timeouts}, "W015")
        self.assert_warns({"TIMEOUTS": {"GRACEFUL": 5}})
        self.assert_warns({"TIMEOUTS": {"GRACEFUL": 5, "APPLICATION_CLOSE": 4}})

    def test_a_socket_for_everybody(self) -> None:
        self.assert_warns({"BIND": ["unix:/tmp/app.sock:mode=666"]}, "W005")
        self.assert_warns({"BIND": ["unix:/tmp/app.sock:mode=660"]})

    def test_metrics_for_everybody(self) -> None:
        for bind in (":9000", "0.0.0.0:9000", "[::]:9000"):
            with self.subTest(bind):
                self.assert_warns({"MONITOR": {"BIND": bind}}, "W013")
        self.assert_warns({"MONITOR": {"BIND": "127.0.0.1:9000"}})

    def test_a_bind_of_another_machine(self) -> None:
        # An address for documentation (RFC 5737).
        self.assert_warns({"BIND": ["192.0.2.1:8000"]}, "W012")

    @override_settings(FORCE_SCRIPT_NAME="/one")
    def test_two_root_paths(self) -> None:
        self.assert_warns({"ROOT_PATH": "/two"}, "W006")
        self.assert_warns({"ROOT_PATH": "/one"})
        self.assert_warns({})

    def test_a_scheme_by_anybody(self) -> None:
        header = ("HTTP_X_FORWARDED_PROTO", "https")
        with override_settings(SECURE_PROXY_SSL_HEADER=header):
            self.assert_warns({}, "W009")
            self.assert_warns({"PROXY": None}, "W009")
            self.assert_warns({"PROXY": {"TRUSTED": []}}, "W009")
            trusting: dict[str, Any] = {"TRUSTED": ["10.0.0.1"]}
            self.assert_warns({"PROXY": trusting})
            self.assert_warns({"PROXY": {"TRUSTED": ["unix"]}})
            self.assert_warns({"PROXY": {**trusting, "HEADERS": "forwarded"}}, "W009")
            [message] = self.warnings({})
            self.assertIn("believe X-Forwarded-Proto of anybody", message.msg)
        with override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_SCHEME", "https")):
            self.assert_warns({}, "W009")
            self.assert_warns({"PROXY": {**trusting, "HEADERS": "forwarded"}})

    def test_everybody_is_trusted(self) -> None:
        def warned(trusted: list[str], bind: str) -> bool:
            value = {"PROXY": {"TRUSTED": trusted}, "BIND": [bind]}
            # Not all of these binds can be had here, which is another warning.
            return "django_daphne.W010" in ids(self.warnings(value))

        for trusted in (["0.0.0.0/0"], ["::/0"], ["0.0.0.0/1", "128.0.0.0/1", "unix"]):
            for bind in ("0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "a.invalid:0"):
                self.assertTrue(warned(trusted, bind), bind)
            for bind in (
                "127.0.0.1:0", "[::1]:0", "localhost:0", "unix:/run/app.sock", "fd:3",
            ):  # fmt: skip
                self.assertFalse(warned(trusted, bind), bind)
        for trusted in (["10.0.0.0/8"], ["unix"], ["0.0.0.0/1"]):
            self.assertFalse(warned(trusted, ":0"))
        self.assert_warns(
            {"PROXY": {"TRUSTED": ["0.0.0.0/0"]}, "BIND": ["0.0.0.0:0"]}, "W010"
        )

    def test_a_host_by_anybody(self) -> None:
        for setting in ("USE_X_FORWARDED_HOST", "USE_X_FORWARDED_PORT"):
            with override_settings(**{setting: True}):
                self.assert_warns({}, "W011")
                trusting: dict[str, Any] = {"TRUSTED": ["10.0.0.1"]}
                self.assert_warns({"PROXY": trusting})
                other = {**trusting, "HEADERS": "forwarded"}
                self.assert_warns({"PROXY": other}, "W011")
                [message] = self.warnings({"PROXY": other})
                self.assertIn(f"{setting} makes Django believe", message.msg)

    def warnings(self, value: dict[str, Any]) -> list[CheckMessage]:
        with override_settings(DJANGO_DAPHNE=value):
            return run(deploy=True)

    @override_settings(DJANGO_DAPHNE={"WORKERS": 2, "TIMEOUTS": {"BODY": None}})
    def test_mistakes_come_first(self) -> None:
        self.assertEqual(ids(run(deploy=True)), ["django_daphne.E003"])


class ThreadsTests(SimpleTestCase):
    def test_threads(self) -> None:
        for value in (None, 1, 40):
            with override_settings(DJANGO_DAPHNE={"WORKER": {"THREADS": value}}):
                self.assertEqual(run(), [])
        for value in (0, -1, 1.5, "4", True):
            with override_settings(DJANGO_DAPHNE={"WORKER": {"THREADS": value}}):
                (message,) = run()
            self.assertEqual(message.id, "django_daphne.E004")
            self.assertIn("['THREADS'] must be a whole number above 0", message.msg)

    @override_settings(DJANGO_DAPHNE={"WORKER": {"MAX_REQUESTS": 10}})
    def test_its_neighbours_are_not_available_yet(self) -> None:
        self.assertEqual(ids(run()), ["django_daphne.E003"])


class HandlerHintTests(SimpleTestCase):
    def hints(self, source: str) -> list[CheckMessage]:
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "hinted_asgi.py").write_text(source)
            importlib.invalidate_caches()
            with (
                mock.patch.object(sys, "path", [directory, *sys.path]),
                override_settings(ASGI_APPLICATION="hinted_asgi.application"),
            ):
                found = run()
        self.assertNotIn("hinted_asgi", sys.modules)
        return found

    def test_djangos_handler(self) -> None:
        for line in (
            "from django.core.asgi import get_asgi_application",
            "from django.core.asgi import get_asgi_application as make",
            "import django.core.asgi",
            "from django.core import asgi",
            "from django.core.handlers.asgi import ASGIHandler",
        ):
            with self.subTest(line):
                (message,) = self.hints(f"'''A module.'''\n{line}\nraise SystemError\n")
                self.assertEqual(message.id, "django_daphne.W014")
                self.assertIn("hinted_asgi, line 2, imports", message.msg)
                self.assertIn("django_daphne.asgi", message.hint or "")

    def test_nothing_to_say(self) -> None:
        for source in (
            "from django_daphne.asgi import get_asgi_application",
            "from django.core import checks",
            "this is no Python",
            "",
        ):
            with self.subTest(source):
                self.assertEqual(self.hints(source), [])
        for name in (None, "", "application", "no.such.module", 3):
            with override_settings(ASGI_APPLICATION=name):
                self.assertEqual(run(), [])
