"""The benchmark's own virtual environment: pinned peers, and this project as it is.

It lives in ``benchmarks/.bench`` and is filled again when the pins, this project's
metadata or the interpreter change, which the stamp file tells.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from problems import CannotRun

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
REQUIREMENTS = HERE / "requirements.txt"
HOME = HERE / ".bench"
BIN = HOME / "bin"
PYTHON = BIN / "python"

#: A slow mirror may take minutes; one that takes longer than this has hung.
INSTALL_SECONDS = 900


def prepare() -> str | None:
    """Make the environment ready.

    Returns why this project could not be installed, or None: the peers can be measured
    without it.

    :raises CannotRun: when the peers cannot be installed.
    """
    _fill("peers", [REQUIREMENTS], ["--requirement", str(REQUIREMENTS)])
    metadata = PROJECT / "pyproject.toml"
    if not metadata.exists():
        return f"{metadata.name} is missing"
    try:
        _fill(
            "project",
            [metadata, REQUIREMENTS],
            # The pins bind this project's dependencies too: like for like.
            ["--requirement", str(REQUIREMENTS), "--editable", str(PROJECT)],
        )
    except CannotRun as error:
        return str(error)
    return None


def _fill(what: str, sources: list[Path], arguments: list[str]) -> None:
    stamp = HOME / f"{what}.stamp"
    wanted = _digest(sources)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if what == "peers":
        print(f"Creating {HOME} (once) ...", file=sys.stderr, flush=True)
        shutil.rmtree(HOME, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(HOME)])
    _run([str(PYTHON), "-m", "pip", "install", "--quiet", *arguments])
    stamp.write_text(wanted)


def _digest(sources: list[Path]) -> str:
    digest = hashlib.sha256(f"{sys.executable} {sys.version}".encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        slow = f"{' '.join(command)} took over {INSTALL_SECONDS} s"
        raise CannotRun(slow) from error
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise CannotRun(f"{' '.join(command)} failed:\n{tail}")


def variables() -> dict[str, str]:
    """The environment of every server and client: this one's, without what would
    change how Python or Django runs.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "DJANGO", "UVICORN", "GRANIAN", "GUNICORN"))
    }
    kept["PATH"] = f"{BIN}{os.pathsep}{kept.get('PATH', os.defpath)}"
    kept["VIRTUAL_ENV"] = str(HOME)
    # Every server finds the application alike, whatever it does to sys.path.
    kept["PYTHONPATH"] = str(HERE / "apps")
    return kept


def versions() -> dict[str, str]:
    """What is installed, by distribution name in lower case, and ``python``."""
    listing = subprocess.run(
        [str(PYTHON), "-m", "pip", "list", "--format", "json", "--no-color"],
        capture_output=True,
        text=True,
        check=True,
        env=variables() | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    packages = json.loads(listing.stdout)
    found = {package["name"].lower(): package["version"] for package in packages}
    python = subprocess.run(
        [str(PYTHON), "--version"], capture_output=True, text=True, check=True
    )
    return found | {"python": python.stdout.split()[1]}


def revision() -> str:
    """This project's commit, with ``+`` when files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    return described.stdout.strip() or "unknown"
