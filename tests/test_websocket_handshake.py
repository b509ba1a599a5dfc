"""The opening handshake, and agreeing on compression."""

from __future__ import annotations

import time
import tracemalloc
import unittest
import zlib
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from django_daphne.errors import ProtocolError
from django_daphne.protocol.websocket_deflate import (
    MAX_FINAL_BLOCKS,
    WINDOW_BITS,
    Agreement,
    InflatedTooLarge,
    NotDeflated,
    PerMessageDeflate,
    agree,
)
from django_daphne.protocol.websocket_handshake import (
    Handshake,
    Offer,
    read_handshake,
)

Headers = list[tuple[bytes, bytes]]


@dataclass
class Head:
    method: str = "GET"
    http_version: str = "1.1"
    headers: Headers = field(default_factory=list)
    length: int | None = 0


def read(*extra: tuple[bytes, bytes]) -> Handshake:
    headers = [
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        *extra,
    ]
    return read_handshake(Head(headers=headers))


def read_offers(*lines: bytes) -> tuple[Offer, ...]:
    return read(*((b"sec-websocket-extensions", line) for line in lines)).offers


class HandshakeTests(unittest.TestCase):
    def test_the_example_of_the_rfc(self) -> None:
        handshake = read((b"sec-websocket-protocol", b"chat, superchat"))
        self.assertEqual(handshake.subprotocols, ("chat", "superchat"))
        self.assertEqual(
            handshake.answer("chat", b"x-extension"),
            [
                (b"Sec-WebSocket-Accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
                (b"Sec-WebSocket-Protocol", b"chat"),
                (b"Sec-WebSocket-Extensions", b"x-extension"),
            ],
        )

    def test_without_a_key_nothing_is_proved(self) -> None:
        self.assertEqual(Handshake((), (), None).answer(None, None), [])

    def test_subprotocols(self) -> None:
        handshake = read(
            (b"sec-websocket-protocol", b" a ,,b,"),
            (b"sec-websocket-protocol", b"c"),
            (b"sec-websocket-protocol", b"a"),
        )
        self.assertEqual(handshake.subprotocols, ("a", "b", "c"))

    def test_extensions(self) -> None:
        self.assertEqual(
            read_offers(b'foo; A=1;b ;c = "x, \\"y;" , bar', b"", b", baz,"),
            (
                Offer(b"foo", ((b"a", b"1"), (b"b", None), (b"c", b'x, "y;'))),
                Offer(b"bar"),
                Offer(b"baz"),
            ),
        )

    def test_malformed_extensions(self) -> None:
        for line in (b"a;", b"a b", b"a; b=", b"=;", b'a;b="', b'a; b="x" c', b"\xfc"):
            with self.subTest(line=line), self.assertRaises(ProtocolError) as caught:
                read_offers(line)
            self.assertEqual(caught.exception.status, 400)

    def test_a_long_line_is_read_in_no_time(self) -> None:
        lines = (
            b"a;" + b" " * 60_000,
            b"a" * 60_000 + b" b",
            b"a" + b';b="' * 15_001,
            b'a;b="' + b"\\a" * 30_000,
            b'a;b="' + b"\\" * 30_001 + b'"',
            b"a" + b";b=c" * 15_000 + b";",
            b"a" + b" ;" * 30_000,
            b"," * 60_000 + b";",
        )
        began = time.process_time()
        for line in lines:
            with self.assertRaises(ProtocolError):
                read_offers(line)
        # Some milliseconds; the square of the length would be minutes.
        self.assertLess(time.process_time() - began, 5)


class AgreementTests(unittest.TestCase):
    def agree(self, line: bytes) -> Agreement | None:
        return agree(Handshake((), read_offers(line), None))

    def answer(self, line: bytes) -> bytes | None:
        agreement = self.agree(line)
        return None if agreement is None else agreement.answer

    def test_answers(self) -> None:
        ours = b"server_max_window_bits=%d" % WINDOW_BITS
        name = b"permessage-deflate; "
        for line, answer in {
            b"permessage-deflate": name + ours,
            b"permessage-deflate; client_max_window_bits": (
                name + b"client_max_window_bits=12; " + ours
            ),
            b'permessage-deflate; client_max_window_bits="10"': (
                name + b"client_max_window_bits=10; " + ours
            ),
            # zlib cannot do 8, and the client does not mind.
            b"permessage-deflate; client_max_window_bits=8": name + ours,
            b"permessage-deflate; server_max_window_bits=9": (
                name + b"server_max_window_bits=9"
            ),
            b"permessage-deflate; server_max_window_bits=15": name + ours,
            b"permessage-deflate; server_no_context_takeover; "
            b"client_no_context_takeover": (
                name
                + b"server_no_context_takeover; client_no_context_takeover; "
                + ours
            ),
        }.items():
            with self.subTest(line=line):
                self.assertEqual(self.answer(line), answer)

    def test_declined(self) -> None:
        for parameters in (
            b"server_max_window_bits=8",
            b"server_max_window_bits",
            b"server_max_window_bits=7",
            b"server_max_window_bits=16",
            b"server_max_window_bits=010",
            b"client_max_window_bits=x",
            b"client_max_window_bits=16",
            b"server_no_context_takeover=1",
            b"client_no_context_takeover=true",
            b"unheard_of",
            b"client_max_window_bits; client_max_window_bits",
        ):
            with self.subTest(parameters=parameters):
                self.assertIsNone(self.answer(b"permessage-deflate; " + parameters))

    def test_the_first_acceptable_offer_wins(self) -> None:
        self.assertEqual(
            self.answer(
                b"x-webkit-deflate-frame, "
                b"permessage-deflate; server_max_window_bits=8, "
                b"permessage-deflate; server_max_window_bits=10, permessage-deflate"
            ),
            b"permessage-deflate; server_max_window_bits=10",
        )

    def test_invented_offers_are_not_kept(self) -> None:
        long = b"y" * 60_000
        tracemalloc.start()
        try:
            for number in range(256):
                self.assertIsNone(
                    self.agree(b"permessage-deflate; x%d=%b" % (number, long))
                )
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(held, 2 * 1024 * 1024)

    def test_nothing_to_agree_on(self) -> None:
        self.assertIsNone(self.answer(b"x-webkit-deflate-frame"))
        self.assertIsNone(agree(Handshake((), (), None)))


def deflate(
    parameters: bytes = b"", size: int | None = None, ratio: int | None = None
) -> PerMessageDeflate:
    agreement = agree(
        Handshake((), read_offers(b"permessage-deflate" + parameters), None)
    )
    assert agreement is not None
    return PerMessageDeflate(agreement, size, ratio)


def client_of(server: PerMessageDeflate) -> PerMessageDeflate:
    """The other side of the same agreement."""
    agreement = server._agreement
    mirrored = replace(
        agreement,
        our_bits=agreement.their_bits,
        our_takeover=agreement.their_takeover,
        their_bits=agreement.our_bits,
        their_takeover=agreement.our_takeover,
    )
    return PerMessageDeflate(mirrored, None, None)


class DeflateTests(unittest.TestCase):
    def inflate(self, codec: PerMessageDeflate, *pieces: bytes) -> bytes:
        message = b"".join(codec.inflate(piece) for piece in pieces)
        codec.end_message()
        return message

    def test_the_examples_of_the_rfc(self) -> None:
        """RFC 7692 section 7.2.3, every one of them."""
        for name, payload in {
            "one block": "f2 48 cd c9 c9 07 00",
            "no compression": "00 05 00 fa ff 48 65 6c 6c 6f 00",
            "a final block": "f3 48 cd c9 c9 07 00 00",
            "two blocks": "f2 48 05 00 00 00 ff ff ca c9 c9 07 00",
        }.items():
            with self.subTest(name):
                data = bytes.fromhex(payload)
                self.assertEqual(self.inflate(deflate(), data), b"Hello")
                for cut in range(len(data)):
                    got = self.inflate(deflate(), data[:cut], data[cut:])
                    self.assertEqual(got, b"Hello", cut)

    def test_the_example_of_a_shared_window(self) -> None:
        codec = deflate()
        for payload in ("f2 48 cd c9 c9 07 00", "f2 00 11 00 00"):
            self.assertEqual(self.inflate(codec, bytes.fromhex(payload)), b"Hello")

    def test_messages_after_a_final_block(self) -> None:
        codec = deflate()
        for _ in range(3):
            payload = bytes.fromhex("f3 48 cd c9 c9 07 00 00")
            self.assertEqual(self.inflate(codec, payload), b"Hello")

    def test_final_blocks_with_nothing_after_them(self) -> None:
        """Section 7.2.3.4 has a byte follow; to do without is harmless."""
        codec = deflate()
        for _ in range(3):
            payload = bytes.fromhex("f3 48 cd c9 c9 07 00")
            self.assertEqual(self.inflate(codec, payload), b"Hello")

    def test_a_window_that_outlives_a_final_block(self) -> None:
        text = b"Hello, hello, hello. "
        first = zlib.compressobj(wbits=-15)
        ended = first.compress(text) + first.flush() + b"\x00"
        second = zlib.compressobj(wbits=-15, zdict=text)
        payload = second.compress(text) + second.flush(zlib.Z_SYNC_FLUSH)
        codec = deflate()
        self.assertEqual(self.inflate(codec, ended), text)
        self.assertEqual(self.inflate(codec, payload[:-4]), text)

    def test_very_many_final_blocks(self) -> None:
        blocks = b"\x03\x00" * MAX_FINAL_BLOCKS + b"\x00"
        self.assertEqual(self.inflate(deflate(), blocks), b"")
        with self.assertRaisesRegex(NotDeflated, "too many"):
            self.inflate(deflate(), b"\x03\x00" * 500_000)
        with self.assertRaisesRegex(NotDeflated, "too many"):
            self.inflate(deflate(), *[b"\x03\x00"] * (2 * MAX_FINAL_BLOCKS))

    def test_data_that_ends_inside_a_block(self) -> None:
        for payload in ("00 05 00 fa ff 48 65", "00 04 00 fb ff", "f2 48 cd c9 c9"):
            with self.subTest(payload=payload), self.assertRaises(NotDeflated):
                self.inflate(deflate(), bytes.fromhex(payload))

    @given(st.lists(st.binary(max_size=2000), max_size=5), st.booleans(), st.booleans())
    def test_there_and_back(
        self, messages: list[bytes], ours: bool, theirs: bool
    ) -> None:
        parameters = b"; server_no_context_takeover" * (not ours)
        parameters += b"; client_no_context_takeover" * (not theirs)
        sender, taker = deflate(parameters), client_of(deflate(parameters))
        for message in messages:
            self.assertEqual(self.inflate(taker, sender.compress(message)), message)
            self.assertEqual(self.inflate(sender, taker.compress(message)), message)

    def test_a_window_is_kept_only_where_agreed(self) -> None:
        message = bytes(range(256)) * 2
        for parameters, shrinks in (
            (b"", True),
            (b"; server_no_context_takeover", False),
        ):
            sender = deflate(parameters)
            first, second = sender.compress(message), sender.compress(message)
            self.assertEqual(len(second) < len(first) / 2, shrinks)
        codec = deflate(b"; client_no_context_takeover")
        self.inflate(codec, bytes.fromhex("f2 48 cd c9 c9 07 00"))
        with self.assertRaises(NotDeflated):
            self.inflate(codec, bytes.fromhex("f2 00 11 00 00"))

    def test_our_window_is_as_small_as_asked(self) -> None:
        """A client that keeps 9 bits of window must be able to follow."""
        sender = deflate(b"; server_max_window_bits=9")
        client = zlib.decompressobj(-9)
        message = bytes(range(256)) * 4
        for _ in range(3):
            payload = sender.compress(message) + b"\x00\x00\xff\xff"
            self.assertEqual(client.decompress(payload), message)

    def test_limits_over_several_pieces(self) -> None:
        payload = deflate().compress(bytes(3000))
        pieces = [payload[at : at + 1] for at in range(len(payload))]
        self.assertEqual(self.inflate(deflate(size=3000), *pieces), bytes(3000))
        with self.assertRaisesRegex(InflatedTooLarge, "2999 bytes"):
            self.inflate(deflate(size=2999), *pieces)

    def test_limits_begin_anew_with_each_message(self) -> None:
        sender, codec = deflate(), deflate(size=3000)
        for _ in range(3):
            self.inflate(codec, sender.compress(bytes(3000)))

    def test_limits_reach_across_final_blocks(self) -> None:
        payload = b""
        for _ in range(3):
            stream = zlib.compressobj(wbits=-15)
            payload += stream.compress(bytes(1000)) + stream.flush()
        self.assertEqual(len(self.inflate(deflate(size=3000), payload + b"\0")), 3000)
        with self.assertRaises(InflatedTooLarge):
            self.inflate(deflate(size=2999), payload + b"\0")

    def test_the_ratio_counts_from_the_first_mib(self) -> None:
        mib = 1024 * 1024
        payload = deflate().compress(bytes(mib))
        self.assertEqual(len(self.inflate(deflate(ratio=1), payload)), mib)
        payload = deflate().compress(bytes(mib + 1))
        with self.assertRaisesRegex(InflatedTooLarge, "50 times"):
            self.inflate(deflate(ratio=50), payload)

    def test_nothing_is_made_before_the_first_message(self) -> None:
        agreement = deflate()._agreement
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            idle = [PerMessageDeflate(agreement, None, None) for _ in range(100)]
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess((after - before) / len(idle), 200)
