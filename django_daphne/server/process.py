"""One serving process: its event loop, its signals, its exit code.

A supervisor of several processes is a loop around this; a test, or Django's development
server, uses :func:`serve` on a loop of its own and brings its own way of stopping.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from ..application.context import Application, LogAccess, server_log
from ..config import Config
from ..errors import BindError, LifespanFailed
from . import main_task
from .access_log import reopen_all
from .monitor import Monitor, open_monitor
from .server import Server
from .systemd import Service

EXIT_OK = 0
EXIT_CANNOT_BIND = 1
EXIT_LIFESPAN_FAILED = 3

#: What exiting takes after ``GRACEFUL`` has passed, or after a second signal. What has
#: not ended by then does not end.
LEEWAY = 1.0

OnListening = Callable[[list[str]], None]


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's loop where there is one; no policy is touched."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(
    config: Config,
    application: Application,
    *,
    on_listening: OnListening | None = None,
    log_access: LogAccess | None = None,
) -> int:
    """Serve until a signal stops us; return the process's exit code.

    SIGTERM and SIGINT drain, a second one stops now; SIGHUP reopens log files and
    reads certificates again, SIGUSR1 does the former alone. Failures to bind or to
    start are one line on stderr. systemd is told how it goes, if it asks.

    The process is expected to exit then. What keeps it from that (a task that ignores
    its cancellation, a view that blocks its thread) is left behind: the process ends
    at the latest :data:`LEEWAY` seconds after ``GRACEFUL``, whatever runs in it.
    """
    serving = _run(config, application, on_listening, log_access)
    try:
        main_task.run(serving, new_event_loop)
    except BindError as error:
        print(error, file=sys.stderr)
        return EXIT_CANNOT_BIND
    except LifespanFailed as error:
        print(f"Application startup failed: {error}", file=sys.stderr)
        return EXIT_LIFESPAN_FAILED
    return EXIT_OK


async def serve(
    config: Config,
    application: Application,
    stop: asyncio.Event,
    *,
    hurry: asyncio.Event | None = None,
    sockets: Sequence[socket.socket] | None = None,
    on_listening: OnListening | None = None,
    log_access: LogAccess | None = None,
) -> None:
    """Serve on the running loop until ``stop`` is set, then drain.

    ``hurry`` makes the drain skip to its end. ``on_listening`` is given the URL of each
    listener once connections are accepted.

    :raises BindError: when a listener cannot be had.
    :raises LifespanFailed: when the application refuses to start.
    """
    server, monitor = _make(config, application, stop, log_access, sockets)
    await _serve(server, monitor, stop, hurry, on_listening)


def _make(
    config: Config,
    application: Application,
    stop: asyncio.Event,
    log_access: LogAccess | None,
    sockets: Sequence[socket.socket] | None = None,
) -> tuple[Server, Monitor | None]:
    """A server, and what tells how it is, if ``config`` asks for that."""
    monitor = open_monitor(config)
    if monitor is not None:
        log_access = monitor.counting(log_access)
    server = Server(
        config,
        application,
        log_access=log_access,
        sockets=sockets,
        stop_requested=stop.set,
    )
    return server, monitor


async def _serve(
    server: Server,
    monitor: Monitor | None,
    stop: asyncio.Event,
    hurry: asyncio.Event | None,
    on_listening: OnListening | None,
    service: Service | None = None,
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        monitored = []
        if monitor is not None:
            monitored = await monitor.start(server)
            stack.push_async_callback(monitor.stop)
        await server.bind()
        if not await _start(server, stop):
            return
        await server.tell_started()
        urls = [listener.url for listener in server.listeners] + monitored
        if monitor is not None:
            monitor.unready = None
        if on_listening is not None:
            on_listening(urls)
        if service is not None:
            service.ready(urls)
        await stop.wait()
        if monitor is not None:
            monitor.unready = "stopping"
        if service is not None:
            service.stopping()
        draining = asyncio.ensure_future(server.drain())
        if hurry is not None:
            hurrying = asyncio.ensure_future(hurry.wait())
            await asyncio.wait(
                [draining, hurrying], return_when=asyncio.FIRST_COMPLETED
            )
            if hurry.is_set():
                server.hurry()
            hurrying.cancel()
        await draining


async def _start(server: Server, stop: asyncio.Event) -> bool:
    """Start ``server``; False when ``stop`` came before the application was ready."""
    starting = asyncio.ensure_future(server.start())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if starting.done():
        starting.result()
        return True
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    return False


async def _run(
    config: Config,
    application: Application,
    on_listening: OnListening | None,
    log_access: LogAccess | None,
) -> None:
    stop, hurry = asyncio.Event(), asyncio.Event()
    limit = asyncio.ensure_future(_limit(stop, hurry, config.timeouts.graceful))
    server, monitor = _make(config, application, stop, log_access)
    with contextlib.closing(Service()) as service:

        def hang_up() -> None:
            with service.reloading():
                reopen_all()
                server.certificates.reload()

        with _signals(stop, hurry, hang_up):
            await _serve(server, monitor, stop, hurry, on_listening, service)
    limit.cancel()


async def _limit(
    stop: asyncio.Event, hurry: asyncio.Event, graceful: float | None
) -> None:
    """See to it that the process ends in time once it was told to stop."""
    await stop.wait()
    if graceful is not None:
        _exit_after(graceful + LEEWAY)
    await hurry.wait()
    _exit_after(LEEWAY)


def _exit_after(seconds: float) -> None:
    # Not on the loop: it, and the interpreter after it, wait for whatever does not end.
    timer = threading.Timer(seconds, _exit_now)
    timer.daemon = True
    timer.start()


def _exit_now() -> None:
    server_log.error(
        "Something does not end, such as a synchronous view in its thread; "
        "it is left behind"
    )
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_OK)


@contextlib.contextmanager
def _signals(
    stop: asyncio.Event, hurry: asyncio.Event, hang_up: Callable[[], None]
) -> Iterator[None]:
    """While inside, signals do what :func:`run` says instead of killing the process."""
    loop = asyncio.get_running_loop()

    def request_stop(number: int) -> None:
        name = signal.Signals(number).name
        if stop.is_set():
            server_log.warning("%s again: stopping now", name)
            hurry.set()
        else:
            server_log.info("%s: stopping", name)
            stop.set()

    stoppers = [signal.SIGINT, signal.SIGTERM]
    if sys.platform == "win32":
        stoppers.append(signal.SIGBREAK)
        previous = {}
        for number in stoppers:
            # Windows' loops know no signals: the handler wakes the loop by hand.
            previous[number] = signal.signal(
                number,
                lambda number, frame: loop.call_soon_threadsafe(request_stop, number),
            )
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return
    for number in stoppers:
        loop.add_signal_handler(number, request_stop, number)

    others = {signal.SIGHUP: hang_up, signal.SIGUSR1: reopen_all}
    for number, handler in others.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in [*stoppers, *others]:
            loop.remove_signal_handler(number)
