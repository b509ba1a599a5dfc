"""``manage.py runserver --https``: the same pages, over TLS."""

from __future__ import annotations

import json
import os
import socket
import ssl
import stat
import tempfile
import unittest
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

from cryptography import x509

from django_daphne.server import development_certificate as module
from django_daphne.server.development_certificate import development_certificate

from .certificates import LOCAL, Files, authority
from .projects import PATIENCE, Project, Running
from .secure_websocket import SecureWebSocket

HOST = "127.0.0.1"


class CommandTests(unittest.TestCase):
    def setUp(self) -> None:
        self.cache = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.kept = self.cache / "django_daphne" / "development.pem"

    def start(
        self, *arguments: str, settings: str = "", address: str = f"{HOST}:0"
    ) -> tuple[Project, Running]:
        project = Project(self, settings)
        running = project.manage(
            "runserver",
            address,
            "--https",
            *arguments,
            XDG_CACHE_HOME=str(self.cache),
        )
        return project, running

    def port_of(self, running: Running) -> int:
        announced = running.expect(r"Starting .* at https://127\.0\.0\.1:(\d+)/\n")
        running.expect(r"Quit the server with CONTROL-C\.")
        return int(announced[1])

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.kept))

    def get(self, url: str, context: ssl.SSLContext | None = None) -> bytes:
        with urllib.request.urlopen(
            url, context=context or self.trusting(), timeout=PATIENCE
        ) as response:
            content: bytes = response.read()
            return content

    def test_pages_files_and_websockets(self) -> None:
        _, running = self.start("--noreload")
        port = self.port_of(running)
        for host in (HOST, "localhost"):
            page = json.loads(self.get(f"https://{host}:{port}/"))
            self.assertEqual(page["request"], "ASGIRequest")
        running.expect(r'"GET / HTTP/1\.1" 200')
        style = self.get(f"https://{HOST}:{port}/static/pages/style.css")
        self.assertIn(b"{", style)
        with SecureWebSocket(f"wss://{HOST}:{port}/", self.trusting()) as client:
            client.send("hello")
            self.assertEqual(client.recv(), "hello")
        self.assertEqual(stat.S_IMODE(self.kept.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(self.kept.parent.stat().st_mode), 0o700)
        running.interrupt()
        self.assertEqual(running.wait(), 0)

    def test_plain_http_is_told(self) -> None:
        _, running = self.start("--noreload")
        port = self.port_of(running)
        with socket.create_connection((HOST, port), timeout=PATIENCE) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while data := client.recv(65536):
                answer += data
        self.assertTrue(answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), answer)
        self.assertIn(b"this port speaks HTTPS", answer)
        running.expect(
            "You're accessing the development server over HTTP, but with --https it "
            "only supports HTTPS."
        )

    def test_reloading(self) -> None:
        project, running = self.start()
        port = self.port_of(running)
        before = self.get(f"https://{HOST}:{port}/")
        project.save_until_noticed("pages/views.py", edited(project), running)
        port = self.port_of(running)
        self.assertNotEqual(self.get(f"https://{HOST}:{port}/"), before)

    def test_the_certificate_is_kept(self) -> None:
        shown = set()
        for _ in range(2):
            _, running = self.start("--noreload")
            shown.add(ssl.get_server_certificate((HOST, self.port_of(running))))
            running.interrupt()
            self.assertEqual(running.wait(), 0)
        self.assertEqual(len(shown), 1)

    def test_the_certificate_of_the_settings(self) -> None:
        files = Files(self.cache)
        root = authority()
        leaf = root.issue("localhost", LOCAL)
        tls = {**files.tls("own", leaf), "MINIMUM_VERSION": "TLSv1.3"}
        settings = f"DJANGO_DAPHNE = { ({'TLS': tls, 'REDIRECT_BIND': [':0']})!r}"
        _, running = self.start("--noreload", settings=settings)
        port = self.port_of(running)
        context = ssl.create_default_context(cadata=root.pem)
        self.assertIn(b"ASGIRequest", self.get(f"https://localhost:{port}/", context))
        self.assertEqual(ssl.get_server_certificate((HOST, port)), leaf.pem)
        self.assertFalse(self.kept.exists())

    def test_no_authority_is_asked(self) -> None:
        storage = self.cache / "acme"
        acme = {"DOMAINS": ["example.org"], "STORAGE": str(storage)}
        tls = {"ACME": acme, "MINIMUM_VERSION": "TLSv1.3"}
        settings = f"DJANGO_DAPHNE = { ({'TLS': tls, 'REDIRECT_BIND': [':80']})!r}"
        _, running = self.start("--noreload", settings=settings)
        port = self.port_of(running)
        self.assertIn(b"ASGIRequest", self.get(f"https://localhost:{port}/"))
        self.assertFalse(storage.exists())
        old = self.trusting()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with self.assertRaises(OSError):
            self.get(f"https://localhost:{port}/", old)

    def test_without_the_flag_the_setting_is_left_alone(self) -> None:
        settings = "DJANGO_DAPHNE = {'TLS': {'CERTIFICATE': '/nowhere/crt.pem'}}"
        project = Project(self, settings)
        running = project.manage(
            "runserver",
            f"{HOST}:0",
            "--noreload",
        )
        port = running.expect_port()
        self.assertIn(
            b"ASGIRequest",
            self.get(f"http://{HOST}:{port}/", ssl.create_default_context()),
        )

    def refused(self, *arguments: str, settings: str = "") -> str:
        _, running = self.start("--noreload", *arguments, settings=settings)
        self.assertEqual(running.wait(), 1, running.output)
        self.assertNotIn("Traceback", running.output)
        return running.output.splitlines()[-1]

    def test_djangos_own_server_speaks_none(self) -> None:
        self.assertEqual(
            self.refused("--noasgi"),
            "CommandError: --https needs the ASGI server: leave out --noasgi.",
        )

    def test_a_certificate_that_cannot_be_used(self) -> None:
        settings = "DJANGO_DAPHNE = {'TLS': {'CERTIFICATE': '/nowhere/crt.pem'}}"
        self.assertEqual(
            self.refused(settings=settings),
            "CommandError: DJANGO_DAPHNE['TLS']['CERTIFICATE']: /nowhere/crt.pem "
            "cannot be read (No such file or directory).",
        )

    def test_a_cache_that_cannot_be_written(self) -> None:
        (self.cache / "django_daphne").write_text("a file in the way")
        said = self.refused()
        self.assertIn("CommandError: The development certificate cannot be kept:", said)
        self.assertIn("XDG_CACHE_HOME", said)


def edited(project: Project) -> str:
    text = (project.path / "pages/views.py").read_text()
    assert "first edition" in text
    return text.replace("first edition", "second edition")


class CertificateTests(unittest.TestCase):
    def setUp(self) -> None:
        self.cache = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(
            mock.patch.dict(os.environ, {"XDG_CACHE_HOME": str(self.cache)})
        )

    def made(self, host: str = HOST) -> x509.Certificate:
        path = development_certificate(host)
        self.assertEqual(path, self.cache / "django_daphne" / "development.pem")
        return x509.load_pem_x509_certificate(path.read_bytes())

    def names(self, certificate: x509.Certificate) -> set[str]:
        extension = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        return {str(name.value) for name in extension.value}

    def test_names(self) -> None:
        self.assertEqual(self.names(self.made()), {"localhost", "127.0.0.1", "::1"})

    def test_it_is_kept_while_it_will_do(self) -> None:
        first = self.made()
        self.assertEqual(self.made(), first)
        self.assertEqual(self.made("localhost"), first)
        self.assertEqual(self.made("::1"), first)

    def test_every_spelling_of_an_address_is_the_address(self) -> None:
        first = self.made("fe80::1")
        self.assertEqual(self.made("FE80:0:0:0:0:0:0:1"), first)
        self.assertEqual(self.made("0:0:0:0:0:0:0:1"), first)

    def test_more_names(self) -> None:
        first = self.made()
        second = self.made("192.0.2.7")
        self.assertNotEqual(first, second)
        third = self.made("dev.example")
        wanted = {"localhost", "127.0.0.1", "::1", "192.0.2.7", "dev.example"}
        self.assertEqual(self.names(third), wanted)
        # Neither address takes it from the other.
        self.assertEqual(self.made("192.0.2.7"), third)

    def test_too_many_names(self) -> None:
        with mock.patch.object(module, "MAX_NAMES", 5):
            for number in range(5):
                names = self.names(self.made(f"192.0.2.{number}"))
            self.assertLessEqual(len(names), 5)
            self.assertIn("192.0.2.4", names)

    def test_it_is_renewed_in_time(self) -> None:
        first = self.made()
        left = first.not_valid_after_utc - datetime.now(UTC)
        self.assertLess(left, timedelta(days=398))
        with mock.patch.object(module, "RENEWAL", left + timedelta(minutes=1)):
            self.assertNotEqual(self.made(), first)

    def test_what_cannot_be_used_is_replaced(self) -> None:
        path = development_certificate(HOST)
        for spoil in (
            lambda: path.write_text("nonsense"),
            lambda: path.unlink(),
            lambda: path.write_text(path.read_text().partition("-----BEGIN PRIV")[0]),
            lambda: path.chmod(0o644),
        ):
            spoil()
            self.made()
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)

    def test_where_it_is_kept(self) -> None:
        with mock.patch.dict(os.environ, {"HOME": str(self.cache / "home")}):
            # The specification has a relative path ignored.
            for value in ("", "relative"):
                os.environ["XDG_CACHE_HOME"] = value
                self.assertEqual(
                    development_certificate(HOST),
                    self.cache / "home/.cache/django_daphne/development.pem",
                )

    def test_nothing_is_left_of_a_failure(self) -> None:
        with (
            mock.patch("os.replace", side_effect=OSError("no")),
            self.assertRaises(OSError),
        ):
            development_certificate(HOST)
        self.assertEqual(os.listdir(self.cache / "django_daphne"), [])
