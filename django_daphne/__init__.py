"""The ASGI server that a Django project puts in ``INSTALLED_APPS``."""

__version__ = "0.1.0"
