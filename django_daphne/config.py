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

import contextlib
import dataclasses
import difflib
import ipaddress
import logging
import math
import os
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .binds import Bind, BindKind, parse_bind
from .errors import ConfigurationError, Problem
from .trust import parse_trusted

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
UNUSABLE_CERTIFICATE = "E010"
UNUSABLE_BIND = "E011"

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


def delay_or_none(value: object) -> str | None:
    if value is None or (_is_number(value) and value >= 0):  # type: ignore[operator]
        return None
    return "a number of seconds, 0 or more, or None to disable it"


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


def path(value: object) -> str | None:
    if isinstance(value, str | os.PathLike):
        name = os.fspath(value)
        if isinstance(name, str) and name and "\0" not in name:
            return None
    return "the path of a file"


def path_or_none(value: object) -> str | None:
    return None if value is None or path(value) is None else "the path of a file"


def folder(value: object) -> str | None:
    if path(value) is None and os.path.isabs(os.fspath(value)):  # type: ignore[call-overload]
        return None
    return "the absolute path of a folder"


def directory_url(value: object) -> str | None:
    if isinstance(value, str) and value.isascii() and value.isprintable():
        with contextlib.suppress(ValueError):
            parts = urlsplit(value)
            # RFC 8555 section 6.1: everything is asked for over https. A port that is
            # none raises.
            whole = parts.scheme == "https" and parts.hostname and parts.port != 0
            if whole and "@" not in parts.netloc and " " not in value:
                return None
    return "the https URL of an ACME directory, without a user"


def email_or_none(value: object) -> str | None:
    # A comma would make two of it, and what follows a question mark its subject.
    if value is None or (
        isinstance(value, str)
        and value.isprintable()
        and re.fullmatch(r"[^@,?\s]+@[^@,?\s]+", value, re.ASCII)
        and value.isascii()
    ):
        return None
    return "an e-mail address, or None"


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


def setting(default: Any, rule: Rule, *, secret: bool = False) -> Any:
    """A field that is a key; the value of a ``secret`` one is shown to nobody."""
    metadata = {"rule": rule, "secret": secret}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, repr=not secret, metadata=metadata)


# -- Sections ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long we wait, in seconds; None waits for ever."""

    #: A TLS handshake, and the silence before it.
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
    #: A whole response, from the end of the request, or from where we stop reading it.
    request: float | None = setting(None, seconds_or_none)
    #: From a WebSocket's handshake to the application's accept or denial.
    websocket_connect: float | None = setting(10.0, seconds_or_none)
    #: Between failing readiness and closing the listeners.
    drain_delay: float | None = setting(0, delay_or_none)
    #: Everything from the stop signal to the exit. Kubernetes kills at 30.
    graceful: float | None = setting(25.0, seconds_or_none)
    #: The end of ``graceful`` in which applications hear of the disconnect. Where the
    #: settings do not say, it is at most half of what ``drain_delay`` leaves.
    application_close: float | None = setting(10.0, delay_or_none)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much we take, in bytes unless said otherwise."""

    request_line: int = setting(8 * KIB, size)
    #: The header section of a request, without its request line.
    header_bytes: int = setting(64 * KIB, size)
    #: Fields in a header section.
    header_count: int = setting(100, size)
    body_bytes: int | None = setting(None, size_or_none)
    #: Connections open at once; those beyond are answered 503.
    connections: int | None = setting(None, size_or_none)
    #: Requests and WebSockets in the application at once; those beyond get 503.
    concurrency: int | None = setting(None, size_or_none)
    #: Bytes a second of a request's body, and of what a client takes of a response,
    #: averaged over each ``body`` and ``write`` timeout. Slower than any modem.
    minimum_rate: int | None = setting(240, size_or_none)
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
class Monitoring:
    """Where health and metrics are told."""

    bind: Bind | None = None


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A certificate, with what it needs to be believed, and its key; PEM files."""

    #: The certificate itself first, the intermediate ones after it.
    certificate: str = setting(None, path_or_none)
    #: None: in the certificate's file.
    private_key: str | None = setting(None, path_or_none)


#: Its production directory: certificates that browsers believe.
LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"


@dataclass(frozen=True, slots=True)
class ACME:
    """Where a certificate is had from (RFC 8555), and what for."""

    #: DNS names in lower case, all in one certificate.
    domains: tuple[str, ...] = field(default=())
    #: Where the authority may write to when something is wrong.
    email: str | None = setting(None, email_or_none)
    directory_url: str = setting(LETS_ENCRYPT, directory_url)
    #: The folder that keeps the account and the certificates.
    storage: str = setting(None, folder)
    #: Who vouches for the directory's own https; None: the authorities everybody has.
    ca_bundle: str | None = setting(None, path_or_none)


@dataclass(frozen=True, slots=True)
class TLS(CertificateFiles):
    """What a server shows, and what it wants to see, in a TLS handshake.

    Exactly one of ``certificate`` and ``acme`` is set.
    """

    #: Opens whichever of the private keys are encrypted.
    password: str | None = setting(None, text_or_none, secret=True)
    minimum_version: str = setting("TLSv1.2", one_of("TLSv1.2", "TLSv1.3"))
    #: OpenSSL's names, for TLS 1.2; those of TLS 1.3 are all good. None: Python's.
    ciphers: str | None = setting(None, text_or_none)
    #: The authorities whose client certificates are believed.
    client_ca: str | None = setting(None, path_or_none)
    client_certificate: str = setting("none", one_of("none", "optional", "required"))
    #: Other certificates, by the lower-case host name that a client asks for, whose
    #: first label may be ``*``.
    sni: Mapping[str, CertificateFiles] = field(default_factory=dict)
    #: None: nobody is asked for a certificate.
    acme: ACME | None = None


@dataclass(frozen=True, slots=True)
class Proxy:
    """Who is believed about the clients it speaks for, and how it says who they are."""

    #: Addresses, networks, and "unix" for the clients of Unix sockets; see
    #: :class:`~django_daphne.trust.Trust`.
    trusted: tuple[str, ...] = ()
    #: The fields of a request that say it: X-Forwarded-For and its kin, or Forwarded.
    headers: str = setting("x-forwarded", one_of("x-forwarded", "forwarded"))
    #: Whether whoever is trusted must begin each connection with a PROXY header.
    protocol: bool = setting(False, boolean)


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the layer above supplies: how the server reaches Django without knowing it.

    ``on_started`` and ``on_stopping`` are awaited on the server's loop, once in each
    serving process, and do not raise.
    ``error_page(scope, error)`` returns ``(status, headers, body)`` for an application
    that failed before it answered, or None for the plain page.
    ``allowed_host(host)`` says whether a ``Host`` field's value is one of ours; nobody
    is redirected to any other.
    """

    on_started: Callable[[], Coroutine[Any, Any, None]] | None = None
    on_stopping: Callable[[], Coroutine[Any, Any, None]] | None = None
    error_page: (
        Callable[
            [Any, BaseException], tuple[int, list[tuple[bytes, bytes]], bytes] | None
        ]
        | None
    ) = None
    allowed_host: Callable[[str], bool] | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """A server, described. Build it with :func:`build_config`."""

    bind: tuple[Bind, ...] = (parse_bind("127.0.0.1:8000"),)
    #: Whether HTTP/2 is spoken with clients that want it.
    http2: bool = setting(True, boolean)
    #: Where plain HTTP is answered with the address of the first bind with TLS.
    redirect_bind: tuple[Bind, ...] = ()
    tls: TLS | None = None
    #: None: nobody is believed about anybody else.
    proxy: Proxy | None = None
    #: None: the caller supplies FORCE_SCRIPT_NAME or "".
    root_path: str | None = setting(None, root_path)
    lifespan: str = setting("auto", one_of("auto", "on", "off"))
    server_header: str | None = setting(None, server_header)
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    websocket: WebSocketSettings = WebSocketSettings()
    worker: Worker = Worker()
    logging: Logging = Logging()
    monitor: Monitoring = Monitoring()
    #: Seconds from a client's leaving to the cancellation of its application; None: it
    #: may go on. Not a setting: it is a habit of Daphne's.
    abandoned: float | None = None
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
    "": ("WORKERS",),
    "WORKER": (
        "MAX_REQUESTS",
        "MAX_REQUESTS_JITTER",
        "MAX_LIFETIME",
        "MAX_RSS",
        "HEARTBEAT",
        "PRELOAD",
    ),
}


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
    known = ["BIND", "REDIRECT_BIND", "TLS", "PROXY", "MONITOR", *plain, *_SECTIONS]
    for key, value in settings.items():
        if key == "BIND":
            values["bind"] = _read_binds(key, value, problems)
        elif key == "REDIRECT_BIND":
            values["redirect_bind"] = tuple(
                # What is redirected is plain HTTP, whatever TLS there is elsewhere.
                dataclasses.replace(bind, takes_tls=bind.needs_tls)
                for bind in _read_binds(key, value, problems, may_lack=True)
            )
        elif key == "TLS":
            values["tls"] = _read_tls(value, problems)
        elif key == "PROXY":
            values["proxy"] = _read_proxy(value, problems)
        elif key == "MONITOR":
            values["monitor"] = _read_monitor(value, problems)
        elif key == "TIMEOUTS":
            values["timeouts"] = _read_timeouts(value, problems)
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
    if not _is_dict(name, value, problems):
        return section()
    return section(**_read_fields(name, value, section, problems))


def _read_timeouts(value: object, problems: list[Problem]) -> Timeouts:
    if not _is_dict("TIMEOUTS", value, problems):
        return Timeouts()
    given = _read_fields("TIMEOUTS", value, Timeouts, problems)
    timeouts = Timeouts(**given)
    if timeouts.graceful is None or "application_close" in given:
        return timeouts
    # A short stop that says no more is to leave requests time to finish, too.
    half = max(0.0, timeouts.graceful - (timeouts.drain_delay or 0)) / 2
    close = min(timeouts.application_close or 0, half)
    return dataclasses.replace(timeouts, application_close=close)


def _is_dict(
    path: str, value: object, problems: list[Problem], or_none: str = ""
) -> bool:
    if isinstance(value, Mapping):
        return True
    kind = type(value).__name__
    demand = f"{spell(path)} must be a dict{or_none}, not {kind}."
    problems.append(Problem(WRONG_VALUE, path, demand))
    return False


def _read_fields(
    path: str,
    value: Any,
    section: type,
    problems: list[Problem],
    others: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The keys of a dict that are fields of ``section``, by the fields' names.

    ``others`` are keys that the caller reads.
    """
    fields = {
        f.name.upper(): f for f in dataclasses.fields(section) if "rule" in f.metadata
    }
    values = {}
    for key, item in value.items():
        if key in fields:
            values[fields[key].name] = _read_value(
                f"{path}.{key}", item, fields[key], problems
            )
        elif key not in others:
            problems.append(_refuse_key(path, key, [*fields, *others]))
    return values


def _read_value(
    path: str, value: Any, field: dataclasses.Field[Any], problems: list[Problem]
) -> Any:
    demand = field.metadata["rule"](value)
    if demand is None:
        return os.fspath(value) if isinstance(value, os.PathLike) else value
    shown = type(value).__name__ if field.metadata["secret"] else repr(value)
    problems.append(
        Problem(WRONG_VALUE, path, f"{spell(path)} must be {demand}, not {shown}.")
    )
    return field.default


def _read_binds(
    key: str, value: object, problems: list[Problem], *, may_lack: bool = False
) -> tuple[Bind, ...]:
    """A list of binds; ``may_lack`` lets it be empty."""
    if (
        not isinstance(value, list | tuple)
        or not (value or may_lack)
        or not all(isinstance(item, str) for item in value)
    ):
        problems.append(
            Problem(
                WRONG_VALUE,
                key,
                f"{spell(key)} must be a list of strings, not {value!r}.",
                "Write it like ['127.0.0.1:8000'].",
            )
        )
        return ()
    binds = []
    for text in value:
        try:
            binds.append(parse_bind(text))
        except ValueError as error:
            problems.append(Problem(BAD_BIND, key, f"{spell(key)}: {error}"))
    repeated = {text for text in value if value.count(text) > 1}
    for text in sorted(repeated):
        problems.append(Problem(IMPOSSIBLE, key, f"{spell(key)} names {text!r} twice."))
    return tuple(binds)


def _read_monitor(value: object, problems: list[Problem]) -> Monitoring:
    if not _is_dict("MONITOR", value, problems):
        return Monitoring()
    assert isinstance(value, Mapping)
    _read_fields("MONITOR", value, Monitoring, problems, ("BIND",))
    path, text = "MONITOR.BIND", value.get("BIND")
    if text is None:
        return Monitoring()
    if not isinstance(text, str):
        problems.append(
            Problem(
                WRONG_VALUE,
                path,
                f"{spell(path)} must be a string or None, not {text!r}.",
                "Write it like '127.0.0.1:9000'.",
            )
        )
        return Monitoring()
    try:
        return Monitoring(parse_bind(text))
    except ValueError as error:
        problems.append(Problem(BAD_BIND, path, f"{spell(path)}: {error}"))
        return Monitoring()


# -- TLS -----------------------------------------------------------------------------

#: What can stand in a certificate and is sent as a server's name (RFC 6066 section 3):
#: a DNS name, never an address. The wildcard is a whole label, the first (RFC 6125
#: section 6.4.3).
_SERVER_NAME = re.compile(
    r"(?:\*\.)?(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]*[a-z_-][a-z0-9_-]*"
)


def _read_tls(value: object, problems: list[Problem]) -> TLS | None:
    if value is None:
        return None
    if not _is_dict("TLS", value, problems, " or None"):
        return TLS()
    assert isinstance(value, Mapping)
    before = len(problems)
    values = _read_fields("TLS", value, TLS, problems, ("SNI", "ACME"))
    values["sni"] = _read_sni(value.get("SNI", {}), problems)
    values["acme"] = _read_acme(value.get("ACME"), problems)
    tls = TLS(**values)
    if len(problems) == before:
        _cross_check_tls(tls, problems)
    return tls


def _read_sni(value: object, problems: list[Problem]) -> dict[str, CertificateFiles]:
    if not _is_dict("TLS.SNI", value, problems):
        return {}
    assert isinstance(value, Mapping)
    named: dict[str, CertificateFiles] = {}
    for host, files in value.items():
        name = host.lower() if isinstance(host, str) else ""
        if not _SERVER_NAME.fullmatch(name):
            problems.append(
                Problem(
                    WRONG_VALUE,
                    "TLS.SNI",
                    f"{spell('TLS.SNI')}: {host!r} is not a host name.",
                    "Write it like 'example.org' or '*.example.org', and other letters "
                    "than ASCII's in their 'xn--' form.",
                )
            )
        elif name in named:
            problems.append(
                Problem(
                    IMPOSSIBLE, "TLS.SNI", f"{spell('TLS.SNI')} names {name!r} twice."
                )
            )
        else:
            named[name] = _read_certificate(host, files, problems)
    return named


def _read_certificate(
    host: str, value: object, problems: list[Problem]
) -> CertificateFiles:
    # Host names have dots of their own; what is said of a path is said in place of it.
    found: list[Problem] = []
    values = {}
    if _is_dict("HOST", value, found):
        values = _read_fields("HOST", value, CertificateFiles, found)
        if not found and values.get("certificate") is None:
            missing = f"{spell('HOST.CERTIFICATE')} is missing."
            found.append(Problem(IMPOSSIBLE, "HOST.CERTIFICATE", missing))
    for problem in found:
        place = f"{spell('TLS.SNI')}[{host!r}]"
        message = problem.message.replace(spell("HOST"), place)
        problems.append(dataclasses.replace(problem, key="TLS.SNI", message=message))
    return CertificateFiles(**values)


def _read_acme(value: object, problems: list[Problem]) -> ACME | None:
    if value is None:
        return None
    if not _is_dict("TLS.ACME", value, problems, " or None"):
        return None
    assert isinstance(value, Mapping)
    before = len(problems)
    values = _read_fields("TLS.ACME", value, ACME, problems, ("DOMAINS",))
    values["domains"] = _read_domains(value.get("DOMAINS", ()), problems)
    acme = ACME(**values)
    if len(problems) == before:
        for key, hint in (
            ("DOMAINS", "Name every host that the certificate is for."),
            ("STORAGE", "Name a folder that is still there when the server restarts."),
        ):
            if not getattr(acme, key.lower()):
                path = f"TLS.ACME.{key}"
                missing = f"{spell(path)} is missing."
                problems.append(Problem(IMPOSSIBLE, path, missing, hint))
    return acme


#: What a certificate of a public authority can be for, and HTTP-01 can prove.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*{_LABEL}")


def _read_domains(value: object, problems: list[Problem]) -> tuple[str, ...]:
    key = "TLS.ACME.DOMAINS"
    if not isinstance(value, list | tuple):
        demand = f"{spell(key)} must be a list of domain names, not {value!r}."
        problems.append(
            Problem(WRONG_VALUE, key, demand, "Write it like ['example.org'].")
        )
        return ()
    domains: list[str] = []
    for item in value:
        name = item.lower() if isinstance(item, str) else ""
        fault = _fault_of_domain(name)
        if fault is not None:
            text = f"{spell(key)}: {item!r} {fault[0]}"
            problems.append(Problem(WRONG_VALUE, key, text, fault[1]))
        elif name in domains:
            text = f"{spell(key)} names {name!r} twice."
            problems.append(Problem(IMPOSSIBLE, key, text))
        domains.append(name)
    return tuple(domains)


def _fault_of_domain(name: str) -> tuple[str, str] | None:
    """What is wrong with it, and what to do."""
    if name.startswith("*."):
        return (
            "is a wildcard, which takes a change of the DNS to prove.",
            "Name each host, or get the certificate elsewhere and set CERTIFICATE.",
        )
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        pass
    else:
        return "is an address.", "Name the hosts that lead to it."
    if _DOMAIN.fullmatch(name) and not name.rpartition(".")[2].isdigit():
        return None
    return (
        "is not a domain name.",
        "Write it like 'example.org', without a port, and other letters than ASCII's "
        "in their 'xn--' form.",
    )


def _cross_check_tls(tls: TLS, problems: list[Problem]) -> None:
    def impossible(key: str, what: str, hint: str = "") -> None:
        path = f"TLS.{key}"
        problems.append(Problem(IMPOSSIBLE, path, f"{spell(path)} {what}", hint))

    if tls.acme is not None:
        for key in ("CERTIFICATE", "PRIVATE_KEY"):
            if getattr(tls, key.lower()) is not None:
                impossible(
                    key,
                    "is set beside TLS['ACME'], which gets a certificate of its own.",
                    "Remove one of them.",
                )
        for name in tls.sni:
            for domain in tls.acme.domains:
                if name == domain:
                    impossible(
                        "SNI", f"has {name!r}, which is in TLS['ACME']['DOMAINS'] too."
                    )
                elif name == "*." + domain.partition(".")[2] and domain not in tls.sni:
                    impossible(
                        "SNI",
                        f"has {name!r}, whose certificate would be shown for "
                        f"{domain!r}, which is in TLS['ACME']['DOMAINS'].",
                        f"Remove {domain!r} there.",
                    )
    elif tls.certificate is None:
        if tls.private_key is not None:
            impossible("PRIVATE_KEY", "is of no use without TLS['CERTIFICATE'].")
        else:
            impossible("CERTIFICATE", "is missing.", "Without TLS, write 'TLS': None.")
    wanted = tls.client_certificate != "none"
    if wanted and tls.client_ca is None:
        impossible(
            "CLIENT_CERTIFICATE",
            f"is {tls.client_certificate!r}, and TLS['CLIENT_CA'] does not say whose.",
        )
    if tls.client_ca is not None and not wanted:
        impossible(
            "CLIENT_CA",
            "does nothing while TLS['CLIENT_CERTIFICATE'] is 'none'.",
            "Make it 'optional' or 'required'.",
        )
    if tls.ciphers is not None and tls.minimum_version == "TLSv1.3":
        impossible("CIPHERS", "are those of TLS 1.2, which MINIMUM_VERSION excludes.")


# -- Proxies -------------------------------------------------------------------------


def _read_proxy(value: object, problems: list[Problem]) -> Proxy | None:
    if value is None:
        return None
    if not _is_dict("PROXY", value, problems, " or None"):
        return Proxy()
    assert isinstance(value, Mapping)
    before = len(problems)
    values = _read_fields("PROXY", value, Proxy, problems, ("TRUSTED",))
    values["trusted"] = _read_trusted(value.get("TRUSTED", ()), problems)
    proxy = Proxy(**values)
    if proxy.protocol and not proxy.trusted and len(problems) == before:
        problems.append(
            Problem(
                IMPOSSIBLE,
                "PROXY.PROTOCOL",
                f"{spell('PROXY.PROTOCOL')} is True, and PROXY['TRUSTED'] names nobody "
                f"whose PROXY header would be taken.",
                "Name the addresses that your proxy connects from.",
            )
        )
    return proxy


def _read_trusted(value: object, problems: list[Problem]) -> tuple[str, ...]:
    key = "PROXY.TRUSTED"
    if not isinstance(value, list | tuple) or not all(
        isinstance(item, str) for item in value
    ):
        problems.append(
            Problem(
                WRONG_VALUE,
                key,
                f"{spell(key)} must be a list of strings, not {value!r}.",
                "Write it like ['10.0.0.0/8', 'unix'].",
            )
        )
        return ()
    for text in value:
        try:
            parse_trusted(text)
        except ValueError as error:
            problems.append(Problem(WRONG_VALUE, key, f"{spell(key)}: {error}"))
    return tuple(value)


def speaks_tls(config: Config, bind: Bind) -> bool | None:
    """Whether ``bind``, one of ``BIND``, does; None where only Twisted knows."""
    if bind.kind is BindKind.ENDPOINT:
        return None
    return bind.tls is not None or (bind.takes_tls and config.tls is not None)


def _cross_check_binds(config: Config, problems: list[Problem]) -> None:
    for bind in config.bind:
        if bind.needs_tls and config.tls is None:
            problems.append(
                Problem(
                    IMPOSSIBLE,
                    "BIND",
                    f"{spell('BIND')}: {bind.text!r} needs a certificate.",
                    "Name it in TLS['CERTIFICATE'].",
                )
            )
    _cross_check_monitor(config, problems)
    _cross_check_challenges(config, problems)
    if not config.redirect_bind:
        return
    if all(speaks_tls(config, bind) is False for bind in config.bind):
        problems.append(
            Problem(
                IMPOSSIBLE,
                "REDIRECT_BIND",
                f"{spell('REDIRECT_BIND')} leads nowhere: no bind has TLS.",
                "Set TLS, or remove it.",
            )
        )
    for bind in config.redirect_bind:
        same = [other for other in config.bind if other.text == bind.text]
        # Port 0 is another port each time.
        if same and (bind.port or bind in same):
            problems.append(
                Problem(
                    IMPOSSIBLE,
                    "REDIRECT_BIND",
                    f"{spell('REDIRECT_BIND')}: {bind.text!r} is in BIND too.",
                )
            )
        if bind.tls is not None or bind.needs_tls:
            problems.append(
                Problem(
                    IMPOSSIBLE,
                    "REDIRECT_BIND",
                    f"{spell('REDIRECT_BIND')}: {bind.text!r} has TLS already.",
                    "Only plain HTTP is redirected.",
                )
            )


def _cross_check_monitor(config: Config, problems: list[Problem]) -> None:
    bind = config.monitor.bind
    if bind is None:
        return
    path = "MONITOR.BIND"
    for key, others in (("BIND", config.bind), ("REDIRECT_BIND", config.redirect_bind)):
        same = bind.text in (other.text for other in others)
        # Port 0 is another port each time.
        if same and (bind.port or bind.kind is not BindKind.TCP):
            problems.append(
                Problem(
                    IMPOSSIBLE,
                    path,
                    f"{spell(path)}: {bind.text!r} is in {key} too.",
                    "Health and metrics have an address of their own.",
                )
            )
    if bind.kind is BindKind.SYSTEMD:
        problems.append(
            Problem(
                IMPOSSIBLE,
                path,
                f"{spell(path)}: {bind.text!r}: what systemd passes is for the site.",
                "Write an address, like '127.0.0.1:9000'.",
            )
        )
    if bind.needs_tls:
        problems.append(
            Problem(
                IMPOSSIBLE,
                path,
                f"{spell(path)}: {bind.text!r} would need a certificate.",
                "Health and metrics are plain HTTP.",
            )
        )


def _cross_check_challenges(config: Config, problems: list[Problem]) -> None:
    """RFC 8555 section 8.3: the authority comes by plain HTTP."""
    if config.tls is None or config.tls.acme is None or config.redirect_bind:
        return
    if all(speaks_tls(config, bind) for bind in config.bind):
        problems.append(
            Problem(
                IMPOSSIBLE,
                "TLS.ACME",
                f"{spell('TLS.ACME')}: every bind has TLS, and the authority asks on "
                f"port 80, by plain HTTP.",
                "Set REDIRECT_BIND, such as ['0.0.0.0:80'].",
            )
        )


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
    _cross_check_binds(config, problems)
    timeouts, websocket = config.timeouts, config.websocket
    drain_delay = timeouts.drain_delay or 0
    if timeouts.graceful is not None and drain_delay >= timeouts.graceful:
        problems.append(
            Problem(
                IMPOSSIBLE,
                "TIMEOUTS.DRAIN_DELAY",
                f"{spell('TIMEOUTS.DRAIN_DELAY')} ({drain_delay}) must be "
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
