"""What is said of a wrong ``TLS``, by whom, and what of the machine is looked at."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from django.core import checks
from django.core.checks import CheckMessage, Error, Warning
from django.core.management import call_command
from django.test import SimpleTestCase, override_settings

from django_daphne.conf import MASK, allowed_host, describe, get_config
from django_daphne.config import TLS, CertificateFiles, build_config
from django_daphne.errors import ConfigurationError, Problem

from .certificates import LOCAL, Files, authority
from .commands import HOST, PATIENCE
from .test_runasgi import RunasgiTestCase

CERTIFICATE = {"CERTIFICATE": "crt.pem", "PRIVATE_KEY": "key.pem"}


def run(*, deploy: bool = False) -> list[CheckMessage]:
    return checks.run_checks(tags=["django_daphne"], include_deployment_checks=deploy)


def problems_of(settings: Any) -> list[Problem]:
    try:
        build_config(settings)
    except ConfigurationError as error:
        return error.problems
    return []


class SettingsTests(SimpleTestCase):
    def test_what_can_be_set(self) -> None:
        tls = build_config(
            {
                "TLS": {
                    "CERTIFICATE": Path("/etc/tls/crt.pem"),
                    "PRIVATE_KEY": Path("/etc/tls/key.pem"),
                    "PASSWORD": "hush",
                    "MINIMUM_VERSION": "TLSv1.2",
                    "CIPHERS": "ECDHE+AESGCM",
                    "CLIENT_CA": Path("ca.pem"),
                    "CLIENT_CERTIFICATE": "optional",
                    "SNI": {
                        "Example.ORG": {"CERTIFICATE": Path("a.pem")},
                        "*.example.org": CERTIFICATE,
                    },
                }
            }
        ).tls
        self.assertEqual(
            tls,
            TLS(
                certificate="/etc/tls/crt.pem",
                private_key="/etc/tls/key.pem",
                password="hush",
                minimum_version="TLSv1.2",
                ciphers="ECDHE+AESGCM",
                client_ca="ca.pem",
                client_certificate="optional",
                sni={
                    "example.org": CertificateFiles("a.pem"),
                    "*.example.org": CertificateFiles("crt.pem", "key.pem"),
                },
            ),
        )

    def test_none(self) -> None:
        self.assertIsNone(build_config({}).tls)
        self.assertIsNone(build_config({"TLS": None}).tls)
        self.assertEqual(build_config({"REDIRECT_BIND": []}).redirect_bind, ())

    def assert_refused(self, settings: dict[str, Any], *expected: str) -> None:
        """``expected`` begin with the number and the key of each problem."""
        found = [
            f"{problem.code} {problem.key}: {problem}"
            for problem in problems_of(settings)
        ]
        self.assertEqual(found, list(expected))

    def refuses(self, tls: Any, *expected: str) -> None:
        with self.subTest(tls):
            self.assert_refused({"TLS": tls}, *expected)

    def test_wrong_values(self) -> None:
        base = "DJANGO_DAPHNE['TLS']"
        self.refuses("yes", f"E004 TLS: {base} must be a dict or None, not str.")
        for key in ("CERTIFICATE", "PRIVATE_KEY", "CLIENT_CA"):
            for value in (3, "", "a\0b", b"crt.pem"):
                self.refuses(
                    {**CERTIFICATE, key: value},
                    f"E004 TLS.{key}: {base}[{key!r}] must be the path of a file, "
                    f"not {value!r}.",
                )
        self.refuses(
            {**CERTIFICATE, "MINIMUM_VERSION": "TLSv1.1"},
            f"E004 TLS.MINIMUM_VERSION: {base}['MINIMUM_VERSION'] must be one of "
            f"'TLSv1.2', 'TLSv1.3', not 'TLSv1.1'.",
        )
        self.refuses(
            {**CERTIFICATE, "CLIENT_CERTIFICATE": True},
            f"E004 TLS.CLIENT_CERTIFICATE: {base}['CLIENT_CERTIFICATE'] must be one of "
            f"'none', 'optional', 'required', not True.",
        )
        self.refuses(
            {**CERTIFICATE, "CIPHERS": ["AES"]},
            f"E004 TLS.CIPHERS: {base}['CIPHERS'] must be a string that is not empty, "
            f"or None, not ['AES'].",
        )
        self.refuses(
            {**CERTIFICATE, "CERTIFCATE": "x"},
            f"E002 TLS.CERTIFCATE: {base}['CERTIFCATE'] is not a setting. "
            f"Did you mean 'CERTIFICATE'?",
        )

    def test_a_wrong_password_is_not_shown(self) -> None:
        for secret in (b"open sesame", 123456, ""):
            [problem] = problems_of({"TLS": {**CERTIFICATE, "PASSWORD": secret}})
            self.assertEqual(problem.key, "TLS.PASSWORD")
            self.assertIn(f"not {type(secret).__name__}.", str(problem))
            self.assertNotIn(repr(secret), str(problem))

    def test_a_password_is_not_in_a_traceback(self) -> None:
        tls = {**CERTIFICATE, "PASSWORD": "open sesame"}
        self.assertNotIn("open sesame", repr(build_config({"TLS": tls})))

    def test_names(self) -> None:
        place = "DJANGO_DAPHNE['TLS']['SNI']"
        hint = (
            "Write it like 'example.org' or '*.example.org', and other letters than "
            "ASCII's in their 'xn--' form."
        )
        for name in (
            "", "*", "a.*.example", "w*.example", "münchen.example", "127.0.0.1",
            "::1", "example.org.", "a b", 3, None,
        ):  # fmt: skip
            self.refuses(
                {**CERTIFICATE, "SNI": {name: CERTIFICATE}},
                f"E004 TLS.SNI: {place}: {name!r} is not a host name. {hint}",
            )
        for name in ("localhost", "a_b.example", "1.2.3.example", "xn--mnchen-3ya.de"):
            self.refuses({**CERTIFICATE, "SNI": {name: CERTIFICATE}})
        self.refuses(
            {
                **CERTIFICATE,
                "SNI": {"A.example": CERTIFICATE, "a.example": CERTIFICATE},
            },
            f"E005 TLS.SNI: {place} names 'a.example' twice.",
        )
        self.refuses(
            {**CERTIFICATE, "SNI": ["a.example"]},
            f"E004 TLS.SNI: {place} must be a dict, not list.",
        )

    def test_certificates_of_names(self) -> None:
        place = "DJANGO_DAPHNE['TLS']['SNI']['a.example']"
        for files, expected in (
            ("crt.pem", f"E004 TLS.SNI: {place} must be a dict, not str."),
            ({}, f"E005 TLS.SNI: {place}['CERTIFICATE'] is missing."),
            (
                {"PRIVATE_KEY": "key.pem"},
                f"E005 TLS.SNI: {place}['CERTIFICATE'] is missing.",
            ),
            (
                {"CERTIFICATE": 3},
                f"E004 TLS.SNI: {place}['CERTIFICATE'] must be the path of a file, "
                f"not 3.",
            ),
            (
                {**CERTIFICATE, "PASSWORD": "x"},
                f"E002 TLS.SNI: {place}['PASSWORD'] is not a setting. "
                f"Known: CERTIFICATE, PRIVATE_KEY.",
            ),
        ):
            self.refuses({**CERTIFICATE, "SNI": {"a.example": files}}, expected)

    def test_impossible_combinations(self) -> None:
        base = "DJANGO_DAPHNE['TLS']"
        self.refuses(
            {},
            f"E005 TLS.CERTIFICATE: {base}['CERTIFICATE'] is missing. "
            f"Without TLS, write 'TLS': None.",
        )
        self.refuses(
            {"PRIVATE_KEY": "key.pem"},
            f"E005 TLS.PRIVATE_KEY: {base}['PRIVATE_KEY'] is of no use without "
            f"TLS['CERTIFICATE'].",
        )
        for how in ("optional", "required"):
            self.refuses(
                {**CERTIFICATE, "CLIENT_CERTIFICATE": how},
                f"E005 TLS.CLIENT_CERTIFICATE: {base}['CLIENT_CERTIFICATE'] is "
                f"{how!r}, and TLS['CLIENT_CA'] does not say whose.",
            )
        self.refuses(
            {**CERTIFICATE, "CLIENT_CA": "ca.pem"},
            f"E005 TLS.CLIENT_CA: {base}['CLIENT_CA'] does nothing while "
            f"TLS['CLIENT_CERTIFICATE'] is 'none'. Make it 'optional' or 'required'.",
        )
        self.refuses(
            {**CERTIFICATE, "MINIMUM_VERSION": "TLSv1.3", "CIPHERS": "AES"},
            f"E005 TLS.CIPHERS: {base}['CIPHERS'] are those of TLS 1.2, which "
            f"MINIMUM_VERSION excludes.",
        )

    def test_binds_that_need_a_certificate(self) -> None:
        for bind in ("fd:3:tls", "systemd:tls", "systemd:name=web:tls"):
            self.assert_refused(
                {"BIND": [bind]},
                f"E005 BIND: DJANGO_DAPHNE['BIND']: {bind!r} needs a certificate. "
                f"Name it in TLS['CERTIFICATE'].",
            )
            self.assert_refused({"BIND": [bind], "TLS": CERTIFICATE})

    def test_redirection(self) -> None:
        place = "DJANGO_DAPHNE['REDIRECT_BIND']"
        plain = {"REDIRECT_BIND": [":80"]}
        leads_nowhere = (
            f"E005 REDIRECT_BIND: {place} leads nowhere: no bind has TLS. "
            f"Set TLS, or remove it."
        )
        self.assert_refused({**plain}, leads_nowhere)
        self.assert_refused(
            {**plain, "BIND": ["unix:a.sock"], "TLS": CERTIFICATE}, leads_nowhere
        )
        self.assert_refused({**plain, "TLS": CERTIFICATE})
        self.assert_refused({**plain, "BIND": ["ssl:443"]})
        # Only Twisted knows.
        self.assert_refused({**plain, "BIND": ["haproxy:ssl:443"]})
        both = {"BIND": [":443"], "TLS": CERTIFICATE}
        self.assert_refused(
            {**both, "REDIRECT_BIND": [":443"]},
            f"E005 REDIRECT_BIND: {place}: ':443' is in BIND too.",
        )
        for bind in ("unix:a.sock", "tcp:0", "fd:3"):
            self.assert_refused(
                {**both, "BIND": [":443", bind], "REDIRECT_BIND": [bind]},
                f"E005 REDIRECT_BIND: {place}: {bind!r} is in BIND too.",
            )
        self.assert_refused({**both, "BIND": [":0"], "REDIRECT_BIND": [":0"]})
        for bind in ("ssl:80", "fd:3:tls"):
            self.assert_refused(
                {**both, "REDIRECT_BIND": [bind]},
                f"E005 REDIRECT_BIND: {place}: {bind!r} has TLS already. "
                f"Only plain HTTP is redirected.",
            )
        self.assert_refused(
            {**both, "REDIRECT_BIND": "80"},
            f"E004 REDIRECT_BIND: {place} must be a list of strings, not '80'. "
            f"Write it like ['127.0.0.1:8000'].",
        )
        [problem] = problems_of({**both, "REDIRECT_BIND": ["80"]})
        self.assertEqual((problem.code, problem.key), ("E006", "REDIRECT_BIND"))


class DescriptionTests(SimpleTestCase):
    def test_what_is_printed(self) -> None:
        settings = {
            "TLS": {
                **CERTIFICATE,
                "PASSWORD": "hush",
                "SNI": {"a.example": CERTIFICATE},
            },
            "REDIRECT_BIND": [":80"],
        }
        described = json.loads(json.dumps(describe(build_config(settings))))
        self.assertEqual(described["REDIRECT_BIND"], [":80"])
        self.assertEqual(
            described["TLS"],
            {
                **CERTIFICATE,
                "PASSWORD": MASK,
                "MINIMUM_VERSION": "TLSv1.2",
                "CIPHERS": None,
                "CLIENT_CA": None,
                "CLIENT_CERTIFICATE": "none",
                "SNI": {"a.example": CERTIFICATE},
                "ACME": None,
            },
        )

    def test_it_can_be_fed_back(self) -> None:
        for tls in (None, {**CERTIFICATE, "SNI": {"a.example": CERTIFICATE}}):
            config = build_config({"TLS": tls})
            described = json.loads(json.dumps(describe(config)))
            self.assertEqual(build_config(described), config)


class AllowedHostTests(SimpleTestCase):
    def test_they_are_djangos(self) -> None:
        for allowed, debug, good, bad in (
            (["a.example", ".b.example"], False, "a.example", "c.example"),
            ([".b.example"], False, "x.b.example:80", "b.example.c"),
            (["*"], False, "anything", "not/a/host"),
            (["[::1]"], False, "[::1]:8000", "[::2]"),
            ([], True, "localhost:8000", "a.example"),
            ([], True, "x.localhost", "localhost.example"),
            (["a.example"], True, "a.example", "localhost"),
        ):
            with (
                self.subTest(allowed),
                override_settings(ALLOWED_HOSTS=allowed, DEBUG=debug),
            ):
                self.assertTrue(allowed_host(good))
                self.assertFalse(allowed_host(bad))
                self.assertFalse(allowed_host(""))

    @override_settings(DJANGO_DAPHNE={})
    def test_the_server_is_told(self) -> None:
        self.assertIs(get_config().hooks.allowed_host, allowed_host)


class MachineTests(SimpleTestCase):
    """``check --deploy`` reads the files; ``check`` does not."""

    def setUp(self) -> None:
        self.files = Files(Path(self.enterContext(tempfile.TemporaryDirectory())))
        self.root = authority()
        self.leaf = self.root.issue("localhost", LOCAL)
        self.good = self.files.tls("good", self.leaf)
        self.key = self.good["PRIVATE_KEY"]

    def deployed(self, tls: dict[str, Any], **more: Any) -> list[CheckMessage]:
        with override_settings(DJANGO_DAPHNE={"TLS": tls, **more}):
            self.assertEqual(run(), [], "only check --deploy looks at files")
            return run(deploy=True)

    def assert_fault(self, tls: dict[str, Any], key: str, said: str) -> None:
        place = "DJANGO_DAPHNE['TLS']" + "".join(f"[{k!r}]" for k in key.split("."))
        self.assertEqual(
            self.deployed({**self.good, **tls}),
            [Error(f"{place}: {said}", id="django_daphne.E010")],
        )

    def test_all_is_well(self) -> None:
        self.assertEqual(self.deployed(self.good), [])

    def test_certificates(self) -> None:
        missing = str(self.files.directory / "missing.pem")
        self.assert_fault(
            {"CERTIFICATE": missing},
            "CERTIFICATE",
            f"{missing} cannot be read (No such file or directory).",
        )
        # Nothing is said of a key twice.
        self.assert_fault(
            {"CERTIFICATE": missing, "PRIVATE_KEY": None},
            "CERTIFICATE",
            f"{missing} cannot be read (No such file or directory).",
        )
        empty = self.files.write("empty.pem")
        self.assert_fault(
            {"CERTIFICATE": empty},
            "CERTIFICATE",
            f"{empty} holds no certificate in PEM format.",
        )
        damaged = self.files.write("damaged.pem", self.leaf.pem.replace("MII", "AAA"))
        self.assert_fault(
            {"CERTIFICATE": damaged},
            "CERTIFICATE",
            f"the certificate in {damaged} is damaged.",
        )
        behind = self.files.write(
            "behind.pem", self.leaf.pem, self.root.pem.replace("MII", "AAA")
        )
        self.assert_fault(
            {"CERTIFICATE": behind},
            "PRIVATE_KEY",
            f"the certificate in {behind} is damaged.",
        )
        # A version of which nobody has heard (RFC 5280 section 4.1.2.1).
        encoded = ssl.PEM_cert_to_DER_cert(self.leaf.pem)
        encoded = encoded.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x55")
        future = self.files.write("future.pem", ssl.DER_cert_to_PEM_cert(encoded))
        self.assert_fault(
            {"CERTIFICATE": future},
            "CERTIFICATE",
            f"the certificate in {future} is damaged.",
        )

    def test_dates(self) -> None:
        late = self.root.issue("localhost", begins=-9, expires=-2, key=self.leaf.key)
        file = self.files.write("late.pem", late.pem)
        when = f"{late.certificate.not_valid_after_utc:%d %B %Y}"
        self.assert_fault(
            {"CERTIFICATE": file},
            "CERTIFICATE",
            f"the certificate in {file} expired on {when}.",
        )
        early = self.root.issue("localhost", begins=2, key=self.leaf.key)
        file = self.files.write("early.pem", early.pem)
        when = f"{early.certificate.not_valid_before_utc:%d %B %Y}"
        self.assert_fault(
            {"CERTIFICATE": file},
            "CERTIFICATE",
            f"the certificate in {file} is not valid before {when}.",
        )

    def test_keys(self) -> None:
        other = self.files.write("other.key", self.root.key_pem())
        certificate = self.good["CERTIFICATE"]
        self.assert_fault(
            {"PRIVATE_KEY": other},
            "PRIVATE_KEY",
            f"the private key in {other} does not belong to the certificate in "
            f"{certificate}.",
        )
        self.assert_fault(
            {"PRIVATE_KEY": None},
            "PRIVATE_KEY",
            f"{certificate} holds no private key in PEM format.",
        )
        damaged = self.files.write("damaged.key", self.leaf.key_pem().replace("M", "A"))
        self.assert_fault(
            {"PRIVATE_KEY": damaged},
            "PRIVATE_KEY",
            f"the private key in {damaged} is damaged.",
        )

    def test_passwords(self) -> None:
        locked = self.files.write("locked.key", self.leaf.key_pem("right"))
        self.assert_fault(
            {"PRIVATE_KEY": locked},
            "PASSWORD",
            f"{locked} is encrypted, and TLS['PASSWORD'] is not set.",
        )
        self.assert_fault(
            {"PRIVATE_KEY": locked, "PASSWORD": "wrong"},
            "PASSWORD",
            f"{locked} is damaged, or has another password.",
        )
        self.assert_fault(
            {"PRIVATE_KEY": locked, "PASSWORD": "x" * 2000},
            "PASSWORD",
            "the password is longer than OpenSSL takes.",
        )
        right = {**self.good, "PRIVATE_KEY": locked, "PASSWORD": "right"}
        self.assertEqual(self.deployed(right), [])
        # One that opens nothing does no harm.
        self.assertEqual(self.deployed({**self.good, "PASSWORD": "spare"}), [])

    def test_what_openssl_finds_too_weak(self) -> None:
        small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
        weak = self.root.issue("localhost", key=small)
        tls = self.files.tls("weak", weak)
        self.assert_fault(
            tls,
            "CERTIFICATE",
            f"the key of {tls['CERTIFICATE']} is too small to be safe.",
        )

    def test_ciphers(self) -> None:
        self.assert_fault(
            {"CIPHERS": "ROT13"},
            "CIPHERS",
            "OpenSSL has no cipher that 'ROT13' means.",
        )

    def test_client_authorities(self) -> None:
        required = {"CLIENT_CERTIFICATE": "required"}
        self.assert_fault(
            {**required, "CLIENT_CA": self.key},
            "CLIENT_CA",
            f"{self.key} holds no certificates in PEM format.",
        )
        missing = str(self.files.directory / "missing.pem")
        self.assert_fault(
            {**required, "CLIENT_CA": missing},
            "CLIENT_CA",
            f"{missing} cannot be read (No such file or directory).",
        )

    def test_names(self) -> None:
        bad = {"CERTIFICATE": self.good["CERTIFICATE"], "PRIVATE_KEY": "/nowhere"}
        self.assert_fault(
            {"SNI": {"fine.example": self.good, "bad.example": bad}},
            "SNI",
            "'bad.example': /nowhere cannot be read (No such file or directory).",
        )

    def test_everything_at_once(self) -> None:
        messages = self.deployed(
            {
                "CERTIFICATE": "/nowhere/crt.pem",
                "PRIVATE_KEY": "/nowhere/key.pem",
                "CIPHERS": "ROT13",
                "CLIENT_CA": "/nowhere/ca.pem",
                "CLIENT_CERTIFICATE": "optional",
                "SNI": {"a.example": {"CERTIFICATE": "/nowhere/a.pem"}},
            },
            BIND=["ssl:443:privateKey=/nowhere/x.pem"],
        )
        self.assertEqual(
            [(m.id, m.msg.partition(": /")[0].removeprefix("DJANGO_DAPHNE"))
             for m in messages],
            [
                (
                    "django_daphne.E010",
                    "['TLS']['CIPHERS']: OpenSSL has no cipher that 'ROT13' means.",
                ),
                ("django_daphne.E010", "['TLS']['CLIENT_CA']"),
                ("django_daphne.E010", "['TLS']['CERTIFICATE']"),
                ("django_daphne.E010", "['TLS']['PRIVATE_KEY']"),
                ("django_daphne.E010", "['TLS']['SNI']: 'a.example'"),
                (
                    "django_daphne.E010",
                    "['BIND']: 'ssl:443:privateKey=/nowhere/x.pem'",
                ),
                ("django_daphne.W008", "['TLS'] applies to no bind: only those like "
                 "'0.0.0.0:443', 'fd:3:tls' and 'systemd:tls' take it."),
            ],
        )  # fmt: skip

    def test_one_that_expires_soon(self) -> None:
        for begins, expires, warned in (
            (-80, 10, True),
            (-70, 20, False),
            # Of a life of six days, one.
            (-5.5, 0.5, True),
            (-4, 2, False),
        ):
            soon = self.root.issue("localhost", begins=begins, expires=expires)
            tls = self.files.tls("soon", soon)
            when = f"{soon.certificate.not_valid_after_utc:%d %B %Y}"
            warning = Warning(
                f"DJANGO_DAPHNE['TLS']: the certificate CN=localhost expires on "
                f"{when}.",
                hint="Renew it.",
                id="django_daphne.W007",
            )
            self.assertEqual(self.deployed(tls), [warning] if warned else [])
            more = {**self.good, "SNI": {"a.example": tls}}
            self.assertEqual(self.deployed(more), [warning] if warned else [])
            endpoint = (
                f"ssl:443:privateKey={tls['PRIVATE_KEY']}:certKey={tls['CERTIFICATE']}"
            )
            with override_settings(DJANGO_DAPHNE={"BIND": [endpoint]}):
                ids = [message.id for message in run(deploy=True)]
            self.assertEqual(ids, ["django_daphne.W007"] if warned else [])

    def test_tls_without_a_bind(self) -> None:
        for bind, idle in (
            (["unix:a.sock"], True),
            (["tcp:8000"], True),
            (["fd:3"], True),
            (["unix:a.sock", ":443"], False),
            (["fd:3:tls"], False),
            (["systemd:tls"], False),
        ):
            ids = [message.id for message in self.deployed(self.good, BIND=bind)]
            self.assertEqual(ids, ["django_daphne.W008"] if idle else [], bind)

    @override_settings(
        DJANGO_DAPHNE={"TLS": {"CERTIFICATE": "/nowhere/crt.pem"}, "BIND": [":443"]}
    )
    def test_migrate_is_not_hindered(self) -> None:
        call_command("check")
        call_command("check", "--fail-level", "WARNING", "--tag", "django_daphne")

    def test_a_certificate_without_a_subject(self) -> None:
        nobody = self.root.issue(
            "", ["a.example", "b.example"], begins=-80, expires=5, subject=x509.Name([])
        )
        [message] = self.deployed(self.files.tls("nobody", nobody))
        self.assertIn("the certificate a.example, b.example expires on", message.msg)


class CommandTests(RunasgiTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.files = Files(self.directory)
        self.root = authority()
        self.leaf = self.root.issue("localhost", LOCAL)
        self.tls = self.files.tls("server", self.leaf)

    def configure(self, tls: Any, **more: Any) -> None:
        self.settings(f"DJANGO_DAPHNE = { ({'TLS': tls, **more})!r}")

    def fetch_over_tls(self, url: str) -> bytes:
        done = subprocess.run(
            [
                *("curl", "--silent", "--show-error", "--cacert"),
                *(self.files.write("root.pem", self.root.pem), url),
            ],
            capture_output=True,
            timeout=PATIENCE,
        )
        self.assertEqual(done.stderr, b"")
        return done.stdout

    def test_serving(self) -> None:
        self.configure(self.tls, REDIRECT_BIND=[f"tcp:0:interface={HOST}"])
        process = self.runasgi(f"{HOST}:0", "unix:app.sock")
        port = process.expect(rf"^Listening on https://{HOST}:(\d+)$")[1]
        plain = process.expect(rf"^Listening on http://{HOST}:(\d+)$")[1]
        process.expect("^Listening on unix:app.sock$")
        self.assertEqual(self.fetch_over_tls(f"https://localhost:{port}/"), b"hello")
        response, _ = self.fetch(int(plain), "/a?b")
        self.assertEqual(response.status, 308)
        self.assertEqual(response.getheader("location"), f"https://{HOST}:{port}/a?b")
        self.assertEqual(process.stop(), 0)
        self.assertEqual(process.stderr, "")

    def test_allowed_hosts(self) -> None:
        values = {"TLS": self.tls, "REDIRECT_BIND": [f"tcp:0:interface={HOST}"]}
        self.settings(f"DJANGO_DAPHNE, ALLOWED_HOSTS = {values!r}, ['.a.example']")
        process = self.runasgi(f"{HOST}:0")
        plain = int(process.expect(rf"^Listening on http://{HOST}:(\d+)$")[1])
        for host, status in (("x.a.example", 308), ("b.example", 400)):
            self.assertEqual(self.get(plain, Host=host)[0], status)

    def test_flags(self) -> None:
        flags = ("--certificate", "server.crt", "--private-key", "server.key")
        process = self.runasgi(f"{HOST}:0", *flags)
        url = process.expect(r"^Listening on (https://\S+)$")[1]
        self.assertEqual(self.fetch_over_tls(url.replace(HOST, "localhost")), b"hello")

    def test_flags_beside_the_setting(self) -> None:
        self.configure({**self.tls, "MINIMUM_VERSION": "TLSv1.3"})
        other = self.root.issue("other", LOCAL)
        self.files.tls("other", other)
        flags = ("--certificate", "other.crt", "--private-key", "other.key")
        process = self.runasgi(f"{HOST}:0", *flags)
        port = int(process.expect(r"^Listening on https://\S+:(\d+)$")[1])
        self.assertEqual(ssl.get_server_certificate((HOST, port)), other.pem)

    def test_mistakes_in_flags(self) -> None:
        self.assert_one_line(
            self.refused("--private-key", "server.key"),
            "--private-key is of no use without TLS['CERTIFICATE'].",
        )
        self.assert_one_line(
            self.refused("--certificate", "missing.pem"),
            "--certificate: missing.pem cannot be read (No such file or directory).",
        )
        self.assert_one_line(
            self.refused("--certificate", "server.crt"),
            "DJANGO_DAPHNE['TLS']['PRIVATE_KEY']: server.crt holds no private key in "
            "PEM format.",
        )

    def test_each_fault_is_a_line(self) -> None:
        late = self.root.issue("localhost", begins=-9, expires=-2)
        key = self.files.write("other.key", self.root.key_pem())
        for tls, expected in (
            ({**self.tls, "PRIVATE_KEY": key}, "does not belong to the certificate in"),
            ({**self.tls, "PRIVATE_KEY": "/nowhere"}, "cannot be read"),
            (self.files.tls("late", late), "expired on"),
            ({**self.tls, "CIPHERS": "ROT13"}, "OpenSSL has no cipher"),
        ):
            self.configure(tls)
            for arguments in ((f"{HOST}:0",), ("--check-config",)):
                with self.subTest(expected, arguments=arguments):
                    error = self.refused(*arguments)
                    self.assertEqual(len(error.splitlines()), 1, error)
                    self.assertTrue(error.startswith("CommandError: DJANGO_DAPHNE"))
                    self.assertIn(expected, error)

    def test_an_unreadable_file(self) -> None:
        folder = str(self.directory)
        self.configure({"CERTIFICATE": folder})
        self.assert_one_line(
            self.refused(),
            f"DJANGO_DAPHNE['TLS']['CERTIFICATE']: {folder} cannot be read "
            f"(Is a directory).",
        )

    def test_nothing_hinders_migrate(self) -> None:
        late = self.root.issue("localhost", begins=-9, expires=-2)
        self.configure(self.files.tls("late", late))
        process = self.start("manage.py", "migrate")
        self.assertEqual(process.wait(), 0, process.stderr)
        process = self.start("manage.py", "check", "--deploy")
        self.assertEqual(process.wait(), 1)
        self.assertIn("(django_daphne.E010)", process.stderr)

    def test_check_config(self) -> None:
        key = self.files.write("locked.key", self.leaf.key_pem("open sesame"))
        self.configure({**self.tls, "PRIVATE_KEY": key, "PASSWORD": "open sesame"})
        process = self.runasgi("--check-config")
        self.assertEqual(process.wait(), 0, process.stderr)
        self.assertNotIn("open sesame", process.stdout + process.stderr)
        described = json.loads(process.stdout)
        self.assertEqual(described["TLS"]["PASSWORD"], MASK)
        self.assertEqual(described["TLS"]["PRIVATE_KEY"], key)
        self.assertEqual(process.stderr, "")

    def test_check_config_warns(self) -> None:
        soon = self.root.issue("localhost", begins=-80, expires=10)
        self.configure(self.files.tls("soon", soon))
        process = self.runasgi("--check-config")
        self.assertEqual(process.wait(), 0, process.stderr)
        json.loads(process.stdout)
        self.assertRegex(
            process.stderr,
            r"^Warning: DJANGO_DAPHNE\['TLS'\]: the certificate CN=localhost expires "
            r"on \d\d \w+ \d{4}\.\n$",
        )

    def test_an_endpoint_string(self) -> None:
        missing = "ssl:0:privateKey=/nowhere/key.pem"
        self.assert_one_line(
            self.refused(missing),
            f"BIND: {missing!r}: /nowhere/key.pem cannot be read (No such file or "
            f"directory).",
        )

    def test_sockets_of_systemd(self) -> None:
        self.configure(self.tls)
        with socket.create_server((HOST, 0)) as listening:
            fd = os.dup(listening.fileno())
            self.addCleanup(os.close, fd)
            process = self.start("manage.py", "runasgi", f"fd:{fd}:tls", inherited=[fd])
        url = process.expect(r"^Listening on (https://\S+)$")[1]
        self.assertEqual(self.fetch_over_tls(url.replace(HOST, "localhost")), b"hello")
