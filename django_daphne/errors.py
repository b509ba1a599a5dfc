"""The exceptions of django_daphne.

::

    DjangoDaphneError
    ├── ConfigurationError     the description of the server is wrong (exit 1)
    ├── BindError              a listener cannot be had (exit 1)
    │   └── TLSError           nor what it has to show in a TLS handshake
    ├── LifespanFailed         the application refused to start (exit 3)
    └── ProtocolError          a peer broke its protocol; carries the answer's status
    ClientDisconnected         OSError: ``send()`` after the client has gone
    IllegalMessage             RuntimeError: the application broke the ASGI order
"""

from __future__ import annotations

from dataclasses import dataclass
from reprlib import Repr


class DjangoDaphneError(Exception):
    """Base of everything the server raises about itself."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration.

    ``key`` is the dotted setting (``"TIMEOUTS.HEADERS"``), ``code`` the stable number
    behind ``django_daphne.E…``, ``hint`` what to do about it.
    """

    code: str
    key: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class ConfigurationError(DjangoDaphneError):
    """The configuration is unusable; ``problems`` says everything that is wrong."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(str(problem) for problem in problems))


class BindError(DjangoDaphneError):
    """A listener cannot be had; the text is one line fit for a user."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one of the things that TLS is made of.

    ``key`` is the one of ``TLS`` that names it, ``message`` a sentence.
    """

    key: str
    message: str


class TLSError(BindError):
    """Certificates, keys or ciphers cannot be used; ``faults`` says everything."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__(" ".join(fault.message for fault in faults))


class LifespanFailed(DjangoDaphneError):
    """The application's lifespan startup failed; the text is its own message."""


class ProtocolError(DjangoDaphneError):
    """A peer sent what its protocol forbids.

    ``status`` is the HTTP status to answer with and ``headers`` what the answer needs
    besides; the text says why, for the log.
    """

    def __init__(
        self,
        reason: str,
        status: int = 400,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = list(headers)


class ClientDisconnected(OSError):
    """``send()`` was called after the client had gone; nobody is there to hear."""

    def __init__(self, message: str = "the client has disconnected") -> None:
        super().__init__(message)


class IllegalMessage(RuntimeError):
    """The application sent an ASGI message that its state does not allow."""


_short = Repr()
_short.maxstring = _short.maxother = 80


def shown(value: object) -> str:
    """``repr(value)``, cut to what a text about it needs: it may be a whole body."""
    return _short.repr(value)
