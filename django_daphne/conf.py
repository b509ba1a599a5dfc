"""``settings.DJANGO_DAPHNE`` becomes a :class:`~django_daphne.config.Config`.

Flags of commands are merged into the dict before it is read, so that a value is judged
alike wherever it comes from. What only Django can do for the server — sending signals,
showing the technical error page, knowing the allowed hosts — is handed over as hooks.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import logging
import re
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import Signal, receiver

from .binds import Bind
from .config import Config, Hooks, build_config
from .signals import server_started, server_stopping

logger = logging.getLogger("django_daphne.server")

SETTING = "DJANGO_DAPHNE"

#: Settings that the result depends on.
_SOURCES = (SETTING, "FORCE_SCRIPT_NAME")

#: What Django takes for ALLOWED_HOSTS when that is empty, under DEBUG.
DEBUG_HOSTS = [".localhost", "127.0.0.1", "[::1]"]

#: What is printed for a secret.
MASK = "********"

_SECRET_NAME = r"(?i)pass|secret|token"
#: ``name=value`` in an endpoint string, where a backslash escapes the next character.
_ENDPOINT_ARGUMENT = r"([^:=]+)=((?:\\.|[^:\\])*)"

ErrorPage = tuple[int, list[tuple[bytes, bytes]], bytes]


def get_config(overrides: Mapping[str, Any] | None = None) -> Config:
    """The server that the settings describe, with ``overrides`` put over them.

    ``overrides`` has the shape of ``DJANGO_DAPHNE``; a section in it replaces only the
    keys that it names. ``ROOT_PATH`` None has become FORCE_SCRIPT_NAME.

    :raises ConfigurationError: with everything that is wrong.
    """
    return _build(overrides) if overrides else _from_settings()


@functools.cache
def _from_settings() -> Config:
    return _build({})


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in _SOURCES:
        _from_settings.cache_clear()


def _build(overrides: Mapping[str, Any]) -> Config:
    config = build_config(_merge(getattr(settings, SETTING, {}), overrides))
    root_path = config.root_path
    if root_path is None:
        root_path = settings.FORCE_SCRIPT_NAME or ""
    return dataclasses.replace(config, root_path=root_path, hooks=HOOKS)


def _merge(values: Any, overrides: Mapping[str, Any]) -> Any:
    # What is not a dict stays what it is: reading it is what says so.
    if not isinstance(values, Mapping):
        return values
    merged = dict(values)
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            # None is how a whole section is switched off.
            section = merged.get(key)
            value = _merge({} if section is None else section, value)
        merged[key] = value
    return merged


# -- What is printed -------------------------------------------------------------------


def describe(config: Config) -> dict[str, Any]:
    """``config`` as a dict of settings that JSON can hold, secrets masked."""
    described = _describe(config)
    del described["HOOKS"], described["ABANDONED"]
    return described


def _describe(section: Any) -> dict[str, Any]:
    described = {}
    for field in dataclasses.fields(section):
        value = _show(getattr(section, field.name))
        secret = field.metadata.get("secret") and value is not None
        described[field.name.upper()] = MASK if secret else value
    return described


def _show(value: Any) -> Any:
    if isinstance(value, Bind):
        return _mask_bind(value.text)
    if isinstance(value, tuple):
        return [_show(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _show(item) for key, item in value.items()}
    return _describe(value) if dataclasses.is_dataclass(value) else value


def _mask_bind(text: str) -> str:
    return re.sub(_ENDPOINT_ARGUMENT, _mask_argument, text)


def _mask_argument(argument: re.Match[str]) -> str:
    name = argument[1]
    return f"{name}={MASK}" if re.search(_SECRET_NAME, name) else argument[0]


# -- Hooks -----------------------------------------------------------------------------


async def _send(signal: Signal) -> None:
    try:
        await signal.asend_robust(sender=Config)
    except Exception:
        # Django names the receiver that failed in its log, and fails itself when the
        # receiver has no name, as functools.partial() has none.
        logger.exception("A receiver of a signal failed")


async def _send_started() -> None:
    await _send(server_started)


async def _send_stopping() -> None:
    await _send(server_stopping)


def error_page(scope: Any, error: BaseException) -> ErrorPage | None:
    """Django's technical page for a request whose application raised, under DEBUG.

    HTML or plain text, as the request's Accept header has it. None without DEBUG, or
    when the page itself fails, which is logged; never raises.
    """
    if not settings.DEBUG or scope["type"] != "http":
        return None
    from django.core.handlers.asgi import ASGIRequest
    from django.views.debug import technical_500_response

    try:
        response = technical_500_response(
            ASGIRequest(scope, io.BytesIO()), type(error), error, error.__traceback__
        )
        headers = [
            (name.lower().encode("ascii"), value.encode("latin-1"))
            for name, value in response.items()
        ]
        return response.status_code, headers, response.content
    except Exception:
        logger.exception("The technical error page failed")
        return None


def allowed_host(host: str) -> bool:
    """Whether Django takes requests for ``host``, a ``Host`` field's value."""
    from django.http.request import split_domain_port, validate_host

    allowed = settings.ALLOWED_HOSTS
    if settings.DEBUG and not allowed:
        allowed = DEBUG_HOSTS
    domain, _ = split_domain_port(host)
    return bool(domain) and validate_host(domain, allowed)


HOOKS = Hooks(
    on_started=_send_started,
    on_stopping=_send_stopping,
    error_page=error_page,
    allowed_host=allowed_host,
)
