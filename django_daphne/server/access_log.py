"""Access lines: one log record for each request, and the texts it may have.

A record of ``django_daphne.access`` carries what happened as attributes; their names
are :data:`~django_daphne.config.ACCESS_FIELDS`. Its message is the line that
``LOGGING["FORMAT"]`` asks for, whichever handler writes it, so that a project may take
our lines or format the attributes itself.

Everything in a record that a client has chosen is made harmless first: characters that
do not print (line ends, terminal escapes, marks that turn the direction of writing) are
spelled out, so that no request can forge a line. In our own lines quotes and
backslashes are escaped besides, so that none can forge a field.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from ..application.context import LogAccess, Scope, server_log
from ..config import ACCESS_FIELDS, Config

access_log = logging.getLogger("django_daphne.access")

Line = Callable[[logging.LogRecord], str]

#: What stands in a line for what is not known, as everywhere in web server logs.
ABSENT = "-"

#: The method of a WebSocket's records. The words are Daphne's, so that what reads its
#: logs reads ours.
METHODS = {"connect": "WSCONNECT", "reject": "WSREJECT", "disconnect": "WSDISCONNECT"}

#: English whatever the locale: programs read these lines.
_MONTHS = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip

_TEXT_FIELDS = [name for name, value in ACCESS_FIELDS.items() if isinstance(value, str)]

#: Addresses are not quoted in lines: nothing else may stand in their place.
_NOT_IN_AN_ADDRESS = re.compile(r"[^0-9A-Za-z.:%_-]")


def make_access_log(config: Config) -> LogAccess | None:
    """The function that logs each request, or None when nobody listens.

    Who listens is looked up once, here: a handler added later is not seen. The level of
    the logger is looked up each time.
    """
    if not config.logging.access:
        return None
    if not access_log.isEnabledFor(logging.INFO) or not access_log.hasHandlers():
        return None
    line = make_line(config.logging.format)

    def log_access(
        kind: str, scope: Scope, status: int, sent: int, seconds: float
    ) -> None:
        if not access_log.isEnabledFor(logging.INFO):
            return
        try:
            record = _make_record(kind, scope, status, sent, seconds)
            record.msg = line(record)
            access_log.handle(record)
        except Exception:
            # A scope that its application has changed, a handler of the project that
            # raises: neither may cost a response.
            server_log.exception("A request could not be logged")

    return log_access


# -- Records ---------------------------------------------------------------------------


def _make_record(
    kind: str, scope: Scope, status: int, sent: int, seconds: float
) -> logging.LogRecord:
    path = _decode(scope.get("raw_path") or scope["path"].encode())
    query = _decode(scope["query_string"])
    client, port = scope.get("client") or (None, None)
    host = user_agent = referer = ABSENT
    for name, value in scope["headers"]:
        if name == b"user-agent":
            user_agent = _decode(value)
        elif name == b"referer":
            referer = _decode(value)
        elif name == b"host":
            host = _decode(value)
    record = access_log.makeRecord(
        access_log.name, logging.INFO, __file__, 0, "", (), None
    )
    # Not by makeRecord(extra=...), which looks at each name to see if it is taken.
    record.__dict__.update(
        kind=kind,
        client=_address(client) if client else ABSENT,
        port=ABSENT if port is None else str(port),
        method=METHODS.get(kind) or scope["method"],
        path=path,
        query=query,
        target=f"{path}?{query}" if query else path,
        host=host,
        scheme=scope["scheme"],
        http_version=scope["http_version"],
        status=status,
        bytes=sent,
        duration=seconds,
        user_agent=user_agent,
        referer=referer,
        time=_clf_time(int(record.created)),
    )
    return record


def _decode(value: bytes) -> str:
    text = value.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def _address(client: str) -> str:
    return _NOT_IN_AN_ADDRESS.sub(lambda match: f"\\u{ord(match[0]):04x}", client)


@functools.lru_cache(maxsize=1)
def _clf_time(second: int) -> str:
    """Local time as in the Common Log Format: ``20/Nov/2026:10:00:00 +0000``."""
    now = time.localtime(second)
    return (
        f"{now.tm_mday:02}/{_MONTHS[now.tm_mon - 1]}/{now.tm_year}:"
        f"{now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02} {time.strftime('%z', now)}"
    )


# -- Lines -----------------------------------------------------------------------------


def make_line(format: str) -> Line:
    """What turns a record into the text that ``LOGGING["FORMAT"]`` asks for."""
    return _LINES.get(format) or _template_line(format)


def _common_line(record: Any) -> str:
    return (
        f'{record.client} - - [{record.time}] "{record.method} '
        f'{_quotable(record.target)} HTTP/{record.http_version}" '
        f"{record.status} {record.bytes}"
    )


def _combined_line(record: Any) -> str:
    referer, user_agent = _quotable(record.referer), _quotable(record.user_agent)
    return f'{_common_line(record)} "{referer}" "{user_agent}"'


def _json_line(record: Any) -> str:
    when = datetime.fromtimestamp(record.created, UTC)
    return json.dumps(
        {
            "time": when.isoformat(timespec="milliseconds"),
            "kind": record.kind,
            "client": _present(record.client),
            "port": int(record.port) if record.port.isdecimal() else None,
            "method": record.method,
            "path": record.path,
            "query": record.query,
            "host": _present(record.host),
            "scheme": record.scheme,
            "http_version": record.http_version,
            "status": record.status,
            "bytes": record.bytes,
            "duration": round(record.duration, 6),
            "user_agent": _present(record.user_agent),
            "referer": _present(record.referer),
        }
    )


def _daphne_line(record: Any) -> str:
    # Daphne prints Python's None for the client of a Unix socket, and no time zone.
    client = "None" if record.client == ABSENT else f"{record.client}:{record.port}"
    when = record.time.partition(" ")[0]
    line = f'{client} - - [{when}] "{record.method} {_quotable(record.target)}"'
    if record.kind == "http":
        return f"{line} {record.status} {record.bytes}"
    return f"{line} - -"


def _template_line(template: str) -> Line:
    clock = logging.Formatter() if "%(asctime)" in template else None
    needs_message = "%(message)" in template

    def line(record: logging.LogRecord) -> str:
        values = dict(vars(record))
        for name in _TEXT_FIELDS:
            values[name] = _quotable(values[name])
        if needs_message:
            values["message"] = _common_line(record)
        if clock is not None:
            values["asctime"] = clock.formatTime(record)
        return template % values

    return line


_LINES: dict[str, Line] = {
    "common": _common_line,
    "combined": _combined_line,
    "json": _json_line,
    "daphne": _daphne_line,
}


def _quotable(text: str) -> str:
    if '"' in text or "\\" in text:
        return text.replace("\\", "\\\\").replace('"', '\\"')
    return text


def _present(text: str) -> str | None:
    return None if text == ABSENT else text


# -- Files -----------------------------------------------------------------------------


def reopen_all() -> None:
    """Open every log file anew, after a rotation moved the old one away.

    Every ``logging.FileHandler`` of the process is meant, ours and the project's. One
    that cannot be opened goes on with its old file, and the log says so.
    """
    for handler in set(_handlers()):
        if isinstance(handler, logging.FileHandler) and handler.stream is not None:
            _reopen(handler)


def _reopen(handler: logging.FileHandler) -> None:
    try:
        # The handler's to close.
        stream = open(  # noqa: SIM115
            handler.baseFilename,
            "a",
            encoding=handler.encoding,
            errors=handler.errors,
        )
    except OSError as error:
        server_log.error("A log file could not be reopened: %s", error)
        return
    old = handler.setStream(stream)
    if old is not None:
        old.close()


def _handlers() -> Iterator[logging.Handler]:
    loggers: list[Any] = [logging.root, *logging.Logger.manager.loggerDict.values()]
    for logger in loggers:
        # The dict also holds place-holders for names nobody has asked for.
        for handler in getattr(logger, "handlers", ()):
            yield handler
            target = getattr(handler, "target", None)
            if isinstance(target, logging.Handler):
                yield target
            listener = getattr(handler, "listener", None)
            yield from getattr(listener, "handlers", ())
