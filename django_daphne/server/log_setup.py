"""Handlers for log records that nobody would see otherwise.

What a project has configured is left alone. Errors need nothing from us: a record of
WARNING or above that meets no handler is written to stderr by ``logging`` itself.
"""

from __future__ import annotations

import logging
import sys

from ..application.context import protocol_log, server_log
from .access_log import access_log


class LineOnly(logging.Formatter):
    """``"%(message)s"`` at a quarter of the price: it is paid for each request."""

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage()


def enable_loggers() -> None:
    """Undo what ``disable_existing_loggers`` has done to our loggers.

    It is True by default, and means loggers that a project does not know of; a project
    is set up, often a second time, by the application that we have just imported.
    """
    for logger in (access_log, protocol_log, server_log):
        logger.disabled = False


def show_access_lines() -> None:
    """Write access lines to stdout, unless a handler has them already."""
    if not access_log.hasHandlers():
        write_access_lines(logging.StreamHandler(sys.stdout))


def write_access_lines(handler: logging.Handler) -> None:
    """Write access lines to ``handler``, one message a line.

    A level that somebody has set stays.
    """
    handler.setFormatter(LineOnly())
    access_log.addHandler(handler)
    if access_log.level == logging.NOTSET:
        access_log.setLevel(logging.INFO)
