"""Requests as ``runserver`` shows them: in the words of Django's own server.

A line for each request, with the attributes that Django's records have, so that its
formatter colours them; two for a WebSocket, when it opens and when it closes; and what
Django says of clients that speak TLS, speak no HTTP, or leave.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from datetime import datetime

from .application.context import Scope, protocol_log
from .application.http import CLIENT_CLOSED_REQUEST
from .protocol.http1 import TLS_ON_PLAIN_PORT
from .server.log_setup import enable_loggers
from .server.tls_listener import PLAIN_ON_TLS_PORT

logger = logging.getLogger("django.server")

TLS_HINT = (
    "You're accessing the development server over HTTPS, but it only supports HTTP."
)

PLAIN_HINT = (
    "You're accessing the development server over HTTP, but with --https it only "
    "supports HTTPS."
)

#: As in the access log that Django's server inherits from the standard library.
TIME = "%d/%b/%Y %H:%M:%S"


def log_access(kind: str, scope: Scope, status: int, sent: int, seconds: float) -> None:
    """Say what became of a request or a WebSocket; a ``LogAccess``."""
    try:
        _say(kind, scope, status, sent)
    except Exception:
        # Applications may change their scope. That must cost them no response.
        logger.exception("No line for a request: the application changed its scope")


def _say(kind: str, scope: Scope, status: int, sent: int) -> None:
    target = scope["raw_path"].decode("latin-1")
    if query := scope["query_string"]:
        target += "?" + query.decode("latin-1")
    if status == CLIENT_CLOSED_REQUEST:
        logger.info("- Broken pipe from %s", scope["client"])
    elif kind == "http":
        line = f"{scope['method']} {target} HTTP/{scope['http_version']}"
        _log('"%s" %s %s', line, str(status), str(sent), status=status, about=scope)
    else:
        host, port = scope["client"]
        what = f"WebSocket {kind.upper()} %s [%s:%d]"
        if kind == "connect":
            _log(what, target, host, port, status=status, about=scope)
        elif kind == "reject":
            _log(f"{what} %d", target, host, port, status, status=status, about=scope)
        else:
            # A close code, which no formatter may take for a status.
            _log(f"{what} %d", target, host, port, status, about=scope)


@contextlib.contextmanager
def log_refusals() -> Iterator[None]:
    """While inside, say what the server refuses before any application hears of it."""
    handler, level = _Refusals(), protocol_log.level
    enable_loggers()
    protocol_log.addHandler(handler)
    if level == logging.NOTSET:
        protocol_log.setLevel(logging.INFO)
    try:
        yield
    finally:
        protocol_log.setLevel(level)
        protocol_log.removeHandler(handler)


class _Refusals(logging.Handler):
    """Turns records of the server about its peers into Django's."""

    def emit(self, record: logging.LogRecord) -> None:
        said: bytes = getattr(record, "data", b"")
        if not said:
            logger.log(record.levelno, "%s", record.getMessage())
            return
        status, reason = record.status, record.reason  # type: ignore[attr-defined]
        if reason == TLS_ON_PLAIN_PORT:
            _log(TLS_HINT, status=500)
            return
        if reason == PLAIN_ON_TLS_PORT:
            _log(PLAIN_HINT, status=status)
            return
        _log("code %d, message %s", status, reason)
        line = said.partition(b"\n")[0].rstrip(b"\r").decode("latin-1")
        _log('"%s" %s -', line, str(status), status=status)


def _log(
    message: str, *args: object, status: int | None = None, about: object = None
) -> None:
    """Like Django's ``WSGIRequestHandler.log_message``.

    Django's records have the connection as ``request``; ours have the scope.
    """
    level = logging.INFO
    extra = {"request": about, "server_time": datetime.now().strftime(TIME)}
    if status is not None:
        extra["status_code"] = status
        if status >= 400:
            level = logging.ERROR if status >= 500 else logging.WARNING
    # A peer chooses these texts, and must not write lines of its own into a terminal.
    printable = (
        arg.encode("unicode_escape").decode("ascii") if isinstance(arg, str) else arg
        for arg in args
    )
    logger.log(level, message, *printable, extra=extra)
