"""What an engine may ask of the connection that carries its bytes.

Engines know neither asyncio nor sockets. They are handed a :class:`Wire`, call it
synchronously, and are called back synchronously; a test gives them a fake one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

#: Seconds between two advances of a :class:`Clock`: the most that a timeout is late,
#: and four wake-ups a second.
TICK = 0.25


class Clock(Protocol):
    """Shared by all connections of a process and advanced every :data:`TICK`."""

    #: ``b"Date: Fri, 20 Nov 2026 10:00:00 GMT"``, made anew once a second.
    date_line: bytes
    #: Seconds on a clock that never goes back.
    seconds: float


class Outlet(Protocol):
    """Where what is sent goes to: a wire, or one stream's share of it."""

    @property
    def writable(self) -> bool:
        """False while the peer has left more unread than our buffer's high-water mark.

        ``writable_again`` is called when this turns True.
        """


class Wire(Outlet, Protocol):
    """A byte stream to one peer; every call returns at once."""

    @property
    def clock(self) -> Clock: ...

    def write(self, data: bytes, /) -> None:
        """Queue ``data``; what is queued after :meth:`close` or a loss is dropped."""

    def pause_reading(self) -> None:
        """Stop delivering bytes. Idempotent; what is already read may still come."""

    def resume_reading(self) -> None:
        """Deliver bytes again. Idempotent."""

    def arm(self, seconds: float | None, expired: Callable[[], None]) -> None:
        """Call ``expired`` once, ``seconds`` from now or a little later.

        A wire has one timer: arming replaces what was armed, None disarms.
        """

    def soon(self, callback: Callable[[], None], /) -> object:
        """Call ``callback`` in the next turn, after whatever is to happen in it."""

    def close(self) -> None:
        """Send what is queued, then close. The engine hears no more bytes."""

    def linger(self) -> None:
        """:meth:`close` for when the peer may still be sending.

        Our direction is closed first and the peer's bytes are thrown away for a short
        while, so that the reset of unread input does not destroy the answer before the
        peer has read it (RFC 9112 section 9.6).
        """

    def abort(self) -> None:
        """Drop the connection now, so that the peer sees an error."""

    def switch(self, engine: Engine) -> None:
        """Hand the wire to another engine (after ``101 Switching Protocols``)."""


class SocketWire(Wire, Protocol):
    """A wire that may have a socket of its own, which the kernel can copy files to."""

    def copy_file(self, file: int, size: int) -> Awaitable[int] | None:
        """Send ``size`` bytes of the open ``file``, past what writes bytes.

        Nothing may be written until the result is there: how many bytes have gone,
        fewer than ``size`` when there are no more, the kernel cannot copy them, or the
        peer has gone. Cancelling it stops the copying. None when this wire cannot do
        it.
        """


class Engine(Protocol):
    """What a connection tells the engine that speaks on it."""

    def receive_data(self, data: bytes, /) -> None:
        """Bytes arrived."""

    def receive_eof(self) -> None:
        """The peer closed its direction."""

    def connection_lost(self) -> None:
        """The connection is gone; called once, last, whoever ended it."""

    def writable_again(self) -> None:
        """:attr:`Wire.writable` turned True."""

    def drain(self) -> None:
        """The server is stopping: finish what runs, begin nothing new."""


class Stream(Protocol):
    """What an engine of HTTP tells the one who answers a request."""

    def data(self, chunk: bytes, /) -> None:
        """Body bytes; give them back with ``engine.consumed`` once they are taken."""

    def end(self) -> None:
        """The request's body is complete."""

    def reset(self, reason: str, status: int = 0) -> None:
        """Nothing can be sent any more: the client has gone or is not served further.

        ``status`` is what it was answered with in the stream's place, or 0.
        """

    def writable_again(self) -> None:
        """The wire takes bytes again."""

    def drain(self) -> None:
        """The server is stopping."""
