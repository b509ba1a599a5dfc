"""System checks: mistakes in the settings, and in the order of the apps.

They look at the machine, and warn of risky values, for ``check --deploy`` alone.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning

from .binds import Bind, BindKind
from .conf import get_config
from .config import BOTH_SERVERS, WRONG_ORDER, Config, Proxy, spell
from .errors import ConfigurationError, Problem
from .trust import Trust, parse_address

#: Stable numbers of the warnings.
OPEN_ENDED_CLIENTS = "W001"
UNLIMITED_MESSAGES = "W002"
UNNOTICED_LOSS = "W003"
ENDLESS_STOP = "W004"
SOCKET_FOR_ALL = "W005"
ROOT_PATH_IGNORED = "W006"
EXPIRES_SOON = "W007"
TLS_UNUSED = "W008"
SECURE_BY_ANYBODY = "W009"
EVERYBODY_TRUSTED = "W010"
HOST_BY_ANYBODY = "W011"
BIND_NOT_HERE = "W012"
MONITOR_IN_PUBLIC = "W013"
SLOW_HANDLER = "W014"
NO_TIME_TO_FINISH = "W015"

#: The timeouts that end a client's silence, or its refusal to read.
_SILENCE = ("handshake", "headers", "body", "write", "keep_alive")

#: What is imported to make Django's handler.
_DJANGOS_HANDLER = {
    "django.core.asgi",
    "django.core.asgi.get_asgi_application",
    "django.core.handlers.asgi.ASGIHandler",
}

#: Settings of Django's by which it reads a header that our trust does not guard, and
#: the header.
_DJANGO_READS = {
    "USE_X_FORWARDED_HOST": "X-Forwarded-Host",
    "USE_X_FORWARDED_PORT": "X-Forwarded-Port",
}

#: Hosts that stand for all of a machine's addresses.
_EVERYWHERE = (None, "0.0.0.0", "::")

#: May connect to a Unix socket: everybody.
_OTHERS_WRITE = 0o002


def check_settings() -> list[CheckMessage]:
    """One error for everything that is wrong with ``settings.DJANGO_DAPHNE``."""
    try:
        get_config()
    except ConfigurationError as error:
        return [_error(problem) for problem in error.problems]
    return []


def _error(problem: Problem) -> Error:
    return Error(
        problem.message,
        hint=problem.hint or None,
        id=f"django_daphne.{problem.code}",
    )


def check_installation() -> list[CheckMessage]:
    """Errors when another app's ``runserver`` would be ours, or ours another's."""
    names = [app.name for app in apps.get_app_configs()]
    messages: list[CheckMessage] = []
    if "daphne" in names:
        messages.append(
            Error(
                "Both 'daphne' and 'django_daphne' are in INSTALLED_APPS, and both "
                "provide runserver.",
                hint="Remove 'daphne'.",
                id=f"django_daphne.{BOTH_SERVERS}",
            )
        )
    static_files = "django.contrib.staticfiles"
    if static_files in names and names.index(static_files) < names.index(__package__):
        messages.append(
            Error(
                f"'django_daphne' comes after {static_files!r} in INSTALLED_APPS, and "
                f"the runserver of the first is used.",
                hint=f"Move 'django_daphne' before {static_files!r}.",
                id=f"django_daphne.{WRONG_ORDER}",
            )
        )
    return messages


def check_handler() -> list[CheckMessage]:
    """A hint when the module of ASGI_APPLICATION imports Django's own handler.

    The module is read, not imported: that may do anything.
    """
    module = str(getattr(settings, "ASGI_APPLICATION", None) or "").rpartition(".")[0]
    line = _imports_djangos_handler(module) if module else None
    if line is None:
        return []
    return [
        Warning(
            f"{module}, line {line}, imports Django's ASGI handler, with which a "
            f"synchronous view costs several times what it costs under WSGI.",
            hint="Import get_asgi_application from django_daphne.asgi: it answers "
            "alike, and synchronous code runs at the speed of WSGI.",
            id=f"django_daphne.{SLOW_HANDLER}",
        )
    ]


def _imports_djangos_handler(module: str) -> int | None:
    """The line that does; None when there is none, or no source to read."""
    try:
        found = importlib.util.find_spec(module)
        if found is None or not found.has_location or not found.origin:
            return None
        tree = ast.parse(Path(found.origin).read_bytes())
    except Exception:
        # What is wrong with it, or with the package that it is in, the commands that
        # import it say.
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        else:
            continue
        if names & _DJANGOS_HANDLER:
            return node.lineno
    return None


def check_production_values() -> list[CheckMessage]:
    """Warnings for values that are fine on a developer's machine only, and what the
    settings name that this machine does not have.
    """
    try:
        config = get_config()
    except ConfigurationError:
        return []
    from .server.certificates import examine
    from .server.rehearsal import rehearse

    problems, late = examine(config)
    risks = [
        *_risks(config),
        *_proxy_risks(config),
        *((EXPIRES_SOON, message, "Renew it.") for message in late),
        *(
            (BIND_NOT_HERE, problem.message, "Fine if it is another machine's.")
            for problem in rehearse(config)
        ),
    ]
    return [
        *(_error(problem) for problem in problems),
        *(
            Warning(message, hint=hint, id=f"django_daphne.{code}")
            for code, message, hint in risks
        ),
    ]


def _risks(config: Config) -> Iterator[tuple[str, str, str]]:
    for name in _SILENCE:
        if getattr(config.timeouts, name) is None:
            yield (
                OPEN_ENDED_CLIENTS,
                f"{spell(f'TIMEOUTS.{name.upper()}')} is None: a client that does "
                f"nothing keeps its connection for ever.",
                "Set a number of seconds; a large one is better than none.",
            )
    if config.websocket.max_message_size is None:
        yield (
            UNLIMITED_MESSAGES,
            f"{spell('WEBSOCKET.MAX_MESSAGE_SIZE')} is None: one WebSocket message may "
            f"fill the memory.",
            "Set the largest size in bytes that your clients send.",
        )
    for name in ("ping_interval", "ping_timeout"):
        if getattr(config.websocket, name) is None:
            yield (
                UNNOTICED_LOSS,
                f"{spell(f'WEBSOCKET.{name.upper()}')} is None: when a client vanishes "
                f"without a word, its WebSocket is kept for ever.",
                "Set a number of seconds.",
            )
    if config.timeouts.graceful is None:
        yield (
            ENDLESS_STOP,
            f"{spell('TIMEOUTS.GRACEFUL')} is None: one request that never ends keeps "
            f"the server from stopping.",
            "Set fewer seconds than your process manager waits before it kills.",
        )
    elif (config.timeouts.application_close or 0) >= (
        config.timeouts.graceful - (config.timeouts.drain_delay or 0)
    ):
        yield (
            NO_TIME_TO_FINISH,
            f"{spell('TIMEOUTS.APPLICATION_CLOSE')} "
            f"({config.timeouts.application_close}) leaves nothing of "
            f"TIMEOUTS['GRACEFUL'] ({config.timeouts.graceful}): when the server "
            f"stops, requests under way are told at once that their client has gone, "
            f"and Django gives them up.",
            "Make it shorter, or leave it out.",
        )
    for bind in config.bind:
        if bind.kind is BindKind.UNIX and bind.mode & _OTHERS_WRITE:
            yield (
                SOCKET_FOR_ALL,
                f"{spell('BIND')} {bind.text!r}: every user of this machine may "
                f"connect, and be taken for your proxy.",
                "Leave the mode out (0660) and give the proxy's group with ':group='.",
            )
    if config.tls is not None and not any(bind.takes_tls for bind in config.bind):
        yield (
            TLS_UNUSED,
            f"{spell('TLS')} applies to no bind: only those like '0.0.0.0:443', "
            f"'fd:3:tls' and 'systemd:tls' take it.",
            "Change BIND, or remove TLS.",
        )
    monitor = config.monitor.bind
    if (
        monitor is not None
        and monitor.kind is BindKind.TCP
        and monitor.host in _EVERYWHERE
    ):
        yield (
            MONITOR_IN_PUBLIC,
            f"{spell('MONITOR.BIND')} {monitor.text!r}: everybody who reaches this "
            f"machine may read the metrics.",
            "Write the address that your monitoring comes by.",
        )
    script_name = settings.FORCE_SCRIPT_NAME
    if script_name and config.root_path != script_name:
        yield (
            ROOT_PATH_IGNORED,
            f"{spell('ROOT_PATH')} ({config.root_path!r}) differs from "
            f"FORCE_SCRIPT_NAME ({script_name!r}), which Django uses instead of it.",
            "Remove one of them.",
        )


def _proxy_risks(config: Config) -> Iterator[tuple[str, str, str]]:
    """What Django believes although we would not, and whom we should not believe."""
    proxy = config.proxy or Proxy()
    trust = Trust(proxy.trusted)
    secure = settings.SECURE_PROXY_SSL_HEADER
    name = "" if secure is None else _header_name(secure[0])
    if secure is not None and (doubt := _doubt(proxy, name)):
        yield (
            SECURE_BY_ANYBODY,
            f"SECURE_PROXY_SSL_HEADER makes Django believe {name} of anybody, {doubt}.",
            "Name the proxy in PROXY['TRUSTED'], and remove SECURE_PROXY_SSL_HEADER: "
            "requests are secure by their scheme then.",
        )
    for setting, name in _DJANGO_READS.items():
        if getattr(settings, setting) and (doubt := _doubt(proxy, name)):
            yield (
                HOST_BY_ANYBODY,
                f"{setting} makes Django believe {name} of anybody, {doubt}.",
                f"Name the proxy in PROXY['TRUSTED'], and remove {setting}: host and "
                f"port are those that the proxy says then.",
            )
    if trust.everyone and any(_is_public(bind) for bind in config.bind):
        yield (
            EVERYBODY_TRUSTED,
            f"{spell('PROXY.TRUSTED')} names everybody, and others than this machine "
            f"can connect: each client says who it is.",
            "Name the addresses that your proxy connects from, or bind to 127.0.0.1 or "
            "a Unix socket.",
        )


def _doubt(proxy: Proxy, header: str) -> str:
    """Why nobody sees to it that only the proxy writes ``header``; "" if it may."""
    if not proxy.trusted:
        return "and PROXY['TRUSTED'] names nobody"
    if proxy.headers == "forwarded" and header.startswith("X-Forwarded-"):
        return "and PROXY['HEADERS'] says that the proxy writes Forwarded instead"
    return ""


def _header_name(meta: str) -> str:
    return meta.removeprefix("HTTP_").replace("_", "-").title()


def _is_public(bind: Bind) -> bool:
    """Whether a bind is known to be reached from other machines."""
    if bind.kind is not BindKind.TCP:
        return False
    if bind.host is None:
        return True
    address = parse_address(bind.host)
    return bind.host != "localhost" if address is None else not address.is_loopback
