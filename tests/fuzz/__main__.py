"""``python -m tests.fuzz --seconds 60 [target ...]``: let atheris look for a while.

Each target runs in a process of its own. What it learns is kept in ``build/fuzz`` and
taken up again the next time; an input that breaks a promise is written to
``build/fuzz/findings`` and shows its traceback whenever it is given to ``--replay``.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from . import CORPUS, TARGETS, load

ROOT = Path(__file__).resolve().parent.parent.parent
KEPT = ROOT / "build" / "fuzz"
FINDINGS = KEPT / "findings"

#: The largest input; what matters fits, and a small one runs soon.
MAX_LENGTH = 1024

#: Longer than any input may take, in seconds: the machine may be busy.
SLOW = 30

#: Megabytes that a target may take, atheris included.
MEMORY = 1024

#: Whose branches are worth finding.
INSTRUMENTED = ["django_daphne", "h2", "hpack", "hyperframe", "autobahn.websocket"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="target")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--replay", metavar="FILE", help="run one input")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no target {unknown.pop()!r}; there are {', '.join(TARGETS)}")
    if options.replay:
        for name in names:
            load(name)(Path(options.replay).read_bytes())
        return 0
    if options.one:
        fuzz(names[0], options.seconds)
        return 0
    failed = [name for name in names if not run(name, options.seconds)]
    if failed:
        print(f"broken: {', '.join(failed)}; the inputs are in {FINDINGS}")
    return 1 if failed else 0


def run(name: str, seconds: int) -> bool:
    """Fuzz one target in a process of its own; whether its promises held."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--one", f"--seconds={seconds}", name],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    done = re.search(r"Done (\d+) runs", child.stdout)
    covered = re.findall(r"cov: (\d+)", child.stdout)
    if child.returncode or done is None:
        print(f"{name}: FAILED\n{child.stdout[-8000:]}", flush=True)
        return False
    print(f"{name}: {done[1]} runs, {covered[-1]} branches", flush=True)
    return True


def fuzz(name: str, seconds: int) -> None:
    try:
        import atheris
    except ImportError:
        sys.exit("install django-daphne[fuzz]")
    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        target = load(name)
    kept = KEPT / name
    kept.mkdir(parents=True, exist_ok=True)
    FINDINGS.mkdir(exist_ok=True)
    atheris.Setup(
        [
            "fuzz",
            f"-max_total_time={seconds}",
            f"-max_len={MAX_LENGTH}",
            f"-timeout={SLOW}",
            f"-rss_limit_mb={MEMORY}",
            f"-artifact_prefix={FINDINGS}/{name}-",
            # What is found is kept in the first; the others are only read.
            str(kept),
            str(CORPUS / name),
        ],
        target,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
