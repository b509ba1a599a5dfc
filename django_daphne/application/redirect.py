"""Plain HTTP, answered with where the same thing is to be had over TLS.

RFC 9110 section 15.4.9: 308 has the client repeat its request, method and body
included. The address is made of what the client says, so it is sent only where the
``Host`` is one of ours: anything else would let a link to this server lead elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from .context import Receive, Scope, Send

#: What stays as it is in a URL (RFC 3986 section 2.2 and 2.3; escapes are escaped
#: already). Other bytes, which a client should have escaped, are now.
_URL_CHARACTERS = "/?%:@!$&'()*+,;=-._~[]"

HTTPS_PORT = 443

_PLAIN_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_BAD_REQUEST = b"400 Bad Request: no site of this name is served here.\n"


class Redirect:
    """An ASGI application that sends clients to ``port``, https.

    ``allowed_host`` says for which values of ``Host``; None allows none.
    """

    def __init__(self, port: int, allowed_host: Callable[[str], bool] | None) -> None:
        self._port = "" if port == HTTPS_PORT else f":{port}"
        self._allowed_host = allowed_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        location = self._location(scope)
        if location is None:
            status, headers, body = 400, [_PLAIN_TEXT], _BAD_REQUEST
        else:
            status, headers, body = 308, [(b"location", location)], b""
        await send(
            {"type": "http.response.start", "status": status, "headers": headers}
        )
        await send({"type": "http.response.body", "body": body})

    def _location(self, scope: Scope) -> bytes | None:
        host = _host(scope)
        path: bytes = scope["raw_path"]
        if self._allowed_host is None or not path.startswith(b"/"):
            # OPTIONS * is about this server, not about a page.
            return None
        if not host or not self._allowed_host(host):
            return None
        target = path
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        place = f"https://{_without_port(host)}{self._port}"
        return (place + quote(target, safe=_URL_CHARACTERS)).encode("ascii")


def _host(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"host":
            return str(value.decode("latin-1"))
    return ""


def _without_port(host: str) -> str:
    before, _, port = host.rpartition(":")
    return before if before and "]" not in port else host
