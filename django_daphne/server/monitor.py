"""Health and metrics, on an address of their own (``MONITOR``).

A second, small server beside the one that it tells of: it listens before the
application has started, and until everything else has stopped, and none of the limits
that a site may run into is in its way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..application.context import LogAccess, server_log
from ..application.health import Health
from ..binds import Bind
from ..config import Config, Timeouts
from .server import Server

if TYPE_CHECKING:
    from .metrics import Figures

#: Nobody's answer takes longer, and a stop does not wait for who asks: what is the end
#: of everything is no time to see who may ask again.
_TIMEOUTS = Timeouts(graceful=1.0, application_close=1.0)


class Monitor:
    """Tells how a server is, on ``bind``, from :meth:`start` to :meth:`stop`.

    :attr:`unready` is why the server wants no requests; None once it does.
    """

    def __init__(self, bind: Bind) -> None:
        self.unready: str | None = "starting"
        self._figures = _figures()
        application = Health(
            lambda: self.unready,
            None if self._figures is None else self._figures.exposition,
        )
        config = Config(bind=(bind,), lifespan="off", timeouts=_TIMEOUTS)
        self._server = Server(config, application)

    def counting(self, log_access: LogAccess | None) -> LogAccess | None:
        """``log_access``, and the same into the metrics."""
        if self._figures is None:
            return log_access
        return self._figures.counting(log_access)

    async def start(self, server: Server) -> list[str]:
        """Listen, and tell of ``server``; return the URLs.

        :raises BindError: with one line for the user.
        """
        if self._figures is None:
            server_log.warning("MONITOR: /metrics needs django-daphne[metrics]")
        else:
            self._figures.watch(server)
        await self._server.bind()
        await self._server.start()
        return [listener.url for listener in self._server.listeners]

    async def stop(self) -> None:
        await self._server.drain()


def open_monitor(config: Config) -> Monitor | None:
    """The one that ``config`` asks for."""
    return None if config.monitor.bind is None else Monitor(config.monitor.bind)


def _figures() -> Figures | None:
    try:
        from .metrics import Figures
    except ImportError:
        return None
    return Figures()
