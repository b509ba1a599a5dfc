"""``django-daphne``: Daphne's flags, defaults and meaning, without Django."""

from __future__ import annotations

import json
import signal
import socket
import struct
import unittest
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from django_daphne import __version__
from django_daphne.binds import BindKind
from django_daphne.cli import _parser, as_settings
from django_daphne.config import Config, build_config

from .commands import HOST, PATIENCE, CommandTestCase, Process

APPLICATION = """
    import asyncio, json

    async def application(scope, receive, send):
        if scope["type"] == "lifespan":
            raise ValueError("lifespan is not spoken here")
        if scope["type"] == "websocket":
            await websocket(scope, receive, send)
            return
        if scope["path"] == "/sleep":
            await asyncio.sleep(3600)
        body = json.dumps(
            {
                name: value if isinstance(value, (str, tuple)) else repr(value)
                for name, value in scope.items()
            }
        )
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body.encode()})

    async def websocket(scope, receive, send):
        await receive()
        if scope["path"] == "/denied":
            return await send({"type": "websocket.close"})
        if scope["path"] == "/sleep":
            await asyncio.sleep(3600)
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            reply = f"{scope['scheme']} {scope['client'][0]}"
            await send({"type": "websocket.send", "text": reply})

    class Namespace:
        class Inner:
            pass

    Namespace.Inner.application = staticmethod(application)

    class Doubled:
        "An ASGI 2 application."

        def __init__(self, scope):
            if scope["type"] == "lifespan":
                raise ValueError("lifespan is not spoken here")
            self.scope = scope

        async def __call__(self, receive, send):
            await application(self.scope, receive, send)

    class Consumer:
        @classmethod
        def as_asgi(cls):
            return application

    def wsgi(environ, start_response):
        return []

    def factory():
        return application

    class Partial:
        def __call__(self, scope, receive, send):
            return application(scope, receive, send)

    synchronous = Partial()
    number = 3
"""


class CLITestCase(CommandTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.write("site_asgi.py", APPLICATION)

    def daphne(
        self, *arguments: str, application: str = "site_asgi:application"
    ) -> Process:
        return self.start("-m", "django_daphne", *arguments, application)

    def serve(self, *arguments: str, **options: Any) -> tuple[Process, int]:
        """Serve on a port of its own, and wait until it is announced."""
        process = self.daphne("-p", "0", *arguments, **options)
        pattern = rf"Listening on http://{HOST}:(\d+)$"
        return process, int(process.expect(pattern, "stderr")[1])

    def scope(self, port: int, path: str = "/", **headers: str) -> dict[str, Any]:
        status, body = self.get(port, path, **headers)
        self.assertEqual(status, 200)
        values: dict[str, Any] = json.loads(body)
        return values

    def refused(self, *arguments: str, **options: Any) -> str:
        """The one line said by a command that exits with 1."""
        process = self.daphne(*arguments, **options)
        self.assertEqual(process.wait(), 1, process.stderr)
        self.assertEqual(process.stdout, "")
        (line,) = process.stderr.splitlines()
        return line


def config_of(*flags: str) -> Config:
    options = _parser().parse_args([*flags, "site:application"])
    return build_config(as_settings(options))


class Flags(unittest.TestCase):
    """What each flag becomes."""

    def binds(self, *flags: str) -> list[str]:
        return [bind.text for bind in config_of(*flags).bind]

    def test_defaults(self) -> None:
        config = config_of()
        self.assertEqual([bind.text for bind in config.bind], ["127.0.0.1:8000"])
        self.assertEqual(config.root_path, "")
        self.assertEqual(config.server_header, "daphne")
        self.assertEqual(config.timeouts.request, None)
        self.assertEqual(config.timeouts.websocket_connect, 5)
        self.assertEqual(config.timeouts.application_close, 10)
        self.assertEqual(config.websocket.max_lifetime, 86400)
        self.assertEqual(config.websocket.ping_interval, 20)
        self.assertEqual(config.websocket.ping_timeout, 30)
        self.assertEqual(config.websocket.max_message_size, 1024 * 1024)
        self.assertEqual(config.websocket.max_frame_size, 1024 * 1024)
        self.assertEqual(config.logging.access, True)

    def test_one_of_host_and_port(self) -> None:
        self.assertEqual(self.binds("-p", "8001"), ["127.0.0.1:8001"])
        self.assertEqual(self.binds("-b", "0.0.0.0"), ["0.0.0.0:8000"])
        self.assertEqual(
            self.binds("--bind", "localhost", "--port", "1"), ["localhost:1"]
        )

    def test_ipv6_takes_ipv4_too_as_with_twisted(self) -> None:
        (bind,) = config_of("-b", "::", "-p", "8001").bind
        self.assertEqual(
            (bind.kind, bind.host, bind.port, bind.dual_stack),
            (BindKind.TCP, "::", 8001, True),
        )

    def test_ipv6_in_brackets(self) -> None:
        for host, port in (("[::1]", 8001), ("[::]", 0)):
            (bind,) = config_of("-b", host, "-p", str(port)).bind
            self.assertEqual((bind.host, bind.port), (host.strip("[]"), port))

    def test_unix_sockets_are_open_to_all(self) -> None:
        for flags in (
            ("-u", "/run/a:b=c.sock"),
            ("--unix-socket", "/run/a:b=c.sock"),
            ("-e", r"unix:/run/a\:b\=c.sock"),
        ):
            (bind,) = config_of(*flags).bind
            self.assertEqual(
                (bind.kind, bind.path, bind.mode),
                (BindKind.UNIX, "/run/a:b=c.sock", 0o666),
            )

    def test_an_endpoint_with_a_mode_keeps_it(self) -> None:
        (bind,) = config_of("-e", "unix:/run/app.sock:mode=600").bind
        self.assertEqual(bind.mode, 0o600)

    def test_descriptors(self) -> None:
        for number in (0, 3):
            (bind,) = config_of("--fd", str(number)).bind
            self.assertEqual((bind.kind, bind.fd), (BindKind.FD, number))

    def test_endpoints(self) -> None:
        self.assertEqual(
            self.binds("-e", "tcp:8001", "--endpoint", "haproxy:tcp:8002"),
            ["tcp:8001", "haproxy:tcp:8002"],
        )

    def test_everything_together(self) -> None:
        self.assertEqual(
            self.binds("-e", "tcp:1", "-p", "2", "-u", "s", "--fd", "4"),
            ["tcp:1", "127.0.0.1:2", "unix:s:mode=666", "fd:4"],
        )

    def test_0_and_minus_1_are_no_limit(self) -> None:
        for flag, section, field in (
            ("-t", "timeouts", "request"),
            ("--http-timeout", "timeouts", "request"),
            ("--websocket_connect_timeout", "timeouts", "websocket_connect"),
            ("--websocket_timeout", "websocket", "max_lifetime"),
            ("--ping-interval", "websocket", "ping_interval"),
            ("--ping-timeout", "websocket", "ping_timeout"),
            ("--websocket-max-message-size", "websocket", "max_message_size"),
            ("--websocket-max-frame-size", "websocket", "max_frame_size"),
        ):
            for value, expected in (("0", None), ("-1", None), ("7", 7)):
                with self.subTest(f"{flag} {value}"):
                    config = config_of(flag, value)
                    self.assertEqual(getattr(getattr(config, section), field), expected)

    def test_a_frame_is_no_larger_than_its_message(self) -> None:
        config = config_of("--websocket-max-message-size", "1000")
        self.assertEqual(config.websocket.max_frame_size, 1000)

    def test_the_stop_leaves_applications_their_time(self) -> None:
        timeouts = config_of("--application-close-timeout", "60").timeouts
        self.assertEqual((timeouts.application_close, timeouts.graceful), (60, 60))
        timeouts = config_of("--application-close-timeout", "-1").timeouts
        self.assertEqual((timeouts.application_close, timeouts.graceful), (0, 25))

    def test_server_name(self) -> None:
        self.assertEqual(config_of("-s", "mine").server_header, "mine")
        self.assertEqual(config_of("--server-name", "").server_header, None)
        self.assertEqual(config_of("--no-server-name").server_header, None)

    def test_access_log(self) -> None:
        self.assertFalse(config_of("-v", "0").logging.access)
        self.assertTrue(config_of("-v", "0", "--access-log", "-").logging.access)
        self.assertTrue(config_of("-v", "3").logging.access)


class Serving(CLITestCase):
    def test_from_start_to_stop(self) -> None:
        process, port = self.serve()
        response, _ = self.fetch(port)
        self.assertEqual(response.status, 200)
        self.assertEqual(response.getheader("Server"), "daphne")
        process.expect(
            r"^127\.0\.0\.1:\d+ - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d\] "
            r'"GET /" 200 \d+$'
        )
        self.assertEqual(process.stop(), 0)
        self.assertEqual(len(process.stdout.splitlines()), 1)
        self.assertNotIn('"GET /"', process.stderr)
        for line in process.stderr.splitlines():
            self.assertRegex(line, r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO     \w")

    def test_several_listeners(self) -> None:
        process, port = self.serve("-u", "app.sock", "-e", "tcp:0:interface=127.0.0.1")
        process.expect("Listening on unix:app.sock", "stderr")
        process.expect("Listening on http(.|\n)*Listening on http", "stderr")
        self.assertEqual(process.stderr.count("Listening on http"), 2)
        self.assertEqual(self.get(port)[0], 200)
        self.assertIn(b" 200 ", self.get_unix(self.directory / "app.sock"))
        mode = (self.directory / "app.sock").stat().st_mode
        self.assertEqual(mode & 0o777, 0o666)
        process.expect(r'^None - - \[.+\] "GET /" 200 \d+$')

    def test_applications_are_cancelled_when_their_clients_have_left(self) -> None:
        self.write(
            "deaf.py",
            """
            import asyncio

            async def application(scope, receive, send):
                if scope["type"] == "websocket":
                    await send({"type": "websocket.accept"})
                try:
                    print("began", scope["path"], flush=True)
                    while scope["type"] == "websocket":
                        await send({"type": "websocket.send", "text": "tick"})
                        await asyncio.sleep(0.01)
                    await asyncio.sleep(3600)
                finally:
                    print("ended", scope["path"], flush=True)
            """,
        )
        process, port = self.serve(
            *("--application-close-timeout", "1"), application="deaf:application"
        )
        with connect(f"ws://{HOST}:{port}/socket", open_timeout=PATIENCE):
            process.expect("^began /socket$")
        with socket.create_connection((HOST, port)) as client:
            client.sendall(b"GET /request HTTP/1.1\r\nHost: localhost\r\n\r\n")
            process.expect("^began /request$")
        for path in ("/socket", "/request"):
            process.expect(f"^ended {path}$")
            process.expect(
                rf"WARNING .* 1 seconds .*{path}; it is cancelled$", "stderr"
            )
        self.assertEqual(process.stop(), 0)
        self.assertNotIn("Traceback", process.stderr)

    def test_applications_that_end_with_their_clients_are_not(self) -> None:
        process, port = self.serve("--application-close-timeout", "1")
        with connect(f"ws://{HOST}:{port}/", open_timeout=PATIENCE):
            pass
        process.expect("WSDISCONNECT")
        self.assertEqual(process.stop(), 0)
        self.assertNotIn("WARNING", process.stderr)

    def test_a_descriptor(self) -> None:
        with socket.create_server((HOST, 0)) as listener:
            fd = listener.fileno()
            command = ("-m", "django_daphne", "--fd", str(fd), "site_asgi:application")
            process = self.start(*command, inherited=[fd])
            process.expect("Listening on", "stderr")
            self.assertEqual(self.get(listener.getsockname()[1])[0], 200)
            self.assertEqual(process.stop(), 0)

    def test_dotted_attributes(self) -> None:
        _, port = self.serve(application="site_asgi:Namespace.Inner.application")
        self.assertEqual(self.get(port)[0], 200)

    def test_an_asgi_2_application(self) -> None:
        process, port = self.serve(application="site_asgi:Doubled")
        self.assertEqual(self.get(port)[0], 200)
        with connect(f"ws://{HOST}:{port}/", open_timeout=PATIENCE) as client:
            client.send("?")
            self.assertEqual(client.recv(PATIENCE), "ws 127.0.0.1")
        self.assertEqual(process.stop(), 0)

    def test_an_application_that_is_an_object_with_a_plain_call(self) -> None:
        process, port = self.serve(application="site_asgi:synchronous")
        self.assertEqual(self.get(port)[0], 200)
        self.assertEqual(process.stop(), 0)

    def test_django_is_not_imported(self) -> None:
        self.write(
            "watching.py",
            """
            import sys

            async def application(scope, receive, send):
                roots = {name.partition(".")[0] for name in sys.modules}
                body = repr(sorted(roots & {"channels", "django", "django_daphne"}))
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body", "body": body.encode()})
            """,
        )
        _, port = self.serve(application="watching:application")
        self.assertEqual(self.get(port), (200, "['django_daphne']"))

    def test_server_name(self) -> None:
        _, port = self.serve("-s", "mine")
        self.assertEqual(self.fetch(port)[0].getheader("Server"), "mine")
        _, port = self.serve("--no-server-name")
        self.assertIsNone(self.fetch(port)[0].getheader("Server"))

    def test_root_path(self) -> None:
        _, port = self.serve("--root-path", "/app")
        self.assertEqual(self.scope(port, "/app/x")["root_path"], "/app")

    def test_http_timeout(self) -> None:
        _, port = self.serve("-t", "1")
        self.assertEqual(self.get(port, "/sleep")[0], 503)

    def test_websocket_connect_timeout(self) -> None:
        process, port = self.serve("--websocket_connect_timeout", "1")
        with self.assertRaises(InvalidStatus):
            connect(f"ws://{HOST}:{port}/sleep", open_timeout=PATIENCE)
        process.expect('"WSREJECT /sleep" - -$')

    def test_websocket_timeout(self) -> None:
        process, port = self.serve("--websocket_timeout", "1")
        with (
            connect(
                f"ws://{HOST}:{port}/", open_timeout=PATIENCE, close_timeout=PATIENCE
            ) as client,
            self.assertRaises(ConnectionClosed) as caught,
        ):
            client.recv(PATIENCE)
        self.assertIsNotNone(caught.exception.rcvd)
        process.expect('"WSDISCONNECT /" - -$')
        self.assertIn('"WSCONNECT /" - -\n', process.stdout)

    def test_message_size(self) -> None:
        _, port = self.serve("--websocket-max-message-size", "10")
        with connect(f"ws://{HOST}:{port}/", open_timeout=PATIENCE) as client:
            client.send("x" * 11)
            with self.assertRaises(ConnectionClosed) as caught:
                client.recv(PATIENCE)
        assert caught.exception.rcvd is not None
        self.assertEqual(caught.exception.rcvd.code, 1009)

    def test_version(self) -> None:
        process = self.daphne("--version")
        self.assertEqual(process.wait(), 0)
        self.assertEqual(process.stdout, f"django-daphne {__version__}\n")


class Logging(CLITestCase):
    def test_quiet(self) -> None:
        process = self.daphne("-u", "app.sock", "-v", "0")
        # Nothing is printed, so the socket itself has to be watched for.
        path = self.directory / "app.sock"
        process.poll_until(lambda: accepts(path))
        self.get_unix(path)
        self.assertEqual(process.stop(), 0)
        self.assertEqual((process.stdout, process.stderr), ("", ""))

    def test_a_file(self) -> None:
        process, port = self.serve("--access-log", "access.log")
        self.get(port, "/?a=1")
        self.assertEqual(process.stop(), 0)
        self.assertEqual(process.stdout, "")
        log = (self.directory / "access.log").read_text()
        self.assertRegex(log, r'^127\.0\.0\.1:\d+ - - \[.+\] "GET /\?a=1" 200 \d+\n$')

    def test_the_file_is_reopened(self) -> None:
        process, port = self.serve("--access-log", "access.log")
        log, moved = self.directory / "access.log", self.directory / "access.log.1"
        self.get(port, "/before")
        process.poll_until(lambda: "/before" in log.read_text())
        log.rename(moved)
        process.signal(signal.SIGUSR1)
        process.poll_until(log.exists)
        self.get(port, "/after")
        self.assertEqual(process.stop(), 0)
        self.assertIn("/before", moved.read_text())
        self.assertIn("/after", log.read_text())

    def test_format_of_other_lines(self) -> None:
        process, _ = self.serve("--log-fmt", "<%(name)s> %(message)s")
        self.assertRegex(
            process.stderr, r"(?m)^<django_daphne\.server> Listening on http://"
        )

    def test_verbose(self) -> None:
        process, _ = self.serve("-v", "2")
        self.assertIn(" DEBUG ", process.stderr)

    def test_lines_survive_a_logging_configuration(self) -> None:
        # The default of dictConfig() is to disable the loggers that exist.
        self.write(
            "configuring.py",
            """
            import logging.config
            from site_asgi import application
            logging.config.dictConfig({"version": 1})
            """,
        )
        process, port = self.serve(application="configuring:application")
        self.get(port)
        process.expect('"GET /" 200')


class ProxyHeaders(CLITestCase):
    FORGED = {
        "X_Forwarded_For": "203.0.113.9, 10.0.0.1",
        "X_Forwarded_Port": "4711",
        "X_Forwarded_Proto": "https",
        "Daphne_Root_Path": "/m%C3%BCnt",
    }

    def test_nobody_is_believed_without_the_flag(self) -> None:
        process, port = self.serve()
        scope = self.scope(port, **self.FORGED)
        self.assertEqual(scope["client"][0], "127.0.0.1")
        self.assertEqual(scope["scheme"], "http")
        self.assertEqual(scope["root_path"], "")
        self.assertIn("daphne-root-path", scope["headers"])
        self.assertNotIn("WARNING", process.stderr)

    def test_everybody_is_believed_with_it(self) -> None:
        process, port = self.serve("--proxy-headers")
        scope = self.scope(port, **self.FORGED)
        self.assertEqual(scope["client"], ["203.0.113.9", 4711])
        self.assertEqual(scope["scheme"], "https")
        self.assertEqual(scope["root_path"], "/m\u00fcnt")
        self.assertNotIn("daphne-root-path", scope["headers"])
        self.assertIn("x-forwarded-for", scope["headers"])
        process.expect(r"^203\.0\.113\.9:4711 - - ")
        process.expect("believed from anyone", "stderr")
        self.assertEqual(process.stderr.count("WARNING"), 1)

    def test_a_websocket(self) -> None:
        _, port = self.serve("--proxy-headers")
        headers = {k.replace("_", "-"): v for k, v in self.FORGED.items()}
        with connect(
            f"ws://{HOST}:{port}/", additional_headers=headers, open_timeout=PATIENCE
        ) as client:
            client.send("?")
            self.assertEqual(client.recv(PATIENCE), "wss 203.0.113.9")

    def test_other_headers(self) -> None:
        _, port = self.serve(
            *("--proxy-headers", "--proxy-headers-host", "X-Real-IP"),
            *("--proxy-headers-port", "X-Real-Port"),
        )
        scope = self.scope(port, X_Real_IP="2001:db8::7", X_Real_Port="9")
        self.assertEqual(scope["client"], ["2001:db8::7", 9])
        self.assertEqual(self.scope(port, **self.FORGED)["client"][0], "127.0.0.1")

    def test_what_makes_no_sense_is_left_out(self) -> None:
        _, port = self.serve("--proxy-headers")
        for headers, client, scheme in (
            ({"X_Forwarded_For": " , x"}, "127.0.0.1", "http"),
            ({"X_Forwarded_Port": "99"}, "127.0.0.1", "http"),
            ({"X_Forwarded_Proto": "gopher"}, "127.0.0.1", "http"),
        ):
            scope = self.scope(port, **headers)
            self.assertEqual((scope["client"][0], scope["scheme"]), (client, scheme))
        for value in ("port", "1, 2", "-1", "\u00b2"):
            scope = self.scope(port, X_Forwarded_For="10.1.1.1", X_Forwarded_Port=value)
            self.assertEqual(scope["client"][1], {"1, 2": 1}.get(value, 0))


class Mistakes(CLITestCase):
    def test_the_application(self) -> None:
        for name, expected in {
            "site_asgi": "'site_asgi' names a module and no application. Write "
            "'site_asgi:application', or what the application is called there.",
            "nowhere:application": "nowhere:application: there is no module 'nowhere'.",
            "site_asgi.x:y": "site_asgi.x:y: there is no module 'site_asgi.x'.",
            "site_asgi:app": "site_asgi:app: 'site_asgi' has no attribute 'app'.",
            "site_asgi:Namespace.app": "site_asgi:Namespace.app: "
            "'site_asgi.Namespace' has no attribute 'app'.",
            "site_asgi:number": "site_asgi:number: 'site_asgi.number' is not an ASGI "
            "application: 3 cannot be called.",
            "site_asgi:Consumer": "site_asgi:Consumer: 'site_asgi.Consumer' is not an "
            "ASGI application: it is a consumer class; write Consumer.as_asgi().",
            "site_asgi:wsgi": "site_asgi:wsgi: 'site_asgi.wsgi' is not an ASGI "
            "application: it takes two arguments, as a WSGI application does.",
            "site_asgi:factory": "site_asgi:factory: 'site_asgi.factory' is not an "
            "ASGI application: it takes no arguments, as a function that makes one "
            "does; call it.",
            "site_asgi:": "'site_asgi:' is not a module and an attribute. Write it "
            "like 'mysite.asgi:application'.",
            "./site_asgi.py": "'./site_asgi.py' is not a module and an attribute. "
            "Write it like 'mysite.asgi:application'.",
        }.items():
            with self.subTest(name):
                self.assertEqual(
                    self.refused(application=name), f"django-daphne: {expected}"
                )

    def test_an_error_inside_the_users_module_keeps_its_traceback(self) -> None:
        self.write("broken_asgi.py", "import nowhere_to_be_found")
        process = self.daphne(application="broken_asgi:application")
        self.assertEqual(process.wait(), 1)
        self.assertIn('broken_asgi.py", line 1', process.stderr)
        self.assertIn("No module named 'nowhere_to_be_found'", process.stderr)

    def test_flags(self) -> None:
        for flags, expected in (
            (("-p", "99999"), "'99999' is not a port"),
            (("-b", "300.1.1.1"), "'300.1.1.1' is not an IPv4 address"),
            (("-e", "8000"), "'8000' has no host"),
            (("--root-path", "app"), "--root-path must be a path that starts with '/'"),
            (("-s", "\u00e9"), "--server-name must be printable ASCII text, not"),
            (("--log-fmt", "%(nothing)s"), "--log-fmt: there is no field 'nothing'."),
            (("--log-fmt", "%(message)d"), "is not a log format"),
            (("--log-fmt", "nothing"), "is not a log format"),
            (("--access-log", "no/such/file"), "--access-log cannot be written"),
            (("--proxy-headers-host", "X"), "does nothing without --proxy-headers"),
            (("--proxy-headers-port", "X"), "does nothing without --proxy-headers"),
        ):
            with self.subTest(flags):
                line = self.refused(*flags)
                self.assertTrue(line.startswith("django-daphne: "), line)
                self.assertIn(expected, line)

    def test_a_port_in_use(self) -> None:
        port = self.taken_port()
        line = self.refused("-p", str(port))
        self.assertIn(f"{HOST}:{port}", line)
        self.assertIn("in use", line)

    def test_a_lifespan_that_fails(self) -> None:
        self.write(
            "failing.py",
            """
            async def application(scope, receive, send):
                await receive()
                await send({"type": "lifespan.startup.failed", "message": "no cache"})
            """,
        )
        process = self.daphne("-p", "0", application="failing:application")
        self.assertEqual(process.wait(), 3)
        self.assertIn("no cache", process.stderr)


def accepts(path: Path) -> bool:
    """Whether somebody listens on the Unix socket ``path``."""
    with socket.socket(socket.AF_UNIX) as client:
        # A reset rather than a connection that waits for a request.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True
