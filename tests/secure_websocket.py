"""A blocking client of WebSockets over TLS.

``websockets.sync`` reads in one thread while another writes. OpenSSL does not allow it,
and no lock of Python 3.11 and 3.12 prevents it: now and then a request never leaves the
client (python/cpython#134698).
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect

from .serving import PATIENCE


class SecureWebSocket:
    """Does everything in the thread that asks for it; ``with`` closes it.

    ``options`` are those of :func:`asyncio.loop.create_connection`.
    """

    def __init__(self, url: str, context: ssl.SSLContext, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._open(url, context, options))

    @staticmethod
    async def _open(
        url: str, context: ssl.SSLContext, options: dict[str, Any]
    ) -> ClientConnection:
        return await connect(
            url,
            ssl=context,
            proxy=None,
            open_timeout=PATIENCE,
            close_timeout=PATIENCE,
            **options,
        )

    @property
    def address(self) -> Any:
        """Our end, as the kernel says it."""
        return self._client.local_address

    def send(self, message: str | bytes) -> None:
        self._runner.run(asyncio.wait_for(self._client.send(message), PATIENCE))

    def recv(self) -> str | bytes:
        return self._runner.run(asyncio.wait_for(self._client.recv(), PATIENCE))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()
