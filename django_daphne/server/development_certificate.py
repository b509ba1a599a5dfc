"""The certificate of ``runserver --https``: signed by itself, kept for the user.

A browser asks once whether it may trust such a certificate, so it is made once and kept
in the user's cache folder, for all projects. It is made anew when it is about to
expire, when somebody else could have read its key, and when it is for too few names;
those that it was for are kept then, so that two projects on two addresses do not take
it from each other.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from .self_signed import general_name, self_signed
from .tls import UNREADABLE

FOLDER = "django_daphne"
FILE = "development.pem"
SUBJECT = "django_daphne development"

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
    wanted = {str(general_name(name).value) for name in (*LOCAL_NAMES, host)}
    names = _names(path)
    if not wanted <= names:
        if len(names | wanted) <= MAX_NAMES:
            wanted |= names
        _write(path, self_signed(SUBJECT, sorted(wanted), LIFETIME))
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
