"""TLS over real sockets, spoken with the clients that people have."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import logging
import os
import re
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from cryptography import x509
from cryptography.x509.oid import NameOID
from websockets.sync.client import connect

from django_daphne.application.redirect import Redirect
from django_daphne.binds import quote
from django_daphne.config import Hooks
from django_daphne.errors import BindError
from django_daphne.server import certificates, connection, process, tls_listener
from django_daphne.server.connection import Connection
from django_daphne.server.tls_listener import Arrival, TLSListener

from . import test_http
from .asgi_apps import Receive, Scope, Send, body, respond, start
from .certificates import LOCAL, Files, Issued, authority
from .services import require
from .serving import PATIENCE, Answer, Client, Process, Serving, serving
from .test_asgi import Happening

HOST = "127.0.0.1"
PROTOCOL_LOG = "django_daphne.protocol"
SERVER_LOG = "django_daphne.server"

EXPIRED = "certificate has expired"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
GET_AND_CLOSE = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


async def describe(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the scheme and the ``tls`` extension."""
    extension = scope["extensions"].get("tls")
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send(
            {"type": "websocket.send", "text": json.dumps([scope["scheme"], extension])}
        )
        await receive()
        return
    await respond(send, json.dumps([scope["scheme"], extension]).encode())


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what nobody announces."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("it never happened")
        time.sleep(0.01)


class Listening:
    """The listeners with TLS that were started while inside."""

    def __init__(self, test: unittest.TestCase) -> None:
        self.listeners: list[TLSListener] = []
        serve = TLSListener.serve

        async def noted(listener: TLSListener, *args: Any) -> None:
            self.listeners.append(listener)
            await serve(listener, *args)

        test.enterContext(mock.patch.object(TLSListener, "serve", noted))

    @property
    def arrivals(self) -> int:
        return sum(len(listener.arrivals) for listener in self.listeners)


class TLSTestCase(unittest.TestCase):
    """Certificates for everybody, made once."""

    loop_factory: Callable[[], asyncio.AbstractEventLoop] = staticmethod(
        process.new_event_loop
    )
    files: ClassVar[Files]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.files = Files(Path(folder))
        cls.root = authority()
        cls.middle = cls.root.issue("middle", ca=True)
        cls.leaf = cls.middle.issue("localhost", LOCAL)
        cls.root_file = cls.files.write("root.pem", cls.root.pem)
        cls.clients = authority("clients")
        cls.clients_file = cls.files.write("clients.pem", cls.clients.pem)

    def setUp(self) -> None:
        self.tls = self.files.tls(self.id(), self.leaf, self.middle)

    def serve(
        self,
        application: Any = describe,
        tls: dict[str, Any] | None = None,
        **options: Any,
    ) -> contextlib.AbstractContextManager[Serving]:
        """Serve with TLS, ``tls`` besides the certificate."""
        settings = options.pop("settings", {})
        settings = {"LIFESPAN": "off", "TLS": {**self.tls, **(tls or {})}, **settings}
        return serving(application, settings, loop_factory=self.loop_factory, **options)

    def context(self, **options: Any) -> ssl.SSLContext:
        """A client that trusts our root and nobody else."""
        context = ssl.create_default_context(cadata=self.root.pem)
        for name, value in options.items():
            setattr(context, name, value)
        return context

    def connect(
        self, server: Serving, context: ssl.SSLContext | None = None, **options: Any
    ) -> Client:
        return server.connect(tls=context or self.context(), **options)

    def ask(
        self, server: Serving, context: ssl.SSLContext | None = None, **options: Any
    ) -> tuple[str, dict[str, Any]]:
        """Scheme and extension, as an application on the server has them."""
        with self.connect(server, context, **options) as client:
            scheme, extension = json.loads(client.get().body)
            return scheme, extension

    def shown(self, server: Serving, name: str = "localhost") -> bytes:
        """The certificate that the server shows to a client that asks for ``name``."""
        context = self.context(check_hostname=False, verify_mode=ssl.CERT_NONE)
        with self.connect(server, context, server_hostname=name) as client:
            certificate = client.socket.getpeercert(True)
        return certificate

    def raw(self, server: Serving, data: bytes = b"") -> socket.socket:
        client = socket.create_connection((server.host, server.port), PATIENCE)
        self.addCleanup(client.close)
        client.sendall(data)
        return client

    def assert_ended(self, client: socket.socket) -> None:
        with contextlib.suppress(ConnectionResetError):
            while client.recv(65536):
                pass


def der(issued: Issued) -> bytes:
    return ssl.PEM_cert_to_DER_cert(issued.pem)


def s_client(server: Serving, *arguments: str) -> tuple[int, str]:
    """What OpenSSL's client says of the server."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"{HOST}:{server.port}", *arguments],
        input=b"",
        capture_output=True,
        timeout=PATIENCE,
    )
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def curl(*arguments: str, data: bytes | None = None) -> tuple[int, str]:
    """Exit code and output; ``data`` is what it uploads."""
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "20", *arguments],
        input=data,
        capture_output=True,
        timeout=PATIENCE,
    )
    return done.returncode, (done.stdout + done.stderr).decode()


# -- Handshakes ------------------------------------------------------------------------


class HandshakeTests(TLSTestCase):
    def test_the_extension(self) -> None:
        with self.serve() as server:
            self.assertTrue(server.url.startswith("https://127.0.0.1:"), server.url)
            scheme, extension = self.ask(server)
            self.assertEqual(scheme, "https")
            self.assertEqual(
                extension,
                {
                    "server_cert": self.leaf.pem,
                    "client_cert_chain": [],
                    "client_cert_name": None,
                    "client_cert_error": None,
                    "tls_version": 0x0304,
                    "cipher_suite": 0x1302,
                },
            )
            old = self.context(maximum_version=ssl.TLSVersion.TLSv1_2)
            old.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
            _, extension = self.ask(server, old)
            self.assertEqual(extension["tls_version"], 0x0303)
            # TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256.
            self.assertEqual(extension["cipher_suite"], 0xC02B)

    def test_the_extension_is_each_requests_own(self) -> None:
        async def spoil(scope: Scope, receive: Receive, send: Send) -> None:
            extension = scope["extensions"]["tls"]
            await respond(send, str(extension.pop("tls_version")).encode())

        with self.serve(spoil) as server, self.connect(server) as client:
            for _ in range(2):
                self.assertEqual(client.get().body, b"772")

    def test_a_websocket(self) -> None:
        with (
            self.serve() as server,
            connect(server.ws_url, ssl=self.context(), open_timeout=PATIENCE) as client,
        ):
            self.assertTrue(server.ws_url.startswith("wss://"))
            scheme, extension = json.loads(client.recv(PATIENCE))
        self.assertEqual(scheme, "wss")
        self.assertEqual(extension["server_cert"], self.leaf.pem)
        self.assertEqual(extension["tls_version"], 0x0304)

    def test_a_plain_bind_has_no_extension(self) -> None:
        with serving(describe, {"LIFESPAN": "off"}) as server:
            with server.connect() as client:
                self.assertEqual(json.loads(client.get().body), ["http", None])

    @require("openssl")
    def test_versions(self) -> None:
        with self.serve() as server:
            for flag, version in (("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")):
                code, said = s_client(server, flag)
                self.assertEqual(code, 0, said)
                self.assertIn(f"New, {version}, Cipher is", said)
            for old in ("-tls1", "-tls1_1"):
                code, said = s_client(server, old, "-cipher", "ALL:@SECLEVEL=0")
                self.assertEqual(code, 1, said)
        with self.serve(tls={"MINIMUM_VERSION": "TLSv1.3"}) as server:
            self.assertEqual(s_client(server, "-tls1_3")[0], 0)
            self.assertEqual(s_client(server, "-tls1_2")[0], 1)

    @require("openssl")
    def test_ciphers(self) -> None:
        chosen, other = "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-GCM-SHA256"
        with self.serve(tls={"CIPHERS": chosen}) as server:
            code, said = s_client(server, "-tls1_2")
            self.assertEqual(code, 0, said)
            self.assertIn(f"Cipher is {chosen}", said)
            self.assertEqual(s_client(server, "-tls1_2", "-cipher", other)[0], 1)
            self.assertEqual(s_client(server, "-tls1_3")[0], 0)

    @require("openssl")
    def test_what_is_spoken_afterwards(self) -> None:
        with self.serve() as server:
            _, said = s_client(server, "-alpn", "spdy/3,http/1.1,http/1.0")
            self.assertIn("ALPN protocol: http/1.1", said)
            code, said = s_client(server)
            self.assertEqual(code, 0, said)
            self.assertIn("No ALPN negotiated", said)

    @require("openssl")
    def test_no_second_handshake_on_a_connection(self) -> None:
        with self.serve() as server:
            _, said = s_client(server, "-tls1_2")
            self.assertIn("Verification", said)
            done = subprocess.run(
                [
                    *("openssl", "s_client", "-tls1_2"),
                    *("-connect", f"{HOST}:{server.port}"),
                ],
                input=b"R\n",
                capture_output=True,
                timeout=PATIENCE,
            )
            self.assertIn(b"no renegotiation", (done.stdout + done.stderr).lower())

    def test_one_file_for_all(self) -> None:
        file = self.files.write(
            "both.pem", self.leaf.key_pem(), self.leaf.pem, self.middle.pem
        )
        with self.serve(tls={"CERTIFICATE": file, "PRIVATE_KEY": None}) as server:
            self.assertEqual(self.ask(server)[0], "https")

    def test_a_key_with_a_password(self) -> None:
        key = self.files.write("locked.key", self.leaf.key_pem("open sesame"))
        with self.serve(tls={"PRIVATE_KEY": key, "PASSWORD": "open sesame"}) as server:
            self.assertEqual(self.ask(server)[0], "https")

    def test_paths_are_those_of_the_start(self) -> None:
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.files.directory)
        names = {key: os.path.basename(path) for key, path in self.tls.items()}
        poll = mock.patch.object(certificates, "POLL", 0.02)
        with poll, self.serve(tls=names) as server:
            os.chdir("/")
            renewed = self.middle.issue("localhost", LOCAL)
            self.files.tls(self.id(), renewed, self.middle)
            eventually(lambda: self.shown(server) == der(renewed))


class HandshakeTestsOnAsyncio(HandshakeTests):
    loop_factory = staticmethod(asyncio.new_event_loop)


# -- Names -----------------------------------------------------------------------------


class NameTests(TLSTestCase):
    def test_certificates_by_name(self) -> None:
        one = self.root.issue("one.example")
        wild = self.root.issue("*.two.example")
        exact = self.root.issue("exact.two.example")
        sni = {
            "One.Example": self.files.tls("one", one),
            "*.two.example": self.files.tls("wild", wild),
            "exact.two.example": self.files.tls("exact", exact),
        }
        with self.serve(tls={"SNI": sni}) as server:
            for name, expected in {
                "one.example": one,
                "ONE.example": one,
                "any.two.example": wild,
                "exact.two.example": exact,
                "a.b.two.example": self.leaf,
                "two.example": self.leaf,
                "other.example": self.leaf,
                "localhost": self.leaf,
            }.items():
                self.assertEqual(self.shown(server, name), der(expected), name)
            # An address is no name, and is not asked for.
            self.assertEqual(self.shown(server, "127.0.0.1"), der(self.leaf))
            _, extension = self.ask(server, server_hostname="any.two.example")
            self.assertEqual(extension["server_cert"], wild.pem)

    @require("openssl")
    def test_what_was_agreed_holds_for_every_name(self) -> None:
        sni = {"one.example": self.files.tls("one", self.root.issue("one.example"))}
        more = {
            "SNI": sni,
            "MINIMUM_VERSION": "TLSv1.3",
            "CLIENT_CA": self.clients_file,
            "CLIENT_CERTIFICATE": "required",
        }
        with self.serve(tls=more) as server:
            name = ("-servername", "one.example")
            self.assertEqual(s_client(server, *name, "-tls1_2")[0], 1)
            _, said = s_client(server, *name, "-alpn", "h3,http/1.1")
            self.assertIn("subject=CN = one.example", said)
            self.assertIn("ALPN protocol: http/1.1", said)
            with self.assertRaises((OSError, EOFError)):
                self.ask(server, server_hostname="one.example")
            context = self.context()
            alice = self.clients.issue("alice")
            context.load_cert_chain(
                self.files.write("alice.pem", alice.pem, alice.key_pem())
            )
            _, extension = self.ask(server, context, server_hostname="one.example")
            self.assertEqual(extension["client_cert_name"], "CN=alice")


# -- Client certificates ---------------------------------------------------------------


class ClientCertificateTests(TLSTestCase):
    def bearing(self, issued: Issued, *chain: Issued) -> ssl.SSLContext:
        context = self.context()
        pem = [issued.pem, *(one.pem for one in chain), issued.key_pem()]
        context.load_cert_chain(self.files.write("bearer.pem", *pem))
        return context

    def verifying(self, how: str) -> contextlib.AbstractContextManager[Serving]:
        return self.serve(
            tls={"CLIENT_CA": self.clients_file, "CLIENT_CERTIFICATE": how}
        )

    def assert_refused(self, server: Serving, context: ssl.SSLContext) -> str:
        """The reason in the log, in one line."""
        with self.assertLogs(PROTOCOL_LOG, logging.INFO) as logs:
            # TLS 1.3 lets a client believe for a moment that it is in.
            with self.assertRaises((OSError, EOFError)):
                self.ask(server, context)
            eventually(lambda: bool(logs.output))
        [line] = logs.output
        self.assertRegex(line, r"INFO:.*:127\.0\.0\.1:\d+: TLS handshake failed: ")
        return line.partition("failed: ")[2]

    def test_none_is_asked_for(self) -> None:
        with self.serve() as server:
            _, extension = self.ask(server, self.bearing(self.clients.issue("alice")))
            self.assertEqual(extension["client_cert_chain"], [])
            self.assertIsNone(extension["client_cert_name"])

    def test_optional(self) -> None:
        alice = self.clients.issue("alice")
        with self.verifying("optional") as server:
            _, extension = self.ask(server)
            self.assertEqual(extension["client_cert_chain"], [])
            self.assertIsNone(extension["client_cert_name"])
            self.assertIsNone(extension["client_cert_error"])
            _, extension = self.ask(server, self.bearing(alice))
            self.assertEqual(extension["client_cert_chain"][0], alice.pem)
            self.assertEqual(extension["client_cert_name"], "CN=alice")
            self.assertIsNone(extension["client_cert_error"])
            stranger = self.bearing(self.root.issue("alice"))
            self.assertIn("is refused", self.assert_refused(server, stranger))

    def test_required(self) -> None:
        with self.verifying("required") as server:
            self.assertIn(
                "did not return a certificate",
                self.assert_refused(server, self.context()),
            )
            late = self.clients.issue("late", begins=-3, expires=-2)
            self.assertIn(EXPIRED, self.assert_refused(server, self.bearing(late)))
            _, extension = self.ask(server, self.bearing(self.clients.issue("bob")))
            self.assertEqual(extension["client_cert_name"], "CN=bob")

    def test_the_verified_chain(self) -> None:
        middle = self.clients.issue("their middle", ca=True)
        alice = middle.issue("alice")
        chain = [alice.pem]
        if hasattr(ssl.SSLObject, "get_verified_chain"):
            chain += [middle.pem, self.clients.pem]
        with self.verifying("required") as server:
            _, extension = self.ask(server, self.bearing(alice, middle))
            self.assertEqual(extension["client_cert_chain"], chain)

    def test_names_are_written_by_rfc_4514(self) -> None:
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.COUNTRY_NAME, "GB"),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, 'Sue, Grabbit & "Runn"'),
                x509.NameAttribute(NameOID.COMMON_NAME, "L. Eagle"),
            ]
        )
        eagle = self.clients.issue("x", subject=subject)
        with self.verifying("required") as server:
            _, extension = self.ask(server, self.bearing(eagle))
            self.assertEqual(
                extension["client_cert_name"],
                r"CN=L. Eagle,O=Sue\, Grabbit & \"Runn\",C=GB",
            )

    def test_a_resumed_session(self) -> None:
        alice = self.clients.issue("alice")
        with self.verifying("required") as server:
            context = self.bearing(alice)
            with self.connect(server, context) as client:
                client.get()
                session = client.socket.session
            sock = socket.create_connection((server.host, server.port), PATIENCE)
            with context.wrap_socket(
                sock, server_hostname="localhost", session=session
            ) as resumed:
                self.assertTrue(resumed.session_reused)
                resumed.sendall(GET_AND_CLOSE)
                answer = b""
                while data := resumed.recv(65536):
                    answer += data
            _, extension = json.loads(answer.partition(b"\r\n\r\n")[2])
            self.assertEqual(extension["client_cert_chain"][0], alice.pem)
            self.assertEqual(extension["client_cert_name"], "CN=alice")

    @require("curl")
    def test_curl(self) -> None:
        alice = self.clients.issue("alice")
        file = self.files.write("curl.pem", alice.pem, alice.key_pem())
        with self.verifying("required") as server:
            url = f"https://localhost:{server.port}/"
            code, said = curl("--cacert", self.root_file, "--cert", file, url)
            self.assertEqual(code, 0, said)
            self.assertEqual(json.loads(said)[1]["client_cert_name"], "CN=alice")
            self.assertNotEqual(curl("--cacert", self.root_file, url)[0], 0)


class ClientCertificateTestsOnAsyncio(ClientCertificateTests):
    loop_factory = staticmethod(asyncio.new_event_loop)


# -- Clients that do something else ----------------------------------------------------


class ArrivalTests(TLSTestCase):
    """Whatever comes in the place of a handshake."""

    def timed(self, seconds: float) -> contextlib.AbstractContextManager[Serving]:
        return self.serve(settings={"TIMEOUTS": {"HANDSHAKE": seconds}})

    def assert_logs_one(self, expected: str) -> Any:
        return self.assertLogsOne(PROTOCOL_LOG, expected)

    @contextlib.contextmanager
    def assertLogsOne(self, logger: str, expected: str) -> Iterator[None]:
        """One INFO line, without a traceback, and nothing on the server's logger."""
        with (
            self.assertLogs(logger, logging.INFO) as logs,
            self.assertNoLogs(SERVER_LOG, logging.WARNING),
            self.assertNoLogs("asyncio", logging.WARNING),
        ):
            yield
            eventually(lambda: bool(logs.records))
        [record] = logs.records
        self.assertEqual(record.levelno, logging.INFO)
        self.assertIsNone(record.exc_info)
        self.assertRegex(record.getMessage(), rf"^127\.0\.0\.1:\d+: {expected}$")

    PLAIN = r"plain HTTP on a TLS port \(400\)"

    @require("curl")
    def test_plain_http(self) -> None:
        with self.serve() as server:
            url = f"http://localhost:{server.port}/"
            with self.assert_logs_one(self.PLAIN):
                code, said = curl("--include", url)
            self.assertEqual(code, 0, said)
            head, _, answer = said.partition("\r\n\r\n")
            self.assertTrue(head.startswith("HTTP/1.1 400 Bad Request\r\n"), head)
            self.assertIn("Connection: close", head)
            self.assertIn("this port speaks HTTPS", answer)
            with self.assert_logs_one(self.PLAIN):
                code, said = curl("--head", url)
            self.assertEqual(code, 0, said)
            self.assertTrue(said.endswith("\r\n\r\n"), said)

    @require("curl")
    def test_the_answer_outlives_an_upload(self) -> None:
        with self.serve() as server:
            url = f"http://localhost:{server.port}/"
            for data in (b"x", bytes(300_000)):
                code, said = curl(
                    "-H", "Expect:", "--data-binary", "@-", url, data=data
                )
                self.assertEqual(code, 0, said)
                self.assertIn("this port speaks HTTPS", said)

    def test_anything_that_may_be_a_request(self) -> None:
        with self.serve() as server:
            for first in (b"G", b"\r\nGET", b"PRI * HTTP/2.0\r\n\r\n", b"m-search *"):
                with self.assert_logs_one(self.PLAIN):
                    client = self.raw(server, first)
                    answer = b""
                    while data := client.recv(65536):
                        answer += data
                self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), answer)

    def test_a_plain_client_that_stays(self) -> None:
        watched = Listening(self)
        with mock.patch.object(tls_listener, "LINGER", 0.1), self.serve() as server:
            client = self.raw(server, GET)
            self.assertTrue(client.recv(65536).startswith(b"HTTP/1.1 400 "))
            # It hears no more from us, and is not waited for.
            self.assertEqual(client.recv(65536), b"")
            eventually(lambda: not watched.arrivals)

    def test_garbage(self) -> None:
        with self.serve() as server:
            for garbage in (
                b"\x16\x03\x01\x00\x05hello",
                b"\x16\x03\x01garbage",
                b"\x80\x2e\x01\x03\x01",
                bytes(100),
                b"\xff" * 20000,
            ):
                with self.subTest(garbage[:20]):
                    with self.assert_logs_one("TLS handshake failed: .+"):
                        client = self.raw(server, garbage)
                        client.shutdown(socket.SHUT_WR)
                        self.assert_ended(client)
            self.assertEqual(self.ask(server)[0], "https")

    def test_a_client_that_leaves_in_the_middle(self) -> None:
        closed = "TLS handshake failed: the client closed the connection"
        watched = Listening(self)
        with self.serve() as server:
            [listener] = watched.listeners
            with self.assert_logs_one(closed):
                self.raw(server, b"\x16\x03\x01").close()
            with self.assert_logs_one(closed):
                client = self.raw(server, b"\x16\x03\x01")
                client.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                eventually(lambda: any(one._handed_over for one in listener.arrivals))
                client.close()

    def test_a_client_that_does_not_trust_us(self) -> None:
        with self.serve() as server:
            with self.assert_logs_one("TLS handshake failed: .*unknown ca"):
                with self.assertRaises(ssl.SSLCertVerificationError):
                    self.connect(server, ssl.create_default_context())

    def test_whoever_only_looks_is_not_mentioned(self) -> None:
        watched = Listening(self)
        with self.assertNoLogs(PROTOCOL_LOG, logging.INFO), self.serve() as server:
            for _ in range(5):
                self.raw(server).close()
            # Connections are accepted in order.
            self.assertEqual(self.ask(server)[0], "https")
            eventually(lambda: not watched.arrivals)

    def test_silence(self) -> None:
        with self.timed(0.2) as server:
            with self.assert_logs_one(r"no TLS handshake within 0\.2 s"):
                self.assert_ended(self.raw(server))

    def test_an_unfinished_handshake(self) -> None:
        with self.timed(0.3) as server:
            for part in (b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
                with self.assert_logs_one(
                    r"TLS handshake failed: it took more than 0\.3 s"
                ):
                    self.assert_ended(self.raw(server, part))

    def test_dripping_gains_no_time(self) -> None:
        outgoing = ssl.MemoryBIO()
        tls = self.context().wrap_bio(ssl.MemoryBIO(), outgoing, False, "localhost")
        with self.assertRaises(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = outgoing.read()
        with self.timed(1) as server:
            client = self.raw(server)
            began = time.monotonic()
            with contextlib.suppress(OSError):
                for byte in hello:
                    client.send(bytes([byte]))
                    time.sleep(0.05)
            # All of it would take much longer.
            self.assertLess(time.monotonic() - began, len(hello) * 0.05 / 2)

    def test_no_limit(self) -> None:
        with self.serve(settings={"TIMEOUTS": {"HANDSHAKE": None}}) as server:
            client = self.raw(server)
            self.assertEqual(self.ask(server)[0], "https")
            with self.context().wrap_socket(client, server_hostname="localhost") as tls:
                tls.sendall(GET)
                self.assertIn(b"200", tls.recv(65536))

    def test_a_thousand_handshakes_leave_nothing_behind(self) -> None:
        watched = Listening(self)
        context = self.context()

        def visit(number: int) -> None:
            kind = number % 5
            if kind == 0:
                self.raw(server, b"\x16\x03\x01garbage").close()
            elif kind == 1:
                self.raw(server).close()
            elif kind == 2:
                self.raw(server, b"GET").close()
            else:
                self.ask(server, context)

        def left() -> tuple[int, ...]:
            gc.collect()
            kinds = [type(thing) for thing in gc.get_objects()]
            return (
                len(os.listdir("/proc/self/fd")),
                watched.arrivals,
                *map(kinds.count, (Arrival, Connection, asyncio.Task, ssl.SSLObject)),
            )

        logging.getLogger(PROTOCOL_LOG).setLevel(logging.ERROR)
        self.addCleanup(logging.getLogger(PROTOCOL_LOG).setLevel, logging.NOTSET)
        with self.serve() as server:
            for number in range(20):
                visit(number)
            self.doCleanups()
            eventually(lambda: left()[1:4] == (0, 0, 0))
            before = left()
            for number in range(1000):
                visit(number)
            eventually(lambda: left() <= before)


class ArrivalTestsOnAsyncio(ArrivalTests):
    loop_factory = staticmethod(asyncio.new_event_loop)
