"""An application found by its name.

Three kinds of failure look alike to ``import_module`` and are told apart here: a name
that leads nowhere is the user's mistake and becomes one line; an error that the user's
module raises while it is imported is a fault of that module and goes through, traceback
and all.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
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
            hint = ""
            if path == module and _is_module(f"{module}.{name}"):
                hint = f"{name!r} is a module in it: name the application there, too."
            raise refuse(f"{path!r} has no attribute {name!r}.", hint) from None
        path = f"{path}.{name}"
    if not callable(found):
        raise refuse(
            f"{path!r} is not an ASGI application: {found!r} cannot be called."
        )
    fault = _what_else_it_is(found)
    if fault is not None:
        raise refuse(f"{path!r} is not an ASGI application: {fault}")
    if _takes(found, 3) and not isinstance(found, type):
        return found
    return guarantee_single_callable(found)  # type: ignore[no-untyped-call]


def _what_else_it_is(found: Any) -> str | None:
    """What a callable is that takes neither ASGI 3's arguments nor ASGI 2's."""
    if isinstance(found, type) and hasattr(found, "as_asgi"):
        return f"it is a consumer class; write {found.__name__}.as_asgi()."
    if _takes(found, 3) or _takes(found, 1):
        return None
    if _takes(found, 2):
        return "it takes two arguments, as a WSGI application does."
    if _takes(found, 0):
        return "it takes no arguments, as a function that makes one does; call it."
    return "it does not take (scope, receive, send)."


def _takes(found: Any, count: int) -> bool:
    try:
        inspect.signature(found).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        # Something compiled that does not say what it takes is believed.
        return count == 3
    return True


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def is_dotted_name(text: str) -> bool:
    """Whether ``text`` is identifiers joined by dots."""
    return all(part.isidentifier() for part in text.split("."))
