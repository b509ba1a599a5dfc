"""The certificate that servers with TLS are started with: self-signed, made once.

An elliptic key, as everybody has now: the handshake is not what is measured, but eight
of them are in the figures.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import environment
from problems import CannotRun


@dataclass(frozen=True)
class Certificate:
    """Files in PEM format."""

    chain: Path
    key: Path


def certificate() -> Certificate:
    """:raises CannotRun: when ``openssl`` cannot make one."""
    made = Certificate(environment.HOME / "chain.pem", environment.HOME / "key.pem")
    if not made.chain.exists():
        command = [
            *("openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "3650"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(made.key), "-out", str(made.chain)),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise CannotRun(f"openssl: {done.stderr.strip()}")
    return made
