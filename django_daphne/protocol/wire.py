"""What an engine may ask of the connection that carries its bytes.

Engines know neither asyncio nor sockets. They are handed a :class:`Wire`, call it
synchronously, and are called back synchronously; a test gives them a fake one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Shared by all connections of a process and advanced a few times a second."""

    #: ``b"Date: Fri, 20 Nov 2026 10:00:00 GMT"``, made anew once a second.
    date_line: bytes
    #: Seconds on a clock that never goes back.
    seconds: float


class Wire(Protocol):
    """A byte stream to one peer; every call returns at once."""

    @property
    def clock(self) -> Clock: ...

    #: False while the peer has left more unread than our buffer's high-water mark.
    #: ``Engine.writable_again`` is called when this turns True.
    writable: bool

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
