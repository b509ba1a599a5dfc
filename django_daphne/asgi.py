"""What a project's ``asgi.py`` imports."""

from __future__ import annotations

import django
from django.core.handlers.asgi import ASGIHandler


def get_asgi_application() -> ASGIHandler:
    """Set Django up and return it as an ASGI application.

    A drop-in for :func:`django.core.asgi.get_asgi_application`. It speaks HTTP; give it
    to Channels' ``ProtocolTypeRouter`` beside the WebSocket routes.
    """
    django.setup(set_prefix=False)
    return ASGIHandler()
