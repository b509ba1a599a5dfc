"""The reference pages say what the code does: every key, default and check."""

from __future__ import annotations

import ast
import dataclasses
import re
import unittest
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from django_daphne import cli, config
from django_daphne.errors import ConfigurationError
from django_daphne.management.commands import runasgi

DOCS = Path(__file__).resolve().parent.parent / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def documented_settings() -> dict[str, str]:
    """Each key described in settings.rst, with the source of its default."""
    entries = re.findall(
        r"^\.\. setting:: (\S+)\n\n   Default ``(.+?)``\.$",
        page("settings.rst"),
        re.MULTILINE,
    )
    return dict(entries)


def actual_settings() -> dict[str, Any]:
    """Each key that :class:`Config` has, with its default."""
    found: dict[str, Any] = {}
    defaults = config.build_config({})
    for field in dataclasses.fields(defaults):
        value = getattr(defaults, field.name)
        key = field.name.upper()
        if key in ("BIND", "REDIRECT_BIND"):
            found[key] = [bind.text for bind in value]
        elif key == "TLS":
            found[key] = value
            for inner in dataclasses.fields(config.TLS()):
                found[f"{key}.{inner.name.upper()}"] = getattr(config.TLS(), inner.name)
            for inner in dataclasses.fields(config.ACME()):
                name = f"{key}.ACME.{inner.name.upper()}"
                found[name] = getattr(config.ACME(), inner.name)
        elif key == "PROXY":
            found[key] = value
            for inner in dataclasses.fields(config.Proxy()):
                item = getattr(config.Proxy(), inner.name)
                found[f"{key}.{inner.name.upper()}"] = (
                    list(item) if isinstance(item, tuple) else item
                )
        elif "rule" in field.metadata:
            found[key] = value
        elif key in config._SECTIONS or key == "MONITOR":
            for inner in dataclasses.fields(value):
                found[f"{key}.{inner.name.upper()}"] = getattr(value, inner.name)
    return found


def evaluate(source: str) -> Any:
    """The value of a literal or of a product of numbers (``64 * 1024``)."""
    value = 1
    for factor in source.split(" * "):
        if source == factor:
            return ast.literal_eval(source)
        value *= ast.literal_eval(factor)
    return value


class SettingsPageTests(unittest.TestCase):
    def test_every_key_and_its_default(self) -> None:
        written = {k: evaluate(v) for k, v in documented_settings().items()}
        self.assertEqual(written, actual_settings())

    def test_keys_that_are_not_available_yet(self) -> None:
        section = page("settings.rst").partition("Keys that are not available yet")[2]
        keys = re.findall(r"^   - ``(\S+)``$", section, re.MULTILINE)
        refused = []
        for key in keys:
            outer, _, inner = key.partition(".")
            with self.assertRaises(ConfigurationError, msg=key) as caught:
                config.build_config({outer: {inner: 1} if inner else 1})
            refused += [p.key for p in caught.exception.problems if p.code == "E003"]
        self.assertEqual(refused, keys)
        self.assertEqual(len(keys), sum(map(len, config._NOT_YET.values())))


class CommandsPageTests(unittest.TestCase):
    def test_every_flag_of_django_daphne_and_its_default(self) -> None:
        rows = re.findall(
            r"^   \* - (``-.+``)\n     -(.*)$", page("commands.rst"), re.MULTILINE
        )
        written = {}
        for flags, default in rows:
            for flag in re.findall(r"(?<!\S)``(-\S+?)(?: [A-Z]+)?``", flags):
                written[flag] = default.strip(" `")
        actual = {}
        for action in cli._parser()._actions:
            for flag in action.option_strings:
                if flag not in ("-h", "--help", "--version"):
                    actual[flag] = action.default
        self.assertEqual(written.keys(), actual.keys())
        for flag, default in actual.items():
            # None, False, "" and [] are described, not quoted.
            if default:
                self.assertEqual(written[flag], str(default), flag)

    def test_every_flag_of_runasgi(self) -> None:
        section = page("commands.rst").partition("``manage.py runasgi``\n===")[2]
        section = section.partition("\n``django-daphne``\n===")[0]
        written = set(re.findall(r"``(--[a-z0-9-]+)", section))
        inherited = BaseCommand().create_parser("manage.py", "any")
        own = runasgi.Command().create_parser("manage.py", "runasgi")
        known = {flag for a in inherited._actions for flag in a.option_strings}
        actual = {flag for a in own._actions for flag in a.option_strings} - known
        self.assertEqual(written - {"--skip-checks"}, actual - {"--skip-checks"})


class ChecksPageTests(unittest.TestCase):
    def test_every_error_and_warning(self) -> None:
        written = set(re.findall(r"django_daphne\.([EW]\d{3})", page("checks.rst")))
        package = Path(config.__file__).parent
        used = set()
        for path in package.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    used |= set(
                        re.findall(r"^(?:django_daphne\.)?([EW]\d{3})$", node.value)
                    )
        self.assertEqual(written, used)


class ProxiesPageTests(unittest.TestCase):
    def test_every_configuration_is_shown_and_tried(self) -> None:
        files = sorted(path.name for path in (DOCS / "proxies").iterdir())
        shown = re.findall(r"literalinclude:: proxies/(\S+)", page("proxies.rst"))
        self.assertEqual(sorted(shown), files)
        tests = Path(__file__).parent
        tried = set()
        for name in ("test_nginx.py", "test_haproxy.py"):
            tried |= set(
                re.findall(r'"([\w-]+\.(?:conf|cfg))"', (tests / name).read_text())
            )
        self.assertEqual(sorted(tried), files)
