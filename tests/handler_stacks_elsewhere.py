"""The views of :mod:`tests.handler_stacks` that a request is led to by ``urlconf``."""

from .handler_stacks import elsewhere as urlpatterns

__all__ = ["urlpatterns"]
