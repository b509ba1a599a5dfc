"""Who a client is, when a proxy says so: over real sockets, on every protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
from django.test import SimpleTestCase, override_settings
from hypothesis import given
from hypothesis import strategies as st

from django_daphne.application import forwarding
from django_daphne.application.context import Peer
from django_daphne.binds import quote
from django_daphne.config import Hooks, Proxy, build_config
from django_daphne.development import development_config
from django_daphne.errors import BindError, ConfigurationError
from django_daphne.server import access_log, process
from django_daphne.server.peers import is_trusted
from django_daphne.trust import Trust

from . import proxy_headers as make
from .asgi_apps import Receive, Scope, Send, respond
from .certificates import LOCAL, Files, authority
from .fronts import tell
from .http2_client import HTTP2Client, WebSocketOverHTTP2
from .http2_peer import request
from .serving import PATIENCE, Client, Process, Reader, Serving, serving
from .websocket_client import WebSocketClient

PROTOCOL_LOG = "django_daphne.protocol"
HERE = ["127.0.0.1", "::1"]
SPOOFED = (
    "X-Forwarded-For: 192.0.2.7",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: example.org:8443",
    "X-Forwarded-Port: 8443",
    "Forwarded: for=192.0.2.7;proto=https;host=example.org",
)
MISSING = "no PROXY header from a proxy that must send one"
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


def problems_of(value: Any) -> list[tuple[str, str, str]]:
    try:
        build_config({"PROXY": value})
    except ConfigurationError as error:
        return [(p.code, p.key, p.message) for p in error.problems]
    return []


class ConfigTests(unittest.TestCase):
    def test_the_defaults(self) -> None:
        self.assertIsNone(build_config({}).proxy)
        self.assertIsNone(build_config({"PROXY": None}).proxy)
        proxy = build_config({"PROXY": {}}).proxy
        assert proxy is not None
        self.assertEqual(
            (proxy.trusted, proxy.headers, proxy.protocol), ((), "x-forwarded", False)
        )

    def test_everything(self) -> None:
        value = {
            "TRUSTED": ["10.0.0.0/8", "::1", "unix"],
            "HEADERS": "forwarded",
            "PROTOCOL": True,
        }
        proxy = build_config({"PROXY": value}).proxy
        assert proxy is not None
        self.assertEqual(proxy.trusted, ("10.0.0.0/8", "::1", "unix"))
        self.assertEqual((proxy.headers, proxy.protocol), ("forwarded", True))

    def test_mistakes(self) -> None:
        proxy = "DJANGO_DAPHNE['PROXY']"
        for value, *expected in (
            ([], "E004", "PROXY", f"{proxy} must be a dict or None, not list."),
            (
                {"TRUSTED": "10.0.0.1"},
                "E004",
                "PROXY.TRUSTED",
                f"{proxy}['TRUSTED'] must be a list of strings, not '10.0.0.1'.",
            ),
            (
                {"TRUSTED": ["proxy.local"]},
                "E004",
                "PROXY.TRUSTED",
                f"{proxy}['TRUSTED']: 'proxy.local' is neither an address, nor a "
                f"network like '10.0.0.0/8', nor 'unix'.",
            ),
            (
                {"HEADERS": "x-real-ip"},
                "E004",
                "PROXY.HEADERS",
                f"{proxy}['HEADERS'] must be one of 'x-forwarded', 'forwarded', not "
                f"'x-real-ip'.",
            ),
            (
                {"PROTOCOL": "v2", "TRUSTED": ["::1"]},
                "E004",
                "PROXY.PROTOCOL",
                f"{proxy}['PROTOCOL'] must be True or False, not 'v2'.",
            ),
            (
                {"PROTOCOL": True},
                "E005",
                "PROXY.PROTOCOL",
                f"{proxy}['PROTOCOL'] is True, and PROXY['TRUSTED'] names nobody whose "
                f"PROXY header would be taken.",
            ),
            (
                {"TRUST": []},
                "E002",
                "PROXY.TRUST",
                f"{proxy}['TRUST'] is not a setting.",
            ),
        ):  # fmt: skip
            self.assertEqual(problems_of(value), [tuple(expected)])

    def test_every_mistake_is_said(self) -> None:
        value = {"TRUSTED": ["*", "10.0.0.1/8", 3], "HEADERS": 1}
        self.assertEqual(len(problems_of(value)), 2)
        value["TRUSTED"] = ["*", "10.0.0.1/8", "::1"]
        self.assertEqual(len(problems_of(value)), 3)


class ProxiedTestCase(unittest.TestCase):
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = staticmethod(
        process.new_event_loop
    )

    def serve(
        self, trusted: list[str] = HERE, application: Any = tell, **settings: Any
    ) -> Serving:
        """``settings`` in lower case are those of ``PROXY``."""
        proxy = {"TRUSTED": trusted}
        for name in [name for name in settings if name.islower()]:
            proxy[name.upper()] = settings.pop(name)
        options = settings.pop("OPTIONS", {})
        return self.enterContext(
            serving(
                application,
                {"LIFESPAN": "off", "PROXY": proxy, **settings},
                loop_factory=self.loop_factory,
                **options,
            )
        )

    def connect(self, server: Serving, first: bytes = b"", **options: Any) -> Client:
        client = self.enterContext(server.connect(**options))
        if first:
            client.send(first)
        return client

    def ask(self, server: Serving, *fields: str, first: bytes = b"") -> dict[str, Any]:
        """What the application is told of a request with ``fields``."""
        return told(self.connect(server, first), *fields)


def told(client: Client, *fields: str) -> dict[str, Any]:
    answer = client.get("/", *fields)
    if answer.status != 200:
        raise AssertionError(answer)
    return dict(json.loads(answer.body))


# -- Fields ----------------------------------------------------------------------------


class FieldTests(ProxiedTestCase):
    def test_x_forwarded(self) -> None:
        server = self.serve()
        scope = self.ask(server, *SPOOFED)
        self.assertEqual(scope["client"], ["192.0.2.7", 0])
        self.assertEqual(scope["scheme"], "https")
        self.assertEqual(scope["host"], "example.org:8443")
        self.assertEqual(scope["server"], ["127.0.0.1", 8443])
        # The fields themselves stay for the application to see.
        names = [name for name, _ in scope["headers"]]
        self.assertEqual(names.count("host"), 1)
        self.assertIn("x-forwarded-for", names)

    def test_forwarded(self) -> None:
        server = self.serve(headers="forwarded")
        scope = self.ask(server, "X-Forwarded-For: 198.51.100.9", SPOOFED[4])
        self.assertEqual(scope["client"], ["192.0.2.7", 0])
        self.assertEqual((scope["scheme"], scope["host"]), ("https", "example.org"))
        self.assertEqual(scope["server"], ["127.0.0.1", server.port])

    def test_only_the_chosen_ones_are_read(self) -> None:
        scope = self.ask(self.serve(headers="forwarded"), *SPOOFED[:4])
        self.assertEqual((scope["client"][0], scope["scheme"]), ("127.0.0.1", "http"))
        scope = self.ask(self.serve(), SPOOFED[4])
        self.assertEqual((scope["client"][0], scope["scheme"]), ("127.0.0.1", "http"))

    def test_of_a_stranger_nothing_is_taken(self) -> None:
        for trusted in ([], ["10.0.0.0/8"], ["unix"], ["::1"]):
            for style in ("x-forwarded", "forwarded"):
                server = self.serve(trusted, headers=style)
                client = self.connect(server)
                scope = told(client, *SPOOFED)
                name = list(client.socket.getsockname())
                self.assertEqual(scope["client"], name)
                self.assertEqual(scope["server"], ["127.0.0.1", server.port])
                self.assertEqual((scope["scheme"], scope["host"]), ("http", "test"))
                self.assertEqual(
                    scope["headers"],
                    [["host", "test"]]
                    + [[n.lower(), v] for n, v in (f.split(": ") for f in SPOOFED)],
                )

    def test_each_request_has_its_own_client(self) -> None:
        client = self.connect(self.serve())
        for number in range(3):
            scope = told(client, f"X-Forwarded-For: 192.0.2.{number}")
            self.assertEqual(scope["client"], [f"192.0.2.{number}", 0])
        again = told(client, f"X-Forwarded-For: 192.0.2.{number}", SPOOFED[2])
        self.assertEqual(again["host"], "example.org:8443")
        for _ in range(2):
            # The same header section is not parsed twice, and means the same twice.
            again = told(client, f"X-Forwarded-For: 192.0.2.{number}", SPOOFED[2])
            self.assertEqual(again["host"], "example.org:8443")
            self.assertEqual(again["client"], [f"192.0.2.{number}", 0])
        scope = told(client)
        self.assertEqual(scope["client"], list(client.socket.getsockname()))
        self.assertEqual((scope["scheme"], scope["host"]), ("http", "test"))

    def test_several_lines(self) -> None:
        server = self.serve([*HERE, "10.0.0.0/8"])
        scope = self.ask(
            server,
            "X-Forwarded-For: 198.51.100.1, 192.0.2.7",
            "X-Forwarded-For: ,10.0.0.2",
            "X-Forwarded-For: 10.0.0.3 , ",
        )
        self.assertEqual(scope["client"], ["192.0.2.7", 0])

    def test_ports_and_ipv6(self) -> None:
        server = self.serve()
        for value, expected in {
            "[2001:db8::1]:4711": ["2001:db8::1", 4711],
            "2001:DB8::1": ["2001:db8::1", 0],
            "192.0.2.7:4711": ["192.0.2.7", 4711],
        }.items():
            scope = self.ask(server, f"X-Forwarded-For: {value}")
            self.assertEqual(scope["client"], expected)

    def test_http_1_0_without_a_host(self) -> None:
        client = self.connect(self.serve())
        client.send(b"GET / HTTP/1.0\r\nX-Forwarded-Host: example.org\r\n\r\n")
        self.assertEqual(json.loads(client.read().body)["host"], "example.org")

    def test_websocket(self) -> None:
        server = self.serve()
        for scheme, expected in {"https": "wss", "wss": "wss", "http": "ws"}.items():
            client = self.enterContext(WebSocketClient(server))
            client.open(
                "/", "X-Forwarded-For: 192.0.2.7", f"X-Forwarded-Proto: {scheme}"
            )
            scope = json.loads(client.read_frame().payload)
            self.assertEqual(scope["client"], ["192.0.2.7", 0])
            self.assertEqual((scope["type"], scope["scheme"]), ("websocket", expected))

    def test_http2(self) -> None:
        for trusted, expected in ((HERE, "192.0.2.7"), ([], "127.0.0.1")):
            client = HTTP2Client(self.serve(trusted).port)
            self.addCleanup(client.close)
            fields = [
                (name.lower().encode(), value.encode())
                for name, value in (field.split(": ") for field in SPOOFED)
            ]
            for _ in range(2):
                response = client.get(b"/", *fields)
                scope = json.loads(response.body)
                self.assertEqual(scope["client"][0], expected)
                self.assertEqual(scope["scheme"], "https" if trusted else "http")
                self.assertEqual(
                    scope["host"], "example.org:8443" if trusted else "example.org"
                )
                self.assertEqual(scope["http_version"], "2")
            # Nothing of it stays behind for the next request.
            plain = json.loads(client.get().body)
            self.assertEqual(plain["client"][0], "127.0.0.1")
            self.assertEqual((plain["scheme"], plain["host"]), ("http", "example.org"))

    def test_websocket_over_http2(self) -> None:
        client = HTTP2Client(self.serve().port)
        self.addCleanup(client.close)
        socket = WebSocketOverHTTP2(
            client,
            b"/",
            (b"x-forwarded-for", b"192.0.2.7"),
            (b"x-forwarded-proto", b"https"),
        )
        scope = json.loads(socket.read_frame().payload)
        self.assertEqual(scope["client"], ["192.0.2.7", 0])
        self.assertEqual((scope["scheme"], scope["http_version"]), ("wss", "2"))

    def test_garbage_is_never_an_error_and_never_believed(self) -> None:
        server = self.serve([*HERE, "10.0.0.0/8"])
        client = self.connect(server)

        @hypothesis.settings(max_examples=60, deadline=None)
        @given(
            st.text(
                alphabet=st.characters(
                    min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]
                )
            ),
            st.sampled_from(["For", "Proto", "Host", "Port"]),
        )
        def check(value: str, name: str) -> None:
            lines = [
                "GET / HTTP/1.1", "Host: test", f"X-Forwarded-{name}: {value}",
                "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: http",
            ]  # fmt: skip
            client.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
            answer = client.read()
            self.assertEqual(answer.status, 200)
            scope = json.loads(answer.body)
            self.assertEqual(
                (scope["client"][0], scope["scheme"]), ("192.0.2.7", "http")
            )

        check()

    def test_the_access_log_has_the_client(self) -> None:
        records: list[Any] = []
        handler = logging.Handler()
        handler.emit = records.append  # type: ignore[method-assign]
        logger = access_log.access_log
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)
        level = logger.level
        self.addCleanup(logger.setLevel, level)
        logger.setLevel(logging.INFO)
        log = access_log.make_access_log(build_config({}))
        server = self.serve(OPTIONS={"log_access": log})
        self.ask(server, *SPOOFED)
        # The line is written after the answer.
        server.close()
        [record] = records
        self.assertEqual(record.client, "192.0.2.7")
        self.assertEqual((record.scheme, record.host), ("https", "example.org:8443"))
        self.assertTrue(record.getMessage().startswith("192.0.2.7 - - ["))

    def test_a_network_of_ipv4_on_a_socket_for_both(self) -> None:
        server = self.serve(["127.0.0.0/8"], BIND=["tcp6:0"])
        client = Client("127.0.0.1", server.port)
        self.addCleanup(client.close)
        self.assertEqual(told(client, *SPOOFED)["client"], ["192.0.2.7", 0])


class FieldTestsOnAsyncio(FieldTests):
    loop_factory = staticmethod(asyncio.new_event_loop)


class UnixTests(ProxiedTestCase):
    def ask_unix(self, trusted: list[str], first: bytes = b"", **proxy: Any) -> Any:
        directory = self.enterContext(tempfile.TemporaryDirectory())
        path = f"{directory}/app.sock"
        self.serve(trusted, BIND=[f"unix:{path}"], **proxy)
        client = self.enterContext(socket.socket(socket.AF_UNIX))
        client.settimeout(PATIENCE)
        client.connect(path)
        fields = "".join(f"{field}\r\n" for field in SPOOFED[:4])
        client.sendall(first + f"GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n".encode())
        scope = json.loads(Reader(client.recv).read().body)
        return {**scope, "path": path}

    def test_trusted(self) -> None:
        scope = self.ask_unix(["unix"])
        self.assertEqual(scope["client"], ["192.0.2.7", 0])
        self.assertEqual(
            (scope["scheme"], scope["host"]), ("https", "example.org:8443")
        )
        self.assertEqual(scope["server"], ["example.org", 8443])

    def test_not_trusted(self) -> None:
        for trusted in ([], ["0.0.0.0/0", "::/0"]):
            scope = self.ask_unix(trusted)
            self.assertIsNone(scope["client"])
            self.assertEqual((scope["scheme"], scope["host"]), ("http", "test"))
            self.assertEqual(scope["server"], [scope["path"], None])

    def test_a_proxy_header(self) -> None:
        scope = self.ask_unix(["unix"], make.V2, protocol=True)
        self.assertEqual(scope["client"], list(make.CLIENT))
        self.assertEqual(scope["scheme"], "http")

    def test_a_peer_without_a_name_is_not_one_of_a_unix_socket(self) -> None:
        trust = Trust(["unix", "127.0.0.1"])
        self.assertFalse(is_trusted(trust, None, None))
        with socket.socket() as sock:
            self.assertFalse(is_trusted(trust, None, sock))
            self.assertTrue(is_trusted(trust, ("127.0.0.1", 1), sock))


# -- PROXY headers ---------------------------------------------------------------------


class RefusalTestCase(ProxiedTestCase):
    @contextlib.contextmanager
    def assert_one_line(self, expected: str, level: int = logging.INFO) -> Any:
        """One line on the log of the protocol, and nothing on the server's."""
        with (
            self.assertLogs(PROTOCOL_LOG, logging.INFO) as logs,
            self.assertNoLogs("django_daphne.server", logging.WARNING),
            self.assertNoLogs("asyncio", logging.WARNING),
        ):
            yield
        [record] = logs.records
        self.assertEqual(record.levelno, level)
        self.assertRegex(record.getMessage(), rf"^127\.0\.0\.1:\d+: {expected}$")

    def read_to_end(self, client: socket.socket) -> bytes:
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(65536):
                answer += data
        return answer


class ProxyHeaderTests(RefusalTestCase):
    def test_every_version(self) -> None:
        server = self.serve(protocol=True)
        for header, client, ours in (
            (make.V1, make.CLIENT, make.SERVER),
            (make.V1_IPV6, make.CLIENT6, make.SERVER6),
            (make.V2, make.CLIENT, make.SERVER),
            (make.V2_IPV6, make.CLIENT6, make.SERVER6),
        ):
            scope = self.ask(server, first=header)
            self.assertEqual(scope["client"], list(client))
            self.assertEqual(scope["server"], list(ours))
            self.assertEqual(scope["scheme"], "http")
            version = 1 if header.startswith(b"PROXY") else 2
            self.assertEqual(scope["proxy_protocol"], {"version": version, "tls": None})

    def test_a_header_in_pieces(self) -> None:
        server = self.serve(protocol=True)
        for header in (make.V1, make.V2):
            client = self.connect(server)
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for place in range(len(header)):
                client.send(header[place : place + 1])
            scope = told(client)
            self.assertEqual(scope["client"], list(make.CLIENT))
            client = self.connect(server, header + GET[:7])
            client.send(GET[7:])
            self.assertEqual(
                json.loads(client.read().body)["client"], list(make.CLIENT)
            )

    def test_all_requests_of_the_connection(self) -> None:
        client = self.connect(self.serve(protocol=True), make.V1)
        for _ in range(3):
            self.assertEqual(told(client)["client"], list(make.CLIENT))

    def test_local_connections(self) -> None:
        client = self.connect(self.serve(protocol=True), make.V2_LOCAL)
        scope = told(client, *SPOOFED[:1])
        self.assertIsNone(scope["proxy_protocol"])
        # They are the proxy's own, and it is trusted.
        self.assertEqual(scope["client"], ["192.0.2.7", 0])
        self.assertEqual(told(client)["client"], list(client.socket.getsockname()))

    def test_clients_that_the_proxy_does_not_know(self) -> None:
        server = self.serve(protocol=True)
        for header in (
            b"PROXY UNKNOWN\r\n",
            make.v2(make.PROXY, make.UNSPECIFIED),
            make.v2(make.PROXY, make.UNIX, make.unix(b"", b"")),
        ):
            scope = self.ask(server, *SPOOFED, first=header)
            self.assertIsNone(scope["client"])
            self.assertEqual((scope["scheme"], scope["host"]), ("http", "test"))
            self.assertEqual(scope["server"], ["127.0.0.1", server.port])
        header = make.v2(make.PROXY, make.UNIX, make.unix(b"/a", b"/run/front"))
        scope = self.ask(server, first=header)
        self.assertEqual(scope["server"], ["/run/front", None])

    def test_fields_are_the_clients_own_word(self) -> None:
        scope = self.ask(self.serve(protocol=True), *SPOOFED, first=make.V2)
        self.assertEqual(scope["client"], list(make.CLIENT))
        self.assertEqual((scope["scheme"], scope["host"]), ("http", "test"))

    def test_fields_of_a_client_that_is_trusted(self) -> None:
        server = self.serve([*HERE, "203.0.113.0/24"], protocol=True)
        scope = self.ask(server, *SPOOFED, first=make.V2)
        self.assertEqual(scope["client"], ["192.0.2.7", 0])
        self.assertEqual(scope["scheme"], "https")
        self.assertEqual(scope["proxy_protocol"], {"version": 2, "tls": None})

    def test_tls_between_client_and_proxy(self) -> None:
        content = make.inet(make.CLIENT, make.SERVER) + make.ssl(
            3, 0, version=b"TLSv1.3", name=b"alice", cipher=b"TLS_AES_128_GCM_SHA256"
        )
        header = make.v2(make.PROXY, make.TCP4, content)
        server = self.serve(protocol=True)
        scope = self.ask(server, first=header)
        self.assertEqual(scope["scheme"], "https")
        self.assertFalse(scope["tls"])
        self.assertEqual(
            scope["proxy_protocol"],
            {
                "version": 2,
                "tls": {
                    "tls_version": "TLSv1.3",
                    "cipher": "TLS_AES_128_GCM_SHA256",
                    "client_cert_name": "alice",
                    "client_cert_verified": True,
                },
            },
        )
        client = self.enterContext(WebSocketClient(server))
        client.send(header)
        client.open()
        self.assertEqual(json.loads(client.read_frame().payload)["scheme"], "wss")

    def test_http2(self) -> None:
        server = self.serve(protocol=True)
        client = self.connect(server, make.V2)
        peer = HTTP2Client.__new__(HTTP2Client)
        super(HTTP2Client, peer).__init__()
        peer.socket = client.socket
        peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        response = peer.answer(peer.ask(request()))
        scope = json.loads(response.body)
        self.assertEqual(scope["client"], list(make.CLIENT))
        self.assertEqual(scope["http_version"], "2")

    def test_a_proxy_without_one_is_refused(self) -> None:
        server = self.serve(protocol=True)
        for first in (GET, b"\x16\x03\x01", b"\r\nPROXY", b"PRI * HTTP/2.0\r\n"):
            with self.assert_one_line(
                "no PROXY header from a proxy that must send one"
            ):
                client = self.connect(server, first)
                self.assertEqual(self.read_to_end(client.socket), b"")

    def test_a_malformed_one_is_refused(self) -> None:
        server = self.serve(protocol=True)
        for header in (
            make.V1.replace(b"TCP4", b"TCP6"),
            make.V1.replace(b"7", b"700"),
            make.V2.replace(b"\x21\x11", b"\x11\x11"),
            make.v2(make.PROXY, make.TCP4),
        ):
            version = 1 if header.startswith(b"PROXY") else 2
            with self.assert_one_line(
                rf"a malformed PROXY header of version {version}: b.+"
            ):
                client = self.connect(server, header + GET)
                self.assertEqual(self.read_to_end(client.socket), b"")
        with self.assert_one_line("a PROXY header of version 1 that is too long"):
            client = self.connect(server, b"PROXY TCP4 " + b"1" * 200)
            self.assertEqual(self.read_to_end(client.socket), b"")

    def test_how_a_client_is_named(self) -> None:
        server = self.serve(protocol=True)
        for header, name in (
            (make.V1, "203.0.113.7:4321"),
            (make.V1_IPV6, "[2001:db8::7]:4321"),
            (b"PROXY UNKNOWN\r\n", "a local client"),
        ):
            with self.assertLogs(PROTOCOL_LOG, logging.INFO) as logs:
                client = self.connect(server, header + b"nonsense\r\n\r\n")
                self.assertEqual(client.read().status, 400)
            self.assertTrue(logs.records[0].getMessage().startswith(f"{name}: "))

    def test_a_slow_one_is_refused(self) -> None:
        server = self.serve(protocol=True, TIMEOUTS={"HEADERS": 0.2})
        for first in (b"", make.V1[:5], make.V2[:14]):
            with self.assert_one_line(r"no PROXY header within TIMEOUTS\['HEADERS'\]"):
                client = self.connect(server, first)
                self.assertEqual(self.read_to_end(client.socket), b"")

    def test_one_that_is_broken_off(self) -> None:
        server = self.serve(protocol=True)
        with self.assert_one_line("the connection was closed inside a PROXY header"):
            client = self.connect(server, make.V2[:20])
            client.socket.shutdown(socket.SHUT_WR)
            self.assertEqual(self.read_to_end(client.socket), b"")

    def test_whoever_only_looks_is_not_mentioned(self) -> None:
        server = self.serve(protocol=True)
        with self.assertNoLogs(PROTOCOL_LOG, logging.INFO):
            for _ in range(3):
                client = self.connect(server)
                client.socket.shutdown(socket.SHUT_WR)
                self.assertEqual(self.read_to_end(client.socket), b"")

    def test_a_strangers_is_refused(self) -> None:
        for options in ({"protocol": True}, {}):
            server = self.serve(["10.0.0.1"], **options)
            for header in (make.V1, make.V2, make.V2_LOCAL, b"PROXY UNKNOWN\r\n"):
                with self.assert_one_line(
                    r"a PROXY header from somebody who is not to send one \(400\)"
                ):
                    client = self.connect(server, header + GET)
                    self.assertEqual(client.read().status, 400)
                    self.assertEqual(self.read_to_end(client.socket), b"")

    def test_one_that_nobody_asked_for(self) -> None:
        server = self.serve(HERE, protocol=False)
        with self.assert_one_line(r"a PROXY header from .+ \(400\)"):
            self.assertEqual(self.connect(server, make.V1 + GET).read().status, 400)

    def test_a_stranger_without_one_is_served(self) -> None:
        server = self.serve(["10.0.0.1"], protocol=True)
        client = self.connect(server)
        scope = told(client, *SPOOFED)
        self.assertEqual(scope["client"], list(client.socket.getsockname()))
        self.assertIsNone(scope["proxy_protocol"])

    def test_refusals_name_the_client(self) -> None:
        server = self.serve(protocol=True)
        with self.assertLogs(PROTOCOL_LOG, logging.INFO) as logs:
            client = self.connect(server, make.V2 + b"GET\r\n\r\n")
            self.assertEqual(client.read().status, 400)
        self.assertIn("203.0.113.7:4321: malformed request line", logs.output[0])

    def test_stopping_while_headers_are_awaited(self) -> None:
        server = self.serve(protocol=True)
        client = self.connect(server, make.V2[:14])
        told(self.connect(server, make.V1))
        server.close()
        self.assertEqual(self.read_to_end(client.socket), b"")


class ProxyHeaderTestsOnAsyncio(ProxyHeaderTests):
    loop_factory = staticmethod(asyncio.new_event_loop)


class TLSTestCase(RefusalTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.files = Files(Path(folder))
        cls.root = authority()
        cls.tls = cls.files.tls("leaf", cls.root.issue("localhost", LOCAL))

    def serve(self, *args: Any, **settings: Any) -> Serving:
        return super().serve(*args, TLS=self.tls, **settings)

    def shake(self, server: Serving, first: bytes, dripped: bool = False) -> Client:
        """A client that says ``first`` and speaks TLS then."""
        client = self.connect(server)
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(first)) if dripped else ():
            client.send(first[place : place + 1])
        if not dripped:
            client.send(first)
        context = ssl.create_default_context(cadata=self.root.pem)
        client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
        self.addCleanup(client.close)
        client._receive = client.socket.recv
        return client


class TLSTests(TLSTestCase):
    def test_fields(self) -> None:
        context = ssl.create_default_context(cadata=self.root.pem)
        for trusted in (HERE, []):
            client = self.connect(self.serve(trusted), tls=context)
            scope = told(client, SPOOFED[0], "X-Forwarded-Proto: http")
            self.assertEqual(scope["scheme"], "http" if trusted else "https")
            self.assertEqual(scope["client"][0] == "192.0.2.7", bool(trusted))
            self.assertTrue(scope["tls"])

    def test_every_version(self) -> None:
        server = self.serve(protocol=True)
        for header, expected in (
            (make.V1, make.CLIENT),
            (make.V1_IPV6, make.CLIENT6),
            (make.V2, make.CLIENT),
            (make.V2_IPV6, make.CLIENT6),
        ):
            for dripped in (False, True):
                client = self.shake(server, header, dripped)
                for _ in range(2):
                    scope = told(client, *SPOOFED)
                    self.assertEqual(scope["client"], list(expected))
                    self.assertEqual(
                        (scope["scheme"], scope["host"]), ("https", "test")
                    )
                    self.assertTrue(scope["tls"])
                    self.assertIsNotNone(scope["proxy_protocol"])

    def test_header_and_handshake_in_one_segment(self) -> None:
        server = self.serve(protocol=True)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cadata=self.root.pem)
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        client = self.connect(server)
        first, asked = make.V2, False
        answer = b""
        while b"\r\n\r\n" not in answer:
            try:
                if not asked:
                    tls.do_handshake()
                    tls.write(GET)
                    asked = True
                answer += tls.read(65536)
            except ssl.SSLWantReadError:
                client.send(first + outgoing.read())
                first = b""
                data = client.socket.recv(65536)
                self.assertNotEqual(data, b"")
                incoming.write(data)
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK\r\n"))

    def test_a_large_one(self) -> None:
        content = make.inet(make.CLIENT, make.SERVER)
        content += make.record(0x04, bytes(0xFFFF - len(content) - 3))
        header = make.v2(make.PROXY, make.TCP4, content)
        client = self.shake(self.serve(protocol=True), header)
        self.assertEqual(told(client)["client"], list(make.CLIENT))

    def test_local_connections(self) -> None:
        client = self.shake(self.serve(protocol=True), make.V2_LOCAL)
        name = list(client.socket.getsockname())
        scope = told(client)
        self.assertEqual((scope["client"], scope["proxy_protocol"]), (name, None))

    def test_a_proxy_without_one_is_refused(self) -> None:
        server = self.serve(protocol=True)
        for first in (b"\x16\x03\x01", GET):
            with self.assert_one_line(
                "no PROXY header from a proxy that must send one"
            ):
                client = self.connect(server, first)
                self.assertEqual(self.read_to_end(client.socket), b"")
        with self.assert_one_line("a malformed PROXY header of version 1: b.+"):
            client = self.connect(server, make.V1.replace(b"TCP4", b"UDP4"))
            self.assertEqual(self.read_to_end(client.socket), b"")

    def test_a_slow_one_is_refused(self) -> None:
        server = self.serve(protocol=True, TIMEOUTS={"HANDSHAKE": 0.2})
        for first in (b"", make.V1[:5], make.V2[:14]):
            with self.assert_one_line("no PROXY header within .*'HANDSHAKE'."):
                client = self.connect(server, first)
                self.assertEqual(self.read_to_end(client.socket), b"")

    def test_one_deadline_for_all(self) -> None:
        server = self.serve(protocol=True, TIMEOUTS={"HANDSHAKE": 2})
        with self.assertLogs(PROTOCOL_LOG, logging.INFO) as logs:
            client = self.connect(server, make.V2)
            self.assertEqual(self.read_to_end(client.socket), b"")
        [line] = logs.output
        self.assertIn("203.0.113.7:4321: no TLS handshake within TIMEOUTS", line)
        self.assertEqual(logs.records[0].client, ("203.0.113.7", 4321))

    def test_one_that_is_broken_off(self) -> None:
        server = self.serve(protocol=True)
        with self.assert_one_line("the connection was closed inside a PROXY header"):
            client = self.connect(server, make.V2[:20])
            client.socket.shutdown(socket.SHUT_WR)
            self.assertEqual(self.read_to_end(client.socket), b"")
        with self.assertNoLogs(PROTOCOL_LOG, logging.INFO):
            client = self.connect(server)
            client.socket.shutdown(socket.SHUT_WR)
            self.assertEqual(self.read_to_end(client.socket), b"")

    def test_a_strangers_is_refused(self) -> None:
        for options in ({"protocol": True}, {}):
            server = self.serve(["10.0.0.1"], **options)
            for header in (make.V1, make.V2):
                with self.assert_one_line(
                    "a PROXY header from somebody who is not to send one"
                ):
                    client = self.connect(server, header)
                    self.assertEqual(self.read_to_end(client.socket), b"")

    def test_a_stranger_without_one_is_served(self) -> None:
        client = self.shake(self.serve(["10.0.0.1"], protocol=True), b"")
        name = list(client.socket.getsockname())
        self.assertEqual(told(client, *SPOOFED)["client"], name)

    def test_plain_http_behind_one(self) -> None:
        server = self.serve(protocol=True)
        with self.assertLogs(PROTOCOL_LOG, logging.INFO) as logs:
            client = self.connect(server, make.V1 + GET)
            self.assertEqual(client.read().status, 400)
        self.assertIn("203.0.113.7:4321: plain HTTP on a TLS port", logs.output[0])

    def test_stopping_while_headers_are_awaited(self) -> None:
        server = self.serve(protocol=True)
        client = self.connect(server, make.V2[:14])
        told(self.shake(server, make.V1))
        server.close()
        self.assertEqual(self.read_to_end(client.socket), b"")

    def test_a_loop_that_cannot_look(self) -> None:
        watch = "django_daphne.server.tls_listener._can_watch"
        with mock.patch(watch, lambda loop: False):
            with self.assertRaises(BindError) as caught:
                self.serve(protocol=True)
            self.assertIn(
                "cannot read a PROXY header before TLS", str(caught.exception)
            )
            # Without the protocol it is served as ever.
            context = ssl.create_default_context(cadata=self.root.pem)
            client = self.connect(self.serve(), tls=context)
            self.assertEqual(told(client, *SPOOFED)["client"], ["192.0.2.7", 0])


class TLSTestsOnAsyncio(TLSTests):
    loop_factory = staticmethod(asyncio.new_event_loop)


class RedirectTests(TLSTestCase):
    """Binds that redirect are told of clients in the same ways."""

    def test_the_host_of_the_client(self) -> None:
        hosts = Hooks(allowed_host=lambda host: host.startswith("example.org"))
        for trusted, protocol, first, limits, status in (
            (HERE, False, b"", {}, 308),
            ([], False, b"", {}, 400),
            ([*HERE, "203.0.113.7"], True, make.V1, {}, 308),
            (HERE, True, make.V1, {}, 400),
            (HERE, False, b"", {"CONCURRENCY": 1}, 308),
        ):
            server = self.serve(
                trusted,
                protocol=protocol,
                LIMITS=limits,
                REDIRECT_BIND=["tcp:0:interface=127.0.0.1"],
                OPTIONS={"hooks": hosts},
            )
            port = int(server.urls[1].rpartition(":")[2])
            client = self.enterContext(Client(server.host, port))
            client.send(first)
            answer = client.get("/", *SPOOFED)
            self.assertEqual(answer.status, status)
            if status == 308:
                self.assertEqual(
                    answer.get("Location"), f"https://example.org:{server.port}/"
                )


class TwistedTests(unittest.TestCase):
    """Endpoints of Twisted's that read PROXY headers, or speak TLS, by themselves."""

    def serve(self, bind: str) -> Process:
        return self.enterContext(
            Process(
                "tests.fronts:tell",
                {
                    "BIND": [bind],
                    "LIFESPAN": "off",
                    "PROXY": {"TRUSTED": HERE, "PROTOCOL": True},
                },
            )
        )

    def test_a_header_that_twisted_has_read(self) -> None:
        server = self.serve("haproxy:tcp:0:interface=127.0.0.1")
        with server.connect() as client:
            client.send(make.V1)
            self.assertEqual(told(client, *SPOOFED)["client"], list(make.CLIENT))

    def test_none_before_the_tls_of_twisted(self) -> None:
        files = Files(Path(self.enterContext(tempfile.TemporaryDirectory())))
        root = authority()
        tls = files.tls("leaf", root.issue("localhost", LOCAL))
        key, certificate = quote(tls["PRIVATE_KEY"]), quote(tls["CERTIFICATE"])
        server = self.serve(
            f"haproxy:ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
        )
        context = ssl.create_default_context(cadata=root.pem)
        with server.connect(tls=context) as client:
            client.send(make.V1)
            self.assertEqual(told(client)["client"], list(make.CLIENT))
        with server.connect(tls=context) as client:
            # As if the proxy itself had come, which must send a header first.
            client.send(make.V1.replace(b"203.0.113.7", b"127.0.0.1") + GET)
            self.assertTrue(client.ended())


class DevelopmentTests(SimpleTestCase):
    def test_browsers_send_no_header(self) -> None:
        proxy = {"TRUSTED": HERE, "PROTOCOL": True, "HEADERS": "forwarded"}
        with override_settings(DJANGO_DAPHNE={"PROXY": proxy}):
            config = development_config().proxy
        assert config is not None
        self.assertEqual(config.trusted, tuple(HERE))
        self.assertEqual((config.headers, config.protocol), ("forwarded", False))
        self.assertIsNone(development_config().proxy)


class CeilingTests(ProxiedTestCase):
    """Limits hold for those whom a proxy speaks for, too."""

    def test_requests_at_once(self) -> None:
        server = self.serve(LIMITS={"CONCURRENCY": 1})
        busy = self.connect(server)
        busy.request("/events", "GET", *SPOOFED)
        busy.read_head()
        self.assertIn(b"192.0.2.7", busy.read_until(b"\n\n"))
        with self.assertLogs("django_daphne.server", logging.WARNING):
            self.assertEqual(self.connect(server).get("/", *SPOOFED).status, 503)
        busy.close()
        deadline = time.monotonic() + PATIENCE
        while (answer := self.connect(server).get("/", *SPOOFED)).status == 503:
            self.assertLess(time.monotonic(), deadline)
        self.assertEqual(json.loads(answer.body)["client"], ["192.0.2.7", 0])

    def test_connections(self) -> None:
        server = self.serve(LIMITS={"CONNECTIONS": 1}, protocol=True)
        first = self.connect(server, make.V1)
        told(first)
        with self.assertLogs("django_daphne.server", logging.WARNING):
            second = self.connect(server, make.V2)
            self.assertEqual(second.get().status, 503)
        self.assertEqual(told(first)["client"], list(make.CLIENT))


class ForwardingTests(unittest.TestCase):
    """What is remembered of clients is bounded, and told to nobody else."""

    def setUp(self) -> None:
        trust = Trust(["127.0.0.1"])
        self.forwarding = forwarding.Forwarding(Proxy(("127.0.0.1",)), trust)
        self.peer = Peer(("127.0.0.1", 1), ("127.0.0.1", 80))

    def see(self, *values: bytes) -> Peer:
        head = mock.Mock(headers=[(b"x-forwarded-for", value) for value in values])
        return self.forwarding.see_through(self.peer, head)

    def test_what_was_said_before(self) -> None:
        for _ in range(2):
            for address in ("192.0.2.1", "192.0.2.2"):
                self.assertEqual(self.see(address.encode()).client, (address, 0))
        self.assertEqual(self.peer.client, ("127.0.0.1", 1))
        self.assertIs(self.see(), self.peer)

    def test_the_memory_is_bounded(self) -> None:
        with mock.patch.object(forwarding, "MAX_KNOWN", 10):
            for number in range(100):
                self.see(f"192.0.2.{number}".encode())
                self.assertLessEqual(len(self.forwarding._known), 10)
        known = len(self.forwarding._known)
        for _ in range(2):
            client = self.see(b" " * 300 + b"192.0.2.1").client
            self.assertEqual(client, ("192.0.2.1", 0))
        self.see(*[b"192.0.2.1"] * 100)
        self.assertEqual(len(self.forwarding._known), known)


class UntrustedCostTests(ProxiedTestCase):
    def test_requests_of_strangers_meet_none_of_it(self) -> None:
        """Nothing of this is called for them, on a server that trusts somebody."""
        called = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(send)

        with mock.patch(
            "django_daphne.application.forwarding.Forwarding.see_through",
            lambda self, peer, head: called.append(1) or peer,
        ):
            server = self.serve(["10.0.0.1"], application)
            self.connect(server).get("/", *SPOOFED)
            self.assertEqual(called, [])
            server = self.serve(["127.0.0.1"], application)
            self.connect(server).get("/", *SPOOFED)
            self.assertEqual(called, [1])
