"""``manage.py runasgi``, started as a user starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from typing import Any

from .commands import HOST, CommandTestCase, Process

ANY_PORT = f"{HOST}:0"

SETTINGS = """
    import sys
    from pathlib import Path

    HERE = Path(__file__).parent
    SECRET_KEY = "for tests only"
    ALLOWED_HOSTS = ["*"]
    ROOT_URLCONF = "pages"
    INSTALLED_APPS = ["django_daphne"]
    ASGI_APPLICATION = "served.application"
    DATABASES = {
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": HERE / "db"}
    }
"""

MANAGE = """
    import os, sys
    os.environ["DJANGO_SETTINGS_MODULE"] = "project"
    from django.core.management import execute_from_command_line
    execute_from_command_line(sys.argv)
"""

PAGES = """
    import sys

    from django.http import HttpResponse
    from django.urls import path

    def hello(request):
        return HttpResponse("hello")

    def mounted(request):
        return HttpResponse(request.META["SCRIPT_NAME"])

    def broken(request):
        raise LookupError("the view is broken")

    def leaves(request):
        sys.exit("a view exits")

    async def leaves_async(request):
        sys.exit("an async view exits")

    urlpatterns = [
        path("", hello),
        path("mounted", mounted),
        path("broken", broken),
        path("leaves", leaves),
        path("leaves_async", leaves_async),
    ]
"""

SERVED = """
    from django.core.asgi import get_asgi_application
    application = get_asgi_application()
"""


class RunasgiTestCase(CommandTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.write("manage.py", MANAGE)
        self.write("project.py", SETTINGS)
        self.write("pages.py", PAGES)
        self.write("served.py", SERVED)

    def settings(self, text: str) -> None:
        """Append ``text`` to the project's settings."""
        self.write("extra.py", text)
        with (self.directory / "project.py").open("a") as file:
            file.write("\nfrom extra import *\n")

    def runasgi(self, *arguments: str) -> Process:
        return self.start("manage.py", "runasgi", *arguments)

    def serve(self, *arguments: str) -> tuple[Process, int]:
        """Serve on a port of its own, and wait until it is announced."""
        process = self.runasgi(ANY_PORT, *arguments)
        announced = process.expect(rf"^Listening on http://{HOST}:(\d+)$")
        return process, int(announced[1])

    def refused(self, *arguments: str) -> str:
        """What is said on standard error by a command that exits with 1."""
        process = self.runasgi(*arguments)
        self.assertEqual(process.wait(), 1, process.stderr)
        self.assertEqual(process.stdout, "")
        return process.stderr

    def assert_one_line(self, text: str, expected: str) -> None:
        self.assertEqual(text, f"CommandError: {expected}\n")


class Serving(RunasgiTestCase):
    def test_from_start_to_stop(self) -> None:
        process, port = self.serve()
        self.assertNotEqual(port, 0)
        self.assertEqual(self.get(port, "/?a=b"), (200, "hello"))
        process.expect(r'^127\.0\.0\.1 - - \[.+\] "GET /\?a=b HTTP/1\.1" 200 5$')
        self.assertEqual(process.stop(), 0)
        self.assertEqual(process.stderr, "")

    def test_views_that_exit(self) -> None:
        """Django runs them in tasks, and a task's SystemExit stops its loop."""
        process, port = self.serve()
        for path in ("/leaves", "/leaves_async"):
            status, body = self.get(port, path)
            self.assertEqual((status, "Traceback" in body), (500, False))
            self.assertEqual(self.get(port, "/"), (200, "hello"))
        self.assertEqual(process.stop(), 0)
        for words in ("a view exits", "an async view exits"):
            self.assertEqual(process.stderr.count(f"SystemExit: {words}"), 1)

    def test_interrupt(self) -> None:
        process, _ = self.serve()
        process.signal(signal.SIGINT)
        self.assertEqual(process.wait(), 0)
        self.assertEqual(process.stderr, "")

    def test_binds_replace_the_setting(self) -> None:
        self.settings(f"DJANGO_DAPHNE = {{'BIND': ['{HOST}:{self.taken_port()}']}}")
        process, port = self.serve("unix:app.sock", "unix:other.sock:mode=600")
        process.expect(r"^Listening on unix:other.sock")
        self.assertEqual(
            [line.partition(" on ")[2] for line in process.stdout.splitlines()],
            [f"http://{HOST}:{port}", "unix:app.sock", "unix:other.sock"],
        )
        self.assertIn(b"200 OK", self.get_unix(self.directory / "app.sock"))
        mode = (self.directory / "app.sock").stat().st_mode
        self.assertEqual(mode & 0o777, 0o660)
        self.assertEqual(process.stop(), 0)
        self.assertFalse((self.directory / "app.sock").exists())

    def test_the_setting_without_binds(self) -> None:
        self.settings(f"DJANGO_DAPHNE = {{'BIND': ['{ANY_PORT}']}}")
        process = self.runasgi()
        port = int(process.expect(r"^Listening on http://127\.0\.0\.1:(\d+)$")[1])
        self.assertEqual(self.get(port), (200, "hello"))

    def test_without_asgi_application_django_is_served(self) -> None:
        self.settings("ASGI_APPLICATION = None")
        _, port = self.serve()
        self.assertEqual(self.get(port), (200, "hello"))

    def test_root_path(self) -> None:
        _, port = self.serve("--root-path", "/app")
        self.assertEqual(self.get(port, "/app/mounted"), (200, "/app"))

    def test_no_server_header(self) -> None:
        _, port = self.serve()
        response, _ = self.fetch(port)
        self.assertIsNone(response.getheader("Server"))

    def test_signals_are_sent_once_each(self) -> None:
        self.settings("INSTALLED_APPS = ['django_daphne', 'listening.Listening']")
        self.write(
            "listening.py",
            """
            from django.apps import AppConfig

            class Listening(AppConfig):
                name = "listening"
                path = "."

                def ready(self):
                    from django_daphne.signals import server_started, server_stopping
                    server_started.connect(started)
                    server_stopping.connect(stopping)

            def started(**kwargs):
                from django.db import connection
                connection.cursor().execute("SELECT 1")
                print("started", flush=True)

            async def stopping(**kwargs):
                print("stopping", flush=True)
            """,
        )
        process, _ = self.serve()
        process.expect("^started$")
        self.assertNotIn("stopping", process.stdout)
        self.assertEqual(process.stop(), 0)
        said = re.findall("^started$|^stopping$", process.stdout, re.MULTILINE)
        self.assertEqual(said, ["started", "stopping"])


class BehindAProxy(RunasgiTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.write(
            "pages.py",
            """
            from django.http import JsonResponse
            from django.urls import path

            def client(request):
                return JsonResponse(
                    [
                        request.META["REMOTE_ADDR"],
                        request.is_secure(),
                        request.get_host(),
                        request.get_port(),
                        request.build_absolute_uri(),
                    ],
                    safe=False,
                )

            urlpatterns = [path("", client)]
            """,
        )

    #: What a proxy says.
    SAID = {
        "X_Forwarded_For": "198.51.100.1, 192.0.2.7",
        "X_Forwarded_Proto": "https",
        "X_Forwarded_Host": "example.org",
        "X_Forwarded_Port": "443",
    }
    BELIEVED = ["192.0.2.7", True, "example.org", "443", "https://example.org/"]

    def test_django_sees_the_client(self) -> None:
        process, port = self.serve(
            "--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", HOST
        )
        _, body = self.get(port, "/", **self.SAID)
        self.assertEqual(json.loads(body), self.BELIEVED)
        process.expect(r"^192\.0\.2\.7 - - .*\"GET / HTTP/1\.1\" 200 ")

    def test_the_flag_replaces_the_setting(self) -> None:
        self.settings(f"DJANGO_DAPHNE = {{'PROXY': {{'TRUSTED': ['{HOST}']}}}}")
        _, port = self.serve("--trusted-proxy", "10.0.0.0/8")
        _, body = self.get(port, "/", **self.SAID)
        address = f"{HOST}:{port}"
        self.assertEqual(
            json.loads(body), [HOST, False, address, str(port), f"http://{address}/"]
        )

    def test_the_setting(self) -> None:
        self.settings(f"DJANGO_DAPHNE = {{'PROXY': {{'TRUSTED': ['{HOST}']}}}}")
        process, port = self.serve()
        _, body = self.get(port, "/", **self.SAID)
        self.assertEqual(json.loads(body), self.BELIEVED)
        process.expect(r"^192\.0\.2\.7 - - ")


class CheckingConfig(RunasgiTestCase):
    def checked(self, *arguments: str) -> dict[str, Any]:
        process = self.runasgi("--check-config", *arguments)
        self.assertEqual(process.wait(), 0, process.stderr)
        values: dict[str, Any] = json.loads(process.stdout)
        return values

    def test_switching_http2_off(self) -> None:
        self.assertIs(self.checked()["HTTP2"], True)
        self.assertIs(self.checked("--no-http2")["HTTP2"], False)

    def test_the_effective_configuration(self) -> None:
        port = self.taken_port()
        self.settings(
            f"""
            FORCE_SCRIPT_NAME = "/app"
            DJANGO_DAPHNE = {{
                "BIND": ["{HOST}:{port}", "onion:80:password=hush"],
                "TIMEOUTS": {{"HEADERS": 3}},
                "LOGGING": {{"FORMAT": "json"}},
            }}
            """
        )
        values = self.checked("--no-access-log")
        self.assertEqual(
            values["BIND"], [f"{HOST}:{port}", "onion:80:password=********"]
        )
        self.assertEqual(values["ROOT_PATH"], "/app")
        self.assertEqual(values["TIMEOUTS"]["HEADERS"], 3)
        self.assertEqual(values["TIMEOUTS"]["BODY"], 30)
        self.assertEqual(values["LOGGING"], {"ACCESS": False, "FORMAT": "json"})
        self.assertEqual(values["ASGI_APPLICATION"], "served.application")
        self.assertEqual(values["APPLICATION"], "django.core.handlers.asgi.ASGIHandler")

    def test_trusted_proxies(self) -> None:
        self.assertIsNone(self.checked()["PROXY"])
        self.assertEqual(
            self.checked("--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "unix"),
            {
                **self.checked(),
                "PROXY": {
                    "TRUSTED": ["10.0.0.0/8", "unix"],
                    "HEADERS": "x-forwarded",
                    "PROTOCOL": False,
                },
            },
        )

    def test_without_asgi_application(self) -> None:
        self.settings("ASGI_APPLICATION = None")
        values = self.checked()
        self.assertIsNone(values["ASGI_APPLICATION"])
        self.assertEqual(values["APPLICATION"], "django.core.handlers.asgi.ASGIHandler")

    def test_a_function(self) -> None:
        self.write("served.py", "async def application(scope, receive, send): ...")
        self.assertEqual(self.checked()["APPLICATION"], "served.application")

    def test_a_mistake(self) -> None:
        self.settings("DJANGO_DAPHNE = {'LIFESPAN': 'perhaps'}")
        self.assert_one_line(
            self.refused("--check-config"),
            "DJANGO_DAPHNE['LIFESPAN'] must be one of 'auto', 'on', 'off', "
            "not 'perhaps'.",
        )

    def test_binds_that_cannot_be_had(self) -> None:
        for bind, complaint in (
            # An address for documentation (RFC 5737).
            ("192.0.2.1:8000", "no interface of this machine has this address."),
            ("no-such-host.invalid:80", "cannot be resolved"),
            ("unix:/no/such/place/app.sock", "/no/such/place is not a directory"),
            (f"unix:{self.directory}/app.sock:group=nosuch", "there is no group"),
        ):
            with self.subTest(bind):
                self.settings(f"DJANGO_DAPHNE = {{'BIND': [{bind!r}]}}")
                errors = self.refused("--check-config")
                self.assertIn(complaint, errors)
                self.assertEqual(errors.count("\n"), 1)

    def test_a_server_that_runs_is_not_disturbed(self) -> None:
        path = f"{self.directory}/app.sock"
        with socket.create_server((HOST, 0)) as taken:
            port = taken.getsockname()[1]
            binds = [f"{HOST}:{port}", f"unix:{path}"]
            self.settings(f"DJANGO_DAPHNE = {{'BIND': {binds!r}}}")
            self.assertEqual(self.checked()["BIND"], binds)
            self.assertFalse(os.path.exists(path))
            with socket.create_connection((HOST, port)):
                taken.accept()[0].close()

    def test_an_application_that_is_not_there(self) -> None:
        self.settings("ASGI_APPLICATION = 'served.app'")
        self.assertIn("ASGI_APPLICATION", self.refused("--check-config"))

    def test_failing_system_checks(self) -> None:
        self.settings("LANGUAGE_CODE = 'not a language'")
        self.assertIn("SystemCheckError", self.refused("--check-config"))
        self.checked("--skip-checks")


class Mistakes(RunasgiTestCase):
    def test_a_flag_of_later_work(self) -> None:
        self.assert_one_line(
            self.refused(ANY_PORT, "--workers", "2"),
            "--workers is not available yet. "
            "Remove it: this version would not do what it says.",
        )

    def test_a_proxy_that_cannot_be_trusted(self) -> None:
        self.assert_one_line(
            self.refused(ANY_PORT, "--trusted-proxy", "10.0.0.1/8"),
            "--trusted-proxy: '10.0.0.1/8' is an address in the network '10.0.0.0/8': "
            "say one.",
        )

    def test_every_mistake_in_a_line_of_its_own(self) -> None:
        self.settings("DJANGO_DAPHNE = {'BINDS': [], 'LIFESPAN': 3}")
        lines = self.refused("--log-format", "%(path)d").splitlines()
        self.assertEqual(len(lines), 3)
        self.assertIn("Did you mean 'BIND'?", lines[0])
        self.assertIn("['LIFESPAN'] must be one of", lines[1])
        self.assertTrue(lines[2].startswith("--log-format must be one of"), lines[2])

    def test_a_bind_that_cannot_be_read(self) -> None:
        error = self.refused("8000")
        self.assertEqual(len(error.splitlines()), 1)
        self.assertTrue(error.startswith("CommandError: BIND: '8000' has no host"))

    def test_a_port_in_use(self) -> None:
        port = self.taken_port()
        error = self.refused(f"{HOST}:{port}")
        self.assertEqual(len(error.splitlines()), 1)
        self.assertIn(f"{HOST}:{port}", error)
        self.assertIn("in use", error)

    def test_asgi_application(self) -> None:
        self.write("served.py", "application = 3")
        for value, expected in {
            "nowhere.application": "ASGI_APPLICATION: there is no module 'nowhere'.",
            "served.app": "ASGI_APPLICATION: 'served' has no attribute 'app'.",
            "served.application": "ASGI_APPLICATION: 'served.application' is not an "
            "ASGI application: 3 cannot be called.",
            "served": "ASGI_APPLICATION must be a dotted path, not 'served'. "
            "Write it like 'mysite.asgi.application'.",
            "served:application": "ASGI_APPLICATION must be a dotted path, not "
            "'served:application'. Write it like 'mysite.asgi.application'.",
        }.items():
            with self.subTest(value):
                self.settings(f"ASGI_APPLICATION = {value!r}")
                self.assert_one_line(self.refused(ANY_PORT), expected)

    def test_an_error_inside_the_users_module_keeps_its_traceback(self) -> None:
        self.write("served.py", "import nowhere_to_be_found")
        error = self.refused(ANY_PORT)
        self.assertIn('served.py", line 1', error)
        self.assertIn(
            "ModuleNotFoundError: No module named 'nowhere_to_be_found'", error
        )

    def test_failing_system_checks(self) -> None:
        self.settings(
            "INSTALLED_APPS = ['django.contrib.staticfiles', 'django_daphne']"
        )
        self.assertIn("django_daphne.E009", self.refused(ANY_PORT))
        _, port = self.serve("--skip-checks")
        self.assertEqual(self.get(port), (200, "hello"))

    def test_a_lifespan_that_fails(self) -> None:
        self.write(
            "served.py",
            """
            async def application(scope, receive, send):
                await receive()
                await send({"type": "lifespan.startup.failed", "message": "no cache"})
            """,
        )
        process = self.runasgi(ANY_PORT)
        self.assertEqual(process.wait(), 3)
        self.assertEqual(process.stdout, "")
        self.assertEqual(len(process.stderr.splitlines()), 1, process.stderr)
        self.assertIn("no cache", process.stderr)


class Logging(RunasgiTestCase):
    def printed(self, process: Process, port: int, path: str = "/") -> str:
        """Everything on standard output after one request and a stop."""
        self.get(port, path)
        self.assertEqual(process.stop(), 0)
        return process.stdout.partition("\n")[2]

    def test_format(self) -> None:
        line = self.printed(*self.serve("--log-format", "json"))
        self.assertEqual(json.loads(line)["path"], "/")

    def test_off(self) -> None:
        self.assertEqual(self.printed(*self.serve("--no-access-log")), "")

    def test_on_again(self) -> None:
        self.settings("DJANGO_DAPHNE = {'LOGGING': {'ACCESS': False}}")
        self.assertEqual(self.printed(*self.serve()), "")
        self.assertIn('"GET / HTTP/1.1"', self.printed(*self.serve("--access-log")))

    def test_a_handler_of_the_project_has_the_lines(self) -> None:
        self.settings(
            """
            LOGGING = {
                "version": 1,
                "formatters": {"own": {"format": "%(method)s took %(duration)s"}},
                "handlers": {
                    "own": {"class": "logging.StreamHandler", "formatter": "own"}
                },
                "loggers": {
                    "django_daphne.access": {"handlers": ["own"], "level": "INFO"}
                },
            }
            """
        )
        process, port = self.serve()
        self.assertEqual(self.printed(process, port), "")
        self.assertRegex(process.stderr, r"^GET took 0\.\d+\n$")

    def test_a_root_handler_has_the_lines_if_its_level_does(self) -> None:
        for level, lines in (("INFO", 1), ("WARNING", 0)):
            with self.subTest(level):
                self.settings(
                    f"""
                    LOGGING = {{
                        "version": 1,
                        "disable_existing_loggers": False,
                        "handlers": {{"own": {{"class": "logging.StreamHandler"}}}},
                        "root": {{"handlers": ["own"], "level": "{level}"}},
                    }}
                    """
                )
                process, port = self.serve()
                self.assertEqual(self.printed(process, port), "")
                self.assertEqual(process.stderr.count('"GET / HTTP/1.1"'), lines)

    def test_lines_survive_disable_existing_loggers(self) -> None:
        # The default of dictConfig(), and the application sets Django up again.
        self.settings("LOGGING = {'version': 1}")
        self.assertIn('"GET / HTTP/1.1"', self.printed(*self.serve()))

    def test_the_traceback_of_a_failed_view(self) -> None:
        process, port = self.serve()
        self.assertEqual(self.get(port, "/broken")[0], 500)
        self.assertEqual(process.stop(), 0)
        self.assertEqual(process.stderr.count("LookupError: the view is broken"), 1)
        self.assertTrue(process.stderr.startswith("Internal Server Error: /broken\n"))

    def test_the_traceback_of_a_failed_view_under_debug(self) -> None:
        self.settings("DEBUG = True")
        process, port = self.serve()
        self.assertEqual(self.get(port, "/broken")[0], 500)
        self.assertEqual(process.stop(), 0)
        self.assertEqual(process.stderr.count("LookupError: the view is broken"), 1)

    def test_a_project_that_configures_logging_decides(self) -> None:
        self.settings(
            """
            LOGGING = {
                "version": 1,
                "disable_existing_loggers": False,
                "handlers": {"null": {"class": "logging.NullHandler"}},
                "loggers": {"django": {"handlers": ["null"]}},
            }
            """
        )
        process, port = self.serve()
        self.assertEqual(self.get(port, "/broken")[0], 500)
        self.assertEqual(process.stop(), 0)
        self.assertEqual(process.stderr, "")

    def test_log_files_are_reopened(self) -> None:
        self.settings(
            """
            LOGGING = {
                "version": 1,
                "disable_existing_loggers": False,
                "handlers": {
                    "file": {"class": "logging.FileHandler", "filename": "access.log"},
                    "out": {
                        "class": "logging.StreamHandler", "stream": "ext://sys.stdout"
                    },
                },
                "loggers": {
                    "django_daphne.access": {
                        "handlers": ["file", "out"], "level": "INFO"
                    }
                },
            }
            """
        )
        log, moved = self.directory / "access.log", self.directory / "access.log.1"
        process, port = self.serve()
        for name in ("SIGUSR1", "SIGHUP"):
            with self.subTest(name):
                self.get(port, f"/?before-{name}")
                process.expect(f"before-{name}")
                log.rename(moved)
                process.signal(signal.Signals[name])
                # The handler runs on the loop: two requests later it has run, since
                # the first of them was accepted after the signal.
                self.get(port, f"/?between-{name}")
                self.get(port, f"/?after-{name}")
                process.expect(f"after-{name}")
                self.assertIn(f"before-{name}", moved.read_text())
                self.assertIn(f"after-{name}", log.read_text())
        self.assertEqual(process.stop(), 0)


class ErrorPage(RunasgiTestCase):
    """An application around Django that raises."""

    def setUp(self) -> None:
        super().setUp()
        self.write(
            "served.py",
            """
            from django.core.asgi import get_asgi_application
            django = get_asgi_application()

            async def application(scope, receive, send):
                if scope["type"] == "http" and scope["path"] == "/outside":
                    raise LookupError("outside of Django")
                await django(scope, receive, send)
            """,
        )

    def test_under_debug(self) -> None:
        self.settings("DEBUG = True")
        process, port = self.serve()
        response, body = self.fetch(port, "/outside", Accept="text/html")
        self.assertEqual(response.status, 500)
        self.assertIn("text/html", response.getheader("Content-Type", ""))
        self.assertIn("outside of Django", body)
        _, body = self.fetch(port, "/outside", Accept="text/plain")
        self.assertIn("LookupError at /outside", body)
        self.assertNotIn("<html", body)
        self.assertEqual(self.get(port), (200, "hello"))
        self.assertEqual(process.stop(), 0)
        self.assertIn("LookupError: outside of Django", process.stderr)

    def test_without_debug_nothing_is_told(self) -> None:
        process, port = self.serve()
        status, body = self.get(port, "/outside")
        self.assertEqual(status, 500)
        self.assertNotIn("outside of Django", body)
        self.assertEqual(process.stop(), 0)
        self.assertIn("LookupError: outside of Django", process.stderr)
