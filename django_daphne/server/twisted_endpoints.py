"""Twisted's endpoints as listeners.

Whatever a Twisted plugin can listen on is listened on by Twisted, with a reactor on our
own loop (``twisted_reactor.py``); each connection then meets our protocol through an
adapter (``twisted_transport.py``). This module is imported when a bind needs it and not
before.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from twisted.internet import address, error, interfaces
from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface import alsoProvides  # type: ignore[import-untyped]

from ..binds import Bind
from ..errors import BindError
from ..trust import Trust
from .endpoints import Address, Listener, MakeProtocol
from .refusals import explain, refusal
from .twisted_reactor import GuestReactor, attach_reactor
from .twisted_transport import AdapterFactory, socket_name

logger = logging.getLogger("django_daphne.server")


class TwistedListener(Listener):
    """A Twisted endpoint. It accepts from the first moment, and holds until started."""

    def __init__(
        self,
        bind: Bind,
        reactor: GuestReactor,
        endpoint: Any,
        protocols: Sequence[str],
    ) -> None:
        self.bind = bind
        self.url = bind.text
        self.address: Address = bind.text
        self._reactor = reactor
        self._endpoint = endpoint
        self._factory = AdapterFactory(reactor.loop, protocols)
        self._port: Any = None
        self._closed: list[Deferred[Any]] = []

    async def listen(self) -> None:
        listening: Deferred[Any] = maybeDeferred(self._endpoint.listen, self._factory)
        try:
            self._port = await listening.asFuture(self._reactor.loop)
        except error.CannotListenError as problem:
            if isinstance(problem.socketError, OSError):
                raise explain(self.bind, problem.socketError) from None
            raise refusal(self.bind, str(problem)) from None
        except OSError as problem:
            raise explain(self.bind, problem) from None
        except Exception as problem:
            raise _refused(self.bind, problem) from None
        _let_negotiate(self._port, self._factory)
        self.address, self.url = _describe(self.bind, self._port)

    async def start(
        self,
        make_protocol: MakeProtocol,
        *,
        handshake_timeout: float | None = None,
        first_data_timeout: float | None = None,
        announcing: Trust | None = None,
        handshakes: int | None = None,
    ) -> None:
        self._factory.start(make_protocol, first_data_timeout)

    def stop_accepting(self) -> None:
        if self._port is not None:
            self._closed.append(maybeDeferred(self._port.stopListening))
            self._port = None
        self._factory.close_silent()

    async def finish(self) -> None:
        for closed in self._closed:
            try:
                await closed.asFuture(self._reactor.loop)
            except Exception:
                logger.warning(
                    "%s: the endpoint did not close.", self.url, exc_info=True
                )
        self._closed = []
        await self._reactor.shut_down()


async def open_endpoint(
    bind: Bind,
    protocols: Sequence[str],
    on_reactor_stop: Callable[[], None] | None,
) -> Listener:
    """Listen on what only Twisted can listen on.

    ``protocols`` are what we speak after a TLS handshake, the best first.

    :raises BindError: when Twisted or the endpoint refuses, or the process has another
        reactor.
    """
    reactor = attach_reactor(bind)
    reactor.on_stop = on_reactor_stop
    # Some of Twisted's modules, and many plugins, import the reactor with themselves.
    from twisted.internet.endpoints import serverFromString

    try:
        endpoint = serverFromString(  # type: ignore[no-untyped-call]
            reactor, bind.text
        )
        listener = TwistedListener(bind, reactor, endpoint, protocols)
        await listener.listen()
    except BaseException as problem:
        await reactor.shut_down()
        if isinstance(problem, BindError) or not isinstance(problem, Exception):
            raise
        raise _refused(bind, problem) from None
    return listener


def _refused(bind: Bind, problem: Exception) -> BindError:
    message = str(problem)
    if message.startswith("Unknown endpoint type"):
        return refusal(
            bind,
            f"{message[0].lower()}{message[1:]}; no installed Twisted plugin provides "
            f"it. An ordinary bind is written like '127.0.0.1:8000'.",
        )
    kind = type(problem).__name__
    return refusal(bind, f"Twisted refuses this endpoint ({kind}: {message}).")


def _describe(bind: Bind, port: Any) -> tuple[Address, str]:
    """The address and the URL of a port, as far as it tells."""
    try:
        host = port.getHost()
    except Exception:
        return bind.text, bind.text
    name = socket_name(host)
    if isinstance(host, address.UNIXAddress):
        return name, f"unix:{name}"
    if not isinstance(name, tuple):
        return name, bind.text
    scheme = "https" if _encrypts(port) else "http"
    shown = f"[{name[0]}]" if ":" in name[0] else name[0]
    return name, f"{scheme}://{shown}:{name[1]}"


def _factories(port: Any) -> Iterator[Any]:
    """The factories between a port and ours, which is the last."""
    factory = getattr(port, "factory", None)
    while factory is not None:
        yield factory
        factory = getattr(factory, "wrappedFactory", None)


def _encrypts(port: Any) -> bool:
    if "twisted.protocols.tls" not in sys.modules:
        return False
    from twisted.protocols.tls import TLSMemoryBIOFactory

    return any(isinstance(factory, TLSMemoryBIOFactory) for factory in _factories(port))


def _let_negotiate(port: Any, ours: AdapterFactory) -> None:
    """Let TLS see our protocols through what is wrapped around our factory.

    Twisted's TLS asks the factory right behind it (``haproxy:ssl:`` puts another
    there), and where that has no answer it breaks off with every client that offers
    protocols, which is all of them.
    """
    for factory in _factories(port):
        if not interfaces.IProtocolNegotiationFactory.providedBy(factory):
            factory.acceptableProtocols = ours.acceptableProtocols
            alsoProvides(factory, interfaces.IProtocolNegotiationFactory)


def passed_descriptors() -> list[tuple[int, str]]:
    """What Twisted took of systemd's variables when its endpoints were imported."""
    from twisted.internet.endpoints import _SystemdParser

    taken = _SystemdParser._sddaemon
    return list(zip(taken._descriptors, taken._names, strict=True))
