"""The servers, and how each is started.

Like for like: one worker process, uvloop wherever the server can use it, no access log,
no log below warnings, the server's own defaults for everything else. What is switched
from a default, and why, stands beside the switch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from certificate import Certificate

#: More connections than any case opens. Servers that cap them by default could not
#: hold 5,000 WebSockets.
MANY_CONNECTIONS = 16384

HTTP1 = "http1"
HTTP2 = "http2"
WEBSOCKET = "websocket"


@dataclass(frozen=True)
class Launch:
    """What a case wants started; with TLS if there is a certificate."""

    app: str
    port: int
    certificate: Certificate | None = None

    def tls(self, certificate: str, key: str) -> list[str]:
        """The flags, by their names, of a server that has two."""
        if self.certificate is None:
            return []
        files = self.certificate
        return [certificate, str(files.chain), key, str(files.key)]

    def daphnes_place(self) -> list[str]:
        """Where to listen, for Daphne and those who took over its flags."""
        if self.certificate is None:
            return ["-p", str(self.port)]
        files = f"privateKey={self.certificate.key}:certKey={self.certificate.chain}"
        return ["-e", f"ssl:{self.port}:interface=127.0.0.1:{files}"]


@dataclass(frozen=True)
class Server:
    """A row of the tables.

    ``speaks`` is what the row is measured in: a server with several engines has a row
    for each, and each only where its engine matters.
    """

    name: str
    package: str
    speaks: frozenset[str]
    command: Callable[[Launch], list[str]]


def _django_daphne(launch: Launch) -> list[str]:
    # The same as the `django-daphne` command. `-v 0` is, as in Daphne, the switch of
    # the access log.
    return [
        *("python", "-m", "django_daphne"),
        *("-v", "0", *launch.daphnes_place(), launch.app),
    ]


def _daphne(launch: Launch) -> list[str]:
    return ["daphne", "-v", "0", *launch.daphnes_place(), launch.app]


def _uvicorn(*engines: str) -> Callable[[Launch], list[str]]:
    def command(launch: Launch) -> list[str]:
        return [
            *("uvicorn", "--port", str(launch.port)),
            *("--loop", "uvloop", *engines),
            *("--no-access-log", "--log-level", "warning"),
            *launch.tls("--ssl-certfile", "--ssl-keyfile"),
            launch.app,
        ]

    return command


def _hypercorn(launch: Launch) -> list[str]:
    return [
        *("hypercorn", "--bind", f"127.0.0.1:{launch.port}"),
        *("--workers", "1", "--worker-class", "uvloop"),
        # Off by default; Daphne, Uvicorn and we ping every 20 seconds.
        *("--websocket-ping-interval", "20"),
        *launch.tls("--certfile", "--keyfile"),
        *("--log-level", "WARNING", launch.app),
    ]


def _granian(launch: Launch) -> list[str]:
    return [
        *("granian", "--port", str(launch.port)),
        *("--interface", "asgi", "--workers", "1", "--loop", "uvloop"),
        *launch.tls("--ssl-certificate", "--ssl-keyfile"),
        # Backlog / workers, 1024, by default: it counts open WebSockets.
        *("--backpressure", str(MANY_CONNECTIONS)),
        *("--log-level", "warning", launch.app),
    ]


def _gunicorn(launch: Launch) -> list[str]:
    return [
        *("gunicorn", "--bind", f"127.0.0.1:{launch.port}"),
        *("--workers", "1", "--worker-class", "asgi", "--asgi-loop", "uvloop"),
        *launch.tls("--certfile", "--keyfile"),
        # 1000 by default.
        *("--worker-connections", str(MANY_CONNECTIONS)),
        *("--log-level", "warning", launch.app),
    ]


_HTTP1_ONLY = frozenset({HTTP1})
_WEBSOCKET_ONLY = frozenset({WEBSOCKET})
_BOTH = _HTTP1_ONLY | _WEBSOCKET_ONLY
_ALL = _BOTH | {HTTP2}

#: The row the others are compared with.
OURS = "django-daphne"

SERVERS = (
    Server(OURS, "django-daphne", _ALL, _django_daphne),
    Server("daphne", "daphne", _ALL, _daphne),
    Server("uvicorn-httptools", "uvicorn", _HTTP1_ONLY, _uvicorn("--http=httptools")),
    Server("uvicorn-zttp", "uvicorn", _HTTP1_ONLY, _uvicorn("--http=zttp")),
    *(
        Server(
            f"uvicorn-{engine}",
            "uvicorn",
            _WEBSOCKET_ONLY,
            _uvicorn("--http=httptools", f"--ws={engine}"),
        )
        for engine in ("websockets-sansio", "websockets", "wsproto")
    ),
    Server("hypercorn", "hypercorn", _ALL, _hypercorn),
    Server("granian", "granian", _ALL, _granian),
    Server("gunicorn", "gunicorn", _BOTH, _gunicorn),
)
