"""Whether the binds of a configuration could be had here, without taking any.

Sockets are bound and closed again, and none listens: a server that runs with the very
same binds is not disturbed, so that its next configuration can be examined beside it.
What another process passes on, and what Twisted opens, is known only when it is done.
"""

from __future__ import annotations

import errno
import os

from ..binds import Bind, BindKind
from ..config import UNUSABLE_BIND, Config, spell
from ..errors import BindError, Problem
from .refusals import explain, refusal
from .tcp_sockets import bind_all, find_addresses
from .unix_sockets import find_group


def rehearse(config: Config) -> list[Problem]:
    """What is wrong with the binds on this machine."""
    problems: list[Problem] = []
    monitor = () if config.monitor.bind is None else (config.monitor.bind,)
    for key, binds in (
        ("BIND", config.bind),
        ("REDIRECT_BIND", config.redirect_bind),
        ("MONITOR.BIND", monitor),
    ):
        for bind in binds:
            try:
                _rehearse(bind)
            except BindError as error:
                problems.append(Problem(UNUSABLE_BIND, key, f"{spell(key)}: {error}"))
    return problems


def _rehearse(bind: Bind) -> None:
    if bind.kind is BindKind.UNIX:
        _rehearse_unix(bind)
    elif bind.kind is BindKind.TCP:
        _rehearse_tcp(bind)


def _rehearse_tcp(bind: Bind) -> None:
    addresses = find_addresses(bind)
    try:
        sockets = bind_all(bind, addresses)
    except OSError as error:
        # In use, by the server that this one is to follow as likely as not.
        if error.errno != errno.EADDRINUSE:
            raise explain(bind, error) from None
    else:
        for sock in sockets:
            sock.close()


def _rehearse_unix(bind: Bind) -> None:
    directory = os.path.dirname(bind.path) or "."
    if not os.path.isdir(directory):
        raise refusal(bind, f"{directory} is not a directory that exists.")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise refusal(bind, f"this user may not create files in {directory}.")
    if bind.group is not None:
        find_group(bind, bind.group)
