"""What Django's ``runserver`` drives instead of its WSGI server.

Django's command binds a server in one call, prints the address, and serves in the next;
with ``--noreload`` it does so in the main thread, else in one that the reloader minds.
Ours always runs its loop in a daemon thread of its own, so that both are alike: no
signal is handled, Ctrl-C interrupts the thread that waits, and a view that blocks, be
it the loop, holds up neither a reload nor the exit.
"""

from __future__ import annotations

import dataclasses
import socket
import socketserver
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import thread as thread_pools
from pathlib import Path
from typing import cast

from asgiref.sync import ThreadSensitiveContext

from .application.context import Application, Receive, Scope, Send
from .conf import get_config
from .config import TLS, UNUSABLE_CERTIFICATE, Config, Monitoring
from .development_log import log_access, log_refusals
from .errors import ConfigurationError, Problem
from .server.threaded import ThreadedServer

#: What event streams get to end in order when the process is about to go.
MOMENT = 0.05

#: What WebSockets and the lifespan get, if there are any, to tell whom they have to.
#: Requests get nothing: Django's own server drops them too.
FAREWELL = 0.5

#: Seconds that draining may take where somebody waits for its end: tests do, a process
#: that is leaving does not.
GRACEFUL = 5.0

#: Connections that the kernel completes before we accept them. Django's own server has
#: 10, too few for a page of many files on a server that keeps no thread waiting.
BACKLOG = 128


class DevelopmentServer(socketserver.TCPServer):
    """A ``server_cls`` for Django's ``runserver``.

    Made, it is bound and listening. Like Django's, it may be mixed with
    ``ThreadingMixIn``; without, as for ``--nothreading``, all synchronous code of the
    application runs in one thread.

    :raises OSError: when the address cannot be had; Django's command explains it.
    :raises ConfigurationError: when ``DJANGO_DAPHNE`` is wrong.
    """

    #: Whether TLS is spoken.
    secure = False

    allow_reuse_address = True
    request_queue_size = BACKLOG

    def __init__(
        self,
        server_address: tuple[str, int],
        handler_class: type[socketserver.BaseRequestHandler],
        *,
        ipv6: bool = False,
    ) -> None:
        if ipv6:
            self.address_family = socket.AF_INET6
        self._config = development_config()
        if self.secure:
            self._config = over_tls(self._config, server_address[0])
        #: WebSockets that are open, and the lifespan if the application takes part.
        self._guests = 0
        #: Waited for instead of the thread itself: before Python 3.13, an interrupted
        #: Thread.join() takes the thread for dead.
        self._finished = threading.Event()
        self._failure: BaseException | None = None
        super().__init__(server_address, handler_class)
        self.server_port: int = self.server_address[1]

    def set_app(self, application: Application) -> None:
        if not isinstance(self, socketserver.ThreadingMixIn):
            application = in_one_thread(application, ThreadPoolExecutor(max_workers=1))
        self._application = application

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve until :meth:`shutdown`.

        :raises LifespanFailed: when the application refuses to start.
        """
        self._server = ThreadedServer(
            self._config, self._count_guests, [self.socket], log_access=log_access
        )
        _serving.append(self)
        with log_refusals():
            threading.Thread(
                target=self._serve, name="django-daphne", daemon=True
            ).start()
            # Again and again, or Windows would not hear of Ctrl-C.
            while not self._finished.wait(poll_interval):
                pass
        if self._failure is not None:
            raise self._failure

    def shutdown(self) -> None:
        """Stop serving, as far as that takes no time; from any thread."""
        self._server.stop()
        self._finished.wait(MOMENT)
        end = time.monotonic() + FAREWELL
        while self._guests and time.monotonic() < end:
            self._finished.wait(MOMENT)

    def _serve(self) -> None:
        try:
            self._server.run()
        except BaseException as error:
            self._failure = error
        finally:
            self._finished.set()

    async def _count_guests(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._application(scope, receive, send)
            return
        self._guests += 1
        try:
            await self._application(scope, receive, send)
        finally:
            self._guests -= 1


class SecureDevelopmentServer(DevelopmentServer):
    """The same over TLS.

    :raises ConfigurationError: when its certificate cannot be used.
    """

    secure = True


#: The servers of this process; in practice one.
_serving: list[DevelopmentServer] = []


def leave() -> None:
    """Stop what serves and let the interpreter exit.

    To be called when the command ends, for whatever reason: an exit, a reload, Ctrl-C.
    Django's server answers each request in a daemon thread, which dies with the
    process. Synchronous views run in thread pools here, and an interpreter that exits
    waits for each thread of each pool, daemon or not, unless it is struck off this
    list.
    """
    if not _serving:
        return
    while _serving:
        _serving.pop().shutdown()
    queues = cast(dict[threading.Thread, object], thread_pools._threads_queues)
    for thread in tuple(queues):
        if thread.daemon:
            queues.pop(thread, None)


def development_config() -> Config:
    """``settings.DJANGO_DAPHNE``, for a server that is stopped many times a day.

    It serves plain HTTP on what it is given, and browsers send no PROXY header.

    :raises ConfigurationError: with everything that is wrong.
    """
    config = get_config()
    timeouts = dataclasses.replace(
        config.timeouts,
        drain_delay=0,
        graceful=GRACEFUL,
        application_close=GRACEFUL,
    )
    proxy = config.proxy and dataclasses.replace(config.proxy, protocol=False)
    return dataclasses.replace(
        config,
        bind=(),
        redirect_bind=(),
        tls=None,
        proxy=proxy,
        monitor=Monitoring(),
        timeouts=timeouts,
    )


def over_tls(config: Config, host: str) -> Config:
    """``config`` with the TLS of the settings, or with a certificate for ``host``.

    :raises ConfigurationError: when there is no certificate that can be used.
    """
    from .server.certificates import examine

    tls = get_config().tls or TLS()
    if tls.certificate is None:
        # No authority finds its way to a developer's desk.
        tls = dataclasses.replace(
            tls, certificate=str(_certificate_for(host)), acme=None
        )
    config = dataclasses.replace(config, tls=tls)
    problems, _ = examine(config)
    if problems:
        raise ConfigurationError(problems)
    return config


def _certificate_for(host: str) -> Path:
    from .server.development_certificate import development_certificate

    try:
        # "0" is how Django's users write every address.
        return development_certificate("0.0.0.0" if host == "0" else host)
    except OSError as error:
        raise ConfigurationError(
            [
                Problem(
                    UNUSABLE_CERTIFICATE,
                    "TLS",
                    f"The development certificate cannot be kept: {error}.",
                    "Set XDG_CACHE_HOME to a folder that can be written to, or TLS.",
                )
            ]
        ) from None


def in_one_thread(application: Application, thread: ThreadPoolExecutor) -> Application:
    """``application``, whose thread-sensitive code all runs in ``thread``, in turn."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        async with ThreadSensitiveContext(executor=thread):
            await application(scope, receive, send)

    return call
