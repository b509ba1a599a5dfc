"""Daphne's ``--proxy-headers``: what a proxy says of the client, believed from anyone.

The left-most address wins, whoever wrote it, and nobody asks whether the peer is a
proxy: that is what the flag has always meant, and why starting with it warns. The scope
is changed in place, so that the access log shows what the application sees.
"""

from __future__ import annotations

from collections.abc import Awaitable
from urllib.parse import unquote_to_bytes

from .application.context import Application, Receive, Scope, Send

HOST_HEADER = "X-Forwarded-For"
PORT_HEADER = "X-Forwarded-Port"

_PROTO = b"x-forwarded-proto"
_ROOT_PATH = b"daphne-root-path"

_SECURE_FORM = {"http": "https", "websocket": "wss"}
_PLAIN_FORM = {"http": "http", "websocket": "ws"}

#: The port of a client whose proxy tells its address alone.
UNKNOWN_PORT = 0


def believe_proxy_headers(
    application: Application,
    host_header: str = HOST_HEADER,
    port_header: str = PORT_HEADER,
) -> Application:
    """``application``, with client, scheme and root path taken from the headers."""
    host_name = host_header.lower().encode("latin-1")
    port_name = port_header.lower().encode("latin-1")

    def believing(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] in _SECURE_FORM:
            _rewrite(scope, host_name, port_name)
        return application(scope, receive, send)

    return believing


def _rewrite(scope: Scope, host_name: bytes, port_name: bytes) -> None:
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, value)
    host = _first(headers.get(host_name))
    if host:
        scope["client"] = (host, _port(_first(headers.get(port_name))))
    scheme = _first(headers.get(_PROTO)).lower()
    if scheme == "https":
        scope["scheme"] = _SECURE_FORM[scope["type"]]
    elif scheme == "http":
        scope["scheme"] = _PLAIN_FORM[scope["type"]]
    root_path = headers.get(_ROOT_PATH)
    if root_path is not None:
        scope["root_path"] = unquote_to_bytes(root_path).decode("utf-8", "replace")
        scope["headers"] = [
            field for field in scope["headers"] if field[0] != _ROOT_PATH
        ]


def _first(value: bytes | None) -> str:
    """The first of the values that proxies have appended to one another."""
    if value is None:
        return ""
    return value.decode("latin-1").partition(",")[0].strip()


def _port(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() else UNKNOWN_PORT
