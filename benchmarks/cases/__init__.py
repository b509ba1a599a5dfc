"""What is measured. A case is a class in a module of its own, listed at the end here.

To add one, subclass :class:`Case`; when it needs servers started in another way (TLS,
another application), give :class:`servers.Launch` the field that says so, and
:mod:`servers` the switches.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

from machine import Cores
from running import RunningServer


@dataclass(frozen=True)
class Metric:
    """A column. ``key`` is its name in the figures that a case returns."""

    key: str
    label: str
    decimals: int = 0


class Case(abc.ABC):
    """One kind of work, done against one running server at a time.

    Failures of the server are :class:`problems.ServerFailed`; everything a method
    starts has ended when it returns, and it returns in bounded time.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    #: What a server must speak to have a row.
    needs: ClassVar[str]
    app: ClassVar[str] = "bench_app:app"
    #: Whether servers are started with TLS.
    tls: ClassVar[bool] = False
    #: Programs that must be installed, besides taskset.
    tools: ClassVar[tuple[str, ...]] = ()
    open_files: ClassVar[int] = 1024
    #: The figure that is compared and drawn; less is better.
    headline: ClassVar[Metric]
    others: ClassVar[tuple[Metric, ...]]

    def __init__(self, cores: Cores, seconds: int) -> None:
        self.cores = cores
        self.seconds = seconds

    @abc.abstractmethod
    def verify(self, server: RunningServer) -> None:
        """:raises ServerFailed: unless the server gives the right answer."""

    @abc.abstractmethod
    def warm_up(self, server: RunningServer) -> None:
        """Do the same work unmeasured, until caches and lazy imports are settled."""

    @abc.abstractmethod
    def measure(self, server: RunningServer) -> dict[str, float]:
        """The figures of one round, by the keys of the metrics."""


def all_cases() -> tuple[type[Case], ...]:
    # Here, for the modules import Case from this one.
    from .download import Download
    from .http1_hello import Http1Hello, Http1HelloTLS
    from .http2_hello import Http2Hello
    from .ws_echo import WebSocketEcho
    from .ws_idle import WebSocketIdle

    return (
        Http1Hello,
        Http1HelloTLS,
        Http2Hello,
        Download,
        WebSocketEcho,
        WebSocketIdle,
    )
