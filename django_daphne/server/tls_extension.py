"""The ``tls`` extension of ASGI (version 0.2): what a handshake has settled.

It is worked out once for each connection, and only on those with TLS.
"""

from __future__ import annotations

import functools
import ssl
from typing import Any, Protocol

_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


class Handshake(Protocol):
    """As much of :class:`ssl.SSLObject` as is asked here.

    The object may also have ``get_verified_chain``, which is public API of Python's
    from 3.13 on.
    """

    @property
    def context(self) -> Any: ...
    def version(self) -> str | None: ...
    def cipher(self) -> tuple[str, str, int] | None: ...
    def getpeercert(self, binary_form: bool = False) -> Any: ...


def tls_extension(tls: Handshake) -> dict[str, Any]:
    """The extension's content for a connection whose handshake is complete.

    ``client_cert_chain`` has the verified certificates, the client's own first; before
    Python 3.13, and where a session was resumed, that one alone. A certificate that
    was not verified never gets here: its handshake fails.
    """
    leaf = getattr(tls.context, "leaf", None)
    cipher = tls.cipher()
    extension: dict[str, Any] = {
        "server_cert": None if leaf is None else leaf.pem,
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": _VERSIONS.get(tls.version() or ""),
        "cipher_suite": None if cipher is None else _cipher_suites().get(cipher[0]),
    }
    client = tls.getpeercert(True)
    if client is not None:
        from .tls import UNREADABLE

        try:
            extension["client_cert_name"] = _subject(client)
        except UNREADABLE as error:
            # OpenSSL is the more tolerant reader. A name that cannot be read must not
            # look like a certificate without one.
            extension["client_cert_error"] = f"the certificate cannot be read: {error}"
        else:
            chain = _verified_chain(tls) or [client]
            extension["client_cert_chain"] = [
                ssl.DER_cert_to_PEM_cert(certificate) for certificate in chain
            ]
    return extension


def _subject(certificate: bytes) -> str:
    from cryptography.x509 import load_der_x509_certificate

    return load_der_x509_certificate(certificate).subject.rfc4514_string()


def _verified_chain(tls: Handshake) -> list[bytes]:
    chain = getattr(tls, "get_verified_chain", None)
    return [] if chain is None else chain()


@functools.cache
def _cipher_suites() -> dict[str, int]:
    """The IANA number of each cipher suite by OpenSSL's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    return {known["name"]: known["id"] & 0xFFFF for known in context.get_ciphers()}
