"""A parsed head becomes an ASGI scope (ASGI HTTP & WebSocket Message Format 2.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..protocol.headers import Headers
from .context import Context, Peer, Scope

ASGI_VERSION = "3.0"
SPEC_VERSION = "2.5"

_EXTENSIONS: dict[str, dict[str, Any]] = {
    "http.response.trailers": {},
    "http.response.pathsend": {},
    "http.response.early_hint": {},
}


class RequestHead(Protocol):
    """What a scope needs of a request's head, on any version of HTTP."""

    method: str
    path: str
    raw_path: bytes
    query: bytes
    http_version: str
    headers: Headers


def http_scope(context: Context, peer: Peer, head: RequestHead) -> dict[str, Any]:
    """The scope of a request."""
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": ASGI_VERSION, "spec_version": SPEC_VERSION},
        "http_version": head.http_version,
        "method": head.method,
        "scheme": peer.scheme,
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query,
        "root_path": context.root_path,
        "headers": head.headers,
        "client": peer.client,
        "server": peer.server,
        "extensions": _EXTENSIONS.copy(),
    }
    if peer.extensions is not None:
        _extend(scope, peer.extensions)
    if context.state is not None:
        scope["state"] = context.state.copy()
    return scope


def websocket_scope(
    context: Context, peer: Peer, head: RequestHead, subprotocols: Sequence[str]
) -> dict[str, Any]:
    """The scope of a WebSocket; ``subprotocols`` are those the client offers."""
    scope: dict[str, Any] = {
        "type": "websocket",
        "asgi": {"version": ASGI_VERSION, "spec_version": SPEC_VERSION},
        "http_version": head.http_version,
        "scheme": "ws" if peer.scheme == "http" else "wss",
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query,
        "root_path": context.root_path,
        "headers": join_cookies(head.headers),
        "client": peer.client,
        "server": peer.server,
        "subprotocols": list(subprotocols),
        "extensions": {"websocket.http.response": {}},
    }
    if peer.extensions is not None:
        _extend(scope, peer.extensions)
    if context.state is not None:
        scope["state"] = context.state.copy()
    return scope


def _extend(scope: Scope, extensions: dict[str, dict[str, Any]]) -> None:
    for name, content in extensions.items():
        scope["extensions"][name] = content.copy()


def join_cookies(headers: Headers) -> Headers:
    """Several Cookie fields as one.

    Applications that fold repeated fields with a comma would break the cookies
    (RFC 6265 section 5.4 allows one field; RFC 9113 section 8.2.3 joins by ``"; "``).
    """
    cookies = [value for name, value in headers if name == b"cookie"]
    if len(cookies) < 2:
        return headers
    joined = [field for field in headers if field[0] != b"cookie"]
    joined.append((b"cookie", b"; ".join(cookies)))
    return joined


def path_as_sent(scope: Scope) -> str:
    """The path for a log, still encoded: decoded, it may have line ends and escapes."""
    raw_path: bytes = scope["raw_path"]
    return raw_path.decode("ascii", "backslashreplace")
