"""Endpoints of somebody else's.

``knock:PASSWORD:ENDPOINT`` listens on the quoted ``ENDPOINT``, drops connections whose
first line is not ``PASSWORD``, and never shows that line to the protocol behind it. It
also does what plugins do to a reactor: the line ``STOP`` stops it, and an event before
its shutdown leaves a file, whose name the environment gives.

``bare:ENDPOINT`` is the quoted ``ENDPOINT`` and nothing else. ``stuck:ENDPOINT`` too,
but what it does before the reactor's shutdown never ends.
"""

import os

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.internet.task import deferLater
from twisted.plugin import IPlugin
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import implementer


class Doorkeeper(ProtocolWrapper):
    heard = b""
    open = False

    def dataReceived(self, data):
        if self.open:
            self.wrappedProtocol.dataReceived(data)
            return
        self.heard += data
        line, end, rest = self.heard.partition(b"\n")
        if not end:
            return
        if line == b"STOP":
            global_reactor.stop()
            self.loseConnection()
        elif line == self.factory.password:
            self.open = True
            if rest:
                self.wrappedProtocol.dataReceived(rest)
        else:
            self.loseConnection()


@implementer(IStreamServerEndpoint)
class KnockEndpoint:
    def __init__(self, reactor, password, inner):
        self.reactor = reactor
        self.password = password
        self.inner = inner

    def listen(self, factory):
        wrapper = WrappingFactory(factory)
        wrapper.protocol = Doorkeeper
        wrapper.password = self.password.encode()
        self.reactor.addSystemEventTrigger("before", "shutdown", self.say_goodbye)
        # Endpoints may take their time.
        return deferLater(self.reactor, 0.01, self.inner.listen, wrapper)

    def say_goodbye(self):
        path = os.environ.get("KNOCK_GOODBYE")
        if path:
            return deferLater(self.reactor, 0.01, self.write, path)

    def write(self, path):
        with open(path, "w") as file:
            file.write("goodbye")


@implementer(IPlugin, IStreamServerEndpointStringParser)
class KnockParser:
    prefix = "knock"

    def parseStreamServer(self, reactor, password, inner):
        assert reactor is global_reactor
        return KnockEndpoint(reactor, password, serverFromString(reactor, inner))


@implementer(IPlugin, IStreamServerEndpointStringParser)
class BareParser:
    prefix = "bare"

    def parseStreamServer(self, reactor, inner):
        return serverFromString(reactor, inner)


@implementer(IPlugin, IStreamServerEndpointStringParser)
class StuckParser:
    prefix = "stuck"

    def parseStreamServer(self, reactor, inner):
        reactor.addSystemEventTrigger("before", "shutdown", Deferred)
        # A pool of threads, which would outlive us if nobody ended it.
        reactor.callInThread(str)
        return serverFromString(reactor, inner)


knock = KnockParser()
bare = BareParser()
stuck = StuckParser()
