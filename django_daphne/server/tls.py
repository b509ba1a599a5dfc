"""TLS contexts, from the standard library, for what the settings and ``ssl:`` ask for.

OpenSSL's errors name neither the file nor the fault in a user's words ("[SSL] PEM
lib"), so each file is looked at by itself before all go together into the context, and
everything that is wrong is said at once.

A context is complete when it is first used and never changed afterwards: after a
``load_cert_chain`` that failed, it can finish no handshake. What changes gets a new
one (``certificates.py``).
"""

from __future__ import annotations

import functools
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ..binds import EndpointTLS
from ..config import TLS, CertificateFiles, Config
from ..errors import Fault, TLSError

#: What reading a certificate raises when it is damaged.
UNREADABLE = (
    ValueError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

_VERSIONS = {
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}

_VERIFICATION = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


def alpn_protocols(config: Config) -> list[str]:
    """What we speak after the handshake (RFC 7301), the best first."""
    return ["h2", "http/1.1"] if config.http2 else ["http/1.1"]


@dataclass(frozen=True, slots=True)
class Leaf:
    """The certificate that a context shows, without those that vouch for it."""

    pem: str
    #: Its subject, or, of one that has none, the names that it is for.
    name: str
    begins: datetime
    expires: datetime


#: What sends bytes to the client whose connection is set up, past the loop's transport.
send_last_words: ContextVar[Callable[[bytes], None] | None] = ContextVar(
    "send_last_words", default=None
)


class ServerSide(ssl.SSLObject):
    """One handshake, whose failure the client is told (RFC 8446 section 6.2).

    The loops close the connection and drop the alert that OpenSSL has written for it,
    so that a client could not tell a version that is too old from a server that died.
    """

    outgoing: ssl.MemoryBIO
    send: Callable[[bytes], None] | None = None

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            if self.send is not None:
                self.send(self.outgoing.read())
            raise


class ServerContext(ssl.SSLContext):
    """A server's context, which knows its certificate."""

    sslobject_class = ServerSide
    leaf: Leaf
    #: The contexts to which it may give way.
    others: Sequence[ServerContext] = ()

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **kw: Any
    ) -> ssl.SSLObject:
        tls = super().wrap_bio(incoming, outgoing, *args, **kw)
        assert isinstance(tls, ServerSide)
        tls.outgoing, tls.send = outgoing, send_last_words.get()
        return tls

    @property
    def leaves(self) -> list[Leaf]:
        """Every certificate that may be shown."""
        return [self.leaf, *(other.leaf for other in self.others)]


def build_context(tls: TLS, protocols: Sequence[str]) -> ServerContext:
    """The context for ``tls``, complete with those for other names.

    TLS 1.2 at least (RFC 8996 retires what came before). A client that asks for a name
    that is not in ``SNI`` gets the default certificate, as does one that asks for none.

    :raises TLSError: with everything that is wrong.
    """
    faults: list[Fault] = []
    context = _new_context(protocols)
    _set_policy(context, tls, faults)
    _load_certificate(context, tls, tls.password, _NO_PASSWORD, faults)
    named: dict[str, ServerContext] = {}
    for host, files in tls.sni.items():
        # OpenSSL takes the certificate and the authorities of the context changed to,
        # and the rest of what was agreed from the first: they are set up alike.
        named[host] = _new_context(protocols)
        _set_policy(named[host], tls, [])
        found: list[Fault] = []
        _load_certificate(named[host], files, tls.password, _NO_PASSWORD, found)
        faults += [Fault("SNI", f"{host!r}: {fault.message}") for fault in found]
    if faults:
        raise TLSError(faults)
    if named:
        hush_undecodable_names()
        context.others = tuple(named.values())
        context.sni_callback = _choose_by_name(named)
    return context


def endpoint_context(tls: EndpointTLS, protocols: Sequence[str]) -> ServerContext:
    """The context for the files of an ``ssl:`` endpoint string.

    :raises TLSError: with everything that is wrong.
    """
    faults: list[Fault] = []
    context = _new_context(protocols)
    if tls.tls12_only:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    files = CertificateFiles(tls.certificate, tls.private_key)
    _load_certificate(context, files, None, _NO_PLACE_FOR_A_PASSWORD, faults)
    if tls.extra_chain is not None:
        # OpenSSL completes the chain it sends from the certificates it knows, where
        # the certificate's own file does not bring a chain along.
        _load(
            "CERTIFICATE",
            tls.extra_chain,
            "certificates",
            context.load_verify_locations,
            faults,
        )
    if tls.dh_parameters is not None:
        _load(
            "CERTIFICATE",
            tls.dh_parameters,
            "Diffie-Hellman parameters",
            context.load_dh_params,
            faults,
        )
    if faults:
        raise TLSError(faults)
    return context


def _new_context(protocols: Sequence[str]) -> ServerContext:
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # TLS 1.2 lets a client ask for handshake after handshake on one connection.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(protocols))
    return context


def _set_policy(context: ServerContext, tls: TLS, faults: list[Fault]) -> None:
    context.minimum_version = _VERSIONS[tls.minimum_version]
    context.verify_mode = _VERIFICATION[tls.client_certificate]
    if tls.ciphers is not None:
        try:
            context.set_ciphers(tls.ciphers)
        except ssl.SSLError:
            said = f"OpenSSL has no cipher that {tls.ciphers!r} means."
            faults.append(Fault("CIPHERS", said))
    if tls.client_ca is not None:
        _load(
            "CLIENT_CA",
            tls.client_ca,
            "certificates",
            context.load_verify_locations,
            faults,
        )


# -- Names -----------------------------------------------------------------------------


def _choose_by_name(
    named: Mapping[str, ServerContext],
) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]:
    """A callback that changes to the context of the name that a client asks for."""

    def choose(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name is None:
            return
        name = name.lower()
        # RFC 6125 section 6.4.3: a wildcard stands for one label.
        context = named.get(name) or named.get("*." + name.partition(".")[2])
        if context is not None:
            tls.context = context

    return choose


@functools.cache
def hush_undecodable_names() -> None:
    """Keep Python from writing a traceback for each client that asks for odd bytes.

    It decodes the name before it calls us, and has no other way to tell when that
    fails. The handshake fails too, and is logged as others are.
    """
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        failed, name = unraisable.exc_value, unraisable.object
        if not (isinstance(failed, UnicodeDecodeError) and isinstance(name, bytes)):
            report(unraisable)

    sys.unraisablehook = hook


# -- Files -----------------------------------------------------------------------------

_NO_PASSWORD = "is encrypted, and TLS['PASSWORD'] is not set."
_NO_PLACE_FOR_A_PASSWORD = (
    "is encrypted, and an endpoint string has no place for its password; decrypt it "
    "with 'openssl pkey'."
)


def _read(key: str, path: str, faults: list[Fault]) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        faults.append(Fault(key, f"{path} cannot be read ({error.strerror})."))
        return None


def _load(
    key: str, path: str, what: str, load: Callable[[str], None], faults: list[Fault]
) -> None:
    if _read(key, path, faults) is None:
        return
    try:
        load(path)
    except OSError:
        faults.append(Fault(key, f"{path} holds no {what} in PEM format."))


def faults_of_authorities(key: str, path: str) -> list[Fault]:
    """What is wrong with a file of certificates to believe, that ``key`` names."""
    faults: list[Fault] = []
    scratch = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(key, path, "certificates", scratch.load_verify_locations, faults)
    return faults


def _load_certificate(
    context: ServerContext,
    files: CertificateFiles,
    password: str | None,
    without_password: str,
    faults: list[Fault],
) -> None:
    private_key = files.private_key or files.certificate
    leaf = _read_leaf(files.certificate, faults)
    if leaf is None and private_key == files.certificate:
        return
    key = _read("PRIVATE_KEY", private_key, faults)
    if key is not None and b"PRIVATE KEY-----" not in key:
        said = f"{private_key} holds no private key in PEM format."
        faults.append(Fault("PRIVATE_KEY", said))
        return
    if leaf is None or key is None:
        return
    fault = _load_chain(context, files, password, without_password)
    if fault is not None:
        faults.append(fault)
    else:
        context.leaf = leaf


def _read_leaf(path: str, faults: list[Fault]) -> Leaf | None:
    """The first certificate in a file, if it is one that is valid today."""
    data = _read("CERTIFICATE", path, faults)
    if data is None:
        return None
    fault = None
    if b"-----BEGIN CERTIFICATE-----" not in data:
        fault = f"{path} holds no certificate in PEM format."
    else:
        try:
            leaf = leaf_of(x509.load_pem_x509_certificate(data))
        except UNREADABLE:
            fault = f"the certificate in {path} is damaged."
        else:
            fault = _check_dates(path, leaf)
    if fault is None:
        return leaf
    faults.append(Fault("CERTIFICATE", fault))
    return None


def leaf_of(certificate: x509.Certificate) -> Leaf:
    """:raises UNREADABLE: when it is not encoded as certificates are."""
    return Leaf(
        certificate.public_bytes(Encoding.PEM).decode("ascii"),
        _name_of(certificate),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def _name_of(certificate: x509.Certificate) -> str:
    subject = certificate.subject.rfc4514_string()
    if subject:
        return subject
    try:
        names = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
    except x509.ExtensionNotFound:
        return "without a name"
    return ", ".join(str(name.value) for name in names)


def _check_dates(path: str, leaf: Leaf) -> str | None:
    now = datetime.now(UTC)
    if leaf.expires < now:
        return f"the certificate in {path} expired on {leaf.expires:%d %B %Y}."
    if leaf.begins > now:
        return f"the certificate in {path} is not valid before {leaf.begins:%d %B %Y}."
    return None


class _PasswordNeeded(Exception):
    pass


def _load_chain(
    context: ssl.SSLContext,
    files: CertificateFiles,
    password: str | None,
    without_password: str,
) -> Fault | None:
    private_key = files.private_key or files.certificate
    asked = False

    def answer() -> str:
        # Without this OpenSSL would ask on the terminal.
        nonlocal asked
        asked = True
        if password is None:
            raise _PasswordNeeded
        return password

    try:
        context.load_cert_chain(files.certificate, files.private_key, answer)
    except _PasswordNeeded:
        return Fault("PASSWORD", f"{private_key} {without_password}")
    except ValueError:
        return Fault("PASSWORD", "the password is longer than OpenSSL takes.")
    except OSError as error:
        # Not an SSLError when a file has vanished since it was read.
        reason = getattr(error, "reason", None) or ""
        if reason == "KEY_VALUES_MISMATCH":
            return Fault(
                "PRIVATE_KEY",
                f"the private key in {private_key} does not belong to the certificate "
                f"in {files.certificate}.",
            )
        if reason.endswith("KEY_TOO_SMALL"):
            said = f"the key of {files.certificate} is too small to be safe."
            return Fault("CERTIFICATE", said)
        if reason.endswith("MD_TOO_WEAK"):
            said = f"the signature of {files.certificate} is too weak to be safe."
            return Fault("CERTIFICATE", said)
        if asked:
            said = f"{private_key} is damaged, or has another password."
            return Fault("PASSWORD", said)
        return Fault("PRIVATE_KEY", _damaged(files, private_key))
    return None


def _damaged(files: CertificateFiles, private_key: str) -> str:
    """Which of the two files OpenSSL could not use."""
    scratch = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        scratch.load_verify_locations(files.certificate)
    except ssl.SSLError:
        return f"the certificate in {files.certificate} is damaged."
    return f"the private key in {private_key} is damaged."
