"""Unix sockets that we make: the socket and the file that names it.

The file of a server that died stays behind, so a file in our way is asked whether
anybody answers: a refused connection means nobody does, and the file is replaced.
Anything else that may be somebody's is left alone.

Between ``bind()`` and ``listen()`` the file exists and every connection to it is
refused, so its owner and mode are set there and no client ever meets others. The same
gap makes a server that is still starting look dead to a second one, which then takes
the name; the first notices before it listens (:meth:`SocketFile.is_ours`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass

from ..binds import Bind
from ..errors import BindError
from .refusals import explain, refusal


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file of a bound socket, recognised by device and inode.

    A bound socket holds on to its inode, so the numbers mean this file for as long as
    the socket is open; afterwards they may be another's.
    """

    path: str
    device: int
    inode: int

    @classmethod
    def at(cls, path: str) -> SocketFile:
        found = os.lstat(path)
        # The server may change its directory before it removes the file.
        return cls(os.path.abspath(path), found.st_dev, found.st_ino)

    def is_ours(self) -> bool:
        try:
            found = os.lstat(self.path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (self.device, self.inode)

    def remove(self) -> None:
        """Remove the file if it is still ours; call this before the socket closes."""
        if self.is_ours():
            # What cannot be removed is replaced by the next server: nobody answers.
            with contextlib.suppress(OSError):
                os.unlink(self.path)


def open_unix_socket(bind: Bind) -> tuple[socket.socket, SocketFile]:
    """Make the socket of a ``unix:`` bind, bound and not yet listening.

    :raises BindError: when the path cannot be had; nothing is left behind then.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise refusal(bind, "this system has no Unix sockets.")
    group = None if bind.group is None else find_group(bind, bind.group)
    _clear_the_way(bind)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _bind(bind, sock)
        file = SocketFile.at(bind.path)
        try:
            _set_owner_and_mode(bind, group)
        except BaseException:
            file.remove()
            raise
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock, file


def _clear_the_way(bind: Bind) -> None:
    try:
        mode = os.lstat(bind.path).st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise _explain_path(bind, error) from None
    if not stat.S_ISSOCK(mode):
        raise refusal(bind, "the file exists and is not a socket.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A live server whose backlog is full would make a blocking probe wait.
        probe.setblocking(False)
        try:
            probe.connect(bind.path)
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        except BlockingIOError:
            raise _in_use(bind) from None
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                raise refusal(
                    bind, "the file belongs to a socket of another type."
                ) from None
            raise _explain_path(bind, error) from None
        else:
            raise _in_use(bind)
    try:
        os.unlink(bind.path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise refusal(
            bind, f"the stale socket cannot be replaced ({error.strerror})."
        ) from None


def _in_use(bind: Bind) -> BindError:
    return refusal(bind, "the socket is in use by another process.")


def _bind(bind: Bind, sock: socket.socket) -> None:
    try:
        sock.bind(bind.path)
    except (OSError, ValueError) as error:
        raise _explain_path(bind, error) from None


def _explain_path(bind: Bind, error: OSError | ValueError) -> BindError:
    if not isinstance(error, OSError):
        return refusal(bind, "the path cannot be encoded as a file name.")
    if error.errno is None or error.errno == errno.ENAMETOOLONG:
        # Python measures the path itself and sets no errno.
        return refusal(
            bind, "the path is too long for a Unix socket (107 bytes on Linux)."
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        directory = os.path.dirname(bind.path) or "."
        return refusal(bind, f"{directory} is not a directory that exists.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return refusal(bind, "permission denied.")
    return explain(bind, error)


def _set_owner_and_mode(bind: Bind, group: int | None) -> None:
    try:
        if group is not None:
            os.chown(bind.path, -1, group, follow_symlinks=False)
    except OSError as error:
        raise refusal(
            bind,
            f"this user may not give the socket to group {bind.group!r} "
            f"({error.strerror}); make it a member.",
        ) from None
    try:
        os.chmod(bind.path, bind.mode)
    except OSError as error:
        raise explain(bind, error) from None


def find_group(bind: Bind, group: str) -> int:
    """The number of ``group``.

    :raises BindError: when there is none.
    """
    import grp

    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise refusal(bind, f"there is no group {group!r}.") from None
