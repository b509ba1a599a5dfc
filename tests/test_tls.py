"""TLS over real sockets, spoken with the clients that people have."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import io
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
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

from cryptography import x509
from cryptography.x509.oid import NameOID
from django.test import tag

from django_daphne.application.context import server_log
from django_daphne.application.redirect import Redirect
from django_daphne.binds import quote
from django_daphne.config import Hooks
from django_daphne.errors import BindError, Fault, TLSError
from django_daphne.server import (
    certificates,
    connection,
    process,
    tls_extension,
    tls_listener,
)
from django_daphne.server.certificates import CertificateStore
from django_daphne.server.connection import Connection
from django_daphne.server.tls import ServerContext, leaf_of
from django_daphne.server.tls_listener import Arrival, TLSListener

from . import test_http
from .asgi_apps import Receive, Scope, Send, body, respond, start
from .certificates import LOCAL, Files, Issued, authority
from .secure_websocket import SecureWebSocket
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


def s_client(server: Serving, *arguments: str, data: bytes = b"") -> tuple[int, str]:
    """What OpenSSL's client says of the server, to which it sends ``data``.

    It leaves after that, and may miss what comes after the handshake, unless
    ``-ign_eof`` has it wait for the server to close.
    """
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"{HOST}:{server.port}", *arguments],
        input=data,
        capture_output=True,
        timeout=PATIENCE,
    )
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def curl(*arguments: str, data: bytes | None = None) -> tuple[int, str]:
    """Exit code and output; ``data`` is what it uploads."""
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", str(PATIENCE), *arguments],
        input=data,
        capture_output=True,
        timeout=2 * PATIENCE,
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
            SecureWebSocket(server.ws_url, self.context()) as client,
        ):
            self.assertTrue(server.ws_url.startswith("wss://"))
            scheme, extension = json.loads(client.recv())
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
                self.assertIn("alert protocol version", said)
        with self.serve(tls={"MINIMUM_VERSION": "TLSv1.3"}) as server:
            self.assertEqual(s_client(server, "-tls1_3")[0], 0)
            code, said = s_client(server, "-tls1_2")
            self.assertEqual(code, 1)
            self.assertIn("alert protocol version", said)

    @require("openssl")
    def test_ciphers(self) -> None:
        chosen, other = "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-GCM-SHA256"
        with self.serve(tls={"CIPHERS": chosen}) as server:
            code, said = s_client(server, "-tls1_2")
            self.assertEqual(code, 0, said)
            self.assertIn(f"Cipher is {chosen}", said)
            code, said = s_client(server, "-tls1_2", "-cipher", other)
            self.assertEqual(code, 1)
            self.assertIn("alert handshake failure", said)
            self.assertEqual(s_client(server, "-tls1_3")[0], 0)

    @require("openssl")
    def test_what_is_spoken_afterwards(self) -> None:
        with self.serve() as server:
            for version in ("-tls1_2", "-tls1_3"):
                _, said = s_client(server, version, "-alpn", "http/1.1,h2")
                self.assertIn("ALPN protocol: h2", said)
            _, said = s_client(server, "-alpn", "spdy/3,http/1.1,http/1.0")
            self.assertIn("ALPN protocol: http/1.1", said)
            code, said = s_client(server)
            self.assertEqual(code, 0, said)
            self.assertIn("No ALPN negotiated", said)
        with self.serve(settings={"HTTP2": False}) as server:
            _, said = s_client(server, "-alpn", "h2,http/1.1")
            self.assertIn("ALPN protocol: http/1.1", said)

    @require("openssl")
    def test_no_early_data(self) -> None:
        """What is sent before the handshake could be sent again by anybody."""
        with self.serve() as server:
            session = str(self.files.directory / "early.session")
            # The session comes after the handshake.
            code, said = s_client(
                server, "-tls1_3", "-ign_eof", "-sess_out", session, data=GET_AND_CLOSE
            )
            self.assertEqual(code, 0, said)
            request = self.files.write("early.request", GET_AND_CLOSE.decode())
            code, said = s_client(server, "-sess_in", session, "-early_data", request)
            self.assertIn("Reused, TLSv1.3", said)
            self.assertIn("Early data was not sent", said)

    @require("openssl")
    def test_no_second_handshake_on_a_connection(self) -> None:
        with self.serve() as server:
            command = ["openssl", "s_client", "-tls1_2"]
            client = subprocess.Popen(
                [*command, "-connect", f"{HOST}:{server.port}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            with client:
                assert client.stdin is not None and client.stdout is not None
                limit = threading.Timer(PATIENCE, client.kill)
                limit.start()
                # Its input stays open: it must not leave before it has the answer.
                client.stdin.write(b"R\n")
                client.stdin.flush()
                said = client.stdout.read()
                limit.cancel()
            self.assertIn(b"no renegotiation", said.lower())

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
    def test_openssl(self) -> None:
        sni = {"one.example": self.files.tls("one", self.root.issue("one.example"))}
        with self.serve(tls={"SNI": sni}) as server:
            for name, subject in {
                ("-servername", "one.example"): "one.example",
                ("-servername", "other.example"): "localhost",
                ("-noservername",): "localhost",
            }.items():
                for version in ("-tls1_2", "-tls1_3"):
                    code, said = s_client(server, *name, version, "-alpn", "h2")
                    self.assertEqual(code, 0, said)
                    self.assertIn(f"subject=CN = {subject}", said)
                    self.assertIn("ALPN protocol: h2", said)

    def test_a_name_that_is_none(self) -> None:
        sni = {"one.example": self.files.tls("one", self.root.issue("one.example"))}
        outgoing = ssl.MemoryBIO()
        tls = self.context().wrap_bio(ssl.MemoryBIO(), outgoing, False, "xyz.example")
        with self.assertRaises(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = outgoing.read().replace(b"xyz.example", b"\xff\xfe\n.example")
        with (
            mock.patch("sys.stderr", io.StringIO()) as printed,
            self.assertLogs(PROTOCOL_LOG, logging.INFO) as logs,
            self.serve(tls={"SNI": sni}) as server,
        ):
            self.assert_ended(self.raw(server, hello))
            eventually(lambda: bool(logs.output))
        [line] = logs.output
        self.assertTrue(line.endswith(": the server name asked for is not ASCII"), line)
        self.assertEqual(printed.getvalue(), "")

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

    def test_damage_that_openssl_tolerates(self) -> None:
        """The application must not take it for a client without a certificate."""

        def unreadable(certificate: bytes) -> str:
            raise x509.InvalidVersion("5 is not a valid X509 version", 5)

        with (
            mock.patch.object(tls_extension, "_subject", unreadable),
            self.verifying("required") as server,
        ):
            _, extension = self.ask(server, self.bearing(self.clients.issue("alice")))
        self.assertIsNone(extension["client_cert_name"])
        self.assertEqual(
            extension["client_cert_error"],
            "the certificate cannot be read: 5 is not a valid X509 version",
        )

    @require("curl")
    def test_curl(self) -> None:
        alice = self.clients.issue("alice")
        stranger = self.root.issue("alice")
        file = self.files.write("curl.pem", alice.pem, alice.key_pem())
        other = self.files.write("other.pem", stranger.pem, stranger.key_pem())
        with self.verifying("required") as server:
            url = f"https://localhost:{server.port}/"
            for version in ("--http1.1", "--http2"):
                common = ("--cacert", self.root_file, version, url)
                code, said = curl("--cert", file, *common)
                self.assertEqual(code, 0, said)
                self.assertEqual(json.loads(said)[1]["client_cert_name"], "CN=alice")
                # By then the client has sent its request, which is not read and must
                # not reset the connection before it hears why.
                code, said = curl("--cert", other, *common)
                self.assertNotEqual(code, 0)
                self.assertIn("alert unknown ca", said)
                code, said = curl(*common)
                self.assertNotEqual(code, 0)
                self.assertIn("alert certificate required", said)

    @require("openssl")
    def test_openssl(self) -> None:
        alice = self.clients.issue("alice")
        late = self.clients.issue("late", begins=-3, expires=-2)
        known, expired = (
            self.files.write(f"{one}.pem", issued.pem, issued.key_pem())
            for one, issued in (("alice", alice), ("late", late))
        )
        for version, missing in (
            ("-tls1_2", "alert handshake failure"),
            ("-tls1_3", "alert certificate required"),
        ):
            with self.verifying("required") as server:
                code, said = s_client(server, version, "-cert", known)
                self.assertEqual(code, 0, said)
                self.assertIn("CERTIFICATE-----", said)
                for bearer, alert in (
                    (("-cert", expired), "alert certificate expired"),
                    ((), missing),
                ):
                    # A client that leaves at the end of its input would not hear it.
                    code, said = s_client(server, version, "-ign_eof", *bearer)
                    self.assertEqual(code, 1, said)
                    self.assertIn(alert, said)
            with self.verifying("optional") as server:
                self.assertEqual(s_client(server, version)[0], 0)


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
            self.assertRegex(
                head, r"\r\nDate: \w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT\r\n"
            )
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

    def test_the_client_is_told_why(self) -> None:
        """And can read it, whatever it has sent meanwhile (RFC 8446 section 6.2)."""
        # A fatal alert: unexpected_message, or decode_error.
        alert = re.compile(rb"\x15\x03[\x01-\x03]\x00\x02\x02[\x0a\x32]")
        watched = Listening(self)
        patient = mock.patch.object(tls_listener, "LINGER", PATIENCE)
        with patient, self.serve() as server:
            client = self.raw(server, b"\x16\x03\x01\x00\x05hello")
            said = client.recv(65536)
            self.assertRegex(said, alert)
            for _ in range(3):
                client.sendall(bytes(1000))
            self.assertEqual(client.recv(65536), b"")
            self.assertEqual(watched.arrivals, 1)
            client.close()
            eventually(lambda: not watched.arrivals)

    def test_a_refused_client_that_stays(self) -> None:
        watched = Listening(self)
        with mock.patch.object(tls_listener, "LINGER", 0.1), self.serve() as server:
            client = self.raw(server, b"\x16\x03\x01\x00\x05hello")
            self.assertTrue(client.recv(65536))
            self.assertEqual(client.recv(65536), b"")
            eventually(lambda: not watched.arrivals)

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
            with self.assert_logs_one("no TLS handshake within .*'HANDSHAKE'."):
                self.assert_ended(self.raw(server))

    def test_an_unfinished_handshake(self) -> None:
        with self.timed(2) as server:
            for part in (b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
                with self.assert_logs_one(
                    "TLS handshake failed: it took longer than .*'HANDSHAKE'."
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
            kind = number % 6
            if kind == 0:
                self.raw(server, b"\x16\x03\x01garbage").close()
            elif kind == 5:
                refused = self.raw(server, b"\x16\x03\x01\x00\x05hello")
                refused.recv(65536)
                refused.close()
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


# -- Accepting and stopping ------------------------------------------------------------


class AcceptingTests(TLSTestCase):
    def test_every_address(self) -> None:
        with self.serve(settings={"BIND": [":0"]}) as server:
            for host in ("127.0.0.1", "::1"):
                with Client(host, server.port, tls=self.context()) as client:
                    self.assertEqual(json.loads(client.get().body)[0], "https")

    def test_more_at_once_than_one_turn_takes(self) -> None:
        with mock.patch.object(tls_listener, "ACCEPT_BATCH", 2), self.serve() as server:
            clients = [self.raw(server) for _ in range(20)]
            for client in clients:
                context = self.context()
                with context.wrap_socket(client, server_hostname="localhost") as tls:
                    tls.sendall(GET)
                    self.assertIn(b"200 OK", tls.recv(65536))

    def test_a_socket_bound_elsewhere(self) -> None:
        with socket.create_server((HOST, 0)) as listening:
            self.assertTrue(listening.getblocking())
            with self.serve(sockets=[listening]) as server:
                self.assertTrue(server.url.startswith("https://"), server.url)
                for _ in range(2):
                    self.assertEqual(self.ask(server)[0], "https")

    def test_a_passed_socket(self) -> None:
        with socket.create_server((HOST, 0)) as listening:
            port = listening.getsockname()[1]
            bind = f"fd:{os.dup(listening.fileno())}:tls"
        with self.serve(settings={"BIND": [bind]}) as server:
            self.assertEqual(server.url, f"https://{HOST}:{port}")
            self.assertEqual(self.ask(server)[0], "https")

    def test_a_passed_unix_socket(self) -> None:
        path = str(self.files.directory / "tls.sock")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            bind = f"fd:{os.dup(listening.fileno())}:tls"
        with (
            self.serve(settings={"BIND": [bind]}) as server,
            socket.socket(socket.AF_UNIX) as client,
        ):
            self.assertEqual(server.url, f"unix:{path}")
            client.connect(path)
            with self.context().wrap_socket(client, server_hostname="localhost") as tls:
                tls.sendall(GET)
                self.assertIn(b"200 OK", tls.recv(65536))

    def test_a_bind_that_takes_no_tls(self) -> None:
        """It is plain, as it was written, and the log says that TLS does nothing."""
        with socket.create_server((HOST, 0)) as listening:
            passed = f"fd:{os.dup(listening.fileno())}"
        for bind in (f"tcp:0:interface={HOST}", passed):
            with (
                self.assertLogs(SERVER_LOG, logging.WARNING) as logs,
                self.serve(settings={"BIND": [bind]}) as server,
                server.connect() as client,
            ):
                self.assertTrue(server.url.startswith("http://"), server.url)
                self.assertEqual(json.loads(client.get().body), ["http", None])
            [line] = logs.output
            self.assertIn("TLS applies to no bind", line)

    def test_an_endpoint_string_gets_all_the_same(self) -> None:
        key, certificate = self.tls["PRIVATE_KEY"], self.tls["CERTIFICATE"]
        bind = (
            f"ssl:0:interface={HOST}:privateKey={quote(key)}:"
            f"certKey={quote(certificate)}"
        )
        poll = mock.patch.object(certificates, "POLL", 0.02)
        settings = {"BIND": [bind], "TLS": None}
        with poll, self.serve(settings=settings) as server:
            _, extension = self.ask(server)
            self.assertEqual(extension["server_cert"], self.leaf.pem)
            self.assertIn(b"400 Bad Request", self.raw(server, GET).recv(65536))
            renewed = self.middle.issue("localhost", LOCAL)
            self.files.tls(self.id(), renewed, self.middle)
            eventually(lambda: self.shown(server) == der(renewed))

    def test_out_of_descriptors(self) -> None:
        program = (
            "import logging, resource, sys; from tests import serving\n"
            "logging.basicConfig(stream=sys.stdout)\n"
            "limits = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (60, limits[1]))\n"
            "sys.exit(serving.main())\n"
        )
        settings = json.dumps({"BIND": [f"{HOST}:0"], "TLS": self.tls})
        command = ["-c", program, "tests.asgi_apps:hello", settings]
        with Process("", command=command) as server:
            crowd = [
                socket.create_connection((HOST, server.port), PATIENCE)
                for _ in range(100)
            ]
            complaint = r"no connection can be accepted \(Too many open files\)"
            server.expect(complaint)
            # Whoever waits in the backlog does not keep the loop busy.
            before = self.cpu_seconds(server.pid)
            server.expect(f"(?s){complaint}.*{complaint}")
            self.assertLess(self.cpu_seconds(server.pid) - before, 0.5)
            for client in crowd:
                client.close()
            with server.connect(tls=self.context()) as client:
                self.assertEqual(client.get().body, b"hello")
            server.terminate()
            self.assertEqual(server.wait(), 0)
            self.assertNotIn("Traceback", server.output)

    @staticmethod
    def cpu_seconds(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def test_a_loop_that_cannot_watch_sockets(self) -> None:
        """Windows' own; there the loop accepts, and everything else is the same."""
        one = self.root.issue("one.example")
        poll = mock.patch.object(certificates, "POLL", 0.02)
        blind = mock.patch.object(tls_listener, "_can_watch", lambda loop: False)
        sni = {"one.example": self.files.tls("one", one)}
        with poll, blind, self.serve(tls={"SNI": sni}) as server:
            self.assertEqual(self.ask(server)[1]["server_cert"], self.leaf.pem)
            self.assertEqual(self.shown(server, "one.example"), der(one))
            renewed = self.middle.issue("localhost", LOCAL)
            self.files.tls(self.id(), renewed, self.middle)
            eventually(lambda: self.shown(server) == der(renewed))
            other = self.root.issue("one.example")
            self.files.tls("one", other)
            eventually(lambda: self.shown(server, "one.example") == der(other))
            self.assertEqual(self.ask(server)[1]["server_cert"], renewed.pem)


class AcceptingTestsOnAsyncio(AcceptingTests):
    loop_factory = staticmethod(asyncio.new_event_loop)


class DrainTests(TLSTestCase):
    def test_arrivals_are_closed_with_the_server(self) -> None:
        watched = Listening(self)
        patient = mock.patch.object(tls_listener, "LINGER", PATIENCE)
        with patient, self.serve() as server:
            arrivals = [self.raw(server), self.raw(server, b"\x16\x03\x01")]
            arrivals.append(self.raw(server, b"GET"))
            arrivals.append(self.raw(server, b"\x16\x03\x01\x00\x05hello"))
            self.assertTrue(arrivals[-1].recv(65536))
            eventually(lambda: watched.arrivals == 4)
            server.stop()
            for arrival in arrivals:
                self.assert_ended(arrival)
            server.join()
        self.assertEqual(watched.arrivals, 0)

    def test_a_handshake_under_way_is_not_cut(self) -> None:
        begun, go_on = Happening(), Happening()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/slow":
                begun.tell()
                await go_on.reached()
            await respond(send, b"done")

        watched = Listening(self)
        with self.serve(app, settings={"TIMEOUTS": {"GRACEFUL": PATIENCE}}) as server:
            with self.connect(server) as slow:
                slow.request("/slow")
                begun.wait()
                late = self.raw(server)
                eventually(lambda: watched.arrivals == 1)
                server.stop()
                # Nobody else is let in.
                with self.assertRaises(OSError):
                    while True:
                        self.raw(server).close()
                with self.context().wrap_socket(
                    late, server_hostname="localhost"
                ) as tls:
                    tls.sendall(GET)
                    answer = b""
                    while data := tls.recv(65536):
                        answer += data
                self.assertIn(b"\r\nConnection: close\r\n", answer)
                self.assertTrue(answer.endswith(b"done"), answer)
                go_on.tell()
                self.assertEqual(slow.read().body, b"done")
            server.join()


class DrainTestsOnAsyncio(DrainTests):
    loop_factory = staticmethod(asyncio.new_event_loop)


class ClosingTests(TLSTestCase):
    def test_a_client_that_does_not_say_goodbye(self) -> None:
        """It has its answer, and nothing to wait for."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.context().wrap_bio(incoming, outgoing, False, "localhost")
        patience = mock.patch.object(connection, "CLOSE_NOTIFY", 0.5)
        with patience, self.serve() as server:
            client = self.raw(server)
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    client.sendall(outgoing.read())
                    incoming.write(client.recv(65536))
            tls.write(GET_AND_CLOSE)
            client.sendall(outgoing.read())
            while data := client.recv(65536):
                incoming.write(data)
            self.assertIn(b"200 OK", tls.read(65536))

    def test_a_slow_client_of_a_closed_connection(self) -> None:
        """What it has not taken yet outlives the goodbye."""
        size = 8_000_000

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await start(send, 200, [(b"content-length", b"%d" % size)])
            await body(send, bytes(size))

        patience = mock.patch.object(connection, "CLOSE_NOTIFY", 0.2)
        settings = {"TIMEOUTS": {"WRITE": 4}}
        with patience, self.serve(app, settings=settings) as server:
            with self.connect(server, receive_buffer=65536) as client:
                client.send(GET_AND_CLOSE)
                received = 0
                while data := client.socket.recv(65536):
                    received += len(data)
                    time.sleep(0.01)
            self.assertGreater(received, size)

    def test_a_client_that_takes_nothing_of_a_closed_connection(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(send, bytes(8_000_000))

        patience = mock.patch.object(connection, "CLOSE_NOTIFY", 0.2)
        settings = {"TIMEOUTS": {"WRITE": 0.5}}
        with (
            patience,
            self.assertLogs(PROTOCOL_LOG, logging.INFO) as logs,
            self.serve(app, settings=settings) as server,
            self.connect(server, receive_buffer=65536) as client,
        ):
            client.send(GET_AND_CLOSE)
            eventually(lambda: "took nothing" in "".join(logs.output))


class ClosingTestsOnAsyncio(ClosingTests):
    loop_factory = staticmethod(asyncio.new_event_loop)


@tag("slow")
class HTTPOverTLSTests(TLSTestCase, test_http.HTTPTests):
    """Everything that is expected of HTTP/1.1, on a connection with TLS."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # Where no direction can be closed alone, whoever waits for the end waits long.
        cls.enterClassContext(mock.patch.object(connection, "LINGER", 0.5))

    @contextlib.contextmanager
    def serve(self, app: Any = test_http.pages, **options: Any) -> Iterator[Serving]:
        with super().serve(app, **options) as server:
            connect = functools.partial(server.connect, tls=self.context())
            with mock.patch.object(server, "connect", connect):
                yield server

    def assert_heard_out(self, client: Client) -> None:
        # The server cannot close its direction alone: it does when we close ours.
        assert isinstance(client.socket, ssl.SSLSocket)
        client.socket.unwrap()


# -- New certificates ------------------------------------------------------------------


class ReloadTests(TLSTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.enterContext(mock.patch.object(certificates, "POLL", 0.02))

    def await_shown(self, server: Serving, issued: Issued) -> None:
        eventually(lambda: self.shown(server) == der(issued))

    def renew(self, server: Serving, **options: float) -> Issued:
        renewed = self.middle.issue("localhost", LOCAL, **options)

        async def replace() -> None:
            self.files.tls(self.id(), renewed, self.middle)

        # The server looks so often here that only its own loop can replace two files
        # between two looks.
        asyncio.run_coroutine_threadsafe(replace(), server.loop).result(PATIENCE)
        return renewed

    def test_new_connections_get_the_new_one(self) -> None:
        with self.serve() as server, self.connect(server) as old:
            self.assertEqual(
                json.loads(old.get().body)[1]["server_cert"], self.leaf.pem
            )
            with self.assertLogs(SERVER_LOG, logging.INFO) as logs:
                renewed = self.renew(server)
                eventually(lambda: self.shown(server) == der(renewed))
            expiry = f"{renewed.certificate.not_valid_after_utc:%d %B %Y}"
            self.assertEqual(
                [record.getMessage() for record in logs.records],
                [
                    "TLS now shows the certificate CN=localhost, which expires on "
                    f"{expiry}"
                ],
            )
            self.assertEqual(self.ask(server)[1]["server_cert"], renewed.pem)
            # The old connection lives on, and knows what it was shown.
            self.assertEqual(
                json.loads(old.get().body)[1]["server_cert"], self.leaf.pem
            )

    def test_files_that_are_of_no_use(self) -> None:
        expired = self.middle.issue(
            "localhost", LOCAL, begins=-9, expires=-1, key=self.leaf.key
        )
        with self.serve() as server:
            for break_it, expected in (
                (
                    lambda: os.unlink(self.tls["CERTIFICATE"]),
                    r"cannot be read \(No such file or directory\)\.",
                ),
                (
                    lambda: self.files.write(f"{self.id()}.crt", "nonsense"),
                    r"holds no certificate in PEM format\.",
                ),
                (
                    lambda: self.files.write(f"{self.id()}.crt", self.root.pem),
                    r"does not belong to the certificate in ",
                ),
                (
                    lambda: self.files.write(f"{self.id()}.crt", expired.pem),
                    r"expired on \d",
                ),
            ):
                before = self.shown(server)
                with self.assertLogs(SERVER_LOG, logging.INFO) as logs:
                    break_it()
                    eventually(lambda: bool(logs.records))
                    # More looks at the same files say nothing more.
                    for _ in range(20):
                        self.assertEqual(self.shown(server), before)
                [record] = logs.records
                self.assertEqual(record.levelno, logging.ERROR)
                self.assertIsNone(record.exc_info)
                message = record.getMessage()
                self.assertRegex(message, "^TLS: the old certificate stays: ")
                self.assertRegex(message, expected)
            renewed = self.renew(server)
            eventually(lambda: self.shown(server) == der(renewed))

    def test_the_half_of_a_change_is_not_taken(self) -> None:
        """The certificate first, the key after it, as most programs do."""
        keys: list[str] = []
        look = CertificateStore.poll

        def look_and_replace(store: CertificateStore) -> None:
            look(store)
            # Between two looks, the first of which has seen the certificate alone.
            if keys:
                self.files.write(f"{self.id()}.key", keys.pop())

        async def replace(renewed: Issued) -> None:
            self.files.write(f"{self.id()}.crt", renewed.pem, self.middle.pem)
            keys.append(renewed.key_pem())

        with (
            mock.patch.object(CertificateStore, "poll", look_and_replace),
            self.assertNoLogs(SERVER_LOG, logging.ERROR),
            self.serve() as server,
        ):
            for _ in range(4):
                renewed = self.middle.issue("localhost", LOCAL)
                replacing = replace(renewed)
                asyncio.run_coroutine_threadsafe(replacing, server.loop).result(
                    PATIENCE
                )
                self.await_shown(server, renewed)

    def test_everything_that_has_a_file(self) -> None:
        one = self.files.tls("one", self.root.issue("one.example"))
        clients = self.files.write("these.pem", self.clients.pem)
        more = {
            "SNI": {"one.example": one},
            "CLIENT_CA": clients,
            "CLIENT_CERTIFICATE": "optional",
        }
        others = authority("others")
        carol = others.issue("carol")
        context = self.context()
        context.load_cert_chain(
            self.files.write("carol.pem", carol.pem, carol.key_pem())
        )
        with self.serve(tls=more) as server:
            with self.assertRaises((OSError, EOFError)):
                self.ask(server, context)
            self.files.write("these.pem", self.clients.pem, others.pem)

            def known() -> bool:
                with contextlib.suppress(OSError, EOFError):
                    return (
                        self.ask(server, context)[1]["client_cert_name"] == "CN=carol"
                    )
                return False

            eventually(known)
            renewed = self.root.issue("one.example")
            self.files.tls("one", renewed)
            eventually(lambda: self.shown(server, "one.example") == der(renewed))

    def test_under_a_load_of_new_connections(self) -> None:
        failures: list[BaseException] = []
        count = 0
        ended = threading.Event()

        def visit() -> None:
            nonlocal count
            context = self.context()
            while not ended.is_set():
                try:
                    self.ask(server, context)
                    count += 1
                except BaseException as error:
                    failures.append(error)

        with self.serve() as server:
            visitors = [threading.Thread(target=visit) for _ in range(4)]
            for visitor in visitors:
                visitor.start()
            try:
                for number in range(15):
                    renewed = self.renew(server)
                    self.await_shown(server, renewed)
                    eventually(lambda wanted=number * 10: count > wanted)
            finally:
                ended.set()
                for visitor in visitors:
                    visitor.join(PATIENCE)
        self.assertEqual(failures, [])

    def test_one_that_expires_soon(self) -> None:
        with self.serve() as server:
            with self.assertLogs(SERVER_LOG, logging.WARNING) as logs:
                short = self.renew(server, begins=-80, expires=10)
                eventually(lambda: self.shown(server) == der(short))
        self.assertIn("CN=localhost, which expires soon, on ", logs.output[0])


class RetryTests(TLSTestCase):
    """Files that are of use later, without having changed."""

    def setUp(self) -> None:
        super().setUp()
        self.now = 0.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        self.enterContext(mock.patch.object(certificates, "time", clock))
        self.fault: str | None = None
        self.store = CertificateStore("TLS", [self.tls["CERTIFICATE"]], self.build)

    def build(self) -> ServerContext:
        if self.fault is not None:
            raise TLSError([Fault("CERTIFICATE", self.fault)])
        context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
        context.leaf = leaf_of(self.leaf.certificate)
        return context

    def poll_after_a_minute(self) -> list[str]:
        """What is logged then, and shortly before."""
        with self.assertLogs(SERVER_LOG, logging.INFO) as logs:
            server_log.info("a minute")
            self.now += certificates.RETRY - 1
            self.store.poll()
            self.now += 1
            self.store.poll()
        return [record.getMessage() for record in logs.records[1:]]

    def test_what_was_not_valid_yet(self) -> None:
        old = self.store.current
        self.assertEqual(self.poll_after_a_minute(), [])
        self.fault = "it is not valid yet."
        with self.assertLogs(SERVER_LOG, logging.ERROR):
            self.store.reload()
        for _ in range(3):
            self.assertEqual(self.poll_after_a_minute(), [])
        self.fault = "it has expired."
        self.assertEqual(
            self.poll_after_a_minute(),
            ["TLS: the old certificate stays: " + self.fault],
        )
        self.assertIs(self.store.current, old)
        self.fault = None
        [said] = self.poll_after_a_minute()
        self.assertIn("TLS now shows the certificate CN=localhost", said)
        self.assertIsNot(self.store.current, old)
        self.assertEqual(self.poll_after_a_minute(), [])


class ReloadTestsOnAsyncio(ReloadTests):
    loop_factory = staticmethod(asyncio.new_event_loop)


class HangUpTests(TLSTestCase):
    def test_sighup(self) -> None:
        program = (
            "import logging, sys; from tests import serving\n"
            "from django_daphne.server import certificates\n"
            "logging.basicConfig(stream=sys.stdout, level=logging.INFO)\n"
            "certificates.POLL = 1e6\n"
            "sys.exit(serving.main())\n"
        )
        settings = json.dumps({"BIND": [f"{HOST}:0"], "TLS": self.tls})
        command = ["-c", program, "tests.asgi_apps:hello", settings]
        with Process("", command=command) as server:
            server.expect("TLS shows the certificate CN=localhost, which expires on")
            with server.connect(tls=self.context()) as old:
                self.assertEqual(old.get().body, b"hello")
                renewed = self.middle.issue("localhost", LOCAL)
                self.files.tls(self.id(), renewed, self.middle)
                server.signal(1)
                server.expect("TLS now shows the certificate CN=localhost")
                with server.connect(tls=self.context()) as new:
                    self.assertEqual(new.socket.getpeercert(True), der(renewed))
                    self.assertEqual(new.get().body, b"hello")
                self.assertEqual(old.get().body, b"hello")
                self.files.write(f"{self.id()}.crt", "nonsense")
                server.signal(1)
                server.expect("TLS: the old certificate stays: .*holds no certificate")
                with server.connect(tls=self.context()) as new:
                    self.assertEqual(new.socket.getpeercert(True), der(renewed))
            server.terminate()
            self.assertEqual(server.wait(), 0)


# -- Redirection -----------------------------------------------------------------------


class RedirectTests(TLSTestCase):
    HOSTS = Hooks(allowed_host=lambda host: host.startswith(("test", "[::1]")))

    @contextlib.contextmanager
    def redirecting(self, **options: Any) -> Iterator[tuple[Serving, int]]:
        """A server, and the port on which it redirects."""
        settings = {"REDIRECT_BIND": [f"tcp:0:interface={HOST}"]}
        options = {"hooks": self.HOSTS, "settings": settings, **options}
        with self.serve(**options) as server:
            secure, plain = server.urls
            self.assertTrue(secure.startswith("https://"), server.urls)
            self.assertTrue(plain.startswith("http://"), server.urls)
            yield server, int(plain.rpartition(":")[2])

    def exchange(
        self, port: int, target: str, method: str = "GET", host: str = "test"
    ) -> Answer:
        with Client(HOST, port) as client:
            client.send(
                f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")
            )
            return client.read(method)

    def test_the_address(self) -> None:
        with self.redirecting() as (server, port):
            for target, expected in {
                "/": "/",
                "/a/b?c=d&e=f": "/a/b?c=d&e=f",
                "/a%20b%2Fc?x=%26": "/a%20b%2Fc?x=%26",
                "//other.example/x": "//other.example/x",
                "/?": "/",
                "/\xe4?\xfc": "/%E4?%FC",
                '/"<>\\': "/%22%3C%3E%5C",
                "http://test/there": "/there",
            }.items():
                answer = self.exchange(port, target)
                self.assertEqual(answer.status, 308, target)
                self.assertEqual(
                    answer.get("location"), f"https://test:{server.port}{expected}"
                )
                self.assertEqual(answer.body, b"")

    def test_every_method(self) -> None:
        with self.redirecting() as (_, port):
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "BREW"):
                self.assertEqual(self.exchange(port, "/x", method).status, 308, method)
            self.assertEqual(self.exchange(port, "*", "OPTIONS").status, 400)
            with Client(HOST, port) as client:
                for _ in range(2):
                    client.request("/", "POST", body=b"hello")
                    self.assertEqual(client.read().status, 308)
                client.request(
                    "/chat", "GET", "Upgrade: websocket", "Connection: Upgrade",
                    "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {'A' * 22}==",
                )  # fmt: skip
                self.assertEqual(client.read().status, 308)

    def test_hosts(self) -> None:
        with self.redirecting() as (server, port):
            for host, expected in {
                "test": "test",
                f"test:{port}": "test",
                "test:": "test",
                "test.example:80": "test.example",
                f"[::1]:{port}": "[::1]",
                "[::1]": "[::1]",
            }.items():
                answer = self.exchange(port, "/", host=host)
                self.assertEqual(
                    answer.get("location"), f"https://{expected}:{server.port}/", host
                )
            for host in ("other.example", "localhost", ""):
                answer = self.exchange(port, "/", host=host)
                self.assertEqual(answer.status, 400, host)
                self.assertIsNone(answer.get("location"))
            with Client(HOST, port) as client:
                client.send(b"GET / HTTP/1.0\r\n\r\n")
                self.assertEqual(client.read().status, 400)

    def test_nobody_knows_the_hosts(self) -> None:
        with self.redirecting(hooks=Hooks()) as (_, port):
            self.assertEqual(self.exchange(port, "/").status, 400)

    def test_the_usual_port_is_not_said(self) -> None:
        answers: list[Any] = []

        async def send(message: Any) -> None:
            answers.append(message)

        scope = {
            "raw_path": b"/a",
            "query_string": b"b",
            "headers": [(b"host", b"test:80")],
        }
        for port, expected in ((443, b"https://test/a?b"), (1, b"https://test:1/a?b")):
            asyncio.run(Redirect(port, lambda host: True)(scope, None, send))
            start, _ = answers[-2:]
            self.assertEqual(start["headers"], [(b"location", expected)])

    def test_the_access_log(self) -> None:
        requests: list[Any] = []

        def log(kind: str, scope: Scope, status: int, sent: int, took: float) -> None:
            requests.append((scope["scheme"], scope["path"], status))

        with self.redirecting(log_access=log) as (_, port):
            self.exchange(port, "/a")
            self.exchange(port, "/b", host="other")
        self.assertEqual(requests, [("http", "/a", 308), ("http", "/b", 400)])

    @require("curl")
    def test_curl_arrives(self) -> None:
        hooks = Hooks(allowed_host=lambda host: True)
        with self.redirecting(hooks=hooks) as (_, port):
            code, said = curl(
                *("--location", "--cacert", self.root_file),
                f"http://localhost:{port}/x?y=z",
            )
            self.assertEqual(code, 0, said)
            self.assertEqual(json.loads(said)[0], "https")

    def test_tls_on_the_plain_port_is_no_handshake(self) -> None:
        with self.redirecting() as (_, port), self.assertRaises(ssl.SSLError):
            Client(HOST, port, tls=self.context())

    def test_no_port_to_redirect_to(self) -> None:
        path = str(self.files.directory / "only.sock")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            bind = f"fd:{os.dup(listening.fileno())}:tls"
        settings = {"BIND": [bind], "REDIRECT_BIND": [f"{HOST}:0"]}
        with self.assertRaises(BindError) as caught:
            with self.serve(settings=settings):
                pass
        self.assertEqual(
            str(caught.exception), "REDIRECT_BIND: no bind has TLS and a port."
        )

    def test_both_ports_are_the_systems_choice(self) -> None:
        settings = {"BIND": [f"{HOST}:0"], "REDIRECT_BIND": [f"{HOST}:0"]}
        with self.redirecting(settings=settings) as (server, port):
            self.assertNotEqual(port, server.port)
            answer = self.exchange(port, "/a")
            self.assertEqual(answer.get("location"), f"https://test:{server.port}/a")

    def test_draining(self) -> None:
        with self.redirecting() as (server, port), Client(HOST, port) as idle:
            self.assertEqual(idle.get("/").status, 308)
            server.stop()
            self.assertTrue(idle.ended())
            server.join()


class RedirectTestsOnAsyncio(RedirectTests):
    loop_factory = staticmethod(asyncio.new_event_loop)
