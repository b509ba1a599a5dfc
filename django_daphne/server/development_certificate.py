"""The certificate of ``runserver --https``: signed by itself, kept for the user.

A browser asks once whether it may trust such a certificate, so it is made once and kept
in the user's cache folder, for all projects. It is made anew when it is about to
expire, when somebody else could have read its key, and when it is for too few names;
those that it was for are kept then, so that two projects on two addresses do not take
it from each other.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import stat
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from .tls import UNREADABLE

FOLDER = "django_daphne"
FILE = "development.pem"

#: Browsers refuse certificates that live longer than 398 days.
LIFETIME = timedelta(days=365)

#: Made anew when less is left.
RENEWAL = timedelta(days=30)

#: What a developer's own machine is called, wherever the server is bound.
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

#: More names than that are not taken over from an old certificate.
MAX_NAMES = 50


def development_certificate(host: str) -> Path:
    """A PEM file with a certificate for this machine and ``host``, and its key.

    :raises OSError: when it cannot be kept.
    """
    path = _cache_folder() / FOLDER / FILE
    # An IPv6 address has many spellings, and is read back in one of them.
    wanted = {str(_general(name).value) for name in (*LOCAL_NAMES, host)}
    names = _names(path)
    if not wanted <= names:
        if len(names | wanted) <= MAX_NAMES:
            wanted |= names
        _write(path, _make(sorted(wanted)))
    return path


def _cache_folder() -> Path:
    # The second is Windows'. XDG Base Directory Specification: a relative path is to be
    # ignored.
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        folder = Path(os.environ.get(name, ""))
        if folder.is_absolute():
            return folder
    return Path(os.path.expanduser("~")) / ".cache"


def _names(path: Path) -> set[str]:
    """What the certificate in ``path`` is for; nothing if it is not to be used."""
    try:
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            return set()
        data = path.read_bytes()
        serialization.load_pem_private_key(data, None)
        certificate = x509.load_pem_x509_certificate(data)
        names = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
    except (OSError, TypeError, x509.ExtensionNotFound, *UNREADABLE):
        return set()
    if certificate.not_valid_after_utc - datetime.now(UTC) < RENEWAL:
        return set()
    return {str(name.value) for name in names}


def _make(names: Iterable[str]) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [x509.NameAttribute(x509.NameOID.COMMON_NAME, "django_daphne development")]
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks of virtual machines lag.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(list(map(_general, names))), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
        )
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(path: Path, data: bytes) -> None:
    """Put ``data`` in the place of ``path``, for this user's eyes only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp() makes files of mode 0600.
    descriptor, draft = tempfile.mkstemp(prefix=FILE, dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
