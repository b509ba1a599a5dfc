"""Ports for servers that have to be told where they listen."""

from __future__ import annotations

import errno
import secrets
import socket
from pathlib import Path

#: How many ports are tried before the machine is said to have none.
ATTEMPTS = 100

#: Browsers refuse some of the ports below.
FIRST = 20_000

#: What systems hand out that do not say what they do (RFC 6335 section 6).
USUAL_RANGE = range(49152, 65536)


def free_port() -> int:
    """A port that nobody has, nor is given unless he asks for it by its number.

    What the system hands out to whoever asks for any port is found free now and is
    another's a moment later: another module of tests runs meanwhile.
    """
    handed_out = _handed_out()
    ports = [port for port in range(FIRST, 65536) if port not in handed_out]
    for _ in range(ATTEMPTS):
        port = secrets.choice(ports or USUAL_RANGE)
        try:
            # On every address: a server may want it on any.
            with socket.create_server(("", port)):
                return port
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise AssertionError("no port is free")


def _handed_out() -> range:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    except OSError:
        return USUAL_RANGE
    first, last = map(int, text.split())
    return range(first, last + 1)
