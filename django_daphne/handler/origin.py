"""Whether a function of Django's is still Django's.

Tools that watch an application replace Django's functions by their own. What they have
replaced must be called as they expect, so nothing may be taken for granted about it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any


def is_djangos(function: Any, module: ModuleType) -> bool:
    """Whether the code of ``function`` stands in Django's ``module``.

    Its name says nothing: whoever wraps it with ``functools.wraps`` keeps that.
    """
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename == module.__file__
