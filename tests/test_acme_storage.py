"""What is kept of automatic certificates, and when something is done about them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import random
import socket
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import requests
from acme import messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from urllib3.exceptions import MaxRetryError, NewConnectionError, ReadTimeoutError

from django_daphne.config import ACME
from django_daphne.errors import TLSError
from django_daphne.server import acme_client, acme_renewal
from django_daphne.server.acme_renewal import Course, Renewal, shown, tend
from django_daphne.server.acme_storage import Status, Storage, names_of
from django_daphne.server.acme_timing import (
    JITTER,
    LONGEST_WAIT,
    Fault,
    make_plan,
    mark_of,
    wait_after,
    within,
)
from django_daphne.server.tls import Leaf

from .certificates import Issued, authority
from .serving import PATIENCE

LOG = "django_daphne.server"
TODAY = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


class StorageTestCase(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()), "acme")
        self.root = authority()
        self.storage = self.open()
        self.storage.prepare()

    def open(self, *domains: str, directory: str = "https://ca.example/d") -> Storage:
        domains = domains or ("a.example", "b.example")
        return Storage(
            ACME(domains=domains, directory_url=directory, storage=str(self.folder))
        )

    def issue(self, *names: str, begins: float = -1, expires: float = 60) -> Issued:
        names = names or ("a.example", "b.example")
        return self.root.issue(names[0], names, begins=begins, expires=expires)

    def save(self, issued: Issued, storage: Storage | None = None) -> None:
        pem = (issued.key_pem() + issued.pem).encode()
        (storage or self.storage).save_certificate(pem)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())


class CertificateTests(StorageTestCase):
    def test_none_at_first(self) -> None:
        self.assertIsNone(self.storage.leaf())
        self.assertIsNone(self.storage.substitute())
        self.assertEqual(self.storage.status(), Status())

    def test_what_was_saved(self) -> None:
        issued = self.issue()
        self.save(issued)
        leaf = self.open("b.example", "a.example").leaf()
        assert leaf is not None
        self.assertEqual(leaf.pem, issued.pem)
        self.assertEqual(names_of(leaf), {"a.example", "b.example"})

    def test_names_and_directory_are_part_of_the_place(self) -> None:
        self.save(self.issue())
        self.assertIsNone(self.open("a.example").leaf())
        self.assertIsNone(self.open(directory="https://ca.example/other").leaf())

    def test_what_cannot_be_shown_is_not_saved(self) -> None:
        good = self.issue()
        self.save(good)
        other = self.issue()
        for bad, said in (
            (b"", "no certificate"),
            ((other.key_pem() + good.pem).encode(), "does not belong"),
            (good.pem.encode(), "no private key"),
            ((other.key_pem() + other.pem).encode()[:-300], "damaged"),
        ):
            with self.subTest(said), self.assertRaisesRegex(TLSError, said):
                self.storage.save_certificate(bad)
        for issued, said in (
            (self.issue("a.example"), "is not for a.example, b.example"),
            (self.issue(begins=-9, expires=-1), "expired"),
            (self.issue(begins=1), "not valid before"),
        ):
            with self.subTest(said), self.assertRaisesRegex(TLSError, said):
                self.save(issued)
        leaf = self.storage.leaf()
        assert leaf is not None
        self.assertEqual(leaf.pem, good.pem)
        self.assertEqual(self.files(), [self.storage.certificate.name])

    def test_a_substitute(self) -> None:
        one, two = self.open("a.example"), self.open("a.example", "c.example")
        self.save(self.issue("c.example"), self.open("c.example"))
        self.assertIsNone(self.storage.substitute())
        self.save(self.issue("a.example", expires=9), one)
        self.assertEqual(self.storage.substitute(), one.certificate)
        # What is longer valid is better, and more of the names better still.
        self.save(self.issue("a.example", "c.example", expires=10), two)
        self.assertEqual(self.storage.substitute(), two.certificate)
        elsewhere = self.open(directory="https://ca.example/other")
        self.save(self.issue(expires=8), elsewhere)
        self.assertEqual(self.storage.substitute(), elsewhere.certificate)
        elsewhere.certificate.write_text("broken")
        self.assertEqual(self.storage.substitute(), two.certificate)

    def test_files_that_cannot_be_opened_just_now(self) -> None:
        # As with too many open ones. None of them is broken, or gone.
        self.save(self.issue())
        self.storage.save_status(Status(failures=3))
        scarce = OSError(errno.EMFILE, "Too many open files")
        with (
            mock.patch("builtins.open", side_effect=scarce),
            mock.patch("io.open", side_effect=scarce),
        ):
            for read in (self.storage.leaf, self.storage.status):
                with self.subTest(read), self.assertRaises(OSError) as raised:
                    read()
                self.assertIs(raised.exception, scarce)

    def test_names_that_cannot_be_read(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a.example")])
        # A sequence of one DNS name, which is no ASCII.
        odd = x509.UnrecognizedExtension(
            x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x03\x82\x01\xff"
        )
        today = datetime.now(UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), 7)
        builder = builder.not_valid_before(today - DAY).not_valid_after(today + DAY)
        signed = builder.add_extension(odd, False).sign(key, hashes.SHA256())
        with self.assertRaisesRegex(TLSError, "is not for a.example, b.example"):
            self.save(Issued(signed, key, None))

    def test_a_write_that_fails_leaves_the_old(self) -> None:
        self.save(self.issue())
        before = self.storage.certificate.read_bytes()
        with mock.patch.object(os, "fsync", side_effect=OSError(28, "full")):
            with self.assertRaises(OSError):
                self.save(self.issue())
        self.assertEqual(self.storage.certificate.read_bytes(), before)
        self.assertEqual(self.files(), [self.storage.certificate.name])


class AccountTests(StorageTestCase):
    def test_a_key_for_each_directory(self) -> None:
        key = self.storage.account_key()
        self.assertEqual(key.private_numbers(), self.numbers(self.open()))
        self.assertEqual(key.private_numbers(), self.numbers(self.open("c.example")))
        other = self.open(directory="https://ca.example/other")
        self.assertNotEqual(key.private_numbers(), self.numbers(other))

    def numbers(self, storage: Storage) -> ec.EllipticCurvePrivateNumbers:
        return storage.account_key().private_numbers()

    def test_the_address(self) -> None:
        key = self.storage.account_key()
        self.assertIsNone(self.storage.account_email())
        self.storage.save_account(key, "a@b")
        self.assertEqual(self.open().account_email(), "a@b")
        self.assertEqual(key.private_numbers(), self.numbers(self.open()))

    def test_a_broken_file(self) -> None:
        before = self.numbers(self.storage)
        [path] = (self.folder / "accounts").iterdir()
        for text in ("", "{}", "[]", '{"key": 3}', '{"key": "no key"}'):
            path.write_text(text)
            with self.subTest(text), self.assertLogs(LOG, "ERROR") as logged:
                self.assertNotEqual(self.numbers(self.storage), before)
                self.assertIn("is of no use", logged.output[0])
                broken = path.with_suffix(".broken")
                self.assertEqual(broken.read_text(), text)
        # Once it is mended, nothing is said.
        with self.assertNoLogs(LOG):
            self.storage.account_key()


class StatusTests(StorageTestCase):
    def test_there_and_back(self) -> None:
        status = Status(
            issued=TODAY,
            failures=3,
            error="no\nway",
            failed=TODAY,
            next_attempt=TODAY + HOUR,
            told_to_wait=True,
            suggested=TODAY,
            suggested_for="abc",
            ask_again=TODAY,
        )
        self.storage.save_status(status)
        self.assertEqual(self.open().status(), status)

    def test_other_settings_may_be_tried_at_once(self) -> None:
        status = Status(
            failures=1, next_attempt=TODAY, tried_with=self.storage.tried_with
        )
        self.storage.save_status(status)
        self.assertEqual(self.open().status().next_attempt, TODAY)
        other = Storage(
            ACME(
                domains=self.storage.acme.domains,
                directory_url=self.storage.acme.directory_url,
                storage=str(self.folder),
                email="a@b",
            )
        )
        self.assertIsNone(other.status().next_attempt)
        self.storage.save_status(
            Status(failures=1, next_attempt=TODAY, told_to_wait=True)
        )
        self.assertEqual(other.status().next_attempt, TODAY)

    def test_broken_files(self) -> None:
        path = self.storage.certificate_status
        for text in (
            "",
            "[]",
            "\0",
            '{"failures": "3"}',
            '{"failures": true}',
            '{"issued": 3}',
            '{"issued": "yesterday"}',
            '{"issued": "2026-11-20T12:00:00"}',
            '{"error": null}',
        ):
            path.write_text(text)
            with self.subTest(text), self.assertLogs(LOG, "WARNING"):
                self.assertEqual(self.storage.status(), Status())
        path.write_bytes(b"\xff")
        with self.assertLogs(LOG, "WARNING"):
            self.assertEqual(self.storage.status(), Status())
        # Of another version: what it does not know is left out, what it lacks is none.
        path.write_text('{"failures": 2, "something": "new"}')
        self.assertEqual(self.storage.status(), Status(failures=2))


class SharingTests(StorageTestCase):
    def test_one_at_a_time(self) -> None:
        with self.storage.lock() as held:
            self.assertTrue(held)
            with self.open().lock() as also:
                self.assertFalse(also)
        with self.open().lock() as held:
            self.assertTrue(held)

    def test_the_lock_goes_with_the_process(self) -> None:
        code = (
            "import sys; from django_daphne.config import ACME;"
            "from django_daphne.server.acme_storage import Storage;"
            "lock = Storage(ACME(domains=('a',), storage=sys.argv[1])).lock();"
            "print(lock.__enter__(), flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            self.assertEqual(process.stdout.readline(), b"True\n")
            with self.storage.lock() as held:
                self.assertFalse(held)
            process.kill()
            process.wait()
        with self.storage.lock() as held:
            self.assertTrue(held)

    @unittest.skipUnless(hasattr(os, "fork"), "no process is forked here")
    def test_the_lock_does_not_stay_with_a_child(self) -> None:
        with self.storage.lock():
            ours, child = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                child.recv(1)
                os._exit(0)
        try:
            with self.open().lock() as held:
                self.assertTrue(held)
        finally:
            ours.send(b"x")
            os.waitpid(pid, 0)
            ours.close()
            child.close()

    def test_challenges(self) -> None:
        self.storage.publish("token-1", "token-1.thumbprint")
        self.assertEqual(
            self.open("c.example").answer("token-1"), b"token-1.thumbprint"
        )
        self.assertIsNone(self.storage.answer("token-2"))
        (self.folder / "certificates" / ".draft-1").touch()
        self.storage.tidy()
        self.assertIsNone(self.storage.answer("token-1"))
        self.assertEqual(self.files(), [])

    def test_without_a_folder(self) -> None:
        missing = Storage(ACME(domains=("a.example",), storage="/nowhere/acme"))
        self.assertIsNone(missing.answer("token"))
        self.assertIsNone(missing.leaf())
        self.assertIsNone(missing.substitute())
        self.assertEqual(missing.status(), Status())

    def test_modes(self) -> None:
        old = os.umask(0o077)
        os.umask(old)
        self.assertEqual(self.folder.stat().st_mode & 0o777, 0o700)
        self.save(self.issue())
        self.storage.account_key()
        with self.assertNoLogs(LOG):
            self.storage.close_to_others()
        self.storage.certificate.chmod(0o640)
        with self.assertLogs(LOG, "WARNING") as logged:
            self.storage.close_to_others()
        self.assertIn(str(self.storage.certificate), logged.output[0])
        self.assertEqual(self.storage.certificate.stat().st_mode & 0o777, 0o600)


# -- Time ------------------------------------------------------------------------------


def leaf(begins: timedelta, expires: timedelta, mark: str = "a") -> Leaf:
    """A certificate by times from ``TODAY``."""
    return Leaf(mark, "CN=a.example", TODAY + begins, TODAY + expires)


class PlanTests(unittest.TestCase):
    def test_without_a_certificate(self) -> None:
        plan = make_plan(None, Status(), TODAY)
        self.assertEqual((plan.order, plan.ask, plan.next), (TODAY, None, TODAY))

    def test_a_third_of_the_life(self) -> None:
        for life in (90 * DAY, 6 * DAY, HOUR, 10 * MINUTE):
            orders = set()
            for number in range(50):
                one = leaf(timedelta(), life, str(number))
                order = make_plan(one, Status(), TODAY).order - TODAY
                self.assertGreaterEqual(order, life * 2 / 3)
                self.assertLessEqual(order, life * 2 / 3 + life / 30)
                orders.add(order)
                # It is the certificate's own: a restart changes nothing.
                again = make_plan(one, Status(), TODAY + MINUTE).order - TODAY
                self.assertEqual(again, order)
            self.assertGreater(len(orders), 40)
            self.assertGreater(max(orders) - min(orders), life / 60)

    def test_late(self) -> None:
        plan = make_plan(leaf(-80 * DAY, 10 * DAY), Status(), TODAY)
        self.assertLess(plan.order, TODAY)
        self.assertIsNone(plan.ask)

    def test_after_a_failure(self) -> None:
        late = leaf(-80 * DAY, 10 * DAY)
        status = Status(failures=2, next_attempt=TODAY + HOUR)
        for one in (None, late):
            self.assertEqual(make_plan(one, status, TODAY).order, TODAY + HOUR)
            after = make_plan(one, status, TODAY + 2 * HOUR).order
            self.assertLessEqual(after, TODAY + 2 * HOUR)

    def test_after_a_crash(self) -> None:
        status = Status(unfinished=TODAY + MINUTE)
        self.assertEqual(make_plan(None, status, TODAY).order, TODAY + MINUTE)

    def test_a_clock_that_was_wrong(self) -> None:
        # Set years ahead when something failed: nobody waits for that.
        for status in (
            Status(failures=1, next_attempt=TODAY + 900 * DAY),
            Status(unfinished=TODAY + 900 * DAY),
        ):
            self.assertEqual(make_plan(None, status, TODAY).order, TODAY)
        late = leaf(-80 * DAY, 10 * DAY)
        ahead = Status(issued=TODAY + 900 * DAY)
        self.assertLess(make_plan(late, ahead, TODAY).order, TODAY)
        # Nor for an answer that was to be asked for then.
        new = leaf(-DAY, 89 * DAY)
        asked = Status(suggested_for=mark_of(new), ask_again=TODAY + 900 * DAY)
        self.assertEqual(make_plan(new, asked, TODAY).ask, TODAY + DAY)
        # Set back by years: the times that are kept are all past by then.
        self.assertIsNone(make_plan(late, Status(), TODAY + 900 * DAY).ask)

    def test_what_the_authority_wishes(self) -> None:
        one = leaf(-30 * DAY, 60 * DAY)
        self.assertEqual(make_plan(one, Status(), TODAY).ask, TODAY)
        status = Status(
            suggested=TODAY + 3 * DAY,
            suggested_for=mark_of(one),
            ask_again=TODAY + 6 * HOUR,
        )
        plan = make_plan(one, status, TODAY)
        self.assertEqual(plan.order, TODAY + 3 * DAY)
        self.assertEqual(plan.ask, TODAY + 6 * HOUR)
        self.assertEqual(plan.next, plan.ask)
        # It was said of another certificate.
        other = leaf(-30 * DAY, 60 * DAY, "b")
        plan = make_plan(other, status, TODAY)
        self.assertGreater(plan.order, TODAY + 20 * DAY)
        self.assertEqual(plan.ask, TODAY)

    def test_not_until_it_is_too_late(self) -> None:
        one = leaf(-30 * DAY, 60 * DAY)
        status = Status(suggested=TODAY + 59 * DAY, suggested_for=mark_of(one))
        self.assertEqual(make_plan(one, status, TODAY).order, TODAY + 45 * DAY)

    def test_not_again_and_again(self) -> None:
        # An authority that would have each new certificate renewed at once.
        new = leaf(-HOUR, 90 * DAY)
        status = Status(issued=TODAY, suggested=TODAY - DAY, suggested_for=mark_of(new))
        self.assertEqual(make_plan(new, status, TODAY).order, TODAY + HOUR)
        # One that sends what is as good as expired.
        old = leaf(-80 * DAY, 3 * MINUTE)
        status = Status(issued=TODAY)
        self.assertEqual(make_plan(old, status, TODAY).order, TODAY + MINUTE)

    def test_within_the_window(self) -> None:
        times = [
            within(leaf(-DAY, DAY, str(number)), TODAY, TODAY + DAY)
            for number in range(99)
        ]
        self.assertGreaterEqual(min(times), TODAY)
        self.assertLessEqual(max(times), TODAY + DAY)
        self.assertGreater(max(times) - min(times), DAY / 2)
        self.assertEqual(within(leaf(-DAY, DAY), TODAY, TODAY - DAY), TODAY)


class WaitTests(unittest.TestCase):
    def setUp(self) -> None:
        # Without jitter.
        self.enterContext(mock.patch.object(random, "random", return_value=0.0))

    def waits(self, fault: Fault, told: timedelta | None = None) -> list[timedelta]:
        return [wait_after(fault, failures, told) for failures in range(1, 9)]

    def test_nobody_there(self) -> None:
        minutes = [1, 2, 4, 8, 16, 32, 60, 60]
        self.assertEqual(self.waits(Fault.AWAY), [m * MINUTE for m in minutes])

    def test_refused(self) -> None:
        minutes = [2, 10, 50, 250, 720, 720, 720, 720]
        self.assertEqual(self.waits(Fault.REFUSED), [m * MINUTE for m in minutes])

    def test_limited(self) -> None:
        hours = [1, 2, 4, 8, 16, 24, 24, 24]
        self.assertEqual(self.waits(Fault.LIMITED), [h * HOUR for h in hours])

    def test_no_end_to_failures(self) -> None:
        for fault in Fault:
            self.assertLessEqual(wait_after(fault, 10**9), DAY)

    def test_told(self) -> None:
        self.assertEqual(wait_after(Fault.LIMITED, 1, 90 * MINUTE), 90 * MINUTE)
        self.assertEqual(wait_after(Fault.LIMITED, 9, 7 * DAY), 7 * DAY)
        self.assertEqual(wait_after(Fault.LIMITED, 1, 9999 * DAY), LONGEST_WAIT)
        # Never less than a refusal costs.
        self.assertEqual(wait_after(Fault.REFUSED, 2, MINUTE), 10 * MINUTE)
        self.assertEqual(wait_after(Fault.AWAY, 1, HOUR), HOUR)
        # "In 0 seconds", time after time.
        seconds = [1, 2, 4, 8, 16, 32, 64, 128]
        self.assertEqual(
            self.waits(Fault.LIMITED, timedelta()),
            [timedelta(seconds=s) for s in seconds],
        )

    def test_jitter(self) -> None:
        for chance in (0.0, 0.5, 0.999):
            with mock.patch.object(random, "random", return_value=chance):
                self.assertEqual(wait_after(Fault.AWAY, 1), MINUTE * (1 + 0.2 * chance))
                # Never sooner than was asked for, and not much later.
                wait = wait_after(Fault.LIMITED, 1, DAY)
                self.assertEqual(wait, DAY + 10 * MINUTE * chance)

    def test_retry_after(self) -> None:
        read = acme_client.read_retry_after
        for value, expected in (
            (None, None),
            ("0", timedelta()),
            ("3600", HOUR),
            (" 60 ", MINUTE),
            ("Fri, 20 Nov 2026 13:00:00 GMT", HOUR),
            ("Fri, 20 Nov 2026 11:00:00 GMT", timedelta()),
            ("Fri, 20 Nov 2026 13:00:00", None),
            ("-1", None),
            ("soon", None),
            ("9" * 30, None),
            ("9" * 5000, None),
            ("", None),
        ):
            with self.subTest(value[:40] if value else value):
                self.assertEqual(read(value, TODAY), expected)

    def test_times_that_are_shown(self) -> None:
        self.assertEqual(shown(TODAY), "20 November 2026 12:00:00 UTC")
        later = TODAY + timedelta(microseconds=1)
        self.assertEqual(shown(later), "20 November 2026 12:00:01 UTC")


# -- Words -----------------------------------------------------------------------------


class PollTests(StorageTestCase):
    def test_between_two_looks(self) -> None:
        waits: list[float] = []
        stopped = mock.Mock(wait=lambda seconds: waits.append(seconds))
        with mock.patch.object(acme_client.time, "monotonic", return_value=0.0):
            asked = acme_client.Authority(self.storage, stopped)
            asked._end = 1.0
            # "At once" is not ten times a second.
            for told in (None, timedelta(), timedelta(seconds=20), timedelta(1)):
                asked._network.told = told
                asked._pause(1.0)
        self.assertEqual(waits, [1.0, 1.0, 20.0, acme_client.LONGEST_POLL])


class CheckTests(StorageTestCase):
    """What is looked at when a certificate has come."""

    def setUp(self) -> None:
        super().setUp()
        self.waits: list[float] = []
        self.stopped = mock.Mock(wait=self.wait)
        self.stop = False
        self.authority = acme_client.Authority(self.storage, self.stopped)

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self.stop

    def check(self, issued: Issued) -> None:
        assert isinstance(issued.key, ec.EllipticCurvePrivateKey)
        self.authority._check(issued.pem, issued.key)

    def test_a_clock_that_is_a_little_late(self) -> None:
        self.check(self.issue())
        self.assertEqual(self.waits, [])
        # By ours it is not valid yet, and it could not be loaded.
        with self.assertLogs(LOG, "WARNING") as logged:
            self.check(self.issue(begins=5 / 24 / 60))
        self.assertRegex(logged.output[0], r"the clock of this machine is [23]\d\d s")
        [waited] = self.waits
        self.assertGreater(waited, 200)
        self.assertLessEqual(waited, 301)
        self.stop = True
        with self.assertLogs(LOG), self.assertRaises(acme_client.Stopped):
            self.check(self.issue(begins=5 / 24 / 60))

    def test_a_clock_that_is_wrong(self) -> None:
        with self.assertRaisesRegex(acme_client.Refusal, "clock of this machine"):
            self.check(self.issue(begins=0.5))
        self.assertEqual(self.waits, [])

    def test_the_key_of_another(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        with self.assertRaisesRegex(acme_client.Refusal, "another's"):
            self.authority._check(self.issue().pem, key)


class WordTests(unittest.TestCase):
    def test_why_there_is_no_answer(self) -> None:
        def raised(cause: BaseException, error: Exception) -> Exception:
            try:
                raise error from cause
            except Exception as caught:
                return caught

        refused = raised(
            ConnectionRefusedError(111, "Connection refused"),
            NewConnectionError(mock.Mock(), "Failed to establish: [Errno 111]"),
        )
        pool = mock.Mock()
        heap = requests.ConnectionError(MaxRetryError(pool, "/dir", refused))
        self.assertEqual(
            acme_client._why_away(heap),
            "the authority cannot be reached (Connection refused)",
        )
        silent = raised(
            TimeoutError("timed out"), ReadTimeoutError(pool, "/dir", "Read timed out.")
        )
        self.assertEqual(
            acme_client._why_away(requests.ReadTimeout(silent)),
            "the authority gave no answer within 30 s",
        )
        self.assertEqual(
            acme_client._why_away(requests.RequestException("odd")),
            "the authority cannot be reached (odd)",
        )

    def test_what_an_authority_says(self) -> None:
        error = messages.Error.from_json(
            {
                "type": "urn:ietf:params:acme:error:compound",
                "detail": "two things",
                "subproblems": [
                    {
                        "type": "urn:ietf:params:acme:error:caa",
                        "detail": "forbidden",
                        "identifier": {"type": "dns", "value": "a.example"},
                    },
                    {"type": "urn:ietf:params:acme:error:dns", "title": "gone"},
                ],
            }
        )
        self.assertEqual(
            acme_client._text(error),
            "two things (compound); a.example: forbidden (caa); gone (dns)",
        )

    def test_kinds_of_failure(self) -> None:
        for code, status, fault in (
            ("rateLimited", 429, Fault.LIMITED),
            ("rateLimited", 403, Fault.LIMITED),
            ("malformed", 429, Fault.LIMITED),
            ("serverInternal", 500, Fault.AWAY),
            ("malformed", 503, Fault.AWAY),
            ("badNonce", 400, Fault.AWAY),
            ("rejectedIdentifier", 400, Fault.REFUSED),
            ("malformed", None, Fault.REFUSED),
        ):
            error = messages.Error.with_code(code)
            self.assertIs(acme_client._fault_of(error, status), fault)


# -- The loop --------------------------------------------------------------------------


class RenewalTests(StorageTestCase):
    def setUp(self) -> None:
        super().setUp()
        # What is said of attempts that wait is for those tests that ask for it.
        quiet = logging.NullHandler()
        logging.getLogger(LOG).addHandler(quiet)
        self.addCleanup(logging.getLogger(LOG).removeHandler, quiet)

    def run_with(self, check: Callable[[Renewal, list[Leaf]], object]) -> None:
        """Call ``check`` on a loop, with a renewal that has not been started."""

        async def main() -> None:
            found: list[Leaf] = []
            renewal = Renewal(self.storage, found.append)
            try:
                outcome = check(renewal, found)
                if asyncio.iscoroutine(outcome):
                    await asyncio.wait_for(outcome, PATIENCE)
            finally:
                renewal.stop()

        asyncio.run(main())

    def tending(self) -> contextlib.AbstractContextManager[mock.Mock]:
        return mock.patch.object(acme_renewal, "tend")

    def test_nothing_is_due(self) -> None:
        issued = self.issue()
        self.save(issued)
        kept = self.storage.leaf()
        assert kept is not None
        self.storage.save_status(
            Status(
                suggested_for=mark_of(kept), ask_again=datetime.now(UTC) + timedelta(1)
            )
        )

        def check(renewal: Renewal, found: list[Leaf]) -> None:
            renewal.start()
            self.assertEqual([leaf.pem for leaf in found], [issued.pem])

        with self.tending() as tend:
            self.run_with(check)
        tend.assert_not_called()

    def test_it_becomes_due(self) -> None:
        later = datetime.now(UTC) + timedelta(seconds=0.2)
        self.storage.save_status(Status(failures=1, next_attempt=later))
        self.enterContext(mock.patch.object(acme_renewal, "LOOK", 0.01))

        async def check(renewal: Renewal, found: list[Leaf]) -> None:
            renewal.start()
            while not tend.called:
                await asyncio.sleep(0.01)
            self.assertGreaterEqual(datetime.now(UTC), later)

        with self.tending() as tend:
            self.run_with(check)

    def test_the_clock_is_set_forward(self) -> None:
        later = datetime.now(UTC) + timedelta(days=1)
        self.storage.save_status(Status(failures=1, next_attempt=later))
        self.enterContext(mock.patch.object(acme_renewal, "LOOK", 0.01))

        async def check(renewal: Renewal, found: list[Leaf]) -> None:
            renewal.start()
            await asyncio.sleep(0)
            tend.assert_not_called()
            clock = mock.patch.object(
                acme_renewal, "now", lambda: later + timedelta(seconds=1)
            )
            with clock:
                while not tend.called:
                    await asyncio.sleep(0.01)

        with self.tending() as tend:
            self.run_with(check)

    def test_try_now(self) -> None:
        later = datetime.now(UTC) + timedelta(days=1)

        async def check(renewal: Renewal, found: list[Leaf]) -> None:
            done = asyncio.Event()
            loop = asyncio.get_running_loop()
            tend.side_effect = lambda *_: loop.call_soon_threadsafe(done.set)
            renewal.start()
            tend.assert_not_called()
            renewal.try_now()
            await done.wait()
            self.assertEqual(self.storage.status().failures, 1)

        for status in (
            Status(failures=1, next_attempt=later),
            Status(failures=1, unfinished=later),
        ):
            self.storage.save_status(status)
            with self.subTest(status), self.tending() as tend:
                self.run_with(check)

    def test_not_each_second(self) -> None:
        # Whoever sends SIGHUP again and again has mended nothing.
        # A machine that is busy for long must not be late for it.
        failed = datetime.now(UTC) + 5 * MINUTE
        status = Status(failures=1, failed=failed, next_attempt=failed + HOUR)
        self.storage.save_status(status)

        def check(renewal: Renewal, found: list[Leaf]) -> None:
            renewal.start()
            renewal.try_now()
            renewal.try_now()
            soonest = failed + acme_renewal.SOONEST
            self.assertEqual(self.storage.status().next_attempt, soonest)

        with self.tending() as tend:
            self.run_with(check)
        tend.assert_not_called()

    def test_a_start_says_what_it_waits_for(self) -> None:
        later = datetime.now(UTC) + HOUR
        hint = f"at {shown(later)}, or on SIGHUP"
        for status, said in (
            (Status(failures=1, error="no", next_attempt=later), f"no. .* {hint}$"),
            (Status(unfinished=later), f"the server died .* {hint}$"),
            (Status(error="no", next_attempt=later, told_to_wait=True), "UTC$"),
        ):
            self.storage.save_status(status)
            with self.tending(), self.assertLogs(LOG, "WARNING") as logged:
                self.run_with(lambda renewal, found: renewal.start())
            [line] = logged.output
            with self.subTest(status):
                self.assertRegex(line, f"the last attempt .* failed: .*{said}")

    def test_a_mistake_of_ours(self) -> None:
        self.enterContext(mock.patch.object(acme_renewal, "PAUSE", 0.0))

        async def check(renewal: Renewal, found: list[Leaf]) -> None:
            renewal.start()
            while renewal._working:
                await asyncio.sleep(0.01)
            # Nothing is noted of what was done. It is not done every other second.
            timer = renewal._timer
            assert timer is not None
            left = timer.when() - asyncio.get_running_loop().time()
            self.assertGreater(left, 3000)

        with self.tending() as tend, self.assertLogs(LOG, "ERROR") as logged:
            tend.side_effect = LookupError("a mistake")
            self.run_with(check)
        self.assertIn("LookupError: a mistake", logged.output[0])
        self.assertEqual(tend.call_count, 1)

    def test_a_look_that_fails(self) -> None:
        self.enterContext(mock.patch.object(acme_renewal, "LOOK", 0.01))

        async def check(renewal: Renewal, found: list[Leaf]) -> None:
            renewal.start()
            while not tend.called:
                await asyncio.sleep(0.01)

        real, mistakes = make_plan, iter([LookupError("a mistake")])

        def plan(*values: Any) -> Any:
            for mistake in mistakes:
                raise mistake
            return real(*values)

        patch = mock.patch.object(acme_renewal, "make_plan", plan)
        with self.tending() as tend, self.assertLogs(LOG, "ERROR"), patch:
            with mock.patch.object(Renewal, "_tell_of_wait"):
                self.run_with(check)

    def test_no_more_threads(self) -> None:
        self.enterContext(mock.patch.object(acme_renewal, "LOOK", 0.01))

        async def check(renewal: Renewal, found: list[Leaf]) -> None:
            full = RuntimeError("can't start new thread")
            with mock.patch("threading.Thread.start", side_effect=full) as begun:
                renewal.start()
                while begun.call_count < 2:
                    await asyncio.sleep(0.01)
            while not tend.called:
                await asyncio.sleep(0.01)

        with self.tending() as tend, self.assertLogs(LOG, "ERROR") as logged:
            self.run_with(check)
        self.assertIn("can't start new thread", logged.output[0])

    def test_stops_without_end(self) -> None:
        with mock.patch.object(acme_renewal, "Authority") as asked:
            asked.return_value.order.side_effect = acme_client.Stopped
            for number in range(1, acme_renewal.STOPS + 1):
                tend(self.storage, Course())
                self.assertEqual(asked.call_count, number)
            # Now it is not begun again at once ...
            tend(self.storage, Course())
            self.assertEqual(asked.call_count, acme_renewal.STOPS)
            status = self.storage.status()
            self.assertIn("again and again", status.error)
            self.assertEqual(status.failures, 0)
            # ... and ever later.
            waits = []
            for _ in range(3):
                assert status.next_attempt is not None
                waits.append(status.next_attempt - acme_renewal.now())
                past = status.next_attempt + timedelta(seconds=1)
                with mock.patch.object(acme_renewal, "now", lambda at=past: at):
                    tend(self.storage, Course())
                    status = self.storage.status()
                    assert status.next_attempt is not None
                    waits.append(status.next_attempt - past)
        self.assertGreater(waits[-1], 3 * waits[0])

    def test_a_stop_counts_once(self) -> None:
        # The loop gives up for the thread, which may live to do so too.
        def never(*_: object) -> None:
            renewal.stop()
            raise acme_client.Stopped

        renewal = Renewal(self.storage, lambda leaf: None)
        with mock.patch.object(acme_renewal, "Authority") as asked:
            asked.return_value.order.side_effect = never
            tend(self.storage, renewal._course)
        status = self.storage.status()
        self.assertEqual((status.given_up, status.unfinished), (1, None))

    def test_a_certificate_that_cannot_be_stored(self) -> None:
        # It was issued, and is counted.
        full = OSError(28, "No space left on device")
        with (
            mock.patch.object(acme_renewal, "Authority"),
            mock.patch.object(Storage, "save_certificate", side_effect=full),
            self.assertLogs(LOG, "ERROR") as logged,
        ):
            before = datetime.now(UTC)
            tend(self.storage, Course())
        self.assertIn("No space left on device", logged.output[0])
        status = self.storage.status()
        assert status.next_attempt is not None
        least = wait_after(Fault.REFUSED, 1) / (1 + JITTER)
        self.assertGreaterEqual(status.next_attempt, before + least)

    def test_not_now_where_it_is_told_to_wait(self) -> None:
        later = datetime.now(UTC) + timedelta(days=1)
        status = Status(failures=1, next_attempt=later, told_to_wait=True)
        self.storage.save_status(status)

        def check(renewal: Renewal, found: list[Leaf]) -> None:
            renewal.start()
            renewal.try_now()
            self.assertEqual(self.storage.status(), status)

        with self.tending() as tend:
            self.run_with(check)
        tend.assert_not_called()

    def test_a_storage_that_fails(self) -> None:
        self.enterContext(mock.patch.object(acme_renewal, "LOOK", 0.01))
        full = OSError(28, "No space left on device")

        async def check(renewal: Renewal, found: list[Leaf]) -> None:
            renewal.start()
            while tend.call_count < 3:
                await asyncio.sleep(0.01)

        with self.tending() as tend, self.assertLogs(LOG, "ERROR") as logged:
            tend.side_effect = full
            self.run_with(check)
        # It is said once.
        self.assertEqual(len(logged.output), 1)
        self.assertIn("No space left on device", logged.output[0])

    def test_somebody_else_has_done_it(self) -> None:
        # Found out with the lock, and nobody is asked.
        self.save(self.issue())
        kept = self.storage.leaf()
        assert kept is not None
        later = datetime.now(UTC) + HOUR
        self.storage.save_status(Status(suggested_for=mark_of(kept), ask_again=later))
        with mock.patch.object(acme_renewal, "Authority") as asked:
            tend(self.storage, Course())
        asked.assert_not_called()

    def test_somebody_else_is_at_it(self) -> None:
        with mock.patch.object(acme_renewal, "Authority") as asked:
            with self.open().lock():
                tend(self.storage, Course())
        asked.assert_not_called()
        self.assertEqual(self.storage.status(), Status())

    def test_a_process_that_dies_each_time(self) -> None:
        class Died(BaseException):
            pass

        waits = []
        with mock.patch.object(acme_renewal, "Authority") as asked:
            asked.side_effect = Died
            for number in range(1, 4):
                with self.assertRaises(Died):
                    tend(self.storage, Course())
                status = self.storage.status()
                assert status.unfinished is not None
                waits.append(status.unfinished - datetime.now(UTC))
                self.assertEqual(asked.call_count, number)
                # Started again at once, it does nothing.
                tend(self.storage, Course())
                self.assertEqual(asked.call_count, number)
                past = mock.patch.object(
                    acme_renewal, "now", lambda s=status: s.unfinished + MINUTE
                )
                self.enterContext(past)
        self.assertGreater(waits[1], 2 * waits[0])
        self.assertGreater(waits[2], 2 * waits[1])

    def test_a_disk_that_is_full(self) -> None:
        # Without a note of the attempt there is none.
        with (
            mock.patch.object(acme_renewal, "Authority") as asked,
            mock.patch.object(Storage, "save_status", side_effect=OSError(28, "full")),
            self.assertRaises(OSError),
        ):
            tend(self.storage, Course())
        asked.assert_not_called()
