"""What is shown in handshakes where the certificate comes by itself.

The best there is: the certificate of the storage; until it comes, one that the storage
has for some of its names; and else one that we sign ourselves, so that a client gets an
answer at all. What is believed is not given up for what is not: a file that has broken
leaves the certificate that is shown in place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ..application.context import server_log
from ..config import ACME, TLS
from ..errors import Fault, TLSError
from .acme_storage import Storage
from .self_signed import self_signed
from .tls import Leaf, ServerContext, build_context, faults_of_authorities

if TYPE_CHECKING:
    from .acme_renewal import Renewal

#: The name of the certificate that is shown until there is a real one.
TEMPORARY = "temporary certificate of django_daphne"

#: Longer than an authority is out of order.
TEMPORARY_LIFETIME = timedelta(days=365)


class AutomaticCertificate:
    """Builds the contexts for ``tls``, which has ``acme``.

    :raises TLSError: when the storage cannot be used, or the library is missing.
    """

    def __init__(self, tls: TLS, acme: ACME, protocols: Sequence[str]) -> None:
        self._tls = tls
        self._acme = acme
        self._protocols = protocols
        self.storage = Storage(acme)
        faults = faults_of(acme)
        if not faults:
            try:
                self.storage.prepare()
            except OSError as error:
                said = f"{acme.storage} cannot be used ({error.strerror})."
                faults.append(Fault("ACME", said))
        if faults:
            raise TLSError(faults)
        self._temporary: bytes | None = None
        self._shows_ours = False

    def build(self) -> ServerContext:
        """:raises TLSError: when nothing better can be shown than is."""
        try:
            leaf = self.storage.leaf()
            if leaf is None and self._shows_ours:
                said = f"{self.storage.certificate} has gone."
                raise TLSError([Fault("ACME", said)])
        except TLSError as error:
            if self._shows_ours:
                raise
            server_log.error("ACME: the stored certificate is of no use: %s", error)
            leaf = None
        except OSError as error:
            said = f"{self.storage.path} cannot be used ({error.strerror})."
            raise TLSError([Fault("ACME.STORAGE", said)]) from None
        if leaf is None:
            return self._build_substitute()
        context = self._build(self.storage.certificate)
        self._shows_ours = True
        return context

    def renewal(self, show: Callable[[Leaf], None]) -> Renewal:
        """What keeps it new; ``show`` is given each certificate that is stored."""
        from .acme_renewal import Renewal

        return Renewal(self.storage, show)

    def _build_substitute(self) -> ServerContext:
        names = ", ".join(self._acme.domains)
        path = self.storage.substitute()
        if path is not None:
            server_log.warning(
                "ACME: there is no certificate for %s yet; %s is shown meanwhile",
                names,
                path,
            )
            return self._build(path)
        if self._temporary is None:
            server_log.warning(
                "ACME: there is no certificate for %s yet; a temporary one, which no "
                "client believes, is shown meanwhile",
                names,
            )
            self._temporary = self_signed(
                TEMPORARY, self._acme.domains, TEMPORARY_LIFETIME
            )
        with _as_file(self._temporary) as path:
            return self._build(path)

    def _build(self, path: Path) -> ServerContext:
        tls = dataclasses.replace(self._tls, certificate=str(path), acme=None)
        return build_context(tls, self._protocols)


@contextlib.contextmanager
def _as_file(pem: bytes) -> Iterator[Path]:
    """A file for OpenSSL, which reads keys from nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "temporary.pem")
        path.touch(0o600)
        path.write_bytes(pem)
        yield path


def faults_of(acme: ACME) -> list[Fault]:
    """What keeps this machine from having certificates of its own."""
    faults = []
    try:
        from .acme_client import Authority  # noqa: F401
    except ImportError as error:
        said = f"a library is missing ({error}): install django-daphne[acme]."
        faults.append(Fault("ACME", said))
    fault = Storage(acme).fault()
    if fault is not None:
        faults.append(Fault("ACME.STORAGE", fault))
    if acme.ca_bundle is not None:
        faults += faults_of_authorities("ACME.CA_BUNDLE", acme.ca_bundle)
    return faults


def examine(
    tls: TLS, acme: ACME, protocols: Sequence[str]
) -> tuple[list[Fault], ServerContext | None, str]:
    """Faults, the context that would be shown, and what should have been done by now.

    Nothing is changed.
    """
    storage, late = Storage(acme), ""
    faults = faults_of(acme)
    path = None
    if not faults:
        try:
            if storage.leaf() is not None:
                path = storage.certificate
        except TLSError as error:
            late = f"the stored certificate is of no use: {error}"
        except OSError as error:
            faults.append(Fault("ACME.STORAGE", f"{acme.storage}: {error.strerror}."))
    with contextlib.ExitStack() as stack:
        if path is None:
            pem = self_signed(TEMPORARY, acme.domains, TEMPORARY_LIFETIME)
            path = stack.enter_context(_as_file(pem))
        tls = dataclasses.replace(tls, certificate=str(path), acme=None)
        try:
            return faults, build_context(tls, protocols), late
        except TLSError as error:
            return faults + error.faults, None, late
