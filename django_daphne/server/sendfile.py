"""A file's way into a socket past the transport, by ``os.sendfile``.

uvloop has no ``sendfile``, and refuses to watch a descriptor that a transport uses. So
the socket's descriptor is duplicated, and the duplicate watched, from when the
transport has sent all it held until the file has been sent. The transport must not be
written to meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable

#: Bytes of a file that leave in one turn of the loop, so that others have theirs.
TURN = 512 * 1024

AVAILABLE = hasattr(os, "sendfile")

#: What the kernel says of a file that it can only read: not every file system has what
#: copying needs.
_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


class FileCopy:
    """Copies ``size`` bytes of the open ``file``, from its beginning, to ``sock``.

    ``result`` is how many were copied: all, or fewer because the file has become
    shorter, the kernel cannot copy it, the socket has failed, or :meth:`stop` was
    called. ``blocked`` is called whenever the peer may have to take something first.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        file: int,
        size: int,
        *,
        blocked: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self.result: asyncio.Future[int] = loop.create_future()
        # Whoever waits may be cancelled.
        self.result.add_done_callback(lambda _: self.stop())
        self.copied = 0
        #: The socket is of no more use; its transport may not know yet.
        self.failed = False
        self._loop = loop
        self._file = file
        self._size = size
        self._blocked = blocked
        self._ended = ended
        self._socket = -1
        self._over = False

    def start(self, sock: int) -> None:
        """The transport has nothing to send any more."""
        if self._over or self._socket >= 0:
            return
        try:
            self._socket = os.dup(sock)
        except OSError:
            # There are no more descriptors; whoever reads and writes needs none.
            self.stop()
            return
        self._loop.add_writer(self._socket, self._push)
        self._push()

    def stop(self) -> None:
        """Copy no more. Idempotent."""
        if self._over:
            return
        self._over = True
        if self._socket >= 0:
            self._loop.remove_writer(self._socket)
            os.close(self._socket)
        if not self.result.done():
            self.result.set_result(self.copied)
        self._ended()

    def _push(self) -> None:
        turn = min(self.copied + TURN, self._size)
        while self.copied < turn:
            try:
                sent = os.sendfile(
                    self._socket, self._file, self.copied, turn - self.copied
                )
            except BlockingIOError:
                break
            except OSError as error:
                self.failed = error.errno not in _CANNOT
                self.stop()
                return
            if not sent:
                # The file has become shorter.
                self.stop()
                return
            self.copied += sent
        if self.copied == self._size:
            self.stop()
        else:
            self._blocked()
