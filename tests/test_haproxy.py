"""Behind a real HAProxy that is configured as the documentation says."""

from __future__ import annotations

import json
import queue
from typing import Any

from .asgi_apps import Receive, Scope, Send
from .fronts import CLIENT, SecureFrontTestCase, tell
from .http2_client import HTTP2Client
from .secure_websocket import SecureWebSocket
from .services import require
from .serving import PATIENCE
from .test_nginx import LIES

HERE = ["127.0.0.1"]


class HAProxyTestCase(SecureFrontTestCase):
    """What is true behind every one of them."""

    port: int
    #: Whether the client's HTTP/2 and its connections reach us as they are.
    transparent = True

    def assert_true(self, scope: dict[str, Any], name: tuple[str, int]) -> None:
        """``scope`` tells the truth about the client, whose name is ``name``."""
        self.assertEqual(scope["client"], list(name))
        self.assertEqual(scope["server"], ["127.0.0.1", self.port])
        self.assertIn(scope["scheme"], ("https", "wss"))

    def test_requests(self) -> None:
        client = self.connect(self.port)
        for lies in ((), LIES):
            scope = self.told(client, *lies)
            self.assert_true(scope, client.socket.getsockname())
            self.assertEqual(scope["host"], "test")

    def test_uploads(self) -> None:
        client = self.connect(self.port)
        client.request("/", "POST", body=bytes(3_000_000))
        self.assertEqual(json.loads(client.read().body)["bytes"], 3_000_000)

    def test_an_event_stream_is_not_buffered(self) -> None:
        client = self.connect(self.port)
        self.assert_true(self.first_event(client), client.socket.getsockname())

    def test_websocket(self) -> None:
        url = f"wss://localhost:{self.port}/"
        with SecureWebSocket(url, self.context(), local_addr=(CLIENT, 0)) as client:
            scope = json.loads(client.recv())
            self.assert_true(scope, client.address)
            self.assertEqual(scope["scheme"], "wss")
            client.send("hello")
            self.assertEqual(client.recv(), "hello")

    def test_http2(self) -> None:
        context = self.context()
        context.set_alpn_protocols(["h2"])
        client = HTTP2Client(self.port, tls=context, source=CLIENT)
        self.addCleanup(client.close)
        lies = [
            (name.lower().encode(), value.encode())
            for name, value in (lie.split(": ") for lie in LIES)
        ]
        for fields in ([], lies):
            scope = json.loads(client.get(b"/", *fields).body)
            self.assert_true(scope, client.socket.getsockname())
            self.assertEqual(scope["host"], "example.org")
            self.assertEqual(scope["http_version"], "2" if self.transparent else "1.1")


@require("haproxy")
class HTTPModeTests(HAProxyTestCase):
    """HAProxy reads requests, and says in their fields whose they are."""

    transparent = False
    more = ""

    def setUp(self) -> None:
        super().setUp()
        server = self.serve({"TRUSTED": HERE})
        self.port = self.haproxy(
            "haproxy-http.cfg",
            "bind :443",
            {
                "/etc/ssl/example.org.pem": self.both,
                "127.0.0.1:8000": f"127.0.0.1:{server.port}{self.more}",
            },
        )

    def assert_true(self, scope: dict[str, Any], name: tuple[str, int]) -> None:
        # The port is not said.
        super().assert_true(scope, (name[0], 0))


class HTTPModeOverHTTP2Tests(HTTPModeTests):
    """The same, and HTTP/2 is spoken with us, WebSockets included."""

    transparent = True
    more = " proto h2"

    def test_requests(self) -> None:
        scope = self.told(self.connect(self.port), *LIES)
        self.assertEqual(scope["http_version"], "2")
        super().test_requests()


@require("haproxy")
class TLSInFrontTests(HAProxyTestCase):
    """HAProxy does TLS for us, and says so in a PROXY header of version 2."""

    def setUp(self) -> None:
        super().setUp()
        server = self.serve({"TRUSTED": HERE, "PROTOCOL": True})
        self.port = self.haproxy(
            "haproxy-tls.cfg",
            "bind :443",
            {
                "/etc/ssl/example.org.pem": self.both,
                "127.0.0.1:8000": f"127.0.0.1:{server.port}",
            },
        )

    def test_what_is_told_of_tls(self) -> None:
        scope = self.told(self.connect(self.port))
        self.assertFalse(scope["tls"])
        told = scope["proxy_protocol"]
        self.assertEqual(told["version"], 2)
        self.assertEqual(told["tls"]["tls_version"], "TLSv1.3")
        self.assertIsNone(told["tls"]["client_cert_name"])
        self.assertIs(told["tls"]["client_cert_verified"], False)

    def test_a_client_certificate(self) -> None:
        alice = self.root.issue("alice")
        context = self.context()
        context.load_cert_chain(
            self.files.write("alice.pem", alice.pem, alice.key_pem())
        )
        server = self.serve({"TRUSTED": HERE, "PROTOCOL": True})
        port = self.haproxy(
            "haproxy-tls.cfg",
            "bind :443",
            {
                "crt /etc/ssl/example.org.pem": f"crt {self.both} "
                f"ca-file {self.root_file} verify optional",
                "127.0.0.1:8000": f"127.0.0.1:{server.port}",
            },
        )
        scope = self.told(self.connect(port, context=context))
        told = scope["proxy_protocol"]["tls"]
        self.assertEqual(told["client_cert_name"], "alice")
        self.assertIs(told["client_cert_verified"], True)


@require("haproxy")
class TLSBehindTests(HAProxyTestCase):
    """HAProxy passes TLS through to us, behind a PROXY header of version 2."""

    sends = "send-proxy-v2"
    version = 2

    def setUp(self) -> None:
        super().setUp()
        server = self.serve({"TRUSTED": HERE, "PROTOCOL": True}, TLS=self.tls)
        self.port = self.haproxy(
            "haproxy-tcp.cfg",
            "bind :443",
            {
                "10.0.0.5:443": f"127.0.0.1:{server.port}",
                "send-proxy-v2": self.sends,
            },
        )

    def test_what_is_told_of_tls(self) -> None:
        scope = self.told(self.connect(self.port))
        self.assertTrue(scope["tls"])
        self.assertEqual(scope["proxy_protocol"]["version"], self.version)
        self.assertIsNone(scope["proxy_protocol"]["tls"])


class TLSBehindVersion1Tests(TLSBehindTests):
    sends = "send-proxy"
    version = 1


@require("haproxy")
class PlainTests(SecureFrontTestCase):
    """Nobody speaks TLS."""

    def test_both_versions(self) -> None:
        for version, sends in enumerate(("send-proxy", "send-proxy-v2"), 1):
            server = self.serve({"TRUSTED": HERE, "PROTOCOL": True})
            port = self.haproxy(
                "haproxy-tcp.cfg",
                "bind :443",
                {
                    "10.0.0.5:443": f"127.0.0.1:{server.port}",
                    "send-proxy-v2": sends,
                },
            )
            client = self.connect(port, tls=False)
            scope = self.told(client, *LIES)
            self.assertEqual(scope["client"], list(client.socket.getsockname()))
            self.assertEqual(scope["server"], ["127.0.0.1", port])
            self.assertEqual((scope["scheme"], scope["host"]), ("http", "test"))
            self.assertEqual(scope["proxy_protocol"]["version"], version)

    def test_over_a_unix_socket(self) -> None:
        path = self.directory / "app.sock"
        self.serve({"TRUSTED": ["unix"], "PROTOCOL": True}, BIND=[f"unix:{path}"])
        port = self.haproxy(
            "haproxy-tcp.cfg", "bind :443", {"10.0.0.5:443": f"unix@{path}"}
        )
        client = self.connect(port, tls=False)
        scope = self.told(client, *LIES)
        self.assertEqual(scope["client"], list(client.socket.getsockname()))
        self.assertEqual(scope["server"], ["127.0.0.1", port])

    def test_health_checks(self) -> None:
        """They are HAProxy's own, and say so by LOCAL."""
        checks: queue.Queue[Scope] = queue.Queue()

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if (b"host", b"check") in scope["headers"]:
                checks.put(scope)
            await tell(scope, receive, send)

        proxy = {"TRUSTED": HERE, "PROTOCOL": True}
        server = self.serve(proxy, application)
        port = self.haproxy(
            "haproxy-tcp.cfg",
            "bind :443",
            {
                "10.0.0.5:443 send-proxy-v2": f"127.0.0.1:{server.port} send-proxy-v2 "
                "check inter 300ms fall 1\n    option httpchk GET /\n"
                "    http-check send hdr Host check\n"
                # Without it a check has no more time than there is between two.
                f"    timeout check {PATIENCE:.0f}s",
            },
        )
        for _ in range(3):
            scope = checks.get(timeout=PATIENCE)
            self.assertEqual(scope["client"][0], "127.0.0.1")
            self.assertNotIn("proxy_protocol", scope["extensions"])
        # Had one been refused, there would be no server behind HAProxy now.
        client = self.connect(port, tls=False)
        self.assertEqual(self.told(client)["client"], list(client.socket.getsockname()))


# Its tests are those of the classes that it has made.
del HAProxyTestCase
