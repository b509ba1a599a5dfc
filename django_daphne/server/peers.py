"""The names of the two ends of a connection."""

from __future__ import annotations

from typing import Any

from ..application.context import Address


def address(name: Any, server: bool = False) -> Address | None:
    """A socket's name as scopes have it: host and port, or a Unix socket's path."""
    if isinstance(name, tuple) and len(name) >= 2:
        return (str(name[0]), int(name[1]))
    if server and name:
        path = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        return (path, None)
    return None


def client_name(client: Address | None) -> str:
    """A client, as log lines name it."""
    return "a local client" if client is None else f"{client[0]}:{client[1]}"
