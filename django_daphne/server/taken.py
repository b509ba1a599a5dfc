"""How much of what we sent a peer has taken.

A transport's buffer does not tell: behind it are those of TLS, which nobody may look
into, and of the kernel, which takes more in steps of its own, a third of some megabytes
at a time. A slow client may need minutes for one. Linux knows what the peer has
acknowledged.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

#: From Linux' ``struct tcp_info``: packets without acknowledgement, bytes with one,
#: bytes that were never sent. It has only ever grown at its end.
_INFO = struct.Struct("=24xI92xQ16xI")


def tcp_taken(sock: Any) -> tuple[int, bool] | None:
    """Bytes that the peer of ``sock`` has acknowledged, and whether they are all.

    None where the system does not say, and for sockets that are not TCP.
    """
    if sys.platform != "linux" or sock is None:
        return None
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    except OSError:
        return None
    if len(info) < _INFO.size:
        return None
    pending, taken, unsent = _INFO.unpack(info)
    return taken, not pending and not unsent
