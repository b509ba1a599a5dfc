"""The rule that keeps the package in layers, and what importing it must not do.

Arrows point down only. The modules are those found in the package: a new one in a known
folder belongs to that folder's layer, any other has to be placed here first.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
import unittest
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import django_daphne

PACKAGE = Path(django_daphne.__file__).parent

#: From the top. A layer may import itself and what is below it.
LAYERS = {
    "django": {
        "__main__",
        "apps",
        "asgi",
        "checks",
        "cli",
        "conf",
        "development",
        "development_log",
        "handler",
        "loading",
        "management",
        "proxy_headers",
        "signals",
        "testing",
    },
    "server": {"server"},
    "application": {"application"},
    "protocol": {"protocol"},
    "description": {"binds", "config", "errors", "trust"},
    "version": {"__init__"},
}
ORDER = list(LAYERS)

#: Third-party packages, and the modules or layers that may import them.
THIRD_PARTY = {
    "acme": {"server.acme_client"},
    "asgiref": {"django"},
    "autobahn": {"protocol.websocket"},
    "channels": {"django"},
    "cryptography": {"server"},
    "django": {"django"},
    "h2": {"protocol.http2"},
    "hpack": {"protocol.http2_fields"},
    "httptools": {"protocol.http1"},
    "josepy": {"server.acme_client"},
    "prometheus_client": {"server.metrics"},
    "requests": {"server.acme_client"},
    "twisted": {"server"},
    "uvloop": {"server"},
    "zope": {"server"},
}

#: Modules of the standard library that touch sockets or loops, and who may use them.
INPUT_OUTPUT = {
    "asyncio": {"django", "server", "application"},
    "selectors": {"server"},
    "socket": {"django", "server"},
    "socketserver": {"django"},
    "ssl": {"server"},
    "threading": {"django", "server"},
}

#: Members of asyncio that belong to the wire.
TRANSPORTS = {
    "BaseProtocol",
    "BaseTransport",
    "BufferedProtocol",
    "Protocol",
    "Server",
    "StreamReader",
    "StreamWriter",
    "Transport",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
}

#: Modules whose names begin alike are one engine: ``websocket_deflate`` is a part of
#: ``websocket``.
ENGINES = ("http1", "http2", "websocket")


@dataclass(frozen=True)
class Module:
    """A module of the package, named from the package's root."""

    name: str
    path: Path

    @property
    def layer(self) -> str | None:
        head = self.name.partition(".")[0]
        for layer, members in LAYERS.items():
            if head in members:
                return layer
        return None

    @property
    def engine(self) -> str | None:
        if self.layer != "protocol":
            return None
        stem = self.name.rpartition(".")[2]
        return next((engine for engine in ENGINES if stem.startswith(engine)), None)

    def imports(self) -> Iterator[tuple[str, int]]:
        """Absolute names of what is imported, wherever in the module, and the line.

        ``from a import b`` yields ``a.b``: ``b`` may be a module.
        """
        package = ["django_daphne", *self.name.split(".")]
        if self.path.name != "__init__.py" or self.name == "__init__":
            package.pop()
        for node in ast.walk(ast.parse(self.path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name, node.lineno
            elif isinstance(node, ast.ImportFrom):
                start = package[: len(package) - node.level + 1] if node.level else []
                source = ".".join([*start, *filter(None, [node.module])])
                for alias in node.names:
                    yield f"{source}.{alias.name}", node.lineno
            elif (
                isinstance(node, ast.Call)
                and node.args
                and isinstance(node.args[0], ast.Constant)
                and isinstance(node.args[0].value, str)
                and ast.unparse(node.func).endswith(("import_module", "__import__"))
            ):
                yield node.args[0].value, node.lineno

    def asyncio_members(self) -> Iterator[tuple[str, int]]:
        for node in ast.walk(ast.parse(self.path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "asyncio"
            ):
                yield node.attr, node.lineno


def modules() -> dict[str, Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        name = ".".join(parts)
        found[name] = Module(name, path)
    return found


def allowed(module: Module, permitted: set[str]) -> bool:
    return module.name in permitted or module.layer in permitted


class LayeringTests(unittest.TestCase):
    def setUp(self) -> None:
        self.modules = modules()
        strangers = [m.name for m in self.modules.values() if m.layer is None]
        self.assertEqual(strangers, [], "place these in LAYERS")

    def test_every_engine_is_found(self) -> None:
        found = {module.engine for module in self.modules.values()}
        self.assertLessEqual({"http1", "websocket"}, found)

    def test_arrows_point_down(self) -> None:
        faults = []
        for module in self.modules.values():
            for target, line in self._inner_imports(module):
                if ORDER.index(target.layer) < ORDER.index(module.layer):
                    faults.append(f"{module.path}:{line}: {target.name} is above")
        self.assertEqual(faults, [])

    def test_engines_do_not_know_one_another(self) -> None:
        faults = []
        for module in self.modules.values():
            if module.engine is None:
                continue
            for target, line in self._inner_imports(module):
                if target.engine not in (None, module.engine):
                    faults.append(f"{module.path}:{line}: imports {target.name}")
        self.assertEqual(faults, [])

    def test_third_party_packages_stay_where_they_belong(self) -> None:
        faults = []
        for module in self.modules.values():
            for name, line in module.imports():
                head = name.partition(".")[0]
                if head == "django_daphne":
                    continue
                if head in sys.stdlib_module_names:
                    permitted = INPUT_OUTPUT.get(head, {module.name})
                else:
                    permitted = THIRD_PARTY.get(head, set())
                if not allowed(module, permitted):
                    faults.append(f"{module.path}:{line}: imports {name}")
        self.assertEqual(faults, [])

    def test_only_the_server_layer_uses_transports(self) -> None:
        faults = []
        for module in self.modules.values():
            if module.layer == "server":
                continue
            members = [
                *module.asyncio_members(),
                *(
                    (name.rpartition(".")[2], line)
                    for name, line in module.imports()
                    if name.startswith("asyncio.")
                ),
            ]
            faults += [
                f"{module.path}:{line}: asyncio.{member}"
                for member, line in members
                if member in TRANSPORTS
            ]
        self.assertEqual(faults, [])

    def _inner_imports(self, module: Module) -> Iterator[tuple[Module, int]]:
        """The modules of ours that ``module`` imports.

        The longest prefix of a name that is a module counts: ``errors.BindError`` is
        ``errors``. A name of the root package (``__version__``) is ``__init__``.
        """
        for name, line in module.imports():
            if name.partition(".")[0] != "django_daphne":
                continue
            parts = name.split(".")[1:]
            while parts and ".".join(parts) not in self.modules:
                parts.pop()
            yield self.modules[".".join(parts) or "__init__"], line


class ImportTests(unittest.TestCase):
    """What a process pays, or finds changed, for having the app installed."""

    #: Either begins work that only a server should begin, or costs more than a
    #: management command should wait for.
    HEAVY = ("acme", "autobahn", "h2", "httptools", "twisted", "uvloop")

    def run_python(self, code: str) -> str:
        """What ``code`` prints, in an interpreter of its own that watches loops."""
        watched = textwrap.dedent(
            """
            import asyncio, sys, threading
            changes = []
            for name in ("new_event_loop", "set_event_loop", "set_event_loop_policy"):
                def record(*args, _name=name, _call=getattr(asyncio, name)):
                    changes.append(_name)
                    return _call(*args)
                setattr(asyncio, name, record)
                setattr(asyncio.events, name, record)
            """
        )
        report = textwrap.dedent(
            f"""
            roots = {{name.partition(".")[0] for name in sys.modules}}
            heavy = sorted(roots & set({self.HEAVY!r}))
            print(heavy, changes, threading.active_count())
            """
        )
        return subprocess.run(
            [sys.executable, "-c", watched + textwrap.dedent(code) + report],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    def test_importing_the_package(self) -> None:
        self.assertEqual(self.run_python("import django_daphne"), "[] [] 1")

    def test_installing_and_checking_the_app(self) -> None:
        self.assertEqual(
            self.run_python(
                """
                import django
                from django.conf import settings
                from django.core.management import call_command
                settings.configure(
                    SECRET_KEY="x", INSTALLED_APPS=["django_daphne"], DJANGO_DAPHNE={}
                )
                django.setup()
                call_command("check")
                """
            ).splitlines()[-1],
            "[] [] 1",
        )

    def test_the_watch_sees_a_loop_and_a_reactor(self) -> None:
        self.assertEqual(
            self.run_python("import twisted, asyncio; asyncio.new_event_loop()"),
            "['twisted'] ['new_event_loop'] 1",
        )
