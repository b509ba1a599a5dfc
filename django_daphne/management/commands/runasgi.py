"""``manage.py runasgi``: the server for everybody but the developer at the desk."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import Any

from django.conf import global_settings, settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_daphne.asgi import load_project_application
from django_daphne.conf import describe, get_config
from django_daphne.config import Config, reword
from django_daphne.errors import ConfigurationError, Problem
from django_daphne.server import log_setup, process
from django_daphne.server.access_log import make_access_log
from django_daphne.server.certificates import examine
from django_daphne.server.rehearsal import rehearse

#: Each flag, by the name argparse gives it, and the key that it overrides.
FLAGS = {
    "bind": ("BIND", "BIND"),
    "workers": ("--workers", "WORKERS"),
    "certificate": ("--certificate", "TLS.CERTIFICATE"),
    "private_key": ("--private-key", "TLS.PRIVATE_KEY"),
    "trusted_proxy": ("--trusted-proxy", "PROXY.TRUSTED"),
    "root_path": ("--root-path", "ROOT_PATH"),
    "http2": ("--no-http2", "HTTP2"),
    "access_log": ("--access-log", "LOGGING.ACCESS"),
    "log_format": ("--log-format", "LOGGING.FORMAT"),
}


class Command(BaseCommand):
    help = "Serves this project over HTTP and WebSocket."

    #: After the server's own settings, whose mistakes are one line each.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add(
            "bind",
            nargs="*",
            metavar="BIND",
            help="Where to listen, in the place of BIND: HOST:PORT, unix:PATH, fd:N, "
            "systemd: or a Twisted endpoint.",
        )
        add("--workers", type=int, metavar="N", help="Serving processes.")
        add("--certificate", metavar="FILE", help="Certificate chain (PEM).")
        add("--private-key", metavar="FILE", help="Key of the certificate (PEM).")
        add(
            "--trusted-proxy",
            action="append",
            metavar="ADDRESS",
            help="Address or network of a proxy to believe, or unix for the clients of "
            "Unix sockets; may be repeated.",
        )
        add("--root-path", metavar="PATH", help="Where the project is mounted.")
        add(
            "--no-http2",
            action="store_false",
            dest="http2",
            default=None,
            help="Speak HTTP/1.1 alone.",
        )
        add(
            "--access-log",
            action=argparse.BooleanOptionalAction,
            help="Log each request.",
        )
        add(
            "--log-format",
            metavar="FORMAT",
            help="common, combined, json, daphne or a %%-style template.",
        )
        add("--skip-checks", action="store_true", help="Skip system checks.")
        add(
            "--check-config",
            action="store_true",
            help="Validate, print the effective configuration as JSON, and exit.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            config = get_config(as_overrides(options))
            if not options["skip_checks"]:
                self.check()
            application = load_project_application()
            problems, late = examine(config)
            if options["check_config"]:
                problems += rehearse(config)
            if problems:
                raise ConfigurationError(problems)
        except ConfigurationError as error:
            lines = [line for p in error.problems for line in _in_flags(p, options)]
            raise CommandError("\n".join(lines)) from None
        if options["check_config"]:
            for warning in late:
                self.stderr.write(self.style.WARNING(f"Warning: {warning}"))
            self._print_config(config, application)
            return
        log_setup.enable_loggers()
        if config.logging.access:
            log_setup.show_access_lines()
        show_request_errors()
        code = process.run(
            config,
            application,
            on_listening=self._announce,
            log_access=make_access_log(config),
        )
        if code:
            sys.exit(code)

    def _announce(self, urls: list[str]) -> None:
        for url in urls:
            self.stdout.write(f"Listening on {url}")
        self.stdout.flush()

    def _print_config(self, config: Config, application: Any) -> None:
        named = (
            application if hasattr(application, "__qualname__") else type(application)
        )
        described = describe(config)
        if config.tls is not None and config.tls.acme is not None:
            from django_daphne.server.acme_renewal import report

            described["AUTOMATIC_CERTIFICATE"] = report(config.tls.acme)
        described |= {
            "ASGI_APPLICATION": getattr(settings, "ASGI_APPLICATION", None),
            "APPLICATION": f"{named.__module__}.{named.__qualname__}",
        }
        self.stdout.write(json.dumps(described, indent=4))


def as_overrides(options: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given, in the shape of ``DJANGO_DAPHNE``."""
    overrides: dict[str, Any] = {}
    for name, (_, key) in FLAGS.items():
        value = options[name]
        if value is None or value == []:
            continue
        section, _, inner = key.partition(".")
        if inner:
            overrides.setdefault(section, {})[inner] = value
        else:
            overrides[section] = value
    return overrides


def _in_flags(problem: Problem, options: dict[str, Any]) -> list[str]:
    """``problem`` in the words of whoever typed the command.

    A setting that flags have replaced is called by the flags' names.
    """
    given = [
        flag
        for name, (flag, key) in FLAGS.items()
        if options[name] not in (None, []) and f"{key}.".startswith(f"{problem.key}.")
    ]
    return [reword(problem, flag) for flag in given] or [str(problem)]


def show_request_errors() -> None:
    """Write the tracebacks of failed requests to stderr where Django would hide them.

    Without DEBUG, Django's default logging only mails them. A project that configures
    logging decides for itself.
    """
    if settings.DEBUG or settings.LOGGING or logging.getLogger().hasHandlers():
        return
    if settings.LOGGING_CONFIG != global_settings.LOGGING_CONFIG:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.ERROR)
    logging.getLogger("django.request").addHandler(handler)
