"""Automatic certificates, from a real authority that really asks."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import socket
import ssl
import tempfile
import threading
import time
import unittest
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from cryptography import x509

from django_daphne.config import ACME, Hooks, build_config
from django_daphne.errors import Fault, TLSError
from django_daphne.server import acme_client, acme_renewal, acme_timing, certificates
from django_daphne.server.acme_certificate import TEMPORARY, AutomaticCertificate
from django_daphne.server.acme_storage import Status, Storage
from django_daphne.server.tls import ServerContext

from .acme_authority import HOST, PATIENCE, Answer, Gate, Pebble
from .asgi_apps import Receive, Scope, Send, respond, until_disconnect
from .certificates import Issued, authority
from .services import require
from .serving import Client, Process, Serving, serving

NAME = "www.example.org"
OTHER = "example.org"

#: Where nobody listens on the port that the authority asks.
NOBODY = "127.0.0.2"
STRANGER = "127.0.0.3"

#: The name of the thread that speaks with the authority.
WORKER = "django-daphne-acme"

CHALLENGE = "/.well-known/acme-challenge/"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, scope["raw_path"])


class Log(logging.Handler):
    """What a logger says, to be waited for."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._arrived = threading.Condition()
        self._logger = logging.getLogger(name)

    def __enter__(self) -> Log:
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._logger.removeHandler(self)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        with self._arrived:
            text = self.format(record)
            self.lines.append(f"{record.levelname} {text}")
            self._arrived.notify_all()

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for a line with ``pattern``; it, and those before it, are done with."""
        found: re.Match[str] | None = None

        def look() -> bool:
            nonlocal found
            for number, line in enumerate(self.lines):
                if match := re.search(pattern, line):
                    found = match
                    self.seen = self.lines[: number + 1]
                    del self.lines[: number + 1]
                    return True
            return False

        with self._arrived:
            self._arrived.wait_for(look, PATIENCE)
            lines = "\n".join(self.lines)
        if found is None:
            raise AssertionError(f"no {pattern!r} in:\n{lines}")
        return found


def certificate_of(client: Client) -> x509.Certificate:
    assert isinstance(client.socket, ssl.SSLSocket)
    shown = client.socket.getpeercert(True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown)


def names_in(certificate: x509.Certificate) -> set[str]:
    extension = certificate.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return set(extension.value.get_values_for_type(x509.DNSName))


@require("pebble", "pebble-challtestsrv")
class AcmeTestCase(unittest.TestCase):
    """An authority for all tests of a class, which asks at ``cls.port``."""

    options: ClassVar[dict[str, Any]] = {}

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # Ours from first to last, so that nobody else answers the authority. It
        # listens while a server has it, and stays closed before.
        cls.socket = cls.enterClassContext(contextlib.closing(socket.socket()))
        cls.socket.bind((HOST, 0))
        cls.port = int(cls.socket.getsockname()[1])
        cls.pebble = cls.enterClassContext(Pebble(cls.port, **cls.options))
        cls.stranger = authority("another authority")

    def setUp(self) -> None:
        self.gate = self.new_gate()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.folder = Path(folder, "acme")
        for host in (NAME, OTHER):
            self.pebble.resolve(host)
        self.log = self.enterContext(Log("django_daphne.server"))
        self.patch(acme_client, POLL=0.02)
        self.patch(acme_renewal, PAUSE=0.05)

    def new_gate(self) -> Gate:
        gate = Gate(self.pebble)
        self.addCleanup(gate.close)
        return gate

    def patch(self, module: Any, **values: Any) -> None:
        self.enterContext(mock.patch.multiple(module, **values))

    def retry_soon(self) -> None:
        """Have every wait be a moment, what the authority asks for apart."""
        real = acme_timing.wait_after

        def wait(fault: Any, failures: int, told: timedelta | None = None) -> timedelta:
            return timedelta(seconds=0.1) if told is None else real(fault, 1, told)

        self.patch(acme_renewal, wait_after=wait)

    # -- What is configured ------------------------------------------------------------

    def acme(self, *domains: str, **values: Any) -> dict[str, Any]:
        return {
            "DOMAINS": list(domains or (NAME,)),
            "DIRECTORY_URL": self.gate.directory_url,
            "STORAGE": str(self.folder),
            "CA_BUNDLE": self.pebble.ca_file,
            **values,
        }

    def settings(self, *domains: str, **values: Any) -> dict[str, Any]:
        return {
            "LIFESPAN": "off",
            "REDIRECT_BIND": [self.plain_bind()],
            "TLS": {"ACME": self.acme(*domains, **values)},
        }

    def plain_bind(self) -> str:
        # The server closes what it is given.
        return f"fd:{os.dup(self.socket.fileno())}"

    @contextlib.contextmanager
    def serve(self, *domains: str, **values: Any) -> Iterator[Serving]:
        hooks = Hooks(allowed_host=lambda host: True)
        with serving(echo, self.settings(*domains, **values), hooks=hooks) as server:
            yield server
        # The server does not wait for it, and the next is not to be taken for it.
        for thread in threading.enumerate():
            if thread.name == WORKER:
                thread.join(PATIENCE)

    def storage(self, *domains: str, **values: Any) -> Storage:
        acme = build_config(
            {
                "REDIRECT_BIND": [":80"],
                "TLS": {"ACME": self.acme(*domains, **values)},
            }
        ).tls.acme  # type: ignore[union-attr]
        assert isinstance(acme, ACME)
        return Storage(acme)

    def store(self, issued: Issued, *domains: str) -> Storage:
        """Have ``issued`` be the certificate that was had before."""
        storage = self.storage(*domains)
        storage.prepare()
        storage.certificate.write_text(issued.key_pem() + issued.pem)
        storage.certificate.chmod(0o600)
        return storage

    # -- What is shown -----------------------------------------------------------------

    def context(self, *roots: str) -> ssl.SSLContext:
        """A client that believes what the authority has issued."""
        return ssl.create_default_context(cadata="".join(roots or [self.pebble.root]))

    def connect(
        self, server: Serving, name: str = NAME, context: ssl.SSLContext | None = None
    ) -> Client:
        tls = context or self.context()
        return server.connect(tls=tls, server_hostname=name)

    def shown(self, server: Serving) -> x509.Certificate:
        context = self.context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with self.connect(server, context=context) as client:
            return certificate_of(client)

    def assert_temporary(self, server: Serving) -> None:
        shown = self.shown(server)
        self.assertEqual(shown.subject.rfc4514_string(), f"CN={TEMPORARY}")

    def assert_issued(self, server: Serving, *names: str) -> x509.Certificate:
        for name in names or (NAME,):
            with self.connect(server, name) as client:
                self.assertEqual(client.get("/hello").body, b"/hello")
                certificate = certificate_of(client)
        self.assertEqual(names_in(certificate), set(names or (NAME,)))
        return certificate

    def assert_idle(self) -> None:
        """Nobody is asked anything by a server that has just started.

        What is due is begun before the first connection is accepted.
        """
        names = [thread.name for thread in threading.enumerate()]
        self.assertNotIn(WORKER, names)

    def wait_for_certificate(self) -> None:
        self.log.expect("INFO TLS now shows the certificate")


class Held:
    """Keeps the authority's answer back until the test has looked around."""

    def __init__(self, gate: Gate, path: str) -> None:
        self.asked, self._go = threading.Event(), threading.Event()
        self._path = path
        gate.instead = self._hold

    def _hold(self, path: str) -> None:
        if path.startswith(self._path):
            self.asked.set()
            self._go.wait(PATIENCE)

    @contextlib.contextmanager
    def back(self) -> Iterator[None]:
        if not self.asked.wait(PATIENCE):
            raise AssertionError(f"{self._path} was never asked for")
        try:
            yield
        finally:
            self._go.set()


class IssuanceTests(AcmeTestCase):
    def test_the_first_certificate(self) -> None:
        self.gate.open()
        held = Held(self.gate, "/order-plz")
        with self.serve(NAME, OTHER.upper(), "a.b.example.net") as server:
            with held.back():
                self.assert_temporary(server)
                self.log.expect("WARNING ACME: there is no certificate for .* yet")
                with server.connect() as plain:
                    self.assertEqual(plain.get().status, 400)
            self.wait_for_certificate()
            self.assertTrue(
                any("was issued, which expires at" in line for line in self.log.seen)
            )
            issued = self.assert_issued(server, NAME, OTHER, "a.b.example.net")
            self.assertEqual(self.gate.orders, 1)
        storage = self.storage(NAME, OTHER, "a.b.example.net")
        stored = x509.load_pem_x509_certificate(storage.certificate.read_bytes())
        self.assertEqual(stored, issued)
        self.assertEqual(list((self.folder / "challenges").iterdir()), [])
        self.assert_modes()

    def assert_modes(self) -> None:
        self.assertEqual(self.folder.stat().st_mode & 0o777, 0o700)
        found = 0
        for path in self.folder.rglob("*"):
            mode = path.stat().st_mode & 0o777
            self.assertEqual(mode, 0o700 if path.is_dir() else 0o600, path)
            found += path.is_file()
        # The lock, the account, a certificate and its status.
        self.assertEqual(found, 4)

    def test_the_account(self) -> None:
        self.gate.open()
        with self.serve(EMAIL="one@example.org"):
            self.wait_for_certificate()
        accounts = self.gate.payloads("/sign-me-up")
        self.assertEqual(
            accounts,
            [{"contact": ["mailto:one@example.org"], "termsOfServiceAgreed": True}],
        )
        # Another address is told to the same account, for the next certificate.
        with self.serve(NAME, OTHER, EMAIL="two@example.org"):
            self.wait_for_certificate()
        self.assertEqual(
            self.gate.payloads("/my-account/"),
            [{"contact": ["mailto:two@example.org"]}],
        )
        with self.serve(OTHER, EMAIL="two@example.org"):
            self.wait_for_certificate()
        self.assertEqual(len(self.gate.payloads("/my-account/")), 1)

    def test_a_restart_orders_nothing(self) -> None:
        self.gate.open()
        with self.serve() as server:
            self.wait_for_certificate()
            first = self.assert_issued(server)
        for _ in range(2):
            with self.serve() as server:
                self.assertEqual(self.assert_issued(server), first)
        self.assertEqual(self.gate.orders, 1)

    def test_a_restart_without_the_authority(self) -> None:
        self.gate.open()
        with self.serve() as server:
            self.wait_for_certificate()
            first = self.assert_issued(server)
        self.gate.close()
        with self.serve() as server:
            self.assertEqual(self.assert_issued(server), first)

    def test_other_domains(self) -> None:
        self.gate.open()
        with self.serve() as server:
            self.wait_for_certificate()
            first = self.assert_issued(server)
        held = Held(self.gate, "/order-plz")
        with self.serve(NAME, OTHER) as server:
            with held.back():
                # Better than nothing.
                self.log.expect(r"WARNING .* yet; \S+\.pem is shown meanwhile")
                self.assertEqual(self.assert_issued(server), first)
            self.wait_for_certificate()
            self.assert_issued(server, NAME, OTHER)
        # The order of the names, and a way back, cost nothing.
        for domains in ((OTHER, NAME), (NAME,)):
            with self.serve(*domains) as server:
                self.assertEqual(
                    names_in(self.assert_issued(server, *domains)), set(domains)
                )
            plan = acme_timing.make_plan(
                self.storage(*domains).leaf(), Status(), datetime.now(UTC)
            )
            self.assertGreater(plan.order, datetime.now(UTC) + timedelta(days=1))
        self.assertEqual(self.gate.orders, 2)

    def test_files_for_other_names(self) -> None:
        self.gate.open()
        other = self.stranger.issue("files.example")
        settings = self.settings()
        settings["TLS"]["SNI"] = {
            "files.example": self.pebble.files.tls("other", other),
        }
        with serving(echo, settings) as server:
            self.wait_for_certificate()
            self.assert_issued(server)
            context = self.context(self.stranger.pem)
            with self.connect(server, "files.example", context) as client:
                self.assertEqual(certificate_of(client), other.certificate)

    def test_while_the_application_has_enough_to_do(self) -> None:
        self.gate.open()
        entered = threading.Event()

        async def busy(scope: Scope, receive: Receive, send: Send) -> None:
            entered.set()
            await until_disconnect(receive)

        settings = {**self.settings(), "LIMITS": {"CONCURRENCY": 1}}
        hooks = Hooks(allowed_host=lambda host: True)
        held = Held(self.gate, "/order-plz")
        unsafe = self.context()
        unsafe.check_hostname, unsafe.verify_mode = False, ssl.CERT_NONE
        with serving(busy, settings, hooks=hooks) as server:
            with self.connect(server, context=unsafe) as client:
                with held.back():
                    client.request()
                    self.assertTrue(entered.wait(PATIENCE))
                self.wait_for_certificate()
                with Client(HOST, self.port) as plain:
                    self.assertEqual(plain.get().status, 308)

    def test_over_http2(self) -> None:
        self.gate.open()
        with self.serve() as server:
            self.wait_for_certificate()
            context = self.context()
            context.set_alpn_protocols(["h2"])
            with self.connect(server, context=context) as client:
                assert isinstance(client.socket, ssl.SSLSocket)
                self.assertEqual(client.socket.selected_alpn_protocol(), "h2")

    def test_a_storage_that_is_removed(self) -> None:
        self.gate.open()
        self.patch(acme_renewal, LOOK=0.5)
        with self.serve() as server:
            self.wait_for_certificate()
            first = self.assert_issued(server)
            shutil.rmtree(self.folder)
            self.wait_for_certificate()
            self.assertNotEqual(self.assert_issued(server), first)

    def test_another_directory(self) -> None:
        self.gate.open()
        with self.serve():
            self.wait_for_certificate()
        other = self.new_gate().open()
        with self.serve(DIRECTORY_URL=other.directory_url) as server:
            self.wait_for_certificate()
            self.assert_issued(server)
        self.assertEqual((self.gate.orders, other.orders), (1, 1))
        self.assertEqual(len(list((self.folder / "accounts").iterdir())), 2)

    def test_answered_by_a_plain_bind(self) -> None:
        self.gate.open()
        settings = self.settings()
        settings["BIND"] = [f"{HOST}:0", *settings.pop("REDIRECT_BIND")]
        held = Held(self.gate, "/finalize-order/")
        with serving(echo, settings):
            with held.back():
                [path] = (self.folder / "challenges").iterdir()
                with Client(HOST, self.port) as client:
                    answer = client.get(CHALLENGE + path.name)
                    self.assertEqual(answer.body, path.read_bytes())
                    self.assertTrue(answer.body.startswith(f"{path.name}.".encode()))
                    client.request(CHALLENGE + path.name, "HEAD")
                    self.assertEqual(client.read("HEAD").status, 200)
                    for other in (
                        CHALLENGE,
                        CHALLENGE + path.name[:-1],
                        CHALLENGE + "../challenges/" + path.name,
                        CHALLENGE + "%2e%2e/lock",
                        CHALLENGE + path.name + "/",
                        "/x" + CHALLENGE + path.name,
                    ):
                        self.assertEqual(client.get(other).body, other.encode())
                    client.request(CHALLENGE + path.name, "POST")
                    posted = client.read()
                    self.assertEqual(posted.body, (CHALLENGE + path.name).encode())
            self.wait_for_certificate()
            with Client(HOST, self.port) as client:
                answer = client.get(CHALLENGE + path.name)
                self.assertEqual(answer.body, (CHALLENGE + path.name).encode())

    def test_answered_before_the_redirect(self) -> None:
        self.gate.open()
        held = Held(self.gate, "/finalize-order/")
        with self.serve() as server:
            with held.back():
                [path] = (self.folder / "challenges").iterdir()
                with Client(HOST, self.port) as client:
                    answer = client.get(CHALLENGE + path.name)
                    self.assertEqual(answer.body, path.read_bytes())
                    unknown = client.get(CHALLENGE + "unknown")
                    self.assertEqual(unknown.status, 308)
                    self.assertEqual(
                        unknown.get("location"),
                        f"https://test:{server.port}{CHALLENGE}unknown",
                    )

    def test_processes_that_share_the_storage(self) -> None:
        self.patch(certificates, POLL=0.05)
        self.gate.open()
        # The second does not listen where the authority asks; whichever orders, the
        # first can answer.
        other = {**self.settings(), "REDIRECT_BIND": [f"tcp:0:interface={HOST}"]}
        with self.serve() as one, serving(echo, other) as two:
            for _ in range(2):
                self.log.expect("INFO TLS now shows the certificate")
            self.assertEqual(self.assert_issued(one), self.assert_issued(two))
        self.assertEqual(self.gate.orders, 1)


class FailureTests(AcmeTestCase):
    def test_the_authority_is_down_at_first(self) -> None:
        self.retry_soon()
        with self.serve() as server:
            self.log.expect(
                rf"ERROR ACME: no certificate for {re.escape(NAME)}: the authority "
                r"cannot be reached \(Connection refused\)\. There is none yet; the "
                r"next attempt is at \d\d \w+ \d{4} \d\d:\d\d:\d\d UTC$"
            )
            self.assert_temporary(server)
            self.gate.open()
            self.wait_for_certificate()
            self.assert_issued(server)
        self.assertEqual(self.storage().status().failures, 0)

    def test_an_authority_that_says_nothing(self) -> None:
        self.patch(acme_client, REQUEST_TIMEOUT=1)
        self.gate.open()
        held = Held(self.gate, "/dir")
        with self.serve():
            with held.back():
                self.log.expect("ERROR .* the authority gave no answer within 1 s. ")

    def test_an_authority_that_nobody_vouches_for(self) -> None:
        self.gate.open()
        with self.serve(CA_BUNDLE=None):
            self.log.expect("ERROR .* the authority itself is not believed")

    def test_nobody_listens_where_the_name_leads(self) -> None:
        self.retry_soon()
        self.gate.open()
        self.pebble.resolve(OTHER, NOBODY)
        with self.serve(NAME, OTHER) as server:
            refused = self.log.expect(
                rf"ERROR ACME: no certificate for .*: {OTHER}: (.*) \(connection\)\. "
            )
            self.assertIn(NOBODY, refused[1])
            # In one line, whatever the authority says.
            self.assertEqual(len(self.log.seen[-1].splitlines()), 1)
            self.assert_temporary(server)
            self.pebble.resolve(OTHER)
            self.wait_for_certificate()
            self.assert_issued(server, NAME, OTHER)

    def test_somebody_else_answers(self) -> None:
        self.gate.open()

        async def strange(scope: Scope, receive: Receive, send: Send) -> None:
            await respond(send, b"I am somebody else.")

        bind = f"tcp:{self.port}:interface={STRANGER}"
        self.pebble.resolve(NAME, STRANGER)
        with serving(strange, {"BIND": [bind], "LIFESPAN": "off"}), self.serve():
            self.log.expect(
                rf"ERROR ACME: no certificate for .*: {re.escape(NAME)}: .*"
                r"I am somebody else\..* \(unauthorized\)"
            )
        self.assertEqual(list((self.folder / "challenges").iterdir()), [])

    def test_rate_limited(self) -> None:
        self.gate.open()
        looked = threading.Event()
        asked: list[datetime] = []

        def instead(path: str) -> Answer | None:
            if path != "/order-plz":
                return None
            asked.append(datetime.now(UTC))
            if len(asked) > 1:
                looked.wait(PATIENCE)
                return None
            return Answer.problem(
                429, "rateLimited", "too many certificates", Retry_After="1"
            )

        self.gate.instead = instead
        with self.serve() as server:
            self.log.expect(r"ERROR .*: too many certificates \(rateLimited\)\. ")
            status = self.storage().status()
            self.assertTrue(status.told_to_wait)
            assert status.next_attempt is not None
            looked.set()
            self.wait_for_certificate()
            self.assert_issued(server)
        self.assertGreaterEqual(status.next_attempt - asked[0], timedelta(seconds=1))
        self.assertGreaterEqual(asked[1], status.next_attempt)
        self.assertEqual(self.gate.orders, 1)

    def test_a_limit_outlives_a_restart(self) -> None:
        self.gate.open()
        self.gate.instead = lambda path: (
            Answer.problem(429, "rateLimited", "enough", Retry_After="3600")
            if path.startswith("/order-plz")
            else None
        )
        with self.serve():
            self.log.expect(r"ERROR .*: enough \(rateLimited\)")
        asked = len(self.gate.paths)
        for values in ({}, {}, {"EMAIL": "new@example.org"}):
            with self.serve(**values) as server:
                self.assert_temporary(server)
                self.assert_idle()
        self.assertEqual(len(self.gate.paths), asked)

    def test_a_failure_waits_across_a_restart(self) -> None:
        self.gate.open()
        self.pebble.resolve(NAME, NOBODY)
        with self.serve():
            self.log.expect(r"ERROR ACME: no certificate")
        asked = len(self.gate.paths)
        with self.serve():
            self.assert_idle()
        self.assertEqual(len(self.gate.paths), asked)
        # Not so with other settings, for they may be what was wrong.
        self.pebble.resolve(NAME)
        with self.serve(EMAIL="new@example.org"):
            self.wait_for_certificate()

    def test_the_old_certificate_stays(self) -> None:
        self.gate.open()
        old = self.stranger.issue(NAME, begins=-80, expires=10)
        self.store(old)
        self.pebble.resolve(NAME, NOBODY)
        with self.serve() as server:
            self.log.expect(r"ERROR ACME: no certificate .* The old one stays; ")
            self.assertEqual(self.shown(server), old.certificate)

    def test_answers_that_make_no_sense(self) -> None:
        self.retry_soon()
        self.gate.open()
        answers: list[tuple[str, Answer, str]] = [
            ("/dir", Answer(200, {}), "makes no sense"),
            ("/dir", Answer(200, []), "makes no sense"),
            ("/dir", Answer(503, "out of order"), "HTTP status 503"),
            ("/order-plz", Answer(429, 3), "HTTP status 429"),
            ("/order-plz", Answer(201, {"status": "surprised"}), "makes no sense"),
            (
                "/order-plz",
                Answer.problem(403, "rejectedIdentifier", "no\n\x1b[31m" + "x" * 9999),
                r"no \\x1b\[31mx+ \.\.\.",
            ),
            ("/certZ/", Answer(200, "no certificate"), "makes no sense"),
        ]

        def instead(path: str) -> Answer | None:
            if answers and path.startswith(answers[0][0]):
                return answers.pop(0)[1]
            return None

        patterns = [pattern for _, _, pattern in answers]
        self.gate.instead = instead
        with self.serve() as server:
            for pattern in patterns:
                with self.subTest(pattern):
                    self.log.expect(f"ERROR ACME: no certificate .*{pattern}")
                    self.assertLess(len(self.log.seen[-1]), 1200)
            self.wait_for_certificate()
            self.assert_issued(server)

    def test_a_certificate_of_no_use(self) -> None:
        self.retry_soon()
        self.gate.open()
        foreign = self.stranger.issue(NAME)

        def afterwards(path: str, answer: Answer) -> Answer:
            if path.startswith("/certZ/") and answer.status == 200:
                answer.body = foreign.pem.encode()
                self.gate.afterwards = lambda path, answer: answer
            return answer

        self.gate.afterwards = afterwards
        with self.serve() as server:
            self.log.expect("ERROR .* the authority sent another's certificate")
            self.wait_for_certificate()
            self.assert_issued(server)

    def test_an_authority_that_wants_more(self) -> None:
        def afterwards(path: str, answer: Answer) -> Answer:
            if path == "/dir":
                directory = json.loads(answer.body)
                directory["meta"]["externalAccountRequired"] = True
                answer.body = json.dumps(directory).encode()
            return answer

        self.gate.open()
        self.gate.afterwards = afterwards
        with self.serve():
            self.log.expect("ERROR .* accounts to be bound to others")


class StorageTests(AcmeTestCase):
    def test_broken_files(self) -> None:
        self.gate.open()
        with self.serve():
            self.wait_for_certificate()
        storage = self.storage()
        [account] = (self.folder / "accounts").iterdir()
        for path in (storage.certificate, account, storage.certificate_status):
            path.write_bytes(b"\0broken")
        with self.serve() as server:
            self.log.expect("ERROR ACME: the stored certificate is of no use: .*PEM")
            self.log.expect(r"ERROR ACME: the account in .* another is registered")
            self.wait_for_certificate()
            self.assert_issued(server)
        self.assertTrue(account.with_suffix(".broken").exists())

    def test_a_file_that_breaks_under_the_server(self) -> None:
        self.patch(certificates, POLL=0.05)
        self.patch(acme_renewal, LOOK=0.5)
        self.patch(acme_timing, LEAST_AGE=timedelta())
        self.gate.open()
        with self.serve() as server:
            self.wait_for_certificate()
            first = self.assert_issued(server)
            # Another is had before long, but not before we have looked around.
            held = Held(self.gate, "/order-plz")
            self.storage().certificate.write_text("broken")
            with held.back():
                self.log.expect(
                    "ERROR TLS: the old certificate stays: .* no certificate"
                )
                self.assertEqual(self.assert_issued(server), first)
            self.wait_for_certificate()
            self.assertNotEqual(self.assert_issued(server), first)

    def test_one_that_cannot_be_shown_at_first(self) -> None:
        # As with too many open files; nothing of it changes until it can be.
        self.patch(certificates, POLL=0.05, RETRY=0.1)
        path, build = self.storage().certificate, AutomaticCertificate._build
        faults = iter([Fault("CERTIFICATE", "Too many open files")] * 2)

        def fail(self: AutomaticCertificate, asked: Path) -> ServerContext:
            if asked == path and (fault := next(faults, None)) is not None:
                raise TLSError([fault])
            return build(self, asked)

        self.enterContext(mock.patch.object(AutomaticCertificate, "_build", fail))
        self.gate.open()
        with self.serve() as server:
            self.log.expect("ERROR TLS: the old certificate stays: Too many open")
            self.wait_for_certificate()
            self.assert_issued(server)

    def test_a_folder_that_is_closed_to_us(self) -> None:
        self.patch(certificates, POLL=0.05)
        self.gate.open()
        with self.serve() as server:
            self.wait_for_certificate()
            first = self.shown(server)
            no = PermissionError(13, "Permission denied")
            path = self.storage().certificate
            with mock.patch.object(Path, "exists", side_effect=no):
                os.utime(path)
                self.log.expect("ERROR TLS: the old certificate stays: .*denied")
            self.assertEqual(self.shown(server), first)
            # The files are still looked at.
            os.utime(path)
            self.wait_for_certificate()

    def test_modes(self) -> None:
        self.gate.open()
        with self.serve():
            self.wait_for_certificate()
        storage = self.storage()
        storage.certificate.chmod(0o644)
        storage.certificate_status.unlink()
        with self.serve():
            self.log.expect("WARNING ACME: others could read .*pem")
        self.assertEqual(storage.certificate.stat().st_mode & 0o777, 0o600)


class RenewalTests(AcmeTestCase):
    def test_near_its_end(self) -> None:
        self.gate.open()
        old = self.stranger.issue(NAME, begins=-80, expires=10)
        self.store(old)
        held = Held(self.gate, "/order-plz")
        with self.serve() as server:
            with held.back():
                self.assertEqual(self.shown(server), old.certificate)
            self.wait_for_certificate()
            self.assert_issued(server)

    def test_long_before_its_end(self) -> None:
        self.gate.open()
        old = self.stranger.issue(NAME, begins=-30, expires=60)
        self.store(old)
        with self.serve() as server:
            self.assertEqual(self.shown(server), old.certificate)
        self.assertEqual(self.gate.orders, 0)

    def test_one_that_has_expired(self) -> None:
        self.gate.open()
        self.store(self.stranger.issue(NAME, begins=-80, expires=-1))
        with self.serve() as server:
            self.log.expect("ERROR ACME: the stored certificate is of no use: .*expire")
            self.wait_for_certificate()
            self.assert_issued(server)

    def test_under_load(self) -> None:
        self.gate.open()
        old = self.stranger.issue(NAME, begins=-80, expires=10)
        self.store(old)
        held = Held(self.gate, "/order-plz")
        context = self.context(self.stranger.pem, self.pebble.root)
        shown: set[bytes] = set()
        failures: list[BaseException] = []
        over, answered = threading.Event(), threading.Semaphore(0)

        def ask(server: Serving, client: Client | None) -> None:
            try:
                while not over.is_set():
                    one = client or self.connect(server, context=context)
                    if one.get("/busy").body != b"/busy":
                        raise AssertionError("another answer")
                    if client is None:
                        shown.add(certificate_of(one).tbs_certificate_bytes)
                        one.close()
                    answered.release()
            except BaseException as error:
                failures.append(error)
                answered.release(1000)

        def wait_for(requests: int) -> None:
            for _ in range(requests):
                self.assertTrue(answered.acquire(timeout=PATIENCE))

        with self.serve() as server, self.connect(server, context=context) as kept:
            asking = [
                threading.Thread(target=ask, args=(server, client))
                for client in (None, None, kept)
            ]
            for thread in asking:
                thread.start()
            try:
                with held.back():
                    wait_for(20)
                self.wait_for_certificate()
                wait_for(20)
                new = self.assert_issued(server)
                wait_for(20)
                # The connection that is kept may have made all of those.
                while new.tbs_certificate_bytes not in shown:
                    wait_for(1)
            finally:
                over.set()
                for thread in asking:
                    thread.join(PATIENCE)
            self.assertEqual(failures, [])
            # The connection from before has what it had, and goes on.
            self.assertEqual(certificate_of(kept), old.certificate)
            self.assertEqual(kept.get("/still").body, b"/still")
        both = {old.certificate.tbs_certificate_bytes, new.tbs_certificate_bytes}
        self.assertEqual(shown, both)

    def test_when_the_authority_would_have_it(self) -> None:
        self.patch(acme_timing, LEAST_AGE=timedelta())
        self.gate.open()
        asked: list[str] = []

        def instead(path: str) -> Answer | None:
            _, mark, certificate = path.partition("/renewal/")
            if not mark:
                return None
            asked.append(certificate)
            # The first at once, any other in its time.
            today = datetime.now(UTC)
            start = today + timedelta(days=-2 if certificate == asked[0] else 300)
            window = {
                "start": start.isoformat(timespec="seconds"),
                "end": (start + timedelta(days=1)).isoformat(timespec="seconds"),
            }
            return Answer(200, {"suggestedWindow": window}, {"Retry-After": "21600"})

        self.gate.instead = instead
        self.tell_of_renewals()
        with self.serve() as server:
            self.wait_for_certificate()
            first = self.storage().leaf()
            self.wait_for_certificate()
            second = self.assert_issued(server)
            assert first is not None
            self.assertNotEqual(self.storage().leaf(), first)
        orders = self.gate.payloads("/order-plz")
        self.assertEqual([order.get("replaces") for order in orders], [None, asked[0]])
        self.assertRegex(asked[0], r"^[A-Za-z0-9_-]{27}\.[A-Za-z0-9_-]+$")
        self.assertNotEqual(second.serial_number, 0)

    def tell_of_renewals(self) -> None:
        """Have the authority be one that knows RFC 9773."""

        def afterwards(path: str, answer: Answer) -> Answer:
            if path == "/dir":
                directory = json.loads(answer.body)
                directory["renewalInfo"] = f"https://{HOST}:{self.gate.port}/renewal"
                answer.body = json.dumps(directory).encode()
            return answer

        self.gate.afterwards = afterwards

    def refuse_first(self, answer: Answer) -> None:
        """Answer so where the first certificate is asked for."""
        answers = iter([answer])
        self.gate.instead = lambda path: (
            next(answers, None) if path == "/order-plz" else None
        )

    def test_one_that_the_authority_does_not_know(self) -> None:
        # It was another account's, or the authority has been set up anew.
        self.gate.open()
        self.tell_of_renewals()
        self.store(self.stranger.issue(NAME, begins=-80, expires=10))
        self.refuse_first(Answer.problem(403, "unauthorized", "whose is that?"))
        with self.serve() as server:
            self.wait_for_certificate()
            self.assert_issued(server)
        [order] = self.gate.payloads("/order-plz")
        self.assertNotIn("replaces", order)

    def test_a_limit_is_not_a_certificate_that_is_not_known(self) -> None:
        self.gate.open()
        self.tell_of_renewals()
        self.store(self.stranger.issue(NAME, begins=-80, expires=10))
        self.refuse_first(Answer.problem(429, "rateLimited", "enough"))
        with self.serve():
            self.log.expect(r"ERROR .*: enough \(rateLimited\)")
        self.assertEqual(self.gate.paths.count("/order-plz"), 1)

    def test_a_renewal_that_the_authority_would_have_later(self) -> None:
        storage = self.store(self.stranger.issue(NAME, begins=-61, expires=29))
        leaf = storage.leaf()
        assert leaf is not None
        storage.save_status(
            Status(
                suggested=leaf.expires - timedelta(days=20),
                suggested_for=acme_timing.mark_of(leaf),
                ask_again=datetime.now(UTC) + timedelta(hours=6),
            )
        )
        with self.serve() as server:
            self.assertEqual(names_in(self.shown(server)), {NAME})
        self.assertEqual(self.gate.paths, [])


class ShortLivedTests(AcmeTestCase):
    """An authority whose certificates live for six seconds."""

    options: ClassVar[dict[str, Any]] = {"certificateValidityPeriod": 6}

    def test_renewed_again_and_again(self) -> None:
        # One that has expired before it is here, on a busy machine, is no matter.
        self.retry_soon()
        self.gate.open()
        with self.serve() as server:
            self.wait_for_certificate()
            first = self.shown(server)
            lived = first.not_valid_after_utc - first.not_valid_before_utc
            self.assertLess(lived, timedelta(seconds=10))
            for _ in range(2):
                self.wait_for_certificate()
            self.assertNotEqual(self.shown(server), first)


class StopTests(AcmeTestCase):
    """In a process of its own, stopped while the authority thinks."""

    def start(self) -> Process:
        # The port stays ours: another program could take it between two processes.
        return Process(
            "tests.asgi_apps:hello",
            {**self.settings(), "REDIRECT_BIND": [f"fd:{self.socket.fileno()}"]},
            inherited=[self.socket.fileno()],
        )

    def test_a_stop_in_the_middle_of_an_order(self) -> None:
        self.gate.open()
        for number in (signal.SIGINT, signal.SIGTERM):
            held = Held(self.gate, "/order-plz")
            with self.start() as process:
                self.assertIn("https://", process.url)
                with held.back():
                    process.signal(number)
                    self.assertEqual(process.wait(), 0, process.output)
                self.assertNotIn("Traceback", process.output)
            # It was nobody's mistake.
            status = self.storage().status()
            self.assertIsNone(status.unfinished)
            self.assertEqual(status.failures, 0)
        self.gate.instead = lambda path: None
        with self.start() as process:
            self.wait_for_file(process)
            process.terminate()
            self.assertEqual(process.wait(), 0)

    def wait_for_file(self, process: Process) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.storage().certificate.exists():
            self.assertTrue(process.running, process.output)
            self.assertLess(time.monotonic(), deadline, process.output)
            time.sleep(0.02)

    def test_a_crash_in_the_middle_of_an_order(self) -> None:
        self.gate.open()
        held = Held(self.gate, "/order-plz")
        with self.start() as process:
            self.assertIn("https://", process.url)
            with held.back():
                process.signal(signal.SIGKILL)
                process.wait()
        self.assertIsNotNone(self.storage().status().unfinished)
        asked = len(self.gate.paths)
        with self.start() as process:
            self.assertIn("https://", process.url)
            self.assertEqual(len(self.gate.paths), asked)
            # Whoever has seen to it says so.
            self.gate.instead = lambda path: None
            process.signal(signal.SIGHUP)
            self.wait_for_file(process)
