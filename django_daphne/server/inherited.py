"""Sockets that somebody opened for us: ``fd:N`` and systemd's socket activation.

A descriptor says nothing about itself until asked, and serving the wrong one fails in
strange ways much later, so each is asked everything first: is it a socket, does it
carry a stream, of a family that we serve, with an address, and not already a
connection.

Socket activation (sd_listen_fds(3)): LISTEN_FDS says how many descriptors were passed
from number 3 up, LISTEN_PID to which process, LISTEN_FDNAMES their names. Twisted reads
and removes the same variables when ``twisted.internet.endpoints`` is imported, which a
project may have done long before us; what it took is asked back.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from dataclasses import dataclass

from ..binds import Bind, BindKind
from .refusals import explain, refusal

#: sd_listen_fds(3): SD_LISTEN_FDS_START, after stdin, stdout and stderr.
FIRST_PASSED_FD = 3
#: More descriptors than any unit passes; a count beyond it is damage.
MAX_PASSED_FDS = 4096

_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_FAMILIES = {"INET": "AF_INET", "INET6": "AF_INET6", "UNIX": "AF_UNIX"}

logger = logging.getLogger("django_daphne.server")


@dataclass(frozen=True, slots=True)
class PassedSocket:
    fd: int
    name: str


class InheritedSockets:
    """Hands out each descriptor once.

    The sockets returned own their descriptors. :meth:`give_back` lets go of them all
    without closing any: what we did not open we do not close on the way to an error.
    """

    def __init__(self) -> None:
        self._passed: list[PassedSocket] | None = None
        self._taken: dict[int, socket.socket] = {}

    def take(self, bind: Bind) -> list[socket.socket]:
        """The sockets of an ``fd:`` or ``systemd:`` bind.

        :raises BindError: when a descriptor is not a socket that we can serve, or was
            taken by another bind, or none was passed.
        """
        if bind.kind is BindKind.FD:
            return [self._take(bind, bind.fd)]
        if self._passed is None:
            self._passed = _passed_sockets(bind)
        sockets = [
            self._take(bind, passed.fd) for passed in _choose(bind, self._passed)
        ]
        if bind.domain is not None:
            _require_domain(bind, bind.domain, sockets)
        return sockets

    def give_back(self) -> None:
        for sock in self._taken.values():
            sock.detach()
        self._taken.clear()

    def forget_environment(self) -> None:
        """Unset the variables, so that no child process takes itself for activated.

        What systemd passed and no bind asked for is closed to children too, and
        reported: its clients would wait for ever.
        """
        if self._passed is None:
            return
        for name in _VARIABLES:
            os.environ.pop(name, None)
        left = [passed for passed in self._passed if passed.fd not in self._taken]
        for passed in left:
            try:
                os.set_inheritable(passed.fd, False)
            except OSError:
                continue
        if left:
            logger.warning(
                "systemd passed sockets that no bind uses: %s.",
                ", ".join(f"{passed.name} (fd {passed.fd})" for passed in left),
            )

    def _take(self, bind: Bind, fd: int) -> socket.socket:
        if fd in self._taken:
            raise refusal(bind, f"file descriptor {fd} is used by another bind.")
        sock = _adopt(bind, fd)
        self._taken[fd] = sock
        return sock


# -- One descriptor --------------------------------------------------------------------


def _adopt(bind: Bind, fd: int) -> socket.socket:
    try:
        # A descriptor of another kind makes socket() ask for its type: ENOTSOCK.
        sock = socket.socket(fileno=fd)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise refusal(bind, f"file descriptor {fd} is not open.") from None
        if error.errno == errno.ENOTSOCK:
            raise refusal(bind, f"file descriptor {fd} is not a socket.") from None
        raise explain(bind, error) from None
    fault = _fault(sock)
    if fault:
        sock.detach()
        raise refusal(bind, f"file descriptor {fd} {fault}")
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def _fault(sock: socket.socket) -> str | None:
    families = {
        getattr(socket, name) for name in _FAMILIES.values() if hasattr(socket, name)
    }
    if sock.family not in families:
        return "is neither a TCP nor a Unix socket."
    if sock.type != socket.SOCK_STREAM:
        return "is not a stream socket."
    try:
        sock.getpeername()
    except OSError:
        pass
    else:
        return "is a connection, not a listening socket (systemd: set Accept=no)."
    address = sock.getsockname()
    bound = address if isinstance(address, str | bytes) else address[1]
    return None if bound else "is not bound to an address."


# -- Socket activation -----------------------------------------------------------------


def _passed_sockets(bind: Bind) -> list[PassedSocket]:
    count, pid = os.environ.get("LISTEN_FDS"), os.environ.get("LISTEN_PID")
    if count is None or pid is None:
        passed = _taken_by_twisted()
        if passed:
            return passed
        raise refusal(
            bind,
            "no socket was passed (LISTEN_FDS and LISTEN_PID are not set); start the "
            "service through its .socket unit.",
        )
    if pid != str(os.getpid()):
        raise refusal(
            bind,
            f"the sockets were passed to process {pid} and this is {os.getpid()}; "
            f"start the server directly or with 'exec', not from a shell.",
        )
    if not count.isdecimal() or len(count) > 4 or not 0 < int(count) <= MAX_PASSED_FDS:
        raise refusal(bind, f"LISTEN_FDS is {count!r}, which is no count of sockets.")
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if len(names) != int(count):
        # sd_listen_fds_with_names(3): the name of a descriptor without one.
        names = ["unknown"] * int(count)
    return [PassedSocket(FIRST_PASSED_FD + i, name) for i, name in enumerate(names)]


def _taken_by_twisted() -> list[PassedSocket]:
    if "twisted.internet.endpoints" not in sys.modules:
        return []
    from .twisted_endpoints import passed_descriptors

    return [PassedSocket(fd, name) for fd, name in passed_descriptors()]


def _choose(bind: Bind, passed: list[PassedSocket]) -> list[PassedSocket]:
    if bind.index is not None:
        if bind.index >= len(passed):
            raise refusal(
                bind, f"only {len(passed)} sockets were passed (the first index is 0)."
            )
        return [passed[bind.index]]
    if bind.name is not None:
        chosen = [one for one in passed if one.name == bind.name]
        if not chosen:
            names = ", ".join(sorted({one.name for one in passed}))
            raise refusal(bind, f"no socket of this name was passed (only: {names}).")
        return chosen
    return passed


def _require_domain(bind: Bind, domain: str, sockets: list[socket.socket]) -> None:
    for sock in sockets:
        if sock.family != getattr(socket, _FAMILIES[domain], None):
            raise refusal(bind, f"the socket passed is {sock.family.name}.")
