"""The TLS context of an ``ssl:`` endpoint string, from the standard library.

OpenSSL's errors name neither the file nor the fault in a user's words ("[SSL] PEM
lib"), so each file is looked at by itself before all go together into the context.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

from ..binds import Bind, EndpointTLS
from ..errors import BindError
from .refusals import refusal


def alpn_protocols(http2: bool) -> list[str]:
    """What we speak after the handshake (RFC 7301), the best first."""
    return ["h2", "http/1.1"] if http2 else ["http/1.1"]


def endpoint_context(
    bind: Bind, tls: EndpointTLS, protocols: list[str]
) -> ssl.SSLContext:
    """A server's context for the files of ``tls``, which negotiates ``protocols``.

    TLS 1.2 at least (RFC 8996 retires what came before), the interpreter's ciphers,
    no client certificates.

    :raises BindError: when a file is missing, unreadable or not what it should be; the
        line names the file.
    """
    certificate = _read(bind, tls.certificate)
    if b"-----BEGIN CERTIFICATE-----" not in certificate:
        raise refusal(bind, f"{tls.certificate} holds no certificate in PEM format.")
    if b"PRIVATE KEY-----" not in _read(bind, tls.private_key):
        raise refusal(bind, f"{tls.private_key} holds no private key in PEM format.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.tls12_only:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(protocols)
    _load_certificate(bind, tls, context)
    if tls.extra_chain is not None:
        # OpenSSL completes the chain it sends from the certificates it knows, where
        # the certificate's own file does not bring a chain along.
        _load(bind, tls.extra_chain, "certificates", context.load_verify_locations)
    if tls.dh_parameters is not None:
        _load(
            bind,
            tls.dh_parameters,
            "Diffie-Hellman parameters",
            context.load_dh_params,
        )
    return context


def _read(bind: Bind, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise _unreadable(bind, path, error) from None


def _unreadable(bind: Bind, path: str, error: OSError) -> BindError:
    return refusal(bind, f"{path} cannot be read ({error.strerror}).")


def _load(bind: Bind, path: str, what: str, load: Callable[[str], None]) -> None:
    _read(bind, path)
    try:
        load(path)
    except ssl.SSLError:
        raise refusal(bind, f"{path} holds no {what} in PEM format.") from None


class _PasswordNeeded(Exception):
    pass


def _load_certificate(bind: Bind, tls: EndpointTLS, context: ssl.SSLContext) -> None:
    def password() -> str:
        # Without this OpenSSL would ask on the terminal.
        raise _PasswordNeeded

    try:
        context.load_cert_chain(tls.certificate, tls.private_key, password)
    except _PasswordNeeded:
        raise refusal(
            bind,
            f"{tls.private_key} is encrypted, and an endpoint string has no place for "
            f"its password; decrypt it with 'openssl pkey'.",
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise refusal(
                bind,
                f"the private key in {tls.private_key} does not belong to the "
                f"certificate in {tls.certificate}.",
            ) from None
        raise _damaged(bind, tls, error) from None


def _damaged(bind: Bind, tls: EndpointTLS, error: ssl.SSLError) -> BindError:
    """Which of the two files OpenSSL could not use."""
    scratch = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        scratch.load_verify_locations(tls.certificate)
    except ssl.SSLError:
        return refusal(bind, f"the certificate in {tls.certificate} is damaged.")
    if error.reason and error.reason.startswith("EE_KEY_TOO_SMALL"):
        return refusal(bind, f"the key of {tls.certificate} is too small to be safe.")
    return refusal(bind, f"the private key in {tls.private_key} is damaged.")
