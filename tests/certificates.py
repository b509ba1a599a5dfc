"""Certificates of every kind that a test wants, and the files that hold them."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

LOCAL = ("localhost", "127.0.0.1", "::1")


class Issued:
    """A certificate with its key, and whoever signed it."""

    def __init__(
        self, certificate: x509.Certificate, key: Key, signer: Issued | None
    ) -> None:
        self.certificate = certificate
        self.key = key
        self.signer = signer

    @property
    def pem(self) -> str:
        encoded = self.certificate.public_bytes(serialization.Encoding.PEM)
        return encoded.decode("ascii")

    def key_pem(self, password: str | None = None) -> str:
        encryption: serialization.KeySerializationEncryption
        encryption = serialization.NoEncryption()
        if password is not None:
            encryption = serialization.BestAvailableEncryption(password.encode())
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        ).decode("ascii")

    def issue(
        self,
        name: str,
        names: Iterable[str] = (),
        *,
        ca: bool = False,
        begins: float = -1,
        expires: float = 60,
        key: Key | None = None,
        subject: x509.Name | None = None,
    ) -> Issued:
        """A certificate signed by this one; times are in days from now."""
        return _issue(name, names, ca, begins, expires, key, subject, self)


def authority(name: str = "root") -> Issued:
    return _issue(name, (), True, -1, 60, None, None, None)


def _issue(
    name: str,
    names: Iterable[str],
    ca: bool,
    begins: float,
    expires: float,
    key: Key | None,
    subject: x509.Name | None,
    signer: Issued | None,
) -> Issued:
    key = key or ec.generate_private_key(ec.SECP256R1())
    if subject is None:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signing_key = key if signer is None else signer.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if signer is None else signer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=begins))
        .not_valid_after(now + datetime.timedelta(days=expires))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(
                signing_key.public_key()
            ),
            False,
        )
    )
    if ca:
        usage = x509.KeyUsage(
            *(False,) * 5, key_cert_sign=True, crl_sign=True,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = builder.add_extension(usage, True)
    else:
        general = [_general(item) for item in names or [name]]
        builder = builder.add_extension(x509.SubjectAlternativeName(general), False)
    return Issued(builder.sign(signing_key, hashes.SHA256()), key, signer)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Files:
    """A directory of PEM files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, name: str, *texts: str) -> str:
        """Save ``texts`` as one file, in one instant; its path."""
        path = self.directory / name
        draft = self.directory / f"{name}.draft"
        draft.write_text("".join(texts))
        draft.replace(path)
        return str(path)

    def tls(self, name: str, issued: Issued, *chain: Issued) -> dict[str, str]:
        """What ``TLS`` wants of a certificate."""
        return {
            "CERTIFICATE": self.write(
                f"{name}.crt", issued.pem, *(one.pem for one in chain)
            ),
            "PRIVATE_KEY": self.write(f"{name}.key", issued.key_pem()),
        }
