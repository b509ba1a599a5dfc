"""How the documentation is built.

Names of Python, Django and Channels link to their documentation. The inventories that
say where each name is are kept here as text (``inventories/*.txt``: name, role,
priority, place, title), only with the names we mention, so that a build needs no
network and says the same everywhere.
"""

import sys
import zlib
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from django_daphne import __version__  # noqa: E402

project = "django_daphne"
author = "django_daphne contributors"
copyright = "2026, django_daphne contributors"
version = release = __version__

extensions = ["sphinx.ext.intersphinx"]
exclude_patterns = ["_build"]
nitpicky = True
highlight_language = "python"

html_theme = "alabaster"
html_theme_options = {
    "description": "The ASGI server that a Django project puts in INSTALLED_APPS.",
    "fixed_sidebar": True,
    "page_width": "1080px",
}
html_show_sourcelink = False


def inventory(name: str) -> str:
    """Write ``inventories/name.txt`` in the form that Sphinx reads; return its path."""
    body = (HERE / "inventories" / f"{name}.txt").read_bytes()
    head = (
        "# Sphinx inventory version 2\n"
        f"# Project: {name}\n"
        "# Version:\n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    target = HERE / "_build" / "inventories" / f"{name}.inv"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(head.encode() + zlib.compress(body))
    return str(target)


intersphinx_mapping = {
    "python": ("https://docs.python.org/3", inventory("python")),
    "django": ("https://docs.djangoproject.com/en/stable", inventory("django")),
    "channels": ("https://channels.readthedocs.io/en/stable", inventory("channels")),
}


def setup(app):
    # Ours to describe, and Django's to link to: the names of the roles are Django's.
    app.add_object_type("setting", "setting", indextemplate="pair: %s; setting")
    app.add_crossref_type("django-admin", "djadmin", indextemplate="pair: %s; command")
