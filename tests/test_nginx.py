"""Behind a real nginx that is configured as the documentation says."""

from __future__ import annotations

import json
from typing import Any

from .fronts import CLIENT, SecureFrontTestCase
from .secure_websocket import SecureWebSocket
from .services import require

#: What a client may say to pass for another, on another scheme and host.
LIES = (
    "X-Forwarded-For: 192.0.2.66",
    "X-Forwarded-Proto: ftp",
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Port: 1",
    "X_Forwarded_For: 192.0.2.67",
    "Forwarded: for=192.0.2.68;proto=ftp;host=evil.example",
)


@require("nginx")
class NginxTests(SecureFrontTestCase):
    """Over TCP."""

    def back(self) -> str:
        """The address of our server, as nginx wants it."""
        self.server = self.serve({"TRUSTED": ["127.0.0.1"]})
        return f"server 127.0.0.1:{self.server.port}"

    def setUp(self) -> None:
        super().setUp()
        self.port = self.nginx(
            "nginx.conf",
            "listen 443",
            {
                "server unix:/run/mysite.sock": self.back(),
                "/etc/ssl/example.org.pem": self.certificate,
                "/etc/ssl/example.org.key": self.key,
            },
        )

    def assert_true(self, scope: dict[str, Any]) -> None:
        """``scope`` tells the truth about the client."""
        self.assertEqual(scope["client"], [CLIENT, 0])
        sent = [value for name, value in scope["headers"] if name == "x-forwarded-for"]
        self.assertEqual(sent, [CLIENT])
        self.assertIn(scope["scheme"], ("https", "wss"))
        self.assertEqual(scope["server"][1], self.port)

    def test_a_request(self) -> None:
        client = self.connect(self.port)
        for lies in ((), LIES):
            scope = self.told(client, *lies)
            self.assert_true(scope)
            self.assertEqual(scope["host"], "test")
            self.assertEqual(scope["http_version"], "1.1")

    @require("curl")
    def test_http2_to_the_client(self) -> None:
        said = self.curl(
            self.port, "/", "--http2", "--write-out", "\n%{http_version}",
            *(part for lie in LIES for part in ("--header", lie)),
        )  # fmt: skip
        scope, _, version = said.rpartition("\n")
        self.assertEqual(version, "2")
        self.assert_true(json.loads(scope))
        self.assertEqual(json.loads(scope)["host"], "localhost")

    def test_websocket(self) -> None:
        url = f"wss://localhost:{self.port}/"
        with SecureWebSocket(url, self.context(), local_addr=(CLIENT, 0)) as client:
            scope = json.loads(client.recv())
            self.assert_true(scope)
            self.assertEqual((scope["type"], scope["scheme"]), ("websocket", "wss"))
            for message in ("hello", b"\0" * 70_000):
                client.send(message)
                self.assertEqual(client.recv(), message)

    def test_an_event_stream_is_not_buffered(self) -> None:
        scope = self.first_event(self.connect(self.port))
        self.assert_true(scope)

    def test_uploads(self) -> None:
        size = 5_000_000
        client = self.connect(self.port)
        client.request("/", "POST", body=bytes(size))
        answer = json.loads(client.read().body)
        self.assertEqual((answer["method"], answer["bytes"]), ("POST", size))
        self.assert_true(answer)
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        client.request("/", "POST", "Transfer-Encoding: chunked")
        client.send(chunk * 20 + b"0\r\n\r\n")
        self.assertEqual(json.loads(client.read().body)["bytes"], 20 * 0x10000)

    def test_an_upload_arrives_as_it_is_sent(self) -> None:
        """nginx asks us before it has the body, and keeps none of it."""
        client = self.connect(self.port)
        client.request("/events", "POST", "Content-Length: 1000000")
        client.send(b"x")
        self.assertEqual(client.read_head().status, 200)
        client.read_until(b"data: ")

    def test_many_on_one_connection(self) -> None:
        """nginx keeps its connections to us, and gives them to any client."""
        for number in range(20):
            scope = self.told(self.connect(self.port), f"X-Number: {number}")
            self.assertIn(["x-number", str(number)], scope["headers"])
            self.assert_true(scope)


class NginxOverUnixSocketTests(NginxTests):
    def back(self) -> str:
        path = self.directory / "app.sock"
        self.serve({"TRUSTED": ["unix"]}, BIND=[f"unix:{path}"])
        return f"server unix:{path}"


@require("nginx")
class NginxForwardedTests(SecureFrontTestCase):
    def test_rfc_7239(self) -> None:
        server = self.serve({"TRUSTED": ["127.0.0.1"], "HEADERS": "forwarded"})
        port = self.nginx(
            "nginx-forwarded.conf",
            "listen 80",
            {"http://127.0.0.1:8000": f"http://127.0.0.1:{server.port}"},
        )
        client = self.connect(port, tls=False)
        for lies in ((), LIES):
            scope = self.told(client, *lies)
            sent = [value for name, value in scope["headers"] if name == "forwarded"]
            self.assertEqual(sent, [f"for={CLIENT};proto=http"])
            self.assertEqual(scope["client"], [CLIENT, 0])
            self.assertEqual((scope["scheme"], scope["host"]), ("http", "test"))

    def test_an_address_of_ipv6(self) -> None:
        server = self.serve({"TRUSTED": ["127.0.0.1"], "HEADERS": "forwarded"})
        port = self.nginx(
            "nginx-forwarded.conf",
            "listen 80",
            {
                "http://127.0.0.1:8000": f"http://127.0.0.1:{server.port}",
                # As if the client had this address.
                "map $remote_addr $": "map 2001:db8::7 $",
                "$remote_addr]": "2001:db8::7]",
            },
        )
        scope = self.told(self.connect(port, tls=False), *LIES)
        sent = [value for name, value in scope["headers"] if name == "forwarded"]
        self.assertEqual(sent, ['for="[2001:db8::7]";proto=http'])
        self.assertEqual(scope["client"], ["2001:db8::7", 0])
