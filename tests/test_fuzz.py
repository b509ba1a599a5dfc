"""The fuzz targets without a fuzzer: on what was kept, and on what is made of it."""

from __future__ import annotations

import unittest
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from django_daphne.protocol import chunked

from .fuzz import CORPUS, TARGETS, load, seeds


@st.composite
def mutated(draw: st.DrawFn, kept: list[bytes]) -> bytes:
    """An input that was kept, with pieces taken out and others put in."""
    data = draw(st.sampled_from(kept))
    pieces = st.one_of(
        st.binary(max_size=8), st.sampled_from(kept), st.sampled_from([b"\r\n", b""])
    )
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(data)))
        end = begin + draw(st.integers(0, 12))
        data = data[:begin] + draw(pieces) + data[end:]
    return data[:1500]


class FuzzTargets(unittest.TestCase):
    def test_what_was_kept(self) -> None:
        self.assertEqual({path.name for path in CORPUS.iterdir()}, set(TARGETS))
        for name in TARGETS:
            target = load(name)
            for path in seeds(name):
                with self.subTest(path=f"{name}/{path.name}"):
                    target(path.read_bytes())

    def test_what_is_made_of_it(self) -> None:
        for name in TARGETS:
            target = load(name)
            kept = [path.read_bytes() for path in seeds(name)]
            hold = settings(max_examples=60)(given(mutated(kept))(target))
            with self.subTest(target=name):
                hold()

    def test_a_broken_promise_is_noticed(self) -> None:
        """The targets do not merely run: each sees what it is to see."""
        with mock.patch.object(chunked.ChunkedReader, "_read_trailer") as read:
            read.side_effect = ZeroDivisionError
            for name in ("chunked", "http1"):
                with self.assertRaises(ZeroDivisionError):
                    for path in seeds(name):
                        load(name)(path.read_bytes())
