"""An application found by its name.

Three kinds of failure look alike to ``import_module`` and are told apart here: a name
that leads nowhere is the user's mistake and becomes one line; an error that the user's
module raises while it is imported is a fault of that module and goes through, traceback
and all.
"""

from __future__ import annotations

import importlib
from typing import Any

from asgiref.compatibility import guarantee_single_callable

from .config import NOT_AN_APPLICATION
from .errors import ConfigurationError, Problem


def load_application(module: str, attribute: str, *, source: str) -> Any:
    """The ASGI application ``attribute`` (dots allowed) of ``module``.

    An ASGI 2 application, which takes the scope and returns another callable, is
    wrapped. ``source`` names the setting or argument for messages.

    :raises ConfigurationError: when there is no such module or attribute, or it cannot
        be called. What the module raises itself is not caught.
    """

    def refuse(reason: str, hint: str = "") -> ConfigurationError:
        message = f"{source}: {reason}"
        return ConfigurationError([Problem(NOT_AN_APPLICATION, source, message, hint)])

    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A name that begins like ours is what we asked for; any other was imported by
        # the user's module.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise refuse(f"there is no module {error.name!r}.") from None
    path = module
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise refuse(f"{path!r} has no attribute {name!r}.") from None
        path = f"{path}.{name}"
    if not callable(found):
        raise refuse(
            f"{path!r} is not an ASGI application: {found!r} cannot be called."
        )
    return guarantee_single_callable(found)  # type: ignore[no-untyped-call]


def is_dotted_name(text: str) -> bool:
    """Whether ``text`` is identifiers joined by dots."""
    return all(part.isidentifier() for part in text.split("."))
