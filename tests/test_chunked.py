"""The chunked transfer coding: what a body is, and everything that is not one."""

from __future__ import annotations

import unittest

from hypothesis import example, given, settings
from hypothesis import strategies as st

from django_daphne.errors import ProtocolError
from django_daphne.protocol.chunked import (
    MAX_EXTENSION_BYTES,
    MAX_SIZE_LINE,
    ChunkedReader,
)

HEADER_BYTES = 1000
HEADER_COUNT = 10


def read(*parts: bytes) -> tuple[bytes, bytes | None]:
    """The body, and what lies behind it; None while the body is incomplete."""
    reader = ChunkedReader(HEADER_BYTES, HEADER_COUNT)
    body, rest = b"", b""
    for part in parts:
        if reader.done:
            rest += part
            continue
        pieces, behind = reader.feed(part)
        body += b"".join(pieces)
        rest += behind
    return body, rest if reader.done else None


def outcome(*parts: bytes) -> object:
    try:
        return read(*parts)
    except ProtocolError as error:
        return error.status


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


class Accepted(unittest.TestCase):
    def check(self, data: bytes, body: bytes, rest: bytes = b"") -> None:
        with self.subTest(data=data, split=False):
            self.assertEqual(outcome(data), (body, rest))
        with self.subTest(data=data, split=True):
            self.assertEqual(outcome(*byte_by_byte(data)), (body, rest))

    def test_bodies(self) -> None:
        self.check(b"0\r\n\r\n", b"")
        self.check(b"5\r\nhello\r\n0\r\n\r\n", b"hello")
        self.check(b"1\r\na\r\n2\r\nbc\r\n000\r\n\r\n", b"abc")
        self.check(b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789")
        self.check(b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789")
        self.check(b"000000000000000a\r\n0123456789\r\n0\r\n\r\n", b"0123456789")

    def test_what_follows_is_handed_back(self) -> None:
        self.check(
            b"1\r\na\r\n0\r\n\r\nGET / HTTP/1.1\r\n", b"a", b"GET / HTTP/1.1\r\n"
        )
        self.check(b"0\r\n\r\n\r\n", b"", b"\r\n")

    def test_data_may_look_like_framing(self) -> None:
        self.check(b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n")

    def test_extensions_are_read_over(self) -> None:
        for extension in (
            b";a", b";a=b", b";a=b;c=d", b" ; a = b", b"\t;\ta\t=\tb", b';a="b"',
            b';a="b;c"', b';a="\\""', b';a=""', b';a="\xc3\xa9"', b";!#$%&'*+-.^_`|~=0",
        ):  # fmt: skip
            self.check(b"1" + extension + b"\r\nx\r\n0" + extension + b"\r\n\r\n", b"x")

    def test_trailers_are_read_over(self) -> None:
        self.check(b"0\r\na: b\r\nc:\r\n\r\n", b"")
        self.check(b"1\r\nx\r\n0\r\nDigest: sha\t\xff\r\n\r\nrest", b"x", b"rest")

    def test_limits_themselves_pass(self) -> None:
        size_line = b"1;" + b"a" * (MAX_SIZE_LINE - 2)
        self.check(size_line + b"\r\nx\r\n0\r\n\r\n", b"x")
        self.check(b"0\r\n" + b"a:\r\n" * HEADER_COUNT + b"\r\n", b"")
        self.check(b"0\r\na:" + b"b" * (HEADER_BYTES - 4) + b"\r\n\r\n", b"")

    def test_pieces_are_not_joined_with_what_never_came(self) -> None:
        self.assertEqual(read(b"5\r\nhel"), (b"hel", None))
        self.assertEqual(read(b"5\r\nhello"), (b"hello", None))
        self.assertEqual(read(b"5\r\nhello\r\n0\r\n"), (b"hello", None))
        self.assertEqual(read(b"5\r\nhello\r\n0\r\n\r"), (b"hello", None))


class Refused(unittest.TestCase):
    def check(self, data: bytes, status: int = 400) -> None:
        with self.subTest(data=data[:80], split=False):
            self.assertEqual(outcome(data), status)
        with self.subTest(data=data[:80], split=True):
            self.assertEqual(outcome(*byte_by_byte(data)), status)

    def test_sizes(self) -> None:
        for size in (
            b"", b" ", b"g", b"0x1", b"+1", b"-1", b" 1", b"1 ", b"1\t", b"1_0", b"1.",
            b"\xd9\xa1", b"1\x00", b"\x0b1", b"00000000000000001", b"f" * 17,
        ):  # fmt: skip
            self.check(size + b"\r\nx\r\n0\r\n\r\n")

    def test_line_ends(self) -> None:
        self.check(b"1\nx\r\n0\r\n\r\n")
        self.check(b"1\rx\r\n0\r\n\r\n")
        self.check(b"1\r\r\nx\r\n0\r\n\r\n")
        self.check(b"1\r\nx\n0\r\n\r\n")
        self.check(b"1\r\nx\r0\r\n\r\n")
        self.check(b"1\r\nx0\r\n\r\n")
        self.check(b"1\r\nxy\r\n0\r\n\r\n")
        self.check(b"0\n\n")
        self.check(b"0\r\n\n")
        self.check(b"0\r\na: b\n\r\n")
        self.check(b"0\r\na: b\rc: d\r\n\r\n")
        self.check(b"\r\n1\r\nx\r\n0\r\n\r\n")

    def test_extensions(self) -> None:
        for extension in (
            b";", b";;", b"; ", b";=", b";a=", b";=b", b';a="', b';a="b', b';a=b"',
            b';a="\x01"', b";a\x00", b";a b", b";a=b c", b",a", b";a\n", b';a="\n"',
            b";a=\xff",
        ):  # fmt: skip
            self.check(b"1" + extension + b"\r\nx\r\n0\r\n\r\n")

    def test_trailers(self) -> None:
        for trailer in (
            b"a", b": b", b"a : b", b" a: b", b"a: b\x00", b"a: b\x7f", b"a\xff: b",
            b"a b: c",
        ):  # fmt: skip
            self.check(b"0\r\n" + trailer + b"\r\n\r\n")
        self.check(b"0\r\na: b\r\n c\r\n\r\n")

    def test_one_more_than_the_limits(self) -> None:
        self.check(b"1;" + b"a" * (MAX_SIZE_LINE - 1) + b"\r\nx\r\n0\r\n\r\n")
        self.check(b"0\r\n" + b"a:\r\n" * (HEADER_COUNT + 1) + b"\r\n", 431)
        self.check(b"0\r\na:" + b"b" * (HEADER_BYTES - 3) + b"\r\n\r\n", 431)

    def test_lines_that_never_end(self) -> None:
        self.check(b"1;" + b"a" * MAX_SIZE_LINE * 2)
        self.check(b"0\r\na:" + b"b" * HEADER_BYTES * 2, 431)

    def test_endless_extensions_in_tiny_chunks(self) -> None:
        chunk = b"1;" + b"a" * 200 + b"\r\nx\r\n"
        passing = MAX_EXTENSION_BYTES // 201
        self.assertEqual(read(chunk * passing)[0], b"x" * passing)
        self.check(chunk * (passing + 1))


SIZES = st.integers(1, 40)
EXTENSIONS = st.sampled_from([b"", b";a", b' ;a="b"', b";a=b;c"])
CHUNKS = st.lists(st.tuples(st.binary(min_size=1, max_size=40), EXTENSIONS))
TRAILERS = st.lists(st.sampled_from([b"a: b\r\n", b"X-Y:\r\n"]), max_size=3)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A body, and one way to send it."""
    chunks = draw(CHUNKS)
    coded = b"".join(
        b"%x%b\r\n%b\r\n" % (len(data), extension, data) for data, extension in chunks
    )
    trailers = b"".join(draw(TRAILERS))
    return b"".join(data for data, _ in chunks), coded + b"0\r\n" + trailers + b"\r\n"


def split(data: bytes, sizes: list[int]) -> list[bytes]:
    parts = []
    for size in sizes:
        parts.append(data[:size])
        data = data[size:]
    return [*parts, data]


class Properties(unittest.TestCase):
    @settings(deadline=None)
    @given(bodies(), st.lists(SIZES), st.binary(max_size=20))
    def test_a_body_is_the_same_however_it_arrives(
        self, body: tuple[bytes, bytes], sizes: list[int], rest: bytes
    ) -> None:
        plain, coded = body
        self.assertEqual(read(*split(coded + rest, sizes)), (plain, rest))

    @settings(deadline=None, max_examples=300)
    @given(
        st.lists(
            st.one_of(
                st.sampled_from(
                    [b"0", b"1", b"5", b"a", b"x", b"\r\n", b"\r", b"\n", b";", b":",
                     b"0\r\n", b"1\r\nx\r\n", b'"', b"=", b" ", b"f" * 16]
                ),
                st.binary(max_size=3),
            ),
            max_size=30,
        ).map(b"".join),
        st.lists(SIZES),
    )  # fmt: skip
    @example(b"1;" + b"a" * (MAX_SIZE_LINE - 2) + b"\r\nx", [MAX_SIZE_LINE + 1])
    def test_anything_means_the_same_however_it_arrives(
        self, data: bytes, sizes: list[int]
    ) -> None:
        whole, parts = outcome(data), outcome(*split(data, sizes))
        if whole != 400 and whole != 431:
            self.assertEqual(parts, whole)
        else:
            self.assertIn(parts, (400, 431))
