"""The ASGI application: Django's pages and Channels' WebSockets on one port."""

import os

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

from django_daphne.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")

# This loads the applications, and the consumers below import their models.
django_application = get_asgi_application()

from example_project.chat.routing import websocket_urlpatterns  # noqa: E402

if settings.DEBUG:
    # `runserver` serves static files by itself, `runasgi` leaves them to the project.
    # In production they are WhiteNoise's business, or the web server's in front.
    django_application = ASGIStaticFilesHandler(django_application)

application = ProtocolTypeRouter(
    {
        "http": django_application,
        # Cookies travel with WebSockets from any site: the origin has to be checked
        # before the cookie is believed.
        "websocket": AllowedHostsOriginValidator(
            AuthMiddlewareStack(URLRouter(websocket_urlpatterns))
        ),
    }
)
