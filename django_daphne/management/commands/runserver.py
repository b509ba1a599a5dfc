"""``manage.py runserver``: Django's own command, over ASGI.

The command that the project had without us — the next one in INSTALLED_APPS, which is
staticfiles' or WhiteNoise's, else core's — stays in charge of addresses, checks,
migrations, reloading and messages. We give it a server class and a handler.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from django.apps import apps
from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.handlers.asgi import ASGIHandler
from django.core.management import find_commands
from django.core.management.base import CommandError, CommandParser, OutputWrapper

import django_daphne
from django_daphne.asgi import load_project_application
from django_daphne.development import (
    DevelopmentServer,
    SecureDevelopmentServer,
    leave,
)
from django_daphne.errors import ConfigurationError, LifespanFailed

if TYPE_CHECKING:
    from django.core.management.commands.runserver import Command as NextCommand
else:

    def _next_command() -> type:
        found = "django.core"
        for app in reversed(apps.get_app_configs()):
            if app.name == django_daphne.__name__:
                break
            if "runserver" in find_commands(os.path.join(app.path, "management")):
                found = app.name
        return import_module(f"{found}.management.commands.runserver").Command

    NextCommand = _next_command()

#: The beginning of Django's line: 5.2 and 6.0 name no server, 6.1 names WSGI.
_STARTING = re.compile(r"Starting (?:WSGI )?development server at")

_OURS = (
    f"Starting ASGI development server (django_daphne {django_daphne.__version__}) at"
)

#: The exit code of a lifespan startup that failed, as with ``runasgi``.
LIFESPAN_FAILED = 3


class Command(NextCommand):
    server_cls: Any = DevelopmentServer
    use_asgi = True

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--noasgi",
            action="store_false",
            dest="use_asgi",
            help="Tells Django to serve WSGI_APPLICATION with its own server.",
        )
        parser.add_argument(
            "--https",
            action="store_true",
            help="Serve over TLS, with the certificate of the settings or one made for "
            "this machine.",
        )

    def handle(self, *args: Any, **options: Any) -> str | None:
        if options["https"] and not options["use_asgi"]:
            raise CommandError("--https needs the ASGI server: leave out --noasgi.")
        return super().handle(*args, **options)

    def run(self, **options: Any) -> None:
        try:
            super().run(**options)
        finally:
            leave()

    def inner_run(self, *args: Any, **options: Any) -> None:
        self.use_asgi = options["use_asgi"]
        if not self.use_asgi:
            self.server_cls = super().server_cls
        elif options["https"]:
            self.server_cls = SecureDevelopmentServer
            self.protocol = "https"
        try:
            super().inner_run(*args, **options)
        except ConfigurationError as error:
            raise CommandError(str(error)) from None
        except LifespanFailed as error:
            raise CommandError(
                f"Application startup failed: {error}", returncode=LIFESPAN_FAILED
            ) from None

    def get_handler(self, *args: Any, **options: Any) -> Any:
        if not self.use_asgi:
            return super().get_handler(*args, **options)
        application = load_project_application()
        if options.get("use_static_handler") and (
            settings.DEBUG or options.get("insecure_serving")
        ):
            return ASGIStaticFilesHandler(cast(ASGIHandler, application))
        return application

    def on_bind(self, server_port: int) -> None:
        stdout = self.stdout
        if self.use_asgi:
            self.stdout = cast(OutputWrapper, _NamingUs(stdout))
        try:
            super().on_bind(server_port)
        finally:
            self.stdout = stdout


class _NamingUs:
    """Output in which Django's announcement names our server."""

    def __init__(self, output: OutputWrapper) -> None:
        self._output = output

    def write(self, text: str, *args: Any, **kwargs: Any) -> None:
        self._output.write(_STARTING.sub(_OURS, text), *args, **kwargs)
