"""The one description of a server.

Whoever starts a server — ``manage.py runasgi``, ``runserver``, ``django-daphne``, a
test — builds a :class:`Config` and nothing else. Settings arrive as the nested dict of
``settings.DJANGO_DAPHNE``; :func:`build_config` reads it once and either returns the
frozen description or raises :class:`~django_daphne.errors.ConfigurationError` with
everything that is wrong, so that ``manage.py check`` and the commands tell the same
story in the same words.

Each dataclass below is a section of the dict: a field ``keep_alive`` of ``Timeouts`` is
the key ``TIMEOUTS["KEEP_ALIVE"]``, its default is the contract's default, and its
``rule`` is what a value must be.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from .binds import Bind, parse_bind
from .errors import ConfigurationError, Problem

KIB = 1024
MIB = 1024 * KIB

#: Stable numbers of the checks (``django_daphne.E001`` …).
NOT_A_DICT = "E001"
UNKNOWN_KEY = "E002"
NOT_AVAILABLE = "E003"
WRONG_VALUE = "E004"
IMPOSSIBLE = "E005"
BAD_BIND = "E006"
NOT_AN_APPLICATION = "E007"
BOTH_SERVERS = "E008"
WRONG_ORDER = "E009"

_OR_NONE = ", or None [^,]*(?=, not )"

Rule = Callable[[Any], str | None]


# -- Rules: each returns None, or what the value must be -----------------------------


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def seconds_or_none(value: object) -> str | None:
    if value is None or (_is_number(value) and value > 0):  # type: ignore[operator]
        return None
    return "a number of seconds above 0, or None to disable it"


def delay(value: object) -> str | None:
    if _is_number(value) and value >= 0:  # type: ignore[operator]
        return None
    return "a number of seconds, 0 or more"


def size(value: object) -> str | None:
    if _is_whole(value) and value > 0:  # type: ignore[operator]
        return None
    return "a whole number above 0"


def size_or_none(value: object) -> str | None:
    if value is None or size(value) is None:
        return None
    return "a whole number above 0, or None for no limit"


def boolean(value: object) -> str | None:
    return None if isinstance(value, bool) else "True or False"


def text_or_none(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return None
    return "a string that is not empty, or None"


def server_header(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, str) and value and value.isascii() and value.isprintable():
        return None
    return "printable ASCII text, or None to send no Server header"


def root_path(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.startswith("/"):
        return None
    return "a path that starts with '/', or None for FORCE_SCRIPT_NAME"


def one_of(*choices: str) -> Rule:
    def rule(value: object) -> str | None:
        if isinstance(value, str) and value in choices:
            return None
        return "one of " + ", ".join(repr(choice) for choice in choices)

    return rule


#: What ``LOGGING["FORMAT"]`` may name; anything else is a %-style template.
ACCESS_FORMATS = ("common", "combined", "json", "daphne")

#: The attributes of an access record, which templates name, each with a value of its
#: type. The large number is one that ``%c`` refuses, as it would some day in service.
ACCESS_FIELDS: dict[str, str | int | float] = {
    "kind": "http",
    "client": "192.0.2.1",
    "port": "54321",
    "method": "GET",
    "path": "/",
    "query": "",
    "target": "/",
    "host": "example.org",
    "scheme": "http",
    "http_version": "1.1",
    "status": 2**40,
    "bytes": 2**40,
    "duration": 0.1,
    "user_agent": "-",
    "referer": "-",
    "time": "20/Nov/2026:10:00:00 +0000",
}


def log_format(value: object) -> str | None:
    demand = (
        "one of " + ", ".join(map(repr, ACCESS_FORMATS)) + ", or a %-style template"
    )
    if not isinstance(value, str) or not value:
        return demand
    if value in ACCESS_FORMATS:
        return None
    if "%(" not in value:
        return f"{demand} like '%(client)s %(message)s'"
    record = {**vars(logging.makeLogRecord({})), **ACCESS_FIELDS}
    try:
        value % {**record, "message": "", "asctime": ""}
    except KeyError as error:
        return f"{demand}; there is no field {error}, only {', '.join(ACCESS_FIELDS)}"
    except (TypeError, ValueError, OverflowError) as error:
        return f"{demand} ({error})"
    return None


def setting(default: Any, rule: Rule) -> Any:
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"rule": rule})
    return field(default=default, metadata={"rule": rule})


# -- Sections ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long we wait, in seconds; None waits for ever."""

    #: A TLS handshake, from the first byte to the last.
    handshake: float | None = setting(10.0, seconds_or_none)
    #: A whole request head, from its first byte; also the first byte of a connection.
    headers: float | None = setting(10.0, seconds_or_none)
    #: No byte of a request body that we are ready to read.
    body: float | None = setting(30.0, seconds_or_none)
    #: No byte taken by a client that has a response to read.
    write: float | None = setting(60.0, seconds_or_none)
    #: Idle between requests. Longer than the 60 s of common balancers, so that they
    #: close first and no request of theirs meets a closing socket.
    keep_alive: float | None = setting(75.0, seconds_or_none)
    #: A whole response, from the end of the request.
    request: float | None = setting(None, seconds_or_none)
    #: From a WebSocket's handshake to the application's accept or denial.
    websocket_connect: float | None = setting(10.0, seconds_or_none)
    #: Between failing readiness and closing the listeners.
    drain_delay: float = setting(0, delay)
    #: Everything from the stop signal to the exit. Kubernetes kills at 30.
    graceful: float | None = setting(25.0, seconds_or_none)
    #: The end of ``graceful`` in which applications hear of the disconnect.
    application_close: float = setting(10.0, delay)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much we take, in bytes unless said otherwise."""

    request_line: int = setting(8 * KIB, size)
    #: The header section of a request, without its request line.
    header_bytes: int = setting(64 * KIB, size)
    #: Fields in a header section.
    header_count: int = setting(100, size)
    body_bytes: int | None = setting(None, size_or_none)
    #: Streams that a client may have open at once on one HTTP/2 connection.
    streams: int = setting(100, size)
    #: Connections the kernel completes before we accept them.
    backlog: int = setting(2048, size)


@dataclass(frozen=True, slots=True)
class WebSocketSettings:
    """Limits (bytes) and times (seconds) of a WebSocket."""

    max_message_size: int | None = setting(1 * MIB, size_or_none)
    max_frame_size: int | None = setting(None, size_or_none)
    ping_interval: float | None = setting(20.0, seconds_or_none)
    ping_timeout: float | None = setting(20.0, seconds_or_none)
    max_lifetime: float | None = setting(None, seconds_or_none)
    compression: bool = setting(True, boolean)
    #: How often larger than its compressed form a message may be, beyond the first
    #: MiB inflated.
    max_inflate_ratio: int | None = setting(100, size_or_none)
    #: Received and not yet taken by the application, before we stop reading.
    queue_bytes: int = setting(1 * MIB, size)


@dataclass(frozen=True, slots=True)
class Worker:
    """What a serving process may use."""

    #: Threads in which Django's handler answers requests.
    threads: int | None = setting(None, size_or_none)


@dataclass(frozen=True, slots=True)
class Logging:
    access: bool = setting(True, boolean)
    format: str = setting("common", log_format)


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the layer above supplies: how the server reaches Django without knowing it.

    ``on_started`` and ``on_stopping`` are awaited on the server's loop, once in each
    serving process, and do not raise.
    ``error_page(scope, error)`` returns ``(status, headers, body)`` for an application
    that failed before it answered, or None for the plain page.
    """

    on_started: Callable[[], Coroutine[Any, Any, None]] | None = None
    on_stopping: Callable[[], Coroutine[Any, Any, None]] | None = None
    error_page: (
        Callable[
            [Any, BaseException], tuple[int, list[tuple[bytes, bytes]], bytes] | None
        ]
        | None
    ) = None


@dataclass(frozen=True, slots=True)
class Config:
    """A server, described. Build it with :func:`build_config`."""

    bind: tuple[Bind, ...] = (parse_bind("127.0.0.1:8000"),)
    #: Whether HTTP/2 is spoken with clients that want it.
    http2: bool = setting(True, boolean)
    #: None: the caller supplies FORCE_SCRIPT_NAME or "".
    root_path: str | None = setting(None, root_path)
    lifespan: str = setting("auto", one_of("auto", "on", "off"))
    server_header: str | None = setting(None, server_header)
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    websocket: WebSocketSettings = WebSocketSettings()
    worker: Worker = Worker()
    logging: Logging = Logging()
    hooks: Hooks = Hooks()


_SECTIONS: dict[str, type] = {
    "TIMEOUTS": Timeouts,
    "LIMITS": Limits,
    "WEBSOCKET": WebSocketSettings,
    "WORKER": Worker,
    "LOGGING": Logging,
}

#: Keys of the published settings whose feature this version does not have.
_NOT_YET: dict[str, tuple[str, ...]] = {
    "": ("REDIRECT_BIND", "TLS", "PROXY", "WORKERS", "MONITOR"),
    "LIMITS": ("CONNECTIONS", "CONCURRENCY", "MINIMUM_RATE"),
    "WORKER": (
        "MAX_REQUESTS", "MAX_REQUESTS_JITTER", "MAX_LIFETIME", "MAX_RSS", "HEARTBEAT",
        "PRELOAD",
    ),
}  # fmt: skip


# -- Reading the dict ----------------------------------------------------------------


def build_config(settings: object) -> Config:
    """Turn ``settings.DJANGO_DAPHNE`` into a :class:`Config`.

    :raises ConfigurationError: with one :class:`~django_daphne.errors.Problem` for
        everything that is wrong, in the order of the dict.
    """
    problems: list[Problem] = []
    config = _read(settings, problems)
    if problems:
        raise ConfigurationError(problems)
    return config


def _read(settings: object, problems: list[Problem]) -> Config:
    if not isinstance(settings, Mapping):
        problems.append(
            Problem(
                NOT_A_DICT,
                "",
                f"DJANGO_DAPHNE must be a dict, not {type(settings).__name__}.",
                "Write DJANGO_DAPHNE = {...}, or leave it out for the defaults.",
            )
        )
        return Config()
    values: dict[str, Any] = {}
    plain = {
        f.name.upper(): f for f in dataclasses.fields(Config) if "rule" in f.metadata
    }
    known = ["BIND", *plain, *_SECTIONS]
    for key, value in settings.items():
        if key == "BIND":
            values["bind"] = _read_binds(value, problems)
        elif key in plain:
            values[plain[key].name] = _read_value(key, value, plain[key], problems)
        elif key in _SECTIONS:
            values[key.lower()] = _read_section(key, value, problems)
        else:
            problems.append(_refuse_key("", key, known))
    config = Config(**values)
    _cross_check(config, problems)
    return config


def _read_section(name: str, value: object, problems: list[Problem]) -> Any:
    section = _SECTIONS[name]
    if not isinstance(value, Mapping):
        problems.append(
            Problem(
                WRONG_VALUE,
                name,
                f"DJANGO_DAPHNE[{name!r}] must be a dict, not {type(value).__name__}.",
            )
        )
        return section()
    fields = {f.name.upper(): f for f in dataclasses.fields(section)}
    values = {}
    for key, item in value.items():
        if key in fields:
            path = f"{name}.{key}"
            values[fields[key].name] = _read_value(path, item, fields[key], problems)
        else:
            problems.append(_refuse_key(name, key, list(fields)))
    return section(**values)


def _read_value(
    path: str, value: Any, field: dataclasses.Field[Any], problems: list[Problem]
) -> Any:
    demand = field.metadata["rule"](value)
    if demand is None:
        return value
    problems.append(
        Problem(WRONG_VALUE, path, f"{spell(path)} must be {demand}, not {value!r}.")
    )
    return field.default


def _read_binds(value: object, problems: list[Problem]) -> tuple[Bind, ...]:
    if (
        not isinstance(value, list | tuple)
        or not value
        or not all(isinstance(item, str) for item in value)
    ):
        problems.append(
            Problem(
                WRONG_VALUE,
                "BIND",
                f"{spell('BIND')} must be a list of strings, not {value!r}.",
                "Write it like ['127.0.0.1:8000'].",
            )
        )
        return ()
    binds = []
    for text in value:
        try:
            binds.append(parse_bind(text))
        except ValueError as error:
            problems.append(Problem(BAD_BIND, "BIND", f"{spell('BIND')}: {error}"))
    repeated = {text for text in value if value.count(text) > 1}
    for text in sorted(repeated):
        problems.append(
            Problem(IMPOSSIBLE, "BIND", f"{spell('BIND')} names {text!r} twice.")
        )
    return tuple(binds)


def _refuse_key(section: str, key: object, known: list[str]) -> Problem:
    path = f"{section}.{key}" if section else str(key)
    if key in _NOT_YET.get(section, ()):
        return Problem(
            NOT_AVAILABLE,
            path,
            f"{spell(path)} is not available yet.",
            "Remove it: this version would not do what it says.",
        )
    close = difflib.get_close_matches(str(key).upper(), known, 1)
    hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."
    return Problem(UNKNOWN_KEY, path, f"{spell(path)} is not a setting.", hint)


def _cross_check(config: Config, problems: list[Problem]) -> None:
    timeouts, websocket = config.timeouts, config.websocket
    if timeouts.graceful is not None and timeouts.drain_delay >= timeouts.graceful:
        problems.append(
            Problem(
                IMPOSSIBLE,
                "TIMEOUTS.DRAIN_DELAY",
                f"{spell('TIMEOUTS.DRAIN_DELAY')} ({timeouts.drain_delay}) must be "
                f"shorter than TIMEOUTS['GRACEFUL'] ({timeouts.graceful}): the delay "
                f"is part of it.",
            )
        )
    if (
        websocket.max_frame_size is not None
        and websocket.max_message_size is not None
        and websocket.max_frame_size > websocket.max_message_size
    ):
        problems.append(
            Problem(
                IMPOSSIBLE,
                "WEBSOCKET.MAX_FRAME_SIZE",
                f"{spell('WEBSOCKET.MAX_FRAME_SIZE')} is larger than "
                f"WEBSOCKET['MAX_MESSAGE_SIZE'] and can never be reached.",
            )
        )


def spell(path: str) -> str:
    """``TIMEOUTS.HEADERS`` as the user wrote it."""
    return "DJANGO_DAPHNE" + "".join(f"[{part!r}]" for part in path.split("."))


def reword(problem: Problem, flag: str) -> str:
    """``problem`` for someone who gave the value by ``flag``, which cannot say None."""
    text = str(problem).replace(spell(problem.key), flag)
    return re.sub(_OR_NONE, "", text, count=1)
