"""Bind strings, read without touching the machine.

A bind says where the server listens. Ours are short (``127.0.0.1:8000``,
``unix:/run/app.sock``, ``fd:3``, ``systemd:``); Twisted's are endpoint descriptions
(``ssl:443:privateKey=key.pem``). Both become one frozen :class:`Bind`. The Twisted
prefixes whose meaning is fully known (``tcp``, ``tcp6``, ``ssl``, ``unix``, ``fd``,
``systemd``) are mapped to the fast transports; every other prefix stays a Twisted
endpoint and keeps its text. Opening what a Bind describes is ``server/endpoints.py``'s
work.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

#: Mode of a Unix socket we make: its owner and group may connect. A web server joins
#: the group; nobody else gets to speak to the application behind its back.
DEFAULT_UNIX_MODE = 0o660

MAX_PORT = 65535

_DIGITS = re.compile(r"[0-9]+")
_ENDPOINT_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_+.-]*:")
#: RFC 1123 names, plus the underscore that container networks use.
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")


class BindKind(enum.Enum):
    TCP = "tcp"
    UNIX = "unix"
    FD = "fd"
    SYSTEMD = "systemd"
    ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True)
class EndpointTLS:
    """The certificate files named by an ``ssl:`` endpoint string."""

    private_key: str
    certificate: str
    extra_chain: str | None = None


@dataclass(frozen=True, slots=True)
class Bind:
    """One place to listen.

    ``text`` is what the user wrote. ``host`` None means every IPv4 and IPv6 address.
    ``index`` and ``name`` choose among sockets passed by systemd; both None means all
    of them.
    """

    text: str
    kind: BindKind
    host: str | None = None
    port: int = 0
    path: str = ""
    mode: int | None = DEFAULT_UNIX_MODE
    group: str | None = None
    fd: int = -1
    index: int | None = None
    name: str | None = None
    backlog: int | None = None
    tls: EndpointTLS | None = None


def parse_bind(text: str) -> Bind:
    """Read one bind string.

    :raises ValueError: with one sentence that names the fault and a correct form.
    """
    if not text or text != text.strip() or any(ord(char) < 0x20 for char in text):
        raise ValueError(f"{text!r} is not a bind: write it like '127.0.0.1:8000'.")
    prefix, _, rest = text.partition(":")
    reader = _READERS.get(prefix.lower())
    if reader is not None and not _is_host_and_port(prefix, rest):
        return reader(text, rest)
    if _DIGITS.fullmatch(text):
        raise ValueError(
            f"{text!r} has no host: write '127.0.0.1:{text}' or ':{text}' for every "
            f"address."
        )
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]:")
        if not bracket:
            raise ValueError(f"{text!r} lacks ']:PORT': write it like '[::1]:8000'.")
        return Bind(text, BindKind.TCP, host=_ipv6(text, host), port=_port(text, port))
    if text.count(":") == 1 and (rest.isdigit() or not rest):
        if not rest:
            raise ValueError(f"{text!r} has no port: write it like '{prefix}:8000'.")
        if prefix and not _HOST.fullmatch(prefix):
            raise ValueError(f"{text!r}: {prefix!r} is not a host name or address.")
        return Bind(text, BindKind.TCP, host=prefix or None, port=_port(text, rest))
    if _looks_like_ipv6(text):
        raise ValueError(
            f"{text!r} is an IPv6 address without brackets: write it like "
            f"'[::1]:8000'."
        )
    if _ENDPOINT_PREFIX.match(text) and "." not in prefix:
        return Bind(text, BindKind.ENDPOINT)
    raise ValueError(f"{text!r} is not a bind: write it like '127.0.0.1:8000'.")


def _is_host_and_port(prefix: str, rest: str) -> bool:
    # A machine may be called "tcp" or "unix", but a bind of that host is far rarer than
    # the endpoint string tcp:8000; only descriptors ("fd:3") read as the prefix alone.
    return False


def _looks_like_ipv6(text: str) -> bool:
    return text.count(":") > 1 and not re.search(r"[^0-9A-Fa-f:.%]", text)


def _port(text: str, value: str) -> int:
    if not _DIGITS.fullmatch(value) or int(value) > MAX_PORT:
        raise ValueError(f"{text!r}: {value!r} is not a port (0 to {MAX_PORT}).")
    return int(value)


def _ipv6(text: str, value: str) -> str:
    import ipaddress

    try:
        ipaddress.IPv6Address(value)
    except ValueError:
        raise ValueError(f"{text!r}: {value!r} is not an IPv6 address.") from None
    return value


def split_endpoint(rest: str) -> tuple[list[str], dict[str, str]]:
    """Split an endpoint's arguments by Twisted's rules.

    ``:`` separates, ``=`` names, a backslash keeps the next character. Returns the
    positional arguments and the named ones.
    """
    positional: list[str] = []
    named: dict[str, str] = {}
    key: str | None = None
    current: list[str] = []
    characters = iter(rest)
    for char in [*characters, None]:
        if char is None or char == ":":
            value = "".join(current)
            if key is None:
                positional.append(value)
            else:
                named[key] = value
            key, current = None, []
        else:
            current.append(char)
    return positional, named


_READERS = {}
