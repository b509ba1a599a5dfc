"""Promises about what any peer may send, checked on inputs that a fuzzer finds.

A target takes bytes, gives them to an engine in several ways, and raises where a
promise is broken: something escapes the engine, the outcome depends on how the bytes
were cut, something is accepted after a refusal, a buffer grows. It knows no fuzzer:
atheris drives the targets (``python -m tests.fuzz``, ``make fuzz``), Hypothesis does
for a moment in every test run, and the inputs of ``corpus/`` are run through them then.

A new target is a function, its name in :data:`TARGETS`, and a few small inputs in
``corpus/<name>/`` to begin with.
"""

from __future__ import annotations

import importlib
import itertools
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

Target = Callable[[bytes], None]

#: Name: module of this package, function in it.
TARGETS = {
    "chunked": ("chunked", "body"),
    "http1_head": ("http1", "head"),
    "http1": ("http1", "conversation"),
    "http2": ("http2", "frames"),
    "http2_block": ("http2", "block"),
    "forwarded": ("proxies", "forwarded"),
    "proxy_header": ("proxies", "header"),
    "websocket": ("websocket", "frames"),
    "websocket_deflate": ("websocket", "deflated"),
    "websocket_handshake": ("websocket", "handshake"),
}

CORPUS = Path(__file__).parent / "corpus"

#: Inputs up to here are also fed byte by byte.
BYTE_BY_BYTE = 600


def load(name: str) -> Target:
    module, function = TARGETS[name]
    target: Target = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    return target


def seeds(name: str) -> list[Path]:
    """The kept inputs of a target."""
    return sorted((CORPUS / name).iterdir())


def cuttings(data: bytes) -> Iterator[list[bytes]]:
    """Ways for ``data`` to arrive other than whole: always the same for the same data.

    So an input is nothing but what is sent, and can be read and written by hand.
    """
    dice = random.Random(zlib.crc32(data))
    for count in (1, 4):
        cuts = sorted(dice.randint(0, len(data)) for _ in range(count))
        edges = [0, *cuts, len(data)]
        yield [data[begin:end] for begin, end in itertools.pairwise(edges)]
    if len(data) <= BYTE_BY_BYTE:
        yield [data[at : at + 1] for at in range(len(data))]
