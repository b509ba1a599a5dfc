"""What is said of ``TLS["ACME"]``: of its values, of the machine, of how it stands."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from django.core.checks import CheckMessage, Error, Warning
from django.core.management import call_command
from django.test import SimpleTestCase, override_settings

from django_daphne.conf import describe
from django_daphne.config import ACME, LETS_ENCRYPT, TLS, Config, build_config
from django_daphne.server.acme_storage import Status, Storage
from django_daphne.server.certificates import examine

from .certificates import Files, authority
from .commands import HOST
from .test_runasgi import RunasgiTestCase
from .test_tls_config import problems_of, run

BASE = "DJANGO_DAPHNE['TLS']['ACME']"
GOOD = {"DOMAINS": ["example.org"], "STORAGE": "/var/lib/mysite/acme"}
PLAIN = {"REDIRECT_BIND": [":80"]}


def acme_of(values: dict[str, Any]) -> ACME:
    tls = build_config({"TLS": {"ACME": values}, **PLAIN}).tls
    assert tls is not None and tls.acme is not None
    return tls.acme


class SettingsTests(SimpleTestCase):
    def test_the_least(self) -> None:
        self.assertEqual(
            acme_of(GOOD),
            ACME(
                domains=("example.org",),
                email=None,
                directory_url=LETS_ENCRYPT,
                storage="/var/lib/mysite/acme",
                ca_bundle=None,
            ),
        )
        without = build_config({"TLS": {"CERTIFICATE": "a.pem", "ACME": None}}).tls
        assert without is not None
        self.assertIsNone(without.acme)

    def test_everything(self) -> None:
        acme = acme_of(
            {
                "DOMAINS": ("Example.ORG", "www.example.org", "xn--bcher-kva.example"),
                "EMAIL": "root@example.org",
                "DIRECTORY_URL": "https://ca.internal:9000/acme/acme/directory",
                "STORAGE": Path("/srv/acme"),
                "CA_BUNDLE": Path("internal.pem"),
            }
        )
        self.assertEqual(
            acme,
            ACME(
                domains=("example.org", "www.example.org", "xn--bcher-kva.example"),
                email="root@example.org",
                directory_url="https://ca.internal:9000/acme/acme/directory",
                storage="/srv/acme",
                ca_bundle="internal.pem",
            ),
        )

    def test_it_can_be_fed_back(self) -> None:
        config = build_config({"TLS": {"ACME": GOOD}, **PLAIN})
        described = json.loads(json.dumps(describe(config)))
        self.assertEqual(build_config(described), config)

    def refuses(self, acme: Any, *expected: str, **more: Any) -> None:
        """``expected`` begin with the number and the key of each problem."""
        tls = more.pop("TLS", {})
        settings = {"TLS": {"ACME": acme, **tls}, **PLAIN, **more}
        with self.subTest(acme=acme, **more):
            found = [
                f"{problem.code} {problem.key}: {problem}"
                for problem in problems_of(settings)
            ]
            self.assertEqual(found, list(expected))

    def test_wrong_types(self) -> None:
        missing = (
            "E005 TLS.CERTIFICATE: DJANGO_DAPHNE['TLS']['CERTIFICATE'] is missing. "
            "Without TLS, write 'TLS': None."
        )
        self.refuses("yes", f"E004 TLS.ACME: {BASE} must be a dict or None, not str.")
        self.refuses(None, missing)
        self.refuses(
            {**GOOD, "DOMAIN": "example.org"},
            f"E002 TLS.ACME.DOMAIN: {BASE}['DOMAIN'] is not a setting. Did you mean "
            f"'DOMAINS'?",
        )
        self.refuses(
            {**GOOD, "DOMAINS": "example.org"},
            f"E004 TLS.ACME.DOMAINS: {BASE}['DOMAINS'] must be a list of domain names, "
            f"not 'example.org'. Write it like ['example.org'].",
        )
        for value in (3, "", "root", "root@a@b", "a@b,c@d", "root@ex ample", "ä@b"):
            self.refuses(
                {**GOOD, "EMAIL": value},
                f"E004 TLS.ACME.EMAIL: {BASE}['EMAIL'] must be an e-mail address, or "
                f"None, not {value!r}.",
            )
        for value in (
            *(None, 3, "", "acme.example", "http://acme.example/directory"),
            *("https://", "https:///directory", "https://user:pw@acme.example/"),
            *("https://acme.example:port/", "https://acme.example:99999/"),
            *("https://acme.example/a b", "https://acme.exämple/"),
        ):
            self.refuses(
                {**GOOD, "DIRECTORY_URL": value},
                f"E004 TLS.ACME.DIRECTORY_URL: {BASE}['DIRECTORY_URL'] must be the "
                f"https URL of an ACME directory, without a user, not {value!r}.",
            )
        for value in (None, 3, "", "acme", "./acme", "a\0b"):
            self.refuses(
                {**GOOD, "STORAGE": value},
                f"E004 TLS.ACME.STORAGE: {BASE}['STORAGE'] must be the absolute path "
                f"of a folder, not {value!r}.",
            )
        for value in (3, ""):
            self.refuses(
                {**GOOD, "CA_BUNDLE": value},
                f"E004 TLS.ACME.CA_BUNDLE: {BASE}['CA_BUNDLE'] must be the path of a "
                f"file, not {value!r}.",
            )

    def test_domains(self) -> None:
        def refuses(domain: Any, said: str) -> None:
            self.refuses(
                {**GOOD, "DOMAINS": ["example.org", domain]},
                f"E004 TLS.ACME.DOMAINS: {BASE}['DOMAINS']: {domain!r} {said}",
            )

        refuses(
            "*.example.org",
            "is a wildcard, which takes a change of the DNS to prove. Name each host, "
            "or get the certificate elsewhere and set CERTIFICATE.",
        )
        for address in ("192.0.2.1", "2001:db8::1", "[::1]"):
            refuses(address, "is an address. Name the hosts that lead to it.")
        for other in (
            *(3, None, b"a.example", "", ".", "example.org.", "a..b", "-a.example"),
            *("a-.example", "a_b.example", "example.org:443", "https://example.org"),
            *("bücher.example", "a.example\n", "a b", "1.2.3.4.5", "x" * 64 + ".org"),
            ".".join(["x" * 60] * 5),
        ):
            refuses(
                other,
                "is not a domain name. Write it like 'example.org', without a port, "
                "and other letters than ASCII's in their 'xn--' form.",
            )
        self.refuses(
            {**GOOD, "DOMAINS": ["example.org", "EXAMPLE.org"]},
            f"E005 TLS.ACME.DOMAINS: {BASE}['DOMAINS'] names 'example.org' twice.",
        )

    def test_what_is_missing(self) -> None:
        domains = (
            f"E005 TLS.ACME.DOMAINS: {BASE}['DOMAINS'] is missing. Name every host "
            f"that the certificate is for."
        )
        storage = (
            f"E005 TLS.ACME.STORAGE: {BASE}['STORAGE'] is missing. Name a folder that "
            f"is still there when the server restarts."
        )
        self.refuses({}, domains, storage)
        self.refuses({"STORAGE": "/a", "DOMAINS": []}, domains)
        self.refuses({"DOMAINS": ["a.example"]}, storage)

    def test_contradictions(self) -> None:
        for key in ("CERTIFICATE", "PRIVATE_KEY"):
            self.refuses(
                GOOD,
                f"E005 TLS.{key}: DJANGO_DAPHNE['TLS']['{key}'] is set beside "
                f"TLS['ACME'], which gets a certificate of its own. Remove one of "
                f"them.",
                TLS={key: "a.pem"},
            )
        self.refuses(
            GOOD,
            "E005 TLS.SNI: DJANGO_DAPHNE['TLS']['SNI'] has 'example.org', which is in "
            "TLS['ACME']['DOMAINS'] too.",
            TLS={"SNI": {"Example.org": {"CERTIFICATE": "a.pem"}}},
        )
        self.refuses(GOOD, TLS={"SNI": {"other.example": {"CERTIFICATE": "a.pem"}}})

    def test_a_wildcard_that_would_be_shown_instead(self) -> None:
        wildcard = {"*.example.org": {"CERTIFICATE": "a.pem"}}
        self.refuses(
            {**GOOD, "DOMAINS": ["example.org", "www.example.org"]},
            "E005 TLS.SNI: DJANGO_DAPHNE['TLS']['SNI'] has '*.example.org', whose "
            "certificate would be shown for 'www.example.org', which is in "
            "TLS['ACME']['DOMAINS']. Remove 'www.example.org' there.",
            TLS={"SNI": wildcard},
        )
        # It stands for one label.
        for names in (["example.org"], ["a.b.example.org"]):
            self.refuses({**GOOD, "DOMAINS": names}, TLS={"SNI": wildcard})

    def test_somebody_has_to_answer(self) -> None:
        fault = (
            f"E005 TLS.ACME: {BASE}: every bind has TLS, and the authority asks on "
            f"port 80, by plain HTTP. Set REDIRECT_BIND, such as ['0.0.0.0:80']."
        )
        self.refuses(GOOD, fault, BIND=[":443"], REDIRECT_BIND=[])
        ssl = "ssl:8443:privateKey=a.pem"
        self.refuses(GOOD, fault, BIND=[":443", ssl, "fd:3:tls"], REDIRECT_BIND=[])
        for plain in ("tcp:80", "unix:/run/app.sock", "fd:3", "systemd:name=http"):
            self.refuses(GOOD, BIND=[":443", plain], REDIRECT_BIND=[])
        # Only Twisted knows what it speaks.
        self.refuses(GOOD, BIND=[":443", "haproxy:tcp:80"], REDIRECT_BIND=[])


class MachineTests(SimpleTestCase):
    """``check --deploy`` looks at the machine; ``check`` does not."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.acme = {"DOMAINS": ["example.org"], "STORAGE": str(self.folder / "acme")}
        self.files = Files(self.folder)
        self.root = authority()

    def deployed(self, **values: Any) -> list[CheckMessage]:
        tls = {"ACME": {**self.acme, **values}}
        settings = {
            "TLS": tls,
            "BIND": [f"{HOST}:0"],
            "REDIRECT_BIND": [f"tcp:0:interface={HOST}"],
        }
        with override_settings(DJANGO_DAPHNE=settings):
            self.assertEqual(run(), [], "only check --deploy looks at files")
            return run(deploy=True)

    def assert_fault(self, key: str, said: str, **values: Any) -> None:
        place = "DJANGO_DAPHNE['TLS']" + "".join(f"[{k!r}]" for k in key.split("."))
        self.assertEqual(
            self.deployed(**values),
            [Error(f"{place}: {said}", id="django_daphne.E010")],
        )

    def store(self, begins: float, expires: float) -> Storage:
        storage = Storage(acme_of(self.acme))
        storage.prepare()
        issued = self.root.issue("example.org", begins=begins, expires=expires)
        storage.certificate.write_text(issued.key_pem() + issued.pem)
        return storage

    def test_all_is_well(self) -> None:
        self.assertEqual(self.deployed(), [])
        # Looking at it has made nothing.
        self.assertFalse((self.folder / "acme").exists())
        self.store(-10, 80)
        self.assertEqual(self.deployed(), [])

    def test_the_storage(self) -> None:
        file = self.files.write("file", "text")
        self.assert_fault("ACME.STORAGE", f"{file} is not a folder.", STORAGE=file)
        below = f"{file}/acme"
        self.assert_fault(
            "ACME.STORAGE",
            f"{below} does not exist, and cannot be made in {file}.",
            STORAGE=below,
        )
        storage = self.folder / "acme"
        storage.mkdir()
        storage.chmod(0o770)
        self.assert_fault(
            "ACME.STORAGE",
            f"others may write to {storage}; take that away with 'chmod go-w'.",
        )
        storage.chmod(0o755)
        self.assertEqual(self.deployed(), [])

    def test_a_storage_of_somebody_else(self) -> None:
        storage = self.folder / "acme"
        storage.mkdir()
        # Root may do everything; what the system says to others is said here.
        with mock.patch.object(os, "access", return_value=False):
            self.assert_fault(
                "ACME.STORAGE",
                f"{storage} cannot be read and written to by this user.",
            )

    def test_a_storage_that_may_not_be_looked_at(self) -> None:
        with mock.patch.object(Path, "exists", side_effect=PermissionError(13, "No")):
            self.assert_fault(
                "ACME.STORAGE", f"{self.folder}/acme cannot be used (No)."
            )

    def test_the_bundle(self) -> None:
        text = self.files.write("text.pem", "text")
        self.assert_fault(
            "ACME.CA_BUNDLE",
            f"{text} holds no certificates in PEM format.",
            CA_BUNDLE=text,
        )
        missing = str(self.folder / "missing.pem")
        self.assert_fault(
            "ACME.CA_BUNDLE",
            f"{missing} cannot be read (No such file or directory).",
            CA_BUNDLE=missing,
        )

    def test_without_the_library(self) -> None:
        gone = {"acme": None, "django_daphne.server.acme_client": None}
        with mock.patch.dict(sys.modules, gone):
            [message] = self.deployed()
        self.assertEqual(message.id, "django_daphne.E010")
        self.assertRegex(
            message.msg,
            r"^DJANGO_DAPHNE\['TLS'\]\['ACME'\]: a library is missing \(.*\): install "
            r"django-daphne\[acme\]\.$",
        )

    def test_the_other_keys_of_tls(self) -> None:
        tls = TLS(acme=acme_of(self.acme), ciphers="ROT13", client_ca="/nowhere")
        problems, _ = examine(Config(tls=tls))
        self.assertEqual(
            [problem.key for problem in problems], ["TLS.CIPHERS", "TLS.CLIENT_CA"]
        )

    def test_late(self) -> None:
        storage = self.store(-80, 10)
        [message] = self.deployed()
        self.assertEqual((type(message), message.id), (Warning, "django_daphne.W007"))
        self.assertIn("the certificate CN=example.org expires on", message.msg)
        storage = self.store(-80, -1)
        [message] = self.deployed()
        self.assertEqual((type(message), message.id), (Warning, "django_daphne.W007"))
        self.assertIn("the stored certificate is of no use", message.msg)
        self.assertIn("expired on", message.msg)
        storage.certificate.write_text("broken")
        [message] = self.deployed()
        self.assertIn("holds no certificate in PEM format", message.msg)

    def test_migrate_is_not_hindered(self) -> None:
        acme = {**self.acme, "STORAGE": "/dev/null/acme", "CA_BUNDLE": "/nowhere"}
        settings = {
            "TLS": {"ACME": acme},
            "BIND": [f"{HOST}:0"],
            "REDIRECT_BIND": [f"tcp:0:interface={HOST}"],
        }
        with override_settings(DJANGO_DAPHNE=settings):
            call_command("check")


class CommandTests(RunasgiTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.acme: dict[str, Any] = {
            "DOMAINS": ["example.org"],
            "EMAIL": "root@example.org",
            "STORAGE": str(self.directory / "acme"),
            # Nobody listens there.
            "DIRECTORY_URL": f"https://{HOST}:9/directory",
        }
        self.configure()

    def configure(self, **values: Any) -> None:
        plain = [f"tcp:0:interface={HOST}"]
        settings = {"TLS": {"ACME": {**self.acme, **values}}, "REDIRECT_BIND": plain}
        self.settings(f"DJANGO_DAPHNE = {settings!r}")

    def check_config(self) -> Any:
        process = self.runasgi("--check-config")
        self.assertEqual(process.wait(), 0, process.stderr)
        self.assertNotIn("PRIVATE KEY", process.stdout + process.stderr)
        return json.loads(process.stdout)

    def storage(self) -> Storage:
        storage = Storage(acme_of(self.acme))
        storage.prepare()
        return storage

    def test_before_there_is_one(self) -> None:
        described = self.check_config()
        self.assertEqual(described["TLS"]["ACME"], {**self.acme, "CA_BUNDLE": None})
        status = described["AUTOMATIC_CERTIFICATE"]
        self.assertLessEqual(
            abs(datetime.fromisoformat(status.pop("NEXT_RENEWAL")) - datetime.now(UTC)),
            timedelta(minutes=5),
        )
        self.assertEqual(
            status,
            {
                "DOMAINS": ["example.org"],
                "DIRECTORY_URL": self.acme["DIRECTORY_URL"],
                "CERTIFICATE": None,
                "ISSUER": None,
                "EXPIRES": None,
                "FAILURES": 0,
                "LAST_ERROR": None,
                "LAST_FAILURE": None,
            },
        )
        self.assertFalse((self.directory / "acme").exists())

    def test_how_it_stands(self) -> None:
        storage = self.storage()
        issued = authority("some root").issue("example.org", begins=-30, expires=60)
        storage.certificate.write_text(issued.key_pem() + issued.pem)
        storage.account_key()
        today = datetime.now(UTC)
        failed, later = today - timedelta(minutes=1), today + timedelta(days=2)
        storage.save_status(
            Status(failures=2, error="no", failed=failed, next_attempt=later)
        )
        status = self.check_config()["AUTOMATIC_CERTIFICATE"]
        expires = issued.certificate.not_valid_after_utc
        renewal = datetime.fromisoformat(status.pop("NEXT_RENEWAL"))
        life = timedelta(days=90)
        self.assertGreaterEqual(renewal, expires - life / 3 - timedelta(seconds=1))
        self.assertLessEqual(renewal, expires - life / 3 + life / 30)
        self.assertEqual(
            status,
            {
                "DOMAINS": ["example.org"],
                "DIRECTORY_URL": self.acme["DIRECTORY_URL"],
                "CERTIFICATE": str(storage.certificate),
                "ISSUER": "CN=some root",
                "EXPIRES": expires.isoformat(),
                "FAILURES": 2,
                "LAST_ERROR": "no",
                "LAST_FAILURE": failed.isoformat(timespec="seconds"),
            },
        )

    def test_serving_without_an_authority(self) -> None:
        process = self.runasgi(f"{HOST}:0")
        plain = int(process.expect(rf"^Listening on http://{HOST}:(\d+)$")[1])
        process.expect("no certificate for example.org yet; a temporary one", "stderr")
        process.expect(
            r"^ACME: no certificate for example\.org: the authority cannot be reached "
            r"\(Connection refused\)\. There is none yet; the next attempt is at ",
            "stderr",
        )
        response, _ = self.fetch(plain)
        self.assertEqual(response.status, 308)
        self.assertEqual(process.stop(), 0)
        self.assertNotIn("Traceback", process.stderr)
        status = self.check_config()["AUTOMATIC_CERTIFICATE"]
        self.assertEqual(status["FAILURES"], 1)
        self.assertIn("Connection refused", status["LAST_ERROR"])

    def test_one_line_for_each_mistake(self) -> None:
        self.assert_one_line(
            self.refused(f"{HOST}:0", "--certificate", "a.pem"),
            "--certificate is set beside TLS['ACME'], which gets a certificate of its "
            "own. Remove one of them.",
        )
        self.configure(STORAGE=str(self.directory / "project.py"))
        self.assert_one_line(
            self.refused(f"{HOST}:0"),
            f"{BASE}['STORAGE']: {self.directory / 'project.py'} is not a folder.",
        )
