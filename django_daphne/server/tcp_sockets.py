"""TCP sockets that we make: one for each address of a bind, all on one port."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import Sequence

from ..binds import Bind
from .refusals import explain, refusal

#: How often a free port is sought that every address of a bind with port 0 can have.
#: Each try fails only where another program holds that very port of the other family.
PORT_ATTEMPTS = 20

IPV4_ANY, IPV6_ANY = "0.0.0.0", "::"

#: The machine, or this address of a name, lacks the family or the address.
_ABSENT = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)

FamilyAndHost = tuple[socket.AddressFamily, str]


async def open_tcp_sockets(bind: Bind) -> list[socket.socket]:
    """The sockets of a ``host:port`` bind, bound and not yet listening.

    :raises BindError: when they cannot all be had; nothing is left open then.
    """
    addresses = await asyncio.to_thread(find_addresses, bind)
    seeks_port = bind.port == 0 and len(addresses) > 1
    for _attempt in range(PORT_ATTEMPTS if seeks_port else 1):
        try:
            return bind_all(bind, addresses)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not seeks_port:
                raise explain(bind, error) from None
    raise refusal(bind, "no port is free on every address.")


def find_addresses(bind: Bind) -> list[FamilyAndHost]:
    """What the bind's host stands for; a name is looked up, which may take a while.

    :raises BindError: when it is no host that this machine knows.
    """
    if bind.host is None:
        return [(socket.AF_INET, IPV4_ANY), (socket.AF_INET6, IPV6_ANY)]
    if ":" in bind.host:
        return [(socket.AF_INET6, bind.host)]
    if not bind.host.strip("0123456789."):
        return [(socket.AF_INET, bind.host)]
    try:
        found = socket.getaddrinfo(bind.host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise explain(bind, error) from None
    except UnicodeError:
        raise refusal(bind, f"{bind.host!r} is not a host name.") from None
    addresses: dict[FamilyAndHost, None] = {}
    for family, _, _, _, name in found:
        if family in (socket.AF_INET, socket.AF_INET6):
            host, scope = str(name[0]), name[3] if len(name) == 4 else 0
            if scope and "%" not in host:
                host = f"{host}%{scope}"
            addresses[family, host] = None
    if not addresses:
        raise refusal(bind, f"{bind.host!r} has neither an IPv4 nor an IPv6 address.")
    return list(addresses)


def bind_all(bind: Bind, addresses: Sequence[FamilyAndHost]) -> list[socket.socket]:
    """One socket for each address that this machine has, all on the same port.

    :raises OSError: when one of them cannot be bound.
    """
    sockets: list[socket.socket] = []
    port = bind.port
    absent: OSError | None = None
    try:
        for family, host in addresses:
            try:
                sockets.append(_bind_one(family, host, port, bind.dual_stack))
            except OSError as error:
                # A name may have an IPv6 address where the machine speaks none.
                if error.errno not in _ABSENT:
                    raise
                absent = error
                continue
            port = sockets[-1].getsockname()[1]
        if absent is not None and not sockets:
            raise absent
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_one(
    family: socket.AddressFamily, host: str, port: int, dual_stack: bool
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            # Windows' SO_REUSEADDR would let two servers share the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            # A port whose last connections are in TIME_WAIT is free to a listener.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not dual_stack:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if family == socket.AF_INET6 and "%" in host:
            host, _, scope = host.partition("%")
            sock.bind((host, port, 0, _scope_id(scope)))
        else:
            sock.bind((host, port))
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _scope_id(scope: str) -> int:
    return int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
