"""``django-daphne module:attribute``: Daphne's command line, without Django.

Daphne's flags become the dict that a project would write as ``DJANGO_DAPHNE``, and from
there on everything is as with ``runasgi``. Four things keep Daphne's habits against
our own: Unix sockets are open to everybody, 0 and -1 both mean "no limit", what proxies
say is believed from anyone who says it, when asked to, and an application that goes on
when its client has left is cancelled.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from . import __version__
from .binds import quote
from .config import KIB, MIB, NOT_AN_APPLICATION, Timeouts, build_config, reword
from .errors import ConfigurationError, Problem
from .loading import is_dotted_name, load_application
from .proxy_headers import HOST_HEADER, PORT_HEADER, believe_proxy_headers
from .server import access_log, log_setup, process

PROGRAM = "django-daphne"

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000

#: The mode that Twisted gives to a Unix socket, and with it Daphne.
UNIX_MODE = 666

#: Seconds that an application has at the least to end after its client: how often
#: Daphne looks.
LEAST_CLOSE = 1

EXIT_MISCONFIGURED = 1

LEVELS = {0: logging.WARNING, 1: logging.INFO}

server_log = logging.getLogger("django_daphne.server")

#: Which flag a user has to look at when a setting is refused.
_FLAGS = {
    "BIND": "-b/-p/-u/--fd/-e",
    "ROOT_PATH": "--root-path",
    "SERVER_HEADER": "--server-name",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code of the process."""
    options = _parser().parse_args(arguments)
    try:
        return _serve(options)
    except ConfigurationError as error:
        for problem in error.problems:
            flag = _FLAGS.get(problem.key, problem.key)
            print(f"{PROGRAM}: {reword(problem, flag)}", file=sys.stderr)
        return EXIT_MISCONFIGURED


def _serve(options: argparse.Namespace) -> int:
    _require_proxy_headers(options)
    config = dataclasses.replace(
        build_config(as_settings(options)),
        abandoned=max(options.application_close_timeout, LEAST_CLOSE),
    )
    _log_to_stderr(options)
    application = _load(options.application)
    log_setup.enable_loggers()
    if config.logging.access:
        _write_access_lines(options.access_log)
    if options.proxy_headers:
        application = believe_proxy_headers(
            application,
            options.proxy_headers_host or HOST_HEADER,
            options.proxy_headers_port or PORT_HEADER,
        )
        server_log.warning(
            "--proxy-headers: the client's address, scheme and root path are believed "
            "from anyone who sends them; let nobody but your proxy connect."
        )
    return process.run(
        config,
        application,
        on_listening=_announce,
        log_access=access_log.make_access_log(config),
    )


def _announce(urls: list[str]) -> None:
    for url in urls:
        server_log.info("Listening on %s", url)


# -- Flags -----------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Serve an ASGI application over HTTP and WebSocket.",
    )
    add = parser.add_argument
    add("--version", action="version", version=f"{PROGRAM} {__version__}")
    add(
        "-p",
        "--port",
        type=int,
        help=f"TCP port to listen on (default: {DEFAULT_PORT}).",
    )
    add(
        "-b",
        "--bind",
        dest="host",
        metavar="HOST",
        help=f"Address or host name to listen on (default: {DEFAULT_HOST}).",
    )
    add(
        "--websocket_timeout",
        type=int,
        default=86400,
        metavar="SECONDS",
        help="Longest life of a WebSocket; -1 for no limit (default: a day).",
    )
    add(
        "--websocket_connect_timeout",
        type=int,
        default=5,
        metavar="SECONDS",
        help="Time in which the application accepts or rejects a WebSocket; -1 for no "
        "limit (default: 5).",
    )
    add("-u", "--unix-socket", metavar="PATH", help="Unix socket to listen on.")
    add(
        "--fd",
        type=int,
        dest="file_descriptor",
        metavar="NUMBER",
        help="Descriptor of an inherited socket to listen on.",
    )
    add(
        "-e",
        "--endpoint",
        action="append",
        default=[],
        dest="endpoints",
        metavar="STRING",
        help="Bind or Twisted endpoint string to listen on; may be repeated.",
    )
    add(
        "-v",
        "--verbosity",
        type=int,
        default=1,
        metavar="LEVEL",
        help="0 logs warnings alone, 1 also the access log, 2 and more also what helps "
        "to find errors (default: 1).",
    )
    add(
        "-t",
        "--http-timeout",
        type=int,
        metavar="SECONDS",
        help="Time for a whole response (default: no limit).",
    )
    add(
        "--access-log",
        metavar="FILE",
        help="File to append the access log to; - for standard output, which is the "
        "default unless the verbosity is 0.",
    )
    add(
        "--log-fmt",
        default="%(asctime)-15s %(levelname)-8s %(message)s",
        metavar="FORMAT",
        help="%%-style format of log lines on standard error.",
    )
    add(
        "--ping-interval",
        type=int,
        default=20,
        metavar="SECONDS",
        help="Idle time after which a WebSocket is pinged; 0 for never (default: 20).",
    )
    add(
        "--ping-timeout",
        type=int,
        default=30,
        metavar="SECONDS",
        help="Time for the answer to a ping; 0 for no limit (default: 30).",
    )
    add(
        "--websocket-max-message-size",
        type=int,
        default=MIB,
        metavar="BYTES",
        help="Largest WebSocket message taken; 0 for no limit, so that one client may "
        f"fill the memory (default: {MIB // KIB} KiB).",
    )
    add(
        "--websocket-max-frame-size",
        type=int,
        default=MIB,
        metavar="BYTES",
        help="Largest WebSocket frame taken; 0 for no limit but the message's "
        f"(default: {MIB // KIB} KiB).",
    )
    add(
        "--application-close-timeout",
        type=int,
        default=10,
        metavar="SECONDS",
        help="Time an application has to end once it was told of the disconnect "
        "(default: 10).",
    )
    add(
        "--root-path",
        default="",
        metavar="PATH",
        help="ASGI root_path: where the application is mounted (default: empty).",
    )
    add(
        "--proxy-headers",
        action="store_true",
        help="Believe X-Forwarded-For, -Port and -Proto and Daphne-Root-Path, whoever "
        "sends them.",
    )
    add(
        "--proxy-headers-host",
        metavar="NAME",
        help="Header with the client's address, in the place of X-Forwarded-For; needs "
        "--proxy-headers.",
    )
    add(
        "--proxy-headers-port",
        metavar="NAME",
        help="Header with the client's port, in the place of X-Forwarded-Port; needs "
        "--proxy-headers.",
    )
    add(
        "application",
        metavar="MODULE:ATTRIBUTE",
        help="The application, such as mysite.asgi:application.",
    )
    add(
        "-s",
        "--server-name",
        default="daphne",
        metavar="NAME",
        help="Content of the Server header (default: daphne, as ever).",
    )
    add(
        "--no-server-name",
        action="store_const",
        const="",
        dest="server_name",
        help="Send no Server header.",
    )
    return parser


def as_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The flags as a project would write them in ``DJANGO_DAPHNE``."""
    message_size = _unlimited(options.websocket_max_message_size)
    frame_size = _unlimited(options.websocket_max_frame_size)
    if message_size is not None and frame_size is not None:
        # Daphne's default for frames stays where only the other limit is lowered.
        frame_size = min(frame_size, message_size)
    application_close = max(options.application_close_timeout, 0)
    return {
        "BIND": _binds(options),
        "ROOT_PATH": options.root_path,
        "SERVER_HEADER": options.server_name or None,
        "TIMEOUTS": {
            "REQUEST": _unlimited(options.http_timeout),
            "WEBSOCKET_CONNECT": _unlimited(options.websocket_connect_timeout),
            "APPLICATION_CLOSE": application_close,
            "GRACEFUL": max(Timeouts().graceful or 0, application_close),
        },
        "WEBSOCKET": {
            "MAX_MESSAGE_SIZE": message_size,
            "MAX_FRAME_SIZE": frame_size,
            "PING_INTERVAL": _unlimited(options.ping_interval),
            "PING_TIMEOUT": _unlimited(options.ping_timeout),
            "MAX_LIFETIME": _unlimited(options.websocket_timeout),
        },
        "LOGGING": {
            "ACCESS": options.access_log is not None or options.verbosity > 0,
            "FORMAT": "daphne",
        },
    }


def _unlimited(value: int | None) -> int | None:
    return None if value is None or value <= 0 else value


def _binds(options: argparse.Namespace) -> list[str]:
    binds = [_open_to_all(text) for text in options.endpoints]
    unix, fd = options.unix_socket, options.file_descriptor
    nothing_else = not binds and unix is None and fd is None
    if options.host is not None or options.port is not None or nothing_else:
        host = DEFAULT_HOST if options.host is None else options.host.strip("[]")
        port = DEFAULT_PORT if options.port is None else options.port
        # Twisted's own form, because its "::" takes IPv4 connections too.
        is_ipv6 = ":" in host
        binds.append(
            f"tcp:{port}:interface={quote(host)}" if is_ipv6 else f"{host}:{port}"
        )
    if unix is not None:
        binds.append(f"unix:{quote(unix)}:mode={UNIX_MODE}")
    if fd is not None:
        binds.append(f"fd:{fd}")
    return binds


def _open_to_all(text: str) -> str:
    if text.lower().startswith("unix:") and ":mode=" not in text:
        return f"{text}:mode={UNIX_MODE}"
    return text


def _require_proxy_headers(options: argparse.Namespace) -> None:
    for name in ("proxy_headers_host", "proxy_headers_port"):
        if getattr(options, name) and not options.proxy_headers:
            flag = f"--{name.replace('_', '-')}"
            raise _mistake(flag, f"{flag} does nothing without --proxy-headers.")


def _mistake(flag: str, message: str, hint: str = "") -> ConfigurationError:
    return ConfigurationError([Problem(NOT_AN_APPLICATION, flag, message, hint)])


# -- The application -------------------------------------------------------------------


def _load(name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not colon and is_dotted_name(name):
        raise _mistake(
            "application",
            f"{name!r} names a module and no application.",
            f"Write '{name}:application', or what the application is called there.",
        )
    if not is_dotted_name(module) or not is_dotted_name(attribute):
        raise _mistake(
            "application",
            f"{name!r} is not a module and an attribute.",
            "Write it like 'mysite.asgi:application'.",
        )
    # Where the command is run from is where it finds the application.
    sys.path.insert(0, os.getcwd())
    return load_application(module, attribute, source=name)


# -- Logs ------------------------------------------------------------------------------


def _log_to_stderr(options: argparse.Namespace) -> None:
    try:
        logging.Formatter(options.log_fmt)
        sample = vars(logging.makeLogRecord({}))
        options.log_fmt % {**sample, "asctime": "", "message": ""}
    except KeyError as error:
        raise _mistake("--log-fmt", f"--log-fmt: there is no field {error}.") from None
    except (TypeError, ValueError) as error:
        raise _mistake(
            "--log-fmt", f"--log-fmt {options.log_fmt!r} is not a log format: {error}."
        ) from None
    level = LEVELS.get(options.verbosity, logging.DEBUG)
    logging.basicConfig(level=level, format=options.log_fmt, stream=sys.stderr)


def _write_access_lines(path: str | None) -> None:
    if path is None or path == "-":
        log_setup.write_access_lines(logging.StreamHandler(sys.stdout))
    else:
        try:
            handler = logging.FileHandler(path, encoding="utf-8")
        except OSError as error:
            raise _mistake(
                "--access-log", f"--access-log cannot be written: {error}."
            ) from None
        log_setup.write_access_lines(handler)
    # The handler above is where access lines go, and the only place.
    access_log.access_log.propagate = False
