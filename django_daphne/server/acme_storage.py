"""What is kept of automatic certificates from one start to the next.

::

    STORAGE/
      lock                          held by whoever speaks with an authority
      accounts/NAME.json            one for each directory: its key
      certificates/NAME.pem         key and chain, for one directory and set of names
      certificates/NAME.json        how its renewal stands
      challenges/TOKEN              what an authority is to be answered just now

Several processes may share it. Each file is replaced in one instant, so nobody reads
half of one, and whoever orders a certificate holds the lock. Challenges are files so
that any process that listens on port 80 can answer, whichever has ordered. A name has
a digest of what its file is for: other ``DOMAINS`` or another directory find nothing,
and servers that differ in them do not take the storage from each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ..application.context import server_log
from ..config import ACME, TLS
from ..errors import Fault, TLSError
from .self_signed import private_pem
from .tls import Leaf, build_context

#: May be read, or written to, by others than the owner.
_OTHERS = 0o077
_OTHERS_WRITE = 0o022

#: What it is the fault of a file itself that it cannot be opened. Other errors, as when
#: the process has too many files open, say nothing of it.
_FAULTS_OF_A_FILE = FileNotFoundError, PermissionError, IsADirectoryError

#: How the names of files begin that are being written. No token has a dot.
_DRAFT = ".draft-"


@dataclass(frozen=True, slots=True)
class Status:
    """How the renewal of one certificate stands."""

    #: When the certificate that is stored was issued, by our clock.
    issued: datetime | None = None
    #: Attempts that have failed since, and what became of the last.
    failures: int = 0
    error: str = ""
    failed: datetime | None = None
    #: Nothing is tried before this.
    next_attempt: datetime | None = None
    #: Nor before this, while an attempt is under way: if it never tells its end, the
    #: process has died, and may do so each time.
    unfinished: datetime | None = None
    #: The authority itself has named that time.
    told_to_wait: bool = False
    #: The settings that failed: others may be tried at once.
    tried_with: str = ""
    #: Attempts in a row that were given up because the server was stopped.
    given_up: int = 0
    #: When the authority would have the certificate of ``suggested_for`` renewed, if it
    #: says, and when it is to be asked again.
    suggested: datetime | None = None
    suggested_for: str = ""
    ask_again: datetime | None = None

    def to_json(self) -> str:
        values = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in dataclasses.asdict(self).items()
        }
        return json.dumps(values, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Status:
        """:raises ValueError: when it is not what :meth:`to_json` writes."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("not an object")
        read: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            value = values.get(field.name, field.default)
            if field.default is None and value is not None:
                value = datetime.fromisoformat(value)
                if value.tzinfo is None:
                    raise ValueError(f"{field.name} is of no time zone")
            elif field.default is not None and type(value) is not type(field.default):
                raise ValueError(f"{field.name} is a {type(value).__name__}")
            read[field.name] = value
        return cls(**read)


class Storage:
    """``STORAGE``, for one directory and set of domains. Making one touches nothing.

    Methods raise OSError where the file system does not do as it should.
    """

    def __init__(self, acme: ACME) -> None:
        self.acme = acme
        self.path = Path(acme.storage)
        self._accounts = self.path / "accounts"
        self._certificates = self.path / "certificates"
        self._challenges = self.path / "challenges"
        directory = acme.directory_url
        host = directory.partition("://")[2].partition("/")[0].partition(":")[0]
        self._account = self._accounts / f"{_name(host, directory)}.json"
        domains = sorted(acme.domains)
        name = _name(domains[0], directory, *domains)
        self.certificate = self._certificates / f"{name}.pem"
        self.certificate_status = self._certificates / f"{name}.json"

    # -- The folder --------------------------------------------------------------------

    def fault(self) -> str | None:
        """Why it cannot be used, found without a change to it; None if it can."""
        path = self.path
        try:
            if not path.exists():
                while not path.exists():
                    path = path.parent
                if path.is_dir() and os.access(path, os.W_OK | os.X_OK):
                    return None
                return f"{self.path} does not exist, and cannot be made in {path}."
            if not path.is_dir():
                return f"{path} is not a folder."
        except OSError as error:
            # This user may not even look into one of the folders above.
            return f"{path} cannot be used ({error.strerror})."
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            return f"{path} cannot be read and written to by this user."
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & _OTHERS_WRITE:
            return f"others may write to {path}; take that away with 'chmod go-w'."
        return None

    def prepare(self) -> None:
        """Make the folders, where they are not there."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self._accounts, self._certificates, self._challenges):
            folder.mkdir(mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """While inside, nobody else has the lock; False where somebody has it."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield _lock(descriptor)
        finally:
            # The lock goes with the process, too; but a child that was forked meanwhile
            # has the descriptor as well, and would keep it locked.
            _unlock(descriptor)
            os.close(descriptor)

    # -- Certificates ------------------------------------------------------------------

    def examine(self, path: Path) -> Leaf:
        """The certificate in ``path``, which can be shown today.

        :raises TLSError: when it cannot.
        """
        return build_context(TLS(str(path)), []).leaf

    def leaf(self) -> Leaf | None:
        """The certificate that is stored; None unless it can be shown.

        :raises TLSError: when there is one, and it is of no use.
        """
        if not self.certificate.exists():
            return None
        try:
            return self._examine_ours(self.certificate)
        except TLSError:
            # Where files cannot be opened just now, that is no fault of this one, and
            # no reason to order another.
            with contextlib.suppress(*_FAULTS_OF_A_FILE):
                self.certificate.open("rb").close()
            raise

    def _examine_ours(self, path: Path) -> Leaf:
        leaf = self.examine(path)
        if not set(self.acme.domains) <= names_of(leaf):
            said = f"{path} is not for {', '.join(self.acme.domains)}."
            raise TLSError([Fault("ACME", said)])
        return leaf

    def substitute(self) -> Path | None:
        """One for other domains or of another authority, which is better than none."""
        best: tuple[int, datetime, Path] | None = None
        for path in self._certificates.glob("*.pem"):
            try:
                leaf = self.examine(path)
            except TLSError:
                continue
            fitting = len(names_of(leaf) & set(self.acme.domains))
            if fitting and path != self.certificate:
                best = max(
                    best or (0, leaf.expires, path), (fitting, leaf.expires, path)
                )
        return best and best[2]

    def save_certificate(self, pem: bytes) -> None:
        """Put ``pem`` in the place of the certificate that is stored.

        :raises TLSError: when it cannot be shown; the old one stays.
        """
        _replace(self.certificate, pem, self._examine_ours)

    # -- Status ------------------------------------------------------------------------

    def status(self) -> Status:
        """How things stand; as at the beginning where the file is of no use."""
        try:
            status = Status.from_json(self.certificate_status.read_text("utf-8"))
        except FileNotFoundError:
            return Status()
        except (*_FAULTS_OF_A_FILE, ValueError, TypeError) as error:
            server_log.warning(
                "ACME: %s is of no use: %s", self.certificate_status, error
            )
            return Status()
        if status.tried_with != self.tried_with and not status.told_to_wait:
            status = dataclasses.replace(status, next_attempt=None)
        return status

    @property
    def tried_with(self) -> str:
        """Those settings that an attempt may fail for, and that name no file here."""
        return " ".join(filter(None, (self.acme.email, self.acme.ca_bundle)))

    def save_status(self, status: Status, *, durable: bool = True) -> None:
        """``durable`` waits for the disk, which no event loop should."""
        data = status.to_json().encode()
        _replace(self.certificate_status, data, durable=durable)

    # -- The account -------------------------------------------------------------------

    def account_key(self) -> ec.EllipticCurvePrivateKey:
        """The key of the account, which is made if there is none that can be used."""
        try:
            key = serialization.load_pem_private_key(
                self._read_account()["key"].encode(), None
            )
            if isinstance(key, ec.EllipticCurvePrivateKey):
                return key
            fault = "its key is not an elliptic curve's"
        except FileNotFoundError:
            fault = ""
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            fault = str(error)
        if fault:
            aside = self._account.with_suffix(".broken")
            server_log.error(
                "ACME: the account in %s is of no use (%s), and is now in %s; another "
                "is registered",
                self._account,
                fault,
                aside.name,
            )
            os.replace(self._account, aside)
        key = ec.generate_private_key(ec.SECP256R1())
        self.save_account(key, None)
        return key

    def account_email(self) -> str | None:
        """What the authority was told last."""
        email = self._read_account().get("email")
        return email if isinstance(email, str) else None

    def save_account(self, key: ec.EllipticCurvePrivateKey, email: str | None) -> None:
        values = {
            "directory_url": self.acme.directory_url,
            "email": email,
            "key": private_pem(key).decode("ascii"),
        }
        _replace(self._account, json.dumps(values, indent=2).encode())

    def _read_account(self) -> dict[str, Any]:
        account = json.loads(self._account.read_text("utf-8"))
        if not isinstance(account, dict):
            raise ValueError("not an object")
        return account

    # -- Challenges --------------------------------------------------------------------

    def answer(self, token: str) -> bytes | None:
        """What to say to an authority that asks for ``token``; None if none does."""
        try:
            return (self._challenges / token).read_bytes()
        except OSError:
            return None

    def publish(self, token: str, answer: str) -> None:
        _replace(self._challenges / token, answer.encode("ascii"))

    def tidy(self) -> None:
        """Remove every challenge, and what a process left that died while writing.

        For whoever holds the lock.
        """
        left = [*self._challenges.iterdir()]
        for folder in (self._accounts, self._certificates):
            left += folder.glob(f"{_DRAFT}*")
        for path in left:
            path.unlink(missing_ok=True)

    # -- Modes -------------------------------------------------------------------------

    def close_to_others(self) -> None:
        """Take from others what they should never have had, and say so."""
        if os.name != "posix":
            return
        for path in self._all_files():
            if stat.S_IMODE(path.stat().st_mode) & _OTHERS:
                server_log.warning(
                    "ACME: others could read %s; now they cannot, but a key that "
                    "somebody has read should be replaced",
                    path,
                )
                path.chmod(0o600)

    def _all_files(self) -> Iterable[Path]:
        yield from self._accounts.iterdir()
        yield from self._certificates.iterdir()


def names_of(leaf: Leaf) -> set[str]:
    """The DNS names that a certificate is for."""
    certificate = x509.load_pem_x509_certificate(leaf.pem.encode())
    try:
        names = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        # There are none, or none that can be read.
        return set()
    return {name.lower() for name in names.get_values_for_type(x509.DNSName)}


def _name(readable: str, *meant: str) -> str:
    """A file's name: something to read, and a digest of all that is meant."""
    digest = hashlib.sha256("\n".join(meant).encode()).hexdigest()[:16]
    return f"{readable[:64]}-{digest}"


def _replace(
    path: Path,
    data: bytes,
    examine: Callable[[Path], object] | None = None,
    *,
    durable: bool = True,
) -> None:
    """Put ``data`` in the place of ``path``, for this user's eyes only.

    Not if ``examine`` raises an error for what has been written. ``durable``: whatever
    becomes of the machine, one of the two is there afterwards.
    """
    # mkstemp() makes files of mode 0600.
    descriptor, draft = tempfile.mkstemp(prefix=_DRAFT, dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if examine is not None:
            examine(Path(draft))
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    if durable and os.name == "posix":
        # The name is on the disk only when its folder is.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        """Nothing is forked here: to close it is enough."""

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
