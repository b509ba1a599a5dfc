"""Bind strings, read without touching the machine.

A bind says where the server listens. Ours are short (``127.0.0.1:8000``,
``unix:/run/app.sock``, ``fd:3``, ``systemd:``); Twisted's are endpoint descriptions
(``ssl:443:privateKey=key.pem``). Both become one frozen :class:`Bind`. The Twisted
prefixes whose meaning is fully known (``tcp``, ``tcp6``, ``ssl``, ``unix``, ``fd``,
``systemd``) are mapped to the fast transports; every other prefix stays a Twisted
endpoint and keeps its text. Opening what a Bind describes is ``server/endpoints.py``'s
work.

How a text is told apart: a known prefix wins, then ``[`` (an IPv6 address), then one
colon followed by digits (``HOST:PORT``), and what remains with a word before its first
colon belongs to Twisted.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass

#: Mode of a Unix socket we make: its owner and group may connect. A web server joins
#: the group; nobody else gets to speak to the application behind its back.
DEFAULT_UNIX_MODE = 0o660

MAX_PORT = 65535

#: Ten digits hold every number a kernel takes for a backlog or a descriptor, and keep
#: ``int()`` away from texts of unbounded length.
_NUMBER = re.compile(r"[0-9]{1,10}")
_PORT = re.compile(r"[0-9]{1,5}")
_MODE = re.compile(r"(0o)?[0-7]{3,4}")
_IPV4_SHAPE = re.compile(r"[0-9.]+")
_IPV6_SHAPE = re.compile(r"[0-9A-Fa-f:.]+(%[^\]]+)?")
#: RFC 1123 names, plus the underscore that container networks use.
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_ENDPOINT_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")

_SYSTEMD_DOMAINS = ("INET", "INET6", "UNIX")

#: OpenSSL's names for "agree with the client on a version".
_NEGOTIATED_METHODS = ("SSLv23_METHOD", "TLS_METHOD", "TLS_SERVER_METHOD")


class BindKind(enum.Enum):
    """Which of the five ways of listening a bind asks for."""

    TCP = "tcp"
    UNIX = "unix"
    FD = "fd"
    SYSTEMD = "systemd"
    #: Only Twisted knows how.
    ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True)
class EndpointTLS:
    """The files named by an ``ssl:`` endpoint string, and its ``sslmethod``."""

    private_key: str
    certificate: str
    extra_chain: str | None = None
    dh_parameters: str | None = None
    #: True for ``sslmethod=TLSv1_2_METHOD``: TLS 1.2 and nothing newer.
    tls12_only: bool = False


@dataclass(frozen=True, slots=True)
class Bind:
    """One place to listen.

    ``text`` is what the user wrote. ``kind`` says which other fields count:

    - TCP: ``host`` (a name or an address; None means every IPv4 and IPv6 address),
      ``port`` (0 lets the system choose), ``tls`` (the files that an ``ssl:`` endpoint
      brings along). ``dual_stack`` leaves it to the system whether ``::`` takes IPv4
      too, as Twisted's own endpoints do.
    - UNIX: ``path``, ``mode``, ``group`` (a name or a number).
    - FD: ``fd``.
    - SYSTEMD: ``index`` and ``name`` choose among the sockets passed, both None takes
      all; ``domain`` is the address family the user expects.

    ``backlog`` is the bind's own; None means the server's. ``takes_tls`` means that
    the server's TLS is spoken here if it has any, and ``needs_tls`` that it must.
    """

    text: str
    kind: BindKind
    host: str | None = None
    port: int = 0
    dual_stack: bool = False
    path: str = ""
    mode: int = DEFAULT_UNIX_MODE
    group: str | None = None
    fd: int = -1
    index: int | None = None
    name: str | None = None
    domain: str | None = None
    backlog: int | None = None
    tls: EndpointTLS | None = None
    takes_tls: bool = False
    needs_tls: bool = False


def parse_bind(text: str) -> Bind:
    """Read one bind string.

    :raises ValueError: with one sentence that names the fault and a correct form.
    """
    if not text or text != text.strip() or _UNPRINTABLE.search(text):
        raise _not_a_bind(text)
    prefix, colon, rest = text.partition(":")
    read = _READERS.get(prefix.lower()) if colon else None
    if read is not None:
        return read(text, rest)
    if text.startswith("["):
        return _read_bracketed(text)
    if _NUMBER.fullmatch(text):
        raise ValueError(
            f"{text!r} has no host: write '127.0.0.1:{text}', or ':{text}' for every "
            f"address."
        )
    if text.count(":") > 1 and _IPV6_SHAPE.fullmatch(text):
        raise ValueError(
            f"{text!r} is an IPv6 address without brackets: write it like '[::1]:8000'."
        )
    if colon and (rest.isdecimal() or not rest):
        return _read_host_and_port(text, prefix, rest)
    if not colon and _HOST.fullmatch(text):
        raise ValueError(f"{text!r} has no port: write it like '{text}:8000'.")
    if colon and prefix.lower() in ("http", "https"):
        raise ValueError(
            f"{text!r} is a URL: write host and port alone, like '127.0.0.1:8000'."
        )
    if colon and _ENDPOINT_PREFIX.fullmatch(prefix):
        return Bind(text, BindKind.ENDPOINT)
    raise _not_a_bind(text)


def quote(value: str) -> str:
    """Escape ``value`` for use in a bind, such as a path with a colon."""
    return re.sub(r"[\\:=]", r"\\\g<0>", value)


# -- HOST:PORT -------------------------------------------------------------------------


def _not_a_bind(text: str) -> ValueError:
    return ValueError(f"{text!r} is not a bind: write it like '127.0.0.1:8000'.")


def _read_bracketed(text: str) -> Bind:
    host, bracket, port = text[1:].partition("]:")
    if not bracket:
        raise ValueError(f"{text!r} lacks ']:PORT': write it like '[::1]:8000'.")
    return Bind(
        text,
        BindKind.TCP,
        host=_ipv6(text, host),
        port=_port(text, port),
        takes_tls=True,
    )


def _read_host_and_port(text: str, host: str, port: str) -> Bind:
    if not port:
        raise ValueError(f"{text!r} has no port: write it like '{host}:8000'.")
    if host == "*":
        raise ValueError(f"{text!r}: write ':{port}' for every address.")
    return Bind(
        text,
        BindKind.TCP,
        host=_host(text, host) if host else None,
        port=_port(text, port),
        takes_tls=True,
    )


def _host(text: str, value: str) -> str:
    if ":" in value:
        return _ipv6(text, value)
    if _IPV4_SHAPE.fullmatch(value):
        octets = value.split(".")
        if len(octets) != 4 or not all(_is_octet(octet) for octet in octets):
            raise ValueError(f"{text!r}: {value!r} is not an IPv4 address.")
    elif not _HOST.fullmatch(value):
        raise ValueError(f"{text!r}: {value!r} is not a host name or address.")
    return value


def _is_octet(value: str) -> bool:
    # A leading zero is octal to some and decimal to others.
    return 1 <= len(value) <= 3 and int(value) <= 255 and value == str(int(value))


def _ipv6(text: str, value: str) -> str:
    import ipaddress

    try:
        ipaddress.IPv6Address(value)
    except ValueError:
        raise ValueError(f"{text!r}: {value!r} is not an IPv6 address.") from None
    return value


def _port(text: str, value: str) -> int:
    if not _PORT.fullmatch(value) or int(value) > MAX_PORT:
        raise ValueError(f"{text!r}: {value!r} is not a port (0 to {MAX_PORT}).")
    return int(value)


# -- Endpoint strings ------------------------------------------------------------------


def _read_tcp(text: str, rest: str) -> Bind:
    arguments = _arguments(text, rest, ("port", "interface", "backlog"))
    return _tcp_endpoint(text, arguments, default_host="0.0.0.0")


def _read_tcp6(text: str, rest: str) -> Bind:
    arguments = _arguments(text, rest, ("port", "backlog", "interface"))
    bind = _tcp_endpoint(text, arguments, default_host="::")
    if bind.host is None or ":" not in bind.host:
        raise ValueError(f"{text!r}: {bind.host!r} is not an IPv6 address.")
    return bind


def _read_ssl(text: str, rest: str) -> Bind:
    arguments = _arguments(
        text,
        rest,
        (
            "port",
            "privateKey",
            "certKey",
            "sslmethod",
            "interface",
            "backlog",
            "extraCertChain",
            "dhParameters",
        ),
    )
    # Twisted's defaults: both in one file, and that file called server.pem.
    private_key = arguments.get("privateKey") or "server.pem"
    tls = EndpointTLS(
        private_key=private_key,
        certificate=arguments.get("certKey") or private_key,
        extra_chain=arguments.get("extraCertChain"),
        dh_parameters=arguments.get("dhParameters"),
        tls12_only=_is_tls12_only(text, arguments.get("sslmethod")),
    )
    return _tcp_endpoint(text, arguments, default_host="0.0.0.0", tls=tls)


def _is_tls12_only(text: str, method: str | None) -> bool:
    if method is None or method in _NEGOTIATED_METHODS:
        return False
    if method == "TLSv1_2_METHOD":
        return True
    raise ValueError(
        f"{text!r}: sslmethod {method!r} offers nothing we may speak: leave it out for "
        f"TLS 1.2 and newer."
    )


def _tcp_endpoint(
    text: str,
    arguments: dict[str, str],
    *,
    default_host: str,
    tls: EndpointTLS | None = None,
) -> Bind:
    if "port" not in arguments:
        raise ValueError(f"{text!r} has no port.")
    return Bind(
        text,
        BindKind.TCP,
        host=_host(text, arguments.get("interface") or default_host),
        port=_port(text, arguments["port"]),
        dual_stack=True,
        backlog=_backlog(text, arguments),
        tls=tls,
    )


def _read_unix(text: str, rest: str) -> Bind:
    # "lockfile" is Twisted's guard against two servers on one socket. Ours asks the
    # socket itself whether somebody answers, and needs no second file.
    names = ("address", "mode", "backlog", "lockfile", "group")
    arguments = _arguments(text, rest, names, hint=" In a path, write '\\=' for '='.")
    path = arguments.get("address", "")
    if not path:
        raise ValueError(f"{text!r} has no path: write it like 'unix:/run/app.sock'.")
    if path.startswith("@"):
        raise ValueError(
            f"{text!r}: abstract sockets are not supported; for a file of that name "
            f"write 'unix:./{path}'."
        )
    if arguments.get("lockfile", "1") not in ("0", "1"):
        raise ValueError(f"{text!r}: lockfile must be 0 or 1.")
    mode = arguments.get("mode")
    if mode is not None and not _MODE.fullmatch(mode):
        raise ValueError(f"{text!r}: {mode!r} is not a mode: write it like 'mode=660'.")
    if arguments.get("group") == "":
        raise ValueError(f"{text!r}: group must be a name or a number.")
    return Bind(
        text,
        BindKind.UNIX,
        path=path,
        mode=DEFAULT_UNIX_MODE if mode is None else int(mode, 8),
        group=arguments.get("group"),
        backlog=_backlog(text, arguments),
    )


def _read_fd(text: str, rest: str) -> Bind:
    rest, tls = _without_tls(rest)
    value = _arguments(text, rest, ("fileno",)).get("fileno", "")
    if not _NUMBER.fullmatch(value):
        raise ValueError(
            f"{text!r}: {value!r} is not a file descriptor: write it like 'fd:3'."
        )
    return Bind(text, BindKind.FD, fd=int(value), takes_tls=tls, needs_tls=tls)


def _read_systemd(text: str, rest: str) -> Bind:
    rest, tls = _without_tls(rest)
    if not rest:
        return Bind(text, BindKind.SYSTEMD, takes_tls=tls, needs_tls=tls)
    arguments = _arguments(text, rest, ("domain", "index", "name"))
    index, name = arguments.get("index"), arguments.get("name")
    if bool(name) == bool(index):
        raise ValueError(
            f"{text!r} must choose by index or by name: write 'systemd:name=web', or "
            f"'systemd:' for every socket passed."
        )
    if index and not _NUMBER.fullmatch(index):
        raise ValueError(f"{text!r}: {index!r} is not an index (0 is the first).")
    domain = arguments.get("domain")
    if domain is not None and domain not in _SYSTEMD_DOMAINS:
        raise ValueError(
            f"{text!r}: domain must be one of {', '.join(_SYSTEMD_DOMAINS)}."
        )
    return Bind(
        text,
        BindKind.SYSTEMD,
        index=int(index) if index else None,
        name=name or None,
        domain=domain,
        takes_tls=tls,
        needs_tls=tls,
    )


def _without_tls(rest: str) -> tuple[str, bool]:
    """What stands before a last argument ``tls``, and whether there is one."""
    before, _, last = rest.rpartition(":")
    return (before, True) if last == "tls" else (rest, False)


def _backlog(text: str, arguments: dict[str, str]) -> int | None:
    value = arguments.get("backlog")
    if value is None:
        return None
    if not _NUMBER.fullmatch(value) or int(value) == 0:
        raise ValueError(f"{text!r}: backlog must be a whole number above 0.")
    return int(value)


def _arguments(
    text: str, rest: str, names: tuple[str, ...], *, hint: str = ""
) -> dict[str, str]:
    """An endpoint's arguments by name; those without one take ``names`` in order."""
    arguments: dict[str, str] = {}
    position = 0
    for key, value in _split(text, rest):
        if key is None:
            if position == len(names):
                raise ValueError(f"{text!r} has too many arguments at {value!r}.")
            key = names[position]
            position += 1
        elif key not in names:
            raise ValueError(
                f"{text!r}: {key!r} is not an argument; known: {', '.join(names)}."
                f"{hint}"
            )
        if key in arguments:
            raise ValueError(f"{text!r} gives {key!r} twice.")
        arguments[key] = value
    return arguments


def _split(text: str, rest: str) -> list[tuple[str | None, str]]:
    """Split by Twisted's rules.

    ``:`` separates arguments, the first ``=`` of an argument ends its name, and a
    backslash takes the next character as it is.
    """
    if not rest:
        return []
    arguments: list[tuple[str | None, str]] = []
    key: str | None = None
    current = ""
    characters = iter(rest)
    for char in characters:
        if char == "\\":
            escaped = next(characters, None)
            if escaped is None:
                raise ValueError(f"{text!r} ends in the middle of an escape.")
            current += escaped
        elif char == ":":
            arguments.append((key, current))
            key, current = None, ""
        elif char == "=" and key is None:
            key, current = current, ""
        else:
            current += char
    arguments.append((key, current))
    return arguments


_READERS: dict[str, Callable[[str, str], Bind]] = {
    "tcp": _read_tcp,
    "tcp6": _read_tcp6,
    "ssl": _read_ssl,
    "unix": _read_unix,
    "fd": _read_fd,
    "systemd": _read_systemd,
}
