"""The app. Having it installed costs a command next to nothing: see :meth:`ready`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, register


class DjangoDaphneConfig(AppConfig):
    name = "django_daphne"
    verbose_name = "django_daphne"

    def ready(self) -> None:
        # The checks, and the description of a server that they build, are imported by
        # the commands that run checks and by no other.
        register(_check, self.name)
        register(_check_deployment, self.name, deploy=True)


def _check(
    app_configs: Sequence[AppConfig] | None, **options: Any
) -> list[CheckMessage]:
    from .checks import check_handler, check_installation, check_settings

    return [*check_installation(), *check_settings(), *check_handler()]


def _check_deployment(
    app_configs: Sequence[AppConfig] | None, **options: Any
) -> list[CheckMessage]:
    from .checks import check_production_values

    return check_production_values()
