"""``manage.py runserver``, started as a user starts it and watched from outside."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import ssl
import threading
import unittest
from typing import Any

import django
from playwright.sync_api import expect, sync_playwright
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import django_daphne
from django_daphne.development_log import log_access

from .ports import free_port
from .projects import PATIENCE, REACTION, Project, Running
from .services import find, require
from .serving import serving

HOST = "127.0.0.1"
ANY_PORT = f"{HOST}:0"


class RunserverTestCase(unittest.TestCase):
    def start(
        self, *arguments: str, settings: str = "", **options: Any
    ) -> tuple[Project, Running, int]:
        """A project of its own, served on a port of its own."""
        project = Project(self, settings)
        running = project.manage("runserver", ANY_PORT, *arguments, **options)
        return project, running, running.expect_port()

    def get(self, port: int, path: str = "/", host: str = HOST) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
        self.addCleanup(connection.close)
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, body

    def get_json(self, port: int, path: str = "/", host: str = HOST) -> Any:
        status, body = self.get(port, path, host)
        self.assertEqual(status, 200, body)
        return json.loads(body)

    def begin(self, port: int, path: str, accept: str = "*/*") -> socket.socket:
        """Send a request without waiting for its answer."""
        client = socket.create_connection((HOST, port), timeout=PATIENCE)
        self.addCleanup(client.close)
        client.sendall(
            f"GET {path} HTTP/1.1\r\n"
            f"Host: {HOST}:{port}\r\nAccept: {accept}\r\n\r\n".encode()
        )
        return client

    def websocket(self, port: int, path: str = "/") -> ClientConnection:
        client = self.enterContext(
            connect(
                f"ws://{HOST}:{port}{path}",
                open_timeout=PATIENCE,
                close_timeout=PATIENCE,
            )
        )
        client.send("hello")
        self.assertEqual(client.recv(PATIENCE), "hello")
        return client

    def close_code(self, client: ClientConnection) -> int | None:
        """The code of the close frame that comes next; None without one."""
        with self.assertRaises(ConnectionClosed) as caught:
            client.recv(PATIENCE)
        return caught.exception.rcvd.code if caught.exception.rcvd else None


class Starting(RunserverTestCase):
    def test_announces_itself_in_djangos_words(self) -> None:
        _, running, port = self.start("--noreload")
        self.assertEqual(
            self.get_json(port),
            {"message": "first edition", "request": "ASGIRequest"},
        )
        lines = running.output.splitlines()
        self.assertIn("Performing system checks...", lines)
        self.assertIn("System check identified no issues (0 silenced).", lines)
        self.assertIn(
            f"Django version {django.get_version()}, using settings 'pages.settings'",
            lines,
        )
        self.assertIn(
            f"Starting ASGI development server (django_daphne "
            f"{django_daphne.__version__}) at http://127.0.0.1:{port}/",
            lines,
        )
        self.assertIn("Quit the server with CONTROL-C.", lines)

    def test_the_real_port_is_printed_for_port_0(self) -> None:
        _, _, port = self.start("--noreload")
        self.assertNotEqual(port, 0)

    def test_a_bare_port_is_on_the_loopback_address(self) -> None:
        running = Project(self).manage("runserver", "0", "--noreload")
        running.expect(r"at http://127\.0\.0\.1:\d+/\n")

    def test_zero_is_every_ipv4_address(self) -> None:
        running = Project(self).manage("runserver", "0:0", "--noreload")
        running.expect(r"at http://0\.0\.0\.0:\d+/\n")

    def test_ipv6_by_flag(self) -> None:
        running = Project(self).manage("runserver", "0", "-6", "--noreload")
        port = int(running.expect(r"at http://\[::1\]:(\d+)/\n")[1])
        self.assertEqual(self.get_json(port, host="::1")["request"], "ASGIRequest")

    def test_ipv6_by_address(self) -> None:
        running = Project(self).manage("runserver", "[::1]:0", "--noreload")
        port = int(running.expect(r"at http://\[::1\]:(\d+)/\n")[1])
        self.assertEqual(self.get_json(port, host="::1")["request"], "ASGIRequest")

    def test_skip_checks(self) -> None:
        _, running, port = self.start("--noreload", "--skip-checks")
        self.get(port)
        self.assertNotIn("system check", running.output.lower())

    def test_the_production_warning(self) -> None:
        _, running, _ = self.start("--noreload")
        running.expect("WARNING: This is a development server. Do not use it")

    def test_the_production_warning_hidden(self) -> None:
        _, running, port = self.start(
            "--noreload", DJANGO_RUNSERVER_HIDE_WARNING="true"
        )
        self.get(port)
        running.expect(r'"GET / HTTP/1\.1" 200')
        self.assertNotIn("WARNING", running.output)

    def test_unapplied_migrations_are_mentioned(self) -> None:
        running = Project(self).manage("runserver", ANY_PORT, "--noreload")
        running.expect(r"You have 1 unapplied migration\(s\)")
        running.expect_port()

    def test_without_asgi_application_djangos_handler_is_served(self) -> None:
        _, _, port = self.start("--noreload", settings="ASGI_APPLICATION = None")
        self.assertEqual(self.get_json(port)["request"], "ASGIRequest")

    def test_noasgi_is_djangos_own_server(self) -> None:
        _, running, port = self.start("--noreload", "--noasgi")
        self.assertEqual(self.get_json(port)["request"], "WSGIRequest")
        self.assertNotIn("Starting ASGI", running.output)
        running.interrupt()
        self.assertEqual(running.wait(), 0)

    def test_noasgi_serves_static_files(self) -> None:
        _, _, port = self.start("--noreload", "--noasgi")
        self.assertEqual(self.get(port, "/static/pages/style.css")[0], 200)


class Refusing(RunserverTestCase):
    def assertRefused(self, project: Project, *arguments: str, says: str) -> str:
        code, output = project.run("runserver", *arguments)
        self.assertEqual(code, 1, output)
        self.assertRegex(output, says)
        self.assertNotIn("Traceback", output)
        return output

    def test_a_port_in_use(self) -> None:
        with socket.create_server((HOST, 0)) as taken:
            address = f"{HOST}:{taken.getsockname()[1]}"
            output = self.assertRefused(
                Project(self),
                address,
                "--noreload",
                says="Error: That port is already in use.",
            )
        self.assertNotIn("Starting", output)

    def test_a_port_in_use_with_the_reloader(self) -> None:
        with socket.create_server((HOST, 0)) as taken:
            address = f"{HOST}:{taken.getsockname()[1]}"
            self.assertRefused(
                Project(self), address, says="Error: That port is already in use."
            )

    def test_an_address_of_another_machine(self) -> None:
        self.assertRefused(
            Project(self),
            "192.0.2.1:0",
            "--noreload",
            says="Error: That IP address can't be assigned to.",
        )

    def test_a_host_that_does_not_exist(self) -> None:
        self.assertRefused(
            Project(self), "no-such-host.invalid:0", "--noreload", says="Error: "
        )

    def test_what_is_no_port(self) -> None:
        self.assertRefused(
            Project(self), "here", says='"here" is not a valid port number'
        )

    def test_no_allowed_hosts_without_debug(self) -> None:
        self.assertRefused(
            Project(self, "DEBUG = False"),
            says="You must set settings.ALLOWED_HOSTS if DEBUG is False",
        )

    def test_an_asgi_application_that_is_missing(self) -> None:
        for path, reason in [
            ("pages.nowhere.application", "there is no module 'pages.nowhere'"),
            ("nowhere.asgi.application", "there is no module 'nowhere'"),
            ("pages.asgi.nothing", "'pages.asgi' has no attribute 'nothing'"),
            ("application", "Write it like 'mysite.asgi.application'"),
            ("pages.views.MESSAGE", "'pages.views.MESSAGE' is not an ASGI application"),
        ]:
            with self.subTest(path):
                self.assertRefused(
                    Project(self, f"ASGI_APPLICATION = {path!r}"),
                    ANY_PORT,
                    "--noreload",
                    says=rf"CommandError: ASGI_APPLICATION.*{reason}",
                )

    def test_an_asgi_module_that_fails_shows_where(self) -> None:
        project = Project(self)
        project.write("pages/asgi.py", "import a_missing_dependency\n")
        code, output = project.run("runserver", ANY_PORT, "--noreload")
        self.assertEqual(code, 1)
        self.assertIn("import a_missing_dependency\n", output)
        self.assertIn("No module named 'a_missing_dependency'", output)

    def test_wrong_settings(self) -> None:
        for flags in [(), ("--skip-checks",)]:
            with self.subTest(flags):
                self.assertRefused(
                    Project(self, 'DJANGO_DAPHNE = {"TIMEOUTS": {"HEADERS": "long"}}'),
                    ANY_PORT,
                    "--noreload",
                    *flags,
                    says="seconds above 0",
                )

    def test_a_lifespan_that_fails(self) -> None:
        project = Project(self)
        project.write("pages/asgi.py", FAILING_LIFESPAN)
        code, output = project.run("runserver", ANY_PORT, "--noreload")
        self.assertEqual(code, 3, output)
        self.assertIn("CommandError", output)
        self.assertIn("the database is on holiday", output)
        self.assertNotIn("Traceback", output)


FAILING_LIFESPAN = """
async def application(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    await send({
        "type": "lifespan.startup.failed",
        "message": "the database is on holiday",
    })
"""

TIDY_LIFESPAN = """
async def application(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.complete"})
    print("the application is ready")
    await receive()
    print("the application has cleaned up")
    await send({"type": "lifespan.shutdown.complete"})
"""


class StaticFiles(RunserverTestCase):
    STYLE = "/static/pages/style.css"

    def test_served_in_debug(self) -> None:
        _, _, port = self.start("--noreload")
        status, body = self.get(port, self.STYLE)
        self.assertEqual((status, body), (200, b"body { color: teal; }\n"))
        self.assertEqual(self.get(port, "/static/missing.css")[0], 404)

    def test_nostatic(self) -> None:
        _, _, port = self.start("--noreload", "--nostatic")
        self.assertEqual(self.get(port, self.STYLE)[0], 404)

    def test_not_without_debug(self) -> None:
        _, _, port = self.start("--noreload", settings=PRODUCTION)
        self.assertEqual(self.get(port, self.STYLE)[0], 404)

    def test_insecure(self) -> None:
        _, _, port = self.start("--noreload", "--insecure", settings=PRODUCTION)
        self.assertEqual(self.get(port, self.STYLE)[0], 200)

    def test_without_staticfiles_the_flags_are_unknown(self) -> None:
        settings = 'INSTALLED_APPS = ["django_daphne", "pages"]'
        code, output = Project(self, settings).run("runserver", "--nostatic")
        self.assertEqual(code, 2, output)
        self.assertIn("unrecognized arguments: --nostatic", output)

    def test_without_staticfiles(self) -> None:
        _, _, port = self.start(
            "--noreload", settings='INSTALLED_APPS = ["django_daphne", "pages"]'
        )
        self.assertEqual(self.get_json(port)["request"], "ASGIRequest")
        self.assertEqual(self.get(port, self.STYLE)[0], 404)


PRODUCTION = 'DEBUG = False\nALLOWED_HOSTS = ["127.0.0.1"]'


class Stopping(RunserverTestCase):
    def test_ctrl_c(self) -> None:
        for flags in [(), ("--noreload",)]:
            with self.subTest(flags):
                _, running, port = self.start(*flags)
                self.get(port)
                client = self.websocket(port)
                running.interrupt()
                self.assertEqual(self.close_code(client), 1012)
                self.assertEqual(running.wait(), 0)
                self.assertNotIn("Traceback", running.output)

    def test_the_application_may_clean_up(self) -> None:
        for flags in [(), ("--noreload",)]:
            with self.subTest(flags):
                project = Project(self)
                project.write("pages/asgi.py", TIDY_LIFESPAN)
                running = project.manage("runserver", ANY_PORT, *flags)
                running.expect("the application is ready")
                running.interrupt()
                running.expect("the application has cleaned up")
                self.assertEqual(running.wait(), 0)

    def test_ctrl_c_while_views_are_busy(self) -> None:
        for path in ["/sleep/", "/block/", "/wait/", "/events/"]:
            for flags in [(), ("--noreload",)]:
                with self.subTest(path, flags=flags):
                    _, running, port = self.start(*flags)
                    self.begin(port, path)
                    running.expect("sleeps|blocks|waits|begins")
                    running.interrupt()
                    self.assertEqual(running.wait(), 0)
                    self.assertNotIn("Traceback", running.output)

    def test_sigterm_with_the_reloader(self) -> None:
        _, running, port = self.start()
        self.begin(port, "/sleep/")
        running.expect("a synchronous view sleeps")
        running.terminate()
        self.assertEqual(running.wait(), 0)
        with self.assertRaises(ConnectionRefusedError):
            self.get(port)

    def test_sigterm_without_the_reloader(self) -> None:
        _, running, _ = self.start("--noreload")
        running.terminate()
        self.assertEqual(running.wait(), -signal.SIGTERM)

    def test_what_follows_the_command_is_run(self) -> None:
        _, running, port = self.start("--noreload", PAGES_SAYS_GOODBYE="1")
        self.begin(port, "/sleep/")
        running.expect("a synchronous view sleeps")
        running.interrupt()
        running.expect("goodbye")
        self.assertEqual(running.wait(), 0)


class Reloading(RunserverTestCase):
    def assertReloads(self, project: Project, running: Running) -> None:
        """Edit the views, and find them served."""
        views = (project.path / "pages/views.py").read_text()
        project.save_until_noticed(
            "pages/views.py", views.replace("first edition", "second edition"), running
        )
        port = running.expect_port()
        self.assertEqual(self.get_json(port)["message"], "second edition")

    def test_a_change_restarts_the_server(self) -> None:
        project, running, _ = self.start()
        self.assertIn("Watching for file changes with StatReloader", running.output)
        self.assertReloads(project, running)

    def test_busy_views_hold_nothing_up(self) -> None:
        for path in ["/sleep/", "/block/", "/wait/", "/events/"]:
            with self.subTest(path):
                project, running, port = self.start()
                self.begin(port, path)
                running.expect("sleeps|blocks|waits|begins")
                self.assertReloads(project, running)

    def test_websockets_are_told_to_come_back(self) -> None:
        project, running, port = self.start()
        client = self.websocket(port)
        self.assertReloads(project, running)
        self.assertEqual(self.close_code(client), 1012)
        self.assertIn("the consumer heard of the disconnect", running.output)

    def assertMends(self, name: str, old: str, new: str, *, shown: str) -> None:
        """``name`` without ``new`` is wrong; corrected, it is served."""
        project = Project(self)
        good = (project.path / name).read_text()
        project.edit(name, old, new)
        running = project.manage("runserver", ANY_PORT)
        running.expect(shown)
        project.save_until_noticed(name, good, running)
        self.assertIn("message", self.get_json(running.expect_port()))

    def test_a_mistake_is_shown_and_its_correction_awaited(self) -> None:
        self.assertMends(
            "pages/asgi.py",
            "async def echo",
            "sync def echo",
            shown="SyntaxError: invalid syntax",
        )

    def test_a_wrong_asgi_application_is_shown_and_its_correction_awaited(self) -> None:
        self.assertMends(
            "pages/settings.py",
            "asgi.application",
            "asgi.nothing",
            shown="CommandError: ASGI_APPLICATION: 'pages.asgi' has no attribute",
        )

    def test_a_failed_lifespan_is_shown_and_its_correction_awaited(self) -> None:
        self.assertMends(
            "pages/asgi.py",
            "application = ProtocolTypeRouter",
            FAILING_LIFESPAN + "\nnever_served = ProtocolTypeRouter",
            shown="the database is on holiday",
        )

    def test_a_wrong_setting_is_shown_and_its_correction_awaited(self) -> None:
        self.assertMends(
            "pages/settings.py",
            "STATIC_URL",
            'DJANGO_DAPHNE = {"TIMEOUTS": {"HEADERS": "long"}}\nSTATIC_URL',
            shown="seconds above 0",
        )


class Logging(RunserverTestCase):
    """What ``runserver`` says about requests, in Django's words."""

    ATTRIBUTES = """
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "attributes": {
            "()": "django.utils.log.ServerFormatter",
            "format": "{levelname} {status_code} [{server_time}] {message} {request}",
            "style": "{",
        }
    },
    "handlers": {
        "attributes": {"class": "logging.StreamHandler", "formatter": "attributes"}
    },
    "loggers": {"django.server": {"handlers": ["attributes"], "propagate": False}},
}
"""

    TIME = r"\[\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d\]"

    def test_a_line_a_request(self) -> None:
        _, running, port = self.start("--noreload")
        _, body = self.get(port, "/?a=b%20c")
        running.expect(
            rf'{self.TIME} "GET /\?a=b%20c HTTP/1\.1" 200 {len(body)}\n',
        )
        _, body = self.get(port, "/missing/")
        running.expect(rf'{self.TIME} "GET /missing/ HTTP/1\.1" 404 {len(body)}\n')
        _, body = self.get(port, "/static/pages/style.css")
        running.expect(
            rf'{self.TIME} "GET /static/pages/style\.css HTTP/1\.1" 200 {len(body)}\n'
        )

    def test_the_attributes_of_djangos_records(self) -> None:
        _, running, port = self.start("--noreload", settings=self.ATTRIBUTES)
        for path, level, status in [
            ("/", "INFO", 200),
            ("/missing/", "WARNING", 404),
            ("/notes/", "ERROR", 500),  # the migration is unapplied
        ]:
            self.get(port, path)
            running.expect(rf'{level} {status} {self.TIME} "GET {path} HTTP/1\.1" ')

    def test_colours(self) -> None:
        _, running, port = self.start("--noreload", terminal=True, DJANGO_COLORS="dark")
        self.get(port, "/missing/")
        running.expect(r'\x1b\[33;?1?m.*"GET /missing/ HTTP/1\.1" 404')

    def test_no_color(self) -> None:
        _, running, port = self.start("--noreload", "--no-color", terminal=True)
        self.get(port, "/missing/")
        running.expect(r'"GET /missing/ HTTP/1\.1" 404')
        self.assertNotIn("\x1b[", running.output)

    def test_websockets(self) -> None:
        _, running, port = self.start("--noreload")
        client = self.websocket(port, "/room/?name=a%20b")
        peer = rf"\[127\.0\.0\.1:{client.socket.getsockname()[1]}\]"
        running.expect(rf"{self.TIME} WebSocket CONNECT /room/\?name=a%20b {peer}\n")
        client.close(1000)
        running.expect(
            rf"{self.TIME} WebSocket DISCONNECT /room/\?name=a%20b {peer} 1000\n"
        )
        with self.assertRaises(InvalidStatus) as caught:
            self.websocket(port, "/denied/")
        self.assertEqual(caught.exception.response.status_code, 403)
        running.expect(
            rf"{self.TIME} WebSocket REJECT /denied/ \[127\.0\.0\.1:\d+\] 403\n"
        )

    TLS_HINT = (
        "You're accessing the development server over HTTPS, but it only supports HTTP."
    )

    def test_tls_on_the_plain_port(self) -> None:
        _, running, port = self.start("--noreload", settings=self.ATTRIBUTES)
        context = ssl.create_default_context()
        for _ in range(3):
            with (
                socket.create_connection((HOST, port), timeout=PATIENCE) as client,
                self.assertRaises(OSError),
            ):
                context.wrap_socket(client, server_hostname="localhost")
            running.expect(rf"ERROR 500 {self.TIME} {self.TLS_HINT}")
        self.assertNotIn("code 400", running.output)

    def test_tls_without_a_line_feed(self) -> None:
        _, running, port = self.start("--noreload")
        with socket.create_connection((HOST, port), timeout=PATIENCE) as client:
            client.sendall(b"\x16\x03\x01\x00\xc8")
            running.expect(self.TLS_HINT)

    def test_a_client_that_leaves_unanswered(self) -> None:
        _, running, port = self.start("--noreload")
        client = self.begin(port, "/wait/")
        running.expect("an async view waits")
        address = client.getsockname()
        client.close()
        running.expect(re.escape(f"- Broken pipe from {address}"))

    def test_a_client_that_leaves_in_the_middle(self) -> None:
        _, running, port = self.start("--noreload")
        client = self.begin(port, "/endless/")
        client.recv(65536)
        client.close()
        running.expect(r'"GET /endless/ HTTP/1\.1" 200 \d+\n')
        self.assertEqual(self.get(port)[0], 200)
        self.assertNotIn("Traceback", running.output)

    def test_what_is_not_http(self) -> None:
        _, running, port = self.start("--noreload")
        with socket.create_connection((HOST, port), timeout=PATIENCE) as client:
            client.sendall(b"HELO there\r\n\r\n")
            self.assertIn(b" 400 ", client.recv(65536))
        running.expect(rf"{self.TIME} code 400, message malformed request line")
        running.expect(rf'{self.TIME} "HELO there" 400 -\n')

    def test_nobody_writes_into_the_terminal(self) -> None:
        _, running, port = self.start("--noreload")
        with socket.create_connection((HOST, port), timeout=PATIENCE) as client:
            client.sendall(b"GET /\x9b31m\xff HTTP/1.1\r\nHost: a\r\n\r\n")
            client.recv(65536)
            running.expect(r'"GET /\\x9b31m\\xff HTTP/1\.1" 40')
        with socket.create_connection((HOST, port), timeout=PATIENCE) as client:
            client.sendall(b"\x1b[31mred\r\n\r\n")
            client.recv(65536)
            running.expect(r'"\\x1b\[31mred" 400 -')

    def test_an_application_that_changes_its_scope_is_answered(self) -> None:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            scope.clear()
            await send({"type": "http.response.start", "status": 204})
            await send({"type": "http.response.body"})

        with (
            self.assertLogs("django.server", "ERROR") as logs,
            serving(application, {"LIFESPAN": "off"}, log_access=log_access) as server,
        ):
            self.assertEqual(self.get(server.port), (204, b""))
        self.assertIn("the application changed its scope", logs.output[0])

    def test_a_closed_protocol_is_explained(self) -> None:
        _, running, port = self.start("--noreload")
        client = self.websocket(port)
        client.socket.sendall(b"\x03\x80")
        running.expect(r"127\.0\.0\.1:\d+: .*\(1002\)")
        running.expect(r"WebSocket DISCONNECT / \[127\.0\.0\.1:\d+\] 1002")


class Threading(RunserverTestCase):
    def crowd(self, port: int, seconds: float) -> list[dict[str, int]]:
        path, answers = f"/crowd/?seconds={seconds}", []
        visitors = [
            threading.Thread(target=lambda: answers.append(self.get_json(port, path)))
            for _ in range(4)
        ]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
        self.assertEqual(len(answers), 4)
        return answers

    def test_synchronous_views_run_side_by_side(self) -> None:
        _, _, port = self.start("--noreload")
        answers = self.crowd(port, PATIENCE / 2)
        self.assertGreater(max(answer["most"] for answer in answers), 1)

    def test_nothreading_runs_them_one_after_the_other(self) -> None:
        _, _, port = self.start("--noreload", "--nothreading")
        answers = self.crowd(port, 0.5)
        self.assertEqual({answer["most"] for answer in answers}, {1})
        self.assertEqual(len({answer["thread"] for answer in answers}), 1)


class TestServer(RunserverTestCase):
    def test_serves_the_fixture(self) -> None:
        for database in ["", 'DATABASES["default"]["TEST"] = {"NAME": "other"}']:
            with self.subTest(database):
                self.serve(database)

    def serve(self, database: str) -> None:
        settings = f"from pages.settings import DATABASES\n{database}"
        project = Project(self, settings if database else "")
        fixture = [{"model": "pages.note", "pk": 1, "fields": {"text": "a fixture"}}]
        project.write("pages/fixtures/notes.json", json.dumps(fixture))
        running = project.manage(
            "testserver", "notes", "--noinput", f"--addrport={ANY_PORT}"
        )
        port = running.expect_port()
        self.assertEqual(self.get_json(port, "/notes/"), {"notes": ["a fixture"]})
        running.interrupt()
        self.assertEqual(running.wait(), 0)
        self.assertIn("Server stopped.", running.output)


class Company(RunserverTestCase):
    """Other packages that take part in development."""

    STYLE = "/static/pages/style.css"

    def apps(self, *names: str) -> str:
        return f"INSTALLED_APPS = {[*names, 'pages']!r}"

    def test_whitenoise_turns_static_files_off(self) -> None:
        ours, theirs = "django_daphne", "whitenoise.runserver_nostatic"
        for names in [(ours, theirs), (theirs, ours)]:
            with self.subTest(names):
                settings = self.apps(*names, "django.contrib.staticfiles")
                _, _, port = self.start("--noreload", settings=settings)
                self.assertEqual(self.get_json(port)["request"], "ASGIRequest")
                self.assertEqual(self.get(port, self.STYLE)[0], 404)

    def test_whitenoise_serves_them_itself(self) -> None:
        settings = self.apps(
            "django_daphne",
            "whitenoise.runserver_nostatic",
            "django.contrib.staticfiles",
        )
        middleware = '\nMIDDLEWARE = ["whitenoise.middleware.WhiteNoiseMiddleware"]'
        _, _, port = self.start("--noreload", settings=settings + middleware)
        status, body = self.get(port, self.STYLE)
        self.assertEqual((status, body), (200, b"body { color: teal; }\n"))

    def test_watchfiles_reloads(self) -> None:
        settings = self.apps(
            "django_daphne", "django.contrib.staticfiles", "django_watchfiles"
        )
        project, running, port = self.start(settings=settings)
        self.assertIn("with WatchfilesReloader", running.output)
        self.begin(port, "/sleep/")
        running.expect("a synchronous view sleeps")
        views = (project.path / "pages/views.py").read_text()
        project.save_until_noticed(
            "pages/views.py", views.replace("first edition", "second edition"), running
        )
        port = running.expect_port()
        self.assertEqual(self.get_json(port)["message"], "second edition")
        running.interrupt()
        self.assertEqual(running.wait(), 0)


URLS_WITH_BROWSER_RELOAD = """
from django.urls import include, path
from django_browser_reload import views as browser_reload

from . import views

tell = browser_reload.message


def message(kind, **more):
    print("the browser is told:", kind)
    return tell(kind, **more)


browser_reload.message, browser_reload.PING_DELAY = message, 0.2

urlpatterns = [
    path("", views.hello),
    path("page/", views.page),
    path("__reload__/", include("django_browser_reload.urls")),
]
"""

BROWSER_RELOAD = """
INSTALLED_APPS = [
    "django_daphne", "django.contrib.staticfiles", "django_browser_reload", "pages"
]
MIDDLEWARE = ["django_browser_reload.middleware.BrowserReloadMiddleware"]
"""


class BrowserReload(RunserverTestCase):
    """django-browser-reload: an event stream that is always open."""

    def setUp(self) -> None:
        self.project = Project(self, BROWSER_RELOAD)
        self.project.write("pages/urls.py", URLS_WITH_BROWSER_RELOAD)

    def listen(self, port: int) -> socket.socket:
        return self.begin(port, "/__reload__/events/", accept="text/event-stream")

    def next_event(self, stream: socket.socket) -> Any:
        received = b""
        while not (found := re.search(rb"data: (.*)\n\n", received)):
            data = stream.recv(65536)
            self.assertTrue(data, f"the stream ended: {received!r}")
            received += data
        return json.loads(found[1])

    def assertEnds(self, stream: socket.socket) -> None:
        while stream.recv(65536):
            pass

    def test_its_event_stream_holds_nothing_up(self) -> None:
        running = self.project.manage("runserver", ANY_PORT)
        stream = self.listen(running.expect_port())
        first = self.next_event(stream)
        self.assertEqual(first["type"], "ping")

        views = (self.project.path / "pages/views.py").read_text()
        self.project.save_until_noticed("pages/views.py", views + "\n", running)
        self.assertEnds(stream)

        stream = self.listen(running.expect_port())
        self.assertNotEqual(self.next_event(stream)["versionId"], first["versionId"])
        running.interrupt()
        self.assertEnds(stream)
        self.assertEqual(running.wait(), 0)
        self.assertNotIn("Traceback", running.output)

    @require("chromium")
    def test_the_browser_shows_what_is_saved(self) -> None:
        template, shown = "pages/templates/page.html", '{{ edition|default:"first" }}'
        self.project.edit(template, "first", shown)
        # The browser will look for the next server where it found the last.
        address = f"{HOST}:{free_port()}"
        running = self.project.manage("runserver", address)
        running.expect_port()
        browser = self.enterContext(sync_playwright()).chromium.launch(
            executable_path=find("chromium"),
            args=["--no-sandbox", "--disable-gpu"],
            timeout=PATIENCE * 1000,
        )
        self.addCleanup(browser.close)
        page = browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(f"http://{address}/page/")
        heading = page.locator("h1")

        def shows(text: str, within: float = REACTION) -> bool:
            try:
                expect(heading).to_have_text(text, timeout=within * 1000)
            except AssertionError:
                return False
            return True

        self.assertTrue(shows("first edition", PATIENCE))
        # Only a page that has heard from one server notices the next: time for a server
        # to start, and to be heard, between saves.
        running.expect("the browser is told: ping")
        code = (self.project.path / "pages/views.py").read_text()
        code = code.replace('"page.html"', '"page.html", {"edition": "second"}')
        self.project.save_until(
            "pages/views.py", code, lambda: shows("second edition", PATIENCE / 4)
        )
        self.assertIn("views.py changed, reloading.", running.output)

        # The server need not start again, and a page that it is asked for is there.
        starts = running.output.count("reloading")
        text = (self.project.path / template).read_text().replace(shown, "third")
        self.project.save_until(template, text, lambda: shows("third edition"))
        self.assertEqual(running.output.count("reloading"), starts)
