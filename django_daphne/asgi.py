"""What a project's ``asgi.py`` imports, and what it leads to."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings

from .config import NOT_AN_APPLICATION
from .errors import ConfigurationError, Problem
from .handler import Handler
from .loading import is_dotted_name, load_application


def get_asgi_application() -> Handler:
    """Set Django up and return it as an ASGI application.

    A drop-in for :func:`django.core.asgi.get_asgi_application`, which answers alike and
    costs a fraction: see :class:`~django_daphne.handler.Handler`. It speaks HTTP; give
    it to Channels' ``ProtocolTypeRouter`` beside the WebSocket routes.
    """
    django.setup(set_prefix=False)
    return Handler()


def load_project_application() -> Any:
    """The project's ASGI application; without ASGI_APPLICATION, Django alone.

    :raises ConfigurationError: when ASGI_APPLICATION does not lead to one.
    """
    name = getattr(settings, "ASGI_APPLICATION", None)
    if name is None:
        return get_asgi_application()
    if not isinstance(name, str) or "." not in name or not is_dotted_name(name):
        raise ConfigurationError(
            [
                Problem(
                    NOT_AN_APPLICATION,
                    "ASGI_APPLICATION",
                    f"ASGI_APPLICATION must be a dotted path, not {name!r}.",
                    "Write it like 'mysite.asgi.application'.",
                )
            ]
        )
    module, _, attribute = name.rpartition(".")
    return load_application(module, attribute, source="ASGI_APPLICATION")
