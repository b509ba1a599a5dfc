"""The names of the two ends of a connection, and whether the other one is trusted."""

from __future__ import annotations

import socket
from typing import Any

from ..application.context import Address
from ..trust import Trust


def address(name: Any, server: bool = False) -> Address | None:
    """A socket's name as scopes have it: host and port, or a Unix socket's path."""
    if isinstance(name, tuple) and len(name) >= 2:
        return (str(name[0]), int(name[1]))
    if server and name:
        path = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        return (path, None)
    return None


def is_trusted(trust: Trust, client: Address | None, sock: Any) -> bool:
    """Whether the peer at the other end of ``sock``, whose name is ``client``, is.

    ``sock`` may be None: a peer without a name is trusted on a Unix socket only.
    """
    if client is not None:
        return trust.covers(client[0])
    unix = getattr(socket, "AF_UNIX", None)
    return trust.unix and sock is not None and sock.family == unix
