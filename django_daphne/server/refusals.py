"""What the operating system says about a bind, in one line for a user."""

from __future__ import annotations

import errno
import os
import socket

from ..binds import Bind, BindKind
from ..errors import BindError

#: Below it Linux and the BSDs let only privileged processes listen.
FIRST_UNPRIVILEGED_PORT = 1024


def refusal(bind: Bind, reason: str) -> BindError:
    """``reason`` about ``bind``, always on one line."""
    separator = "" if bind.text.endswith(":") else ":"
    return BindError(f"{bind.text}{separator} {' '.join(reason.split())}")


def explain(bind: Bind, error: OSError) -> BindError:
    """Why the system refused ``bind``, and what to do where something helps."""
    if isinstance(error, socket.gaierror):
        return refusal(
            bind, f"the host name {bind.host!r} cannot be resolved ({error.strerror})."
        )
    if error.errno == errno.EADDRINUSE:
        return refusal(bind, "the address is already in use.")
    if error.errno in (errno.EACCES, errno.EPERM):
        if bind.kind is BindKind.TCP and 0 < bind.port < FIRST_UNPRIVILEGED_PORT:
            return refusal(
                bind,
                f"this user may not listen on port {bind.port}; use a port from "
                f"{FIRST_UNPRIVILEGED_PORT} up, or grant CAP_NET_BIND_SERVICE.",
            )
        return refusal(bind, "permission denied.")
    if error.errno == errno.EADDRNOTAVAIL:
        return refusal(bind, "no interface of this machine has this address.")
    if error.errno == errno.EAFNOSUPPORT:
        return refusal(bind, "this machine does not have this kind of address.")
    reason = os.strerror(error.errno) if error.errno else str(error)
    return refusal(bind, f"{reason}.")
